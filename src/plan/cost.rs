//! What messages and reductions cost on a network: the model by which plans are simulated and algorithms chosen.
//!
//! A message of m bytes occupies its sender's processor for `overhead + copy m` seconds, every port that it passes for
//! `beta m`, and its receiver's processor for `overhead + (copy + gamma) m` where it is reduced; its first byte
//! arrives `alpha` after it has left. A rank does one thing at a time. Its messages stream: a byte can be sent on as
//! soon as the [`granule`](Network::granule) it belongs to is final.
//!
//! Vocabulary: a *link class* is what lies between two ranks: their host, their rack, or the core between racks.
//! A *port* carries one way, one message after the other: each rank has two, each host two that its ranks
//! share, and each rack two that its hosts share.
//!
//! Source: alpha, beta and gamma as in R. Thakur, R. Rabenseifner, W. Gropp (2005), section 3; overhead and cost per
//! byte of the processor as o and O of LogGOPS (T. Hoefler, T. Schneider, A. Lumsdaine, HPDC 2010).

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// What lies between two ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// They share a host.
    Host,
    /// They share a rack, and no host.
    Rack,
    /// They are in different racks.
    Core,
}

impl Class {
    /// Every class, from the nearest on.
    pub const ALL: [Class; 3] = [Class::Host, Class::Rack, Class::Core];

    /// What people call it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Class::Host => "same host",
            Class::Rack => "same rack",
            Class::Core => "between racks",
        }
    }
}

/// The costs of messages of one link class, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// From the first byte's leaving to its arrival.
    pub alpha: f64,
    /// A byte on the wire.
    pub beta: f64,
    /// A message, of the processor at each end.
    pub overhead: f64,
    /// A byte, of the processor at each end.
    #[serde(default)]
    pub copy: f64,
}

impl Link {
    /// A link of this delay and time a byte, whose messages cost the processors nothing: the textbook's.
    pub const fn new(alpha: f64, beta: f64) -> Self {
        Link { alpha, beta, overhead: 0.0, copy: 0.0 }
    }
}

/// Hosts, racks and the links between them, and how the ranks lie on them: rank after rank, host after host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Ranks of a host.
    pub ranks_per_host: usize,
    /// Hosts of a rack; 0 where all hosts share one.
    #[serde(default)]
    pub hosts_per_rack: usize,
    /// Processors of a host, which its ranks share; 0 where every rank has its own.
    #[serde(default)]
    pub cpus_per_host: usize,
    /// Between ranks of one host.
    pub host: Link,
    /// Between hosts of one rack.
    pub rack: Link,
    /// Between racks. Its `beta` is that of each rack's two ports, which its hosts share.
    pub core: Link,
    /// Seconds a byte that is reduced or copied in memory.
    pub gamma: f64,
    /// The bytes of a message that are passed on together; `usize::MAX` where messages are passed on whole.
    pub granule: usize,
    /// Ranks that take longer for everything, and by what factor.
    #[serde(default)]
    pub stragglers: Vec<(usize, f64)>,
    /// A rank that does nothing.
    #[serde(default)]
    pub dead: Option<usize>,
}

/// The bytes that are passed on together where nobody says.
pub const GRANULE: usize = 64 << 10;

impl Network {
    /// One rank a host, every two hosts joined by the same link.
    pub fn flat(link: Link, gamma: f64) -> Self {
        Network {
            ranks_per_host: 1,
            hosts_per_rack: 0,
            cpus_per_host: 0,
            host: link,
            rack: link,
            core: link,
            gamma,
            granule: GRANULE,
            stragglers: Vec::new(),
            dead: None,
        }
    }

    /// The host of a rank.
    pub fn host_of(&self, rank: usize) -> usize {
        rank / self.ranks_per_host
    }

    /// The rack of a rank.
    pub fn rack_of(&self, rank: usize) -> usize {
        self.host_of(rank).checked_div(self.hosts_per_rack).unwrap_or(0)
    }

    /// What lies between two ranks.
    pub fn class(&self, one: usize, other: usize) -> Class {
        if self.host_of(one) == self.host_of(other) {
            Class::Host
        } else if self.rack_of(one) == self.rack_of(other) {
            Class::Rack
        } else {
            Class::Core
        }
    }

    /// The link of a class.
    pub fn link(&self, class: Class) -> &Link {
        match class {
            Class::Host => &self.host,
            Class::Rack => &self.rack,
            Class::Core => &self.core,
        }
    }

    /// The factor by which a rank is slower than it should be.
    pub fn slowness(&self, rank: usize) -> f64 {
        self.stragglers.iter().filter(|(straggler, _)| *straggler == rank).map(|(_, factor)| factor).product()
    }

    /// After how many ranks of a group everything repeats itself; none where it does not.
    pub fn period(&self, world: usize) -> Option<usize> {
        let rack = self.ranks_per_host * self.hosts_per_rack.max(1);
        let same = self.stragglers.is_empty() && self.dead.is_none() && world.is_multiple_of(rack);
        same.then_some(rack)
    }

    /// Checks that the description makes sense for a group of so many ranks.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument), naming what does not.
    pub fn check(&self, world: usize) -> Result<()> {
        if self.ranks_per_host == 0 || self.granule == 0 {
            return Err(Error::invalid("a host without ranks, or a granule of no bytes"));
        }
        let costs =
            [self.host, self.rack, self.core].map(|link| [link.alpha, link.beta, link.overhead, link.copy]);
        if costs.iter().flatten().chain([&self.gamma]).any(|cost| !(cost.is_finite() && *cost >= 0.0)) {
            return Err(Error::invalid("a cost below zero, or beyond all numbers")
                .remedy("give delays such as 20us and rates such as 10Gbit"));
        }
        for &(rank, factor) in &self.stragglers {
            if rank >= world || !(factor.is_finite() && factor > 0.0) {
                return Err(Error::invalid(format!("rank {rank} of {world} is to be {factor} times slower"))
                    .remedy("name a rank of the group and a factor above 0"));
            }
        }
        match self.dead {
            Some(rank) if rank >= world => {
                Err(Error::invalid(format!("rank {rank} is to be dead in a group of {world}")))
            }
            _ => Ok(()),
        }
    }
}

/// Reads a time: a number with one of the units ns, us, ms and s.
///
/// ```
/// let seconds = ringfold::plan::cost::parse_seconds("20us").unwrap();
/// assert!((seconds - 20e-6).abs() < 1e-12);
/// assert!(ringfold::plan::cost::parse_seconds("20").is_err());
/// ```
///
/// # Errors
/// What may be written, in words.
pub fn parse_seconds(text: &str) -> std::result::Result<f64, String> {
    let units = [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0)];
    parse_quantity(text, &units).ok_or_else(|| format!("{text:?} is no time: write 20us, 1.5ms or 800ns"))
}

/// Reads a rate, and returns seconds a byte: `10Gbit` (also `/s`), `3GB/s`, `12GiB/s`; K, M, G, T are powers of 1000.
///
/// ```
/// assert_eq!(ringfold::plan::cost::parse_rate("10Gbit"), Ok(0.8e-9));
/// assert_eq!(ringfold::plan::cost::parse_rate("2GB/s"), Ok(0.5e-9));
/// ```
///
/// # Errors
/// What may be written, in words.
pub fn parse_rate(text: &str) -> std::result::Result<f64, String> {
    let wrong = || format!("{text:?} is no rate: write 10Gbit, 3GB/s or 800MB/s");
    let bare = text.strip_suffix("/s").unwrap_or(text);
    let bits = [("kbit", 1e3), ("Kbit", 1e3), ("Mbit", 1e6), ("Gbit", 1e9), ("Tbit", 1e12)];
    let bytes = [
        ("KiB", 1024.0),
        ("MiB", 1024f64.powi(2)),
        ("GiB", 1024f64.powi(3)),
        ("kB", 1e3),
        ("KB", 1e3),
        ("MB", 1e6),
        ("GB", 1e9),
        ("TB", 1e12),
    ];
    let seconds = match (parse_quantity(bare, &bits), parse_quantity(bare, &bytes)) {
        (Some(bits), _) => 8.0 / bits,
        (None, Some(bytes)) => 1.0 / bytes,
        (None, None) => return Err(wrong()),
    };
    if seconds.is_finite() { Ok(seconds) } else { Err(wrong()) }
}

fn parse_quantity(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let (number, scale) =
        units.iter().find_map(|(unit, scale)| text.strip_suffix(unit).map(|number| (number, scale)))?;
    let number: f64 = number.trim().parse().ok()?;
    (number.is_finite() && number >= 0.0).then_some(number * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_rates_are_read_as_people_write_them() {
        for (text, seconds) in
            [("20us", 20e-6), ("1.5 ms", 1.5e-3), ("2s", 2.0), ("800ns", 800e-9), ("0us", 0.0)]
        {
            assert!((parse_seconds(text).unwrap() - seconds).abs() < 1e-15, "{text}");
        }
        for (text, rate) in [
            ("10Gbit", 1.25e9),
            ("10Gbit/s", 1.25e9),
            ("3GB/s", 3e9),
            ("100MB", 1e8),
            ("1GiB/s", 1073741824.0),
        ] {
            assert!((parse_rate(text).unwrap() * rate - 1.0).abs() < 1e-12, "{text}");
        }
        for bad in ["", "us", "20", "-1us", "nanus", "10", "0Gbit", "x GB/s", "1e400GB/s"] {
            assert!(parse_seconds(bad).is_err(), "{bad}");
            assert!(parse_rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ranks_lie_on_hosts_and_hosts_in_racks() {
        let network =
            Network { ranks_per_host: 4, hosts_per_rack: 2, ..Network::flat(Link::new(1e-6, 1e-9), 0.0) };
        assert_eq!(network.class(0, 3), Class::Host);
        assert_eq!(network.class(3, 4), Class::Rack);
        assert_eq!(network.class(7, 8), Class::Core);
        assert_eq!(Network { hosts_per_rack: 0, ..network }.class(7, 800), Class::Rack);
    }

    #[test]
    fn nonsense_is_refused() {
        let good = Network::flat(Link::new(1e-6, 1e-9), 1e-10);
        assert!(good.check(4).is_ok());
        for bad in [
            Network { ranks_per_host: 0, ..good.clone() },
            Network { gamma: f64::NAN, ..good.clone() },
            Network { host: Link::new(-1.0, 0.0), ..good.clone() },
            Network { stragglers: vec![(4, 2.0)], ..good.clone() },
            Network { stragglers: vec![(1, 0.0)], ..good.clone() },
            Network { dead: Some(4), ..good.clone() },
        ] {
            assert!(bad.check(4).is_err(), "{bad:?}");
        }
    }
}
