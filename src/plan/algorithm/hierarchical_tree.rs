//! Trees that know hosts: inside every host to one of its ranks, between these, and inside again.
//!
//! The ranks of each host sum up to its *leader*, by a binomial tree; the leaders make a binomial tree of their own; and what
//! is to come to everybody comes back the same way. A host sends the message once for each step between hosts, of which there are
//! ceil(log2 h) among h hosts: the choice for small messages. Where the ranks of a host share memory the steps inside it
//! are carried out there.
//!
//! Vocabulary: the *leader* of a host is its first rank; of the root's host, the root.
//!
//! Source: two-level trees as in N. Karonis et al., "Exploiting hierarchy in parallel computer networks to optimize collective
//! operation performance", IPDPS (2000).

use super::Entry;
use super::binomial_tree;
use super::tree::{self, Tree};
use crate::collective::Collective;
use crate::plan::Builder;

pub(super) const ENTRY: Entry = Entry {
    name: "hierarchical_tree",
    idea: "trees inside each host and between hosts: few steps over the network, for small messages",
    collectives: &[Collective::AllReduce, Collective::Reduce, Collective::Broadcast, Collective::Barrier],
    looks_at_hosts: true,
    generate,
    ..Entry::DEFAULT
};

fn generate(b: &mut Builder<'_>) {
    let root = if b.request().collective.is_rooted() { b.request().root } else { 0 };
    let tree = tree_to(b, root);
    let whole = 0..b.request().whole();
    match b.request().collective {
        Collective::Reduce => binomial_tree::reduce(b, &tree, root),
        Collective::Broadcast => tree::broadcast(b, &tree, &whole),
        _ => {
            binomial_tree::reduce(b, &tree, root);
            tree::down(b, &tree, &whole);
        }
    }
}

/// This rank's place in the tree to a root.
fn tree_to(b: &Builder<'_>, root: usize) -> Tree {
    let topology = b.topology();
    let hosts = topology.hosts(b.world());
    let leader = |host: usize| if host == topology.host(root) { root } else { hosts[host][0] };
    let mine = topology.host(b.rank());
    let mut inside = binomial(&hosts[mine], b.rank(), leader(mine));
    if b.rank() == leader(mine) {
        let leaders: Vec<usize> = (0..hosts.len()).map(leader).collect();
        let between = binomial(&leaders, b.rank(), root);
        inside.parent = between.parent;
        inside.children.extend(between.children);
    }
    inside
}

/// A rank's place in the binomial tree of some ranks to one of them.
fn binomial(ranks: &[usize], rank: usize, top: usize) -> Tree {
    let place = |rank: usize| ranks.iter().position(|&one| one == rank).expect("it is one of them");
    let (len, top) = (ranks.len(), place(top));
    let number = (place(rank) + len - top) % len;
    let of = |number: usize| ranks[(number + top) % len];
    let reach = if number == 0 { len.next_power_of_two() } else { number & number.wrapping_neg() };
    let children = (0..reach.ilog2()).map(|bit| number + (1 << bit)).filter(|&child| child < len).map(of);
    Tree { parent: (number > 0).then(|| of(number & (number - 1))), children: children.collect() }
}
