//! Which algorithm carries out a request, where nobody says: a table.
//!
//! Every rank must choose alike, so the table looks only at what is agreed: collective, bytes, world size and order.
//! The limits are those measured over loopback TCP; a cost model takes their place when networks are measured.

use super::{Algorithm, Schedule};
use crate::collective::{Collective, Counts, Request};
use crate::error::{Error, Result};

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

/// (collective, up to bytes, up to ranks, algorithm)
const RULES: &[(Collective, usize, usize, &str)] = &[
    (Collective::AllReduce, 32 << 10, usize::MAX, "recursive_doubling"),
    (Collective::AllReduce, 256 << 10, 2, "recursive_doubling"),
    (Collective::AllReduce, 512 << 10, usize::MAX, "halving_doubling"),
    (Collective::AllReduce, usize::MAX, usize::MAX, "ring"),
    (Collective::AllReduce, usize::MAX, usize::MAX, "halving_doubling"),
    (Collective::AllReduce, usize::MAX, usize::MAX, "binomial_tree"),
    (Collective::Barrier, usize::MAX, usize::MAX, "recursive_doubling"),
    (Collective::Reduce, 1 << 20, usize::MAX, "binomial_tree"),
    (Collective::Reduce, usize::MAX, usize::MAX, "ring"),
    (Collective::Reduce, usize::MAX, usize::MAX, "binomial_tree"),
    (Collective::ReduceScatter, 256 << 10, 64, "halving_doubling"),
    (Collective::ReduceScatter, usize::MAX, 8, "pairwise"),
    (Collective::ReduceScatter, usize::MAX, usize::MAX, "ring"),
    (Collective::ReduceScatter, usize::MAX, usize::MAX, "halving_doubling"),
    (Collective::AllGather, 64 << 10, usize::MAX, "recursive_doubling"),
    (Collective::AllGather, usize::MAX, usize::MAX, "ring"),
    (Collective::Broadcast, 512 << 10, usize::MAX, "binomial_tree"),
    (Collective::Broadcast, usize::MAX, usize::MAX, "ring"),
    (Collective::Gather, 64 << 10, usize::MAX, "binomial_tree"),
    (Collective::Gather, usize::MAX, usize::MAX, "direct"),
    (Collective::Scatter, 64 << 10, usize::MAX, "binomial_tree"),
    (Collective::Scatter, usize::MAX, usize::MAX, "direct"),
    (Collective::AllToAll, usize::MAX, usize::MAX, "pairwise"),
];

impl Default for Table {
    fn default() -> Self {
        let rules = RULES
            .iter()
            .map(|&(collective, bytes, world, name)| Rule {
                collective,
                bytes,
                world,
                algorithm: Algorithm::named(name).expect("the table names algorithms that exist"),
            })
            .collect();
        Table { rules, slice_bytes: 1 << 20 }
    }
}

impl Table {
    /// The schedule for a request. The same on every rank that asks for the same.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) where no rule's algorithm can do it.
    pub fn select(&self, request: &Request) -> Result<Schedule> {
        let bytes = Table::agreed_bytes(request);
        self.rules
            .iter()
            .filter(|rule| rule.collective == request.collective)
            .filter(|rule| bytes <= rule.bytes && request.world <= rule.world)
            .find(|rule| rule.algorithm.check(request).is_ok())
            .map(|rule| self.schedule(request, rule.algorithm))
            .ok_or_else(|| {
                Error::unsupported(format!(
                    "no algorithm does {} among {} ranks in this order",
                    request.collective, request.world
                ))
                .remedy("ask for the default order")
            })
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
        elements.saturating_mul(request.dtype.size())
    }

    /// A schedule for what needs none: messages.
    pub(crate) fn any_schedule(&self) -> Schedule {
        Schedule::whole(Algorithm::all().next().expect("there are algorithms"))
    }

    /// The schedule for an algorithm that somebody has chosen.
    pub fn schedule(&self, request: &Request, algorithm: Algorithm) -> Schedule {
        Schedule { algorithm, slice: (self.slice_bytes / request.dtype.size()).max(1) }
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
    fn fixed_order_is_found_for_sums_of_any_number_of_ranks() {
        let table = Table::default();
        for world in 1..20 {
            let mut request = Request::new(Collective::AllReduce, world, DType::F32, 1 << 20);
            request.order = Order::Fixed;
            let chosen = table.select(&request).unwrap().algorithm.name();
            let expected = match world {
                1 | 2 => "ring",
                _ if world.is_power_of_two() => "halving_doubling",
                _ => "binomial_tree",
            };
            assert_eq!(chosen, expected, "{world} ranks");
        }
    }
}
