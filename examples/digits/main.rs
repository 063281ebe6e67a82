//! Learns to read handwritten digits by softmax regression.
//!
//!     cargo run --release --example digits [FILE]
//!
//! `FILE` is an Arrow IPC file like `examples/data/digits.arrow`, which is the default.

use std::env;
use std::error::Error;
use std::iter;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};

mod data;
mod model;

use data::{Dataset, Split};
use model::{Descent, accuracy, train};

/// The digits that come with the source.
const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/digits.arrow");

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
    let Split { train: training, test } = Dataset::read(path)?.split();
    println!("{} rows to train on, {} to test with", training.rows, test.rows);

    let descent = Descent::default();
    let bar = progress(descent.steps)?;
    let trained = train(&mut |_| Ok(()), training.share(0, 1), descent, &mut |taken, loss| {
        bar.set_message(format!("{loss:.4}"));
        bar.set_position(taken as u64);
    });
    bar.finish_and_clear();
    let trained = trained?;

    println!("mean loss {:.4} at step {}", trained.loss, descent.steps);
    println!("test accuracy {:.3}", accuracy(&trained.params, test.all()));
    Ok(())
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
