//! Many ranks, in sweeps: every rank in turn does its next message, until all are through.
//!
//! What a message costs depends on what comes before it at its two ranks, which any order of looking at them respects.
//! It depends on the order only where somebody shares something (a port that several send to, a host's network card,
//! processors): there the exact simulation serves whoever is ready first, and a sweep whoever is reached first. So a
//! sweep leaves out whatever begins after a *horizon*, which moves on when nothing is left before it. How far it moves
//! adapts itself, so that most sweeps find something to do. Tests hold both ways together.

use super::fabric::{Fabric, Interval};
use super::program::{Action, NONE, Program};
use super::{BUFFERED, Outcome};
use crate::error::{Error, Result};
use crate::plan::cost::Network;
use rustc_hash::FxHashMap;
use std::collections::VecDeque;

/// A message on its way: the bits of the time of its arrival, the last one's plus one, so that zero means none.
type Mail = [u64; 2];

fn mail(arrival: Interval) -> Mail {
    [arrival.first.to_bits(), arrival.last.to_bits() + 1]
}

fn arrival(mail: Mail) -> Interval {
    Interval { first: f64::from_bits(mail[0]), last: f64::from_bits(mail[1] - 1) }
}

/// What has been sent and not received. The first message between two ranks has a place of its own.
struct Mailboxes {
    world: usize,
    /// At [place of the sender among the sources of the receiver][receiver].
    first: Vec<Mail>,
    more: FxHashMap<usize, VecDeque<Mail>>,
}

impl Mailboxes {
    fn new(world: usize, sources: usize) -> Self {
        Mailboxes { world, first: vec![[0, 0]; world * sources], more: FxHashMap::default() }
    }

    fn put(&mut self, source: usize, to: usize, arrival: Interval) {
        let place = source * self.world + to;
        if self.first[place][1] == 0 {
            self.first[place] = mail(arrival);
        } else {
            self.more.entry(place).or_default().push_back(mail(arrival));
        }
    }

    fn peek(&self, source: usize, to: usize) -> Option<Interval> {
        let found = self.first[source * self.world + to];
        (found[1] != 0).then(|| arrival(found))
    }

    fn take(&mut self, source: usize, to: usize) -> Option<Interval> {
        let place = source * self.world + to;
        let found = self.first[place];
        if found[1] == 0 {
            return None;
        }
        self.first[place] = [0, 0];
        if !self.more.is_empty()
            && let Some(queue) = self.more.get_mut(&place)
        {
            match queue.pop_front() {
                Some(next) => self.first[place] = next,
                None => drop(self.more.remove(&place)),
            }
        }
        Some(arrival(found))
    }
}

/// How far a rank is.
struct Rank {
    item: u32,
    edge: u32,
    /// Which run of lengths, and how many items are left of it.
    run: u32,
    left: u32,
    slots: usize,
    done: f64,
    stuck: Option<usize>,
    to_dead: f64,
    messages: u64,
    bytes: u64,
}

/// Up to when things are done in a sweep.
struct Horizon {
    until: f64,
    window: f64,
    least_window: f64,
    /// The first that has been left out.
    soonest: f64,
    /// What has been done in this sweep, and in this window.
    done: usize,
    done_in_window: usize,
}

impl Horizon {
    fn new(network: &Network) -> Self {
        let least = [network.host, network.rack, network.core]
            .map(|link| link.alpha)
            .into_iter()
            .fold(1e-3, f64::min);
        let window = least.max(1e-7);
        Horizon { until: 0.0, window, least_window: window, soonest: 0.0, done: 0, done_in_window: 0 }
    }

    /// Whether there is another sweep to be made, over so many ranks. Moves on if the last one found nothing.
    fn advance(&mut self, open: usize) -> bool {
        self.done_in_window += self.done;
        if self.done == 0 {
            if self.soonest.is_infinite() || open == 0 {
                return false;
            }
            if self.done_in_window * 4 < open {
                self.window *= 2.0;
            } else if self.done_in_window > open * 4 {
                self.window = (self.window / 2.0).max(self.least_window);
            }
            self.until = self.soonest + self.window;
            self.done_in_window = 0;
        }
        (self.done, self.soonest) = (0, f64::INFINITY);
        open > 0
    }

    /// Whether something that begins at a time is left out.
    fn is_before(&mut self, begin: f64) -> bool {
        let left_out = begin > self.until;
        if left_out {
            self.soonest = self.soonest.min(begin);
        }
        left_out
    }
}

/// Simulates all ranks of a group of `world`; `element` is the size of an element in bytes. Where programs and network
/// repeat themselves, the programs of one period stand for all.
pub(super) fn sweep(
    programs: &[Program],
    world: usize,
    element: usize,
    network: &Network,
) -> Result<Outcome> {
    let period = programs.len();
    let mut fabric = Fabric::new(network, period);
    let most_sources = programs.iter().map(|program| program.shape.sources()).max().unwrap_or(0);
    let mut mailboxes = Mailboxes::new(period, most_sources);
    let mut slots_end = 0;
    let mut ranks: Vec<Rank> = programs
        .iter()
        .map(|program| {
            slots_end += program.shape.slots;
            Rank {
                item: 0,
                edge: 0,
                run: 0,
                left: program.lengths.first().map_or(0, |run| run.0),
                slots: slots_end - program.shape.slots,
                done: 0.0,
                stuck: None,
                to_dead: 0.0,
                messages: 0,
                bytes: 0,
            }
        })
        .collect();
    let mut slots = vec![Interval::default(); slots_end];
    let mut open: Vec<u32> = (0..period as u32).filter(|&rank| network.dead != Some(rank as usize)).collect();
    let mut horizon = Horizon::new(network);
    while horizon.advance(open.len()) {
        open.retain(|&rank| {
            let (rank, program) = (rank as usize, &programs[rank as usize]);
            let items = &program.shape.items;
            let state = &mut ranks[rank];
            while let Some(item) = items.get(state.item as usize) {
                let bytes = (program.lengths[state.run as usize].1 * element as u64) as f64;
                let mut ready = if item.slot == NONE {
                    Interval::default()
                } else {
                    slots[state.slots + item.slot as usize]
                };
                ready.last = ready.last.max(ready.first);
                let begin = match item.action {
                    Action::Send(_) => ready.first.max(fabric.free(rank, true)),
                    Action::Receive(distance, _) => {
                        let source = program.shape.source(distance).expect("a program knows its own sources");
                        let Some(arrives) = mailboxes.peek(source, rank) else { return true };
                        ready.first.max(arrives.first)
                    }
                    Action::Compute(_) => ready.first,
                };
                if horizon.is_before(begin) {
                    return true;
                }
                let done = match item.action {
                    Action::Send(distance) => {
                        let to = (rank + distance as usize) % world;
                        let (sent, arrives) = fabric.send(rank, to, bytes, ready);
                        state.messages += 1;
                        state.bytes += bytes as u64;
                        if network.dead == Some(to) {
                            state.to_dead += bytes;
                            if state.to_dead > BUFFERED {
                                state.stuck.get_or_insert(to);
                            }
                        } else {
                            let to = if to < period { to } else { to % period };
                            let back = (world as u32 - distance) % world as u32;
                            if let Some(source) = programs[to].shape.source(back) {
                                mailboxes.put(source, to, arrives);
                            }
                        }
                        sent
                    }
                    Action::Receive(distance, reduces) => {
                        let from = (rank + distance as usize) % world;
                        let source = program.shape.source(distance).expect("a program knows its own sources");
                        let Some(arrives) = mailboxes.take(source, rank) else { return true };
                        fabric.receive(from, rank, bytes, f64::from(u8::from(reduces)), arrives, ready)
                    }
                    Action::Compute(times) => fabric.compute(rank, bytes, f64::from(times), ready),
                };
                horizon.done += 1;
                if item.slot != NONE {
                    slots[state.slots + item.slot as usize] = Interval::default();
                }
                if state.edge < item.edges_end {
                    let granule = fabric.granule_of(bytes);
                    for edge in &program.shape.edges[state.edge as usize..item.edges_end as usize] {
                        let need = program.shape.needs[edge.need as usize];
                        slots[state.slots + edge.slot as usize].extend(need.allows(done, granule));
                    }
                }
                state.done = state.done.max(done.last);
                state.edge = item.edges_end;
                state.item += 1;
                state.left -= 1;
                if state.left == 0 {
                    state.run += 1;
                    state.left = program.lengths.get(state.run as usize).map_or(0, |run| run.0);
                }
                // One message a turn.
                if !matches!(item.action, Action::Compute(_)) {
                    break;
                }
            }
            (state.item as usize) < items.len()
        });
    }
    let mut waits_for: Vec<Option<usize>> = ranks.iter().map(|rank| rank.stuck).collect();
    for &rank in &open {
        let rank = rank as usize;
        let item = programs[rank].shape.items[ranks[rank].item as usize];
        let Action::Receive(distance, _) = item.action else { continue };
        waits_for[rank] = Some((rank + distance as usize) % world);
    }
    if network.dead.is_none() && !open.is_empty() {
        let waits = waits_for[open[0] as usize].map_or(String::new(), |whom| format!(" for rank {whom}"));
        return Err(Error::invalid(format!(
            "rank {} waits{waits} for ever: the plans do not match",
            open[0]
        )));
    }
    let finish = (0..world)
        .map(|rank| {
            let hangs = waits_for[rank % period].is_some() || network.dead == Some(rank);
            if hangs { f64::INFINITY } else { ranks[rank % period].done }
        })
        .collect();
    let mut traffic = fabric.traffic;
    for traffic in &mut traffic {
        traffic.messages *= (world / period) as u64;
        traffic.bytes *= (world / period) as u64;
    }
    waits_for.resize(world, None);
    Ok(Outcome {
        finish,
        waits_for,
        messages: ranks.iter().map(|rank| rank.messages).collect(),
        bytes: ranks.iter().map(|rank| rank.bytes).collect(),
        traffic,
        busy: fabric.utilisation(1.0),
        path: Vec::new(),
    })
}
