//! Softmax regression, trained by full-batch gradient descent with momentum.
//!
//! Every number a step needs from the data is a sum over rows. Each rank computes the sums of its own rows
//! into one flat buffer, the ranks add their buffers, and all take the same step. However the rows are shared
//! out, the total is the same but for the order in which terms are added. In `f64` that order moves the
//! weights, after a whole training, by less than [`TOLERANCE`].

use std::error::Error;

use crate::data::{CLASSES, PIXELS, Rows};

/// Parameters of one class: a weight for each pixel, then the bias.
const CLASS: usize = PIXELS + 1;

/// Length of the flat parameter vector, class after class.
pub(crate) const PARAMETERS: usize = CLASSES * CLASS;

/// Where [`gradient`] puts the sum of the losses.
const LOSS: usize = PARAMETERS;

/// Where [`gradient`] puts the number of rows.
const COUNT: usize = PARAMETERS + 1;

/// Length of what [`gradient`] returns.
pub(crate) const SUMS: usize = PARAMETERS + 2;

/// How far any weight may be, after training on several ranks, from the same weight trained on one.
pub(crate) const TOLERANCE: f64 = 1e-9;

/// Replaces numbers by their sums over all ranks.
pub(crate) type Reduce<'a> = dyn FnMut(&mut [f64]) -> Result<(), Box<dyn Error>> + 'a;

/// How to descend.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Descent {
    /// Steps to take, each over all rows.
    pub(crate) steps: usize,
    /// How far to move along the velocity.
    pub(crate) rate: f64,
    /// How much of the velocity the next step keeps.
    pub(crate) momentum: f64,
}

impl Default for Descent {
    fn default() -> Self {
        Self { steps: 250, rate: 0.25, momentum: 0.9 }
    }
}

/// What training left.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Trained {
    /// The parameters after the last step.
    pub(crate) params: Vec<f64>,
    /// The mean loss over all rows before the last step; infinite when no step was taken.
    pub(crate) loss: f64,
}

/// Trains on the rows of this rank, in step with the other ranks.
///
/// Every step calls `reduce` once, with [`SUMS`] numbers which it must replace by their sums over all ranks,
/// the same bits on each; alone, it leaves them as they are. `report` hears the number of steps taken and the
/// mean loss before the latest one. A failing `reduce` ends the training with its error.
pub(crate) fn train(
    reduce: &mut Reduce<'_>,
    rows: Rows<'_>,
    descent: Descent,
    report: &mut dyn FnMut(usize, f64),
) -> Result<Trained, Box<dyn Error>> {
    let mut params = vec![0.0; PARAMETERS];
    let mut velocity = vec![0.0; PARAMETERS];
    let mut loss = f64::INFINITY;
    for taken in 1..=descent.steps {
        let mut sums = gradient(&params, rows);
        reduce(&mut sums)?;
        if sums[COUNT] < 1.0 {
            return Err("there are no rows to train on".into());
        }
        loss = sums[LOSS] / sums[COUNT];
        step(&mut params, &mut velocity, &sums, descent);
        report(taken, loss);
    }
    Ok(Trained { params, loss })
}

/// Sums over `rows`: the gradient of the loss by each parameter, then the loss, then the number of rows.
pub(crate) fn gradient(params: &[f64], rows: Rows<'_>) -> Vec<f64> {
    let mut sums = vec![0.0; SUMS];
    for (image, label) in rows.iter() {
        let label = usize::from(label);
        let image = image.map(f64::from);
        let scores = scores(params, &image);
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let shares = scores.map(|score| (score - top).exp());
        let total: f64 = shares.iter().sum();

        sums[LOSS] += total.ln() + top - scores[label];
        for (class, (slope, share)) in sums.chunks_exact_mut(CLASS).zip(shares).enumerate() {
            let excess = share / total - f64::from(u8::from(class == label));
            for (sum, pixel) in slope.iter_mut().zip(image) {
                *sum += excess * pixel;
            }
            slope[PIXELS] += excess;
        }
    }
    sums[COUNT] = rows.len() as f64;
    sums
}

/// Takes one step down the mean gradient that `sums` describes.
fn step(params: &mut [f64], velocity: &mut [f64], sums: &[f64], descent: Descent) {
    for ((param, speed), sum) in params.iter_mut().zip(velocity).zip(sums) {
        *speed = descent.momentum * *speed + sum / sums[COUNT];
        *param -= descent.rate * *speed;
    }
}

/// The largest difference between two parameters in the same place; infinite where one of them is no number.
pub(crate) fn furthest(left: &[f64], right: &[f64]) -> f64 {
    assert_eq!(left.len(), right.len());
    left.iter()
        .zip(right)
        .map(|(left, right)| (left - right).abs())
        .map(|apart| if apart.is_nan() { f64::INFINITY } else { apart })
        .fold(0.0, f64::max)
}

/// The part of `rows` whose digit the parameters tell, 0 to 1; not a number when there are no rows.
pub(crate) fn accuracy(params: &[f64], rows: Rows<'_>) -> f64 {
    let right = rows.iter().filter(|(image, label)| predict(params, image) == *label).count();
    right as f64 / rows.len() as f64
}

/// The digit with the highest score, the lowest such digit on a tie.
fn predict(params: &[f64], image: &[f32; PIXELS]) -> u8 {
    let scores = scores(params, &image.map(f64::from));
    let best = (1..CLASSES).fold(0, |best, class| if scores[class] > scores[best] { class } else { best });
    best as u8
}

fn scores(params: &[f64], image: &[f64; PIXELS]) -> [f64; CLASSES] {
    let mut scores = [0.0; CLASSES];
    for (score, class) in scores.iter_mut().zip(params.chunks_exact(CLASS)) {
        let products = class.iter().zip(image).map(|(weight, pixel)| weight * pixel);
        *score = class[PIXELS] + products.sum::<f64>();
    }
    scores
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::LazyLock;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::thread;

    use super::*;
    use crate::data::{Dataset, Split};

    static DIGITS: LazyLock<Split> = LazyLock::new(|| Dataset::read(Path::new(crate::DATA)).unwrap().split());

    static ALONE: LazyLock<Trained> = LazyLock::new(|| alone(Descent::default()));

    fn alone(descent: Descent) -> Trained {
        train(&mut |_| Ok(()), DIGITS.train.all(), descent, &mut |_, _| ()).unwrap()
    }

    fn some_params() -> Vec<f64> {
        (0..PARAMETERS).map(|i| (i as f64 * 0.7).sin() * 0.1).collect()
    }

    /// What one rank sends to rank 0, and what it gets back.
    type Link = (Sender<Vec<f64>>, Receiver<Vec<f64>>);

    /// Trains with `world` threads that add up over channels, and returns what each ended with.
    fn together(world: usize, descent: Descent) -> Vec<Trained> {
        let (mut hub, mut rim) = (Vec::new(), Vec::new());
        for _ in 1..world {
            let (up, from) = channel();
            let (to, down) = channel();
            hub.push((to, from));
            rim.push((up, down));
        }
        thread::scope(|scope| {
            let others: Vec<_> = rim
                .into_iter()
                .enumerate()
                .map(|(index, (up, down)): (usize, Link)| {
                    scope.spawn(move || {
                        let mut reduce = |sums: &mut [f64]| -> Result<(), Box<dyn Error>> {
                            up.send(sums.to_vec())?;
                            sums.copy_from_slice(&down.recv()?);
                            Ok(())
                        };
                        let rows = DIGITS.train.share(index + 1, world);
                        train(&mut reduce, rows, descent, &mut |_, _| ()).unwrap()
                    })
                })
                .collect();
            let mut reduce = |sums: &mut [f64]| -> Result<(), Box<dyn Error>> {
                for (_, from) in &hub {
                    for (sum, other) in sums.iter_mut().zip(from.recv()?) {
                        *sum += other;
                    }
                }
                for (to, _) in &hub {
                    to.send(sums.to_vec())?;
                }
                Ok(())
            };
            let first = train(&mut reduce, DIGITS.train.share(0, world), descent, &mut |_, _| ()).unwrap();
            let others = others.into_iter().map(|other| other.join().unwrap());
            std::iter::once(first).chain(others).collect()
        })
    }

    #[test]
    fn the_gradient_is_the_slope_of_the_loss() {
        let rows = DIGITS.train.share(3, 100);
        let params = some_params();
        let sums = gradient(&params, rows);
        assert_eq!(sums.len(), SUMS);
        assert_eq!(sums[COUNT], rows.len() as f64);
        let width = 1e-5;
        for at in (0..PARAMETERS).step_by(13).chain((0..CLASSES).map(|class| class * CLASS + PIXELS)) {
            let loss = |by: f64| {
                let mut moved = params.clone();
                moved[at] += by;
                gradient(&moved, rows)[LOSS]
            };
            let slope = (loss(width) - loss(-width)) / (2.0 * width);
            assert!((slope - sums[at]).abs() < 1e-6, "parameter {at}: {slope} and {}", sums[at]);
        }
    }

    #[test]
    fn without_weights_every_digit_is_as_likely() {
        let rows = DIGITS.train.all();
        let sums = gradient(&vec![0.0; PARAMETERS], rows);
        assert!((sums[LOSS] / sums[COUNT] - 10f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn large_scores_stay_finite() {
        let params: Vec<_> = some_params().iter().map(|param| param * 1e5).collect();
        assert!(gradient(&params, DIGITS.train.share(0, 10)).iter().all(|sum| sum.is_finite()));
    }

    #[test]
    fn shares_add_up_to_the_full_batch() {
        let params = some_params();
        let whole = gradient(&params, DIGITS.train.all());
        for world in [2, 3, 7, 2000] {
            let mut total = vec![0.0; SUMS];
            for rank in 0..world {
                let part = gradient(&params, DIGITS.train.share(rank, world));
                total.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
            }
            assert_eq!(total[COUNT], 1437.0);
            assert!(furthest(&total, &whole) < TOLERANCE, "{world} ranks");
        }
    }

    #[test]
    fn a_step_keeps_its_momentum() {
        let descent = Descent { steps: 2, rate: 0.5, momentum: 0.9 };
        let (mut params, mut velocity) = (vec![1.0; PARAMETERS], vec![0.0; PARAMETERS]);
        let mut sums = vec![8.0; SUMS];
        sums[COUNT] = 4.0;
        step(&mut params, &mut velocity, &sums, descent);
        assert_eq!((params[0], velocity[0]), (0.0, 2.0));
        step(&mut params, &mut velocity, &sums, descent);
        assert_eq!((params[PARAMETERS - 1], velocity[PARAMETERS - 1]), (-1.9, 3.8));
    }

    #[test]
    fn training_learns_to_read() {
        let before = accuracy(&vec![0.0; PARAMETERS], DIGITS.test.all());
        assert!(before < 0.2, "{before}");
        let after = accuracy(&ALONE.params, DIGITS.test.all());
        assert!(after >= 0.93, "{after}");
        assert!(ALONE.loss < 0.2, "{}", ALONE.loss);
    }

    #[test]
    fn training_repeats_to_the_bit() {
        assert_eq!(alone(Descent::default()), *ALONE);
    }

    #[test]
    fn any_number_of_ranks_trains_the_same_weights() {
        for world in [2, 3, 5] {
            let all = together(world, Descent::default());
            assert!(all.iter().all(|rank| rank == &all[0]), "{world} ranks differ among themselves");
            let off = furthest(&all[0].params, &ALONE.params);
            assert!(off < TOLERANCE, "{world} ranks end {off} away from one");
        }
    }

    #[test]
    fn every_step_reports_and_the_loss_falls() {
        let mut heard = Vec::new();
        let descent = Descent { steps: 20, ..Descent::default() };
        let trained = train(&mut |_| Ok(()), DIGITS.train.all(), descent, &mut |taken, loss| {
            heard.push((taken, loss));
        })
        .unwrap();
        assert!(heard.iter().map(|&(taken, _)| taken).eq(1..=20));
        assert!(heard[19].1 < heard[0].1 / 2.0, "{heard:?}");
        assert_eq!(trained.loss, heard[19].1);
    }

    #[test]
    fn a_failed_reduction_ends_the_training() {
        let mut calls = 0;
        let mut reduce = |sums: &mut [f64]| {
            assert_eq!(sums.len(), SUMS);
            calls += 1;
            if calls == 3 { Err("rank 1 is gone".into()) } else { Ok(()) }
        };
        let ended = train(&mut reduce, DIGITS.train.all(), Descent::default(), &mut |_, _| ());
        assert_eq!(ended.unwrap_err().to_string(), "rank 1 is gone");
        assert_eq!(calls, 3);
    }

    #[test]
    fn no_rows_at_all_is_an_error_and_no_rows_here_is_not() {
        let none = DIGITS.train.share(1999, 2000);
        assert_eq!(none.len(), 0);
        let short = Descent { steps: 2, ..Descent::default() };
        let ended = train(&mut |_| Ok(()), none, short, &mut |_, _| ());
        assert_eq!(ended.unwrap_err().to_string(), "there are no rows to train on");

        let mut reduce = |sums: &mut [f64]| {
            sums[COUNT] += 1.0;
            Ok(())
        };
        assert!(train(&mut reduce, none, short, &mut |_, _| ()).is_ok());
    }
}
