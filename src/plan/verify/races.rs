//! Looks for accesses that nothing orders.

use super::Fault;
use super::blocks::{System, kind_of};
use super::graph::{Event, Graph, Order};
use crate::plan::lower::Kind;
use rustc_hash::FxHashSet;

/// Who last wrote a block of a memory, and who has read it since; of a mere input nobody asks.
#[derive(Clone, Default)]
struct Accesses {
    writer: Option<Event>,
    readers: Vec<Event>,
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
        let cells = vec![Accesses::default(); system.memories.iter().map(Vec::len).sum()];
        Races { system, graph, position, cells, visits: Vec::new() }
    }

    /// Something must order what this event does and every conflicting access before it.
    pub(super) fn check(&mut self, event: Event) -> Result<(), Fault> {
        let entry = &self.system.entries[self.graph.entry[event as usize] as usize];
        for operand in self.system.operands(entry) {
            let (memory, kind) = (operand.memory as usize, kind_of(operand.memory as usize));
            let cell = (operand.first_cell + event - entry.events.start) as usize;
            if operand.memory / 4 != entry.rank && matches!(kind, Kind::Input | Kind::Output) {
                self.visits.push((operand.memory / 4, event));
            }
            let Accesses { writer, readers } = &self.cells[cell];
            // Every reader came after the writer, so who comes after all readers comes after the writer.
            let read_by_others = readers.iter().any(|reader| *reader != event);
            let conflicts = if operand.writes && read_by_others { &readers[..] } else { writer.as_slice() };
            for &before in conflicts {
                if before != event && !self.ordered(before, event) {
                    return Err(Fault::Race(format!(
                        "nothing orders {} and {} at element {} of rank {}'s {kind:?}",
                        self.system.at(self.graph.entry[before as usize] as usize),
                        self.system.at(self.graph.entry[event as usize] as usize),
                        self.system.border(memory, cell),
                        memory / 4,
                    )));
                }
            }
            let accesses = &mut self.cells[cell];
            if operand.writes {
                accesses.writer = Some(event);
                accesses.readers.clear();
            } else if kind != Kind::Input {
                accesses.readers.push(event);
            }
        }
        Ok(())
    }

    /// Whether one event comes before another on every run.
    fn ordered(&self, before: Event, after: Event) -> bool {
        let entry = |event: Event| &self.system.entries[self.graph.entry[event as usize] as usize];
        // Nearly always by an edge, to that block of the earlier task or to a later one.
        let rest = before..entry(before).events.end;
        let (b, a) = (entry(before), entry(after));
        self.graph.before(after).iter().any(|edge| rest.contains(edge))
            || (b.rank, b.lane) == (a.rank, a.lane)
            || self.reaches(before, after)
    }

    /// Whether a path of happens-before leads from one event to another.
    fn reaches(&self, from: Event, to: Event) -> bool {
        let place = |event: Event| self.position[self.graph.node[event as usize] as usize];
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
                    begun |= self.system.entries[self.graph.entry[before as usize] as usize].rank == host;
                    !begun
                });
                let reason = match (begun, before_end.contains(&event)) {
                    (true, true) => continue,
                    (false, _) => "may come before that rank has begun",
                    (true, false) => "may come after that rank has ended",
                };
                let at = self.system.at(self.graph.entry[event as usize] as usize);
                return Err(Fault::Race(format!("{at}, in memory of rank {host}'s user, {reason}")));
            }
        }
        Ok(())
    }
}
