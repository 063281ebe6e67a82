//! Recursive halving and doubling, nearest ranks first.
//!
//! Groups of 1, 2, 4 ... ranks that stand side by side join in pairs. While a group stands alone, each of its ranks holds its
//! sum of one part of the message; when two groups join, the ranks that hold the same elements share them, each sends what
//! the other keeps, and adds what it gets to what it keeps. At the end each rank holds one finished n-th. The second half
//! runs the same exchanges backwards and hands the finished parts round. 2 log2 n steps and 2(n-1)/n of the
//! message: as few bytes as a ring in far fewer steps, but every step has another partner. The choice for
//! messages of medium size. Joining neighbours first makes the sums a balanced binary tree over rank order; the
//! price is that the parts a rank holds of a reduce_scatter lie apart.
//!
//! Where n is no power of two, the last group is smaller than the one that it joins, and shares are in proportion: of a
//! part that both hold, a group of a ranks keeps a/(a+s) and one of s ranks s/(a+s). Each rank still sends (n-1)/n of the
//! message and at most receives all of it on the way to the sum, and still in the balanced tree.
//!
//! A long message goes in portions, one behind the other: while one is exchanged at a joint, the next is exchanged at the
//! joint before, so that all partners are busy all the time. Two windows of scratch memory a joint take turns.
//!
//! A reduction to one root gathers the finished parts there, straight.
//!
//! Vocabulary: a *group* is a node of the tree over rank order; a *part* is a range of the message with the rank that
//! holds its group's sum of it.
//!
//! Source: R. Rabenseifner, "Optimization of collective reduction operations", ICCS 2004; nearest-first as in
//! R. Thakur, R. Rabenseifner, W. Gropp (2005), section 4.3 with the order of distances reversed; shares in proportion, for
//! any number of ranks, are this project's.

use super::Entry;
use crate::collective::Collective;
use crate::plan::{Builder, Span};
use std::ops::Range;
use std::slice;

pub(super) const ENTRY: Entry = Entry {
    name: "halving_doubling",
    idea: "halves between ranks 1, 2, 4 ... apart and back: least bytes in 2 log2 n steps",
    collectives: &[Collective::AllReduce, Collective::Reduce, Collective::ReduceScatter, Collective::Barrier],
    fixed_order: |_| true,
    generate,
    ..Entry::DEFAULT
};

fn generate(b: &mut Builder<'_>) {
    match b.request().collective {
        Collective::ReduceScatter => reduce_scatter(b),
        Collective::Reduce => reduce(b),
        _ => all_reduce(b),
    }
}

/// The two groups that join to be this one of two ranks or more.
fn halves(group: &Range<usize>) -> [Range<usize>; 2] {
    let middle = group.start + group.len().next_power_of_two() / 2;
    [group.start..middle, middle..group.end]
}

/// The groups of a rank before they join, each with the one that it joins, smallest first.
fn joints(world: usize, rank: usize) -> Vec<[Range<usize>; 2]> {
    let mut joints = Vec::new();
    let mut group = 0..world;
    while group.len() > 1 {
        let [left, right] = halves(&group);
        let (own, other) = if rank < right.start { (left, right) } else { (right, left) };
        joints.push([own.clone(), other]);
        group = own;
    }
    joints.reverse();
    joints
}

// all_reduce and reduce: parts are cut wherever it suits. Who exchanges with whom depends on the number of ranks only, so that
// ranks meet, and compare what they are asked for, however short the message is.

/// Where parts begin and end, as if the message had so many elements.
const AXIS: usize = 1 << 40;

/// A range of the axis, with a number that says whose it is.
type Part = (Range<usize>, usize);

/// Who holds what when a group stands alone, wherever that touches a range of the axis: ranges with the ranks that hold its
/// sum of them, in ascending order.
fn parts(group: &Range<usize>, within: &Range<usize>) -> Vec<Part> {
    let len = group.len();
    if len.is_power_of_two() {
        // All have the same share, and each join cuts every share in two: who has one is its number, read backwards.
        let (share, bits) = (AXIS / len, len.trailing_zeros());
        let holder = |place: usize| place.reverse_bits().checked_shr(usize::BITS - bits).unwrap_or(0);
        return (within.start / share..within.end.div_ceil(share))
            .map(|place| (place * share..(place + 1) * share, group.start + holder(place)))
            .collect();
    }
    let groups = halves(group);
    let [left, right] = groups.each_ref().map(|group| parts(group, within));
    let mut joined = Vec::new();
    for (range, a, b) in common(&left, &right) {
        let [first, second] = cut(&groups, range);
        joined.extend([(first, a), (second, b)]);
    }
    joined.retain(|(range, _)| range.start < within.end && within.start < range.end);
    joined
}

/// The ranges that lie in a part on both sides, with the numbers of these parts.
fn common(left: &[Part], right: &[Part]) -> Vec<(Range<usize>, usize, usize)> {
    let (mut i, mut j) = (0, 0);
    let mut found = Vec::new();
    while let (Some((a, of_a)), Some((b, of_b))) = (left.get(i), right.get(j)) {
        let range = a.start.max(b.start)..a.end.min(b.end);
        if !range.is_empty() {
            found.push((range, *of_a, *of_b));
        }
        i += usize::from(a.end <= b.end);
        j += usize::from(b.end <= a.end);
    }
    found
}

/// What two groups keep of a range of the axis when they join.
fn cut(groups: &[Range<usize>; 2], range: Range<usize>) -> [Range<usize>; 2] {
    let [left, right] = groups.each_ref().map(ExactSizeIterator::len);
    let middle = range.start + range.len() * left / (left + right);
    [range.start..middle, middle..range.end]
}

/// The elements of a portion that a range of the axis stands for.
fn elements(portion: &Range<usize>, range: &Range<usize>) -> Range<usize> {
    let at = |place: usize| portion.start + (portion.len() as u128 * place as u128 / AXIS as u128) as usize;
    at(range.start)..at(range.end)
}

/// What a rank exchanges with another one when their groups join.
struct Exchange {
    peer: usize,
    /// Which of the parts that it holds this is about: those that it kept at the joint before, in their order.
    part: usize,
    kept: Range<usize>,
    given: Range<usize>,
}

/// Everything that a rank exchanges on the way to the sum, joint by joint.
fn exchanges(world: usize, rank: usize) -> Vec<Vec<Exchange>> {
    let mut held = vec![(0..AXIS, 0)];
    let mut path = Vec::new();
    for [own, other] in joints(world, rank) {
        let is_left = own.start < other.start;
        let groups = if is_left { [own, other.clone()] } else { [other.clone(), own] };
        let mut exchanges = Vec::new();
        for mine in &held {
            for (range, part, peer) in common(slice::from_ref(mine), &parts(&other, &mine.0)) {
                let [left, right] = cut(&groups, range);
                let (kept, given) = if is_left { (left, right) } else { (right, left) };
                exchanges.push(Exchange { peer, part, kept, given });
            }
        }
        held = exchanges.iter().enumerate().map(|(part, exchange)| (exchange.kept.clone(), part)).collect();
        path.push(exchanges);
    }
    path
}

/// Leaves finished sums of this rank's parts of a portion in the output, or in scratch memory where it has none.
fn to_parts(
    b: &mut Builder<'_>,
    path: &[Vec<Exchange>],
    portion: &Range<usize>,
    has_output: bool,
) -> Vec<Span> {
    let mut held = vec![(portion.start, b.input(portion.clone()))];
    for (joint, exchanges) in path.iter().enumerate() {
        let last = joint + 1 == path.len();
        let mut now = Vec::with_capacity(exchanges.len());
        for Exchange { peer, part, kept, given } in exchanges {
            let (origin, span) = held[*part];
            let (kept, given) = (elements(portion, kept), elements(portion, given));
            b.send(span.part(given.start - origin, given.len()), *peer);
            let local = span.part(kept.start - origin, kept.len());
            let into = if last && has_output { b.output(kept.clone()) } else { b.scratch(kept.len()) };
            b.recv_reduce(into, local, *peer);
            now.push((kept.start, into));
        }
        held = now;
    }
    let spans: Vec<Span> = held.into_iter().map(|(_, span)| span).collect();
    spans.iter().for_each(|&span| b.finish_range(span));
    spans
}

/// Portions follow each other joint by joint, to the sum and back: while one is exchanged at a joint, the next one is at the
/// joint before. Whoever has fewer joints than others begins later, so that two ranks always mean the same portion.
fn all_reduce(b: &mut Builder<'_>) {
    let (path, portions) = (exchanges(b.world(), b.rank()), b.portions());
    let joints = b.world().next_power_of_two().ilog2() as usize;
    let late = joints - path.len();
    let windows = windows(b, &path, &portions);
    for tick in 0..portions.len() + 2 * joints {
        // What has come furthest goes first.
        for stage in (late..2 * joints - late).rev() {
            let Some(number) = tick.checked_sub(stage).filter(|&number| number < portions.len()) else { continue };
            let portion = &portions[number];
            if stage < joints {
                to_the_sum(b, &path, stage - late, portion, &windows[number % windows.len()]);
            } else {
                for Exchange { peer, kept, given, .. } in &path[2 * joints - 1 - stage - late] {
                    b.send(b.output(elements(portion, kept)), *peer);
                    b.recv(b.output(elements(portion, given)), *peer);
                }
            }
        }
    }
}

/// Scratch memory for what a rank keeps at each joint but the last, for two portions that take turns.
fn windows(b: &mut Builder<'_>, path: &[Vec<Exchange>], portions: &[Range<usize>]) -> Vec<Vec<Vec<Span>>> {
    let longest = |range: &Range<usize>| portions.iter().map(|portion| elements(portion, range).len()).max();
    let joints = &path[..path.len() - 1];
    (0..portions.len().min(2))
        .map(|_| {
            let mut window = |exchange: &Exchange| b.scratch(longest(&exchange.kept).unwrap_or(0));
            joints.iter().map(|exchanges| exchanges.iter().map(&mut window).collect()).collect()
        })
        .collect()
}

/// Exchanges a portion at one joint, on the way to the sum.
fn to_the_sum(
    b: &mut Builder<'_>,
    path: &[Vec<Exchange>],
    joint: usize,
    portion: &Range<usize>,
    windows: &[Vec<Span>],
) {
    for (place, Exchange { peer, part, kept, given }) in path[joint].iter().enumerate() {
        let (kept, given) = (elements(portion, kept), elements(portion, given));
        let held = |range: &Range<usize>| match joint.checked_sub(1) {
            None => b.input(range.clone()),
            Some(before) => {
                let origin = elements(portion, &path[before][*part].kept).start;
                windows[before][*part].part(range.start - origin, range.len())
            }
        };
        let (leaves, local) = (held(&given), held(&kept));
        let into = match windows.get(joint) {
            Some(windows) => windows[place].part(0, kept.len()),
            None => b.output(kept),
        };
        b.send(leaves, *peer);
        b.recv_reduce(into, local, *peer);
        if joint + 1 == path.len() {
            b.finish_range(into);
        }
    }
}

fn reduce(b: &mut Builder<'_>) {
    let (rank, root) = (b.rank(), b.request().root);
    let path = exchanges(b.world(), rank);
    let everybodys = if rank == root { parts(&(0..b.world()), &(0..AXIS)) } else { Vec::new() };
    // Larger portions than those of an all_reduce: what goes to the root is a part of one, not a half.
    for portion in b.stretches(4) {
        b.with_scratch(|b| {
            for span in to_parts(b, &path, &portion, rank == root) {
                if rank != root {
                    b.send(span, root);
                }
            }
        });
        for (range, holder) in everybodys.iter().filter(|(_, holder)| *holder != root) {
            b.recv(b.output(elements(&portion, range)), *holder);
        }
    }
}

// reduce_scatter: blocks stay whole, and each ends where it belongs.

/// The rank that holds a group's sum of a block when the group stands alone: its owner, if that is one of the group. Groups of
/// one size hold the blocks of others in the same places; a smaller last group and the one that it joins in
/// proportion to their ranks.
fn holder(group: &Range<usize>, block: usize) -> usize {
    let mut group = group.clone();
    while group.len() > 1 {
        let [left, right] = halves(&group);
        let [a, s] = [left.len(), right.len()];
        let turn = block / a;
        let goes_left = if group.contains(&block) {
            block < right.start
        } else if a == s {
            turn.is_multiple_of(2)
        } else {
            (turn + 1) * a / (a + s) > turn * a / (a + s)
        };
        group = if goes_left { left } else { right };
    }
    group.start
}

fn reduce_scatter(b: &mut Builder<'_>) {
    let (rank, blocks) = (b.rank(), b.request().blocks());
    let origin = blocks[rank].start;
    let joints = joints(b.world(), rank);
    for portion in b.slices(&blocks) {
        b.with_scratch(|b| {
            let mut held: Vec<(usize, Span)> =
                portion.iter().enumerate().map(|(block, range)| (block, b.input(range.clone()))).collect();
            for [own, other] in &joints {
                let joined = own.start.min(other.start)..own.end.max(other.end);
                let last = joined.len() == b.world();
                held.retain_mut(|(block, span)| {
                    let peer = holder(other, *block);
                    let stays = holder(&joined, *block) == rank;
                    if stays {
                        let at = portion[*block].start;
                        let into = if last {
                            b.output(at - origin..at - origin + span.len)
                        } else {
                            b.scratch(span.len)
                        };
                        b.recv_reduce(into, *span, peer);
                        *span = into;
                    } else {
                        b.send(*span, peer);
                    }
                    stays
                });
            }
            held.iter().for_each(|(_, span)| b.finish_range(*span));
        });
    }
}
