//! What `perf` prints: a table for people, lines of JSON for programs.

use super::measure::{Measured, bus_factor};
use ringfold::{Collective, DType};
use serde::Serialize;
use std::io::{self, Write};

/// One line of JSON: the result of one size in one placement.
#[derive(Debug, Serialize)]
pub(super) struct Row<'a> {
    pub(super) collective: &'a str,
    pub(super) backend: &'a str,
    pub(super) algorithm: &'a str,
    pub(super) ranks: usize,
    pub(super) dtype: &'a str,
    pub(super) op: &'a str,
    pub(super) size_bytes: usize,
    pub(super) count: usize,
    pub(super) in_place: bool,
    pub(super) time_us: f64,
    pub(super) algbw_gb_s: f64,
    pub(super) busbw_gb_s: f64,
    pub(super) wrong: u64,
}

/// Algorithm and bus bandwidth in 10^9 bytes a second.
pub(super) fn bandwidths(
    collective: Collective,
    world: usize,
    bytes: usize,
    measured: &Measured,
) -> (f64, f64) {
    if measured.microseconds <= 0.0 {
        return (0.0, 0.0);
    }
    let algorithm = bytes as f64 / measured.microseconds / 1e3;
    (algorithm, algorithm * bus_factor(collective, world))
}

/// The head of the table.
pub(super) fn print_head(title: &str, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "# {title}")?;
    writeln!(out, "#")?;
    let group = format!("{:>10} {:>8} {:>8} {:>7}", "time", "algbw", "busbw", "#wrong");
    writeln!(
        out,
        "# {:>12} {:>11} {:>6} {:>7} {:>5} {:^36} {:^36}",
        "", "", "", "", "", "out of place", "in place"
    )?;
    writeln!(
        out,
        "# {:>12} {:>11} {:>6} {:>7} {:>5} {group} {group}",
        "size", "count", "type", "redop", "root"
    )?;
    let units = format!("{:>10} {:>8} {:>8} {:>7}", "(us)", "(GB/s)", "(GB/s)", "");
    writeln!(out, "# {:>12} {:>11} {:>6} {:>7} {:>5} {units} {units}", "(B)", "(elements)", "", "", "")
}

/// What stands left of the measured figures.
pub(super) struct Label<'a> {
    pub(super) bytes: usize,
    pub(super) count: usize,
    pub(super) dtype: DType,
    pub(super) op: &'a str,
    pub(super) root: Option<usize>,
}

/// One line of the table.
pub(super) fn print_row(
    label: &Label<'_>,
    figures: &[(Measured, f64, f64)],
    out: &mut impl Write,
) -> io::Result<()> {
    let root = label.root.map_or("-1".to_owned(), |root| root.to_string());
    write!(out, "  {:>12} {:>11} {:>6} {:>7} {:>5}", label.bytes, label.count, label.dtype, label.op, root)?;
    for (measured, algorithm, bus) in figures {
        let time = measured.microseconds;
        let time = if time < 100.0 { format!("{time:.2}") } else { format!("{time:.1}") };
        write!(out, " {time:>10} {algorithm:>8.2} {bus:>8.2} {:>7}", measured.wrong)?;
    }
    writeln!(out)?;
    out.flush()
}
