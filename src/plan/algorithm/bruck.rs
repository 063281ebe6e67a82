//! Bruck: what is known doubles with each step, for any number of ranks.
//!
//! all_gather: in step k each rank sends the 2^k blocks that it has, its own and those after it, to the rank 2^k before it;
//! the last step sends what is missing. ceil(log2 n) steps whatever n is, and each block arrives once.
//!
//! all_to_all: a block that has to go i ranks ahead goes there in hops of 2^k for each bit k of i. In step k all blocks with
//! that bit travel in one message: ceil(log2 n) messages a rank and not n - 1, for which every block is
//! sent up to log2 n times. The choice for small messages. Every rank must know how long the blocks of others
//! are, so the counts have to be equal.
//!
//! Source: J. Bruck, C.-T. Ho, S. Kipnis, E. Upfal, D. Weathersby, "Efficient algorithms for all-to-all communications in
//! multiport message-passing systems", IEEE Trans. Parallel Distrib. Syst. 8 (1997).

use super::Entry;
use crate::collective::{Collective, Counts};
use crate::plan::{Builder, Span};
use std::ops::Range;

pub(super) const ENTRY: Entry = Entry {
    name: "bruck",
    idea: "blocks in hops of 1, 2, 4 ... ranks, many in one message: ceil(log2 n) steps for any n",
    collectives: &[Collective::AllGather, Collective::AllToAll],
    refuses: |request| match request.counts {
        Counts::Pairwise { .. } => Some("it needs blocks of one length, and counts between pairs differ"),
        _ => None,
    },
    generate,
    ..Entry::DEFAULT
};

fn generate(b: &mut Builder<'_>) {
    if b.request().collective == Collective::AllGather { all_gather(b) } else { all_to_all(b) }
}

fn all_gather(b: &mut Builder<'_>) {
    let (n, blocks) = (b.world(), b.request().blocks());
    let own = b.input(0..blocks[b.rank()].len());
    b.copy(own, b.output(blocks[b.rank()].clone()));
    // A run of blocks from this one's rank on, as spans: two where it passes the last rank.
    let run = |b: &Builder<'_>, from: usize, len: usize| -> Vec<Span> {
        let ranks: [Range<usize>; 2] = [from..(from + len).min(n), 0..(from + len).saturating_sub(n)];
        let spans = ranks.into_iter().filter(|ranks| !ranks.is_empty());
        spans.map(|ranks| b.output(blocks[ranks.start].start..blocks[ranks.end - 1].end)).collect()
    };
    let mut known = 1;
    while known < n {
        let more = known.min(n - known);
        let (to, from) = (b.before(known), b.after(known));
        let outgoing = if known == 1 { vec![own] } else { run(b, b.rank(), more) };
        outgoing.into_iter().for_each(|span| b.send(span, to));
        run(b, from, more).into_iter().for_each(|span| b.recv(span, from));
        known += more;
    }
}

fn all_to_all(b: &mut Builder<'_>) {
    let (n, rank) = (b.world(), b.rank());
    let len = b.request().send_block(rank, 0).len();
    // Where the block is that still has to go `ahead` ranks, or has come so many.
    let mut places: Vec<Span> =
        (0..n).map(|ahead| b.input(b.request().send_block(rank, b.after(ahead)))).collect();
    let packed = b.scratch(n / 2 * len);
    let mut hop = 1;
    while hop < n {
        let moving: Vec<usize> = (0..n).filter(|ahead| ahead & hop != 0).collect();
        let outgoing = packed.part(0, moving.len() * len);
        let incoming = b.scratch(outgoing.len);
        for (i, &ahead) in moving.iter().enumerate() {
            b.copy(places[ahead], outgoing.part(i * len, len));
            places[ahead] = incoming.part(i * len, len);
        }
        b.send(outgoing, b.after(hop));
        b.recv(incoming, b.before(hop));
        hop *= 2;
    }
    for (ahead, place) in places.into_iter().enumerate() {
        b.copy(place, b.output(b.request().receive_block(rank, b.before(ahead))));
    }
}
