//! What must come before what.
//!
//! An [event](super::blocks::Entry::events) is a task doing one of its blocks. The two events of a message, its send
//! and its receive, are one *node*: that neither can happen before both are ready is how deadlock is found without any
//! buffering. But bytes may be buffered, and then the send is over before the receive has begun: what comes before the
//! receive does not for that reason come before what follows the send. So happens-before is asked of events, and leads
//! through a message in its direction only.

use super::Fault;
use super::blocks::{Action, Entry, NONE, System};
use crate::plan::Step;
use crate::plan::lower::Dependency;
use rustc_hash::{FxHashMap, FxHashSet};
use std::iter::once;

pub(super) type Event = u32;

/// The graph of a system.
pub(super) struct Graph {
    events: Vec<Info>,
    edges: Vec<Event>,
}

/// What there is to know of an event.
struct Info {
    entry: u32,
    /// Its node: of a message's two events, the send's.
    node: Event,
    /// The other event of a node that is a message, else [`NONE`].
    receive: Event,
    /// What must come directly before it: its edges begin here, and end where the next event's begin.
    edges: u32,
}

impl Graph {
    pub(super) fn new(system: &System<'_>) -> Result<Self, Fault> {
        let count = system.ends.len();
        let mut graph = Graph { events: Vec::with_capacity(count + 1), edges: Vec::with_capacity(count * 3) };
        let previous = previous_in_lane(system);
        let signals = Signals::collect(system);
        for (index, entry) in system.entries.iter().enumerate() {
            // The ends of an empty message are two nodes: nobody waits for an empty message to be taken.
            let partner = entry.partner().filter(|_| entry.len > 0).map(|partner| &system.entries[partner]);
            for event in entry.events.clone() {
                let other = partner.map(|partner| partner.events.start + (event - entry.events.start));
                let (node, receive) = match other {
                    Some(other) if entry.action == Action::Receive => (other, NONE),
                    Some(other) => (event, other),
                    None => (event, NONE),
                };
                let edges = graph.edges.len() as u32;
                graph.events.push(Info { entry: index as u32, node, receive, edges });
                graph.add_edges(system, &signals, previous[index], index, entry, event)?;
            }
        }
        let edges = graph.edges.len() as u32;
        graph.events.push(Info { entry: NONE, node: NONE, receive: NONE, edges });
        Ok(graph)
    }

    fn add_edges(
        &mut self,
        system: &System<'_>,
        signals: &Signals,
        previous: Event,
        index: usize,
        entry: &Entry,
        event: Event,
    ) -> Result<(), Fault> {
        if event > entry.events.start {
            self.edges.push(event - 1);
        } else if previous != NONE {
            self.edges.push(previous);
        }
        let tasks = &system.entries[system.base[entry.rank as usize]..];
        for dependency in &system.task(entry).dependencies {
            let on = &tasks[dependency.on];
            if let Some(needed) = needed(dependency, system.ends[event as usize], system.ends(on)) {
                self.edges.push(on.events.start + needed as u32);
            }
        }
        match (entry.action, entry.partner()) {
            // An empty message still has to be there before it can be received.
            (Action::Receive, Some(partner)) if entry.len == 0 => {
                self.edges.push(system.entries[partner].events.start);
            }
            (Action::Wait, _) => {
                let at = system.at(index);
                if let Step::Wait { rank, flag, value: value @ 1.. } = *at.step {
                    let signal = signals.find(rank, flag, value).ok_or_else(|| {
                        Fault::Unmatched(format!("{at} waits for a signal that nobody gives"))
                    })?;
                    self.edges.push(signal);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The entry of an event.
    pub(super) fn entry(&self, event: Event) -> usize {
        self.events[event as usize].entry as usize
    }

    /// The node of an event: of a message's two, the send's event.
    pub(super) fn node(&self, event: Event) -> Event {
        self.events[event as usize].node
    }

    /// The one or two events of a node.
    pub(super) fn events_of(&self, node: Event) -> impl Iterator<Item = Event> + use<> {
        let receive = self.events[node as usize].receive;
        once(node).chain((receive != NONE).then_some(receive))
    }

    /// What must come directly before an event.
    pub(super) fn before(&self, event: Event) -> &[Event] {
        let (first, last) = self.edges_of(event);
        &self.edges[first as usize..last as usize]
    }

    /// Walks from some events to all that comes before them on every run. `visit` is told of each once, of the first ones
    /// too, and says whether to go on from there.
    pub(super) fn walk_back(
        &self,
        system: &System<'_>,
        from: impl IntoIterator<Item = Event>,
        mut visit: impl FnMut(Event) -> bool,
    ) {
        let mut seen = FxHashSet::default();
        let mut open: Vec<Event> = from.into_iter().collect();
        while let Some(event) = open.pop() {
            if !seen.insert(event) || !visit(event) {
                continue;
            }
            // A receive comes after its send. But an empty message may be skipped altogether, and orders nothing.
            let send = Some(self.node(event)).filter(|send| *send != event);
            let entry = &system.entries[self.entry(event)];
            let empty = entry.partner().filter(|_| entry.len == 0);
            let before = self.before(event).iter().chain(&send);
            open.extend(before.filter(|before| Some(self.entry(**before)) != empty));
        }
    }

    /// An order of the nodes in which everything can happen: each after what it waits for, depth first.
    pub(super) fn topological_order(&self, system: &System<'_>) -> Result<Order, Fault> {
        let count = self.events.len() - 1;
        let mut nodes = Vec::with_capacity(count);
        let mut state = vec![State::New; count];
        let mut depths = vec![0u32; count];
        let mut path: Vec<Visit> = Vec::new();
        for start in 0..count as Event {
            if self.node(start) == start && state[start as usize] == State::New {
                path.push(self.visit(system, start));
            }
            while let Some(visit) = path.last_mut() {
                let node = visit.node as usize;
                state[node] = State::Open;
                if visit.edge < visit.last_edge {
                    let before = self.node(self.edges[visit.edge as usize]);
                    match state[before as usize] {
                        State::New => path.push(self.visit(system, before)),
                        State::Open => {
                            let open = path.iter().map(|visit| visit.node);
                            return Err(self.describe_circle(system, open.skip_while(|open| *open != before)));
                        }
                        State::Done => {
                            // The blocks of one message are one message.
                            let same = visit.messages > 0 && self.entry(before) == self.entry(visit.node);
                            let more = if same { 0 } else { visit.messages };
                            depths[node] = depths[node].max(depths[before as usize] + more);
                            visit.edge += 1;
                        }
                    }
                } else if visit.receive != NONE {
                    (visit.edge, visit.last_edge) = self.edges_of(visit.receive);
                    visit.receive = NONE;
                } else {
                    depths[node] = depths[node].max(visit.messages);
                    state[node] = State::Done;
                    nodes.push(visit.node);
                    path.pop();
                }
            }
        }
        Ok(Order { nodes, depths })
    }

    fn edges_of(&self, event: Event) -> (u32, u32) {
        (self.events[event as usize].edges, self.events[event as usize + 1].edges)
    }

    fn visit(&self, system: &System<'_>, node: Event) -> Visit {
        let Info { receive, entry, .. } = self.events[node as usize];
        let messages = u32::from(system.entries[entry as usize].action == Action::Send);
        let (edge, last_edge) = self.edges_of(node);
        Visit { node, edge, last_edge, receive, messages }
    }

    fn describe_circle(&self, system: &System<'_>, circle: impl Iterator<Item = Event>) -> Fault {
        let mut entries: Vec<usize> = circle.map(|node| self.entry(node)).collect();
        entries.dedup();
        let steps: Vec<String> = entries.iter().take(6).map(|&entry| system.at(entry).to_string()).collect();
        let more = match entries.len() - steps.len() {
            0 => String::new(),
            more => format!(" ... ({more} more)"),
        };
        Fault::Deadlock(format!("a circle of {}: {}{more}", entries.len(), steps.join(" waits for ")))
    }
}

/// An order of the nodes in which everything can happen.
pub(super) struct Order {
    pub(super) nodes: Vec<Event>,
    /// How many messages in a row lead to each node, itself included.
    pub(super) depths: Vec<u32>,
}

/// How far the search for an order is with a node.
#[derive(Clone, Copy, PartialEq)]
enum State {
    New,
    Open,
    Done,
}

/// An open node: it waits for the one that is opened after it.
struct Visit {
    node: Event,
    /// The edge to look at next, and the end of this event's edges.
    edge: u32,
    last_edge: u32,
    /// The node's other event, if its edges are still to come.
    receive: Event,
    /// 1 if it is a message, else 0.
    messages: u32,
}

/// The last event of the entry before each one in its lane, [`NONE`] for the first.
fn previous_in_lane(system: &System<'_>) -> Vec<Event> {
    let mut previous = vec![NONE; system.entries.len()];
    for (lowered, base) in system.ranks.iter().zip(&system.base) {
        for (_, tasks) in &lowered.lanes {
            for pair in tasks.windows(2) {
                previous[base + pair[1]] = system.entries[base + pair[0]].events.end - 1;
            }
        }
    }
    previous
}

/// The block of an earlier task that must be done before a later one may reach `end`.
fn needed(dependency: &Dependency, end: usize, ends: &[usize]) -> Option<usize> {
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
struct Signals(FxHashMap<(usize, u32), Vec<Event>>);

impl Signals {
    fn collect(system: &System<'_>) -> Self {
        let mut signals: FxHashMap<(usize, u32), Vec<Event>> = FxHashMap::default();
        for (index, entry) in system.entries.iter().enumerate() {
            if entry.action == Action::Signal
                && let Step::Signal { flag } = system.at(index).step
            {
                signals.entry((entry.rank as usize, *flag)).or_default().push(entry.events.start);
            }
        }
        Signals(signals)
    }

    fn find(&self, rank: usize, flag: u32, value: u32) -> Option<Event> {
        self.0.get(&(rank, flag))?.get(value as usize - 1).copied()
    }
}
