//! CPUs for each task, near its devices.

use super::super::host::Node;
use super::super::inventory::Inventory;
use super::super::request::{CPU, TaskRequest, cpu_units};
use super::room::Seat;
use rustc_hash::FxHashMap;
use std::cmp::Reverse;
use std::collections::VecDeque;

/// The CPUs of a NUMA node.
struct OfNode {
    id: usize,
    /// All of them.
    all: Vec<usize>,
    /// Those that nobody has anything of, in order.
    whole: VecDeque<usize>,
    /// Those that somebody has a part of, with what is left.
    parts: Vec<(usize, u64)>,
    /// Those of which nothing is left; the next to be shared all the same comes first.
    spent: VecDeque<usize>,
    /// What is left of all of them.
    left: u64,
    /// How many tasks without a device are here.
    guests: usize,
}

impl OfNode {
    fn of(node: &Node) -> OfNode {
        OfNode {
            id: node.id,
            all: node.cpus.clone(),
            whole: node.cpus.iter().copied().collect(),
            parts: Vec::new(),
            spent: VecDeque::new(),
            left: node.cpus.len() as u64 * CPU,
            guests: 0,
        }
    }

    /// A CPU that has so much left: one that is in use already, as long as a part is asked for.
    fn take(&mut self, units: u64, chosen: &[usize]) -> Option<usize> {
        let able = self.parts.iter().enumerate();
        let able = able.filter(|(_, (cpu, left))| *left >= units && !chosen.contains(cpu));
        let cpu = match able.min_by_key(|(_, (cpu, left))| (*left, *cpu)).map(|(at, _)| at) {
            Some(at) => {
                let (cpu, left) = self.parts.swap_remove(at);
                self.keep(cpu, left - units);
                cpu
            }
            None => {
                let cpu = self.whole.pop_front()?;
                self.keep(cpu, CPU - units);
                cpu
            }
        };
        self.left -= units;
        Some(cpu)
    }

    fn keep(&mut self, cpu: usize, left: u64) {
        match left {
            0 => self.spent.push_back(cpu),
            left => self.parts.push((cpu, left)),
        }
    }

    /// A CPU that has less left than it takes: the one that has the most, else each in turn.
    fn share(&mut self, chosen: &[usize]) -> Option<usize> {
        let able = self.parts.iter().enumerate().filter(|(_, (cpu, _))| !chosen.contains(cpu));
        if let Some(at) = able.max_by_key(|(_, (cpu, left))| (*left, Reverse(*cpu))).map(|(at, _)| at) {
            let (cpu, left) = self.parts.swap_remove(at);
            self.left -= left;
            self.spent.push_back(cpu);
            return Some(cpu);
        }
        let at = self.spent.iter().position(|cpu| !chosen.contains(cpu))?;
        let cpu = self.spent.remove(at)?;
        self.spent.push_back(cpu);
        Some(cpu)
    }
}

/// The CPUs of a host.
struct Cpus(Vec<OfNode>);

impl Cpus {
    /// The node for a task without a device: the one with the most left, then with the fewest of such tasks.
    fn for_guest(&mut self) -> Option<usize> {
        let node = self.0.iter_mut().min_by_key(|node| (Reverse(node.left), node.guests, node.id))?;
        node.guests += 1;
        Some(node.id)
    }

    /// CPUs for a task, whole ones as long as it asks for that, on its nodes before others. Where nothing is left of any
    /// (limits may allow less than there are, and parts do not always add up), it shares one with others.
    fn take(&mut self, near: &[usize], mut units: u64) -> Vec<usize> {
        let mut chosen = Vec::new();
        while units > 0 {
            let part = units.min(CPU);
            // Stable: near nodes first, each in the order of the numbers.
            let mut nodes: Vec<&mut OfNode> = self.0.iter_mut().collect();
            nodes.sort_by_key(|node| !near.contains(&node.id));
            let cpu = nodes.iter_mut().find_map(|node| node.take(part, &chosen));
            let cpu = cpu.or_else(|| nodes.iter_mut().find_map(|node| node.share(&chosen)));
            let Some(cpu) = cpu else { break };
            chosen.push(cpu);
            units -= part;
        }
        chosen.sort_unstable();
        chosen
    }

    /// All CPUs of some nodes; of all, where none of them is here.
    fn of_nodes(&self, near: &[usize]) -> Vec<usize> {
        let is_here = self.0.iter().any(|node| near.contains(&node.id));
        let nodes = self.0.iter().filter(|node| !is_here || near.contains(&node.id));
        let mut cpus: Vec<usize> = nodes.flat_map(|node| node.all.iter().copied()).collect();
        cpus.sort_unstable();
        cpus
    }
}

/// The CPUs of each task. One that asks for CPUs has so many, to itself as far as they go; one that asks for none has those of
/// the nodes of its devices, together with others there.
pub(super) fn near(inventory: &Inventory, requests: &[TaskRequest], seats: &[Seat]) -> Vec<Vec<usize>> {
    let nodes: Vec<Option<usize>> = inventory.devices().map(|device| device.numa).collect();
    let mut hosts: FxHashMap<usize, Cpus> = FxHashMap::default();
    let mut all = Vec::with_capacity(seats.len());
    for (seat, request) in seats.iter().zip(requests) {
        let of_host = || {
            // A node may have memory and no CPUs.
            let nodes = inventory.hosts()[seat.host].nodes.iter().filter(|node| !node.cpus.is_empty());
            Cpus(nodes.map(OfNode::of).collect())
        };
        let cpus = hosts.entry(seat.host).or_insert_with(of_host);
        let mut near: Vec<usize> = seat.devices.iter().filter_map(|&(device, _)| nodes[device]).collect();
        near.sort_unstable();
        near.dedup();
        if near.is_empty() {
            near.extend(cpus.for_guest());
        }
        all.push(match cpu_units(request.cpus) {
            0 => cpus.of_nodes(&near),
            units => cpus.take(&near, units),
        });
    }
    all
}
