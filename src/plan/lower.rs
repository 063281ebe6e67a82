//! From steps to lanes: what an executor runs.
//!
//! A plan's steps are in an order in which one rank could do them one by one. Lowering finds out which of them really
//! depend on which, and how far: a rank has one *lane* for sending to each peer, one for receiving from each
//! peer, and one for computing. The tasks of a lane run in order; tasks of different lanes run at once, as far as
//! their dependencies allow.
//!
//! A dependency is *byte-monotone*: every task works through its range from front to back, so a task that reads what
//! another writes may follow it at a distance, element by element. With `a` the address of the first element of
//! the later task's operand and `c` that of the earlier one's, element i of the later task needs the earlier one to have
//! passed element a + i - c; so the later task may be at most `progress + (c - a)` elements far, where
//! `progress` is how far the earlier one is, until that one is done and limits nothing any more. One number, the
//! *shift* c - a, says it all, and it is the same for read after write, write after read and write after write.
//!
//! `Signal` waits for everything before it, and everything after a `Wait` waits for it.
//!
//! Source: the rule `sent <= own block + what is reduced` of a pipelined ring, made general; the three hazards are
//! those of any out-of-order machine (R. Tomasulo 1967).

use super::{Place, Plan, Region, Span, Step};
use crate::collective::Counts;
use crate::error::{Error, Result};
use rustc_hash::FxHashMap;
use std::ops::Range;

/// A dependency on an earlier task of the same rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dependency {
    /// The task, by its place in [`Lowered::tasks`].
    pub on: usize,
    /// How many elements further than that task this one may be; [`Dependency::UNTIL_DONE`] where it may not
    /// begin before that one is done.
    pub shift: isize,
}

impl Dependency {
    /// The shift of a dependency that allows nothing until the other task is done.
    pub const UNTIL_DONE: isize = isize::MIN;
}

/// What a lane is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// Sending to a rank.
    Send(usize),
    /// Receiving from a rank.
    Receive(usize),
    /// Everything else.
    Compute,
}

/// A step with its lane and what it depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// The step, by its place in [`Plan::steps`].
    pub step: usize,
    /// The lane, by its place in [`Lowered::lanes`].
    pub lane: usize,
    /// Elements to work through.
    pub len: usize,
    /// Dependencies on tasks of other lanes, in their order; those of its own lane before it are done anyway.
    pub dependencies: Vec<Dependency>,
}

/// A plan with its tasks in lanes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lowered {
    /// The plan that this was made from.
    pub plan: Plan,
    /// The tasks, in the order of the steps. Steps that do nothing have none.
    pub tasks: Vec<Task>,
    /// The lanes, and the tasks of each in order.
    pub lanes: Vec<(Lane, Vec<usize>)>,
}

/// Memory of this rank or another one, after aliases are resolved: input and output of a rank that works in place
/// are one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Memory {
    pub(super) rank: usize,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    Input,
    Output,
    Scratch,
    Slot,
}

/// Where a span of rank `rank`'s plan really lies. Positions are offset so that they are never negative. `aliasing`
/// tells a rank's shift where it works in place; of another rank it is known only where all plans are.
pub(super) fn locate(rank: usize, span: &Span, aliasing: impl Fn(usize) -> Option<isize>) -> (Memory, usize) {
    let (rank, kind) = match span.place {
        Place::Input => (rank, Kind::Input),
        Place::Output => (rank, Kind::Output),
        Place::Scratch => (rank, Kind::Scratch),
        Place::Slot => (rank, Kind::Slot),
        Place::Peer { rank, region: Region::Input } => (rank, Kind::Input),
        Place::Peer { rank, region: Region::Output } => (rank, Kind::Output),
        Place::Peer { rank, region: Region::Slot } => (rank, Kind::Slot),
    };
    // In place, both are located in the longer of the two, which is where element 0 comes first.
    match (kind, aliasing(rank)) {
        (Kind::Input, Some(shift)) => {
            (Memory { rank, kind: Kind::Output }, span.start + shift.max(0) as usize)
        }
        (Kind::Output, Some(shift)) => (Memory { rank, kind }, span.start + (-shift).max(0) as usize),
        _ => (Memory { rank, kind }, span.start),
    }
}

/// The most elements of any memory, so that no difference of two positions overflows.
const MOST: usize = isize::MAX as usize;

/// What the steps of one plan are checked against, and where their spans lie.
struct Bounds {
    rank: usize,
    world: usize,
    input: usize,
    output: usize,
    scratch: usize,
    slot: usize,
    aliasing: Option<isize>,
}

impl Bounds {
    fn of(plan: &Plan) -> std::result::Result<Self, String> {
        let (rank, request) = (plan.rank, &plan.request);
        request.validate().map_err(|error| error.message().to_owned())?;
        if rank >= request.world {
            return Err(format!("there is no such rank in a group of {}", request.world));
        }
        if let Counts::Pairwise { rank: owner, .. } | Counts::Messages { rank: owner, .. } = request.counts
            && owner != rank
        {
            return Err(format!("its counts are those of rank {owner}"));
        }
        if plan.scratch.max(plan.slot) > MOST {
            return Err("its private memory and its slot overflow".into());
        }
        Ok(Bounds {
            rank,
            world: request.world,
            input: request.input_len(rank),
            output: request.output_len(rank),
            scratch: plan.scratch,
            slot: plan.slot,
            aliasing: request.aliasing(rank),
        })
    }

    /// The length of what a span is a span of, or more where only the verifier knows, which has the other plans.
    fn limit(&self, place: Place) -> usize {
        match place {
            Place::Peer { rank, .. } if rank != self.rank => MOST,
            Place::Input | Place::Peer { region: Region::Input, .. } => self.input,
            Place::Output | Place::Peer { region: Region::Output, .. } => self.output,
            Place::Slot | Place::Peer { region: Region::Slot, .. } => self.slot,
            Place::Scratch => self.scratch,
        }
    }

    fn locate(&self, span: &Span) -> (Memory, usize) {
        locate(self.rank, span, |rank| if rank == self.rank { self.aliasing } else { None })
    }

    /// Checks that the spans of a step are of one length and within their memory, that no input is written, and that
    /// its peer is one.
    fn check(&self, step: &Step) -> std::result::Result<(), String> {
        let len = step.len();
        for span in step.reads().iter().chain(step.writes().as_ref()) {
            if span.len != len {
                return Err(format!("{step}: its ranges differ in length"));
            }
            if let Place::Peer { rank, .. } = span.place
                && rank >= self.world
            {
                return Err(format!("{step}: there is no rank {rank}"));
            }
            let limit = self.limit(span.place);
            if span.start.checked_add(span.len).is_none_or(|end| end > limit) {
                return Err(format!("{step}: {span} is beyond the end, which is {limit}"));
            }
        }
        if let Some(Span { place: Place::Input | Place::Peer { region: Region::Input, .. }, .. }) =
            step.writes()
        {
            return Err(format!("{step}: it writes an input"));
        }
        if let Step::Fold { sources, .. } = step
            && sources.is_empty()
        {
            return Err(format!("{step}: a fold of nothing"));
        }
        let peer = match step {
            Step::Wait { rank, .. } => Some(*rank),
            _ => step.sends_to().or(step.receives_from()),
        };
        match peer {
            Some(peer) if peer >= self.world => Err(format!("{step}: there is no rank {peer}")),
            Some(peer) if peer == self.rank => Err(format!("{step}: that is this rank itself")),
            _ => Ok(()),
        }
    }
}

/// Lowers a plan. A pure function; linear in the number of steps, but for the search of a place in each memory.
///
/// # Errors
/// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where the request cannot be right, or where a step is
/// malformed: ranges of different length, beyond the end of their memory, overlapping themselves out of step, an input
/// that is written, or a peer that does not exist. Plans from the generators never are.
pub fn lower(plan: Plan) -> Result<Lowered> {
    let bounds =
        Bounds::of(&plan).map_err(|reason| Error::invalid(format!("rank {}'s plan: {reason}", plan.rank)))?;
    let wrong = |step: usize, reason: String| {
        Error::invalid(format!("rank {}'s plan, step {step}: {reason}", plan.rank))
    };
    let mut lowering = Lowering::default();
    lowering.memories.rank = plan.rank;
    lowering.tasks.reserve(plan.steps.len());
    let mut reads = Vec::new();
    for (index, step) in plan.steps.iter().enumerate() {
        bounds.check(step).map_err(|reason| wrong(index, reason))?;
        let write = step.writes().map(|span| bounds.locate(&span));
        reads.clear();
        reads.extend(step.reads().iter().map(|span| bounds.locate(span)));
        if let Some(write) = write {
            if reads.iter().any(|read| overlap_out_of_step(*read, write, step.len())) {
                return Err(wrong(index, format!("{step}: its ranges overlap, but not exactly")));
            }
            if let Step::Copy { .. } = step
                && reads[0] == write
            {
                continue;
            }
        }
        let lane = match step {
            Step::Send { to, .. } => Lane::Send(*to),
            Step::Recv { from, .. } | Step::RecvReduce { from, .. } => Lane::Receive(*from),
            _ => Lane::Compute,
        };
        lowering.add(index, step, lane, &reads, write);
    }
    Ok(Lowered { tasks: lowering.tasks, lanes: lowering.lanes, plan })
}

/// Whether two operands of one step overlap without being one: its result would depend on how many elements it takes
/// at a time.
pub(super) fn overlap_out_of_step<M: PartialEq>(read: (M, usize), write: (M, usize), len: usize) -> bool {
    let apart = read.1.abs_diff(write.1);
    read.0 == write.0 && apart != 0 && apart < len
}

#[derive(Default)]
struct Lowering {
    tasks: Vec<Task>,
    lanes: Vec<(Lane, Vec<usize>)>,
    lane_of: FxHashMap<Lane, usize>,
    memories: Memories,
    /// The last task that is a `Wait`.
    last_wait: Option<usize>,
    /// What the task in hand depends on, a task perhaps several times.
    found: Vec<Dependency>,
}

impl Lowering {
    fn add(
        &mut self,
        index: usize,
        step: &Step,
        lane: Lane,
        reads: &[(Memory, usize)],
        write: Option<(Memory, usize)>,
    ) {
        let task = self.tasks.len();
        let lane = *self.lane_of.entry(lane).or_insert_with(|| {
            self.lanes.push((lane, Vec::new()));
            self.lanes.len() - 1
        });
        let len = step.len();
        let found = &mut self.found;
        let mut depend = |on: usize, shift: isize| {
            // Those of its own lane before it are done anyway.
            if on != task && self.tasks[on].lane != lane {
                found.push(Dependency { on, shift });
            }
        };
        if len > 0 {
            // Nobody writes what is an input and nothing else, so that reading it depends on nothing.
            for &(memory, at) in reads.iter().filter(|(memory, _)| memory.kind != Kind::Input) {
                self.memories.of(memory).read(task, at, len, &mut depend);
            }
            if let Some((memory, at)) = write {
                self.memories.of(memory).write(task, at, len, &mut depend);
            }
        }
        if let Step::Signal { .. } = step {
            for (_, tasks) in &self.lanes {
                if let Some(&last) = tasks.last() {
                    depend(last, Dependency::UNTIL_DONE);
                }
            }
        }
        if let Some(wait) = self.last_wait {
            depend(wait, Dependency::UNTIL_DONE);
        }
        if let Step::Wait { .. } = step {
            self.last_wait = Some(task);
        }
        // Of several dependencies on one task the smallest shift says it all.
        found.sort_unstable_by_key(|dependency| (dependency.on, dependency.shift));
        found.dedup_by_key(|dependency| dependency.on);
        let dependencies = found.to_vec();
        found.clear();
        self.tasks.push(Task { step: index, lane, len, dependencies });
        self.lanes[lane].1.push(task);
    }
}

/// The histories of all memories that a rank touches.
#[derive(Default)]
struct Memories {
    rank: usize,
    /// Its own, by kind.
    own: [History; 4],
    others: FxHashMap<Memory, History>,
}

impl Memories {
    fn of(&mut self, memory: Memory) -> &mut History {
        if memory.rank == self.rank {
            &mut self.own[memory.kind as usize]
        } else {
            self.others.entry(memory).or_default()
        }
    }
}

/// Who last wrote each part of a memory, and who has read it since. An access is a task and the place where
/// its operand begins.
#[derive(Default)]
struct History {
    /// In the order of their places; they do not overlap. A sorted list: most memories have few parts, and most
    /// accesses meet whole ones.
    parts: Vec<Part>,
}

#[derive(Clone)]
struct Part {
    start: usize,
    end: usize,
    writer: Option<(usize, usize)>,
    readers: Vec<(usize, usize)>,
}

impl History {
    fn read(&mut self, task: usize, at: usize, len: usize, depend: &mut impl FnMut(usize, isize)) {
        let end = at + len;
        let mut place = self.cut(at, end).start;
        let mut covered = at;
        while covered < end {
            let next = self.parts.get(place).map_or(end, |part| part.start.min(end));
            if next > covered {
                let gap = Part { start: covered, end: next, writer: None, readers: Vec::new() };
                self.parts.insert(place, gap);
            }
            let part = &mut self.parts[place];
            if let Some((on, begin)) = part.writer {
                depend(on, begin as isize - at as isize);
            }
            part.readers.push((task, at));
            covered = part.end;
            place += 1;
        }
    }

    fn write(&mut self, task: usize, at: usize, len: usize, depend: &mut impl FnMut(usize, isize)) {
        let range = self.cut(at, at + len);
        for part in &self.parts[range.clone()] {
            // A task that reads and writes the same place is its own reader.
            let mut readers = part.readers.iter().filter(|(on, _)| *on != task).peekable();
            if readers.peek().is_none()
                && let Some((on, begin)) = part.writer
            {
                depend(on, begin as isize - at as isize);
            }
            for &(on, begin) in readers {
                depend(on, begin as isize - at as isize);
            }
        }
        let (start, end, writer) = (at, at + len, Some((task, at)));
        if let Some(first) = self.parts[range.clone()].first_mut() {
            (first.start, first.end, first.writer) = (start, end, writer);
            first.readers.clear();
            self.parts.drain(range.start + 1..range.end);
        } else {
            self.parts.insert(range.start, Part { start, end, writer, readers: Vec::new() });
        }
    }

    /// Makes `start` and `end` borders between parts, and says which parts lie between them.
    fn cut(&mut self, start: usize, end: usize) -> Range<usize> {
        let mut first = self.parts.partition_point(|part| part.end <= start);
        if self.split(first, start) {
            first += 1;
        }
        let within = self.parts[first..].iter().take_while(|part| part.end <= end).count();
        let after = first + within + usize::from(self.split(first + within, end));
        first..after
    }

    /// Splits the part at `place` in two, if `at` lies inside it.
    fn split(&mut self, place: usize, at: usize) -> bool {
        let Some(part) = self.parts.get_mut(place).filter(|part| part.start < at && at < part.end) else {
            return false;
        };
        let rest = Part { start: at, ..part.clone() };
        part.end = at;
        self.parts.insert(place + 1, rest);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::{Collective, Request};
    use crate::plan::{Algorithm, Schedule};
    use crate::tensor::DType;

    fn span(place: Place, start: usize, len: usize) -> Span {
        Span { place, start, len }
    }

    fn plan(scratch: usize, steps: Vec<Step>) -> Plan {
        let request = Request::new(Collective::AllReduce, 3, DType::F32, 10);
        Plan { request, rank: 0, algorithm: "by hand".into(), scratch, slot: 0, steps }
    }

    #[test]
    fn a_forwarding_send_follows_its_receive_element_by_element() {
        let lowered = lower(plan(
            0,
            vec![
                Step::Recv { range: span(Place::Output, 2, 6), from: 1 },
                Step::Send { range: span(Place::Output, 0, 10), to: 2 },
            ],
        ))
        .unwrap();
        // Output[2] is the receive's element 0 and the send's element 2.
        assert_eq!(lowered.tasks[1].dependencies, [Dependency { on: 0, shift: 2 }]);
        assert_eq!(lowered.lanes.len(), 2);
    }

    #[test]
    fn the_three_hazards_are_found_and_no_more() {
        let scratch = |start, len| span(Place::Scratch, start, len);
        let lowered = lower(plan(
            8,
            vec![
                Step::Recv { range: scratch(0, 4), from: 1 },
                Step::Send { range: scratch(0, 4), to: 2 },
                Step::Recv { range: scratch(2, 4), from: 2 },
                Step::Recv { range: scratch(6, 2), from: 1 },
            ],
        ))
        .unwrap();
        assert_eq!(lowered.tasks[1].dependencies, [Dependency { on: 0, shift: 0 }], "read after write");
        // Elements 2 and 3 wait for the send; 4 and 5 for nobody.
        assert_eq!(lowered.tasks[2].dependencies, [Dependency { on: 1, shift: -2 }], "write after read");
        assert!(lowered.tasks[3].dependencies.is_empty());
    }

    #[test]
    fn in_place_makes_input_and_output_one() {
        let steps = vec![
            Step::Send { range: span(Place::Input, 0, 10), to: 1 },
            Step::Copy { source: span(Place::Input, 0, 10), into: span(Place::Output, 0, 10) },
            Step::Recv { range: span(Place::Output, 0, 10), from: 2 },
        ];
        let mut made = plan(0, steps.clone());
        assert_eq!(lower(made.clone()).unwrap().tasks.len(), 3);
        made.request.in_place = true;
        let lowered = lower(made).unwrap();
        assert_eq!(lowered.tasks.len(), 2, "the copy onto itself is gone");
        assert_eq!(lowered.tasks[1].dependencies, [Dependency { on: 0, shift: 0 }]);
    }

    #[test]
    fn signals_wait_for_all_before_and_waits_hold_all_after() {
        let lowered = lower(plan(
            4,
            vec![
                Step::Recv { range: span(Place::Scratch, 0, 4), from: 1 },
                Step::Signal { flag: 0 },
                Step::Wait { rank: 2, flag: 0, value: 1 },
                Step::Send { range: span(Place::Input, 0, 4), to: 1 },
            ],
        ))
        .unwrap();
        assert_eq!(lowered.tasks[1].dependencies, [Dependency { on: 0, shift: Dependency::UNTIL_DONE }]);
        assert_eq!(lowered.tasks[3].dependencies, [Dependency { on: 2, shift: Dependency::UNTIL_DONE }]);
    }

    #[test]
    fn malformed_steps_are_refused() {
        let bad = [
            Step::Send { range: span(Place::Input, 5, 6), to: 1 },
            Step::Send { range: span(Place::Input, usize::MAX, 2), to: 1 },
            Step::Send { range: span(Place::Input, 0, 1), to: 0 },
            Step::Recv { range: span(Place::Output, 0, 1), from: 3 },
            Step::Copy { source: span(Place::Input, 0, 3), into: span(Place::Output, 0, 4) },
            Step::Copy { source: span(Place::Scratch, 0, 3), into: span(Place::Scratch, 1, 3) },
            Step::Fold { sources: vec![], into: span(Place::Output, 0, 3) },
            Step::Copy {
                source: span(Place::Peer { rank: 9, region: Region::Slot }, 0, 3),
                into: span(Place::Output, 0, 3),
            },
        ];
        for step in bad {
            let error = lower(plan(4, vec![step.clone()])).unwrap_err();
            assert!(error.to_string().contains("step 0"), "{step}: {error}");
        }
    }

    #[test]
    fn a_ring_sends_on_what_it_has_just_reduced() {
        let request = Request::new(Collective::AllReduce, 4, DType::F32, 400);
        let plan = Plan::generate(&request, 1, Schedule::whole(Algorithm::named("ring").unwrap())).unwrap();
        let lowered = lower(plan).unwrap();
        let (_, sends) = lowered.lanes.iter().find(|(lane, _)| *lane == Lane::Send(2)).unwrap();
        assert!(lowered.tasks[sends[0]].dependencies.is_empty());
        for &send in &sends[1..] {
            let dependencies = &lowered.tasks[send].dependencies;
            assert!(dependencies.iter().all(|dependency| dependency.shift == 0), "{dependencies:?}");
            assert_eq!(dependencies.len(), 1);
        }
    }
}
