//! Learns to read handwritten digits by softmax regression, on as many ranks as there are.
//!
//!     cargo run --release --example digits [FILE]
//!     ringfold run -n 4 -- target/release/examples/digits [FILE]
//!
//! `FILE` is an Arrow IPC file like `examples/data/digits.arrow`, which is the default. Each rank works on its share
//! of the rows, a slice of Arrow arrays, and the gradients, Arrow arrays too, are all-reduced in every step. In the end
//! every rank has the same weights to the bit, and rank 0 checks them against a training of its own on all rows.

use std::env;
use std::error::Error;
use std::iter;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use ringfold::arrow::array::RecordBatch;
use ringfold::{Communicator, ReduceOp};

mod data;
mod model;

use data::{Digits, Split};
use model::{Descent, TOLERANCE, Trained, accuracy, furthest, train};

/// The digits that come with the source.
const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/digits.arrow");

/// The accuracy below which something is wrong.
const PASS: f64 = 0.9;

/// How many steps to take between two lines about them, where there is no bar.
const STEPS_A_LINE: usize = 50;

fn main() -> ExitCode {
    let path = env::args_os().nth(1).map_or_else(|| PathBuf::from(DATA), PathBuf::from);
    match run(&path) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("digits: {}", with_causes(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(path: &Path) -> Result<(), Box<dyn Error>> {
    let comm = Communicator::from_env()?;
    let (rank, world) = (comm.rank(), comm.world_size());
    let Split { train: training, test } = Digits::read(path)?.split()?;
    if rank == 0 {
        println!("{} rows to train on with {world} ranks, {} to test with", training.len(), test.len());
    }

    let descent = Descent::default();
    let trained = descend(&comm, &training.share(rank, world), descent)?;
    check_all_alike(&comm, &trained)?;
    if rank > 0 {
        return Ok(());
    }
    println!("mean loss {:.4} at step {}", trained.loss, descent.steps);
    if world > 1 {
        let alone = train(&mut |sums| Ok(sums.clone()), &training, descent, &mut |_, _| ())?;
        let apart = furthest(&trained.weights, &alone.weights);
        if apart > TOLERANCE {
            return Err(format!("a weight is {apart:e} away from that of a one-rank run").into());
        }
        println!("weights agree with a one-rank run within {apart:.1e} (allowed: {TOLERANCE:.0e})");
    }
    let right = accuracy(&trained.weights, &test);
    println!("test accuracy {right:.3}");
    if right < PASS {
        return Err(format!("the accuracy is below {PASS}").into());
    }
    Ok(())
}

/// Trains together with the other ranks. Rank 0 says how far it is.
fn descend(comm: &Communicator, rows: &Digits, descent: Descent) -> Result<Trained, Box<dyn Error>> {
    let bar = if comm.rank() == 0 { progress(descent.steps)? } else { ProgressBar::hidden() };
    let lines = comm.rank() == 0 && bar.is_hidden();
    let mut reduce = |sums: &RecordBatch| Ok(comm.all_reduce_record_batch(sums, ReduceOp::Sum)?);
    let trained = train(&mut reduce, rows, descent, &mut |taken, loss| {
        bar.set_message(format!("{loss:.4}"));
        bar.set_position(taken as u64);
        if lines && taken % STEPS_A_LINE == 0 {
            println!("step {taken:>3}/{} loss {loss:.4}", descent.steps);
        }
    });
    bar.finish_and_clear();
    trained
}

/// Fails on every rank unless all have the same weights, to the bit.
fn check_all_alike(comm: &Communicator, trained: &Trained) -> Result<(), Box<dyn Error>> {
    let weights = comm.all_gather_array(&trained.weights)?;
    match weights.iter().position(|of_rank| **of_rank != *weights[0]) {
        Some(rank) => Err(format!("rank {rank} has other weights than rank 0").into()),
        None => Ok(()),
    }
}

/// A bar on standard error, hidden where that is no terminal.
fn progress(steps: usize) -> Result<ProgressBar, Box<dyn Error>> {
    let style = ProgressStyle::with_template("step {pos:>3}/{len} {bar:40} loss {msg}")?;
    Ok(ProgressBar::new(steps as u64).with_style(style))
}

/// An error and what caused it, on one line.
fn with_causes(error: &dyn Error) -> String {
    let causes = iter::successors(Some(error), |&error| error.source());
    causes.map(|error| error.to_string()).collect::<Vec<_>>().join(": ")
}
