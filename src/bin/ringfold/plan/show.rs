//! `ringfold plan show`.

use super::file::PlanFile;
use super::svg;
use crate::sizes;
use clap::Args;
use comfy_table::{ContentArrangement, Table, presets};
use ringfold::collective::Request;
use ringfold::plan::select::Table as Selection;
use ringfold::plan::verify::{Message, messages, verify};
use ringfold::plan::{Plan, Reach, Schedule, Step};
use ringfold::{Algorithm, Collective, DType, Error, Result};
use std::fs;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  ringfold plan show --collective all_reduce --algorithm ring -n 4
  ringfold plan show --collective broadcast -n 8 --svg tree.svg
  ringfold plan show --collective all_reduce -n 3 --count 6 --json > plan.json";

/// Which plan to show, and how.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ShowArgs {
    /// The collective
    #[arg(long, default_value = "all_reduce")]
    collective: Collective,
    /// The algorithm, instead of the table's choice
    #[arg(long)]
    algorithm: Option<Algorithm>,
    /// The number of ranks
    #[arg(short = 'n', long = "ranks", value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=4096))]
    ranks: u16,
    /// Elements: of the whole message, or of one block of collectives that have blocks [default: one a rank, or 1]
    #[arg(long, value_parser = sizes::parse)]
    count: Option<usize>,
    /// The root, of rooted collectives
    #[arg(long, default_value_t = 0)]
    root: usize,
    /// The most elements of a block that are taken at a time [default: the table's]
    #[arg(long, value_name = "ELEMENTS")]
    slice: Option<usize>,
    /// Plan for ranks whose input and output are one
    #[arg(long)]
    in_place: bool,
    /// Show one rank's steps only
    #[arg(long, value_name = "R")]
    rank: Option<usize>,
    /// Write JSON, which `ringfold plan verify` reads
    #[arg(long, conflicts_with = "svg")]
    json: bool,
    /// Draw a picture into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

pub(super) fn command(args: &ShowArgs) -> Result<()> {
    let world = usize::from(args.ranks);
    let has_blocks = args.collective.has_blocks() || args.collective == Collective::AllToAll;
    let count = args.count.unwrap_or(if has_blocks { 1 } else { world });
    let mut request = Request::new(args.collective, world, DType::F32, count);
    request.root = args.root;
    request.validate()?;
    let table = Selection::default();
    let mut schedule = match args.algorithm {
        Some(algorithm) => table.schedule(&request, algorithm),
        None => table.select(&request)?,
    };
    if let Some(slice) = args.slice {
        schedule.slice = slice.max(1);
    }
    let plans = plans(&request, schedule, args.in_place)?;
    if let Some(rank) = args.rank.filter(|&rank| rank >= world) {
        return Err(Error::invalid(format!("rank {rank} in a group of {world}")));
    }
    if args.json {
        println!("{}", PlanFile::new(plans).to_json()?);
        return Ok(());
    }
    let faulty = |fault| Error::invalid(format!("the plan does not hold: {fault}"));
    let report = verify(&plans).map_err(faulty)?;
    let messages = messages(&plans).map_err(faulty)?;
    let title = format!(
        "{} of {count} elements by {} among {world} rank{}",
        args.collective,
        schedule.algorithm,
        if world == 1 { "" } else { "s" }
    );
    let figures = format!(
        "{} rounds, {} messages, at most {} elements sent and {} of scratch a rank; proved",
        report.rounds, report.messages, report.most_sent, report.most_scratch
    );
    if let Some(path) = &args.svg {
        let picture = svg::draw(&title, &figures, world, &messages);
        fs::write(path, picture)
            .map_err(|error| Error::io(format_args!("writing {}", path.display()), error))?;
        println!("{title}: {figures}; drawn into {}", path.display());
        return Ok(());
    }
    println!("{title}");
    println!("{} ({})", schedule.algorithm, schedule.algorithm.idea());
    println!("{figures}\n");
    match args.rank {
        Some(rank) => print_steps(&plans[rank]),
        // In shared memory there are no messages to be shown.
        None if schedule.algorithm.needs() > Reach::Messages => {
            print_steps(&plans[0]);
            println!("\n(--rank R shows another rank, --json all)");
        }
        None => print_rounds(world, &messages),
    }
    Ok(())
}

fn plans(request: &Request, schedule: Schedule, in_place: bool) -> Result<Vec<Plan>> {
    (0..request.world)
        .map(|rank| {
            let mut request = request.clone();
            request.in_place = in_place && request.in_place_shift(rank).is_some();
            Plan::generate(&request, rank, schedule)
        })
        .collect()
}

/// The most rounds that are shown as a table.
const ROUNDS: usize = 64;

/// One line a round, one column a rank: what each rank receives.
fn print_rounds(world: usize, messages: &[Message]) {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Disabled);
    let columns = world.min(16);
    table.set_header(
        std::iter::once("round".to_owned()).chain((0..columns).map(|rank| format!("rank {rank} receives"))),
    );
    let rounds = messages.iter().map(|message| message.round).max().unwrap_or(0);
    let shown = rounds.min(ROUNDS);
    let mut cells = vec![vec![String::new(); columns]; shown];
    for message in messages.iter().filter(|message| message.to < columns && message.round <= shown) {
        let cell = &mut cells[message.round - 1][message.to];
        let sign = if message.reduces { "+=" } else { "<-" };
        let line = if cell.is_empty() { "" } else { "\n" };
        *cell += &format!("{line}{} {sign} rank {}", message.received, message.from);
    }
    for (round, cells) in cells.into_iter().enumerate() {
        table.add_row(std::iter::once((round + 1).to_string()).chain(cells));
    }
    println!("{table}");
    if world > columns || rounds > shown {
        let more = (world - columns, rounds - shown);
        println!("({} more ranks and {} more rounds; --rank R shows one rank, --json all)", more.0, more.1);
    }
}

fn print_steps(plan: &Plan) {
    println!("rank {}, {} elements of scratch", plan.rank, plan.scratch);
    for (index, step) in plan.steps.iter().enumerate() {
        let mark = match step {
            Step::Send { .. } => "->",
            Step::Recv { .. } | Step::RecvReduce { .. } => "<-",
            _ => "  ",
        };
        println!("{index:>5} {mark} {step}");
    }
}
