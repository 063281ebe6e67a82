//! Rings that know hosts: inside every host first, then between hosts, then inside again.
//!
//! all_reduce: the ranks of each host reduce-scatter among themselves, so that each holds the host's sum of its share;
//! those who hold the same share on different hosts make a ring of their own, which reduces and gathers it; and
//! the finished shares go round inside each host. Of h hosts with m ranks each, a host sends and receives
//! 2(h-1)/h of the message over its network link, the least there is, and the delay is that of 2(m-1) + 2(h-1)
//! steps and not of 2(n-1). Any placement of ranks and hosts of any sizes will do: where hosts have different numbers
//! of ranks, shares are cut wherever a share of any host begins, and each piece has its ring.
//!
//! reduce_scatter and all_gather: one ring that visits the ranks host by host, so that every host's boundary is crossed once
//! each way, whatever the numbers of the ranks are.
//!
//! With one host, or one rank a host, all of this is a ring.
//!
//! Vocabulary: a *share* is the part of the message that a rank sums for its host; a *piece* is a part of the
//! message that lies in one share on every host; its *holders* are the ranks of these shares, one a host.
//!
//! Source: "2D" or "hierarchical" rings as in X. Jia et al., "Highly scalable deep learning training system with
//! mixed-precision", arXiv:1807.11205 (2018), section 4.2; pieces for hosts of different sizes are this project's.

use super::Entry;
use super::ring::{self, Circle};
use crate::collective::Collective;
use crate::plan::build::split_evenly;
use crate::plan::{Builder, Span};
use std::ops::Range;

pub(super) const ENTRY: Entry = Entry {
    name: "hierarchical_ring",
    idea: "rings inside each host and between hosts: least bytes over the network, for large messages",
    collectives: &[
        Collective::AllReduce,
        Collective::ReduceScatter,
        Collective::AllGather,
        Collective::Barrier,
    ],
    looks_at_hosts: true,
    generate,
    ..Entry::DEFAULT
};

fn generate(b: &mut Builder<'_>) {
    let hosts = b.topology().hosts(b.world());
    match b.request().collective {
        Collective::ReduceScatter => ring::blocks_to_owners(b, &Circle::new(hosts.concat(), b.rank())),
        Collective::AllGather => ring::blocks_to_all(b, &Circle::new(hosts.concat(), b.rank())),
        // Nothing is to be gained of hosts that have one rank each.
        _ if hosts.len() == b.world() => ring::all_reduce(b, &Circle::new(hosts.concat(), b.rank())),
        _ => all_reduce(b, &hosts),
    }
}

/// A part of this rank's share, and the ring that it goes round.
struct Piece {
    range: Range<usize>,
    holders: Circle,
}

/// What this rank does with one portion.
struct Portion {
    /// The shares of this host, by the places of its ranks.
    shares: Vec<Range<usize>>,
    /// The pieces of this rank's share.
    pieces: Vec<Piece>,
}

impl Portion {
    fn new(b: &Builder<'_>, hosts: &[Vec<usize>], range: Range<usize>) -> Self {
        let mine = b.topology().host(b.rank());
        let place = hosts[mine].iter().position(|&rank| rank == b.rank()).expect("a rank is on its host");
        let shares_of = |ranks: &[usize]| -> Vec<Range<usize>> {
            let shares = split_evenly(range.len(), ranks.len()).into_iter();
            shares.map(|share| range.start + share.start..range.start + share.end).collect()
        };
        let all: Vec<_> = hosts.iter().map(|ranks| shares_of(ranks)).collect();
        let own = all[mine][place].clone();
        let mut cuts: Vec<usize> = all.iter().flatten().map(|share| share.start).collect();
        cuts.retain(|cut| own.contains(cut));
        cuts.push(own.end);
        cuts.sort_unstable();
        cuts.dedup();
        let holders = |piece: &Range<usize>| -> Vec<usize> {
            let holder = |(ranks, shares): (&Vec<usize>, &Vec<Range<usize>>)| {
                ranks[shares.partition_point(|share| share.end <= piece.start)]
            };
            hosts.iter().zip(&all).map(holder).collect()
        };
        let pieces = cuts
            .windows(2)
            .map(|ends| ends[0]..ends[1])
            .map(|range| Piece { holders: Circle::new(holders(&range), b.rank()), range })
            .collect();
        Portion { shares: all.into_iter().nth(mine).expect("a rank has a host"), pieces }
    }
}

fn all_reduce(b: &mut Builder<'_>, hosts: &[Vec<usize>]) {
    let inside = Circle::new(hosts[b.topology().host(b.rank())].clone(), b.rank());
    let portions: Vec<Portion> = {
        // A share of an average host is a slice.
        b.stretches(b.world() / hosts.len()).into_iter().map(|range| Portion::new(b, hosts, range)).collect()
    };
    let windows = [
        ring::windows(b, inside.len(), &portions[0].shares),
        ring::windows(b, hosts.len(), &split_evenly(portions[0].shares[0].len(), hosts.len())),
    ];
    // The sums of two portions' shares, so that hosts can sum the next one while this one is between them.
    let between = inside.len() > 1 && hosts.len() > 1;
    let sums: Vec<Span> = (0..if between { portions.len().min(2) } else { 0 })
        .map(|_| b.scratch(portions[0].shares[0].len()))
        .collect();
    let input = b.input(0..b.request().whole());
    // One portion's sums begin before the last one's results go round: both use the links inside hosts.
    for turn in 0..=portions.len() {
        if let Some(portion) = portions.get(turn) {
            let share = portion.shares[inside.ahead(0)].clone();
            let sum = if between { sums[turn % 2].part(0, share.len()) } else { b.output(share.clone()) };
            ring::reduce_scatter(b, &inside, &portion.shares, 1, (input, 0), &windows[0], sum);
            let sum = if inside.len() > 1 { sum } else { b.input(share.clone()) };
            between_hosts(b, portion, sum, share.start, &windows[1]);
        }
        if let Some(portion) = turn.checked_sub(1).map(|turn| &portions[turn]) {
            let share = b.output(portion.shares[inside.ahead(0)].clone());
            ring::all_gather(b, &inside, &portion.shares, 0, share);
        }
    }
}

/// From this host's sum of a share, which begins at element `origin`, to everybody's in the output.
fn between_hosts(b: &mut Builder<'_>, portion: &Portion, sum: Span, origin: usize, windows: &[Span]) {
    for Piece { range, holders } in &portion.pieces {
        let blocks: Vec<Range<usize>> = split_evenly(range.len(), holders.len())
            .into_iter()
            .map(|block| range.start + block.start..range.start + block.end)
            .collect();
        let own = b.output(blocks[holders.ahead(0)].clone());
        ring::reduce_scatter(b, holders, &blocks, 1, (sum, origin), windows, own);
        b.finish_range(own);
        ring::all_gather(b, holders, &blocks, 0, own);
    }
}
