//! The algorithms, one file each, and the one list of them.
//!
//! A new algorithm is a file that exports an `Entry` and a word in the list below. The conformance suite, the
//! verifier, the benchmarks and the command line go through the list.

use super::Builder;
use crate::collective::{Collective, Order, Request};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What an algorithm's file exports.
pub(super) struct Entry {
    /// The name on the command line.
    pub(super) name: &'static str,
    /// The idea in one line.
    pub(super) idea: &'static str,
    /// What it can do.
    pub(super) collectives: &'static [Collective],
    /// Whether it combines in the order of [`Order::Fixed`] for this request.
    pub(super) fixed_order: fn(&Request) -> bool,
    /// Why it cannot do this request, although it does the collective.
    pub(super) refuses: fn(&Request) -> Option<&'static str>,
    /// Whether its plans depend on which ranks share a host.
    pub(super) looks_at_hosts: bool,
    /// What its plans take for granted.
    pub(super) needs: Reach,
    /// The most bytes of one block that it takes at a time; none where the table says.
    pub(super) slice_bytes: fn(&Request) -> Option<usize>,
    /// Writes the plan of one rank of two or more.
    pub(super) generate: fn(&mut Builder<'_>),
}

impl Entry {
    /// What most algorithms have in common.
    const DEFAULT: Entry = Entry {
        name: "",
        idea: "",
        collectives: &[],
        fixed_order: |request| request.world == 2,
        refuses: |_| None,
        looks_at_hosts: false,
        needs: Reach::Messages,
        slice_bytes: |_| None,
        generate: |_| {},
    };
}

/// What the ranks of a group can reach of each other; each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reach {
    /// Nothing: they send each other messages.
    Messages,
    /// Each other's slots.
    Slots,
    /// What each other's operands hold, for reading.
    Memory,
    /// Each other's operands, because all of them are shared tensors.
    Tensors,
}

/// The most bytes of a slot that a plan may ask for.
pub const SLOT: usize = 1 << 20;

mod tree;

macro_rules! algorithms {
    ($($module:ident),* $(,)?) => {
        $(mod $module;)*
        static TABLE: &[Entry] = &[$($module::ENTRY),*];
    };
}

algorithms![
    ring,
    recursive_doubling,
    halving_doubling,
    binomial_tree,
    pairwise,
    direct,
    pipeline,
    double_binary_tree,
    kary_tree,
    bruck,
    hierarchical_ring,
    hierarchical_tree,
    flat,
    pull,
    sliced,
    push,
];

/// An algorithm, by its place in the list.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Algorithm(u8);

impl Algorithm {
    /// Every algorithm.
    pub fn all() -> impl ExactSizeIterator<Item = Algorithm> {
        (0..TABLE.len()).map(|index| Algorithm(index as u8))
    }

    /// Those that ranks can run which reach so much of each other.
    pub fn within(reach: Reach) -> impl Iterator<Item = Algorithm> {
        Algorithm::all().filter(move |algorithm| algorithm.needs() <= reach)
    }

    /// What it takes for granted of the ranks' reach.
    pub fn needs(self) -> Reach {
        self.entry().needs
    }

    /// The one for a request whose operands are shared tensors on all ranks.
    pub(crate) fn for_tensors(request: &Request) -> Option<Algorithm> {
        let reach = [Reach::Tensors, Reach::Memory];
        let of = |reach| Algorithm::all().find(|one| one.needs() == reach && one.supports(request));
        reach.into_iter().find_map(of)
    }

    /// The most elements of one block that it takes at a time, where that is its own to say.
    pub(crate) fn own_slice(self, request: &Request) -> Option<usize> {
        self.slice_bytes(request).map(|bytes| (bytes / request.element_size()).max(1))
    }

    /// The most bytes of one block that it takes at a time, where that is its own to say.
    pub(crate) fn slice_bytes(self, request: &Request) -> Option<usize> {
        (self.entry().slice_bytes)(request)
    }

    /// The algorithm with this name.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument), listing the names that there are.
    pub fn named(name: &str) -> Result<Algorithm> {
        Algorithm::all().find(|algorithm| algorithm.name() == name).ok_or_else(|| {
            let names: Vec<_> = Algorithm::all().map(|algorithm| algorithm.name()).collect();
            Error::invalid(format!("no algorithm is called {name:?}"))
                .remedy(format!("use one of {}", names.join(", ")))
        })
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.entry().name
    }

    /// Its idea in one line.
    pub fn idea(self) -> &'static str {
        self.entry().idea
    }

    /// The number that stands for it on the wire between ranks of one version.
    pub(crate) fn to_wire(self) -> u16 {
        u16::from(self.0) + 1
    }

    /// The collectives that it can do.
    pub fn collectives(self) -> &'static [Collective] {
        self.entry().collectives
    }

    /// Whether it can do what is asked. Allocates nothing.
    pub fn supports(self, request: &Request) -> bool {
        let entry = self.entry();
        let ordered = request.order == Order::Fixed && request.collective.combines() && request.world > 1;
        entry.collectives.contains(&request.collective)
            && (entry.refuses)(request).is_none()
            && !self.shows_to_users(request)
            && (!ordered || (entry.fixed_order)(request))
    }

    /// Whether its plans depend on the [`Topology`](super::Topology).
    pub fn looks_at_hosts(self) -> bool {
        self.entry().looks_at_hosts
    }

    /// An [`Unsupported`](crate::ErrorKind::Unsupported) error where it cannot do what is asked.
    pub fn check(self, request: &Request) -> Result<()> {
        let entry = self.entry();
        if !entry.collectives.contains(&request.collective) {
            let able: Vec<_> = Algorithm::all()
                .filter(|other| other.entry().collectives.contains(&request.collective))
                .map(Algorithm::name)
                .collect();
            return Err(Error::unsupported(format!("{} does not do {}", entry.name, request.collective))
                .remedy(format!("use one of {}", able.join(", "))));
        }
        if self.shows_to_users(request) {
            return Err(Error::unsupported(format!(
                "{} would give a function of the user's memory that others can change",
                entry.name
            ))
            .remedy("leave the choice of the algorithm to ringfold"));
        }
        if let Some(reason) = (entry.refuses)(request) {
            return Err(Error::unsupported(format!("{}: {reason}", entry.name))
                .remedy("leave the choice of the algorithm to ringfold"));
        }
        if !self.supports(request) {
            return Err(Error::unsupported(format!(
                "{} does not combine {} ranks in the fixed order",
                entry.name, request.world
            ))
            .remedy("leave the choice of the algorithm to ringfold, or the order to the algorithm"));
        }
        Ok(())
    }

    /// Whether a reduction of the user's would see memory that other ranks can change.
    fn shows_to_users(self, request: &Request) -> bool {
        self.needs() > Reach::Messages && request.custom.is_some()
    }

    pub(super) fn generate(self, builder: &mut Builder<'_>) {
        (self.entry().generate)(builder);
    }

    fn entry(self) -> &'static Entry {
        &TABLE[usize::from(self.0)]
    }
}

impl fmt::Debug for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Algorithm::named(name)
    }
}

impl Serialize for Algorithm {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Algorithm {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Algorithm::named(&name).map_err(serde::de::Error::custom)
    }
}

/// The plan of a group of one, whatever the algorithm: the input is the result.
pub(super) fn alone(b: &mut Builder<'_>) {
    let len = b.request().output_len(0);
    let output = b.output(0..len);
    b.copy(b.input(0..len), output);
    if b.request().collective.reduces() {
        b.finish_range(output);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        for algorithm in Algorithm::all() {
            assert_eq!(Algorithm::named(algorithm.name()).unwrap(), algorithm);
            assert!(!algorithm.idea().is_empty());
        }
        assert!(Algorithm::named("gossip").unwrap_err().to_string().contains("ring"));
    }

    #[test]
    fn every_collective_has_an_algorithm() {
        for collective in Collective::ALL {
            assert!(Algorithm::all().any(|algorithm| algorithm.collectives().contains(&collective)));
        }
    }
}
