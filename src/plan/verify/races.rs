//! Looks for accesses that nothing orders.

use super::Fault;
use super::blocks::{NONE, System, kind_of};
use super::graph::{Event, Graph, Order};
use crate::plan::lower::Kind;
use rustc_hash::FxHashSet;
use std::iter::once;

/// Who last wrote a block of a memory, and who has read it since; of a mere input nobody asks.
#[derive(Clone)]
struct Accesses {
    writer: Event,
    /// The first one, and the others, which are few.
    reader: Event,
    more_readers: Vec<Event>,
}

/// The accesses so far, along a topological order.
pub(super) struct Races<'s, 'a> {
    system: &'s System<'a>,
    graph: &'s Graph,
    /// The place of each node in the order.
    position: Vec<u32>,
    cells: Vec<Accesses>,
    /// Events that touch another rank's input or output, with that rank.
    visits: Vec<(u32, Event)>,
}

impl<'s, 'a> Races<'s, 'a> {
    pub(super) fn new(system: &'s System<'a>, graph: &'s Graph, order: &Order) -> Self {
        let mut position = vec![0; system.ends.len()];
        for (place, &node) in order.nodes.iter().enumerate() {
            position[node as usize] = place as u32;
        }
        let nobody = Accesses { writer: NONE, reader: NONE, more_readers: Vec::new() };
        let cells = vec![nobody; system.memories.iter().map(Vec::len).sum()];
        Races { system, graph, position, cells, visits: Vec::new() }
    }

    /// Something must order what this event does and every conflicting access before it.
    pub(super) fn check(&mut self, event: Event) -> Result<(), Fault> {
        let entry = &self.system.entries[self.graph.entry(event)];
        for operand in self.system.operands(entry) {
            let (memory, kind) = (operand.memory as usize, kind_of(operand.memory as usize));
            let cell = (operand.first_cell + event - entry.events.start) as usize;
            if operand.memory / 4 != entry.rank && matches!(kind, Kind::Input | Kind::Output) {
                self.visits.push((operand.memory / 4, event));
            }
            if let Some(before) = self.conflict(&self.cells[cell], event, operand.writes) {
                return Err(Fault::Race(format!(
                    "nothing orders {} and {} at element {} of rank {}'s {kind:?}",
                    self.system.at(self.graph.entry(before)),
                    self.system.at(self.graph.entry(event)),
                    self.system.border(memory, cell),
                    memory / 4,
                )));
            }
            let accesses = &mut self.cells[cell];
            if operand.writes {
                (accesses.writer, accesses.reader) = (event, NONE);
                accesses.more_readers.clear();
            } else if accesses.reader == NONE {
                accesses.reader = event;
            } else if kind != Kind::Input {
                accesses.more_readers.push(event);
            }
        }
        Ok(())
    }

    /// An earlier access that nothing orders before this one.
    fn conflict(&self, earlier: &Accesses, event: Event, writes: bool) -> Option<Event> {
        let is_other = |before: &Event| *before != NONE && *before != event;
        let is_loose = |before: &Event| is_other(before) && !self.ordered(*before, event);
        let readers = || once(&earlier.reader).chain(&earlier.more_readers).copied();
        // Every reader came after the writer, so who comes after all readers comes after the writer.
        if writes && readers().any(|reader| is_other(&reader)) {
            readers().find(is_loose)
        } else {
            Some(earlier.writer).filter(is_loose)
        }
    }

    /// Whether one event comes before another on every run.
    fn ordered(&self, before: Event, after: Event) -> bool {
        // Nearly always by an edge, to that block of the earlier task or to a later one.
        if self.graph.before(after).contains(&before) {
            return true;
        }
        let entry = |event: Event| &self.system.entries[self.graph.entry(event)];
        let (b, a) = (entry(before), entry(after));
        let rest = before..b.events.end;
        (b.rank, b.lane) == (a.rank, a.lane)
            || self.graph.before(after).iter().any(|edge| rest.contains(edge))
            || self.reaches(before, after)
    }

    /// Whether a path of happens-before leads from one event to another.
    fn reaches(&self, from: Event, to: Event) -> bool {
        let place = |event: Event| self.position[self.graph.node(event) as usize];
        let (limit, mut found) = (place(from), false);
        self.graph.walk_back(self.system, [to], |event| {
            found |= event == from;
            !found && place(event) >= limit
        });
        found
    }

    /// A rank's input and output belong to its user until it begins and from when it has ended: others touch them only
    /// after some event of that rank and before another.
    pub(super) fn check_visits(&mut self) -> Result<(), Fault> {
        self.visits.sort_unstable();
        self.visits.dedup();
        for visits in self.visits.chunk_by(|a, b| a.0 == b.0) {
            let host = visits[0].0;
            let lanes = &self.system.ranks[host as usize].lanes;
            let last = lanes
                .iter()
                .filter_map(|(_, tasks)| tasks.last())
                .map(|task| self.system.entries[self.system.base[host as usize] + task].events.end - 1);
            let mut before_end = FxHashSet::default();
            self.graph.walk_back(self.system, last, |event| before_end.insert(event));
            for &(_, event) in visits {
                let mut begun = false;
                self.graph.walk_back(self.system, [event], |before| {
                    begun |= self.system.entries[self.graph.entry(before)].rank == host;
                    !begun
                });
                let reason = match (begun, before_end.contains(&event)) {
                    (true, true) => continue,
                    (false, _) => "may come before that rank has begun",
                    (true, false) => "may come after that rank has ended",
                };
                let at = self.system.at(self.graph.entry(event));
                return Err(Fault::Race(format!("{at}, in memory of rank {host}'s user, {reason}")));
            }
        }
        Ok(())
    }
}
