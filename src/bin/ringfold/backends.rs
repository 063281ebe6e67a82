//! The part of `ringfold info` that is about backends: which can be had here, which is taken, and why not the others.

use comfy_table::{ContentArrangement, Table, presets};
use ringfold::backend::choose::{Agreed, CANDIDATES, obstacle, passed_over};
use ringfold::backend::nccl::Library;
use ringfold::bootstrap::{Landmark, Sight};
use ringfold::config::BackendChoice;
use ringfold::cuda::Driver;
use ringfold::memory::{PAGE, Segment};
use ringfold::{Communicator, Config, Error, Result};
use serde::Serialize;
use std::fs;
use std::process::{Command, Stdio};

/// What becomes of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// It is what ranks take.
    Chosen,
    /// It can be had, and is not taken.
    Possible,
    /// It cannot be had.
    PassedOver,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            State::Chosen => "chosen",
            State::Possible => "possible",
            State::PassedOver => "passed over",
        }
    }
}

/// A backend, as it stands with it.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    backend: &'static str,
    pub(crate) state: State,
    /// How it can be had, or why not.
    here: String,
    /// Why it is or is not taken.
    why: String,
}

/// Each backend, as it stands with it for ranks of this host.
pub(crate) fn here() -> Result<Vec<Row>> {
    let asked = Config::from_env()?.backend;
    let tried: Vec<_> =
        CANDIDATES.iter().map(|one| Ok((one.choice, can(one.choice)?))).collect::<Result<_>>()?;
    let can_be = |choice| tried.iter().any(|(one, can)| *one == choice && can.is_ok());
    let taken = match asked {
        BackendChoice::Auto if can_be(BackendChoice::Shm) => Some(BackendChoice::Shm),
        BackendChoice::Auto => Some(BackendChoice::Tcp),
        asked => can_be(asked).then_some(asked),
    };
    let agreed = Agreed { choice: asked, by: None };
    let over = passed_over(agreed, taken.unwrap_or(asked).as_str(), &[]);
    let mut rows = vec![Row {
        backend: "channel",
        state: State::Possible,
        here: "ranks that are threads of one process: Communicator::local".to_owned(),
        why: "it is made and not chosen".to_owned(),
    }];
    for (choice, can) in tried {
        let state = match &can {
            _ if taken == Some(choice) => State::Chosen,
            Ok(_) => State::Possible,
            Err(_) => State::PassedOver,
        };
        let why = match asked {
            _ if state == State::PassedOver && choice == asked => {
                "it is asked for: an error on every rank".to_owned()
            }
            _ if state == State::PassedOver => "it cannot be had".to_owned(),
            BackendChoice::Auto if state == State::Chosen => {
                "the first that can be had by ranks of one host".to_owned()
            }
            BackendChoice::Auto => over
                .iter()
                .find(|one| one.backend == choice.as_str())
                .map_or_else(String::new, |one| one.why.clone()),
            _ if state == State::Chosen => "it is asked for".to_owned(),
            asked => format!("{asked} is asked for"),
        };
        rows.push(Row { backend: choice.as_str(), state, here: can.unwrap_or_else(|why| why), why });
    }
    Ok(rows)
}

/// Each backend, as it stands with it in a group.
pub(crate) fn of_group(comm: &Communicator) -> Vec<Row> {
    let mut rows = vec![Row {
        backend: comm.backend(),
        state: State::Chosen,
        here: format!("{} ranks have agreed on it", comm.world_size()),
        why: String::new(),
    }];
    rows.extend(comm.passed_over().iter().map(|one| Row {
        backend: one.backend,
        state: State::PassedOver,
        here: String::new(),
        why: one.why.clone(),
    }));
    rows
}

/// They in a table; with how ranks of this host read each other's memory, where that is asked.
pub(crate) fn table(rows: &[Row], tries_reading: bool) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    // As wide as the terminal; lines stay whole where there is none.
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["backend", "here", "how, or why not", "choice"]);
    for row in rows {
        let yes = match row.state {
            // Why a group does not take it says nothing of what is here.
            State::PassedOver if row.here.is_empty() => "",
            State::PassedOver => "no",
            _ => "yes",
        };
        let choice = match row.why.as_str() {
            "" => row.state.as_str().to_owned(),
            why => format!("{}: {why}", row.state.as_str()),
        };
        table.add_row([row.backend, yes, &row.here, &choice]);
        if tries_reading && row.backend == "shm" {
            let (reading, why) = reading();
            table.add_row(["  by reading", reading, &why, ""]);
        }
    }
    table
}

/// How a backend can be had here, or why not, by trying it as far as one process can.
fn can(choice: BackendChoice) -> Result<std::result::Result<String, String>> {
    if choice == BackendChoice::Nccl {
        return nccl();
    }
    if let Some(why) = obstacle(choice, &Config::from_env()?) {
        return Ok(Err(why));
    }
    Ok(match choice {
        BackendChoice::Shm | BackendChoice::Hierarchical => {
            match Segment::create(64 << 20).and_then(|segment| segment.commit(0..PAGE)) {
                Ok(()) => Ok("memory can be shared".to_owned()),
                Err(error) => Err(error.to_string()),
            }
        }
        BackendChoice::Tcp => Ok(format!("interfaces: {}", interfaces()?)),
        BackendChoice::Mpi | BackendChoice::MpiP2p => Ok(mpi()),
        _ => Ok(String::new()),
    })
}

/// Whether NVIDIA's driver and NCCL are here, and which.
fn nccl() -> Result<std::result::Result<String, String>> {
    let config = Config::from_env()?;
    let driver = Driver::find(config.cuda.as_deref());
    let library = Library::find(config.nccl.as_deref());
    let text = |error: Error| error.to_string();
    Ok(match (driver, library) {
        (Ok(driver), Ok(nccl)) => {
            let (count, version) = (driver.count().unwrap_or(0), nccl.version());
            let told = format!("NCCL {version}, CUDA devices: {count}");
            if count > 0 { Ok(told) } else { Err(told) }
        }
        (Err(error), Ok(nccl)) => Err(format!("NCCL {} is here; {}", nccl.version(), text(error))),
        (Ok(_), Err(error)) => Err(text(error)),
        (Err(driver), Err(nccl)) => Err(format!("{}\n{}", text(driver), text(nccl))),
    })
}

#[cfg(feature = "mpi")]
fn mpi() -> String {
    format!("under the mpirun of {}", ringfold::transport::mpi::version())
}

#[cfg(not(feature = "mpi"))]
fn mpi() -> String {
    String::new()
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
