//! Softmax regression, trained by full-batch gradient descent with momentum.
//!
//! Every number a step needs from the data is a sum over rows. Each rank computes the sums of its own rows as a record
//! batch, the ranks add their batches, and all take the same step. However the rows are shared
//! out, the total is the same but for the order in which terms are added. In `f64` that order moves the
//! weights, after a whole training, by less than [`TOLERANCE`].

use std::error::Error;
use std::sync::Arc;

use ringfold::arrow::array::cast::AsArray;
use ringfold::arrow::array::types::{Float64Type, UInt64Type};
use ringfold::arrow::array::{ArrayRef, FixedSizeListArray, Float64Array, RecordBatch, UInt64Array};
use ringfold::arrow::schema::{ArrowError, DataType, Field};

use crate::data::{CLASSES, Digits, PIXEL_MAX, PIXELS};

/// Weights of one class: one for each pixel, then the bias.
const CLASS: usize = PIXELS + 1;

/// How many weights there are, class after class.
pub(crate) const WEIGHTS: usize = CLASSES * CLASS;

/// How far any weight may be, after training on several ranks, from the same weight trained on one.
pub(crate) const TOLERANCE: f64 = 1e-9;

/// Adds up a record batch over all ranks.
pub(crate) type Reduce<'a> = dyn FnMut(&RecordBatch) -> Result<RecordBatch, Box<dyn Error>> + 'a;

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
    /// The weights after the last step, a list for each class.
    pub(crate) weights: FixedSizeListArray,
    /// The mean loss over all rows before the last step; infinite when no step was taken.
    pub(crate) loss: f64,
}

/// Trains on the rows of this rank, in step with the other ranks.
///
/// Every step calls `reduce` once, with the sums over this rank's rows, for which it must return the sums over all ranks',
/// the same bits on each; alone, they are these. `report` hears the number of steps taken and the
/// mean loss before the latest one. A failing `reduce` ends the training with its error.
pub(crate) fn train(
    reduce: &mut Reduce<'_>,
    rows: &Digits,
    descent: Descent,
    report: &mut dyn FnMut(usize, f64),
) -> Result<Trained, Box<dyn Error>> {
    let mut training = Training::default();
    while training.taken < descent.steps {
        training.advance(reduce, rows, descent)?;
        report(training.taken, training.loss);
    }
    Ok(training.trained()?)
}

/// A training that is under way: all that the next step depends on, besides the rows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Training {
    /// How many steps have been taken.
    pub(crate) taken: usize,
    /// The weights, class after class.
    pub(crate) weights: Vec<f64>,
    /// By how much each moved in the last step, before the rate.
    pub(crate) velocity: Vec<f64>,
    /// The mean loss before the last step; infinite before the first.
    pub(crate) loss: f64,
}

impl Default for Training {
    /// Before the first step.
    fn default() -> Self {
        let none = vec![0.0; WEIGHTS];
        Training { taken: 0, weights: none.clone(), velocity: none, loss: f64::INFINITY }
    }
}

impl Training {
    /// Takes one step, together with the other ranks: see [`train`].
    pub(crate) fn advance(
        &mut self,
        reduce: &mut Reduce<'_>,
        rows: &Digits,
        descent: Descent,
    ) -> Result<(), Box<dyn Error>> {
        let sums = reduce(&gradient(&self.weights, rows)?)?;
        let count = count(&sums);
        if count == 0 {
            return Err("there are no rows to train on".into());
        }
        self.loss = total_loss(&sums) / count as f64;
        step(&mut self.weights, &mut self.velocity, slope(&sums), count, descent);
        self.taken += 1;
        Ok(())
    }

    /// What it has led to.
    pub(crate) fn trained(self) -> Result<Trained, ArrowError> {
        Ok(Trained { weights: per_class(self.weights)?, loss: self.loss })
    }
}

/// Sums over `rows`, with a row for each class: `slope`, a list of the gradient of the loss by each of the class's weights; and
/// of the rows that show this digit `loss` and `count`, the sum of their losses and how many they are.
fn gradient(weights: &[f64], rows: &Digits) -> Result<RecordBatch, ArrowError> {
    let mut slopes = vec![0.0; WEIGHTS];
    let (mut losses, mut counts) = (vec![0.0; CLASSES], vec![0; CLASSES]);
    for (image, label) in rows.iter() {
        let label = usize::from(label);
        let image = scaled(image);
        let scores = scores(weights, &image);
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let shares = scores.map(|score| (score - top).exp());
        let total: f64 = shares.iter().sum();

        losses[label] += total.ln() + top - scores[label];
        counts[label] += 1;
        for (class, (slope, share)) in slopes.chunks_exact_mut(CLASS).zip(shares).enumerate() {
            let excess = share / total - f64::from(u8::from(class == label));
            for (sum, pixel) in slope.iter_mut().zip(image) {
                *sum += excess * pixel;
            }
            slope[PIXELS] += excess;
        }
    }
    // The arrays take the vectors over; nothing is copied.
    let slope: ArrayRef = Arc::new(per_class(slopes)?);
    let loss: ArrayRef = Arc::new(Float64Array::from(losses));
    let count: ArrayRef = Arc::new(UInt64Array::from(counts));
    RecordBatch::try_from_iter([("slope", slope), ("loss", loss), ("count", count)])
}

/// Numbers as a list for each class.
fn per_class(numbers: Vec<f64>) -> Result<FixedSizeListArray, ArrowError> {
    let item = Field::new_list_field(DataType::Float64, false);
    FixedSizeListArray::try_new(Arc::new(item), CLASS as i32, Arc::new(Float64Array::from(numbers)), None)
}

/// The numbers of such lists, class after class.
fn flat(lists: &FixedSizeListArray) -> &[f64] {
    lists.values().as_primitive::<Float64Type>().values()
}

fn slope(sums: &RecordBatch) -> &[f64] {
    flat(sums["slope"].as_fixed_size_list())
}

fn total_loss(sums: &RecordBatch) -> f64 {
    sums["loss"].as_primitive::<Float64Type>().values().iter().sum()
}

fn count(sums: &RecordBatch) -> u64 {
    sums["count"].as_primitive::<UInt64Type>().values().iter().sum()
}

/// Takes one step down the mean gradient of so many rows.
fn step(weights: &mut [f64], velocity: &mut [f64], slope: &[f64], count: u64, descent: Descent) {
    for ((weight, speed), sum) in weights.iter_mut().zip(velocity).zip(slope) {
        *speed = descent.momentum * *speed + sum / count as f64;
        *weight -= descent.rate * *speed;
    }
}

/// The largest difference between two weights in the same place; infinite where one of them is no number.
pub(crate) fn furthest(left: &FixedSizeListArray, right: &FixedSizeListArray) -> f64 {
    furthest_of(flat(left), flat(right))
}

fn furthest_of(left: &[f64], right: &[f64]) -> f64 {
    assert_eq!(left.len(), right.len());
    left.iter()
        .zip(right)
        .map(|(left, right)| (left - right).abs())
        .map(|apart| if apart.is_nan() { f64::INFINITY } else { apart })
        .fold(0.0, f64::max)
}

/// The part of `rows` whose digit the weights tell, 0 to 1; not a number when there are no rows.
pub(crate) fn accuracy(weights: &FixedSizeListArray, rows: &Digits) -> f64 {
    let right = rows.iter().filter(|(image, label)| predict(flat(weights), image) == *label).count();
    right as f64 / rows.len() as f64
}

/// The digit with the highest score, the lowest such digit on a tie.
fn predict(weights: &[f64], image: &[u8; PIXELS]) -> u8 {
    let scores = scores(weights, &scaled(image));
    let best = (1..CLASSES).fold(0, |best, class| if scores[class] > scores[best] { class } else { best });
    best as u8
}

/// Pixels from 0 to 1.
fn scaled(image: &[u8; PIXELS]) -> [f64; PIXELS] {
    image.map(|pixel| f64::from(pixel) / f64::from(PIXEL_MAX))
}

fn scores(weights: &[f64], image: &[f64; PIXELS]) -> [f64; CLASSES] {
    let mut scores = [0.0; CLASSES];
    for (score, class) in scores.iter_mut().zip(weights.chunks_exact(CLASS)) {
        let products = class.iter().zip(image).map(|(weight, pixel)| weight * pixel);
        *score = class[PIXELS] + products.sum::<f64>();
    }
    scores
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::LazyLock;
    use std::thread;

    use ringfold::{Communicator, ReduceOp};

    use super::*;
    use crate::data::Split;

    static DIGITS: LazyLock<Split> =
        LazyLock::new(|| Digits::read(Path::new(crate::DATA)).unwrap().split().unwrap());

    static ALONE: LazyLock<Trained> = LazyLock::new(|| alone(Descent::default()));

    fn alone(descent: Descent) -> Trained {
        train(&mut |sums| Ok(sums.clone()), &DIGITS.train, descent, &mut |_, _| ()).unwrap()
    }

    fn some_weights() -> Vec<f64> {
        (0..WEIGHTS).map(|i| (i as f64 * 0.7).sin() * 0.1).collect()
    }

    fn gradient(weights: &[f64], rows: &Digits) -> RecordBatch {
        super::gradient(weights, rows).unwrap()
    }

    /// Trains with a group of `world` threads, and returns what each ended with.
    fn together(world: usize, descent: Descent) -> Vec<Trained> {
        let rank = move |comm: Communicator| {
            let mut reduce = |sums: &RecordBatch| Ok(comm.all_reduce_record_batch(sums, ReduceOp::Sum)?);
            let rows = DIGITS.train.share(comm.rank(), world);
            train(&mut reduce, &rows, descent, &mut |_, _| ()).unwrap()
        };
        thread::scope(|scope| {
            let ranks: Vec<_> =
                Communicator::local(world).into_iter().map(|comm| scope.spawn(move || rank(comm))).collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }

    #[test]
    fn the_gradient_is_the_slope_of_the_loss() {
        let rows = DIGITS.train.share(3, 100);
        let weights = some_weights();
        let sums = gradient(&weights, &rows);
        assert_eq!((sums.num_rows(), slope(&sums).len()), (CLASSES, WEIGHTS));
        assert_eq!(count(&sums), rows.len() as u64);
        let width = 1e-5;
        for at in (0..WEIGHTS).step_by(13).chain((0..CLASSES).map(|class| class * CLASS + PIXELS)) {
            let loss = |by: f64| {
                let mut moved = weights.clone();
                moved[at] += by;
                total_loss(&gradient(&moved, &rows))
            };
            let expected = (loss(width) - loss(-width)) / (2.0 * width);
            let found = slope(&sums)[at];
            assert!((expected - found).abs() < 1e-6, "weight {at}: {expected} and {found}");
        }
    }

    #[test]
    fn losses_and_counts_are_those_of_each_digit() {
        let sums = gradient(&some_weights(), &DIGITS.train);
        let counts = sums["count"].as_primitive::<UInt64Type>().values().to_vec();
        let expected = (0..CLASSES)
            .map(|class| DIGITS.train.iter().filter(|row| usize::from(row.1) == class).count() as u64);
        assert!(expected.eq(counts));
        assert!(sums["loss"].as_primitive::<Float64Type>().values().iter().all(|&loss| loss > 0.0));
    }

    #[test]
    fn without_weights_every_digit_is_as_likely() {
        let sums = gradient(&[0.0; WEIGHTS], &DIGITS.train);
        assert!((total_loss(&sums) / count(&sums) as f64 - 10f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn large_scores_stay_finite() {
        let weights: Vec<_> = some_weights().iter().map(|weight| weight * 1e5).collect();
        let sums = gradient(&weights, &DIGITS.train.share(0, 10));
        assert!(slope(&sums).iter().all(|sum| sum.is_finite()) && total_loss(&sums).is_finite());
    }

    #[test]
    fn shares_add_up_to_the_full_batch() {
        let weights = some_weights();
        let whole = gradient(&weights, &DIGITS.train);
        for world in [2, 3, 7, 2000] {
            let (mut slopes, mut losses, mut rows) = (vec![0.0; WEIGHTS], 0.0, 0);
            for rank in 0..world {
                let part = gradient(&weights, &DIGITS.train.share(rank, world));
                slopes.iter_mut().zip(slope(&part)).for_each(|(sum, part)| *sum += part);
                losses += total_loss(&part);
                rows += count(&part);
            }
            assert_eq!(rows, 1437);
            assert!(furthest_of(&slopes, slope(&whole)) < TOLERANCE, "{world} ranks");
            assert!((losses - total_loss(&whole)).abs() < TOLERANCE, "{world} ranks");
        }
    }

    #[test]
    fn a_step_keeps_its_momentum() {
        let descent = Descent { steps: 2, rate: 0.5, momentum: 0.9 };
        let (mut weights, mut velocity) = (vec![1.0; WEIGHTS], vec![0.0; WEIGHTS]);
        let slope = vec![8.0; WEIGHTS];
        step(&mut weights, &mut velocity, &slope, 4, descent);
        assert_eq!((weights[0], velocity[0]), (0.0, 2.0));
        step(&mut weights, &mut velocity, &slope, 4, descent);
        assert_eq!((weights[WEIGHTS - 1], velocity[WEIGHTS - 1]), (-1.9, 3.8));
    }

    #[test]
    fn training_learns_to_read() {
        let before = accuracy(&per_class(vec![0.0; WEIGHTS]).unwrap(), &DIGITS.test);
        assert!(before < 0.2, "{before}");
        let after = accuracy(&ALONE.weights, &DIGITS.test);
        assert!(after >= 0.93, "{after}");
        assert!(ALONE.loss < 0.2, "{}", ALONE.loss);
    }

    #[test]
    fn training_repeats_to_the_bit() {
        assert_eq!(alone(Descent::default()), *ALONE);
    }

    /// What ranks compare in the end: equal is equal to the bit.
    #[test]
    fn weights_that_differ_in_a_bit_differ() {
        let of = |first: f64| per_class([&[first], &[0.5; WEIGHTS - 1][..]].concat()).unwrap();
        assert_eq!(of(f64::NAN), of(f64::NAN));
        assert_ne!(of(0.0), of(-0.0));
        assert_ne!(of(1.0), of(1.0f64.next_up()));
    }

    #[test]
    fn any_number_of_ranks_trains_the_same_weights() {
        for world in [2, 3, 5] {
            let all = together(world, Descent::default());
            assert!(all.iter().all(|rank| rank == &all[0]), "{world} ranks differ among themselves");
            let off = furthest(&all[0].weights, &ALONE.weights);
            assert!(off < TOLERANCE, "{world} ranks end {off} away from one");
        }
    }

    #[test]
    fn every_step_reports_and_the_loss_falls() {
        let mut heard = Vec::new();
        let descent = Descent { steps: 20, ..Descent::default() };
        let mut report = |taken, loss| heard.push((taken, loss));
        let trained = train(&mut |sums| Ok(sums.clone()), &DIGITS.train, descent, &mut report).unwrap();
        assert!(heard.iter().map(|&(taken, _)| taken).eq(1..=20));
        assert!(heard[19].1 < heard[0].1 / 2.0, "{heard:?}");
        assert_eq!(trained.loss, heard[19].1);
    }

    #[test]
    fn a_failed_reduction_ends_the_training() {
        let mut calls = 0;
        let mut reduce = |sums: &RecordBatch| {
            calls += 1;
            if calls == 3 { Err("rank 1 is gone".into()) } else { Ok(sums.clone()) }
        };
        let ended = train(&mut reduce, &DIGITS.train, Descent::default(), &mut |_, _| ());
        assert_eq!(ended.unwrap_err().to_string(), "rank 1 is gone");
        assert_eq!(calls, 3);
    }

    #[test]
    fn no_rows_at_all_is_an_error_and_no_rows_here_is_not() {
        let none = DIGITS.train.share(1999, 2000);
        assert_eq!(none.len(), 0);
        let short = Descent { steps: 2, ..Descent::default() };
        let ended = train(&mut |sums| Ok(sums.clone()), &none, short, &mut |_, _| ());
        assert_eq!(ended.unwrap_err().to_string(), "there are no rows to train on");

        let others = gradient(&[0.0; WEIGHTS], &DIGITS.train);
        assert!(train(&mut |_| Ok(others.clone()), &none, short, &mut |_, _| ()).is_ok());
    }
}
