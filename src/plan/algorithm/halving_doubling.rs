//! Recursive halving and doubling, nearest ranks first.
//!
//! In step k of the first half each rank exchanges half of what it still holds with the rank whose number
//! differs in bit k, and reduces the half that it keeps; after log2 n steps each holds one finished n-th. The second
//! half runs the same exchanges backwards and hands the finished parts round. 2 log2 n steps and 2(n-1)/n of the
//! message: as few bytes as a ring in far fewer steps, but every step has another partner. The choice for
//! messages of medium size. Nearest first makes the sums a balanced binary tree over rank order; the price is
//! that the parts a rank holds of a reduce_scatter lie apart.
//!
//! Where n is no power of two, pairs of ranks act as one, as in recursive doubling.
//!
//! Source: R. Rabenseifner, "Optimization of collective reduction operations", ICCS 2004; nearest-first as in
//! R. Thakur, R. Rabenseifner, W. Gropp (2005), section 4.3 with the order of distances reversed.

use super::{Entry, Folded, Part};
use crate::collective::Collective;
use crate::plan::build::split_evenly;
use crate::plan::{Builder, Span};
use std::ops::Range;

pub(super) const ENTRY: Entry = Entry {
    name: "halving_doubling",
    idea: "halves between ranks 1, 2, 4 ... apart and back: least bytes in 2 log2 n steps",
    collectives: &[Collective::AllReduce, Collective::ReduceScatter, Collective::Barrier],
    fixed_order: |request| request.world.is_power_of_two(),
    generate,
};

fn generate(b: &mut Builder<'_>) {
    let folded = Folded::new(b.world());
    if b.request().collective == Collective::ReduceScatter {
        let blocks = b.request().blocks();
        for portion in b.slices(&blocks) {
            b.with_scratch(|b| reduce_scatter(b, &folded, &portion));
        }
    } else {
        for portion in b.portions() {
            b.with_scratch(|b| all_reduce(b, &folded, portion.clone()));
        }
    }
}

fn all_reduce(b: &mut Builder<'_>, folded: &Folded, whole: Range<usize>) {
    let (number, helped) = match folded.part(b.rank()) {
        Part::Idle(actor) => {
            b.send(b.input(whole.clone()), actor);
            b.recv(b.output(whole), actor);
            return;
        }
        Part::Acts(number, helped) => (number, helped),
    };
    let mut held = whole.clone();
    let mut partial = b.input(whole.clone());
    if let Some(helped) = helped {
        let into = b.scratch(whole.len());
        b.recv_reduce(into, partial, helped);
        partial = into;
    }
    let mut path = Vec::new();
    let mut mask = 1;
    while mask < folded.size {
        let peer = folded.actor(number ^ mask);
        let halves = split_evenly(held.len(), 2);
        let (kept, given) = if number & mask == 0 { (0, 1) } else { (1, 0) };
        let part = |half: usize| partial.part(halves[half].start, halves[half].len());
        let at = |half: usize| held.start + halves[half].start..held.start + halves[half].end;
        let into = if mask * 2 == folded.size { b.output(at(kept)) } else { b.scratch(halves[kept].len()) };
        b.send(part(given), peer);
        b.recv_reduce(into, part(kept), peer);
        path.push((peer, at(kept), at(given)));
        held = at(kept);
        partial = into;
        mask *= 2;
    }
    b.finish_range(b.output(held));
    for (peer, kept, given) in path.into_iter().rev() {
        b.send(b.output(kept), peer);
        b.recv(b.output(given), peer);
    }
    if let Some(helped) = helped {
        b.send(b.output(whole), helped);
    }
}

fn reduce_scatter(b: &mut Builder<'_>, folded: &Folded, blocks: &[Range<usize>]) {
    let rank = b.rank();
    let origin = b.request().block(rank).start;
    let own = |b: &Builder<'_>| b.output(blocks[rank].start - origin..blocks[rank].end - origin);
    let (number, helped) = match folded.part(rank) {
        Part::Idle(actor) => {
            for block in blocks {
                b.send(b.input(block.clone()), actor);
            }
            b.recv(own(b), actor);
            return;
        }
        Part::Acts(number, helped) => (number, helped),
    };
    let mut held: Vec<Span> = blocks.iter().map(|block| b.input(block.clone())).collect();
    if let Some(helped) = helped {
        for span in &mut held {
            let into = b.scratch(span.len);
            b.recv_reduce(into, *span, helped);
            *span = into;
        }
    }
    // After the step with this mask a rank holds the blocks of those numbers that agree with its own in all
    // bits up to the mask.
    let mut mask = 1;
    while mask < folded.size {
        let peer = folded.actor(number ^ mask);
        let agree = |other: usize, with: usize| (other ^ with) & (2 * mask - 1) == 0;
        for given in (0..folded.size).filter(|&other| agree(other, number ^ mask)) {
            for block in folded.ranks(given) {
                b.send(held[block], peer);
            }
        }
        for kept in (0..folded.size).filter(|&other| agree(other, number)) {
            for block in folded.ranks(kept) {
                let last = mask * 2 == folded.size;
                let into = if last && block == rank { own(b) } else { b.scratch(held[block].len) };
                b.recv_reduce(into, held[block], peer);
                held[block] = into;
            }
        }
        mask *= 2;
    }
    if let Some(helped) = helped {
        b.finish_range(held[helped]);
        b.send(held[helped], helped);
    }
    b.finish_range(held[rank]);
}
