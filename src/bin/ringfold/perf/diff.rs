//! `ringfold perf diff`: two recordings side by side.

use anstyle::{AnsiColor, Style};
use clap::Args;
use ringfold::{Error, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const AFTER: &str = "\
A file holds one JSON object a line, as `ringfold perf --json` and benches/peers write them.
Rows are the same when collective, ranks, type, reduction, size and placement are. Where a
file has several of these, library, backend and algorithm tell them apart; of what is still
the same the median counts.

Exit status: 0; 1 when results were wrong or, with --threshold, B is slower than that
anywhere; 2 when the files cannot be compared.

Examples:
  ringfold perf all_reduce -n 2 --fresh --json > before.json
  ringfold perf diff before.json after.json --threshold 1.05";

/// What is compared.
#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub(crate) struct DiffArgs {
    /// Rows to compare with
    a: PathBuf,
    /// Rows that are compared
    b: PathBuf,
    /// Mark what became slower or faster by more than this factor, and fail where B is slower
    #[arg(long, value_name = "FACTOR")]
    threshold: Option<f64>,
}

/// One line of a file, as far as it matters here.
#[derive(Debug, Clone, Deserialize)]
struct Row {
    collective: String,
    ranks: u64,
    dtype: String,
    op: String,
    size_bytes: u64,
    in_place: bool,
    time_us: f64,
    busbw_gb_s: f64,
    wrong: u64,
    #[serde(default)]
    library: String,
    backend: String,
    algorithm: String,
}

/// What makes two rows the same.
type Key = (String, u64, String, String, bool, u64);

impl Row {
    fn key(&self) -> Key {
        let (collective, dtype, op) = (self.collective.clone(), self.dtype.clone(), self.op.clone());
        (collective, self.ranks, dtype, op, self.in_place, self.size_bytes)
    }

    /// The first `depth` of what tells rows of the same key apart.
    fn who(&self, depth: usize) -> String {
        let words = [&self.library, &self.backend, &self.algorithm];
        let words: Vec<&str> =
            words[..depth].iter().map(|word| word.as_str()).filter(|word| !word.is_empty()).collect();
        words.join(" ")
    }
}

const DEEPEST: usize = 3;

/// What a file holds: rows, and what it says was not measured.
#[derive(Debug, Default)]
struct Recording {
    rows: Vec<Row>,
    missing: Vec<String>,
}

fn read(path: &Path) -> Result<Recording> {
    let name = path.display();
    let text = fs::read_to_string(path).map_err(|error| Error::io(format!("reading {name}"), error))?;
    let recording = parse(&text).map_err(|(line, why)| {
        Error::invalid(format!("{name}, line {line}: {why}"))
            .remedy("pass files of the lines that `ringfold perf --json` writes")
    })?;
    if recording.rows.is_empty() {
        return Err(
            Error::invalid(format!("{name} has no rows")).remedy("write it with `ringfold perf --json`")
        );
    }
    Ok(recording)
}

/// Reads rows; an error says in which line, from 1.
fn parse(text: &str) -> std::result::Result<Recording, (usize, String)> {
    let mut recording = Recording::default();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let bad = |why: String| (number + 1, why);
        let value: serde_json::Value =
            serde_json::from_str(line).map_err(|error| bad(format!("no JSON: {error}")))?;
        if value.get("about").is_some() {
            continue;
        }
        if let Some(why) = value.get("not_measured") {
            let word = |field| value.get(field).and_then(|value| value.as_str()).unwrap_or("?").to_owned();
            let size = value.get("size_bytes").and_then(serde_json::Value::as_u64).unwrap_or(0);
            let why = why.as_str().unwrap_or("no reason given");
            recording.missing.push(format!(
                "{} of {size} B by {}: {why}",
                word("collective"),
                word("library")
            ));
            continue;
        }
        let row: Row = serde_json::from_value(value).map_err(|error| bad(format!("no row: {error}")))?;
        if row.time_us < 0.0 || row.busbw_gb_s < 0.0 {
            return Err(bad("no row: a time or a bandwidth below 0".to_owned()));
        }
        recording.rows.push(row);
    }
    Ok(recording)
}

/// The rows of one key that nothing tells apart, as one: their medians, and all that was wrong.
fn merge(mut rows: Vec<Row>) -> Option<Row> {
    let wrong = rows.iter().map(|row| row.wrong).sum();
    rows.sort_by(|a, b| a.time_us.total_cmp(&b.time_us));
    let (low, high) = (rows.get(rows.len().saturating_sub(1) / 2)?, &rows[rows.len() / 2]);
    let middle = |field: fn(&Row) -> f64| (field(low) + field(high)) / 2.0;
    let (time_us, busbw_gb_s) = (middle(|row| row.time_us), middle(|row| row.busbw_gb_s));
    Some(Row { time_us, busbw_gb_s, wrong, ..low.clone() })
}

/// A line of the table: the same thing in either file, or in one.
#[derive(Debug)]
struct Pair {
    who: String,
    a: Option<Row>,
    b: Option<Row>,
}

impl Pair {
    fn row(&self) -> Option<&Row> {
        self.a.as_ref().or(self.b.as_ref())
    }

    /// The time of B over that of A; none where it would say nothing.
    fn ratio(&self) -> Option<f64> {
        let (a, b) = (self.a.as_ref()?, self.b.as_ref()?);
        (a.time_us > 0.0).then(|| b.time_us / a.time_us)
    }
}

/// Joins two files.
fn join(a: Vec<Row>, b: Vec<Row>) -> Vec<Pair> {
    let mut groups: BTreeMap<Key, [Vec<Row>; 2]> = BTreeMap::new();
    for (side, rows) in [a, b].into_iter().enumerate() {
        for row in rows {
            groups.entry(row.key()).or_default()[side].push(row);
        }
    }
    let mut pairs = Vec::new();
    for sides in groups.into_values() {
        // As few names as tell the rows apart: a file of one library then compares with a file of another.
        let unique = |rows: &[Row], depth| {
            let mut names: Vec<String> = rows.iter().map(|row| row.who(depth)).collect();
            names.sort_unstable();
            names.windows(2).all(|pair| pair[0] != pair[1])
        };
        let depth =
            (0..DEEPEST).find(|&depth| sides.iter().all(|rows| unique(rows, depth))).unwrap_or(DEEPEST);
        let mut named: BTreeMap<String, [Vec<Row>; 2]> = BTreeMap::new();
        for (side, rows) in sides.into_iter().enumerate() {
            for row in rows {
                named.entry(row.who(depth)).or_default()[side].push(row);
            }
        }
        pairs.extend(named.into_iter().map(|(who, [a, b])| Pair { who, a: merge(a), b: merge(b) }));
    }
    pairs.sort_by_cached_key(|pair| {
        pair.row().map(|row| {
            let (collective, ranks, dtype, op, in_place, size) = row.key();
            (collective, ranks, dtype, op, pair.who.clone(), in_place, size)
        })
    });
    pairs
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    None,
    Slower,
    Faster,
}

fn mark(ratio: f64, threshold: Option<f64>) -> Mark {
    match threshold {
        Some(threshold) if ratio > threshold => Mark::Slower,
        Some(threshold) if ratio * threshold < 1.0 => Mark::Faster,
        _ => Mark::None,
    }
}

fn micros(time: f64) -> String {
    if time < 100.0 { format!("{time:.2}") } else { format!("{time:.1}") }
}

/// What stands in a line, before the mark.
fn cells(pair: &Pair, a: &Row, b: &Row) -> Vec<String> {
    vec![
        a.collective.clone(),
        pair.who.clone(),
        a.ranks.to_string(),
        a.dtype.clone(),
        a.op.clone(),
        if a.in_place { "in" } else { "out of" }.to_owned(),
        a.size_bytes.to_string(),
        micros(a.time_us),
        micros(b.time_us),
        pair.ratio().map_or("-".to_owned(), |ratio| format!("{ratio:.3}")),
        format!("{:.3}", a.busbw_gb_s),
        format!("{:.3}", b.busbw_gb_s),
    ]
}

const HEAD: [&str; 12] = [
    "collective",
    "of",
    "ranks",
    "type",
    "redop",
    "place",
    "size (B)",
    "a (us)",
    "b (us)",
    "b/a",
    "a (GB/s)",
    "b (GB/s)",
];

/// Prints the comparison; tells whether it is fine.
fn print([a, b]: [(&str, Recording); 2], threshold: Option<f64>, out: &mut impl Write) -> io::Result<bool> {
    writeln!(out, "# a: {} ({} rows)", a.0, a.1.rows.len())?;
    writeln!(out, "# b: {} ({} rows)", b.0, b.1.rows.len())?;
    let names = [a.0, b.0];
    let missing = [a.1.missing, b.1.missing];
    let pairs = join(a.1.rows, b.1.rows);
    let lines: Vec<(Vec<String>, Mark)> = pairs
        .iter()
        .filter_map(|pair| {
            let (a, b) = (pair.a.as_ref()?, pair.b.as_ref()?);
            let mark = pair.ratio().map_or(Mark::None, |ratio| mark(ratio, threshold));
            Some((cells(pair, a, b), mark))
        })
        .collect();
    let width = |column: usize| {
        lines.iter().map(|(cells, _)| cells[column].chars().count()).chain([HEAD[column].len()]).max()
    };
    let widths: Vec<usize> = (0..HEAD.len()).map(|column| width(column).unwrap_or(0)).collect();
    // Who: only where somebody has to be told apart.
    let shown: Vec<usize> = (0..HEAD.len())
        .filter(|&column| column != 1 || pairs.iter().any(|pair| !pair.who.is_empty()))
        .collect();
    let aligned = |cells: &[&str]| -> String {
        let cell = |&column: &usize| {
            let (text, width) = (cells[column], widths[column]);
            if column < 2 { format!("{text:<width$}") } else { format!("{text:>width$}") }
        };
        shown.iter().map(cell).collect::<Vec<_>>().join("  ")
    };
    writeln!(out, "# {}", aligned(&HEAD))?;
    for (cells, mark) in &lines {
        let cells: Vec<&str> = cells.iter().map(String::as_str).collect();
        let (style, word) = match mark {
            Mark::None => (Style::new(), ""),
            Mark::Slower => (AnsiColor::Red.on_default(), "  slower"),
            Mark::Faster => (AnsiColor::Green.on_default(), "  faster"),
        };
        writeln!(out, "{style}  {}{word}{style:#}", aligned(&cells))?;
    }
    for pair in &pairs {
        if let (Some(row), true) = (pair.row(), pair.a.is_none() || pair.b.is_none()) {
            let name = names[usize::from(pair.a.is_none())];
            let place = if row.in_place { "in place" } else { "out of place" };
            let who = if pair.who.is_empty() { String::new() } else { format!(" by {}", pair.who) };
            let (ranks, dtype, op) = (row.ranks, &row.dtype, &row.op);
            let what =
                format!("{} {dtype} {op} among {ranks}, {} B, {place}{who}", row.collective, row.size_bytes);
            writeln!(out, "# only in {name}: {what}: {} us", micros(row.time_us))?;
        }
    }
    for (name, missing) in names.iter().zip(&missing) {
        for what in missing {
            writeln!(out, "# not measured in {name}: {what}")?;
        }
    }
    let wrong: u64 = pairs.iter().flat_map(|pair| [&pair.a, &pair.b]).flatten().map(|row| row.wrong).sum();
    if wrong > 0 {
        writeln!(out, "# {wrong} WRONG elements were counted: those times mean nothing")?;
    }
    let slower = lines.iter().filter(|(_, mark)| *mark == Mark::Slower).count();
    let mut ratios: Vec<f64> = pairs.iter().filter_map(Pair::ratio).collect();
    ratios.sort_by(f64::total_cmp);
    let middle = match ratios.len() {
        0 => "nothing is in both".to_owned(),
        len => {
            let median = (ratios[(len - 1) / 2] + ratios[len / 2]) / 2.0;
            format!("{len} in both, b/a from {:.3} to {:.3}, median {median:.3}", ratios[0], ratios[len - 1])
        }
    };
    let verdict = threshold.map_or(String::new(), |threshold| {
        format!("; b is slower by more than {threshold} in {slower} of them")
    });
    writeln!(out, "# {middle}{verdict}")?;
    Ok(wrong == 0 && slower == 0)
}

/// Compares. Tells whether results were right and nothing is slower than allowed.
///
/// # Errors
///
/// A file that cannot be read, a line that is no row (with its number), a threshold below 1.
pub(crate) fn command(args: &DiffArgs) -> Result<bool> {
    if let Some(threshold) = args.threshold.filter(|factor| !(factor.is_finite() && *factor >= 1.0)) {
        return Err(Error::invalid(format!("--threshold {threshold}"))
            .remedy("pass a factor from 1 on: 1.05 lets 5 % pass"));
    }
    let (a, b) = (read(&args.a)?, read(&args.b)?);
    let names = [args.a.display().to_string(), args.b.display().to_string()];
    // Leaves colours out where nobody would see them.
    let mut out = anstream::stdout().lock();
    print([(&names[0], a), (&names[1], b)], args.threshold, &mut out)
        .and_then(|fine| out.flush().map(|()| fine))
        .map_err(|error| Error::io("writing the comparison", error))
}
