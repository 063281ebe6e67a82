//! How devices reach each other.

use super::description::Device;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use std::fmt;

/// NVLink (or its like) between two devices of a host, without a switch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Link {
    /// The two, by UUID or by address.
    pub between: (String, String),
    /// How many links there are side by side.
    pub lanes: u32,
}

/// The way from one device to another, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Path {
    /// They are the same device.
    Same,
    /// Through a fabric that all its devices share at full speed.
    Fabric,
    /// Over this many links that join the two.
    NvLink(u32),
    /// Through one PCIe switch, or within one GPU that is cut in slices.
    Switch,
    /// Through the root of PCIe, on one NUMA node.
    Node,
    /// From socket to socket.
    Host,
    /// Over the network.
    Network,
}

impl Path {
    /// What a byte costs by this way. Only comparisons mean something: the numbers follow what such ways carry,
    /// some 450 GB/s for a fabric, 25 for each pair of lanes, 50 for PCIe and 25 for a network.
    pub const fn cost(self) -> u64 {
        match self {
            Path::Same => 0,
            Path::Fabric => 10,
            Path::NvLink(0) => Path::Switch.cost(),
            Path::NvLink(lanes) => 10 + 60 / lanes as u64,
            Path::Switch => 100,
            Path::Node => 140,
            Path::Host => 200,
            Path::Network => 400,
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Same => f.write_str("same device"),
            Path::Fabric => f.write_str("fabric"),
            Path::NvLink(lanes) => write!(f, "NVLink x{lanes}"),
            Path::Switch => f.write_str("PCIe switch"),
            Path::Node => f.write_str("NUMA node"),
            Path::Host => f.write_str("host"),
            Path::Network => f.write_str("network"),
        }
    }
}

/// No host, node, switch, fabric or parent.
const NONE: u32 = u32::MAX;

/// Where one device is, by numbers that are quick to compare.
#[derive(Debug, Clone, Copy)]
struct Spot {
    host: u32,
    numa: u32,
    switch: u32,
    fabric: u32,
    parent: u32,
}

/// The ways between the devices of an inventory: a few numbers a device, and the pairs that are joined by links of their own.
#[derive(Debug, Default)]
pub(super) struct Ways {
    spots: Vec<Spot>,
    pairs: FxHashMap<(u32, u32), u32>,
}

impl Ways {
    /// Of devices in their order, each with the number of its host, and pairs of them with their lanes.
    pub(super) fn new<'a>(
        devices: impl Iterator<Item = (u32, &'a Device)>,
        pairs: impl Iterator<Item = (usize, usize, u32)>,
    ) -> Ways {
        let mut names: FxHashMap<(u32, u8, &'a str), u32> = FxHashMap::default();
        let mut number = |host: u32, what: u8, name: Option<&'a str>| {
            let next = names.len() as u32;
            name.map_or(NONE, |name| *names.entry((host, what, name)).or_insert(next))
        };
        let spots = devices.map(|(host, device)| Spot {
            host,
            numa: device.numa.map_or(NONE, |node| node as u32),
            switch: number(host, 0, device.switch.as_deref()),
            fabric: if device.is_slice() { NONE } else { number(host, 1, device.fabric.as_deref()) },
            parent: number(host, 2, device.parent.as_deref()),
        });
        let spots = spots.collect();
        let mut all = FxHashMap::default();
        for (a, b, lanes) in pairs {
            *all.entry(ordered(a, b)).or_insert(0) += lanes;
        }
        Ways { spots, pairs: all }
    }

    /// The best way between two devices, by their numbers.
    pub(super) fn path(&self, a: usize, b: usize) -> Path {
        if a == b {
            return Path::Same;
        }
        let (one, other) = (self.spots[a], self.spots[b]);
        let both = |x: u32, y: u32| x != NONE && x == y;
        if one.host != other.host {
            return Path::Network;
        }
        if both(one.fabric, other.fabric) {
            return Path::Fabric;
        }
        match self.pairs.get(&ordered(a, b)) {
            Some(&lanes) if lanes > 0 => Path::NvLink(lanes),
            _ if both(one.parent, other.parent) || both(one.switch, other.switch) => Path::Switch,
            _ if both(one.numa, other.numa) => Path::Node,
            _ => Path::Host,
        }
    }

    pub(super) fn cost(&self, a: usize, b: usize) -> u64 {
        self.path(a, b).cost()
    }

    /// An order in which devices that are near to each other follow one another.
    pub(super) fn nearness(&self, device: usize) -> impl Ord + use<> {
        let Spot { host, numa, switch, fabric, parent } = self.spots[device];
        (host, fabric, numa, switch, parent, device)
    }
}

fn ordered(a: usize, b: usize) -> (u32, u32) {
    (a.min(b) as u32, a.max(b) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_are_ordered_as_they_are_listed() {
        let ways = [
            Path::Same,
            Path::Fabric,
            Path::NvLink(18),
            Path::NvLink(4),
            Path::NvLink(1),
            Path::Switch,
            Path::Node,
            Path::Host,
            Path::Network,
        ];
        assert!(ways.is_sorted_by_key(|way| way.cost()));
    }

    #[test]
    fn the_best_way_counts() {
        let gpu = |address: &str| Device::new("gpu", address);
        let devices = [
            gpu("0").with_numa(0).with_switch("s"),
            gpu("1").with_numa(0).with_switch("s"),
            gpu("2").with_numa(0),
            gpu("3").with_numa(1).with_fabric("f"),
            gpu("4").with_numa(1).with_fabric("f"),
            gpu("5").with_parent("p").with_fabric("f"),
            gpu("6").with_parent("p"),
            gpu("7").with_fabric("f"),
        ];
        let on = |index: usize| if index == 7 { 1 } else { 0 };
        let numbered = devices.iter().enumerate().map(|(index, device)| (on(index), device));
        let ways = Ways::new(numbered, [(0, 3, 2), (3, 0, 2), (1, 2, 0)].into_iter());
        assert_eq!(ways.path(0, 0), Path::Same);
        assert_eq!(ways.path(0, 1), Path::Switch);
        assert_eq!(ways.path(0, 2), Path::Node);
        assert_eq!(ways.path(1, 2), Path::Node, "no lane is no link");
        assert_eq!(ways.path(3, 0), Path::NvLink(4));
        assert_eq!(ways.path(3, 4), Path::Fabric);
        assert_eq!(ways.path(3, 5), Path::Host, "slices have no links");
        assert_eq!(ways.path(5, 6), Path::Switch);
        assert_eq!(ways.path(4, 7), Path::Network, "a fabric is of one host");
    }
}
