//! `ringfold plan simulate`.

use super::chart;
use super::network::{NetworkArgs, bytes, describe, time};
use crate::sizes;
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use ringfold::collective::Request;
use ringfold::plan::cost::Network;
use ringfold::plan::select::Table as Selection;
use ringfold::plan::simulate::{Method, Report, simulate, simulate_all};
use ringfold::transport::control::SETTLE_DEATH;
use ringfold::{Algorithm, Collective, Config, DType, Error, Result};
use serde_json::json;
use std::fs;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  ringfold plan simulate -n 1024 --bytes 100M --latency 20us --bandwidth 10Gbit
  ringfold plan simulate -n 512 --ranks-per-host 8 --hosts-per-rack 16 --rack-bandwidth 40Gbit
  ringfold plan simulate -n 64 --straggler 17=3 --algorithm ring     where the time goes, with the critical path
  ringfold plan simulate -n 64 --dead 17                             who waits for whom
  ringfold plan simulate -n 64..10000 --bytes 1M --svg time.svg      time against ranks, a line an algorithm

Without --algorithm, every algorithm of the collective is simulated. What counts is the schedule that would run: its
messages, its dependencies, and which processors and ports they share.";

/// What to simulate.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SimulateArgs {
    /// The number of ranks; several (64,512,4096) or a range (64..10000, doubling) for time against ranks
    #[arg(short = 'n', long = "ranks", value_name = "N", default_value = "64", value_parser = worlds)]
    ranks: Worlds,
    /// The bytes of a rank's message, or of all blocks together
    #[arg(long, value_name = "SIZE", default_value = "1M", value_parser = sizes::parse)]
    bytes: usize,
    /// The collective
    #[arg(long, default_value = "all_reduce")]
    collective: Collective,
    /// One algorithm, in detail
    #[arg(long)]
    algorithm: Option<Algorithm>,
    /// The root, of rooted collectives
    #[arg(long, default_value_t = 0)]
    root: usize,
    #[command(flatten)]
    network: NetworkArgs,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// Draw time against ranks into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// Numbers of ranks.
#[derive(Debug, Clone)]
struct Worlds(Vec<usize>);

fn worlds(text: &str) -> std::result::Result<Worlds, String> {
    let number = |text: &str| match text.trim().parse() {
        Ok(ranks @ 1..=100_000) => Ok(ranks),
        _ => Err(format!("{text:?} is no number of ranks from 1 to 100000: write 64, 64,512 or 64..10000")),
    };
    if let Some((from, to)) = text.split_once("..") {
        let (from, to) = (number(from)?, number(to)?);
        if from > to {
            return Err(format!("{text:?} ends before it begins"));
        }
        let mut worlds: Vec<usize> = std::iter::successors(Some(from), |ranks| Some(ranks * 2))
            .take_while(|&ranks| ranks < to)
            .collect();
        worlds.push(to);
        return Ok(Worlds(worlds));
    }
    text.split(',').map(number).collect::<std::result::Result<_, _>>().map(Worlds)
}

/// The reports of one number of ranks, the quickest first, and what selection would choose.
struct Simulated {
    world: usize,
    reports: Vec<Report>,
    chosen: Algorithm,
}

pub(super) fn command(args: &SimulateArgs) -> Result<()> {
    let network = args.network.network()?;
    let several = args.ranks.0.len() > 1;
    let style = ProgressStyle::with_template("simulating {msg} ranks {bar:40} {pos}/{len}")
        .map_err(|error| Error::io("making a progress bar", error))?;
    let bar = ProgressBar::new(args.ranks.0.len() as u64).with_style(style);
    let mut all = Vec::new();
    for &world in &args.ranks.0 {
        bar.set_message(world.to_string());
        let simulated = args.simulate(world, &network)?;
        if args.json {
            bar.suspend(|| args.print_json(&simulated, &network));
        }
        all.push(simulated);
        bar.inc(1);
    }
    bar.finish_and_clear();
    if let Some(path) = &args.svg {
        let title = format!("{} of {}", args.collective, bytes(args.bytes as u64));
        let mut lines: Vec<chart::Line> = Vec::new();
        for simulated in &all {
            // What hangs takes no time that could be drawn.
            for report in simulated.reports.iter().filter(|report| !report.hangs()) {
                let name = report.schedule.algorithm.name();
                let point = (simulated.world as f64, report.time());
                match lines.iter_mut().find(|line| line.name == name) {
                    Some(line) => line.points.push(point),
                    None => lines.push(chart::Line { name, points: vec![point] }),
                }
            }
        }
        let picture = chart::draw(&title, &describe(&network), &lines)?;
        fs::write(path, picture)
            .map_err(|error| Error::io(format_args!("writing {}", path.display()), error))?;
    }
    if args.json {
        return Ok(());
    }
    println!("{} of {}: {}", args.collective, bytes(args.bytes as u64), describe(&network));
    match (&all[..], args.algorithm) {
        (all, _) if several => print_against_ranks(all),
        (all, Some(_)) => all.iter().for_each(|simulated| print_one(&simulated.reports[0], simulated.world)),
        (all, None) => all.iter().for_each(print_all),
    }
    if !several && let Some(dead) = network.dead {
        print_dead(&all[0], dead);
    }
    if let Some(path) = &args.svg {
        println!("drawn into {}", path.display());
    }
    Ok(())
}

impl SimulateArgs {
    fn simulate(&self, world: usize, network: &Network) -> Result<Simulated> {
        let has_blocks = self.collective.has_blocks() || self.collective == Collective::AllToAll;
        let elements = self.bytes / DType::F32.size() / if has_blocks { world } else { 1 };
        let mut request = Request::new(self.collective, world, DType::F32, elements.max(1));
        request.root = self.root;
        request.validate()?;
        let table = Selection::default();
        let reports = match self.algorithm {
            Some(algorithm) => vec![simulate(&request, table.schedule(&request, algorithm), network)?],
            None => simulate_all(&request, |algorithm| table.schedule(&request, algorithm), network)?,
        };
        Ok(Simulated { world, reports, chosen: table.select(&request)?.algorithm })
    }

    fn print_json(&self, simulated: &Simulated, network: &Network) {
        for report in &simulated.reports {
            let [near, rack, core] = report.loads;
            let used = report.utilisation;
            let line = json!({
                "collective": self.collective.as_str(),
                "algorithm": report.schedule.algorithm.name(),
                "ranks": simulated.world,
                "bytes": self.bytes,
                "time_us": (!report.hangs()).then(|| report.time() * 1e6),
                "method": method(report.method),
                "chosen": report.schedule.algorithm == simulated.chosen,
                "most_messages_sent": report.most_messages,
                "most_bytes_sent": report.most_bytes,
                "bytes_same_host": near.bytes,
                "bytes_same_rack": rack.bytes,
                "bytes_between_racks": core.bytes,
                "busy": { "cpu": used.cpu, "rank": used.rank, "host": used.host, "rack": used.rack },
                "hanging": report.hanging().count(),
                "dead": network.dead,
            });
            println!("{line}");
        }
    }
}

fn method(method: Method) -> &'static str {
    match method {
        Method::Events => "events",
        Method::Sweeps => "sweeps",
        Method::Classes => "classes",
        Method::Extrapolated => "extrapolated",
    }
}

fn table(header: &[&str], right: std::ops::Range<usize>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(header.iter().copied());
    for column in right {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn percent(part: f64) -> String {
    format!("{:.0} %", part * 100.0)
}

/// The time that it takes, or how many ranks hang.
fn outcome(report: &Report) -> String {
    match report.hanging().count() {
        0 => time(report.time()),
        hanging => format!("{hanging} hang"),
    }
}

/// Every algorithm, the quickest first.
fn print_all(simulated: &Simulated) {
    let header =
        ["algorithm", "time", "to best", "messages", "bytes", "CPU", "port", "host", "rack", "by", ""];
    let mut table = table(&header, 1..9);
    let best = simulated.reports.first().map_or(0.0, Report::time);
    for report in &simulated.reports {
        let used = report.utilisation;
        let chosen = report.schedule.algorithm == simulated.chosen;
        table.add_row([
            report.schedule.algorithm.name().to_owned(),
            outcome(report),
            if report.hangs() || best == 0.0 {
                String::new()
            } else {
                format!("{:.2}x", report.time() / best)
            },
            report.most_messages.to_string(),
            bytes(report.most_bytes),
            percent(used.cpu),
            percent(used.rank),
            percent(used.host),
            percent(used.rack),
            method(report.method).to_owned(),
            if chosen { "<- chosen by default".to_owned() } else { String::new() },
        ]);
    }
    println!(
        "{} ranks; messages and bytes are those that the busiest rank sends, the rest is how busy the busiest are",
        simulated.world
    );
    println!("{table}");
}

/// One algorithm, with where its time goes.
fn print_one(report: &Report, world: usize) {
    println!("{world} ranks, {}: {}", report.schedule.algorithm, outcome(report));
    let mut finish: Vec<f64> = report.finish.iter().copied().filter(|finish| finish.is_finite()).collect();
    finish.sort_by(f64::total_cmp);
    if let (Some(first), Some(last)) = (finish.first(), finish.last()) {
        let median = finish[finish.len() / 2];
        println!(
            "ranks are through after {} (first), {} (median), {} (last)",
            time(*first),
            time(median),
            time(*last)
        );
    }
    let mut loads = table(&["link", "messages", "bytes"], 1..3);
    for load in report.loads.iter().filter(|load| load.messages > 0) {
        loads.add_row([load.class.as_str().to_owned(), load.messages.to_string(), bytes(load.bytes)]);
    }
    println!("{loads}");
    let used = report.utilisation;
    println!(
        "busiest processor {}, rank's port {}, host's port {}, rack's port {}",
        percent(used.cpu),
        percent(used.rank),
        percent(used.host),
        percent(used.rack)
    );
    if report.critical_path.is_empty() {
        return;
    }
    println!("critical path, {} steps:", report.critical_path.len());
    let mut path = table(&["rank", "begins", "ends", "step"], 0..3);
    let many = report.critical_path.len() > PATH;
    for (index, hop) in report.critical_path.iter().enumerate() {
        if many && index == PATH / 2 {
            path.add_row(["", "", "", &format!("... {} more ...", report.critical_path.len() - PATH)]);
        }
        if many && (PATH / 2..report.critical_path.len() - PATH / 2).contains(&index) {
            continue;
        }
        path.add_row([hop.rank.to_string(), time(hop.begin), time(hop.end), hop.step.to_string()]);
    }
    println!("{path}");
}

/// The most steps of a critical path that are shown.
const PATH: usize = 24;

/// One line a number of ranks, one column an algorithm.
fn print_against_ranks(all: &[Simulated]) {
    let mut names: Vec<&str> = Vec::new();
    for report in all.iter().rev().flat_map(|simulated| &simulated.reports) {
        if !names.contains(&report.schedule.algorithm.name()) {
            names.push(report.schedule.algorithm.name());
        }
    }
    let header: Vec<&str> =
        std::iter::once("ranks").chain(names.iter().copied()).chain(["by default"]).collect();
    let mut table = table(&header, 0..names.len() + 1);
    for simulated in all {
        let cells = names.iter().map(|name| {
            let report = simulated.reports.iter().find(|report| report.schedule.algorithm.name() == *name);
            report.map_or(String::new(), outcome)
        });
        let chosen = simulated.chosen.name().to_owned();
        table.add_row(std::iter::once(simulated.world.to_string()).chain(cells).chain([chosen]));
    }
    println!("{table}");
}

/// Who waits for whom, and what they are told when.
fn print_dead(simulated: &Simulated, dead: usize) {
    let mut table =
        table(&["algorithm", "through", "hang", "wait for it themselves", "a chain of waiting"], 1..3);
    for report in &simulated.reports {
        let hanging: Vec<usize> = report.hanging().collect();
        let direct: Vec<usize> =
            hanging.iter().copied().filter(|&rank| report.waits_for[rank] == Some(dead)).collect();
        let through = simulated.world - 1 - hanging.len();
        let longest = hanging.iter().map(|&rank| report.chain(rank)).max_by_key(Vec::len).unwrap_or_default();
        let chain = longest.iter().map(usize::to_string).collect::<Vec<_>>();
        let chain = match chain.len() {
            0..=7 => chain.join(" > "),
            len => {
                format!("{} > ... > {} ({len} ranks)", chain[..3].join(" > "), chain[len - 3..].join(" > "))
            }
        };
        table.add_row([
            report.schedule.algorithm.name().to_owned(),
            through.to_string(),
            hanging.len().to_string(),
            list(&direct),
            chain,
        ]);
    }
    println!("{table}");
    let defaults = Config::default();
    println!(
        "Every rank names rank {dead}. Where its process has ended, they are told {} ms after the store has noticed;\n\
         where it is stopped, after {} s of silence; where it lives and never calls, at the deadline of {} min.",
        SETTLE_DEATH.as_millis(),
        defaults.heartbeat_deadline.as_secs(),
        defaults.deadline.as_secs() / 60
    );
}

/// Some ranks, and how many more.
fn list(ranks: &[usize]) -> String {
    let shown = ranks.iter().take(6).map(usize::to_string).collect::<Vec<_>>().join(", ");
    match ranks.len().saturating_sub(6) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
