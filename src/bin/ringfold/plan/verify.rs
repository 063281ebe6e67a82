//! `ringfold plan verify`.

use super::file::PlanFile;
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ParallelProgressIterator, ProgressBar, ProgressStyle};
use rayon::prelude::*;
use ringfold::plan::verify::{Case, verify};
use ringfold::{Algorithm, Error, Result};
use std::path::PathBuf;
use std::time::Instant;

const EXAMPLES: &str = "\
Examples:
  ringfold plan verify plan.json           the plans of a file that plan show --json wrote, or you
  ringfold plan verify --all               every algorithm, collective, world of 1 to 64, awkward counts
  ringfold plan verify --all --worlds 8    the same for worlds of 1 to 8";

/// What to prove.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct VerifyArgs {
    /// A file with the plans of all ranks
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    file: Option<PathBuf>,
    /// Prove everything that the algorithms make
    #[arg(long)]
    all: bool,
    /// With --all: the largest world
    #[arg(long, value_name = "N", default_value_t = 64, requires = "all", value_parser = clap::value_parser!(u16).range(1..=1024))]
    worlds: u16,
}

pub(super) fn command(args: &VerifyArgs) -> Result<bool> {
    match &args.file {
        Some(path) => {
            let plans = PlanFile::read(path)?.plans;
            match verify(&plans) {
                Ok(report) => {
                    println!(
                        "proved: {} ranks, {} steps, {} messages in {} rounds",
                        plans.len(),
                        report.steps,
                        report.messages,
                        report.rounds
                    );
                    Ok(true)
                }
                Err(fault) => {
                    eprintln!("ringfold: {}: {fault}", path.display());
                    Ok(false)
                }
            }
        }
        None => all(usize::from(args.worlds)),
    }
}

fn all(worlds: usize) -> Result<bool> {
    let begin = Instant::now();
    let pairs: Vec<_> = Algorithm::all()
        .flat_map(|algorithm| algorithm.collectives().iter().map(move |&collective| (algorithm, collective)))
        .collect();
    // The dearest first, so that no worker is left with them at the end.
    let mut cases: Vec<(usize, Case)> = (1..=worlds)
        .rev()
        .flat_map(|world| {
            let of_pair = move |(row, &(algorithm, collective)): (usize, &(Algorithm, _))| {
                Case::of(algorithm, collective, world).into_iter().map(move |case| (row, case))
            };
            pairs.iter().enumerate().flat_map(of_pair).collect::<Vec<_>>()
        })
        .collect();
    cases.sort_by_key(|(_, case)| std::cmp::Reverse(case.world));
    let style = ProgressStyle::with_template("proving {bar:40} {pos}/{len} plans, {eta} left")
        .map_err(|error| Error::io("making a progress bar", error))?;
    let bar = ProgressBar::new(cases.len() as u64).with_style(style);
    let results: Vec<(usize, Result<_>)> = cases
        .par_iter()
        .with_max_len(1)
        .progress_with(bar.clone())
        .map(|(row, case)| (*row, case.verify()))
        .collect();
    bar.finish_and_clear();
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["algorithm", "collective", "cases", "ranks' steps", "messages", "faults"]);
    for column in 2..6 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for (row, (algorithm, collective)) in pairs.iter().enumerate() {
        let of_row = || results.iter().filter(|(of, _)| *of == row);
        let reports = || of_row().filter_map(|(_, result)| result.as_ref().ok());
        table.add_row([
            algorithm.name().to_owned(),
            collective.to_string(),
            of_row().count().to_string(),
            reports().map(|report| report.steps).sum::<usize>().to_string(),
            reports().map(|report| report.messages).sum::<usize>().to_string(),
            of_row().filter(|(_, result)| result.is_err()).count().to_string(),
        ]);
    }
    println!("{table}");
    let faults: Vec<&Error> = results.iter().filter_map(|(_, result)| result.as_ref().err()).collect();
    for fault in faults.iter().take(20) {
        eprintln!("ringfold: {fault}");
    }
    println!(
        "{} cases for worlds of 1 to {worlds} in {:.1} s: {}",
        results.len(),
        begin.elapsed().as_secs_f64(),
        if faults.is_empty() { "all proved".to_owned() } else { format!("{} FAULTS", faults.len()) }
    );
    Ok(faults.is_empty())
}
