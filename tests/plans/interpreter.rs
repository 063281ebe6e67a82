//! Runs plans, slowly and with as little cleverness as possible: a second opinion on what the prover says.
//!
//! A rank runs any of its steps that does not have to wait for an earlier one: one of the same stream, one that touches
//! the same memory (as far as the rank itself knows), or a `Wait`; and a `Signal` waits for all. Messages are buffered
//! without limit. Which step of which rank comes next is drawn by lot.

use ringfold::collective::{Collective, Request};
use ringfold::plan::{Place, Plan, Region, Span, Step};
use std::collections::{HashMap, VecDeque};

/// What the final touch does to a sum, so that every other number of touches is noticed.
const FINISHED: i64 = 3;

/// Element `index` of a rank's input: large, and like no other.
pub(crate) fn contribution(rank: usize, index: usize) -> i64 {
    let seed = (rank as u64) << 32 | index as u64;
    fastrand::Rng::with_seed(seed).i64(..)
}

/// What a rank's output has to be, straight from the definition of the collectives.
pub(crate) fn expected(plans: &[Plan], rank: usize) -> Vec<i64> {
    let request = &plans[rank].request;
    let sum = |index: usize| {
        (0..request.world)
            .fold(0i64, |sum, from| sum.wrapping_add(contribution(from, index)))
            .wrapping_mul(FINISHED)
    };
    let from_root = |index| contribution(request.root, index);
    let everybodys = || {
        let ranks = request.blocks().into_iter().enumerate();
        ranks.flat_map(|(from, block)| (0..block.len()).map(move |index| contribution(from, index))).collect()
    };
    match request.collective {
        Collective::AllReduce | Collective::Barrier => (0..request.whole()).map(sum).collect(),
        Collective::Reduce if rank == request.root => (0..request.whole()).map(sum).collect(),
        Collective::ReduceScatter => request.block(rank).map(sum).collect(),
        Collective::AllGather => everybodys(),
        Collective::Gather if rank == request.root => everybodys(),
        Collective::Broadcast => (0..request.whole()).map(from_root).collect(),
        Collective::Scatter => request.block(rank).map(from_root).collect(),
        Collective::AllToAll => (0..request.world)
            .flat_map(|from| plans[from].request.send_block(from, rank).map(move |i| contribution(from, i)))
            .collect(),
        _ => Vec::new(),
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    User,
    Scratch,
    Slot,
}

struct Machine<'a> {
    plans: &'a [Plan],
    /// One buffer for a rank's input and output: the output lies behind the input, or the two lie on each other.
    memories: HashMap<(usize, Kind), Vec<i64>>,
    queues: HashMap<(usize, usize), VecDeque<Vec<i64>>>,
    flags: HashMap<(usize, u32), u32>,
    done: Vec<Vec<bool>>,
}

/// Where input and output begin in the user's memory, and how long that is.
fn layout(request: &Request, rank: usize) -> (usize, usize, usize) {
    let (input, output) = (request.input_len(rank), request.output_len(rank));
    match request.aliasing(rank) {
        None => (0, input, input + output),
        Some(shift) => {
            let (input_at, output_at) = (shift.max(0) as usize, (-shift).max(0) as usize);
            (input_at, output_at, (input_at + input).max(output_at + output))
        }
    }
}

/// Runs the plans of all ranks. The outputs, or `None` where all are stuck.
pub(crate) fn run(plans: &[Plan], seed: u64) -> Option<Vec<Vec<i64>>> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut memories = HashMap::new();
    for (rank, plan) in plans.iter().enumerate() {
        let (input_at, _, len) = layout(&plan.request, rank);
        // What is undefined differs from run to run.
        let mut noise = |len: usize| (0..len).map(|_| random.i64(..)).collect::<Vec<i64>>();
        let mut user = noise(len);
        for index in 0..plan.request.input_len(rank) {
            user[input_at + index] = contribution(rank, index);
        }
        memories.insert((rank, Kind::User), user);
        memories.insert((rank, Kind::Scratch), noise(plan.scratch));
        memories.insert((rank, Kind::Slot), noise(plan.slot));
    }
    let done = plans.iter().map(|plan| vec![false; plan.steps.len()]).collect();
    let mut machine = Machine { plans, memories, queues: HashMap::new(), flags: HashMap::new(), done };
    loop {
        let ready: Vec<(usize, usize)> = (0..plans.len())
            .flat_map(|rank| (0..plans[rank].steps.len()).map(move |step| (rank, step)))
            .filter(|&(rank, step)| machine.is_ready(rank, step))
            .collect();
        match random.choice(&ready) {
            Some(&(rank, step)) => machine.execute(rank, step),
            None if machine.done.iter().flatten().all(|done| *done) => break,
            None => return None,
        }
    }
    let outputs = plans.iter().enumerate().map(|(rank, plan)| {
        let (_, output_at, _) = layout(&plan.request, rank);
        machine.memories[&(rank, Kind::User)][output_at..output_at + plan.request.output_len(rank)].to_vec()
    });
    Some(outputs.collect())
}

/// The stream whose steps stay in order; `None` for those that compute.
fn stream(step: &Step) -> Option<(bool, usize)> {
    step.sends_to().map(|to| (true, to)).or(step.receives_from().map(|from| (false, from)))
}

impl Machine<'_> {
    /// The memory that a span lies in, and where.
    fn locate(&self, rank: usize, span: &Span) -> ((usize, Kind), usize) {
        let (rank, region) = match span.place {
            Place::Scratch => return ((rank, Kind::Scratch), span.start),
            Place::Input => (rank, Region::Input),
            Place::Output => (rank, Region::Output),
            Place::Slot => (rank, Region::Slot),
            Place::Peer { rank, region } => (rank, region),
        };
        let (input_at, output_at, _) = layout(&self.plans[rank].request, rank);
        match region {
            Region::Input => ((rank, Kind::User), input_at + span.start),
            Region::Output => ((rank, Kind::User), output_at + span.start),
            Region::Slot => ((rank, Kind::Slot), span.start),
        }
    }

    fn overlap(&self, rank: usize, a: &Span, b: &Span) -> bool {
        let ((a_memory, a_at), (b_memory, b_at)) = (self.locate(rank, a), self.locate(rank, b));
        a_memory == b_memory && a_at < b_at + b.len && b_at < a_at + a.len
    }

    fn conflict(&self, rank: usize, a: &Step, b: &Step) -> bool {
        let writes = |writer: &Step, other: &Step| {
            writer.writes().is_some_and(|written| {
                other
                    .reads()
                    .iter()
                    .chain(other.writes().as_ref())
                    .any(|span| self.overlap(rank, &written, span))
            })
        };
        writes(a, b) || writes(b, a)
    }

    fn is_ready(&self, rank: usize, index: usize) -> bool {
        let steps = &self.plans[rank].steps;
        let step = &steps[index];
        let is_there = match step {
            Step::Recv { from, .. } | Step::RecvReduce { from, .. } => {
                self.queues.get(&(*from, rank)).is_some_and(|queue| !queue.is_empty())
            }
            Step::Wait { rank, flag, value } => {
                self.flags.get(&(*rank, *flag)).copied().unwrap_or(0) >= *value
            }
            _ => true,
        };
        is_there
            && !self.done[rank][index]
            && (0..index).filter(|&before| !self.done[rank][before]).all(|before| {
                let before = &steps[before];
                stream(before) != stream(step)
                    && !matches!(before, Step::Wait { .. })
                    && !matches!(step, Step::Signal { .. })
                    && !self.conflict(rank, before, step)
            })
    }

    fn load(&self, rank: usize, span: &Span) -> Vec<i64> {
        let (memory, at) = self.locate(rank, span);
        self.memories[&memory][at..at + span.len].to_vec()
    }

    fn store(&mut self, rank: usize, span: &Span, values: &[i64]) {
        let (memory, at) = self.locate(rank, span);
        self.memories.get_mut(&memory).expect("every memory is there")[at..at + span.len]
            .copy_from_slice(values);
    }

    fn execute(&mut self, rank: usize, index: usize) {
        let plans = self.plans;
        let step = &plans[rank].steps[index];
        let add = |mut sum: Vec<i64>, other: Vec<i64>| {
            sum.iter_mut().zip(other).for_each(|(sum, other)| *sum = sum.wrapping_add(other));
            sum
        };
        let received = step.receives_from().map(|from| {
            self.queues.get_mut(&(from, rank)).and_then(VecDeque::pop_front).expect("it is ready")
        });
        let operands = step.reads().iter().map(|span| self.load(rank, span)).chain(received);
        let mut result = operands.reduce(add).unwrap_or_default();
        if let Step::Finish { .. } = step {
            result.iter_mut().for_each(|value| *value = value.wrapping_mul(FINISHED));
        }
        if let Some(into) = step.writes() {
            self.store(rank, &into, &result);
        } else if let Some(to) = step.sends_to() {
            self.queues.entry((rank, to)).or_default().push_back(result);
        } else if let Step::Signal { flag } = step {
            *self.flags.entry((rank, *flag)).or_default() += 1;
        }
        self.done[rank][index] = true;
    }
}
