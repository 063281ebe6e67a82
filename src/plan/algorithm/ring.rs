//! Ring: every rank talks to its two neighbours only, and all links carry the same load at all times.
//!
//! The message is cut into n blocks. In n - 1 steps each block travels once round the ring and is reduced on the
//! way (reduce-scatter); in n - 1 more steps the finished blocks travel round once again (all-gather). Each rank
//! sends 2(n-1)/n of the message, which is the least that any algorithm can do, in 2(n-1) steps: the choice
//! for large messages. Because a step's bytes are sent on as soon as they are reduced, the steps overlap and a
//! ring is one stream of bytes that flows past each rank.
//!
//! The rooted forms are a chain that ends, or begins, at the root: one pass of the whole message, n - 1 hops.
//!
//! Vocabulary: *next* is rank + 1, *previous* rank - 1, a *window* holds one partial block between its arrival and
//! its departure; two of them take turns.
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
        Collective::Reduce,
        Collective::ReduceScatter,
        Collective::AllGather,
        Collective::Broadcast,
        Collective::Barrier,
    ],
    fixed_order: |request| request.world == 2,
    generate,
};

fn generate(b: &mut Builder<'_>) {
    match b.request().collective {
        Collective::ReduceScatter => {
            let blocks = b.request().blocks();
            let own = blocks[b.rank()].start;
            for portion in b.slices(&blocks) {
                b.with_scratch(|b| reduce_scatter(b, &portion, 1, own));
            }
        }
        Collective::AllGather => {
            let blocks = b.request().blocks();
            let own = b.input(0..blocks[b.rank()].len());
            b.copy(own, b.output(blocks[b.rank()].clone()));
            all_gather(b, &blocks, 0, Some(own));
        }
        Collective::Broadcast => broadcast(b),
        Collective::Reduce => reduce(b),
        _ => {
            let blocks = split_evenly(b.request().whole(), b.world());
            for portion in b.slices(&blocks) {
                b.with_scratch(|b| reduce_scatter(b, &portion, 0, 0));
                all_gather(b, &portion, 1, None);
            }
        }
    }
}

/// Leaves block `rank + 1 - lead` finished in the output, which begins at element `origin` of the message.
fn reduce_scatter(b: &mut Builder<'_>, blocks: &[Range<usize>], lead: usize, origin: usize) {
    let n = b.world();
    let longest = blocks.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
    let windows: Vec<Span> = (0..n.saturating_sub(2).min(2)).map(|_| b.scratch(longest)).collect();
    let (next, previous) = (b.after(1), b.before(1));
    let mut outgoing = b.input(blocks[b.before(lead)].clone());
    for step in 0..n - 1 {
        let block = blocks[b.before(lead + step + 1)].clone();
        let local = b.input(block.clone());
        let into = if step == n - 2 {
            b.output(block.start - origin..block.end - origin)
        } else {
            windows[step % 2].part(0, block.len())
        };
        b.send(outgoing, next);
        b.recv_reduce(into, local, previous);
        outgoing = into;
    }
    b.finish_range(outgoing);
}

/// Passes the blocks round, beginning with block `rank + lead`, which is in the output, or where `first` says.
fn all_gather(b: &mut Builder<'_>, blocks: &[Range<usize>], lead: usize, first: Option<Span>) {
    let (next, previous) = (b.after(1), b.before(1));
    let at = |b: &Builder<'_>, step: usize| b.output(blocks[b.after(lead + b.world() - step)].clone());
    let mut outgoing = first.unwrap_or_else(|| at(b, 0));
    for step in 0..b.world() - 1 {
        let incoming = at(b, step + 1);
        b.send(outgoing, next);
        b.recv(incoming, previous);
        outgoing = incoming;
    }
}

fn broadcast(b: &mut Builder<'_>) {
    let (n, count) = (b.world(), b.request().whole());
    let place = b.before(b.request().root);
    let output = b.output(0..count);
    if place == 0 {
        let input = b.input(0..count);
        b.send(input, b.after(1));
        b.copy(input, output);
    } else {
        b.recv(output, b.before(1));
        if place < n - 1 {
            b.send(output, b.after(1));
        }
    }
}

/// The chain begins after the root and ends at it.
fn reduce(b: &mut Builder<'_>) {
    let n = b.world();
    let place = b.before(b.request().root + 1);
    let portions = b.portions();
    let longest = portions.iter().map(|portion| portion.len()).max().unwrap_or(0);
    let inner = place > 0 && place < n - 1;
    let windows: Vec<Span> = (0..if inner { portions.len().min(2) } else { 0 }).map(|_| b.scratch(longest)).collect();
    for (i, portion) in portions.iter().enumerate() {
        let input = b.input(portion.clone());
        let mut partial = input;
        if place > 0 {
            partial = if inner { windows[i % 2].part(0, input.len) } else { b.output(portion.clone()) };
            b.recv_reduce(partial, input, b.before(1));
        }
        if place < n - 1 {
            b.send(partial, b.after(1));
        } else {
            b.finish_range(partial);
        }
    }
}
