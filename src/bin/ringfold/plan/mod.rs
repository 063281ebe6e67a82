//! `ringfold plan`: schedules as one can read, draw, exchange, prove and simulate them.

mod chart;
mod file;
mod footprint;
mod network;
mod probe;
mod show;
mod simulate;
mod svg;
mod table;
mod verify;

use clap::Subcommand;
use ringfold::Result;

/// What can be done with plans.
#[derive(Debug, Subcommand)]
pub(crate) enum PlanCommand {
    /// Print the plan of a collective: as text, as JSON, or as a picture
    Show(show::ShowArgs),
    /// Prove plans: those of a file, or all that the algorithms make
    Verify(verify::VerifyArgs),
    /// Tell what a collective would take on a network that you describe
    Simulate(simulate::SimulateArgs),
    /// Print the table by which algorithms are chosen, or make one from a network's costs
    Table(table::TableArgs),
    /// Tell the connections and the memory that a rank needs
    Footprint(footprint::FootprintArgs),
    /// Measure what messages cost between ranks
    Probe(probe::ProbeArgs),
    /// Probe, predict all_reduce, and measure how far the prediction is off
    Predict(probe::PredictArgs),
}

impl PlanCommand {
    /// How many ranks of a group this needs, where it needs one, or whether it joins the one that is here.
    ///
    /// # Errors
    /// What can be refused before any process is started.
    pub(crate) fn group(&self) -> Result<Option<Option<usize>>> {
        Ok(match self {
            PlanCommand::Footprint(args) if args.measure => {
                args.check()?;
                Some(Some(args.ranks as usize))
            }
            PlanCommand::Probe(args) => {
                args.check()?;
                Some(args.ranks)
            }
            PlanCommand::Predict(args) => {
                args.probe.check()?;
                Some(args.probe.ranks)
            }
            _ => None,
        })
    }
}

/// Runs a subcommand. Tells whether everything was proved.
pub(crate) fn command(command: &PlanCommand) -> Result<bool> {
    match command {
        PlanCommand::Show(args) => show::command(args).map(|()| true),
        PlanCommand::Verify(args) => verify::command(args),
        PlanCommand::Simulate(args) => simulate::command(args).map(|()| true),
        PlanCommand::Table(args) => table::command(args).map(|()| true),
        PlanCommand::Footprint(args) if args.measure => footprint::measured(args).map(|()| true),
        PlanCommand::Footprint(args) => footprint::computed(args).map(|()| true),
        PlanCommand::Probe(args) => probe::probe(args).map(|()| true),
        PlanCommand::Predict(args) => probe::predict(args).map(|()| true),
    }
}
