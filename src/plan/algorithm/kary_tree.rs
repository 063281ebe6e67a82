//! k-ary tree: every rank has up to four children.
//!
//! Ranks are numbered from the root; number v has the children 4v + 1 to 4v + 4. log4 n levels up, down, or both
//! (all_reduce), with at most four messages at a rank in each: fewer hops in a row than a binomial tree has, and
//! nobody serves more than four, whereas the root of a binomial tree serves log2 n. The choice for small and medium
//! messages among many ranks.
//!
//! Source: the complete k-ary tree of any textbook; as a tree for collectives, S. S. Vadhiyar, G. E. Fagg, J. Dongarra,
//! "Automatically tuned collective communications", SC 2000.

use super::Entry;
use super::tree::{self, Tree, Up};
use crate::collective::Collective;
use crate::plan::Builder;

pub(super) const ENTRY: Entry = Entry {
    name: "kary_tree",
    idea: "a tree of four children each: log4 n levels, for small messages among many ranks",
    collectives: &[Collective::AllReduce, Collective::Reduce, Collective::Broadcast, Collective::Barrier],
    generate,
    ..Entry::DEFAULT
};

/// The most children of a rank.
const CHILDREN: usize = 4;

fn generate(b: &mut Builder<'_>) {
    let root = b.request().root;
    let rank = |number: usize| (number + root) % b.world();
    let number = b.before(root);
    let first = number * CHILDREN + 1;
    let tree = Tree {
        parent: (number > 0).then(|| rank((number - 1) / CHILDREN)),
        children: (first..first + CHILDREN).filter(|&child| child < b.world()).map(rank).collect(),
    };
    let portions = b.portions();
    if b.request().collective == Collective::Broadcast {
        portions.iter().for_each(|portion| tree::broadcast(b, &tree, portion));
        return;
    }
    let mut up = Up::new(b, &tree, &portions, number == 0);
    for portion in &portions {
        up.portion(b, &tree, portion);
    }
    if b.request().collective != Collective::Reduce {
        portions.iter().for_each(|portion| tree::down(b, &tree, portion));
    }
}
