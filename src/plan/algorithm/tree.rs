//! What the tree algorithms share: how messages go up and down a tree, in portions.
//!
//! A rank adds its children's partial sums to its own contribution in their order and sends the sum to its parent; or it
//! passes on to its children what its parent sends. Because each portion's bytes are sent on as they come, a tree
//! is a stream too, and the portions only bound the scratch memory.

use crate::plan::{Builder, Span};
use std::ops::Range;

/// A rank's place in a tree.
pub(super) struct Tree {
    /// The parent's rank; none at the top.
    pub(super) parent: Option<usize>,
    /// The children's ranks, in the order in which their sums are added.
    pub(super) children: Vec<usize>,
}

/// The way up: windows for the partial sums of a tree. Two take turns, so that the next portion can be summed while
/// this one is being sent.
pub(super) struct Up {
    windows: Vec<Span>,
    /// Whether the last sum is the output here, and needs no window.
    ends_here: bool,
    turn: usize,
}

impl Up {
    /// Makes windows for these portions, the longest first.
    pub(super) fn new(b: &mut Builder<'_>, tree: &Tree, portions: &[Range<usize>], ends_here: bool) -> Self {
        let partials = tree.children.len() - usize::from(ends_here && !tree.children.is_empty());
        let windows = if partials > 0 { portions.len().min(2) } else { 0 };
        Up { windows: (0..windows).map(|_| b.scratch(portions[0].len())).collect(), ends_here, turn: 0 }
    }

    /// Sums up one portion and sends it to the parent; at the top it is finished, and the result returned.
    pub(super) fn portion(
        &mut self,
        b: &mut Builder<'_>,
        tree: &Tree,
        portion: &Range<usize>,
    ) -> Option<Span> {
        let mut partial = b.input(portion.clone());
        for (k, child) in tree.children.iter().enumerate() {
            let into = if self.ends_here && k + 1 == tree.children.len() {
                b.output(portion.clone())
            } else {
                self.windows[self.turn % 2].part(0, partial.len)
            };
            b.recv_reduce(into, partial, *child);
            partial = into;
        }
        self.turn += 1;
        match tree.parent {
            Some(parent) => {
                b.send(partial, parent);
                None
            }
            None => {
                b.finish_range(partial);
                Some(partial)
            }
        }
    }
}

/// One portion of what the top has comes to everybody's output.
pub(super) fn down(b: &mut Builder<'_>, tree: &Tree, portion: &Range<usize>) {
    let output = b.output(portion.clone());
    if let Some(parent) = tree.parent {
        b.recv(output, parent);
    }
    for child in tree.children.iter().rev() {
        b.send(output, *child);
    }
}

/// A broadcast of one portion: the top sends its input.
pub(super) fn broadcast(b: &mut Builder<'_>, tree: &Tree, portion: &Range<usize>) {
    if tree.parent.is_some() {
        return down(b, tree, portion);
    }
    let input = b.input(portion.clone());
    for child in tree.children.iter().rev() {
        b.send(input, *child);
    }
    b.copy(input, b.output(portion.clone()));
}
