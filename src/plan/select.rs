//! Which algorithm carries out a request, where nobody says: a table.
//!
//! Every rank must choose alike, so the table looks only at what is agreed: collective, bytes, world size and order.
//! The default limits are those measured over loopback TCP for up to 8 ranks, and beyond those that
//! [`simulate`](super::simulate) finds for networks of 10 to 128 Gbit/s with 15 to 30 us of delay. A table can be written by hand (`text`), or computed from the
//! costs of a network (`predict`).

mod predict;
mod text;

use super::{Algorithm, Reach, Schedule};
use crate::collective::{Collective, Counts, Request};
use crate::error::{Error, Result};
use std::sync::LazyLock;

/// One line of the table: up to so many bytes and so many ranks, this algorithm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// For which collective.
    pub collective: Collective,
    /// Up to how many bytes: of the whole message, or of the concatenation of all blocks.
    pub bytes: usize,
    /// Up to how many ranks.
    pub world: usize,
    /// Which algorithm.
    pub algorithm: Algorithm,
}

/// The table by which algorithms are chosen: the first rule that fits counts.
///
/// ```
/// use ringfold::collective::{Collective, Request};
/// use ringfold::plan::select::Table;
/// use ringfold::DType;
/// let table = Table::default();
/// let small = table.select(&Request::new(Collective::AllReduce, 8, DType::F32, 16))?;
/// let large = table.select(&Request::new(Collective::AllReduce, 8, DType::F32, 16 << 20))?;
/// assert_eq!((small.algorithm.name(), large.algorithm.name()), ("recursive_doubling", "ring"));
/// # Ok::<(), ringfold::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The rules, in order of precedence.
    pub rules: Vec<Rule>,
    /// The most bytes of one block that a streaming algorithm takes at a time.
    pub slice_bytes: usize,
}

/// Any number of bytes, or of ranks.
const ANY: usize = usize::MAX;

/// The most ranks that limits were measured with.
const MEASURED: usize = 8;

/// (collective, up to bytes, up to ranks, algorithm)
const RULES: &[(Collective, usize, usize, &str)] = &[
    // In shared memory; elsewhere these are passed over.
    (Collective::AllReduce, ANY, 2, "flat"),
    (Collective::AllReduce, 16 << 10, ANY, "flat"),
    (Collective::AllReduce, ANY, ANY, "sliced"),
    (Collective::Barrier, ANY, ANY, "flat"),
    (Collective::Reduce, ANY, 2, "flat"),
    (Collective::Reduce, 16 << 10, ANY, "flat"),
    (Collective::Reduce, ANY, ANY, "sliced"),
    (Collective::ReduceScatter, ANY, 2, "flat"),
    (Collective::ReduceScatter, 16 << 10, ANY, "flat"),
    (Collective::ReduceScatter, ANY, ANY, "sliced"),
    // What the kernel copies (`pull`) is for what takes too many turns.
    (Collective::AllGather, ANY, ANY, "flat"),
    (Collective::AllGather, ANY, ANY, "pull"),
    (Collective::Broadcast, ANY, ANY, "flat"),
    (Collective::Broadcast, ANY, ANY, "pull"),
    (Collective::Gather, ANY, ANY, "flat"),
    (Collective::Gather, ANY, ANY, "pull"),
    (Collective::Scatter, ANY, ANY, "flat"),
    (Collective::Scatter, ANY, ANY, "pull"),
    (Collective::AllToAll, ANY, ANY, "flat"),
    (Collective::AllToAll, ANY, ANY, "pull"),
    // By messages.
    (Collective::AllReduce, 32 << 10, ANY, "recursive_doubling"),
    // Under fixed order, where the line above serves powers of two only.
    (Collective::AllReduce, 32 << 10, ANY, "binomial_tree"),
    (Collective::AllReduce, 256 << 10, 2, "recursive_doubling"),
    (Collective::AllReduce, 512 << 10, ANY, "halving_doubling"),
    // The more ranks, the more bytes it takes until a ring's many steps are worth it.
    (Collective::AllReduce, 2 << 20, MEASURED, "ring"),
    (Collective::AllReduce, 2 << 20, ANY, "halving_doubling"),
    (Collective::AllReduce, 8 << 20, 12, "ring"),
    (Collective::AllReduce, 8 << 20, ANY, "halving_doubling"),
    (Collective::AllReduce, 32 << 20, 32, "ring"),
    (Collective::AllReduce, 32 << 20, ANY, "halving_doubling"),
    (Collective::AllReduce, 128 << 20, 64, "ring"),
    (Collective::AllReduce, 128 << 20, ANY, "double_binary_tree"),
    (Collective::AllReduce, ANY, 512, "ring"),
    (Collective::AllReduce, ANY, ANY, "double_binary_tree"),
    (Collective::AllReduce, ANY, ANY, "halving_doubling"),
    (Collective::Barrier, ANY, ANY, "recursive_doubling"),
    (Collective::Reduce, 64 << 10, ANY, "binomial_tree"),
    (Collective::Reduce, 1 << 20, MEASURED, "binomial_tree"),
    (Collective::Reduce, 1 << 20, ANY, "halving_doubling"),
    (Collective::Reduce, ANY, MEASURED, "pipeline"),
    (Collective::Reduce, ANY, ANY, "double_binary_tree"),
    (Collective::Reduce, ANY, ANY, "halving_doubling"),
    (Collective::ReduceScatter, 256 << 10, 64, "halving_doubling"),
    (Collective::ReduceScatter, 1 << 20, 3, "pairwise"),
    (Collective::ReduceScatter, ANY, MEASURED, "ring"),
    // Everybody to everybody: as long as connections are few.
    (Collective::ReduceScatter, 16 << 20, 128, "pairwise"),
    (Collective::ReduceScatter, ANY, ANY, "ring"),
    (Collective::ReduceScatter, ANY, ANY, "halving_doubling"),
    (Collective::AllGather, 64 << 10, ANY, "recursive_doubling"),
    (Collective::AllGather, 4 << 20, MEASURED, "ring"),
    (Collective::AllGather, 4 << 20, ANY, "recursive_doubling"),
    (Collective::AllGather, 32 << 20, 64, "ring"),
    (Collective::AllGather, 32 << 20, ANY, "recursive_doubling"),
    (Collective::AllGather, ANY, ANY, "ring"),
    (Collective::Broadcast, 512 << 10, ANY, "binomial_tree"),
    (Collective::Broadcast, ANY, 16, "pipeline"),
    (Collective::Broadcast, ANY, ANY, "double_binary_tree"),
    (Collective::Gather, 64 << 10, ANY, "binomial_tree"),
    (Collective::Gather, ANY, ANY, "direct"),
    (Collective::Scatter, 64 << 10, ANY, "binomial_tree"),
    (Collective::Scatter, ANY, ANY, "direct"),
    (Collective::AllToAll, ANY, 4, "pairwise"),
    (Collective::AllToAll, 32 << 10, ANY, "bruck"),
    (Collective::AllToAll, 1 << 20, 64, "pairwise"),
    (Collective::AllToAll, 1 << 20, ANY, "bruck"),
    (Collective::AllToAll, ANY, ANY, "pairwise"),
];

/// The same of groups in [`Levels`](super::Levels), for what these [take](super::Levels::takes).
const RULES_OF_LEVELS: &[(Collective, usize, usize, &str)] = &[
    (Collective::AllReduce, 64 << 10, ANY, "hierarchical_tree"),
    (Collective::AllReduce, ANY, ANY, "hierarchical_ring"),
    (Collective::Barrier, ANY, ANY, "hierarchical_tree"),
    (Collective::Reduce, ANY, ANY, "hierarchical_tree"),
    (Collective::Broadcast, ANY, ANY, "hierarchical_tree"),
    (Collective::ReduceScatter, ANY, ANY, "hierarchical_ring"),
    (Collective::AllGather, ANY, ANY, "hierarchical_ring"),
];

fn rules(of: &[(Collective, usize, usize, &str)]) -> impl Iterator<Item = Rule> {
    of.iter().map(|&(collective, bytes, world, name)| Rule {
        collective,
        bytes,
        world,
        algorithm: Algorithm::named(name).expect("the table names algorithms that exist"),
    })
}

/// What counts where a table says nothing.
static DEFAULT: LazyLock<Table> = LazyLock::new(|| {
    let mut table = Table { rules: rules(RULES).collect(), slice_bytes: 1 << 20 };
    table.sort();
    table
});

/// The default table with the rules of levels ahead of all others.
static OF_LEVELS: LazyLock<Table> = LazyLock::new(|| {
    let rules = rules(RULES_OF_LEVELS).chain(DEFAULT.rules.iter().cloned()).collect();
    let mut table = Table { rules, ..DEFAULT.clone() };
    table.sort();
    table
});

impl Default for Table {
    fn default() -> Self {
        DEFAULT.clone()
    }
}

impl Table {
    /// The default table, where it is.
    pub(crate) fn standard() -> &'static Table {
        &DEFAULT
    }

    /// The default table of groups in [`Levels`](super::Levels): its first rules are for what is carried out level by level.
    ///
    /// ```
    /// use ringfold::plan::select::Table;
    /// assert!(Table::of_levels().to_string().starts_with("all_reduce: ..64K hierarchical_tree, .. hierarchical_ring, "));
    /// ```
    pub fn of_levels() -> &'static Table {
        &OF_LEVELS
    }

    /// The schedule for a request among ranks that send each other messages.
    ///
    /// # Errors
    /// As [`select_within`](Table::select_within).
    pub fn select(&self, request: &Request) -> Result<Schedule> {
        self.select_within(Reach::Messages, request)
    }

    /// The schedule for a request among ranks that reach so much of each other. The same on every rank that asks for the
    /// same. Rules whose algorithms need more are passed over; where none fits, those of the default table count.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) where no rule's algorithm can do it.
    pub fn select_within(&self, reach: Reach, request: &Request) -> Result<Schedule> {
        self.find(reach, request)
            .or_else(|| DEFAULT.find(reach, request))
            .map(|algorithm| self.schedule(request, algorithm))
            .ok_or_else(|| {
                Error::unsupported(format!(
                    "no algorithm does {} among {} ranks in this order",
                    request.collective, request.world
                ))
                .remedy("ask for the default order")
            })
    }

    fn find(&self, reach: Reach, request: &Request) -> Option<Algorithm> {
        let bytes = Table::agreed_bytes(request);
        self.rules
            .iter()
            .filter(|rule| rule.collective == request.collective)
            .filter(|rule| bytes <= rule.bytes && request.world <= rule.world)
            .find(|rule| rule.algorithm.needs() <= reach && rule.algorithm.supports(request))
            .map(|rule| rule.algorithm)
    }

    /// The bytes that all ranks know of, and choices may depend on: of the whole message, or of the concatenation
    /// of all blocks. Counts between pairs are not known to all, and count as none.
    pub fn agreed_bytes(request: &Request) -> usize {
        let elements = match &request.counts {
            Counts::Pairwise { .. } | Counts::Messages { .. } => 0,
            _ if request.collective.has_blocks() => request.blocks_end(),
            Counts::Same(count) if request.collective == Collective::AllToAll => {
                count.saturating_mul(request.world)
            }
            _ => request.whole(),
        };
        elements.saturating_mul(request.element_size())
    }

    /// A schedule for what needs none: messages.
    pub(crate) fn any_schedule(&self) -> Schedule {
        Schedule::whole(Algorithm::all().next().expect("there are algorithms"))
    }

    /// The schedule for an algorithm that somebody has chosen.
    pub fn schedule(&self, request: &Request, algorithm: Algorithm) -> Schedule {
        let bytes = algorithm.slice_bytes(request).unwrap_or(self.slice_bytes);
        Schedule { algorithm, slice: (bytes / request.element_size()).max(1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::Order;
    use crate::tensor::DType;

    #[test]
    fn every_request_finds_an_algorithm() {
        let table = Table::default();
        for collective in Collective::ALL {
            for world in [1, 2, 3, 8, 100, 5000] {
                for count in [0, 1, 1000, 1 << 24] {
                    let request = Request::new(collective, world, DType::F32, count);
                    let schedule = table.select(&request).unwrap();
                    assert!(schedule.algorithm.check(&request).is_ok());
                }
            }
        }
    }

    #[test]
    fn what_takes_more_turns_than_a_flag_counts_does_not_go_by_turns() {
        let chosen = |collective, bytes: usize| {
            let request = Request::new(collective, 2, DType::F32, bytes / 4);
            Table::default().select_within(Reach::Memory, &request).unwrap().algorithm.name()
        };
        for collective in [Collective::Broadcast, Collective::AllReduce, Collective::Reduce] {
            assert_eq!(chosen(collective, 7 << 30), "flat", "{collective}");
            assert_ne!(chosen(collective, 8 << 30), "flat", "{collective}");
        }
    }

    #[test]
    fn many_ranks_do_not_go_round_a_ring_for_little() {
        let table = Table::default();
        for (world, bytes, name) in [
            (8, 1 << 20, "ring"),
            (64, 1 << 20, "halving_doubling"),
            (16, 16 << 20, "ring"),
            (64, 16 << 20, "halving_doubling"),
            (512, 64 << 20, "double_binary_tree"),
            (512, 1 << 30, "ring"),
            (10_000, 1 << 30, "double_binary_tree"),
        ] {
            let request = Request::new(Collective::AllReduce, world, DType::F32, bytes / 4);
            assert_eq!(
                table.select(&request).unwrap().algorithm.name(),
                name,
                "{world} ranks, {bytes} bytes"
            );
        }
    }

    #[test]
    fn fixed_order_is_found_for_sums_of_any_number_of_ranks() {
        let table = Table::default();
        let chosen = |collective, world, bytes: usize| {
            let mut request = Request::new(collective, world, DType::F32, bytes / 4);
            request.order = Order::Fixed;
            table.select(&request).unwrap().algorithm.name()
        };
        for world in 1..20 {
            for collective in [Collective::AllReduce, Collective::Reduce, Collective::ReduceScatter] {
                for bytes in [0, 8, 1 << 10, 1 << 20, 1 << 24] {
                    chosen(collective, world, bytes);
                }
            }
            // Fixed order is not a ring's, nor a double tree's, but for two ranks.
            let large = if world <= 2 { "ring" } else { "halving_doubling" };
            assert_eq!(chosen(Collective::AllReduce, world, 4 << 20), large, "{world} ranks");
        }
        assert_eq!(chosen(Collective::AllReduce, 8, 8), "recursive_doubling");
        assert_eq!(chosen(Collective::AllReduce, 6, 8), "binomial_tree");
    }
}
