//! What every rank tells all others of itself.

use super::cpus::CpuSet;
use crate::backend::choose::{Agreed, Ask, agree};
use crate::collective::Collective;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::select::Table;
use crate::transport::control::hostname;
use rustc_hash::FxHashSet;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// The version of the record; ranks of another one are refused.
const VERSION: u16 = 6;

/// A rank as the others know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The rank.
    pub rank: usize,
    /// The name of its host, for people.
    pub host: String,
    /// The identity of its host: ranks with the same one share a kernel and a network namespace.
    pub host_id: String,
    /// Its process id.
    pub pid: u32,
    /// Where it listens for data.
    pub address: SocketAddr,
    /// The CPUs of its host that it may use; none where it does not tell.
    pub cpus: CpuSet,
}

/// A [`Peer`] on the wire, with what makes sure that it belongs to the group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    version: u16,
    generation: u32,
    /// The number of its attempt, as an engine counts them, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) attempt: Option<u64>,
    pub(super) world_id: u64,
    rank: usize,
    world: usize,
    host: String,
    host_id: String,
    pid: u32,
    address: SocketAddr,
    /// Where rank 0's store listens, in an exchange that has no store yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) store: Option<SocketAddr>,
    /// The hash of the table by which it chooses algorithms.
    table_hash: u64,
    /// That table, where it is not the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    table: Option<String>,
    /// The backend that it asks for.
    backend: String,
    /// Why it cannot have that one; where it listens is nothing to go by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    obstacle: Option<String>,
    /// The CPUs that it may use.
    #[serde(default, skip_serializing_if = "CpuSet::is_empty")]
    cpus: CpuSet,
}

impl Record {
    pub(super) fn here(
        rank: usize,
        world: usize,
        generation: u32,
        world_id: u64,
        address: SocketAddr,
        table: &Table,
        ask: Ask,
    ) -> Self {
        let is_default = *table == Table::default();
        let Ask { choice, obstacle } = ask;
        Record {
            version: VERSION,
            generation,
            attempt: None,
            world_id,
            rank,
            world,
            host: hostname(),
            host_id: host_id(),
            pid: std::process::id(),
            address,
            store: None,
            table_hash: table.hash(),
            table: (!is_default).then(|| table.to_string()),
            backend: choice.to_string(),
            obstacle,
            cpus: CpuSet::of_this_thread(),
        }
    }

    /// The same of a rank that cannot listen for data.
    pub(super) fn deaf(self, why: &Error) -> Self {
        Record { obstacle: self.obstacle.or_else(|| Some(why.to_string())), ..self }
    }

    fn ask(&self, rank: usize) -> Result<Ask> {
        let choice = self.backend.parse().map_err(|error: Error| {
            let text = format!(
                "rank {rank} asks for a backend that this version does not know: {}",
                error.message()
            );
            Error::new(ErrorKind::Bootstrap, text).blame(rank).remedy("run the same version on every rank")
        })?;
        Ok(Ask { choice, obstacle: self.obstacle.clone() })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        // Numbers, strings and addresses: nothing that JSON could refuse.
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(super) fn decode(bytes: &[u8], rank: usize) -> Result<Record> {
        serde_json::from_slice(bytes).map_err(|error| {
            let text =
                format!("rank {rank} told of itself in a form that this version does not know: {error}");
            Error::new(ErrorKind::Bootstrap, text).blame(rank).remedy("run the same version on every rank")
        })
    }
}

/// Reads everybody's record and checks that it fits; agrees on the backend that is wanted.
pub(super) fn peers(
    messages: &[Vec<u8>],
    world: usize,
    generation: u32,
    world_id: Option<u64>,
) -> Result<(Vec<Peer>, Agreed)> {
    if messages.len() != world {
        let text = format!("the exchange gave {} messages to a group of {world} ranks", messages.len());
        return Err(Error::new(ErrorKind::Bootstrap, text));
    }
    let mut peers = Vec::with_capacity(world);
    let mut tables = Vec::with_capacity(world);
    let mut asks = Vec::with_capacity(world);
    for (rank, message) in messages.iter().enumerate() {
        let record = Record::decode(message, rank)?;
        let fits = [
            ("version", u64::from(record.version), u64::from(VERSION)),
            ("generation", record.generation.into(), generation.into()),
            ("rank", record.rank as u64, rank as u64),
            ("world size", record.world as u64, world as u64),
            ("world id", record.world_id, world_id.unwrap_or(record.world_id)),
        ];
        if let Some((what, theirs, mine)) = fits.into_iter().find(|(_, theirs, mine)| theirs != mine) {
            let text =
                format!("rank {rank} on {} says {what} {theirs} where {mine} is expected", record.host);
            return Err(Error::new(ErrorKind::Bootstrap, text)
                .blame(rank)
                .in_generation(generation)
                .remedy("start every rank from the same launch"));
        }
        let ask = record.ask(rank)?;
        let listens = ask.obstacle.is_none();
        if listens && (record.address.port() == 0 || record.address.ip().is_unspecified()) {
            let text = format!("rank {rank} says that it listens on {}, which is no address", record.address);
            return Err(Error::new(ErrorKind::Bootstrap, text).blame(rank));
        }
        tables.push((record.table_hash, record.table));
        asks.push(ask);
        peers.push(Peer {
            rank,
            host: record.host,
            host_id: record.host_id,
            pid: record.pid,
            address: record.address,
            cpus: record.cpus,
        });
    }
    agree_on_tables(&peers, &tables).map_err(|error| error.in_generation(generation))?;
    let agreed = agree(&asks).map_err(|error| error.in_generation(generation))?;
    Ok((peers, agreed))
}

/// The generation that follows from the numbers of all ranks' attempts: the highest, as far as 32 bits hold it. `None` where no rank
/// has one.
pub(super) fn generation(messages: &[Vec<u8>]) -> Result<Option<u32>> {
    let mut attempts = Vec::with_capacity(messages.len());
    for (rank, message) in messages.iter().enumerate() {
        attempts.push(Record::decode(message, rank)?.attempt);
    }
    let Some(highest) = attempts.iter().flatten().max() else { return Ok(None) };
    if let Some(rank) = attempts.iter().position(Option::is_none) {
        let text = format!("rank {rank} does not say which attempt it is, and others do");
        return Err(Error::new(ErrorKind::Configuration, text)
            .blame(rank)
            .remedy("give every rank the number of its attempt, or none"));
    }
    let mut seen = FxHashSet::default();
    if let Some(rank) = attempts.iter().position(|attempt| !seen.insert(attempt)) {
        let number = attempts[rank].unwrap_or_default();
        let text = format!("rank {rank} says that it is attempt {number}, and so does another");
        return Err(Error::new(ErrorKind::Bootstrap, text).blame(rank).remedy(
            "pass the number that the engine gives to each attempt at each task (in Spark taskAttemptId)",
        ));
    }
    Ok(Some(*highest as u32))
}

/// Ranks that choose by different tables would run different schedules. Every rank has the same records before it, and so
/// finds the same one that differs from most, of equally many from the lowest rank's.
fn agree_on_tables(peers: &[Peer], tables: &[(u64, Option<String>)]) -> Result<()> {
    let votes = |hash: u64| tables.iter().filter(|(other, _)| *other == hash).count();
    let Some(usual) = (0..tables.len()).rev().max_by_key(|&rank| votes(tables[rank].0)) else {
        return Ok(());
    };
    let Some(odd) = tables.iter().position(|(hash, _)| *hash != tables[usual].0) else { return Ok(()) };
    let read = |rank: usize| match &tables[rank].1 {
        None => Ok(Table::default()),
        Some(text) => text.parse::<Table>(),
    };
    let differs = match (read(odd), read(usual)) {
        (Ok(odd), Ok(usual)) => difference(&odd, &usual),
        _ => None,
    };
    let differs = differs.unwrap_or_else(|| "as another version writes it".to_owned());
    let text = format!(
        "rank {odd} on {} chooses algorithms by another table than rank {usual}: {differs}",
        peers[odd].host
    );
    Err(Error::new(ErrorKind::Configuration, text)
        .blame(odd)
        .remedy("give every rank the same RINGFOLD_TABLE, or none, and the same version"))
}

/// What the first table says where the second one says something else.
fn difference(one: &Table, other: &Table) -> Option<String> {
    let of_collectives = Collective::ALL.into_iter().find_map(|collective| {
        let (one, other) = (one.rules_of(collective), other.rules_of(collective));
        (one != other).then(|| format!("{collective} is `{one}` there, and `{other}` here"))
    });
    of_collectives.or_else(|| {
        let (one, other) = (one.slice_bytes, other.slice_bytes);
        (one != other).then(|| format!("slices are of {one} bytes there, and of {other} here"))
    })
}

/// The boot of this host's kernel and the network namespace: the reach of shared memory and local sockets.
pub(super) fn host_id() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_else(|_| hostname());
    let namespace = std::fs::read_link("/proc/self/ns/net").unwrap_or_default();
    format!("{} {}", boot.trim(), namespace.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BackendChoice;

    fn records(world: usize) -> Vec<Record> {
        let address = "127.0.0.1:4000".parse().unwrap();
        (0..world)
            .map(|rank| Record::here(rank, world, 5, u64::MAX, address, &Table::default(), auto()))
            .collect()
    }

    fn auto() -> Ask {
        Ask { choice: BackendChoice::Auto, obstacle: None }
    }

    fn read(records: &[Record]) -> Result<Vec<Peer>> {
        let messages: Vec<Vec<u8>> = records.iter().map(Record::encode).collect();
        peers(&messages, 2, 5, Some(u64::MAX)).map(|(peers, _)| peers)
    }

    fn agreed(records: &[Record]) -> Result<Agreed> {
        let messages: Vec<Vec<u8>> = records.iter().map(Record::encode).collect();
        peers(&messages, 2, 5, Some(u64::MAX)).map(|(_, agreed)| agreed)
    }

    #[test]
    fn what_ranks_ask_for_goes_with_their_records() {
        let mut both = records(2);
        assert_eq!(agreed(&both).unwrap().choice, BackendChoice::Auto);
        both[1].backend = "tcp".to_owned();
        assert_eq!(agreed(&both).unwrap(), Agreed { choice: BackendChoice::Tcp, by: Some(1) });
        both[1].backend = "pigeon".to_owned();
        let error = agreed(&both).unwrap_err();
        assert_eq!((error.kind(), error.culprit()), (ErrorKind::Bootstrap, Some(1)));
        // Who cannot listen has no address, which is not what is complained of.
        both[1] = records(2).remove(1).deaf(&Error::invalid("no such interface"));
        both[1].address = "0.0.0.0:0".parse().unwrap();
        let error = agreed(&both).unwrap_err();
        assert_eq!((error.kind(), error.culprit()), (ErrorKind::Configuration, Some(1)));
        assert!(error.to_string().contains("no such interface"), "{error}");
    }

    #[test]
    fn records_round_trip() {
        let peers = read(&records(2)).unwrap();
        assert_eq!(peers[1].rank, 1);
        assert_eq!(peers[0].pid, std::process::id());
        assert!(!peers[0].cpus.is_empty() && peers[0].cpus == peers[1].cpus);
        assert_eq!(peers[0].host_id, peers[1].host_id);
    }

    #[test]
    fn a_record_of_another_group_is_a_typed_error_that_blames_its_rank() {
        type Case = (fn(&mut Record), &'static str);
        let spoil: [Case; 6] = [
            (|r| r.version = 5, "version 5"),
            (|r| r.generation = 4, "generation 4"),
            (|r| r.rank = 0, "rank 0"),
            (|r| r.world = 3, "world size 3"),
            (|r| r.world_id = 1, "world id 1"),
            (|r| r.address = "0.0.0.0:1".parse().unwrap(), "no address"),
        ];
        for (spoil, says) in spoil {
            let mut records = records(2);
            spoil(&mut records[1]);
            let error = read(&records).unwrap_err();
            assert_eq!((error.kind(), error.culprit()), (ErrorKind::Bootstrap, Some(1)));
            assert!(error.to_string().contains(says), "{error}");
        }
        let garbage = peers(&[b"{".to_vec()], 1, 0, None).unwrap_err();
        assert_eq!(garbage.culprit(), Some(0));
        assert!(peers(&[], 1, 0, None).is_err());
    }

    #[test]
    fn the_generation_follows_from_attempts() {
        let of = |attempts: &[Option<u64>]| {
            let mut records = records(attempts.len());
            records.iter_mut().zip(attempts).for_each(|(record, attempt)| record.attempt = *attempt);
            generation(&records.iter().map(Record::encode).collect::<Vec<_>>())
        };
        assert_eq!(of(&[None, None]).unwrap(), None);
        assert_eq!(of(&[Some(7), Some(9), Some(8)]).unwrap(), Some(9));
        let missing = of(&[Some(7), None]).unwrap_err();
        assert_eq!((missing.kind(), missing.culprit()), (ErrorKind::Configuration, Some(1)));
        let twice = of(&[Some(7), Some(3), Some(7)]).unwrap_err();
        assert_eq!((twice.kind(), twice.culprit()), (ErrorKind::Bootstrap, Some(2)));
    }

    #[test]
    fn another_table_is_an_error_that_names_the_rank_and_the_difference() {
        let address = "127.0.0.1:4000".parse().unwrap();
        let read = |tables: &[&str]| {
            let world = tables.len();
            let messages: Vec<Vec<u8>> = tables
                .iter()
                .enumerate()
                .map(|(rank, table)| {
                    Record::here(rank, world, 5, u64::MAX, address, &table.parse().unwrap(), auto()).encode()
                })
                .collect();
            peers(&messages, world, 5, None)
        };
        let (usual, odd) = ("slice: 1M", "all_reduce: .. ring");
        assert!(read(&[odd, odd]).is_ok());
        for (tables, culprit, says) in [
            (&[usual, usual, odd][..], 2, "all_reduce is `.. ring` there"),
            (&[odd, usual, usual], 0, "all_reduce is `.. ring` there"),
            (&[usual, odd], 1, "and `.. ..2 ranks flat"),
            (&[usual, "slice: 2M", usual], 1, "slices are of 2097152 bytes there"),
        ] {
            let error = read(tables).unwrap_err();
            assert_eq!((error.kind(), error.culprit()), (ErrorKind::Configuration, Some(culprit)), "{error}");
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}
