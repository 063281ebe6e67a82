//! Pairwise exchange: in every step each rank has one partner, and they swap.
//!
//! In step k rank r meets rank (k - r) mod n, so that after n steps every two ranks have met exactly once (and
//! each has met itself or stood by). n - 1 messages a rank, each block sent once and straight: the least bytes for
//! all_to_all, and for a reduce_scatter of large messages without any intermediary. Because both partners
//! of a step are each other's, all_to_all works in place with two windows of one block each.
//!
//! Vocabulary: a *window* holds the block that is being sent from a buffer whose place is being filled.
//!
//! Source: R. Thakur, R. Rabenseifner, W. Gropp (2005), sections 4.3 and 4.6; the pairing by sums is the round-robin
//! tournament ("circle method").

use super::Entry;
use crate::collective::Collective;
use crate::plan::{Builder, Span};

pub(super) const ENTRY: Entry = Entry {
    name: "pairwise",
    idea: "every two ranks meet once and swap: least bytes for all_to_all, two windows in place",
    collectives: &[Collective::ReduceScatter, Collective::AllToAll],
    generate,
    ..Entry::DEFAULT
};

fn generate(b: &mut Builder<'_>) {
    if b.request().collective == Collective::AllToAll { all_to_all(b) } else { reduce_scatter(b) }
}

/// The ranks that this one meets, in order.
fn partners(b: &Builder<'_>) -> Vec<usize> {
    let (n, rank) = (b.world(), b.rank());
    (0..n).map(|step| (step + n - rank) % n).filter(|&partner| partner != rank).collect()
}

fn all_to_all(b: &mut Builder<'_>) {
    let (rank, request) = (b.rank(), b.request());
    let longest = (0..b.world()).map(|to| request.send_block(rank, to).len()).max().unwrap_or(0);
    let windows: Vec<Span> =
        (0..if b.in_place() { (b.world() - 1).min(2) } else { 0 }).map(|_| b.scratch(longest)).collect();
    b.copy(b.input(request.send_block(rank, rank)), b.output(request.receive_block(rank, rank)));
    for (step, partner) in partners(b).into_iter().enumerate() {
        let mut outgoing = b.input(request.send_block(rank, partner));
        if !windows.is_empty() {
            let window = windows[step % 2].part(0, outgoing.len);
            b.copy(outgoing, window);
            outgoing = window;
        }
        b.send(outgoing, partner);
        b.recv(b.output(request.receive_block(rank, partner)), partner);
    }
}

fn reduce_scatter(b: &mut Builder<'_>) {
    let (rank, partners) = (b.rank(), partners(b));
    let blocks = b.request().blocks();
    let sum = if partners.len() > 1 { Some(b.scratch(blocks[rank].len())) } else { None };
    let mut partial = b.input(blocks[rank].clone());
    let output = b.output(0..blocks[rank].len());
    for (step, partner) in partners.iter().enumerate() {
        b.send(b.input(blocks[*partner].clone()), *partner);
        let into = if step + 1 == partners.len() { output } else { sum.expect("there are three ranks or more") };
        b.recv_reduce(into, partial, *partner);
        partial = into;
    }
    b.finish_range(output);
}
