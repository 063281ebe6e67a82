//! `ringfold trace`: what ranks have written down, brought together.

use clap::{Args, Subcommand};
use comfy_table::{CellAlignment, Table, presets};
use ringfold::observe::trace::{self, Merged};
use ringfold::{Error, Result};
use std::path::PathBuf;

/// What to do with traces.
#[derive(Debug, Subcommand)]
pub(crate) enum TraceCommand {
    /// Make one file of the traces of several ranks, on one clock, and tell who was late
    Merge(MergeArgs),
}

const EXAMPLES: &str = "\
Examples:
  ringfold run -n 4 --trace traces -- ./train        every rank writes traces/ringfold-...-rank<k>.json
  ringfold trace merge traces -o merged.json         open it at https://ui.perfetto.dev or chrome://tracing

The clock is that of rank 0. Ranks of one host share it; for others the differences are found from the operations
themselves, with an error that is told.";

/// What to merge.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct MergeArgs {
    /// The files of the ranks, or directories of them
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Where to write what Perfetto and chrome://tracing open
    #[arg(short = 'o', long, value_name = "FILE")]
    output: PathBuf,
}

/// Does it.
pub(crate) fn command(command: &TraceCommand) -> Result<()> {
    let TraceCommand::Merge(arguments) = command;
    let mut files = Vec::new();
    for path in &arguments.files {
        if path.is_dir() {
            files.extend(trace::in_directory(path)?);
        } else {
            files.push(path.clone());
        }
    }
    if files.contains(&arguments.output) {
        let text = format!("{} would be read and written over", arguments.output.display());
        return Err(Error::invalid(text).remedy("write to another file"));
    }
    let traces = files.iter().map(|file| trace::read(file)).collect::<Result<Vec<_>>>()?;
    let dropped: Vec<(usize, u64)> = traces
        .iter()
        .filter(|trace| trace.header.dropped > 0)
        .map(|trace| (trace.header.rank, trace.header.dropped))
        .collect();
    let merged = trace::merge(traces)?;
    merged.write(&arguments.output)?;
    tell(&merged);
    for (rank, dropped) in dropped {
        println!("rank {rank}: the first {dropped} operations had given way to later ones");
    }
    println!("{} has {} events", arguments.output.display(), merged.events.len());
    Ok(())
}

fn tell(merged: &Merged) {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["collective", "count", "failed", "bytes", "median", "max", "late most often"]);
    for column in 1..6 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for line in &merged.summary {
        let late = line.latest.map_or("nobody".to_owned(), |(rank, times)| {
            format!("rank {rank}: {times} of {}, by {}", line.count, time(line.late_by))
        });
        table.add_row([
            line.collective.clone(),
            line.count.to_string(),
            line.failed.to_string(),
            line.bytes.to_string(),
            time(line.median),
            time(line.max),
            late,
        ]);
    }
    println!("{table}");
    for alignment in &merged.alignment {
        match alignment.error {
            Some(error) if error > 0.0 => println!(
                "rank {}: clock moved by {}, within {}",
                alignment.rank,
                time(alignment.offset),
                time(error)
            ),
            Some(_) => {}
            None => println!("rank {}: aligned by the wall clock only", alignment.rank),
        }
    }
    if !merged.missing.is_empty() {
        let missing: Vec<String> = merged.missing.iter().map(usize::to_string).collect();
        println!("no trace of rank {} (of {})", missing.join(", "), merged.world);
    }
}

/// Nanoseconds for people.
fn time(nanos: f64) -> String {
    match nanos.abs() {
        n if n < 1e6 => format!("{:.1} us", nanos / 1e3),
        n if n < 1e9 => format!("{:.2} ms", nanos / 1e6),
        _ => format!("{:.3} s", nanos / 1e9),
    }
}
