//! Groups of processes that play a scene, with a proxy before each rank where there is one to be.

use crate::proxy::{self, Weather};
use crate::support::process::{self, Process, hear, tell, tell_end};
use crate::support::unused_address;
use ringfold::bootstrap::CallbackExchange;
use ringfold::config::environment;
use ringfold::{Communicator, Config};
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

const SCENE: &str = "RINGFOLD_TEST_SCENE";
const BY_CALLBACK: &str = "RINGFOLD_TEST_BY_CALLBACK";

/// Nothing here depends on how soon silence is noticed.
pub(crate) const PATIENT: Duration = Duration::from_secs(20);

/// Has a process play a scene.
fn play(command: &mut Command, scene: &str) {
    command.env(SCENE, scene).env(environment::HEARTBEAT, format!("{}ms", PATIENT.as_millis()));
}

/// Starts a rank of a group with a store in this process.
pub(crate) fn add(group: &mut process::Group, scene: &str, rank: usize, world: usize) {
    group.add(rank, world, |command| play(command, scene));
}

/// Ranks whose store is in rank 0's process, of which not all need be there.
pub(crate) fn alone(
    scene: &str,
    world: usize,
    ranks: impl Iterator<Item = usize>,
    init: Duration,
) -> process::Group {
    let address = unused_address();
    let mut group = process::Group::without_store();
    for rank in ranks {
        let mut command = process::rank(rank, world, &address);
        play(&mut command, scene);
        command.env(environment::INIT_DEADLINE, format!("{}ms", init.as_millis()));
        group.ranks.push(Process::start(&mut command));
    }
    group
}

/// Ranks with a proxy before each; they find each other by a callback that tells everybody the proxies' addresses.
pub(crate) fn behind_proxies(scene: &str, weather: &[Weather]) -> process::Group {
    let world = weather.len();
    let mut group = process::Group::without_store();
    for rank in 0..world {
        let mut command = process::rank_without_store(rank, world);
        play(&mut command, scene);
        // What is before a rank is before its sockets.
        command.env(BY_CALLBACK, "1").env(environment::BACKEND, "tcp");
        group.ranks.push(Process::start(&mut command));
    }
    let ranks = &mut group.ranks;
    let records: Vec<serde_json::Value> = (ranks.iter())
        .map(|rank| serde_json::from_str(rank.line().strip_prefix("record ").unwrap()).unwrap())
        .collect();
    let disguised: Vec<serde_json::Value> = (records.iter().zip(weather))
        .map(|(record, weather)| {
            let mut record = record.clone();
            let address: SocketAddr = record["address"].as_str().unwrap().parse().unwrap();
            record["address"] = proxy::before(address, *weather).to_string().into();
            record
        })
        .collect();
    for (rank, process) in ranks.iter_mut().enumerate() {
        let mut all = disguised.clone();
        all[rank] = records[rank].clone();
        process.say(&serde_json::to_string(&all).unwrap());
    }
    group
}

/// A rank's part, where this process is started as one: the scene, and its communicator unless it could not be had.
pub(crate) fn as_rank() -> Option<(String, Communicator)> {
    let scene = std::env::var(SCENE).ok()?;
    crate::prepare(&scene);
    let config = Config::from_env().unwrap();
    let comm = if std::env::var_os(BY_CALLBACK).is_some() {
        let (rank, world) = config.place().unwrap();
        let gather = |mine: &[u8]| {
            tell(format!("record {}", std::str::from_utf8(mine)?));
            let all: Vec<serde_json::Value> = serde_json::from_str(&hear())?;
            let mut all: Vec<Vec<u8>> = all.iter().map(serde_json::to_vec).collect::<Result<_, _>>()?;
            // A record that was read and written again may have its fields in another order.
            all[rank] = mine.to_vec();
            Ok(all)
        };
        Communicator::with_exchange(&mut CallbackExchange::new(rank, world, gather), &config)
    } else {
        Communicator::connect(&config)
    };
    match comm {
        Ok(comm) => Some((scene, comm)),
        Err(error) => {
            tell_end(Err(error));
            None
        }
    }
}
