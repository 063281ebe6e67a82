//! The calls of MPI's that an operation becomes: one, unless it is larger than MPI's counts.

use crate::collective::{Collective, Counts, Request};
use std::collections::VecDeque;
use std::ops::Range;

/// One call, or what comes in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Round {
    /// Nobody leaves before everybody has come.
    Barrier,
    /// These elements of what all ranks have as a whole.
    Whole(Range<usize>),
    /// All blocks, with counts that MPI's `int` holds.
    Blocks,
    /// All blocks, each described by itself.
    Described,
    /// These elements of the input of a reduce_scatter, which are of this rank's block.
    Part(usize, Range<usize>),
    /// Messages.
    Messages,
}

/// The rounds of a request, of which no call is to move more than `limit` bytes of one rank's memory: the same on every rank. The first,
/// and those after it.
pub(super) fn rounds(request: &Request, limit: usize) -> (Round, VecDeque<Round>) {
    let size = request.element_size();
    let none = VecDeque::new();
    let fits = |elements: usize| elements.saturating_mul(size) <= limit;
    match request.collective {
        Collective::Barrier => (Round::Barrier, none),
        Collective::AllReduce | Collective::Reduce | Collective::Broadcast => {
            let whole = request.whole();
            if fits(whole) {
                return (Round::Whole(0..whole), none);
            }
            let mut all: VecDeque<Round> = cut(0..whole, limit / size).map(Round::Whole).collect();
            (all.pop_front().unwrap_or(Round::Whole(0..0)), all)
        }
        Collective::ReduceScatter => {
            if fits(request.blocks_end()) {
                return (Round::Blocks, none);
            }
            let blocks = request.blocks().into_iter().enumerate();
            let parts = |(rank, block)| cut(block, limit / size).map(move |range| Round::Part(rank, range));
            let mut all: VecDeque<Round> = blocks.flat_map(parts).collect();
            (all.pop_front().unwrap_or(Round::Blocks), all)
        }
        Collective::SendRecv => (Round::Messages, none),
        // What goes between pairs is known to them only.
        _ if matches!(request.counts, Counts::Pairwise { .. }) => (Round::Described, none),
        Collective::AllToAll => {
            let all = request.send_block(0, request.world - 1).end;
            (if fits(all) { Round::Blocks } else { Round::Described }, none)
        }
        _ => (if fits(request.blocks_end()) { Round::Blocks } else { Round::Described }, none),
    }
}

/// Ranges of at most so many elements.
fn cut(whole: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
    let end = whole.end;
    whole.step_by(most.max(1)).map(move |at| at..end.min(at + most.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;

    fn all(collective: Collective, count: usize, limit: usize) -> Vec<Round> {
        let request = Request::new(collective, 3, DType::F32, count);
        let (first, rest) = rounds(&request, limit);
        std::iter::once(first).chain(rest).collect()
    }

    #[test]
    fn what_fits_is_one_call() {
        for collective in Collective::ALL {
            for count in [0, 1, 100] {
                assert_eq!(all(collective, count, 1200).len(), 1, "{collective}");
            }
        }
        assert_eq!(all(Collective::AllGather, 100, 1200), [Round::Blocks]);
        assert_eq!(all(Collective::AllGather, 101, 1200), [Round::Described]);
        assert_eq!(all(Collective::AllToAll, 101, 1200), [Round::Described]);
    }

    #[test]
    fn what_does_not_is_cut_without_a_gap() {
        let whole: Vec<_> = [0..25, 25..50, 50..75, 75..99].into_iter().map(Round::Whole).collect();
        assert_eq!(all(Collective::AllReduce, 99, 100), whole);
        let parts = [(0, 0..25), (0, 25..30), (1, 30..55), (1, 55..60), (2, 60..85), (2, 85..90)];
        let parts: Vec<_> = parts.into_iter().map(|(rank, range)| Round::Part(rank, range)).collect();
        assert_eq!(all(Collective::ReduceScatter, 30, 100), parts);
        // Blocks of which some are empty, and elements that are larger than the limit.
        let mut request = Request::new(Collective::ReduceScatter, 3, DType::F64, 0);
        request.counts = Counts::PerRank([0, 2, 0].into());
        let (first, rest) = rounds(&request, 7);
        assert_eq!((first, rest), (Round::Part(1, 0..1), [Round::Part(1, 1..2)].into()));
    }
}
