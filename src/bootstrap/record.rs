//! What every rank tells all others of itself.

use crate::error::{Error, ErrorKind, Result};
use crate::transport::control::hostname;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// The version of the record; ranks of another one are refused.
const VERSION: u16 = 1;

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
}

/// A [`Peer`] on the wire, with what makes sure that it belongs to the group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    version: u16,
    generation: u32,
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
}

impl Record {
    pub(super) fn here(
        rank: usize,
        world: usize,
        generation: u32,
        world_id: u64,
        address: SocketAddr,
    ) -> Self {
        Record {
            version: VERSION,
            generation,
            world_id,
            rank,
            world,
            host: hostname(),
            host_id: host_id(),
            pid: std::process::id(),
            address,
            store: None,
        }
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

/// Reads everybody's record and checks that it fits.
pub(super) fn peers(
    messages: &[Vec<u8>],
    world: usize,
    generation: u32,
    world_id: Option<u64>,
) -> Result<Vec<Peer>> {
    if messages.len() != world {
        let text = format!("the exchange gave {} messages to a group of {world} ranks", messages.len());
        return Err(Error::new(ErrorKind::Bootstrap, text));
    }
    let mut peers = Vec::with_capacity(world);
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
        if record.address.port() == 0 || record.address.ip().is_unspecified() {
            let text = format!("rank {rank} says that it listens on {}, which is no address", record.address);
            return Err(Error::new(ErrorKind::Bootstrap, text).blame(rank));
        }
        peers.push(Peer {
            rank,
            host: record.host,
            host_id: record.host_id,
            pid: record.pid,
            address: record.address,
        });
    }
    Ok(peers)
}

/// The boot of this host's kernel and the network namespace: the reach of shared memory and local sockets.
fn host_id() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_else(|_| hostname());
    let namespace = std::fs::read_link("/proc/self/ns/net").unwrap_or_default();
    format!("{} {}", boot.trim(), namespace.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(world: usize) -> Vec<Record> {
        let address = "127.0.0.1:4000".parse().unwrap();
        (0..world).map(|rank| Record::here(rank, world, 5, u64::MAX, address)).collect()
    }

    fn read(records: &[Record]) -> Result<Vec<Peer>> {
        let messages: Vec<Vec<u8>> = records.iter().map(Record::encode).collect();
        peers(&messages, 2, 5, Some(u64::MAX))
    }

    #[test]
    fn records_round_trip() {
        let peers = read(&records(2)).unwrap();
        assert_eq!(peers[1].rank, 1);
        assert_eq!(peers[0].pid, std::process::id());
        assert_eq!(peers[0].host_id, peers[1].host_id);
    }

    #[test]
    fn a_record_of_another_group_is_a_typed_error_that_blames_its_rank() {
        type Case = (fn(&mut Record), &'static str);
        let spoil: [Case; 6] = [
            (|r| r.version = 2, "version 2"),
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
}
