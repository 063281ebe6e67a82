//! The `ringfold` command.

mod conduct;
mod info;
mod perf;
mod plan;
mod run;
mod sizes;

use clap::{Parser, Subcommand};
use conduct::conduct;
use ringfold::launch::{Input, Launch, Output};
use ringfold::{Config, Error, Result};
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  ringfold run -n 4 -- ./train            four ranks of a program on this host
  ringfold perf all_reduce -n 4           how fast they are together
  ringfold plan show --collective all_reduce --algorithm ring -n 4

Each command explains itself: ringfold run --help";

/// Collective communication: rings of processes that reduce, gather and broadcast.
#[derive(Debug, Parser)]
#[command(name = "ringfold", version, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the ranks of a group on this host
    Run(run::RunArgs),
    /// Measure how fast a collective is, and check that it is right
    Perf(perf::PerfArgs),
    /// Show, draw and prove schedules
    #[command(subcommand)]
    Plan(plan::PlanCommand),
    /// Tell what is here, what is missing, and why
    Info,
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run(arguments) => run::command(&arguments),
        Command::Perf(arguments) => measure(&arguments),
        Command::Plan(command) => report(plan::command(&command)),
        Command::Info => report(info::command().map(|()| true)),
    }
}

/// Measures as a rank of the group that is here, or starts the group that is asked for.
fn measure(arguments: &perf::PerfArgs) -> ExitCode {
    let launch = || -> Result<Option<Launch>> {
        arguments.check()?;
        let here = Config::from_env()?;
        let Some(ranks) = arguments.ranks.filter(|&ranks| here.world_size != Some(ranks)) else {
            return Ok(None);
        };
        let program = std::env::current_exe().map_err(|error| Error::io("finding this program", error))?;
        let launch = Launch::new(ranks).program(program).args(std::env::args_os().skip(1));
        Ok(Some(launch.output(Output::Inherit).input(Input::Null).heartbeat(here.heartbeat_deadline)))
    };
    match launch() {
        Ok(Some(launch)) => conduct(launch),
        Ok(None) => report(perf::measure_as_rank(arguments)),
        Err(error) => report(Err(error)),
    }
}

/// The exit status for a result; an error is told.
fn report(result: Result<bool>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("ringfold: {error}");
            ExitCode::FAILURE
        }
    }
}
