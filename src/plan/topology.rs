//! Which ranks share a host.

use rustc_hash::FxHashMap;
use std::hash::Hash;
use std::sync::Arc;

/// Which ranks of a group share a host: what schedules know of the network. Every rank must have the same one.
///
/// The default says that all ranks share one host, whatever their number.
///
/// ```
/// use ringfold::plan::Topology;
/// // The host of each rank, in rank order, by whatever tells hosts apart.
/// let topology = Topology::of_hosts(["a", "b", "a", "b", "c"]);
/// assert_eq!(topology.hosts(5), [vec![0, 2], vec![1, 3], vec![4]]);
/// assert_eq!(Topology::of_hosts(["a", "a"]), Topology::default());
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Topology {
    /// The host of each rank, numbered in the order of their first ranks; empty where there is one.
    host_of: Arc<[u32]>,
}

impl Topology {
    /// The topology of a group by the host of each rank, in rank order.
    pub fn of_hosts<H: Hash + Eq>(hosts: impl IntoIterator<Item = H>) -> Self {
        let mut numbers = FxHashMap::default();
        let host_of: Vec<u32> = hosts
            .into_iter()
            .map(|host| {
                let next = numbers.len() as u32;
                *numbers.entry(host).or_insert(next)
            })
            .collect();
        if numbers.len() < 2 { Topology::default() } else { Topology { host_of: host_of.into() } }
    }

    /// Hosts of `per_host` ranks each, one after another; the last one has the rest.
    pub fn even(world: usize, per_host: usize) -> Self {
        Topology::of_hosts((0..world).map(|rank| rank / per_host.max(1)))
    }

    /// The number of ranks that it tells of, where there is more than one host.
    pub fn world(&self) -> Option<usize> {
        (!self.host_of.is_empty()).then_some(self.host_of.len())
    }

    /// The host of a rank, numbered in the order of the hosts' first ranks.
    pub fn host(&self, rank: usize) -> usize {
        self.host_of.get(rank).map_or(0, |&host| host as usize)
    }

    /// The ranks of each host of a group of `world`, in rank order.
    pub fn hosts(&self, world: usize) -> Vec<Vec<usize>> {
        let mut hosts = vec![Vec::new(); self.host_of.iter().max().map_or(1, |&last| last as usize + 1)];
        (0..world).for_each(|rank| hosts[self.host(rank)].push(rank));
        hosts
    }

    /// Whether there are several hosts, of which one has several ranks.
    pub(crate) fn shares_hosts(&self) -> bool {
        let hosts = self.host_of.iter().max().map_or(0, |&last| last as usize + 1);
        hosts > 1 && hosts < self.host_of.len()
    }

    /// A number that tells topologies apart between ranks; 0 for one host.
    pub(crate) fn hash(&self) -> u32 {
        self.host_of
            .iter()
            .fold(0, |hash: u32, &host| (hash.rotate_left(5) ^ (host + 1)).wrapping_mul(0x9e37_79b1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_keep_their_ranks_whatever_the_placement() {
        let blocks = Topology::even(7, 3);
        assert_eq!(blocks.hosts(7), [vec![0, 1, 2], vec![3, 4, 5], vec![6]]);
        assert_eq!((blocks.host(5), blocks.world()), (1, Some(7)));
        assert_eq!(Topology::even(4, 9), Topology::default());
        assert_eq!(Topology::default().hosts(3), [vec![0, 1, 2]]);
        assert_eq!((Topology::default().host(2), Topology::default().world()), (0, None));
    }

    #[test]
    fn other_placements_have_other_hashes() {
        let hash = |hosts: &[u8]| Topology::of_hosts(hosts).hash();
        assert_eq!(hash(&[1, 1]), 0);
        assert_ne!(hash(&[1, 2, 1]), hash(&[1, 1, 2]));
        assert_ne!(hash(&[1, 2]), hash(&[1, 2, 2]));
    }
}
