//! `ringfold plan table`.

use super::network::{NetworkArgs, describe};
use clap::Args;
use ringfold::plan::select::Table;
use ringfold::{Config, Result};

const EXAMPLES: &str = "\
Examples:
  ringfold plan table                                              what counts where nobody says anything else
  RINGFOLD_TABLE='all_reduce: ..32K direct, .. ring' ringfold plan table     what counts then
  ringfold plan table --cost -n 16 --latency 50us --bandwidth 1Gbit          what such a network asks for
  export RINGFOLD_TABLE=\"$(ringfold plan table --cost -n 16 --network probed.json)\"

A rule is the most bytes, perhaps the most ranks, and an algorithm; the first one that fits counts. Every rank must
have the same table, or the group does not form.";

/// Which table to print.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct TableArgs {
    /// Make it from the costs of a network
    #[arg(long)]
    cost: bool,
    /// With --cost: the number of ranks
    #[arg(short = 'n', long = "ranks", value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024))]
    ranks: u16,
    #[command(flatten)]
    network: NetworkArgs,
}

pub(super) fn command(args: &TableArgs) -> Result<()> {
    let table = if args.cost {
        let network = args.network.network()?;
        eprintln!("for {} ranks: {}", args.ranks, describe(&network));
        Table::from_cost(&network, usize::from(args.ranks))?
    } else {
        Config::from_env()?.table.map_or_else(|| Ok(Table::default()), |text| text.parse())?
    };
    println!("{table:#}");
    Ok(())
}
