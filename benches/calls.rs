//! Ways to make a call, against each other: a batch and one flat tensor, the fixed order and the default, calls that
//! overlap with a computation and calls that do not.
//!
//! `cargo bench --bench calls` prints the figures. Ranks are threads of this process, over shared memory and over loopback TCP. What is compared
//! is measured in turn, sample by sample, each time the maximum over the ranks; figures are medians, and ratios those
//! of medians.

use ringfold::config::BackendChoice;
use ringfold::tensor::TensorMut;
use ringfold::{Options, Order, ReduceOp};
use std::hint::black_box;
use std::time::Instant;
use support::{in_turn, on, shown};

mod support;

/// A list of gradients as models have them: 160 tensors from 1 KiB to 10 MiB, 25 million parameters.
fn gradients() -> Vec<usize> {
    let (small, large) = (256.0f64, 2_621_440.0);
    let mut lengths: Vec<usize> =
        (0..160).map(|i| (small * (large / small).powf(((i * 37) % 160) as f64 / 159.0)) as usize).collect();
    // Scaled in the middle, so that the smallest and the largest stay.
    let middle = |length: &usize| (1000..2_600_000).contains(length);
    let scaled: usize = lengths.iter().filter(|length| middle(length)).sum();
    let rest = lengths.iter().sum::<usize>() - scaled;
    let factor = (25_000_000 - rest) as f64 / scaled as f64;
    for length in lengths.iter_mut().filter(|length| middle(length)) {
        *length = (*length as f64 * factor) as usize;
    }
    lengths
}

fn batches(backend: BackendChoice) {
    println!("\nA batch of 160 tensors beside one flat tensor of its bytes, f32 sum, over {backend}");
    println!(
        "{:>6} {:>12} {:>12} {:>12} {:>8} {:>8}",
        "ranks", "MB", "flat ms", "batch ms", "batch", "scope"
    );
    for world in [2, 4] {
        let lengths = gradients();
        let total: usize = lengths.iter().sum();
        let times = on(backend, world, |comm| {
            let mut flat = vec![0.0f32; total];
            let mut tensors: Vec<Vec<f32>> = lengths.iter().map(|&len| vec![0.0; len]).collect();
            let mut again = tensors.clone();
            in_turn(
                comm,
                9,
                1,
                &mut [
                    &mut || comm.all_reduce(&mut flat, ReduceOp::Sum).unwrap(),
                    &mut || {
                        let mut views: Vec<_> =
                            tensors.iter_mut().map(|t| TensorMut::from_slice(t)).collect();
                        comm.all_reduce_batch(&mut views, ReduceOp::Sum).unwrap();
                    },
                    &mut || {
                        comm.scope(|scope| {
                            again.iter_mut().for_each(|tensor| scope.all_reduce(tensor, ReduceOp::Sum));
                        })
                        .unwrap();
                    },
                ],
            )
        });
        println!(
            "{world:>6} {:>12.1} {:>12.2} {:>12.2} {:>8.3} {:>8.3}",
            total as f64 * 4e-6,
            times[0] * 1e3,
            times[1] * 1e3,
            times[1] / times[0],
            times[2] / times[0],
        );
    }
}

fn orders(backend: BackendChoice) {
    println!("\nThe fixed order beside the default, all_reduce f32 sum, over {backend}");
    println!("{:>6} {:>10} {:>12} {:>12} {:>8}", "ranks", "size", "default us", "fixed us", "ratio");
    for world in [2, 4, 8] {
        for bytes in [8usize, 1 << 10, 64 << 10, 1 << 20, 16 << 20, 64 << 20] {
            let (samples, each) = match bytes {
                0..4096 => (21, 100),
                4096..0x10_0000 => (21, 20),
                _ => (9, 1),
            };
            let times = on(backend, world, |comm| {
                let mut data = vec![0.0f32; bytes / 4];
                let mut ordered = data.clone();
                let with = comm.with(Options::new().order(Order::Fixed));
                in_turn(
                    comm,
                    samples,
                    each,
                    &mut [&mut || comm.all_reduce(&mut data, ReduceOp::Sum).unwrap(), &mut || {
                        with.all_reduce(&mut ordered, ReduceOp::Sum).unwrap()
                    }],
                )
            });
            let ratio = times[1] / times[0];
            println!(
                "{world:>6} {:>10} {:>12.1} {:>12.1} {ratio:>8.3}",
                shown(bytes),
                times[0] * 1e6,
                times[1] * 1e6
            );
        }
    }
}

/// Something to compute that stays in a core's cache.
fn compute(for_seconds: f64) {
    let begun = Instant::now();
    let mut values = [1.0001f32; 4096];
    while begun.elapsed().as_secs_f64() < for_seconds {
        values.iter_mut().for_each(|value| *value = *value * 1.0001 + 0.1);
        black_box(&mut values);
    }
}

fn overlap(backend: BackendChoice) {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    println!("\nStarted operations beside a computation of the same length, 2 ranks, over {backend}");
    if cpus < 4 {
        println!("not measured: {cpus} CPUs, and 2 ranks with 2 progress threads want 4");
        return;
    }
    println!("{:>10} {:>12} {:>12} {:>12} {:>12}", "size", "alone us", "compute us", "together us", "hidden");
    for bytes in [1usize << 20, 16 << 20, 64 << 20] {
        let times = on(backend, 2, |comm| {
            let mut data = vec![0.0f32; bytes / 4];
            let alone =
                in_turn(comm, 9, 1, &mut [&mut || comm.all_reduce(&mut data, ReduceOp::Sum).unwrap()])[0];
            let mut step = comm.prepare_all_reduce(vec![0.0f32; bytes / 4], ReduceOp::Sum).unwrap();
            let work = alone * 1.2;
            let both = in_turn(
                comm,
                9,
                1,
                &mut [&mut || compute(work), &mut || {
                    step.start().unwrap();
                    compute(work);
                    step.wait().unwrap();
                }],
            );
            [alone, both[0], both[1]]
        });
        let [alone, compute, together] = times;
        let hidden = 1.0 - (together - compute) / alone;
        println!(
            "{:>10} {:>12.0} {:>12.0} {:>12.0} {:>11.0}%",
            shown(bytes),
            alone * 1e6,
            compute * 1e6,
            together * 1e6,
            hidden * 100.0
        );
    }
}

fn main() {
    // `cargo test --benches` only wants to know that it builds.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    for backend in [BackendChoice::Shm, BackendChoice::Tcp] {
        batches(backend);
        orders(backend);
        overlap(backend);
    }
}
