//! `ringfold plan`: schedules as one can read, draw, exchange and prove them.

mod file;
mod show;
mod svg;
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
}

/// Runs a subcommand. Tells whether everything was proved.
pub(crate) fn command(command: &PlanCommand) -> Result<bool> {
    match command {
        PlanCommand::Show(args) => show::command(args).map(|()| true),
        PlanCommand::Verify(args) => verify::command(args),
    }
}
