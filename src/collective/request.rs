//! A collective with everything that a schedule depends on: counts, root, operation, world size.

use crate::error::{Error, Result};
use crate::reduce::{ReduceOp, Signature, WIDEST};
use crate::tensor::DType;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

/// The collectives. The numbers are those of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
#[non_exhaustive]
pub enum Collective {
    /// Every rank gets the reduction of all inputs.
    AllReduce = 1,
    /// The root gets the reduction of all inputs.
    Reduce = 2,
    /// Rank r gets block r of the reduction of all inputs.
    ReduceScatter = 3,
    /// Every rank gets the inputs of all ranks, one after another.
    AllGather = 4,
    /// Every rank gets the root's input.
    Broadcast = 5,
    /// The root gets the inputs of all ranks, one after another.
    Gather = 6,
    /// Rank r gets block r of the root's input.
    Scatter = 7,
    /// Rank r gets block r of every rank's input, one after another.
    AllToAll = 8,
    /// Nobody leaves before everybody has come. Planned as an all_reduce of one byte.
    Barrier = 9,
    /// One message to a peer, one from a peer, or both at once.
    SendRecv = 10,
}

impl Collective {
    /// Those that concern the whole group: everything but [`Collective::SendRecv`].
    pub const ALL: [Collective; 9] = [
        Collective::AllReduce,
        Collective::Reduce,
        Collective::ReduceScatter,
        Collective::AllGather,
        Collective::Broadcast,
        Collective::Gather,
        Collective::Scatter,
        Collective::AllToAll,
        Collective::Barrier,
    ];

    /// The name in the API and on the command line: `all_reduce`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Collective::AllReduce => "all_reduce",
            Collective::Reduce => "reduce",
            Collective::ReduceScatter => "reduce_scatter",
            Collective::AllGather => "all_gather",
            Collective::Broadcast => "broadcast",
            Collective::Gather => "gather",
            Collective::Scatter => "scatter",
            Collective::AllToAll => "all_to_all",
            Collective::Barrier => "barrier",
            Collective::SendRecv => "send_recv",
        }
    }

    /// The collective with this number on the wire.
    pub fn from_wire(number: u8) -> Option<Self> {
        Collective::ALL.into_iter().chain([Collective::SendRecv]).find(|c| *c as u8 == number)
    }

    /// Whether contributions are combined.
    pub const fn reduces(self) -> bool {
        matches!(
            self,
            Collective::AllReduce | Collective::Reduce | Collective::ReduceScatter | Collective::Barrier
        )
    }

    /// Whether the order in which contributions are combined can be seen in the result. A barrier reduces too, but
    /// nobody sees what.
    pub const fn combines(self) -> bool {
        self.reduces() && !matches!(self, Collective::Barrier)
    }

    /// Whether one rank plays a part of its own.
    pub const fn is_rooted(self) -> bool {
        matches!(self, Collective::Reduce | Collective::Broadcast | Collective::Gather | Collective::Scatter)
    }

    /// Whether the data is divided into one block a rank.
    pub const fn has_blocks(self) -> bool {
        matches!(
            self,
            Collective::ReduceScatter | Collective::AllGather | Collective::Gather | Collective::Scatter
        )
    }
}

impl fmt::Display for Collective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Collective {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Collective::ALL.into_iter().find(|c| c.as_str() == name).ok_or_else(|| {
            let names: Vec<_> = Collective::ALL.iter().map(|c| c.as_str()).collect();
            Error::invalid(format!("no collective is called {name:?}"))
                .remedy(format!("use one of {}", names.join(", ")))
        })
    }
}

/// What is promised about the order in which contributions are combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
#[non_exhaustive]
pub enum Order {
    /// The same bits on every rank, run after run; they may depend on the algorithm and its slicing.
    #[default]
    Default = 0,
    /// The bits of a balanced binary tree over rank order, whatever the algorithm, the transport, the sizes of slices and
    /// buffers, and the hosts of the ranks. Ranks 0 to 2^k - 1, 2^k being the largest power of two below the number of
    /// ranks, are one operand of the last combination and the rest is the other; and so on in each of them.
    Fixed = 1,
}

impl Order {
    /// The word for it, as on the command line: `default`, `fixed`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Order::Default => "default",
            Order::Fixed => "fixed",
        }
    }
}

/// How many elements go where.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Counts {
    /// One number for all: the whole message of all_reduce, reduce and broadcast; one rank's block of
    /// reduce_scatter, all_gather, gather and scatter; one block of all_to_all.
    Same(usize),
    /// One number a rank, the same list on every rank: reduce_scatter, all_gather, gather and scatter.
    PerRank(Arc<[usize]>),
    /// What this rank sends to and receives from each rank: all_to_all.
    Pairwise {
        /// The rank whose counts these are.
        rank: usize,
        /// Elements sent to each rank.
        send: Arc<[usize]>,
        /// Elements received from each rank.
        receive: Arc<[usize]>,
    },
    /// The message that this rank sends and the one that it receives: the other rank, and how many elements.
    Messages {
        /// The rank whose messages these are.
        rank: usize,
        /// To whom, how many.
        send: Option<(usize, usize)>,
        /// From whom, how many.
        receive: Option<(usize, usize)>,
    },
}

/// Everything that a schedule depends on, as one rank sees it.
///
/// All of it must be the same on every rank, except `in_place` and counts that are between pairs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// What is asked.
    pub collective: Collective,
    /// The element type.
    pub dtype: DType,
    /// The reduction, of collectives that reduce; none where it is the user's own.
    pub op: Option<ReduceOp>,
    /// What is agreed of the user's own reduction; all counts are then in values of its width.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom: Option<Signature>,
    /// The root, of rooted collectives; else 0.
    pub root: usize,
    /// The number of ranks.
    pub world: usize,
    /// How many elements go where.
    pub counts: Counts,
    /// What is promised about the order of combination.
    #[serde(default)]
    pub order: Order,
    /// Whether this rank's input and output share memory, as [`Request::in_place_shift`] says.
    #[serde(default)]
    pub in_place: bool,
}

impl Request {
    /// A request with one count for all, out of place, root 0, default order; the reduction is `Sum` where the
    /// collective reduces.
    pub fn new(collective: Collective, world: usize, dtype: DType, count: usize) -> Self {
        let (dtype, op, count) = match collective {
            Collective::Barrier => (DType::U8, Some(ReduceOp::BitOr), 1),
            c if c.reduces() => (dtype, Some(ReduceOp::Sum), count),
            _ => (dtype, None, count),
        };
        Request {
            collective,
            dtype,
            op,
            custom: None,
            root: 0,
            world,
            counts: Counts::Same(count),
            order: Order::Default,
            in_place: false,
        }
    }

    /// Checks what one rank can check alone: root, list lengths, sums that overflow, operation and type.
    pub fn validate(&self) -> Result<()> {
        let world = self.world;
        if world == 0 {
            return Err(Error::invalid("a group of no ranks"));
        }
        if self.root >= world {
            return Err(Error::invalid(format!("root {} in a group of {world} ranks", self.root))
                .remedy(format!("pass a root from 0 to {}", world - 1)));
        }
        if let Some(custom) = self.custom {
            self.validate_custom(&custom)?;
        }
        match (self.op, self.collective.reduces()) {
            (None, true) if self.custom.is_some() => {}
            (Some(op), true) => op.check(self.dtype)?,
            (None, false) => {}
            (None, true) => return Err(Error::invalid(format!("{} without a reduction", self.collective))),
            (Some(op), false) => {
                return Err(Error::invalid(format!("{} with the reduction {op}", self.collective)));
            }
        }
        let sums: [Option<usize>; 2] = match &self.counts {
            Counts::Same(count) => {
                let blocks = if self.collective.has_blocks() || self.collective == Collective::AllToAll {
                    world
                } else {
                    1
                };
                [count.checked_mul(blocks), Some(0)]
            }
            Counts::PerRank(counts) => {
                if !self.collective.has_blocks() {
                    return Err(Error::invalid(format!(
                        "{} takes one count, not one a rank",
                        self.collective
                    )));
                }
                if counts.len() != world {
                    return Err(Error::invalid(format!("{} counts for {world} ranks", counts.len()))
                        .remedy("pass one count for each rank"));
                }
                [sum(counts), Some(0)]
            }
            Counts::Pairwise { rank, send, receive } => {
                if self.collective != Collective::AllToAll {
                    return Err(Error::invalid(format!("{} takes no pairwise counts", self.collective)));
                }
                if *rank >= world || send.len() != world || receive.len() != world {
                    return Err(Error::invalid(format!(
                        "{} send counts and {} receive counts for {world} ranks",
                        send.len(),
                        receive.len()
                    ))
                    .remedy("pass one count for each rank"));
                }
                if send[*rank] != receive[*rank] {
                    return Err(Error::invalid(format!(
                        "rank {rank} sends itself {} elements and expects {}",
                        send[*rank], receive[*rank]
                    )));
                }
                if self.in_place && send != receive {
                    return Err(Error::invalid(
                        "all_to_all in place with send and receive counts that differ",
                    ));
                }
                [sum(send), sum(receive)]
            }
            Counts::Messages { rank, send, receive } => {
                if self.collective != Collective::SendRecv {
                    return Err(Error::invalid(format!("{} is not a message", self.collective)));
                }
                for (peer, _) in send.iter().chain(receive) {
                    if *peer >= world {
                        return Err(Error::invalid(format!("rank {peer} in a group of {world} ranks"))
                            .remedy(format!("name a rank from 0 to {}", world - 1)));
                    }
                }
                let to_itself =
                    |message: &Option<(usize, usize)>| message.is_some_and(|(peer, _)| peer == *rank);
                if (to_itself(send) || to_itself(receive)) && send != receive {
                    return Err(Error::invalid(format!(
                        "rank {rank} sends to itself what it does not receive"
                    ))
                    .remedy("use send_recv with this rank on both sides and one length"));
                }
                [
                    send.map_or(Some(0), |(_, count)| Some(count)),
                    receive.map_or(Some(0), |(_, count)| Some(count)),
                ]
            }
        };
        if self.collective == Collective::SendRecv && !matches!(self.counts, Counts::Messages { .. }) {
            return Err(Error::invalid("a message without a rank to send it to or receive it from"));
        }
        let limit = isize::MAX as usize / self.element_size();
        if sums.iter().any(|sum| sum.is_none_or(|sum| sum > limit)) {
            return Err(Error::invalid(format!("the counts of this {} overflow", self.collective)));
        }
        Ok(())
    }

    fn validate_custom(&self, custom: &Signature) -> Result<()> {
        let width = custom.width as usize;
        if self.op.is_some() || !self.collective.combines() {
            return Err(Error::invalid(format!("{} with a reduction of the user's", self.collective)));
        }
        if width == 0 || width > WIDEST || (self.dtype != DType::U8 && width != self.dtype.size()) {
            return Err(Error::invalid(format!(
                "a reduction of values of {width} bytes over {}",
                self.dtype
            )));
        }
        if !custom.commutative && self.order != Order::Fixed {
            return Err(Error::invalid("a reduction that is not commutative, in any order")
                .remedy("ask for the fixed order, which is rank order"));
        }
        Ok(())
    }

    /// The bytes of one element: what counts count.
    pub fn element_size(&self) -> usize {
        self.custom.map_or(self.dtype.size(), |custom| custom.width as usize)
    }

    /// The elements that `rank` reads.
    pub fn input_len(&self, rank: usize) -> usize {
        match self.collective {
            Collective::AllReduce | Collective::Reduce | Collective::Barrier => self.whole(),
            Collective::Broadcast => self.if_root(rank, || self.whole()),
            Collective::ReduceScatter => self.blocks_end(),
            Collective::AllGather | Collective::Gather => self.block(rank).len(),
            Collective::Scatter => self.if_root(rank, || self.blocks_end()),
            Collective::AllToAll | Collective::SendRecv => self.send_block(rank, self.world - 1).end,
        }
    }

    /// The elements that `rank` writes.
    pub fn output_len(&self, rank: usize) -> usize {
        match self.collective {
            Collective::AllReduce | Collective::Broadcast | Collective::Barrier => self.whole(),
            Collective::Reduce => self.if_root(rank, || self.whole()),
            Collective::ReduceScatter | Collective::Scatter => self.block(rank).len(),
            Collective::AllGather => self.blocks_end(),
            Collective::Gather => self.if_root(rank, || self.blocks_end()),
            Collective::AllToAll | Collective::SendRecv => self.receive_block(rank, self.world - 1).end,
        }
    }

    /// The bytes that a rank has a part in: of its input or its output, whichever is larger.
    pub fn bytes(&self, rank: usize) -> usize {
        self.input_len(rank).max(self.output_len(rank)).saturating_mul(self.element_size())
    }

    /// How far input element 0 lies from output element 0 when `rank` works in place: input element i and
    /// output element i + shift are one. `None` where this rank has no in-place form (nothing to share).
    pub fn in_place_shift(&self, rank: usize) -> Option<isize> {
        let start = |rank| self.block(rank).start as isize;
        match self.collective {
            Collective::AllReduce | Collective::AllToAll | Collective::Barrier => Some(0),
            Collective::Reduce | Collective::Broadcast => (rank == self.root).then_some(0),
            Collective::AllGather => Some(start(rank)),
            Collective::ReduceScatter => Some(-start(rank)),
            Collective::Gather => (rank == self.root).then(|| start(rank)),
            Collective::Scatter => (rank == self.root).then(|| -start(rank)),
            Collective::SendRecv => None,
        }
    }

    /// The shift of [`in_place_shift`](Request::in_place_shift) where this request is in place.
    pub fn aliasing(&self, rank: usize) -> Option<isize> {
        if self.in_place { self.in_place_shift(rank) } else { None }
    }

    /// The count of collectives that have one message, not blocks.
    pub fn whole(&self) -> usize {
        match &self.counts {
            Counts::Same(count) => *count,
            _ => 0,
        }
    }

    /// The block of `rank` in the concatenation of all blocks, of collectives that have blocks.
    pub fn block(&self, rank: usize) -> Range<usize> {
        match &self.counts {
            Counts::Same(count) => rank * count..(rank + 1) * count,
            Counts::PerRank(counts) => {
                let start: usize = counts[..rank].iter().sum();
                start..start + counts[rank]
            }
            _ => 0..0,
        }
    }

    /// The end of the last block: the length of the concatenation of all blocks.
    pub fn blocks_end(&self) -> usize {
        self.block(self.world - 1).end
    }

    /// Every block's range, in rank order.
    pub fn blocks(&self) -> Vec<Range<usize>> {
        let mut start = 0;
        (0..self.world)
            .map(|rank| {
                let len = match &self.counts {
                    Counts::Same(count) => *count,
                    Counts::PerRank(counts) => counts[rank],
                    _ => 0,
                };
                start += len;
                start - len..start
            })
            .collect()
    }

    /// The part of `rank`'s input that goes to `to`, in all_to_all and send. Pairwise counts are known only to
    /// the rank itself.
    pub fn send_block(&self, rank: usize, to: usize) -> Range<usize> {
        match &self.counts {
            Counts::Same(count) => to * count..(to + 1) * count,
            Counts::Pairwise { rank: owner, send, .. } => {
                assert_eq!(rank, *owner, "pairwise counts are asked of the rank that has them");
                let start: usize = send[..to].iter().sum();
                start..start + send[to]
            }
            Counts::Messages { send: Some((peer, count)), .. } if *peer <= to => {
                if *peer == to {
                    0..*count
                } else {
                    *count..*count
                }
            }
            _ => 0..0,
        }
    }

    /// The part of `rank`'s output that comes from `from`, in all_to_all and recv.
    pub fn receive_block(&self, rank: usize, from: usize) -> Range<usize> {
        match &self.counts {
            Counts::Same(count) => from * count..(from + 1) * count,
            Counts::Pairwise { rank: owner, receive, .. } => {
                assert_eq!(rank, *owner, "pairwise counts are asked of the rank that has them");
                let start: usize = receive[..from].iter().sum();
                start..start + receive[from]
            }
            Counts::Messages { receive: Some((peer, count)), .. } if *peer <= from => {
                if *peer == from {
                    0..*count
                } else {
                    *count..*count
                }
            }
            _ => 0..0,
        }
    }

    fn if_root(&self, rank: usize, len: impl FnOnce() -> usize) -> usize {
        if rank == self.root { len() } else { 0 }
    }
}

fn sum(counts: &[usize]) -> Option<usize> {
    counts.iter().try_fold(0usize, |sum, &count| sum.checked_add(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_follow_the_definition_of_each_collective() {
        let lens = |collective, rank| {
            let mut request = Request::new(collective, 4, DType::F32, 3);
            request.root = 2;
            (request.input_len(rank), request.output_len(rank))
        };
        assert_eq!(lens(Collective::AllReduce, 1), (3, 3));
        assert_eq!(lens(Collective::Reduce, 1), (3, 0));
        assert_eq!(lens(Collective::Reduce, 2), (3, 3));
        assert_eq!(lens(Collective::ReduceScatter, 1), (12, 3));
        assert_eq!(lens(Collective::AllGather, 1), (3, 12));
        assert_eq!(lens(Collective::Broadcast, 1), (0, 3));
        assert_eq!(lens(Collective::Broadcast, 2), (3, 3));
        assert_eq!(lens(Collective::Gather, 1), (3, 0));
        assert_eq!(lens(Collective::Gather, 2), (3, 12));
        assert_eq!(lens(Collective::Scatter, 1), (0, 3));
        assert_eq!(lens(Collective::Scatter, 2), (12, 3));
        assert_eq!(lens(Collective::AllToAll, 1), (12, 12));
        assert_eq!(lens(Collective::Barrier, 1), (1, 1));
    }

    #[test]
    fn bad_requests_are_refused() {
        let good = Request::new(Collective::AllGather, 3, DType::F32, 5);
        assert!(good.validate().is_ok());
        assert!(Request { root: 3, ..good.clone() }.validate().unwrap_err().to_string().contains("root 3"));
        assert!(Request { world: 0, ..good.clone() }.validate().is_err());
        assert!(Request { counts: Counts::PerRank([1, 2].into()), ..good.clone() }.validate().is_err());
        assert!(Request { counts: Counts::Same(usize::MAX / 2), ..good.clone() }.validate().is_err());
        assert!(Request { op: Some(ReduceOp::Sum), ..good.clone() }.validate().is_err());
        let reduce = Request::new(Collective::AllReduce, 3, DType::F32, 5);
        assert!(Request { op: None, ..reduce.clone() }.validate().is_err());
        assert!(Request { op: Some(ReduceOp::BitAnd), ..reduce.clone() }.validate().is_err());
        assert!(Request { counts: Counts::PerRank([1, 2, 3].into()), ..reduce }.validate().is_err());
    }

    #[test]
    fn blocks_of_variable_counts() {
        let mut request = Request::new(Collective::AllGather, 3, DType::F32, 0);
        request.counts = Counts::PerRank([2, 0, 5].into());
        assert_eq!(request.blocks(), vec![0..2, 2..2, 2..7]);
        assert_eq!(request.block(2), 2..7);
        assert_eq!(request.blocks_end(), 7);
        request.in_place = true;
        assert_eq!(request.aliasing(2), Some(2));
    }
}
