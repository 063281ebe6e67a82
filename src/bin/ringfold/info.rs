//! `ringfold info`: what is here, what is missing, and why.

use crate::{backends, devices};
use clap::Args;
use comfy_table::{ContentArrangement, Table, presets};
use ringfold::bootstrap::Sight;
use ringfold::config::{Launcher, environment};
use ringfold::{Algorithm, Communicator, Config, Error, Result};
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Debug, Args)]
pub(crate) struct InfoArgs {
    /// One JSON object instead of tables
    #[arg(long)]
    json: bool,
    /// Join the group that this process was launched into; rank 0 says which backend all have agreed on, and why not the others
    #[arg(long)]
    group: bool,
    /// What a process starts that wants to know whether others may read its memory: its number, an address, and what lies there
    #[arg(long, hide = true, num_args = 3, value_names = ["PID", "ADDRESS", "NUMBER"])]
    reads: Option<Vec<u64>>,
}

/// Prints it. Whether all went well.
pub(crate) fn command(arguments: &InfoArgs) -> Result<bool> {
    if let Some(&[pid, address, number]) = arguments.reads.as_deref() {
        let read = Sight(address, number).read(u32::try_from(pid).unwrap_or(u32::MAX));
        if let Err(why) = &read {
            println!("{why}");
        }
        return Ok(read.is_ok());
    }
    if arguments.group {
        return agreed(arguments.json);
    }
    if arguments.json {
        return as_json();
    }
    println!("ringfold {}", env!("CARGO_PKG_VERSION"));
    let mut host = plain();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    host.add_row(["host", &hostname()]);
    host.add_row(["CPUs", &format!("{cpus} that this process may use")]);
    let machine = devices::look()?;
    for (label, value) in devices::rows(&machine) {
        host.add_row([label, &value]);
    }
    for (label, value) in group()? {
        host.add_row([label, &value]);
    }
    for name in environment::unknown() {
        host.add_row(["unknown", &format!("{name}: no such variable is read; is it a slip?")]);
    }
    println!("{host}\n");
    if let Some(table) = devices::table(&machine) {
        println!("{table}\n");
    }

    println!("{}\n", backends::table(&backends::here()?, true));

    let mut algorithms = Table::new();
    algorithms.load_style(presets::UTF8_HORIZONTAL_ONLY);
    algorithms.set_content_arrangement(ContentArrangement::Dynamic);
    algorithms.set_header(["algorithm", "idea, and what it does"]);
    for algorithm in Algorithm::all() {
        let collectives: Vec<_> =
            algorithm.collectives().iter().map(|collective| collective.as_str()).collect();
        algorithms.add_row([algorithm.name(), &format!("{}\n{}", algorithm.idea(), collectives.join(", "))]);
    }
    println!("{algorithms}\n");
    println!(
        "Links between hosts are not encrypted in this version: they go in plain text over the interface that\n\
         routes to the store (RINGFOLD_INTERFACE chooses another). Nothing listens on all interfaces."
    );
    Ok(true)
}

/// Joins the group, and says what it has agreed on.
fn agreed(json: bool) -> Result<bool> {
    let comm = Communicator::from_env()?;
    let rows = backends::of_group(&comm);
    if comm.rank() == 0 && json {
        print_json(&BTreeMap::from([("backends", &rows)]))?;
    } else if comm.rank() == 0 {
        println!("{}", backends::table(&rows, false));
    }
    comm.barrier()?;
    Ok(true)
}

/// What `info --json` prints.
#[derive(Serialize)]
struct Told {
    version: &'static str,
    host: String,
    cpus: usize,
    group: BTreeMap<&'static str, String>,
    devices: Vec<ringfold::device::Device>,
    backends: Vec<backends::Row>,
    algorithms: Vec<&'static str>,
    unknown_variables: Vec<String>,
}

fn as_json() -> Result<bool> {
    print_json(&Told {
        version: env!("CARGO_PKG_VERSION"),
        host: hostname(),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        group: group()?.into_iter().collect(),
        devices: devices::look()?.devices().cloned().collect(),
        backends: backends::here()?,
        algorithms: Algorithm::all().map(Algorithm::name).collect(),
        unknown_variables: environment::unknown(),
    })?;
    Ok(true)
}

fn print_json(told: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string(told).map_err(|error| Error::io("writing JSON", error))?;
    println!("{text}");
    Ok(())
}

fn plain() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table
}

/// The group that this process was launched into, if any.
fn group() -> Result<Vec<(&'static str, String)>> {
    let config = Config::from_env()?;
    if config.launcher == Launcher::None {
        return Ok(vec![("launched by", "nobody: a group of one".to_owned())]);
    }
    let (rank, world) = config.place()?;
    let store = match &config.store {
        Some(store) => store.clone(),
        None => "found by ranks of this host themselves".to_owned(),
    };
    Ok(vec![
        ("launched by", config.launcher.to_string()),
        ("rank", format!("{rank} of {world}, generation {}", config.generation)),
        ("store", store),
    ])
}

fn hostname() -> String {
    nix::unistd::gethostname()
        .map_or_else(|_| "unknown".to_owned(), |name| name.to_string_lossy().into_owned())
}
