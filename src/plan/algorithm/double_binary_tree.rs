//! Double binary tree: two trees at once, each of which carries half of the message.
//!
//! Numbers count ranks from the root, which is 0 and the head of both trees. The first tree is the binary tree over 1 to n - 1
//! in which the numbers stand from left to right; in it every odd number is a leaf. In the second one each
//! number stands where the next one stands in the first, so that who is a leaf of one is an inner node of the other
//! (but for one number, where n is even). So every rank sends and receives about the whole message once
//! each way up and once down, in 2 log2 n steps: nearly the bandwidth of a ring at the delay of a tree, for messages of
//! all sizes among many ranks.
//!
//! Source: P. Sanders, J. Speck, J. L. Traeff, "Two-tree algorithms for full bandwidth broadcast, reduction and scan",
//! Parallel Comput. 35 (2009); the second tree by shifting.

use super::Entry;
use super::tree::{self, Tree, Up};
use crate::collective::Collective;
use crate::plan::Builder;
use crate::plan::build::split_evenly;
use std::ops::Range;

pub(super) const ENTRY: Entry = Entry {
    name: "double_binary_tree",
    idea: "two trees with half of the message each, leaves of one inside the other: bandwidth in 2 log2 n steps",
    collectives: &[Collective::AllReduce, Collective::Reduce, Collective::Broadcast, Collective::Barrier],
    generate,
    ..Entry::DEFAULT
};

fn generate(b: &mut Builder<'_>) {
    let trees = [tree_of(b, 0), tree_of(b, 1)];
    let halves = split_evenly(b.request().whole(), 2);
    // Portions of both halves in turns: where two ranks meet in both trees, neither half waits for the other.
    let portions: Vec<[Range<usize>; 2]> =
        b.slices(&halves).into_iter().map(|portion| [portion[0].clone(), portion[1].clone()]).collect();
    let each = |b: &mut Builder<'_>, one: fn(&mut Builder<'_>, &Tree, &Range<usize>)| {
        for portion in &portions {
            trees.iter().zip(portion).for_each(|(tree, portion)| one(b, tree, portion));
        }
    };
    if b.request().collective == Collective::Broadcast {
        return each(b, tree::broadcast);
    }
    let is_head = b.before(b.request().root) == 0;
    let mut ups = [0, 1].map(|half| {
        let portions: Vec<_> = portions.iter().map(|portion| portion[half].clone()).collect();
        Up::new(b, &trees[half], &portions, is_head)
    });
    for portion in &portions {
        for (half, up) in ups.iter_mut().enumerate() {
            up.portion(b, &trees[half], &portion[half]);
        }
    }
    if b.request().collective != Collective::Reduce {
        each(b, tree::down);
    }
}

/// This rank's place in the first tree, or in the one that is shifted.
fn tree_of(b: &Builder<'_>, shift: usize) -> Tree {
    let (root, below) = (b.request().root, b.world() - 1);
    // The rank at a place of the tree, and the place of a number.
    let rank = |place: usize| ((place + below - 1 - shift) % below + 1 + root) % b.world();
    let number = b.before(root);
    if number == 0 {
        return Tree { parent: None, children: vec![rank(top(&(1..below + 1)))] };
    }
    let own = (number - 1 + shift) % below + 1;
    let mut parent = root;
    let mut places = 1..below + 1;
    loop {
        let here = top(&places);
        let [left, right] = [places.start..here, here + 1..places.end];
        if here == own {
            let children = [left, right].into_iter().filter(|side| !side.is_empty());
            return Tree { parent: Some(parent), children: children.map(|side| rank(top(&side))).collect() };
        }
        parent = rank(here);
        places = if own < here { left } else { right };
    }
}

/// The place at the top of a tree over these: all to its left is a full tree.
fn top(places: &Range<usize>) -> usize {
    places.start - 1 + (1 << places.len().ilog2())
}
