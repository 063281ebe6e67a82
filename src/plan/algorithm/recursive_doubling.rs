//! Recursive doubling: after step k every rank knows what its 2^(k+1) nearest ranks know.
//!
//! In step k each rank exchanges all that it has with the rank whose number differs in bit k. ceil(log2 n) steps,
//! the whole message in each: the choice for small messages, where only the number of steps counts. Because
//! neighbours meet first, the sums form a balanced binary tree over rank order.
//!
//! Where n is no power of two, the first ranks stand in pairs: one of a pair hands its data over before, and
//! hears the result after, so that a power of two is left; two steps more.
//!
//! Vocabulary: a rank *acts* under a number below the power of two.
//!
//! Source: R. Thakur, R. Rabenseifner, W. Gropp, "Optimization of collective communication operations in MPICH",
//! Int. J. High Perform. Comput. Appl. 19 (2005), sections 4.1 and 4.5.

use super::Entry;
use crate::collective::Collective;
use crate::plan::{Builder, Place, Span};
use std::ops::Range;

pub(super) const ENTRY: Entry = Entry {
    name: "recursive_doubling",
    idea: "whole messages between ranks 1, 2, 4 ... apart: log2 n steps, for small messages",
    collectives: &[Collective::AllReduce, Collective::AllGather, Collective::Barrier],
    fixed_order: |request| request.world.is_power_of_two(),
    generate,
    ..Entry::DEFAULT
};

fn generate(b: &mut Builder<'_>) {
    if b.request().collective == Collective::AllGather { all_gather(b) } else { all_reduce(b) }
}

fn all_reduce(b: &mut Builder<'_>) {
    let folded = Folded::new(b.world());
    let portions = b.portions();
    let longest = portions[0].len();
    let mut windows: Vec<Span> = Vec::new();
    for portion in &portions {
        let (input, output) = (b.input(portion.clone()), b.output(portion.clone()));
        let (number, helped) = match folded.part(b.rank()) {
            Part::Idle(actor) => {
                b.send(input, actor);
                b.recv(output, actor);
                continue;
            }
            Part::Acts(number, helped) => (number, helped),
        };
        let mut turn = 0;
        let mut window = |b: &mut Builder<'_>| {
            if windows.len() < 2 && turn == windows.len() {
                windows.push(b.scratch(longest));
            }
            turn += 1;
            windows[(turn - 1) % 2].part(0, input.len)
        };
        let mut partial = input;
        if let Some(helped) = helped {
            partial = window(b);
            b.recv_reduce(partial, input, helped);
        }
        let mut mask = 1;
        while mask < folded.size {
            let peer = folded.actor(number ^ mask);
            // What is still being sent must not be overwritten, so the input is not reduced into in place.
            let last = mask * 2 == folded.size;
            let into = if last && !(partial.place == Place::Input && b.in_place()) { output } else { window(b) };
            b.send(partial, peer);
            b.recv_reduce(into, partial, peer);
            partial = into;
            mask *= 2;
        }
        b.copy(partial, output);
        b.finish_range(output);
        if let Some(helped) = helped {
            b.send(output, helped);
        }
    }
}

fn all_gather(b: &mut Builder<'_>) {
    let folded = Folded::new(b.world());
    let blocks = b.request().blocks();
    let own = b.input(0..blocks[b.rank()].len());
    let span = |b: &Builder<'_>, numbers: Range<usize>| {
        let ranks = folded.ranks(numbers.start).start..folded.ranks(numbers.end - 1).end;
        b.output(blocks[ranks.start].start..blocks[ranks.end - 1].end)
    };
    let (number, helped) = match folded.part(b.rank()) {
        Part::Idle(actor) => {
            b.send(own, actor);
            b.recv(b.output(0..b.request().blocks_end()), actor);
            return;
        }
        Part::Acts(number, helped) => (number, helped),
    };
    b.copy(own, b.output(blocks[b.rank()].clone()));
    if let Some(helped) = helped {
        b.recv(b.output(blocks[helped].clone()), helped);
    }
    let mut mask = 1;
    while mask < folded.size {
        let mine = number & !(mask - 1);
        let theirs = mine ^ mask;
        let peer = folded.actor(number ^ mask);
        let outgoing = if mask == 1 && helped.is_none() { own } else { span(b, mine..mine + mask) };
        b.send(outgoing, peer);
        b.recv(span(b, theirs..theirs + mask), peer);
        mask *= 2;
    }
    if let Some(helped) = helped {
        b.send(b.output(0..b.request().blocks_end()), helped);
    }
}

/// The largest power of two that is not above `world`, and where each rank stands in a group of that size: the
/// first `2 * (world - size)` ranks stand in pairs, the odd one of a pair acting for both.
struct Folded {
    /// The power of two.
    size: usize,
    pairs: usize,
}

/// A rank's part in a folded group.
enum Part {
    /// It hands its data to this rank at the start and hears the result from it at the end.
    Idle(usize),
    /// It acts under this number, and for the rank before it where that is `Some`.
    Acts(usize, Option<usize>),
}

impl Folded {
    fn new(world: usize) -> Self {
        let size = 1 << world.ilog2();
        Folded { size, pairs: world - size }
    }

    fn part(&self, rank: usize) -> Part {
        if rank >= 2 * self.pairs {
            Part::Acts(rank - self.pairs, None)
        } else if rank % 2 == 1 {
            Part::Acts(rank / 2, Some(rank - 1))
        } else {
            Part::Idle(rank + 1)
        }
    }

    /// The rank that acts under this number.
    fn actor(&self, number: usize) -> usize {
        if number < self.pairs { 2 * number + 1 } else { number + self.pairs }
    }

    /// The ranks for which a number acts: consecutive, the actor last.
    fn ranks(&self, number: usize) -> Range<usize> {
        let actor = self.actor(number);
        if number < self.pairs { actor - 1..actor + 1 } else { actor..actor + 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folding_gives_every_number_one_actor() {
        for world in 1..70 {
            let folded = Folded::new(world);
            let mut seen = vec![false; folded.size];
            let mut covered = 0;
            for rank in 0..world {
                match folded.part(rank) {
                    Part::Acts(number, helped) => {
                        assert!(!std::mem::replace(&mut seen[number], true));
                        assert_eq!(folded.actor(number), rank);
                        assert_eq!(folded.ranks(number).len(), 1 + usize::from(helped.is_some()));
                        covered += folded.ranks(number).len();
                    }
                    Part::Idle(actor) => {
                        assert!(matches!(folded.part(actor), Part::Acts(_, Some(r)) if r == rank))
                    }
                }
            }
            assert!(seen.into_iter().all(|seen| seen));
            assert_eq!(covered, world);
        }
    }
}
