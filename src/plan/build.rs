//! What algorithms write plans with.

use super::{Place, Plan, Region, Span, Step, Topology};
use crate::collective::Request;
use std::ops::Range;

/// Collects the steps of one rank's plan.
pub struct Builder<'a> {
    topology: &'a Topology,
    request: &'a Request,
    rank: usize,
    slice: usize,
    /// Scratch elements in use, and the most that ever were.
    scratch: usize,
    most_scratch: usize,
    /// Elements of this rank's slot.
    slot: usize,
    steps: Vec<Step>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(topology: &'a Topology, request: &'a Request, rank: usize, slice: usize) -> Self {
        Builder {
            topology,
            request,
            rank,
            slice: slice.max(1),
            scratch: 0,
            most_scratch: 0,
            slot: 0,
            steps: Vec::new(),
        }
    }

    pub(super) fn finish(self, algorithm: &str) -> Plan {
        Plan {
            request: self.request.clone(),
            rank: self.rank,
            algorithm: algorithm.to_owned(),
            scratch: self.most_scratch,
            slot: self.slot,
            steps: self.steps,
        }
    }

    /// Which ranks share a host.
    pub fn topology(&self) -> &'a Topology {
        self.topology
    }

    /// What the plan is for.
    pub fn request(&self) -> &'a Request {
        self.request
    }

    /// Whose plan it is.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The number of ranks.
    pub fn world(&self) -> usize {
        self.request.world
    }

    /// Whether this rank's input and output are one.
    pub fn in_place(&self) -> bool {
        self.request.aliasing(self.rank).is_some()
    }

    /// The rank `distance` places further round the ring.
    pub fn after(&self, distance: usize) -> usize {
        (self.rank + distance) % self.world()
    }

    /// The rank `distance` places back round the ring.
    pub fn before(&self, distance: usize) -> usize {
        (self.rank + self.world() - distance % self.world()) % self.world()
    }

    /// A span of the input.
    pub fn input(&self, range: Range<usize>) -> Span {
        Span { place: Place::Input, start: range.start, len: range.len() }
    }

    /// A span of the output.
    pub fn output(&self, range: Range<usize>) -> Span {
        Span { place: Place::Output, start: range.start, len: range.len() }
    }

    /// The other ranks, beginning with the next one, so that not all begin with the same.
    pub fn others(&self) -> Vec<usize> {
        (1..self.world()).map(|distance| self.after(distance)).collect()
    }

    /// A span of this rank's slot, which is made as long as that needs.
    pub fn slot(&mut self, range: Range<usize>) -> Span {
        self.slot = self.slot.max(range.end);
        Span { place: Place::Slot, start: range.start, len: range.len() }
    }

    /// A span of another rank's memory.
    pub fn peer(&self, rank: usize, region: Region, range: Range<usize>) -> Span {
        Span { place: Place::Peer { rank, region }, start: range.start, len: range.len() }
    }

    /// New scratch memory of this many elements.
    pub fn scratch(&mut self, len: usize) -> Span {
        let start = self.scratch;
        self.scratch += len;
        self.most_scratch = self.most_scratch.max(self.scratch);
        Span { place: Place::Scratch, start, len }
    }

    /// Gives back all scratch memory that `body` took, for the next portion to use again.
    pub fn with_scratch(&mut self, body: impl FnOnce(&mut Self)) {
        let before = self.scratch;
        body(self);
        self.scratch = before;
    }

    /// Cuts blocks into the portions that the schedule takes at a time: `blocks[i]` of portion s is
    /// block i's s-th part. There is one portion at least, and every rank cuts alike.
    pub fn slices(&self, blocks: &[Range<usize>]) -> Vec<Vec<Range<usize>>> {
        let longest = blocks.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let portions = longest.div_ceil(self.slice).max(1);
        let step = longest.div_ceil(portions);
        (0..portions)
            .map(|portion| {
                blocks
                    .iter()
                    .map(|block| {
                        let at = |portion: usize| (block.start + portion * step).min(block.end);
                        at(portion)..if portion + 1 == portions { block.end } else { at(portion + 1) }
                    })
                    .collect()
            })
            .collect()
    }

    /// The portions of a message that is one block.
    pub fn portions(&self) -> Vec<Range<usize>> {
        let whole = 0..self.request.whole();
        self.slices(std::slice::from_ref(&whole)).into_iter().flatten().collect()
    }

    /// Cuts a message that is one block into portions of consecutive elements, such that the `parts`-th part of a
    /// portion is at most a slice. There is one portion at least, and every rank cuts alike.
    pub fn stretches(&self, parts: usize) -> Vec<Range<usize>> {
        let whole = self.request.whole();
        split_evenly(whole, whole.div_ceil(self.slice.saturating_mul(parts)).max(1))
    }

    /// Adds a send.
    pub fn send(&mut self, range: Span, to: usize) {
        self.steps.push(Step::Send { range, to });
    }

    /// Adds a receive.
    pub fn recv(&mut self, range: Span, from: usize) {
        self.steps.push(Step::Recv { range, from });
    }

    /// Adds a receive that reduces.
    pub fn recv_reduce(&mut self, into: Span, local: Span, from: usize) {
        self.steps.push(Step::RecvReduce { into, local, from });
    }

    /// Adds a copy, unless there is nothing to copy.
    pub fn copy(&mut self, source: Span, into: Span) {
        if source.len > 0 && source != into {
            self.steps.push(Step::Copy { source, into });
        }
    }

    /// Adds a fold, unless it is of nothing. Sources in rank order make it that of fixed order, too.
    pub fn fold(&mut self, sources: Vec<Span>, into: Span) {
        if into.len > 0 {
            self.steps.push(Step::Fold { sources, into });
        }
    }

    /// Adds a signal.
    pub fn signal(&mut self, flag: u32) {
        self.steps.push(Step::Signal { flag });
    }

    /// Adds a wait for a rank's flag.
    pub fn wait(&mut self, rank: usize, flag: u32, value: usize) {
        self.steps.push(Step::Wait { rank, flag, value: value as u32 });
    }

    /// Adds waits for everybody else's flag.
    pub fn wait_for_all(&mut self, flag: u32, value: usize) {
        for rank in self.others() {
            self.wait(rank, flag, value);
        }
    }

    /// Adds the last touch to a reduced range.
    pub fn finish_range(&mut self, range: Span) {
        if range.len > 0 {
            self.steps.push(Step::Finish { range });
        }
    }
}

/// Divides `0..count` into `parts` consecutive ranges whose lengths differ by at most one, the longer ones first.
pub(crate) fn split_evenly(count: usize, parts: usize) -> Vec<Range<usize>> {
    let (base, longer) = (count / parts, count % parts);
    let mut start = 0;
    (0..parts)
        .map(|part| {
            start += base + usize::from(part < longer);
            start - base - usize::from(part < longer)..start
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::Collective;
    use crate::tensor::DType;

    #[test]
    fn even_splits_cover_and_are_monotone() {
        for count in 0..40 {
            for parts in 1..12 {
                let ranges = split_evenly(count, parts);
                assert_eq!(ranges.len(), parts);
                assert_eq!((ranges[0].start, ranges[parts - 1].end), (0, count));
                assert!(
                    ranges
                        .windows(2)
                        .all(|pair| pair[0].end == pair[1].start && pair[0].len() >= pair[1].len())
                );
                assert!(ranges[0].len() - ranges[parts - 1].len() <= 1);
            }
        }
    }

    #[test]
    fn slices_cover_every_block() {
        let topology = Topology::default();
        let request = Request::new(Collective::AllReduce, 3, DType::F32, 0);
        for slice in [1, 2, 3, 7, usize::MAX] {
            let builder = Builder::new(&topology, &request, 0, slice);
            let blocks = [0..5, 5..9, 9..9];
            let slices = builder.slices(&blocks);
            for (i, block) in blocks.iter().enumerate() {
                let mut at = block.start;
                for portion in &slices {
                    assert_eq!(portion[i].start, at);
                    assert!(portion[i].len() <= slice);
                    at = portion[i].end;
                }
                assert_eq!(at, block.end);
            }
        }
    }
}
