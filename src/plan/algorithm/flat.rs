//! Flat: everybody shows what it has in its slot, and everybody takes what it wants of all slots.
//!
//! One step: a copy into the slot, a flag, and then each rank reduces or copies straight into its own output. Nobody waits
//! for a result of anybody, so it is the quickest for little; but each rank goes through all ranks' bytes, so that from
//! some 128 KiB on it is better to part the work.
//!
//! Between two ranks it is the best for much, too: what is shown and read stays in the caches, and memory is only read where
//! the input is and written where the output is.
//!
//! Vocabulary: a *turn* goes through the slots at a time. A slot has four *places*, which turns fill one after another, each
//! before the turn ahead of it is taken: so somebody who has filled turn t has taken turn t - 2, whoever takes turn t
//! knows that all have taken turn t - 2, and its next, t + 2, goes where that was. That the last turns have been read
//! matters only to the next operation, which has other slots.
//!
//! Source: the "flat" shared-memory collectives of R. L. Graham, G. Shipman, "MPI support for multi-core architectures:
//! optimized shared memory collectives", EuroPVM/MPI 2008.

use super::super::select::Table;
use super::{Entry, Reach, SLOT};
use crate::collective::{Collective, Counts, Request};
use crate::plan::{Builder, Region, Span};
use std::ops::Range;

pub(super) const ENTRY: Entry = Entry {
    name: "flat",
    idea: "everybody shows what it has, everybody takes what it wants: one step, for little in shared memory",
    collectives: &[
        Collective::AllReduce,
        Collective::Reduce,
        Collective::ReduceScatter,
        Collective::AllGather,
        Collective::Broadcast,
        Collective::Gather,
        Collective::Scatter,
        Collective::AllToAll,
        Collective::Barrier,
    ],
    fixed_order: |_| true,
    refuses: |request| {
        if matches!(request.counts, Counts::Pairwise { .. }) {
            return Some("where blocks lie in others' slots is not known where counts are pairwise");
        }
        let turns = Table::agreed_bytes(request) / (turn_bytes(request) / parts(request));
        (turns >= MOST_TURNS).then_some("so much takes more turns than a flag counts")
    },
    needs: Reach::Slots,
    slice_bytes: |request| Some(turn_bytes(request) / parts(request)),
    generate,
    ..Entry::DEFAULT
};

/// The most bytes that are shown in a turn: as many as there is room for, but where one rank shows and another takes, so few that
/// both are at work most of the time. Of more ranks some may share a CPU, and each turn would cost its exchange.
fn turn_bytes(request: &Request) -> usize {
    let most = SLOT / PLACES / 2;
    if request.collective.is_rooted() && request.world == 2 {
        (Table::agreed_bytes(request) / 16).clamp(FEWEST, most)
    } else {
        most
    }
}

/// The fewest bytes of a turn that are worth raising a flag for.
const FEWEST: usize = 16 << 10;

/// Flags count to 65,535, on every rank; what is refused is refused by all.
const MOST_TURNS: usize = 60_000;

/// How many blocks a slot has room for.
fn parts(request: &Request) -> usize {
    match request.collective {
        Collective::ReduceScatter | Collective::Scatter | Collective::AllToAll => request.world,
        _ => 1,
    }
}

const FILLED: u32 = 0;
/// Of rooted collectives, where not everybody hears from all.
const TAKEN: u32 = 1;
/// The places of a slot.
const PLACES: usize = 4;

fn generate(b: &mut Builder<'_>) {
    let request = b.request();
    let (rank, root) = (b.rank(), request.root);
    let blocks = match request.collective {
        Collective::AllToAll => (0..b.world()).map(|to| request.send_block(0, to)).collect(),
        collective if collective.has_blocks() => request.blocks(),
        _ => std::iter::once(0..request.whole()).collect(),
    };
    let turns = b.slices(&blocks);
    let shows = match request.collective {
        Collective::Broadcast | Collective::Scatter => rank == root,
        Collective::Reduce | Collective::Gather => rank != root,
        _ => true,
    };
    let room = turns.iter().map(|portion| needed(request.collective, portion)).max().unwrap_or(0);
    let fill = |b: &mut Builder<'_>, turn: usize| {
        if shows {
            show(b, &blocks, &turns[turn], turn % PLACES * room);
            b.signal(FILLED);
        }
    };
    fill(b, 0);
    for (turn, portion) in turns.iter().enumerate() {
        if turn + 1 < turns.len() {
            if request.collective.is_rooted() && turn >= PLACES - 1 {
                b.wait_for_all(TAKEN, turn + 2 - PLACES);
            }
            fill(b, turn + 1);
        }
        take(b, &blocks, portion, turn + 1, turn % PLACES * room);
        if request.collective.is_rooted() && turn + PLACES < turns.len() {
            b.signal(TAKEN);
        }
    }
}

/// The elements that a rank shows in a turn, at most.
fn needed(collective: Collective, portion: &[Range<usize>]) -> usize {
    let lens = portion.iter().map(ExactSizeIterator::len);
    match collective {
        Collective::ReduceScatter | Collective::Scatter | Collective::AllToAll => lens.sum(),
        _ => lens.max().unwrap_or(0),
    }
}

/// Where a part of a portion begins in the slot of an owner who shows all of them but its own.
fn offset(portion: &[Range<usize>], owner: usize, part: usize) -> usize {
    let before = portion[..part].iter().enumerate().filter(|(rank, _)| *rank != owner);
    before.map(|(_, part)| part.len()).sum()
}

/// Copies what others want of this rank into its slot.
fn show(b: &mut Builder<'_>, blocks: &[Range<usize>], portion: &[Range<usize>], place: usize) {
    let (rank, collective) = (b.rank(), b.request().collective);
    match collective {
        Collective::AllGather | Collective::Gather => {
            let own = within(&portion[rank], &blocks[rank]);
            let (input, slot) = (b.input(own), b.slot(place..place + portion[rank].len()));
            b.copy(input, slot);
        }
        Collective::ReduceScatter | Collective::Scatter | Collective::AllToAll => {
            for to in (0..b.world()).filter(|&to| to != rank) {
                let at = place + offset(portion, rank, to);
                let (input, slot) = (b.input(portion[to].clone()), b.slot(at..at + portion[to].len()));
                b.copy(input, slot);
            }
        }
        _ => {
            let (input, slot) = (b.input(portion[0].clone()), b.slot(place..place + portion[0].len()));
            b.copy(input, slot);
        }
    }
}

/// A part of a block, counted from the block's beginning.
fn within(part: &Range<usize>, block: &Range<usize>) -> Range<usize> {
    part.start - block.start..part.end - block.start
}

/// Takes what this rank wants from the others' slots: from none before all have shown theirs, so that nothing has changed
/// where somebody does something else.
fn take(b: &mut Builder<'_>, blocks: &[Range<usize>], portion: &[Range<usize>], turn: usize, place: usize) {
    let request = b.request();
    let (rank, root) = (b.rank(), request.root);
    match request.collective {
        Collective::Broadcast if rank == root => {
            b.copy(b.input(portion[0].clone()), b.output(portion[0].clone()));
        }
        Collective::Broadcast => {
            b.wait(root, FILLED, turn);
            let shown = b.peer(root, Region::Slot, place..place + portion[0].len());
            b.copy(shown, b.output(portion[0].clone()));
        }
        Collective::Scatter => {
            let output = b.output(within(&portion[rank], &blocks[rank]));
            if rank == root {
                b.copy(b.input(portion[rank].clone()), output);
            } else {
                b.wait(root, FILLED, turn);
                let at = place + offset(portion, root, rank);
                b.copy(b.peer(root, Region::Slot, at..at + output.len), output);
            }
        }
        Collective::Reduce | Collective::Gather if rank != root => {}
        Collective::AllGather | Collective::Gather => {
            let own = b.input(within(&portion[rank], &blocks[rank]));
            b.wait_for_all(FILLED, turn);
            b.copy(own, b.output(portion[rank].clone()));
            for from in b.others() {
                let shown = b.peer(from, Region::Slot, place..place + portion[from].len());
                b.copy(shown, b.output(portion[from].clone()));
            }
        }
        Collective::AllToAll => {
            b.wait_for_all(FILLED, turn);
            b.copy(b.input(portion[rank].clone()), b.output(portion[rank].clone()));
            for from in b.others() {
                let at = place + offset(portion, from, rank);
                let shown = b.peer(from, Region::Slot, at..at + portion[rank].len());
                b.copy(shown, b.output(portion[from].clone()));
            }
        }
        Collective::ReduceScatter => {
            let output = b.output(within(&portion[rank], &blocks[rank]));
            fold(b, portion[rank].clone(), |from| place + offset(portion, from, rank), output, turn);
        }
        _ => fold(b, portion[0].clone(), |_| place, b.output(portion[0].clone()), turn),
    }
}

/// Folds this rank's input with what each of the others shows from `at` on.
fn fold(
    b: &mut Builder<'_>,
    input: Range<usize>,
    at: impl Fn(usize) -> usize,
    output: Span,
    turn: usize,
) {
    b.wait_for_all(FILLED, turn);
    let sources: Vec<Span> = (0..b.world())
        .map(|rank| match rank == b.rank() {
            true => b.input(input.clone()),
            false => b.peer(rank, Region::Slot, at(rank)..at(rank) + output.len),
        })
        .collect();
    b.fold(sources, output);
    b.finish_range(output);
}
