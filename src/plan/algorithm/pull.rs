//! Pull: every rank reads what it wants where it lies in the others' own memory. Nothing is copied twice.
//!
//! Everybody says that it has begun, takes what it wants, and says that it has read: until all have, nobody's memory is its
//! own again. An all_reduce parts the work: each rank folds its slice of all inputs into its own output, and everybody
//! then copies the slices from each other, portion by portion as they come.
//!
//! Who reads by way of the kernel pays for each page, but never for a copy in between: for messages that are large, and
//! no larger than the caches. Where memory is mapped by all it costs nothing.
//!
//! Source: S. Chakraborty, H. Subramoni, D. K. Panda, "Contention-aware kernel-assisted MPI collectives for
//! multi-/many-core systems", IEEE CLUSTER 2017.

use super::{Entry, Reach};
use crate::collective::{Collective, Counts};
use crate::plan::build::split_evenly;
use crate::plan::{Builder, Region, Span};
use std::ops::Range;

pub(super) const ENTRY: Entry = Entry {
    name: "pull",
    idea: "everybody reads the others' own memory: one copy, for what is large and fits the caches",
    collectives: &[
        Collective::AllReduce,
        Collective::Reduce,
        Collective::ReduceScatter,
        Collective::AllGather,
        Collective::Broadcast,
        Collective::Gather,
        Collective::Scatter,
        Collective::AllToAll,
    ],
    fixed_order: |_| true,
    refuses: |request| {
        let unknown = matches!(request.counts, Counts::Pairwise { .. });
        unknown.then_some("where blocks lie in others' memory is not known where counts are pairwise")
    },
    needs: Reach::Memory,
    slice_bytes: |_| Some(256 << 10),
    generate,
    ..Entry::DEFAULT
};

const BEGUN: u32 = 0;
const REDUCED: u32 = 1;
const READ: u32 = 2;

fn generate(b: &mut Builder<'_>) {
    let request = b.request();
    let (rank, root) = (b.rank(), request.root);
    b.signal(BEGUN);
    // Copied when all have read.
    let mut kept = None;
    match request.collective {
        Collective::AllReduce => all_reduce(b),
        Collective::Reduce if rank == root => {
            b.wait_for_all(BEGUN, 1);
            for portion in b.portions() {
                let output = b.output(portion.clone());
                fold(b, portion, output);
            }
        }
        Collective::ReduceScatter => {
            b.wait_for_all(BEGUN, 1);
            let block = request.block(rank);
            for portion in b.slices(std::slice::from_ref(&block)).into_iter().flatten() {
                let output = b.output(portion.start - block.start..portion.end - block.start);
                fold(b, portion, output);
            }
        }
        Collective::AllGather | Collective::Gather if rank == root || request.collective == Collective::AllGather => {
            let blocks = request.blocks();
            b.wait_for_all(BEGUN, 1);
            b.copy(b.input(0..blocks[rank].len()), b.output(blocks[rank].clone()));
            for from in b.others() {
                let theirs = b.peer(from, Region::Input, 0..blocks[from].len());
                b.copy(theirs, b.output(blocks[from].clone()));
            }
        }
        Collective::Broadcast => {
            let whole = 0..request.whole();
            let source = source(b, root, whole.clone());
            b.copy(source, b.output(whole));
        }
        Collective::Scatter => {
            let block = request.block(rank);
            let len = block.len();
            let source = source(b, root, block);
            b.copy(source, b.output(0..len));
        }
        Collective::AllToAll => kept = all_to_all(b),
        _ => {}
    }
    b.signal(READ);
    b.wait_for_all(READ, 1);
    if let Some((blocks, output)) = kept {
        b.copy(blocks, output);
    }
}

/// A range of the root's input, as this rank sees it.
fn source(b: &mut Builder<'_>, root: usize, range: Range<usize>) -> Span {
    if b.rank() == root {
        return b.input(range);
    }
    b.wait(root, BEGUN, 1);
    b.peer(root, Region::Input, range)
}

/// Folds a range of everybody's input.
fn fold(b: &mut Builder<'_>, range: Range<usize>, into: Span) {
    let sources: Vec<Span> = (0..b.world())
        .map(|rank| match rank == b.rank() {
            true => b.input(range.clone()),
            false => b.peer(rank, Region::Input, range.clone()),
        })
        .collect();
    b.fold(sources, into);
    b.finish_range(into);
}

fn all_reduce(b: &mut Builder<'_>) {
    let slices = split_evenly(b.request().whole(), b.world());
    let portions = b.slices(&slices);
    let own = b.rank();
    b.wait_for_all(BEGUN, 1);
    for (index, portion) in portions.iter().enumerate() {
        let output = b.output(portion[own].clone());
        fold(b, portion[own].clone(), output);
        b.signal(REDUCED);
        // The others have the portion before this one by now.
        if index > 0 {
            collect(b, &portions, index - 1);
        }
    }
    collect(b, &portions, portions.len() - 1);
}

/// Copies the others' part of a portion from their outputs.
fn collect(b: &mut Builder<'_>, portions: &[Vec<Range<usize>>], index: usize) {
    for from in b.others() {
        b.wait(from, REDUCED, index + 1);
        let part = portions[index][from].clone();
        b.copy(b.peer(from, Region::Output, part.clone()), b.output(part));
    }
}

/// Copies everybody's block for this rank. In place that must not arrive before all have read this rank's input: where it is
/// kept until then, and where it goes.
fn all_to_all(b: &mut Builder<'_>) -> Option<(Span, Span)> {
    let (rank, request) = (b.rank(), b.request());
    let output = b.output(0..request.output_len(rank));
    let into = if b.in_place() { b.scratch(output.len) } else { output };
    let part = |from| {
        let block = request.receive_block(rank, from);
        into.part(block.start, block.len())
    };
    b.wait_for_all(BEGUN, 1);
    let own = b.input(request.send_block(rank, rank));
    b.copy(own, part(rank));
    for from in b.others() {
        let theirs = b.peer(from, Region::Input, request.send_block(from, rank));
        b.copy(theirs, part(from));
    }
    b.in_place().then_some((into, output))
}
