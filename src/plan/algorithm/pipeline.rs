//! Pipeline: a chain of ranks that begins, or ends, at the root, through which the message flows in chunks.
//!
//! Each rank passes on what it has (broadcast), or adds its own to it (reduce), while the next chunk arrives: n - 2 steps to
//! fill the chain and one step a chunk. Every link carries the message once, and no rank sends or receives
//! more than that: the choice for rooted collectives of large messages. Where ranks have several hosts the chain goes
//! through them one by one, the root's first, so that it crosses from host to host as rarely as can be.
//!
//! Vocabulary: a *chunk* is what the schedule takes at a time; a *window* holds a partial chunk on its way; two of
//! them take turns.
//!
//! Source: "chain" or "pipeline" in every library since J. Watts, R. van de Geijn, "A pipelined broadcast for
//! multidimensional meshes", Parallel Process. Lett. 5 (1995).

use super::Entry;
use crate::collective::Collective;
use crate::plan::{Builder, Span};

pub(super) const ENTRY: Entry = Entry {
    name: "pipeline",
    idea: "chunks flow along a chain of ranks: each link carries the message once, for large rooted messages",
    collectives: &[Collective::Reduce, Collective::Broadcast],
    looks_at_hosts: true,
    generate,
    ..Entry::DEFAULT
};

fn generate(b: &mut Builder<'_>) {
    let chain = chain(b);
    let place = chain.iter().position(|&rank| rank == b.rank()).expect("every rank is in the chain");
    let (nearer, further) = (place.checked_sub(1).map(|place| chain[place]), chain.get(place + 1).copied());
    if b.request().collective == Collective::Broadcast {
        broadcast(b, nearer, further);
    } else {
        reduce(b, nearer, further);
    }
}

/// All ranks, the root first, host by host.
fn chain(b: &Builder<'_>) -> Vec<usize> {
    let (topology, root) = (b.topology(), b.request().root);
    let mut hosts = topology.hosts(b.world());
    hosts.rotate_left(topology.host(root));
    let first = hosts[0].iter().position(|&rank| rank == root).expect("the root is on its host");
    hosts[0].rotate_left(first);
    hosts.concat()
}

fn broadcast(b: &mut Builder<'_>, nearer: Option<usize>, further: Option<usize>) {
    for chunk in b.portions() {
        let output = b.output(chunk.clone());
        let data = match nearer {
            Some(nearer) => {
                b.recv(output, nearer);
                output
            }
            None => b.input(chunk),
        };
        if let Some(further) = further {
            b.send(data, further);
        }
        if nearer.is_none() {
            b.copy(data, output);
        }
    }
}

fn reduce(b: &mut Builder<'_>, nearer: Option<usize>, further: Option<usize>) {
    let chunks = b.portions();
    let passes_on = nearer.is_some() && further.is_some();
    let windows: Vec<Span> =
        (0..if passes_on { chunks.len().min(2) } else { 0 }).map(|_| b.scratch(chunks[0].len())).collect();
    for (i, chunk) in chunks.into_iter().enumerate() {
        let mut partial = b.input(chunk.clone());
        if let Some(further) = further {
            let into =
                if passes_on { windows[i % 2].part(0, partial.len) } else { b.output(chunk.clone()) };
            b.recv_reduce(into, partial, further);
            partial = into;
        }
        match nearer {
            Some(nearer) => b.send(partial, nearer),
            None => b.finish_range(partial),
        }
    }
}
