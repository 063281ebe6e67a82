//! `ringfold plan footprint`: connections and memory of a rank.

use super::network::bytes;
use crate::sizes;
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use ringfold::collective::Request;
use ringfold::config::BackendChoice;
use ringfold::plan::Reach;
use ringfold::plan::Topology;
use ringfold::plan::footprint::Footprint;
use ringfold::plan::select::Table as Selection;
use ringfold::{Algorithm, Collective, Communicator, Config, DType, Error, Options, ReduceOp, Result};
use std::fs;

const EXAMPLES: &str = "\
Examples:
  ringfold plan footprint -n 10000                             computed, of every all_reduce algorithm
  ringfold plan footprint -n 64 --measure --algorithm ring     of 64 processes that have done it";

/// Whose footprint to tell.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct FootprintArgs {
    /// The number of ranks
    #[arg(short = 'n', long = "ranks", value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) ranks: u32,
    /// The bytes of a rank's message, or of all blocks together
    #[arg(long, value_name = "SIZE", default_value = "1M", value_parser = sizes::parse)]
    bytes: usize,
    /// The collective; all_reduce is what can be measured
    #[arg(long, default_value = "all_reduce")]
    collective: Collective,
    /// One algorithm
    #[arg(long)]
    algorithm: Option<Algorithm>,
    /// Start so many ranks on this host, let them do it, and count
    #[arg(long)]
    pub(crate) measure: bool,
}

impl FootprintArgs {
    pub(crate) fn check(&self) -> Result<()> {
        if self.measure && self.collective != Collective::AllReduce {
            return Err(Error::unsupported("only the footprint of all_reduce is measured")
                .remedy("leave --measure out"));
        }
        Ok(())
    }

    fn request(&self, world: usize) -> Request {
        let has_blocks = self.collective.has_blocks() || self.collective == Collective::AllToAll;
        let elements = self.bytes / DType::F32.size() / if has_blocks { world } else { 1 };
        Request::new(self.collective, world, DType::F32, elements.max(1))
    }
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

/// What plans ask for.
pub(super) fn computed(args: &FootprintArgs) -> Result<()> {
    let request = args.request(args.ranks as usize);
    let selection = Selection::default();
    if let Some(algorithm) = args.algorithm.filter(|algorithm| algorithm.needs() > Reach::Messages) {
        return Err(Error::unsupported(format!(
            "{algorithm} runs in shared memory and makes no connections"
        ))
        .remedy("ask for an algorithm by messages"));
    }
    let able = Algorithm::within(Reach::Messages)
        .filter(|algorithm| args.algorithm.is_none_or(|only| only == *algorithm))
        .filter(|algorithm| algorithm.check(&request).is_ok());
    let mut table = table(&["algorithm", "sends to", "receives from", "connections", "scratch", "steps"]);
    for algorithm in able {
        let footprint = Footprint::largest(&request, selection.schedule(&request, algorithm))?;
        table.add_row([
            algorithm.name().to_owned(),
            footprint.out.to_string(),
            footprint.into.to_string(),
            footprint.links.to_string(),
            bytes(footprint.scratch as u64),
            footprint.steps.to_string(),
        ]);
    }
    println!(
        "{} of {} among {} ranks, the most of any rank",
        args.collective,
        bytes(args.bytes as u64),
        args.ranks
    );
    println!("{table}");
    Ok(())
}

/// What processes take: sockets and resident memory before and after two all_reduces, as one rank of them.
pub(super) fn measured(args: &FootprintArgs) -> Result<()> {
    // Connections are what is counted.
    let comm = Communicator::connect(&Config::from_env()?.with_backend(BackendChoice::Tcp))?;
    let request = args.request(comm.world_size());
    let selection = comm.table();
    let schedule = match args.algorithm {
        Some(algorithm) => selection.schedule(&request, algorithm),
        None => selection.select(&request)?,
    };
    let mut data = vec![1f32; request.whole()];
    let before = here()?;
    // Twice: two ranks that begin at once make two connections, of which the next message leaves one.
    for _ in 0..2 {
        comm.with(Options::new().algorithm(schedule.algorithm)).all_reduce(&mut data, ReduceOp::Sum)?;
    }
    let after = here()?;
    let mine = [before.0, after.0, before.1, after.1];
    let mut all = vec![0u64; comm.world_size() * mine.len()];
    // By the ring, which makes two connections at most, and after counting.
    comm.with(Options::new().algorithm(Algorithm::named("ring")?)).all_gather(&mine, &mut all)?;
    if comm.rank() != 0 {
        return Ok(());
    }
    let most = |at: usize| all.chunks(mine.len()).map(|rank| rank[at]).max().unwrap_or(0);
    let sum = |at: usize| all.chunks(mine.len()).map(|rank| rank[at]).sum::<u64>() / comm.world_size() as u64;
    let hosts = Topology::of_hosts((0..comm.world_size()).map(|rank| comm.host_of(rank)));
    let planned = Footprint::largest_on(&hosts, &request, schedule)?;
    let mut table = table(&["", "before", "after", "of the plan"]);
    let links = planned.links.to_string();
    table.add_row(["sockets of a rank, most", &most(0).to_string(), &most(1).to_string(), &links]);
    table.add_row(["sockets of a rank, mean", &sum(0).to_string(), &sum(1).to_string(), ""]);
    let scratch = bytes(planned.scratch as u64);
    table.add_row(["resident memory, most", &bytes(most(2)), &bytes(most(3)), &scratch]);
    table.add_row(["resident memory, mean", &bytes(sum(2)), &bytes(sum(3)), ""]);
    println!(
        "all_reduce of {} among {} processes by {}",
        bytes(args.bytes as u64),
        comm.world_size(),
        schedule.algorithm
    );
    println!("{table}");
    Ok(())
}

/// Sockets and resident bytes of this process.
fn here() -> Result<(u64, u64)> {
    let failed = |error| Error::io("reading what this process holds", error);
    let sockets = fs::read_dir("/proc/self/fd")
        .map_err(failed)?
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .count();
    let status = fs::read_to_string("/proc/self/status").map_err(failed)?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    let kilobytes: u64 = resident.trim().trim_end_matches(" kB").trim().parse().unwrap_or(0);
    Ok((sockets as u64, kilobytes * 1024))
}
