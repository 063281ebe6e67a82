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
    /// Writes the plan of one rank of two or more.
    pub(super) generate: fn(&mut Builder<'_>),
}

macro_rules! algorithms {
    ($($module:ident),* $(,)?) => {
        $(mod $module;)*
        static TABLE: &[Entry] = &[$($module::ENTRY),*];
    };
}

algorithms![ring, recursive_doubling, halving_doubling, binomial_tree, pairwise, direct];

/// An algorithm, by its place in the list.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Algorithm(u8);

impl Algorithm {
    /// Every algorithm.
    pub fn all() -> impl ExactSizeIterator<Item = Algorithm> {
        (0..TABLE.len()).map(|index| Algorithm(index as u8))
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
        if request.order == Order::Fixed
            && request.collective.combines()
            && request.world > 1
            && !(entry.fixed_order)(request)
        {
            return Err(Error::unsupported(format!(
                "{} does not combine {} ranks in the fixed order",
                entry.name, request.world
            ))
            .remedy("leave the choice of the algorithm to ringfold, or the order to the algorithm"));
        }
        Ok(())
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

/// The largest power of two that is not above `world`, and where each rank stands in a group of that size: the
/// first `2 * (world - size)` ranks stand in pairs, the odd one of a pair acting for both.
pub(super) struct Folded {
    /// The power of two.
    pub(super) size: usize,
    pairs: usize,
}

/// A rank's part in a folded group.
pub(super) enum Part {
    /// It hands its data to this rank at the start and hears the result from it at the end.
    Idle(usize),
    /// It acts under this number, and for the rank before it where that is `Some`.
    Acts(usize, Option<usize>),
}

impl Folded {
    pub(super) fn new(world: usize) -> Self {
        let size = 1 << world.ilog2();
        Folded { size, pairs: world - size }
    }

    pub(super) fn part(&self, rank: usize) -> Part {
        if rank >= 2 * self.pairs {
            Part::Acts(rank - self.pairs, None)
        } else if rank % 2 == 1 {
            Part::Acts(rank / 2, Some(rank - 1))
        } else {
            Part::Idle(rank + 1)
        }
    }

    /// The rank that acts under this number.
    pub(super) fn actor(&self, number: usize) -> usize {
        if number < self.pairs { 2 * number + 1 } else { number + self.pairs }
    }

    /// The ranks for which a number acts: consecutive, the actor last.
    pub(super) fn ranks(&self, number: usize) -> std::ops::Range<usize> {
        let actor = self.actor(number);
        if number < self.pairs { actor - 1..actor + 1 } else { actor..actor + 1 }
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

    #[test]
    fn folding_gives_every_number_one_actor() {
        for world in 1..70 {
            let folded = Folded::new(world);
            let mut seen = vec![false; folded.size];
            let mut covered = 0;
            for rank in 0..world {
                match folded.part(rank) {
                    Part::Acts(number, helped) => {
                        assert!(!std::mem::replace(&mut seen[number], true));
                        assert_eq!(folded.actor(number), rank);
                        assert_eq!(folded.ranks(number).len(), 1 + usize::from(helped.is_some()));
                        covered += folded.ranks(number).len();
                    }
                    Part::Idle(actor) => {
                        assert!(matches!(folded.part(actor), Part::Acts(_, Some(r)) if r == rank))
                    }
                }
            }
            assert!(seen.into_iter().all(|seen| seen));
            assert_eq!(covered, world);
        }
    }
}
