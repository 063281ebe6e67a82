//! Seating without looking back: the most demanding class first.

use super::super::links::Ways;
use super::super::request::ONE;
use super::chain;
use super::classes::{Class, Classes, Want};
use super::room::{Room, Seat};
use rustc_hash::FxHashMap;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

/// So many hosts that could take all that is left of a class are compared by their links.
const COMPARED: usize = 64;

/// On as few hosts and devices as possible; by ways, where there are some, on those that are linked best.
pub(super) fn packed(mut room: Room, classes: &Classes, ways: Option<&Ways>) -> Option<Vec<Seat>> {
    let mut seats = vec![Seat::default(); classes.tasks];
    for class in &classes.list {
        let hosts = room.hosts.len();
        let mut rest = &class.tasks[..];
        let mut capacity: Vec<usize> =
            (0..hosts).map(|host| room.capacity(host, &class.need, rest.len())).collect();
        while !rest.is_empty() {
            let host = choose(&room, class, &capacity, rest.len(), ways)?;
            let (here, later) = rest.split_at(capacity[host].min(rest.len()));
            capacity[host] = 0;
            rest = later;
            fill(&mut room, host, class, here, ways, &mut seats);
        }
    }
    Some(seats)
}

/// The next host to fill. One that is used already goes before one that is not; one that takes all that is left before one that does
/// not: of the former the one with the least room, of the latter the one with the most.
fn choose(room: &Room, class: &Class, capacity: &[usize], rest: usize, ways: Option<&Ways>) -> Option<usize> {
    let mut takes_all: Vec<usize> = Vec::new();
    let mut best = None;
    for (host, &tasks) in capacity.iter().enumerate().filter(|&(_, &tasks)| tasks > 0) {
        let order = (room.hosts[host].tasks == 0, Reverse(tasks), host);
        best = Some(best.map_or(order, |best| order.min(best)));
        if tasks >= rest {
            takes_all.push(host);
        }
    }
    let (unused, _, most) = best?;
    takes_all.retain(|&host| (room.hosts[host].tasks == 0) == unused);
    let space = |host: usize| room.capacity(host, &class.need, usize::MAX);
    takes_all.sort_by_cached_key(|&host| (space(host), host));
    let Some(ways) = ways else { return Some(takes_all.first().copied().unwrap_or(most)) };
    let candidates = takes_all.iter().copied().take(COMPARED);
    let cheapest = candidates.min_by_key(|&host| {
        let wants = class.need.wants.iter();
        wants.map(|want| chain::best(room, host, want, rest, ways).1).sum::<u64>()
    });
    Some(cheapest.unwrap_or(most))
}

/// Seats tasks of one class on one host, which has room for them.
fn fill(
    room: &mut Room,
    host: usize,
    class: &Class,
    tasks: &[usize],
    ways: Option<&Ways>,
    seats: &mut [Seat],
) {
    let order = |want: &Want| match ways {
        Some(ways) => chain::best(room, host, want, tasks.len(), ways).0,
        None => {
            let mut devices = room.hosts[host].pools[want.resource].devices.clone();
            devices.sort_by_key(|&device| room.left[device]);
            devices
        }
    };
    // Taken in order, each device as often as there is room.
    let mut rows: Vec<_> = class.need.wants.iter().map(|want| order(want).into_iter().peekable()).collect();
    for &task in tasks {
        let mut chosen = Vec::with_capacity(rows.len());
        for (want, row) in class.need.wants.iter().zip(&mut rows) {
            let mut of_task = Vec::with_capacity(want.devices);
            while of_task.len() < want.devices {
                let Some(&device) = row.peek() else { break };
                if room.left[device] >= want.share && !of_task.contains(&device) {
                    of_task.push(device);
                } else {
                    row.next();
                }
            }
            chosen.push(of_task);
        }
        seats[task] = room.take(host, class, &chosen);
    }
}

/// Over as many hosts, NUMA nodes and devices as possible.
pub(super) fn spread(mut room: Room, classes: &Classes) -> Option<Vec<Seat>> {
    let mut seats = vec![Seat::default(); classes.tasks];
    for class in &classes.list {
        // The host with the fewest tasks comes first. One that has no room for a task of the class has none for the next.
        let hosts = room.hosts.iter().enumerate().map(|(host, hall)| Reverse((hall.tasks, host)));
        let mut hosts: BinaryHeap<_> = hosts.collect();
        let mut shelves: FxHashMap<usize, Vec<Shelf>> = FxHashMap::default();
        for &task in &class.tasks {
            let host = loop {
                let Reverse((_, host)) = hosts.pop()?;
                if room.fits(host, &class.need) {
                    break host;
                }
            };
            let wants = class.need.wants.iter();
            let of_host = shelves
                .entry(host)
                .or_insert_with(|| wants.clone().map(|want| Shelf::of(&room, host, want)).collect());
            let chosen: Vec<_> = wants.zip(of_host).map(|(want, shelf)| shelf.take(want)).collect();
            seats[task] = room.take(host, class, &chosen);
            hosts.push(Reverse((room.hosts[host].tasks, host)));
        }
    }
    Some(seats)
}

/// The devices of one resource of a host, so that those of which the least is used are at hand.
struct Shelf(Vec<OfNode>);

/// Those that are near one NUMA node.
struct OfNode {
    node: Option<usize>,
    used: u64,
    /// What is left of each, the most first.
    devices: BTreeSet<(Reverse<u64>, usize)>,
}

impl Shelf {
    fn of(room: &Room, host: usize, want: &Want) -> Shelf {
        let mut nodes: Vec<OfNode> = Vec::new();
        for &device in &room.hosts[host].pools[want.resource].devices {
            let (node, left) = (room.nodes[device], room.left[device]);
            let at = nodes.iter().position(|of| of.node == node).unwrap_or_else(|| {
                nodes.push(OfNode { node, used: 0, devices: BTreeSet::new() });
                nodes.len() - 1
            });
            nodes[at].used += ONE - left;
            nodes[at].devices.insert((Reverse(left), device));
        }
        Shelf(nodes)
    }

    /// The devices for one task: those of which the least is used, near the node of which the least is used; several from one
    /// node as far as they go.
    fn take(&mut self, want: &Want) -> Vec<usize> {
        let mut chosen = Vec::with_capacity(want.devices);
        let most = |of: &OfNode| of.devices.first().map_or(0, |&(Reverse(left), _)| left);
        while chosen.len() < want.devices {
            let able = self.0.iter_mut().filter(|of| most(of) >= want.share);
            let Some(of) = able.min_by_key(|of| (Reverse(most(of)), of.used, of.node)) else { break };
            while chosen.len() < want.devices && most(of) >= want.share {
                let Some((Reverse(left), device)) = of.devices.pop_first() else { break };
                of.used += want.share;
                // One of which nothing is left stays away.
                if left > want.share {
                    of.devices.insert((Reverse(left - want.share), device));
                }
                chosen.push(device);
            }
        }
        chosen
    }
}
