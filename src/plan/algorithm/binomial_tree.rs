//! Binomial tree: the number of ranks that know doubles with every step.
//!
//! Ranks are numbered from the root. The parent of a number is the number with its lowest set bit cleared, so
//! that the subtree of a number is a run of consecutive numbers. ceil(log2 n) steps, and each link carries the
//! whole message (broadcast, reduce) or a subtree's blocks (gather, scatter) once: the choice for small
//! rooted collectives. Children are combined nearest first, so that a reduction to number 0 is a balanced binary
//! tree over number order, for any number of ranks. all_reduce is a reduction to rank 0 and a broadcast from it;
//! under fixed order every reduction is made at rank 0, whose numbers are the ranks, and passed on to the root.
//!
//! Vocabulary: the *reach* of a number is the size of its subtree, were n a power of two.
//!
//! Source: the textbook tree; the form with consecutive subtrees as in R. Thakur, R. Rabenseifner, W. Gropp (2005),
//! sections 4.2 and 4.4.

use super::Entry;
use super::tree::{self, Tree as Links, Up};
use crate::collective::{Collective, Order};
use crate::plan::{Builder, Span};
use std::ops::Range;

pub(super) const ENTRY: Entry = Entry {
    name: "binomial_tree",
    idea: "a tree in which the informed double with each step: log2 n steps, for small rooted messages",
    collectives: &[
        Collective::AllReduce,
        Collective::Reduce,
        Collective::Broadcast,
        Collective::Gather,
        Collective::Scatter,
        Collective::Barrier,
    ],
    fixed_order: |_| true,
    generate,
    ..Entry::DEFAULT
};

fn generate(b: &mut Builder<'_>) {
    let root = b.request().root;
    match b.request().collective {
        Collective::Reduce => {
            let top = if b.request().order == Order::Fixed { 0 } else { root };
            reduce(b, &Tree::new(b, top).links(), root);
        }
        Collective::Broadcast => {
            let tree = Tree::new(b, root).links();
            tree::broadcast(b, &tree, &(0..b.request().whole()));
        }
        Collective::Gather => gather(b),
        Collective::Scatter => scatter(b),
        _ => {
            let tree = Tree::new(b, 0).links();
            reduce(b, &tree, 0);
            tree::down(b, &tree, &(0..b.request().whole()));
        }
    }
}

/// This rank's place in the tree of a root.
struct Tree {
    world: usize,
    root: usize,
    number: usize,
    /// The parent's number; of the root, itself.
    parent: usize,
    /// The children's numbers, nearest first.
    children: Vec<usize>,
}

impl Tree {
    fn new(b: &Builder<'_>, root: usize) -> Self {
        let world = b.world();
        let number = b.before(root);
        let reach = if number == 0 { world.next_power_of_two() } else { number & number.wrapping_neg() };
        let children = (0..reach.ilog2()).map(|bit| number + (1 << bit)).filter(|&child| child < world).collect();
        Tree { world, root, number, parent: number & number.wrapping_sub(1), children }
    }

    /// The tree by ranks.
    fn links(&self) -> Links {
        Links {
            parent: (self.number > 0).then(|| self.rank(self.parent)),
            children: self.children.iter().map(|&child| self.rank(child)).collect(),
        }
    }

    fn rank(&self, number: usize) -> usize {
        (number + self.root) % self.world
    }

    /// The numbers of a subtree.
    fn subtree(&self, number: usize) -> Range<usize> {
        let reach = if number == 0 { self.world } else { number & number.wrapping_neg() };
        number..(number + reach).min(self.world)
    }

    /// A run of numbers as runs of ranks: two where it passes the last rank.
    fn runs(&self, numbers: Range<usize>) -> Vec<Range<usize>> {
        let wrap = self.world - self.root;
        [numbers.start..numbers.end.min(wrap), numbers.start.max(wrap)..numbers.end]
            .into_iter()
            .filter(|run| run.start < run.end)
            .map(|run| self.rank(run.start)..self.rank(run.end - 1) + 1)
            .collect()
    }
}

/// The reduction of everybody's input comes to the top and, where that is rank 0 and not the root, from there to the root.
pub(super) fn reduce(b: &mut Builder<'_>, tree: &Links, root: usize) {
    let portions = b.portions();
    let (at_top, at_root) = (tree.parent.is_none(), b.rank() == root);
    let mut up = Up::new(b, tree, &portions, at_top && at_root);
    for portion in &portions {
        match up.portion(b, tree, portion) {
            Some(sum) if !at_root => b.send(sum, root),
            None if at_root => b.recv(b.output(portion.clone()), 0),
            _ => {}
        }
    }
}

/// Where the blocks of a subtree stand in memory that holds them in the order of numbers.
fn stacked(b: &Builder<'_>, tree: &Tree) -> (Vec<usize>, usize) {
    let blocks = b.request().blocks();
    let mut end = 0;
    let starts = tree
        .subtree(tree.number)
        .map(|number| {
            let start = end;
            end += blocks[tree.rank(number)].len();
            start
        })
        .collect();
    (starts, end)
}

/// The spans of a child's subtree: in the root's own buffer, or stacked in scratch memory.
fn subtree_spans(
    b: &Builder<'_>,
    tree: &Tree,
    child: usize,
    in_user_order: impl Fn(&Builder<'_>, Range<usize>) -> Option<Span>,
    stack: Option<(&[usize], Span)>,
) -> Vec<Span> {
    let blocks = b.request().blocks();
    tree.runs(tree.subtree(child))
        .into_iter()
        .map(|ranks| {
            let range = blocks[ranks.start].start..blocks[ranks.end - 1].end;
            in_user_order(b, range.clone()).unwrap_or_else(|| {
                let (starts, stack) = stack.expect("a rank below the root stacks its subtree");
                let number = (ranks.start + tree.world - tree.root) % tree.world;
                stack.part(starts[number - tree.number], range.len())
            })
        })
        .collect()
}

fn gather(b: &mut Builder<'_>) {
    let tree = Tree::new(b, b.request().root);
    let own = b.input(0..b.request().block(b.rank()).len());
    let at_root = tree.number == 0;
    if at_root {
        b.copy(own, b.output(b.request().block(b.rank())));
    } else if tree.children.is_empty() {
        b.send(own, tree.rank(tree.parent));
        return;
    }
    let (starts, len) = stacked(b, &tree);
    let stack = if at_root { None } else { Some(b.scratch(len)) };
    if let Some(stack) = stack {
        b.copy(own, stack.part(0, own.len));
    }
    for child in &tree.children {
        let spans = subtree_spans(
            b,
            &tree,
            *child,
            |b, range| at_root.then(|| b.output(range)),
            stack.map(|stack| (&starts[..], stack)),
        );
        for span in spans {
            b.recv(span, tree.rank(*child));
        }
    }
    if let Some(stack) = stack {
        let spans = subtree_spans(b, &tree, tree.number, |_, _| None, Some((&starts, stack)));
        for span in spans {
            b.send(span, tree.rank(tree.parent));
        }
    }
}

fn scatter(b: &mut Builder<'_>) {
    let tree = Tree::new(b, b.request().root);
    let output = b.output(0..b.request().block(b.rank()).len());
    let at_root = tree.number == 0;
    if !at_root && tree.children.is_empty() {
        b.recv(output, tree.rank(tree.parent));
        return;
    }
    let (starts, len) = stacked(b, &tree);
    let stack = if at_root { None } else { Some(b.scratch(len)) };
    if let Some(stack) = stack {
        for span in subtree_spans(b, &tree, tree.number, |_, _| None, Some((&starts, stack))) {
            b.recv(span, tree.rank(tree.parent));
        }
    }
    for child in tree.children.iter().rev() {
        let spans = subtree_spans(
            b,
            &tree,
            *child,
            |b, range| at_root.then(|| b.input(range)),
            stack.map(|stack| (&starts[..], stack)),
        );
        for span in spans {
            b.send(span, tree.rank(*child));
        }
    }
    let own = match stack {
        Some(stack) => stack.part(0, output.len),
        None => b.input(b.request().block(b.rank())),
    };
    b.copy(own, output);
}
