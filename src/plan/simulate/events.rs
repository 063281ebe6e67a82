//! Few ranks, event by event: the lowered plans, lane by lane, whatever is ready first going first.

use super::fabric::{Fabric, Interval, Need};
use super::{BUFFERED, Hop, Outcome};
use crate::error::{Error, Result};
use crate::plan::Step;
use crate::plan::cost::Network;
use crate::plan::lower::{Dependency, Lane, Lowered};
use rustc_hash::FxHashMap;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A task of any rank.
type Id = usize;

/// What a task does, as far as its time depends on it: how many times a byte it reduces or copies.
enum Does {
    Send(usize),
    Receive(usize, f64),
    Compute(f64),
}

impl Does {
    fn of(step: &Step) -> Self {
        match step {
            Step::Send { to, .. } => Does::Send(*to),
            Step::Recv { from, .. } => Does::Receive(*from, 0.0),
            Step::RecvReduce { from, .. } => Does::Receive(*from, 1.0),
            Step::Copy { .. } => Does::Compute(1.0),
            Step::Fold { sources, .. } => Does::Compute(sources.len() as f64 - 1.0),
            Step::Finish { .. } | Step::Signal { .. } | Step::Wait { .. } => Does::Compute(0.0),
        }
    }
}

/// A task that is ready, by when, and then by its number.
#[derive(PartialEq)]
struct Ready(f64, Id);

impl Eq for Ready {}

impl PartialOrd for Ready {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ready {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0).then(self.1.cmp(&other.1))
    }
}

/// What is known of a task.
#[derive(Clone, Default)]
struct State {
    /// How many it waits for: dependencies, the task before it in its lane, its message.
    missing: u32,
    ready: Interval,
    arrival: Interval,
    done: Option<Interval>,
    /// Whom it waited for longest.
    because: Option<Id>,
}

struct Simulation<'a> {
    network: &'a Network,
    element: usize,
    ranks: &'a [Lowered],
    /// The first task of each rank.
    base: Vec<Id>,
    rank_of: Vec<u32>,
    states: Vec<State>,
    /// Whom each task has to tell.
    tells: Vec<Vec<(Id, Need)>>,
    /// The receive of each send.
    partner: Vec<Option<Id>>,
    /// Each rank's tasks that are ready: its sends, and all others.
    ready: Vec<[BinaryHeap<Reverse<Ready>>; 2]>,
    /// Which of these queues to look at next, by when its first could begin.
    queue: BinaryHeap<Reverse<Ready>>,
    /// For when each of them is in there.
    next: Vec<f64>,
    fabric: Fabric<'a>,
    to_dead: Vec<f64>,
    outcome: Outcome,
}

/// Simulates all ranks, whose elements are of this size.
pub(super) fn run(ranks: Vec<Lowered>, element: usize, network: &Network) -> Result<Outcome> {
    let world = ranks.len();
    let mut base = Vec::with_capacity(world);
    let mut rank_of = Vec::new();
    for (rank, lowered) in ranks.iter().enumerate() {
        base.push(rank_of.len());
        rank_of.extend(lowered.tasks.iter().map(|_| rank as u32));
    }
    let count = rank_of.len();
    let mut simulation = Simulation {
        network,
        element,
        ranks: &ranks,
        base,
        rank_of,
        states: vec![State::default(); count],
        tells: vec![Vec::new(); count],
        partner: vec![None; count],
        ready: (0..world).map(|_| Default::default()).collect(),
        queue: BinaryHeap::new(),
        next: vec![f64::INFINITY; world * 2],
        fabric: Fabric::new(network, world),
        to_dead: vec![0.0; world],
        outcome: Outcome {
            finish: vec![0.0; world],
            waits_for: vec![None; world],
            messages: vec![0; world],
            bytes: vec![0; world],
            traffic: Default::default(),
            busy: [0.0; 4],
            path: Vec::new(),
        },
    };
    simulation.connect()?;
    while let Some(Reverse(Ready(now, place))) = simulation.queue.pop() {
        simulation.serve(now, place);
    }
    simulation.finish()
}

impl Simulation<'_> {
    fn step(&self, id: Id) -> &Step {
        let lowered = &self.ranks[self.rank_of[id] as usize];
        &lowered.plan.steps[lowered.tasks[id - self.base[self.rank_of[id] as usize]].step]
    }

    fn len(&self, id: Id) -> usize {
        let rank = self.rank_of[id] as usize;
        self.ranks[rank].tasks[id - self.base[rank]].len
    }

    /// Notes who waits for whom, and begins with those that wait for nobody.
    fn connect(&mut self) -> Result<()> {
        let mut receives: FxHashMap<(usize, usize), std::slice::Iter<'_, usize>> = FxHashMap::default();
        for (rank, lowered) in self.ranks.iter().enumerate() {
            for (lane, tasks) in &lowered.lanes {
                if let Lane::Receive(from) = lane {
                    receives.insert((*from, rank), tasks.iter());
                }
            }
        }
        for (rank, lowered) in self.ranks.iter().enumerate() {
            let base = self.base[rank];
            for (index, task) in lowered.tasks.iter().enumerate() {
                if matches!(lowered.plan.steps[task.step], Step::Signal { .. } | Step::Wait { .. }) {
                    return Err(Error::unsupported("plans for shared memory are not simulated"));
                }
                for dependency in &task.dependencies {
                    let need = need(dependency, lowered.tasks[dependency.on].len, task.len);
                    if need.end > 0.0 {
                        self.tells[base + dependency.on].push((base + index, need));
                        self.states[base + index].missing += 1;
                    }
                }
            }
            for (lane, tasks) in &lowered.lanes {
                for pair in tasks.windows(2) {
                    self.tells[base + pair[0]].push((base + pair[1], Need::ALL));
                    self.states[base + pair[1]].missing += 1;
                }
                match lane {
                    Lane::Send(to) => {
                        let mut receives = receives.remove(&(rank, *to)).unwrap_or_default();
                        for &task in tasks {
                            self.partner[base + task] =
                                receives.next().map(|&receive| self.base[*to] + receive);
                        }
                    }
                    Lane::Receive(_) => tasks.iter().for_each(|task| self.states[base + task].missing += 1),
                    Lane::Compute => {}
                }
            }
        }
        for id in 0..self.states.len() {
            if self.states[id].missing == 0 && self.network.dead != Some(self.rank_of[id] as usize) {
                self.enqueue(id, 0.0);
            }
        }
        Ok(())
    }

    fn enqueue(&mut self, id: Id, when: f64) {
        let (rank, kind) = (self.rank_of[id] as usize, usize::from(self.step(id).sends_to().is_none()));
        self.ready[rank][kind].push(Reverse(Ready(when, id)));
        self.look_at(rank * 2 + kind);
    }

    /// Puts one of a rank's queues into the great one, for when its first task could begin: one place for each is enough.
    fn look_at(&mut self, place: usize) {
        let (rank, kind) = (place / 2, place % 2);
        let Some(Reverse(Ready(when, _))) = self.ready[rank][kind].peek() else { return };
        let begin = when.max(self.fabric.free(rank, kind == 0));
        if begin < self.next[place] {
            self.next[place] = begin;
            self.queue.push(Reverse(Ready(begin, place)));
        }
    }

    /// Executes the first task of one of a rank's queues, if it can begin now: others may use what it needs before it can.
    fn serve(&mut self, now: f64, place: usize) {
        if self.next[place] != now {
            return;
        }
        self.next[place] = f64::INFINITY;
        let (rank, kind) = (place / 2, place % 2);
        if let Some(&Reverse(Ready(when, id))) = self.ready[rank][kind].peek()
            && when.max(self.fabric.free(rank, kind == 0)) <= now
        {
            self.ready[rank][kind].pop();
            self.execute(id);
        }
        self.look_at(place);
    }

    fn execute(&mut self, id: Id) {
        let rank = self.rank_of[id] as usize;
        let bytes = (self.len(id) * self.element) as f64;
        let State { mut ready, arrival, .. } = self.states[id];
        ready.last = ready.last.max(ready.first);
        let mut message = None;
        let done = match (Does::of(self.step(id)), self.len(id)) {
            // An empty message is none.
            (Does::Send(_), 0) => {
                message = Some(ready);
                ready
            }
            (_, 0) => Interval { first: ready.first.max(arrival.first), last: ready.last.max(arrival.last) },
            (Does::Send(to), _) => {
                let (sent, arrives) = self.fabric.send(rank, to, bytes, ready);
                self.outcome.messages[rank] += 1;
                self.outcome.bytes[rank] += bytes as u64;
                if self.network.dead == Some(to) {
                    self.to_dead[rank] += bytes;
                    if self.to_dead[rank] > BUFFERED {
                        self.outcome.waits_for[rank].get_or_insert(to);
                        return;
                    }
                }
                message = Some(arrives);
                sent
            }
            (Does::Receive(from, times), _) => self.fabric.receive(from, rank, bytes, times, arrival, ready),
            (Does::Compute(times), _) => self.fabric.compute(rank, bytes, times, ready),
        };
        self.states[id].done = Some(done);
        let finish = &mut self.outcome.finish[rank];
        *finish = finish.max(done.last);
        if let (Some(arrives), Some(receive)) = (message, self.partner[id])
            && self.network.dead != Some(self.rank_of[receive] as usize)
        {
            self.states[receive].arrival = arrives;
            self.told(receive, id, arrives);
        }
        let granule = self.fabric.granule_of(bytes);
        for (waiting, need) in std::mem::take(&mut self.tells[id]) {
            let allowed = need.allows(done, granule);
            self.states[waiting].ready.extend(allowed);
            self.told(waiting, id, allowed);
        }
    }

    /// One of those that a task waits for is there.
    fn told(&mut self, waiting: Id, by: Id, when: Interval) {
        let state = &mut self.states[waiting];
        state.missing -= 1;
        let longest = state.because.and_then(|other| self.states[other].done);
        let state = &mut self.states[waiting];
        if longest.is_none_or(|longest| longest.last <= when.last) {
            state.because = Some(by);
        }
        if state.missing == 0 {
            let begin = state.ready.first.max(state.arrival.first);
            self.enqueue(waiting, begin);
        }
    }

    fn finish(mut self) -> Result<Outcome> {
        for rank in 0..self.ranks.len() {
            if self.network.dead == Some(rank) {
                self.outcome.finish[rank] = f64::INFINITY;
                continue;
            }
            let ids = self.base[rank]..self.base[rank] + self.ranks[rank].tasks.len();
            let open: Vec<Id> = ids.filter(|&id| self.states[id].done.is_none()).collect();
            if open.is_empty() {
                continue;
            }
            // It waits for the messages that nothing else keeps it from receiving, the first one above all.
            let keeps = open.iter().find(|&&id| self.states[id].missing == 1 && self.awaits_message(id));
            let whom = keeps.and_then(|&id| self.step(id).receives_from());
            let stuck = &mut self.outcome.waits_for[rank];
            *stuck = stuck.or(whom);
            self.outcome.finish[rank] = f64::INFINITY;
            if self.network.dead.is_none() {
                let waits = whom.map_or(String::new(), |whom| format!(" for rank {whom}"));
                return Err(Error::invalid(format!(
                    "rank {rank} waits{waits} for ever: the plans do not match"
                )));
            }
        }
        self.outcome.traffic = self.fabric.traffic;
        self.outcome.busy = self.fabric.utilisation(1.0);
        self.outcome.path = self.path();
        Ok(self.outcome)
    }

    fn awaits_message(&self, id: Id) -> bool {
        self.step(id).receives_from().is_some() && self.states[id].arrival == Interval::default()
    }

    /// Back from whatever ended last to its beginning.
    fn path(&self) -> Vec<Hop> {
        let ended = |id: &Id| self.states[*id].done.map_or(0.0, |done| done.last);
        let mut path = Vec::new();
        let mut at = (0..self.states.len()).max_by(|a, b| ended(a).total_cmp(&ended(b)));
        while let Some(id) = at {
            let done = self.states[id].done.unwrap_or_default();
            path.push(Hop {
                rank: self.rank_of[id] as usize,
                step: self.step(id).clone(),
                begin: done.first,
                end: done.last,
            });
            at = self.states[id].because;
        }
        path.reverse();
        path
    }
}

/// What a dependency means in fractions of the earlier task.
fn need(dependency: &Dependency, earlier: usize, later: usize) -> Need {
    if dependency.shift == Dependency::UNTIL_DONE || earlier == 0 {
        return Need::ALL;
    }
    let fraction = |elements: isize| (elements as f64 / earlier as f64).clamp(0.0, 1.0);
    Need { begin: fraction(-dependency.shift), end: fraction(later as isize - dependency.shift) }
}
