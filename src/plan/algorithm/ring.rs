//! Ring: every rank talks to its two neighbours only, and all links carry the same load at all times.
//!
//! The message is cut into n blocks. In n - 1 steps each block travels once round the ring and is reduced on the
//! way (reduce-scatter); in n - 1 more steps the finished blocks travel round once again (all-gather). Each rank
//! sends 2(n-1)/n of the message, which is the least that any algorithm can do, in 2(n-1) steps: the choice
//! for large messages. Because a step's bytes are sent on as soon as they are reduced, the steps overlap and a
//! ring is one stream of bytes that flows past each rank.
//!
//! Vocabulary: a *circle* is the order in which ranks are visited, *next* and *previous* are a rank's neighbours in it, a
//! *window* holds one partial block between its arrival and its departure; two of them take turns.
//!
//! Source: P. Patarasuk, X. Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations",
//! J. Parallel Distrib. Comput. 69 (2009); for blocks of different lengths the bounds hold for the longest.

use super::Entry;
use crate::collective::Collective;
use crate::plan::build::split_evenly;
use crate::plan::{Builder, Span};
use std::ops::Range;

pub(super) const ENTRY: Entry = Entry {
    name: "ring",
    idea: "blocks travel round a ring: least bytes, 2(n-1) steps, for large messages",
    collectives: &[
        Collective::AllReduce,
        Collective::ReduceScatter,
        Collective::AllGather,
        Collective::Barrier,
    ],
    generate,
    ..Entry::DEFAULT
};

fn generate(b: &mut Builder<'_>) {
    let circle = Circle::new((0..b.world()).collect(), b.rank());
    match b.request().collective {
        Collective::ReduceScatter => blocks_to_owners(b, &circle),
        Collective::AllGather => blocks_to_all(b, &circle),
        _ => all_reduce(b, &circle),
    }
}

/// All that has to be done for an all_reduce among the ranks of a circle, who are all.
pub(super) fn all_reduce(b: &mut Builder<'_>, circle: &Circle) {
    let blocks = split_evenly(b.request().whole(), b.world());
    for portion in b.slices(&blocks) {
        let last = b.output(portion[circle.ahead(1)].clone());
        b.with_scratch(|b| {
            let windows = windows(b, circle.len(), &portion);
            let input = b.input(0..b.request().whole());
            reduce_scatter(b, circle, &portion, 0, (input, 0), &windows, last);
        });
        b.finish_range(last);
        all_gather(b, circle, &portion, 1, last);
    }
}

/// Ranks in a circle, as one of them sees it.
pub(super) struct Circle {
    ranks: Vec<usize>,
    place: usize,
}

impl Circle {
    /// The circle of these ranks, of which `rank` is one.
    pub(super) fn new(ranks: Vec<usize>, rank: usize) -> Self {
        let place = ranks.iter().position(|&other| other == rank).expect("the rank is in its circle");
        Circle { ranks, place }
    }

    pub(super) fn len(&self) -> usize {
        self.ranks.len()
    }

    /// The place so many steps ahead of this rank's.
    pub(super) fn ahead(&self, steps: usize) -> usize {
        (self.place + steps) % self.len()
    }

    /// The place so many steps behind this rank's.
    fn behind(&self, steps: usize) -> usize {
        (self.place + self.len() - steps % self.len()) % self.len()
    }

    fn next(&self) -> usize {
        self.ranks[self.ahead(1)]
    }

    fn previous(&self) -> usize {
        self.ranks[self.behind(1)]
    }

    /// The ranks' blocks by their places.
    fn in_order(&self, blocks: &[Range<usize>]) -> Vec<Range<usize>> {
        self.ranks.iter().map(|&rank| blocks[rank].clone()).collect()
    }
}

/// A reduce_scatter round this circle.
pub(super) fn blocks_to_owners(b: &mut Builder<'_>, circle: &Circle) {
    let blocks = circle.in_order(&b.request().blocks());
    let origin = blocks[circle.place].start;
    for portion in b.slices(&blocks) {
        let own = &portion[circle.place];
        let last = b.output(own.start - origin..own.end - origin);
        b.with_scratch(|b| {
            let windows = windows(b, circle.len(), &portion);
            let input = b.input(0..b.request().blocks_end());
            reduce_scatter(b, circle, &portion, 1, (input, 0), &windows, last);
        });
        b.finish_range(last);
    }
}

/// An all_gather round this circle.
pub(super) fn blocks_to_all(b: &mut Builder<'_>, circle: &Circle) {
    let blocks = circle.in_order(&b.request().blocks());
    let own = b.input(0..blocks[circle.place].len());
    b.copy(own, b.output(blocks[circle.place].clone()));
    all_gather(b, circle, &blocks, 0, own);
}

/// The windows of a circle of `len` ranks for any of these blocks.
pub(super) fn windows(b: &mut Builder<'_>, len: usize, blocks: &[Range<usize>]) -> Vec<Span> {
    let longest = blocks.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
    (0..len.saturating_sub(2).min(2)).map(|_| b.scratch(longest)).collect()
}

/// Leaves the reduction of block `place + 1 - lead` in `last`. This rank's contribution lies in a span whose first element
/// is that of the message with the given number.
pub(super) fn reduce_scatter(
    b: &mut Builder<'_>,
    circle: &Circle,
    blocks: &[Range<usize>],
    lead: usize,
    (contribution, origin): (Span, usize),
    windows: &[Span],
    last: Span,
) {
    let local = |step: usize| {
        let block = &blocks[circle.behind(lead + step)];
        contribution.part(block.start - origin, block.len())
    };
    let mut outgoing = local(0);
    for step in 1..circle.len() {
        let local = local(step);
        let into = if step + 1 == circle.len() { last } else { windows[(step - 1) % 2].part(0, local.len) };
        b.send(outgoing, circle.next());
        b.recv_reduce(into, local, circle.previous());
        outgoing = into;
    }
}

/// Passes the blocks round into everybody's output, beginning with block `place + lead`, which is where `first` says.
pub(super) fn all_gather(
    b: &mut Builder<'_>,
    circle: &Circle,
    blocks: &[Range<usize>],
    lead: usize,
    first: Span,
) {
    let mut outgoing = first;
    for step in 1..circle.len() {
        let incoming = b.output(blocks[circle.ahead(lead + circle.len() - step)].clone());
        b.send(outgoing, circle.next());
        b.recv(incoming, circle.previous());
        outgoing = incoming;
    }
}
