//! Direct: every block goes straight from where it is to where it is wanted.
//!
//! One step. Who wants a reduction receives everybody's contribution and folds them in rank order, with one
//! rounding, or as the balanced tree of fixed order. The least delay for very small messages and few ranks, and the plainest of all; bytes and memory
//! grow with n, except for gather, scatter and all_to_all, where nothing goes twice.
//!
//! Source: the definition of the collectives (MPI 4.1, chapter 6); named "linear" or "spread" elsewhere.

use super::Entry;
use crate::collective::Collective;
use crate::plan::{Builder, Span};
use std::ops::Range;

pub(super) const ENTRY: Entry = Entry {
    name: "direct",
    idea: "every block straight to whoever wants it: one step, for few ranks and small messages",
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
    generate,
    ..Entry::DEFAULT
};

fn generate(b: &mut Builder<'_>) {
    let (request, rank, root) = (b.request(), b.rank(), b.request().root);
    match request.collective {
        Collective::ReduceScatter => {
            let blocks = request.blocks();
            let origin = blocks[rank].start;
            for portion in b.slices(&blocks) {
                for to in b.others() {
                    b.send(b.input(portion[to].clone()), to);
                }
                let own = portion[rank].clone();
                b.with_scratch(|b| collect(b, own.clone(), own.start - origin..own.end - origin));
            }
        }
        Collective::AllGather => {
            let blocks = request.blocks();
            let own = b.input(0..blocks[rank].len());
            b.copy(own, b.output(blocks[rank].clone()));
            for to in b.others() {
                b.send(own, to);
            }
            for from in b.others() {
                b.recv(b.output(blocks[from].clone()), from);
            }
        }
        Collective::Broadcast if rank == root => {
            let input = b.input(0..request.whole());
            for to in b.others() {
                b.send(input, to);
            }
            b.copy(input, b.output(0..request.whole()));
        }
        Collective::Broadcast => b.recv(b.output(0..request.whole()), root),
        Collective::Gather if rank == root => {
            let blocks = request.blocks();
            b.copy(b.input(0..blocks[rank].len()), b.output(blocks[rank].clone()));
            for from in b.others() {
                b.recv(b.output(blocks[from].clone()), from);
            }
        }
        Collective::Gather => b.send(b.input(0..request.block(rank).len()), root),
        Collective::Scatter if rank == root => {
            let blocks = request.blocks();
            for to in b.others() {
                b.send(b.input(blocks[to].clone()), to);
            }
            b.copy(b.input(blocks[rank].clone()), b.output(0..blocks[rank].len()));
        }
        Collective::Scatter => b.recv(b.output(0..request.block(rank).len()), root),
        Collective::AllToAll => all_to_all(b),
        _ => {
            let to_all = request.collective != Collective::Reduce;
            for portion in b.portions() {
                let input = b.input(portion.clone());
                for to in b.others().into_iter().filter(|&to| to_all || to == root) {
                    b.send(input, to);
                }
                if to_all || rank == root {
                    b.with_scratch(|b| collect(b, portion.clone(), portion.clone()));
                }
            }
        }
    }
}

/// Receives what everybody has of `input`, folds it in rank order and finishes it into `output`.
fn collect(b: &mut Builder<'_>, input: Range<usize>, output: Range<usize>) {
    let own = b.input(input.clone());
    let mut sources: Vec<Span> = vec![own; b.world()];
    for from in b.others() {
        sources[from] = b.scratch(input.len());
        b.recv(sources[from], from);
    }
    let output = b.output(output);
    b.fold(sources, output);
    b.finish_range(output);
}

fn all_to_all(b: &mut Builder<'_>) {
    let (rank, request) = (b.rank(), b.request());
    let whole = b.input(0..request.input_len(rank));
    let source = if b.in_place() {
        let copy = b.scratch(whole.len);
        b.copy(whole, copy);
        copy
    } else {
        b.copy(b.input(request.send_block(rank, rank)), b.output(request.receive_block(rank, rank)));
        whole
    };
    for to in b.others() {
        let block = request.send_block(rank, to);
        b.send(source.part(block.start, block.len()), to);
    }
    for from in b.others() {
        b.recv(b.output(request.receive_block(rank, from)), from);
    }
}
