//! `ringfold info`: what is here, what is missing, and why.

use crate::devices;
use clap::Args;
use comfy_table::{Table, presets};
use ringfold::bootstrap::{Landmark, Sight};
use ringfold::config::{Launcher, environment};
use ringfold::memory::{PAGE, Segment};
use ringfold::{Algorithm, Config, Error, Result};
use std::fs;
use std::process::{Command, Stdio};

#[derive(Debug, Args)]
pub(crate) struct InfoArgs {
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

    let mut backends = Table::new();
    backends.load_style(presets::UTF8_HORIZONTAL_ONLY);
    backends.set_header(["backend", "here", "why, or how"]);
    backends.add_row(["channel", "yes", "ranks that are threads of one process: Communicator::local"]);
    backends.add_row(["tcp", "yes", &format!("interfaces: {}", interfaces()?)]);
    let (shm, why) = shared_memory();
    backends.add_row(["shm", shm, &why]);
    let (reading, why) = reading();
    backends.add_row(["  by reading", reading, &why]);
    let (mpi, how) = mpi();
    backends.add_row(["mpi-p2p", mpi, &format!("ringfold's schedules over MPI: {how}")]);
    backends.add_row(["mpi", mpi, &format!("the library's own collectives: {how}")]);
    backends.add_row(["nccl", "no", "not in this version"]);
    println!("{backends}\n");

    let mut algorithms = Table::new();
    algorithms.load_style(presets::UTF8_HORIZONTAL_ONLY);
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

/// Whether this process can share memory, by trying it.
fn shared_memory() -> (&'static str, String) {
    let tried = Segment::create(64 << 20).and_then(|segment| segment.commit(0..PAGE));
    match tried {
        Ok(()) => ("yes", "what ranks of one host use, unless RINGFOLD_BACKEND says otherwise".to_owned()),
        Err(error) => ("no", format!("{error}; ranks of one host use tcp over loopback")),
    }
}

/// Whether MPI is built in, and which.
#[cfg(feature = "mpi")]
fn mpi() -> (&'static str, String) {
    (
        "yes",
        format!(
            "where RINGFOLD_BACKEND asks for it, under the mpirun of {}",
            ringfold::transport::mpi::version()
        ),
    )
}

#[cfg(not(feature = "mpi"))]
fn mpi() -> (&'static str, String) {
    ("no", "not built in (the feature mpi); under mpirun ranks find each other and use shm or tcp".to_owned())
}

/// Whether ranks may read each other's memory, by having another process try to read this one's: as ranks of one launcher are, it is no
/// ancestor.
fn reading() -> (&'static str, String) {
    let landmark = Landmark::default();
    let Sight(address, number) = landmark.sight();
    let told = [u64::from(std::process::id()), address, number].map(|number| number.to_string());
    let tried = std::env::current_exe().and_then(|ringfold| {
        Command::new(ringfold).args(["info", "--reads"]).args(told).stdin(Stdio::null()).output()
    });
    let without = "blocks go by way of slots, copied twice";
    match tried {
        Ok(tried) if tried.status.success() => {
            ("yes", "process_vm_readv: `pull` takes large blocks from where they lie".to_owned())
        }
        Ok(tried) => {
            let why = String::from_utf8_lossy(&tried.stdout);
            (
                "no",
                format!("{}; {without}", if why.is_empty() { "it could not be tried" } else { why.trim() }),
            )
        }
        Err(error) => ("no", format!("it could not be tried: {error}; {without}")),
    }
}

fn plain() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
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

fn interfaces() -> Result<String> {
    let interfaces =
        if_addrs::get_if_addrs().map_err(|error| Error::io("listing the network interfaces", error))?;
    let speed = |name: &str| {
        let text = fs::read_to_string(format!("/sys/class/net/{name}/speed")).ok()?;
        text.trim().parse::<i64>().ok().filter(|&megabits| megabits > 0)
    };
    let list: Vec<String> = interfaces
        .iter()
        .map(|interface| {
            let speed =
                speed(&interface.name).map_or(String::new(), |megabits| format!(", {megabits} Mbit/s"));
            format!("{} ({}{speed})", interface.name, interface.ip())
        })
        .collect();
    Ok(list.join("\n            "))
}
