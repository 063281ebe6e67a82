//! Sliced: each rank shows the others their slices, folds its own slice, and shows the result.
//!
//! Of a message of S bytes each rank copies S (n - 1) / n into its slot, folds S / n there, and copies S out of the slots:
//! each byte of its input and of its output moves once between memory and the caches, where the slots stay. For what is
//! larger than the caches.
//!
//! Vocabulary: a *portion* is what goes through the slots at a time. There are two sets of places in a slot, so that a
//! portion is filled in while the one before is folded by others.
//!
//! Source: the movement-avoiding reductions of J. Peng, J. Fang, J. Liu et al., "Optimizing MPI collectives on shared
//! memory multi-cores", SC 2023.

use super::{Entry, Reach, SLOT};
use crate::collective::Collective;
use crate::plan::build::split_evenly;
use crate::plan::{Builder, Region, Span};
use std::ops::Range;

pub(super) const ENTRY: Entry = Entry {
    name: "sliced",
    idea: "each rank folds one slice of what all show: each byte moves once, for what is larger than the caches",
    collectives: &[Collective::AllReduce, Collective::Reduce, Collective::ReduceScatter],
    fixed_order: |_| true,
    needs: Reach::Slots,
    slice_bytes: |request| Some(SLOT / (2 * request.world)),
    generate,
    ..Entry::DEFAULT
};

const FILLED: u32 = 0;
const REDUCED: u32 = 1;

fn generate(b: &mut Builder<'_>) {
    let request = b.request();
    let slices = match request.collective {
        Collective::ReduceScatter => request.blocks(),
        _ => split_evenly(request.whole(), b.world()),
    };
    let portions = b.slices(&slices);
    // How long the longest part of any portion is: what places in the slots are apart.
    let room = portions.iter().flatten().map(ExactSizeIterator::len).max().unwrap_or(0);
    fill(b, &portions, 0, room);
    for index in 0..portions.len() {
        if index + 1 < portions.len() {
            fill(b, &portions, index + 1, room);
        }
        fold(b, &slices, &portions, index, room);
        if request.collective != Collective::ReduceScatter {
            collect(b, &portions, index, room);
        } else if index + 1 < portions.len() {
            // Before anything is filled in again where it lay.
            b.signal(REDUCED);
            b.wait_for_all(REDUCED, index + 1);
        }
    }
}

/// Where the part of a portion for a rank begins in everybody's slot: in the place of the rank itself is the result.
fn place(world: usize, index: usize, rank: usize, room: usize) -> usize {
    (index % 2 * world + rank) * room
}

/// Shows the others their parts of a portion.
fn fill(b: &mut Builder<'_>, portions: &[Vec<Range<usize>>], index: usize, room: usize) {
    for to in b.others() {
        let part = portions[index][to].clone();
        let at = place(b.world(), index, to, room);
        let (input, slot) = (b.input(part.clone()), b.slot(at..at + part.len()));
        b.copy(input, slot);
    }
    b.signal(FILLED);
}

/// Folds this rank's part of a portion: into its slot, where the others want it.
fn fold(
    b: &mut Builder<'_>,
    slices: &[Range<usize>],
    portions: &[Vec<Range<usize>>],
    index: usize,
    room: usize,
) {
    let (own, world) = (b.rank(), b.world());
    let part = portions[index][own].clone();
    let at = place(world, index, own, room);
    b.wait_for_all(FILLED, index + 1);
    let sources: Vec<Span> = (0..world)
        .map(|rank| match rank == own {
            true => b.input(part.clone()),
            false => b.peer(rank, Region::Slot, at..at + part.len()),
        })
        .collect();
    let into = match b.request().collective {
        Collective::ReduceScatter => b.output(part.start - slices[own].start..part.end - slices[own].start),
        _ => b.slot(at..at + part.len()),
    };
    b.fold(sources, into);
    b.finish_range(into);
}

/// Copies a portion of the result from everybody's slot.
fn collect(b: &mut Builder<'_>, portions: &[Vec<Range<usize>>], index: usize, room: usize) {
    let (own, world) = (b.rank(), b.world());
    let wanted = b.request().collective == Collective::AllReduce || own == b.request().root;
    b.signal(REDUCED);
    if wanted {
        let part = portions[index][own].clone();
        let at = place(world, index, own, room);
        let slot = b.slot(at..at + part.len());
        b.copy(slot, b.output(part));
    }
    for from in b.others() {
        b.wait(from, REDUCED, index + 1);
        if wanted {
            let part = portions[index][from].clone();
            let at = place(world, index, from, room);
            b.copy(b.peer(from, Region::Slot, at..at + part.len()), b.output(part));
        }
    }
}
