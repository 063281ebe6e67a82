//! A group in two levels: the ranks of each host, and those that stand at the same place on every host.
//!
//! Vocabulary: a *place* is a rank's number among those of its host; the *holders* are the places that every host has; whoever stands
//! at one of these is *across* from the ranks at the same place on the other hosts.

use super::Topology;
use crate::collective::{Collective, Counts, Order, Request};

/// A group in two levels, as one of its ranks sees it.
///
/// ```
/// use ringfold::plan::{Levels, Topology};
/// let hosts = Topology::of_hosts(["a", "b", "a", "b", "b"]);
/// let levels = Levels::of(&hosts, 5, 3).unwrap();
/// assert_eq!((levels.inside(), levels.place()), (&[1, 3, 4][..], 1));
/// assert_eq!(levels.across(), Some(vec![2, 3]));
/// // A third place is not on every host.
/// assert_eq!(Levels::of(&hosts, 5, 4).unwrap().across(), None);
/// assert!(Levels::of(&Topology::of_hosts(["a", "b"]), 2, 0).is_none());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Levels {
    hosts: Vec<Vec<usize>>,
    host: usize,
    place: usize,
    holders: usize,
    /// Whether all hosts have the same number of ranks, and these follow each other.
    blocks: bool,
}

impl Levels {
    /// Up to how many bytes a batch goes level by level: it is laid together for that, in memory of the backend's.
    pub const PACKED: usize = 64 << 20;

    /// The levels of a group as `rank` sees them; none where there is one host only, or one rank on each.
    pub fn of(topology: &Topology, world: usize, rank: usize) -> Option<Levels> {
        if !topology.shares_hosts() {
            return None;
        }
        let hosts = topology.hosts(world);
        let host = topology.host(rank);
        let place = hosts[host].iter().position(|&other| other == rank)?;
        let holders = hosts.iter().map(Vec::len).min()?;
        let even = hosts.iter().all(|ranks| ranks.len() == holders);
        let blocks = even && hosts.concat().is_sorted();
        Some(Levels { hosts, host, place, holders, blocks })
    }

    /// The number of hosts.
    pub fn hosts(&self) -> usize {
        self.hosts.len()
    }

    /// This rank's host, numbered in the order of the hosts' first ranks.
    pub fn host(&self) -> usize {
        self.host
    }

    /// The ranks of this rank's host, in rank order.
    pub fn inside(&self) -> &[usize] {
        &self.hosts[self.host]
    }

    /// This rank's number among those of its host.
    pub fn place(&self) -> usize {
        self.place
    }

    /// How many places every host has.
    pub fn holders(&self) -> usize {
        self.holders
    }

    /// The ranks at this rank's place, one a host, where every host has that place.
    pub fn across(&self) -> Option<Vec<usize>> {
        let place = (self.place < self.holders).then_some(self.place)?;
        Some(self.hosts.iter().map(|ranks| ranks[place]).collect())
    }

    /// The host and the place of a rank.
    pub fn seat(&self, rank: usize) -> (usize, usize) {
        let of =
            |(host, ranks): (usize, &Vec<usize>)| Some((host, ranks.iter().position(|&one| one == rank)?));
        self.hosts.iter().enumerate().find_map(of).unwrap_or_default()
    }

    /// Whether a collective is carried out level by level: the same on every rank. Where it is not, all ranks send each other
    /// messages.
    ///
    /// A root must stand at a place that every host has. Blocks of all ranks are cut by hosts only where hosts are alike and have ranks that
    /// follow each other. So it is under [`Order::Fixed`], with a power of two on each host: the tree over ranks is then one over
    /// hosts of trees within them.
    pub fn takes(&self, request: &Request) -> bool {
        let aligned = self.blocks && self.holders.is_power_of_two();
        let ordered = request.order == Order::Fixed && request.collective.combines();
        if request.custom.is_some() || (ordered && !aligned) {
            return false;
        }
        match request.collective {
            Collective::AllReduce | Collective::Barrier => true,
            Collective::Reduce | Collective::Broadcast => self.seat(request.root).1 < self.holders,
            Collective::ReduceScatter | Collective::AllGather => {
                self.blocks && matches!(request.counts, Counts::Same(_))
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;

    fn levels(hosts: &[u8]) -> Levels {
        Levels::of(&Topology::of_hosts(hosts), hosts.len(), 0).unwrap()
    }

    #[test]
    fn what_is_carried_out_by_levels_depends_on_the_hosts_alone() {
        let takes = |hosts: &[u8], collective, root, order| {
            let mut request = Request::new(collective, hosts.len(), DType::F32, 5);
            (request.root, request.order) = (root, order);
            levels(hosts).takes(&request)
        };
        use Collective::{AllGather, AllReduce, AllToAll, Broadcast, ReduceScatter};
        let (even, dealt, uneven) = (&[0, 0, 1, 1][..], &[0, 1, 0, 1][..], &[0, 0, 1][..]);
        for hosts in [even, dealt, uneven] {
            assert!(takes(hosts, AllReduce, 0, Order::Default));
            assert!(!takes(hosts, AllToAll, 0, Order::Default));
            assert_eq!(takes(hosts, AllReduce, 0, Order::Fixed), hosts == even);
            assert_eq!(takes(hosts, AllGather, 0, Order::Default), hosts == even);
            assert_eq!(takes(hosts, ReduceScatter, 0, Order::Fixed), hosts == even);
            assert_eq!(takes(hosts, Broadcast, 1, Order::Default), hosts != uneven);
        }
        // Three on each are no subtree.
        assert!(!takes(&[0, 0, 0, 1, 1, 1], AllReduce, 0, Order::Fixed));
        assert!(takes(&[0, 0, 1, 1, 2, 2], AllReduce, 0, Order::Fixed));
    }
}
