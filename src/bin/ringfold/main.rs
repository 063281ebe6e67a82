//! The `ringfold` command.

mod account;
mod backends;
mod completions;
mod conduct;
mod config;
mod devices;
mod info;
mod monitoring;
mod perf;
mod plan;
mod progress;
mod run;
mod sizes;
mod trace;

use clap::{Parser, Subcommand, ValueEnum};
use conduct::conduct;
use ringfold::launch::{Input, Launch, Output};
use ringfold::{Config, Error, Result};
use std::panic;
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  ringfold run -n 4 -- ./train            four ranks of a program on this host
  ringfold perf all_reduce -n 4           how fast they are together
  ringfold plan show --collective all_reduce --algorithm ring -n 4
  ringfold plan simulate -n 1024 --bytes 100M --latency 20us --bandwidth 10Gbit

Each command explains itself: ringfold run --help";

/// Collective communication: rings of processes that reduce, gather and broadcast.
#[derive(Debug, Parser)]
#[command(name = "ringfold", version, after_help = EXAMPLES)]
struct Arguments {
    /// Whether to use colours; auto: on terminals, unless NO_COLOR is set
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t)]
    color: Color,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the ranks of a group on this host
    Run(run::RunArgs),
    /// Measure how fast a collective is, and check that it is right
    Perf(perf::PerfCommand),
    /// Show, draw and prove schedules
    #[command(subcommand)]
    Plan(plan::PlanCommand),
    /// Bring together what ranks have written down
    #[command(subcommand)]
    Trace(trace::TraceCommand),
    /// Tell what is configured here, and who said so
    Config(config::ConfigArgs),
    /// Tell what is here, what is missing, and why
    Info(info::InfoArgs),
    /// Write a shell's completions to standard output
    Completions(completions::CompletionsArgs),
    /// Write manual pages
    Man(completions::ManArgs),
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Color {
    #[default]
    Auto,
    Always,
    Never,
}

impl Color {
    /// Lets all that is written heed it.
    fn choose(self) {
        match self {
            Color::Auto => anstream::ColorChoice::Auto,
            Color::Always => anstream::ColorChoice::Always,
            Color::Never => anstream::ColorChoice::Never,
        }
        .write_global();
    }
}

/// Ends the command quietly where nobody reads on what it prints, as in `ringfold plan table | head`: that is a panic in
/// Rust. The status is that of a program that the signal ends.
fn end_with_the_reader() {
    let told = panic::take_hook();
    panic::set_hook(Box::new(move |what| {
        let text = what.payload().downcast_ref::<String>().map_or("", String::as_str);
        if text.starts_with("failed printing to stdout") && text.contains("Broken pipe") {
            std::process::exit(128 + 13);
        }
        told(what);
    }));
}

fn main() -> ExitCode {
    end_with_the_reader();
    ringfold::launch::restore_sigchld();
    let arguments = Arguments::parse();
    arguments.color.choose();
    // Of an environment that makes no sense, whoever needs it complains.
    let filter = Config::from_env().ok().and_then(|config| config.log);
    if let Err(error) = ringfold::observe::log::install(filter.as_deref().unwrap_or("warn")) {
        return report(Err(error));
    }
    match arguments.command {
        Command::Run(arguments) => run::command(&arguments),
        Command::Perf(perf::PerfCommand { compare: Some(perf::Compare::Diff(files)), .. }) => compare(&files),
        Command::Perf(perf::PerfCommand { measure: Some(arguments), .. }) => {
            as_group(arguments.check().map(|()| arguments.ranks), || perf::measure_as_rank(&arguments))
        }
        // Not reached: the parser wants one of them.
        Command::Perf(_) => report(Err(Error::invalid("perf of nothing").remedy("name a collective"))),
        Command::Plan(command) => match command.group() {
            Ok(None) => report(plan::command(&command)),
            Ok(Some(ranks)) => as_group(Ok(ranks), || plan::command(&command)),
            Err(error) => report(Err(error)),
        },
        Command::Trace(command) => report(trace::command(&command).map(|()| true)),
        Command::Config(arguments) => report(config::command(&arguments).map(|()| true)),
        Command::Info(arguments) => report(info::command(&arguments)),
        Command::Completions(arguments) => report(completions::complete(&arguments).map(|()| true)),
        Command::Man(arguments) => report(completions::manual(&arguments).map(|()| true)),
    }
}

/// Does something as a rank of the group that is here, or starts the group that is asked for.
fn as_group(ranks: Result<Option<usize>>, as_rank: impl FnOnce() -> Result<bool>) -> ExitCode {
    let launch = || -> Result<Option<Launch>> {
        let ranks = ranks?;
        let here = Config::from_env()?;
        let Some(ranks) = ranks.filter(|&ranks| here.world_size != Some(ranks)) else {
            return Ok(None);
        };
        let program = std::env::current_exe().map_err(|error| Error::io("finding this program", error))?;
        let launch = Launch::new(ranks).program(program).args(std::env::args_os().skip(1));
        Ok(Some(launch.output(Output::Inherit).input(Input::Null).heartbeat(here.heartbeat_deadline)))
    };
    match launch() {
        Ok(Some(launch)) => conduct(&launch),
        Ok(None) => report(as_rank()),
        Err(error) => report(Err(error)),
    }
}

/// Compares two recordings. What cannot be compared has a status of its own, for scripts that look for slower rows.
fn compare(files: &perf::diff::DiffArgs) -> ExitCode {
    match perf::diff::command(files) {
        Err(error) => {
            report(Err(error));
            ExitCode::from(2)
        }
        fine => report(fine),
    }
}

/// The exit status for a result; an error is told.
fn report(result: Result<bool>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            conduct::say(error);
            ExitCode::FAILURE
        }
    }
}
