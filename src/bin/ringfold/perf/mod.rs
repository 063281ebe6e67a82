//! `ringfold perf`: how fast a collective is, and whether it is right.

mod case;
pub(crate) mod diff;
mod measure;
mod operands;
mod report;

use crate::sizes;
use case::Case;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand, ValueEnum};
use half::{bf16, f16};
use measure::{Method, measure};
use operands::Value;
use report::{Label, Row, bandwidths, print_head, print_row};
use ringfold::backend::choose;
use ringfold::collective::Request;
use ringfold::config::BackendChoice;
use ringfold::{Algorithm, Collective, Communicator, Config, DType, Error, Options, Order, ReduceOp, Result};
use std::io::{self, Write};
use std::path::PathBuf;

/// Reads the word for a backend, and lists the words.
fn backend() -> impl TypedValueParser<Value = BackendChoice> {
    PossibleValuesParser::new(BackendChoice::ALL.map(BackendChoice::as_str))
        .try_map(|word| word.parse::<BackendChoice>())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OrderChoice {
    Default,
    Fixed,
}

const EXAMPLES: &str = "\
Examples:
  ringfold perf all_reduce -n 4                       four ranks on this host, sizes from 8 B up to 64 MiB
  ringfold perf all_gather -n 2 -b 1M -e 256M -f 2    sizes double from 1 MiB to 256 MiB
  ringfold perf broadcast -n 3 --root 2 --dtype u8    another root, another type
  ringfold perf all_reduce -n 2 --json | jq .         one JSON object a line
  mpirun -n 4 ringfold perf all_reduce -e 128M        joins the ranks that mpirun starts
  ringfold perf diff before.json after.json           two recordings side by side

The table has the columns of nccl-tests. Size is the larger of a rank's whole input and output. Time is the
median over samples of the slowest rank. algbw is size over time; busbw is what the busiest link carries.";

/// A measurement, or a comparison of two.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct PerfCommand {
    #[command(subcommand)]
    pub(crate) compare: Option<Compare>,
    #[command(flatten)]
    pub(crate) measure: Option<PerfArgs>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Compare {
    /// Put two recordings side by side, and say what became slower
    Diff(diff::DiffArgs),
}

/// What can be said of a measurement.
#[derive(Debug, Clone, Args)]
pub(crate) struct PerfArgs {
    /// The collective: all_reduce, reduce, reduce_scatter, all_gather, broadcast, gather, scatter, all_to_all, barrier
    collective: Collective,
    /// Start this many ranks on this host; without it, or in a group of just this many, join the ranks that a launcher has started
    #[arg(short = 'n', long = "ranks", value_name = "N")]
    pub(crate) ranks: Option<usize>,
    /// The smallest size in bytes (K, M, G are powers of 1024)
    #[arg(short = 'b', long, value_name = "SIZE", default_value = "8", value_parser = sizes::parse)]
    begin: usize,
    /// The largest size
    #[arg(short = 'e', long, value_name = "SIZE", default_value = "64M", value_parser = sizes::parse)]
    end: usize,
    /// By what the size grows from line to line
    #[arg(short = 'f', long, value_name = "FACTOR", default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..))]
    factor: u32,
    /// Where the bytes go
    #[arg(long, default_value_t = BackendChoice::Auto, value_parser = backend())]
    backend: BackendChoice,
    /// The element type
    #[arg(long, default_value = "f32")]
    dtype: DType,
    /// The reduction, of collectives that reduce
    #[arg(long, default_value = "sum")]
    op: ReduceOp,
    /// The root, of rooted collectives
    #[arg(long, default_value_t = 0)]
    root: usize,
    /// Tensors in memory that the ranks share, instead of plain memory
    #[arg(long)]
    shared: bool,
    /// Rewrite the input before every sample, so that no cache flatters the result
    #[arg(long)]
    fresh: bool,
    /// This many operations a size, instead of a time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    iters: Option<u32>,
    /// Seconds of samples for each size and placement; warm-ups and checks come on top
    #[arg(long, value_name = "S", default_value_t = 0.4)]
    seconds: f64,
    /// The algorithm, instead of the table's choice
    #[arg(long, value_name = "A")]
    algorithm: Option<Algorithm>,
    /// What is promised about the order of combination
    #[arg(long, value_enum, default_value_t = OrderChoice::Default)]
    order: OrderChoice,
    /// Let every rank write a trace into this directory; `ringfold trace merge` makes one of them
    #[arg(long, value_name = "DIR")]
    trace: Option<PathBuf>,
    /// One JSON object a line instead of a table
    #[arg(long)]
    json: bool,
}

impl PerfArgs {
    /// What can be refused before any process is started.
    pub(crate) fn check(&self) -> Result<()> {
        // Whoever joins a group tells the others, so that all have an error.
        if self.ranks.is_some() {
            // What else is wrong with this environment they say themselves.
            choose::check(self.backend, &Config::from_env().unwrap_or_default())?;
        }
        self.check_words()
    }

    /// What is wrong whatever can be had here. That some backend cannot is told by all ranks, once they have met.
    fn check_words(&self) -> Result<()> {
        let by_mpi = matches!(self.backend, BackendChoice::Mpi | BackendChoice::MpiP2p);
        if by_mpi && self.ranks.is_some() {
            let mpirun = format!("mpirun -n 4 ringfold perf ... --backend {}", self.backend);
            return Err(Error::unsupported("-n starts processes that MPI does not know")
                .remedy(format!("start them by mpirun, without -n: {mpirun}")));
        }
        if !(self.seconds.is_finite() && (0.0..=3600.0).contains(&self.seconds)) {
            return Err(Error::invalid(format!("--seconds {}", self.seconds)).remedy("pass 0 to 3600"));
        }
        if self.begin > self.end {
            return Err(Error::invalid(format!("sizes from {} to {}", self.begin, self.end))
                .remedy("let -b be at most -e"));
        }
        if self.ranks == Some(0) {
            return Err(Error::invalid("a group of no ranks").remedy("pass -n 1 or more"));
        }
        if let Some(world) = self.ranks.filter(|&world| self.root >= world) {
            return Err(Error::invalid(format!("root {} in a group of {world} ranks", self.root))
                .remedy("pass a --root below -n"));
        }
        if self.collective.reduces() && self.collective != Collective::Barrier {
            self.op.check(self.dtype)?;
        }
        if let Some(algorithm) = self.algorithm
            && !algorithm.collectives().contains(&self.collective)
        {
            algorithm.check(&Request::new(self.collective, 2, self.dtype, 1))?;
        }
        Ok(())
    }

    fn options(&self) -> Options {
        let mut options = Options::new();
        if let Some(algorithm) = self.algorithm {
            options = options.algorithm(algorithm);
        }
        if self.order == OrderChoice::Fixed {
            options = options.order(Order::Fixed);
        }
        options
    }

    /// The sizes to measure, in bytes: whole elements, each once.
    fn sizes(&self) -> Vec<usize> {
        if self.collective == Collective::Barrier {
            return vec![0];
        }
        let element = self.dtype.size();
        let mut sizes = Vec::new();
        let mut bytes = self.begin.max(element);
        while bytes <= self.end.max(element) {
            let whole = bytes / element * element;
            if sizes.last() != Some(&whole) {
                sizes.push(whole);
            }
            let Some(next) = bytes.checked_mul(self.factor as usize) else { break };
            bytes = next;
        }
        sizes
    }
}

/// Measures as one rank of the group that this process was launched into. Tells whether every result was right.
pub(crate) fn measure_as_rank(args: &PerfArgs) -> Result<bool> {
    args.check_words()?;
    let mut config = Config::from_env()?;
    config.trace = args.trace.clone().or(config.trace);
    if args.backend != BackendChoice::Auto {
        config.backend = args.backend;
    }
    let comm = Communicator::connect(&config)?;
    match args.dtype {
        DType::F16 => all_sizes::<f16>(args, &comm),
        DType::BF16 => all_sizes::<bf16>(args, &comm),
        DType::F32 => all_sizes::<f32>(args, &comm),
        DType::F64 => all_sizes::<f64>(args, &comm),
        DType::I8 => all_sizes::<i8>(args, &comm),
        DType::I16 => all_sizes::<i16>(args, &comm),
        DType::I32 => all_sizes::<i32>(args, &comm),
        DType::I64 => all_sizes::<i64>(args, &comm),
        DType::U8 => all_sizes::<u8>(args, &comm),
        DType::U16 => all_sizes::<u16>(args, &comm),
        DType::U32 => all_sizes::<u32>(args, &comm),
        DType::U64 => all_sizes::<u64>(args, &comm),
        other => Err(Error::unsupported(format!("perf of {other}"))),
    }
}

/// The median over samples of the slowest rank's time for an all_reduce of so many bytes of `f32`, in seconds. Every rank
/// calls it alike.
pub(crate) fn time_all_reduce(
    comm: &Communicator,
    algorithm: Algorithm,
    bytes: usize,
    seconds: f64,
) -> Result<f64> {
    let options = Options::new().algorithm(algorithm);
    let method = Method { fresh: false, iterations: None, seconds, options };
    let place = (comm.rank(), comm.world_size());
    let mut case =
        Case::<f32>::new(Collective::AllReduce, ReduceOp::Sum, 0, place, bytes / DType::F32.size(), None)?;
    let measured = measure(comm, &method, &mut case, bytes, false)?;
    if measured.wrong > 0 {
        return Err(Error::invalid(format!(
            "{algorithm} of {bytes} bytes gave {} wrong elements",
            measured.wrong
        )));
    }
    Ok(measured.microseconds / 1e6)
}

fn all_sizes<T: Value>(args: &PerfArgs, comm: &Communicator) -> Result<bool> {
    let (rank, world) = (comm.rank(), comm.world_size());
    let method = Method {
        fresh: args.fresh,
        iterations: args.iters.map(|iterations| iterations as usize),
        seconds: args.seconds,
        options: measure::staged(comm, args.options()),
    };
    if args.root >= world {
        return Err(Error::invalid(format!("root {} in a group of {world} ranks", args.root)));
    }
    let reduces = args.collective.reduces() && args.collective != Collective::Barrier;
    let op = if reduces { args.op.as_str() } else { "none" };
    let told = |result: io::Result<()>| result.map_err(|error| Error::io("writing the results", error));
    let mut out = io::stdout().lock();
    let title = format!(
        "{} among {world} rank{} over {}{}{}{}",
        args.collective,
        if world == 1 { "" } else { "s" },
        comm.backend(),
        if args.shared { ", shared tensors" } else { "" },
        if args.fresh { ", fresh operands" } else { "" },
        args.algorithm.map_or(String::new(), |algorithm| format!(", by {algorithm}"))
    );
    if rank == 0 && !args.json {
        told(print_head(&title, &mut out))?;
    }
    let mut total_wrong = 0;
    let mut bus_sum = 0.0;
    let mut rows = 0;
    for bytes in args.sizes() {
        let count = bytes / args.dtype.size();
        let shared_by = args.shared.then_some(comm);
        let mut case = Case::<T>::new(args.collective, args.op, args.root, (rank, world), count, shared_by)?;
        let mut figures = Vec::new();
        for in_place in [false, true] {
            let measured = measure(comm, &method, &mut case, bytes, in_place)?;
            let (algbw, busbw) = bandwidths(args.collective, world, bytes, &measured);
            total_wrong += measured.wrong;
            bus_sum += busbw;
            rows += 1;
            if rank == 0 && args.json {
                let algorithm = args.chosen(comm, count)?;
                let row = Row {
                    collective: args.collective.as_str(),
                    backend: comm.backend(),
                    algorithm,
                    ranks: world,
                    dtype: args.dtype.as_str(),
                    op,
                    size_bytes: bytes,
                    count,
                    in_place,
                    time_us: (measured.microseconds * 1e3).round() / 1e3,
                    algbw_gb_s: (algbw * 1e6).round() / 1e6,
                    busbw_gb_s: (busbw * 1e6).round() / 1e6,
                    wrong: measured.wrong,
                };
                let line = serde_json::to_string(&row).map_err(|error| Error::io("writing JSON", error))?;
                told(writeln!(out, "{line}").and_then(|()| out.flush()))?;
            }
            figures.push((measured, algbw, busbw));
        }
        if rank == 0 && !args.json {
            let root = args.collective.is_rooted().then_some(args.root);
            let label = Label { bytes, count, dtype: args.dtype, op, root };
            told(print_row(&label, &figures, &mut out))?;
        }
    }
    if rank == 0 && !args.json {
        let verdict =
            if total_wrong == 0 { "all results right".to_owned() } else { format!("{total_wrong} WRONG") };
        told(writeln!(out, "# {verdict}; average busbw {:.3} GB/s", bus_sum / f64::from(rows.max(1))))?;
    }
    Ok(total_wrong == 0)
}

impl PerfArgs {
    /// The algorithm that the library takes for this size; `mpi` where that is MPI's affair.
    fn chosen(&self, comm: &Communicator, count: usize) -> Result<&'static str> {
        let world = comm.world_size();
        if comm.backend() == "mpi" {
            return Ok("mpi");
        }
        if let Some(algorithm) = self.algorithm {
            return Ok(algorithm.name());
        }
        let per_rank = self.collective.has_blocks();
        let mut request = Request::new(self.collective, world, self.dtype, if per_rank { 0 } else { count });
        if per_rank {
            let counts = (0..world).map(|block| count / world + usize::from(block < count % world));
            request.counts = ringfold::collective::Counts::PerRank(counts.collect());
        }
        if self.order == OrderChoice::Fixed {
            request.order = Order::Fixed;
        }
        if request.op.is_some() && self.collective != Collective::Barrier {
            request.op = Some(self.op);
        }
        Ok(comm.schedule(&request)?.algorithm.name())
    }
}
