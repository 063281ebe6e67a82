//! One node for each task and block, and what must come before what.

use super::Fault;
use super::blocks::System;
use crate::plan::Step;
use crate::plan::lower::Dependency;
use rustc_hash::FxHashMap;

/// The happens-before graph of a system.
pub(super) struct Graph {
    /// The node of each entry's first block; its other blocks follow. A message's two ends share their nodes.
    pub(super) first: Vec<u32>,
    /// The entry of each node: of a message, the send.
    pub(super) entry: Vec<u32>,
    /// Predecessors of node i: `edges[starts[i]..starts[i + 1]]`.
    starts: Vec<u32>,
    edges: Vec<u32>,
}

impl Graph {
    pub(super) fn new(system: &System<'_>) -> Result<Self, Fault> {
        let mut first = vec![u32::MAX; system.entries.len()];
        let mut owner = Vec::new();
        for (index, entry) in system.entries.iter().enumerate() {
            // A message with elements is one event for both ends, which share its nodes: nothing is buffered.
            let shares = match entry.partner {
                Some(partner) if entry.task.len > 0 && entry.step.receives_from().is_some() => Some(partner),
                _ => None,
            };
            if shares.is_none() {
                first[index] = owner.len() as u32;
                owner.extend(std::iter::repeat_n(index as u32, entry.ends.len()));
            }
        }
        for (index, entry) in system.entries.iter().enumerate() {
            if first[index] == u32::MAX {
                first[index] = first[entry.partner.expect("only an end of a message shares")];
            }
        }
        let signals = Signals::collect(system);
        let mut pairs: Vec<(u32, u32)> = Vec::with_capacity(owner.len() * 3);
        for (rank, lowered) in system.ranks.iter().enumerate() {
            let base = system.base[rank];
            for (_, tasks) in &lowered.lanes {
                let mut previous: Option<u32> = None;
                for &task in tasks {
                    let index = base + task;
                    let entry = &system.entries[index];
                    for (block, &end) in entry.ends.iter().enumerate() {
                        let node = first[index] + block as u32;
                        if let Some(previous) = previous {
                            pairs.push((node, previous));
                        }
                        previous = Some(node);
                        for dependency in &entry.task.dependencies {
                            let on = &system.entries[base + dependency.on];
                            if let Some(block) = needed(dependency, end, &on.ends) {
                                pairs.push((node, first[base + dependency.on] + block as u32));
                            }
                        }
                    }
                    match entry.step {
                        // An empty message still has to be there before it can be received.
                        Step::Recv { .. } | Step::RecvReduce { .. } if entry.task.len == 0 => {
                            if let Some(partner) = entry.partner {
                                pairs.push((first[index], first[partner]));
                            }
                        }
                        Step::Wait { rank: whose, flag, value } if *value > 0 => {
                            let signal = signals.find(*whose, *flag, *value).ok_or_else(|| {
                                Fault::Unmatched(format!(
                                    "{} waits for a signal that nobody gives",
                                    system.at(index)
                                ))
                            })?;
                            pairs.push((first[index], first[signal]));
                        }
                        _ => {}
                    }
                }
            }
        }
        let mut starts = vec![0u32; owner.len() + 1];
        for &(node, _) in &pairs {
            starts[node as usize + 1] += 1;
        }
        for node in 0..owner.len() {
            starts[node + 1] += starts[node];
        }
        let mut edges = vec![0u32; pairs.len()];
        let mut fill = starts.clone();
        for (node, before) in pairs {
            let at = &mut fill[node as usize];
            edges[*at as usize] = before;
            *at += 1;
        }
        Ok(Graph { first, entry: owner, starts, edges })
    }

    /// What must come directly before a node.
    pub(super) fn before(&self, node: u32) -> &[u32] {
        &self.edges[self.starts[node as usize] as usize..self.starts[node as usize + 1] as usize]
    }

    /// An order in which everything can happen.
    pub(super) fn topological_order(&self, system: &System<'_>) -> Result<Vec<u32>, Fault> {
        let count = self.entry.len();
        let mut missing = vec![0u32; count];
        let mut after_starts = vec![0u32; count + 1];
        for &before in &self.edges {
            after_starts[before as usize + 1] += 1;
        }
        for node in 0..count {
            after_starts[node + 1] += after_starts[node];
        }
        let mut after = vec![0u32; self.edges.len()];
        let mut fill = after_starts.clone();
        for node in 0..count as u32 {
            missing[node as usize] = self.before(node).len() as u32;
            for &before in self.before(node) {
                let at = &mut fill[before as usize];
                after[*at as usize] = node;
                *at += 1;
            }
        }
        let mut order: Vec<u32> = (0..count as u32).filter(|&node| missing[node as usize] == 0).collect();
        let mut next = 0;
        while next < order.len() {
            let node = order[next] as usize;
            next += 1;
            for &follower in &after[after_starts[node] as usize..after_starts[node + 1] as usize] {
                missing[follower as usize] -= 1;
                if missing[follower as usize] == 0 {
                    order.push(follower);
                }
            }
        }
        if order.len() == count { Ok(order) } else { Err(self.describe_cycle(system, &missing)) }
    }

    /// Follows, from any node that could not happen, one that it waits for, until the circle closes.
    fn describe_cycle(&self, system: &System<'_>, missing: &[u32]) -> Fault {
        let stuck = |node: &u32| missing[*node as usize] > 0;
        let mut path: Vec<u32> = Vec::new();
        let mut seen = FxHashMap::default();
        let mut node = (0..missing.len() as u32).find(stuck).expect("somebody is stuck");
        while !seen.contains_key(&node) {
            seen.insert(node, path.len());
            path.push(node);
            node = *self
                .before(node)
                .iter()
                .find(|node| stuck(node))
                .expect("a stuck node waits for a stuck one");
        }
        let mut steps: Vec<String> = Vec::new();
        for &node in &path[seen[&node]..] {
            let text = system.at(self.entry[node as usize] as usize).to_string();
            if steps.last() != Some(&text) {
                steps.push(text);
            }
        }
        let shown = steps.len().min(6);
        let more =
            if steps.len() > shown { format!(" ... ({} more)", steps.len() - shown) } else { String::new() };
        Fault::Deadlock(format!("a circle of {}: {}{more}", steps.len(), steps[..shown].join(" waits for ")))
    }

    /// How many messages in a row lead to each node, itself included.
    pub(super) fn depths(&self, system: &System<'_>, order: &[u32]) -> Vec<u32> {
        let mut depths = vec![0u32; self.entry.len()];
        for &node in order {
            let entry = self.entry[node as usize];
            let own = u32::from(system.entries[entry as usize].partner.is_some());
            depths[node as usize] = self
                .before(node)
                .iter()
                .map(|&before| {
                    // The blocks of one message are one message.
                    depths[before as usize] + if self.entry[before as usize] == entry { 0 } else { own }
                })
                .fold(own, u32::max);
        }
        depths
    }
}

/// The block of an earlier task that must be done before a later one may reach `end`.
pub(super) fn needed(dependency: &Dependency, end: usize, ends: &[usize]) -> Option<usize> {
    let last = ends.len() - 1;
    if dependency.shift == Dependency::UNTIL_DONE {
        return Some(last);
    }
    let progress = end as isize - dependency.shift;
    if progress <= 0 {
        return None;
    }
    Some(ends.partition_point(|&end| end < progress as usize).min(last))
}

/// The signals of all ranks, in order.
struct Signals(FxHashMap<(usize, u32), Vec<usize>>);

impl Signals {
    fn collect(system: &System<'_>) -> Self {
        let mut signals: FxHashMap<(usize, u32), Vec<usize>> = FxHashMap::default();
        for (index, entry) in system.entries.iter().enumerate() {
            if let Step::Signal { flag } = entry.step {
                signals.entry((entry.rank, *flag)).or_default().push(index);
            }
        }
        Signals(signals)
    }

    fn find(&self, rank: usize, flag: u32, value: u32) -> Option<usize> {
        self.0.get(&(rank, flag))?.get(value as usize - 1).copied()
    }
}
