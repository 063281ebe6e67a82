//! `ringfold plan probe` and `ringfold plan predict`: what messages cost here, and how far that explains what is measured.

use super::network::{bytes, describe, time};
use crate::perf::time_all_reduce;
use crate::sizes;
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use ringfold::collective::Request;
use ringfold::plan::Reach;
use ringfold::plan::cost::Network;
use ringfold::plan::simulate::simulate;
use ringfold::{Algorithm, Collective, Communicator, DType, Error, Result};
use std::time::Duration;

/// How to probe.
#[derive(Debug, Args)]
pub(crate) struct ProbeArgs {
    /// Start this many ranks on this host; without it, or in a group of just this many, join the ranks that a launcher has started
    #[arg(short = 'n', long = "ranks", value_name = "N")]
    pub(crate) ranks: Option<usize>,
    /// Seconds to measure for
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    seconds: f64,
    /// JSON, which `ringfold plan simulate --network` reads
    #[arg(long)]
    json: bool,
}

/// What to predict, and to measure then.
#[derive(Debug, Args)]
pub(crate) struct PredictArgs {
    #[command(flatten)]
    pub(crate) probe: ProbeArgs,
    /// The smallest size in bytes
    #[arg(short = 'b', long, value_name = "SIZE", default_value = "8", value_parser = sizes::parse)]
    begin: usize,
    /// The largest size
    #[arg(short = 'e', long, value_name = "SIZE", default_value = "16M", value_parser = sizes::parse)]
    end: usize,
    /// By what the size grows
    #[arg(short = 'f', long, value_name = "FACTOR", default_value_t = 8, value_parser = clap::value_parser!(u32).range(2..))]
    factor: u32,
    /// One algorithm
    #[arg(long)]
    algorithm: Option<Algorithm>,
}

impl ProbeArgs {
    pub(crate) fn check(&self) -> Result<()> {
        if !(self.seconds > 0.0 && self.seconds <= 60.0) {
            return Err(Error::invalid(format!("--seconds {}", self.seconds)).remedy("pass up to 60"));
        }
        if self.ranks.is_some_and(|ranks| ranks < 2) {
            return Err(Error::invalid("a group without messages").remedy("pass -n 2 or more"));
        }
        Ok(())
    }
}

/// Probes as one rank of a group.
pub(super) fn probe(args: &ProbeArgs) -> Result<()> {
    let comm = Communicator::from_env()?;
    let network = comm.probe(Duration::from_secs_f64(args.seconds))?;
    if comm.rank() == 0 && args.json {
        let text =
            serde_json::to_string_pretty(&network).map_err(|error| Error::io("writing JSON", error))?;
        println!("{text}");
    } else if comm.rank() == 0 {
        print_network(&network);
    }
    Ok(())
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(header.iter().copied());
    for column in 1..header.len() {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn print_network(network: &Network) {
    let mut links = table(&["between", "latency", "bandwidth", "CPU a message", "CPU, bytes"]);
    let rate = |beta: f64| if beta > 0.0 { format!("{:.2} GB/s", 1e-9 / beta) } else { "-".to_owned() };
    let mut row = |name: &str, link: &ringfold::plan::cost::Link| {
        links.add_row([name, &time(link.alpha), &rate(link.beta), &time(link.overhead), &rate(link.copy)]);
    };
    row("ranks of one host", &network.host);
    if network.rack != network.host {
        row("hosts", &network.rack);
    }
    println!("{links}");
    println!(
        "{} ranks a host with {} CPUs; a rank reduces {}",
        network.ranks_per_host,
        network.cpus_per_host,
        rate(network.gamma)
    );
}

/// One size by one algorithm.
struct Case {
    bytes: usize,
    algorithm: Algorithm,
    predicted: f64,
    measured: f64,
}

/// Probes, predicts and measures as one rank of a group.
pub(super) fn predict(args: &PredictArgs) -> Result<()> {
    let comm = Communicator::from_env()?;
    let network = comm.probe(Duration::from_secs_f64(args.probe.seconds))?;
    let world = comm.world_size();
    let selection = comm.table();
    let mut cases = Vec::new();
    let mut size = args.begin.max(DType::F32.size());
    while size <= args.end {
        let request = Request::new(Collective::AllReduce, world, DType::F32, size / DType::F32.size());
        let able = Algorithm::within(Reach::Messages)
            .filter(|algorithm| args.algorithm.is_none_or(|only| only == *algorithm))
            .filter(|algorithm| algorithm.check(&request).is_ok());
        for algorithm in able {
            // Every rank measures; one computes.
            let predicted = match comm.rank() {
                0 => simulate(&request, selection.schedule(&request, algorithm), &network)?.time(),
                _ => 0.0,
            };
            let measured = time_all_reduce(&comm, algorithm, size, 0.1)?;
            cases.push(Case { bytes: size, algorithm, predicted, measured });
        }
        let Some(next) = size.checked_mul(args.factor as usize) else { break };
        size = next;
    }
    if comm.rank() == 0 && args.probe.json {
        for case in &cases {
            let line = serde_json::json!({
                "ranks": world,
                "bytes": case.bytes,
                "algorithm": case.algorithm.name(),
                "predicted_us": case.predicted * 1e6,
                "measured_us": case.measured * 1e6,
                "ratio": case.predicted / case.measured,
            });
            println!("{line}");
        }
    } else if comm.rank() == 0 {
        println!("all_reduce among {world} ranks over {}; {}", comm.backend(), describe(&network));
        print_network(&network);
        print_cases(&cases);
    }
    Ok(())
}

fn print_cases(cases: &[Case]) {
    let mut rows = table(&["size", "algorithm", "predicted", "measured", "predicted / measured"]);
    for case in cases {
        rows.add_row([
            bytes(case.bytes as u64),
            case.algorithm.name().to_owned(),
            time(case.predicted),
            time(case.measured),
            format!("{:.2}", case.predicted / case.measured),
        ]);
    }
    println!("{rows}");
    let mut factors: Vec<f64> =
        cases.iter().map(|case| case.predicted / case.measured).map(|ratio| ratio.max(1.0 / ratio)).collect();
    factors.sort_by(f64::total_cmp);
    if let (Some(worst), Some(median)) = (factors.last(), factors.get(factors.len() / 2)) {
        println!("half of the predictions are within a factor of {median:.2}, all within {worst:.2}");
    }
    // What matters in the end: what is lost by choosing what is predicted to be quickest.
    let mut lost = table(&["size", "quickest", "predicted to be quickest", "takes longer by"]);
    for of_size in cases.chunk_by(|one, other| one.bytes == other.bytes).filter(|of_size| of_size.len() > 1) {
        let best = |of: fn(&Case) -> f64| of_size.iter().min_by(|a, b| of(a).total_cmp(&of(b)));
        let (Some(quickest), Some(chosen)) = (best(|case| case.measured), best(|case| case.predicted)) else {
            continue;
        };
        lost.add_row([
            bytes(of_size[0].bytes as u64),
            quickest.algorithm.name().to_owned(),
            chosen.algorithm.name().to_owned(),
            format!("{:.0} %", (chosen.measured / quickest.measured - 1.0) * 100.0),
        ]);
    }
    if !lost.is_empty() {
        println!("{lost}");
    }
}
