//! Lowered plans in the form that the lanes run, and their cache.

use super::super::direct::Program;
use super::super::{Meter, cannot};
use crate::collective::{Collective, Counts, Fingerprint, Footing, Request};
use crate::error::{Error, Result};
use crate::plan::lower::{Dependency, Lane, Lowered, lower};
use crate::plan::{Place, Plan, Reach, Schedule, Span, Step, Topology};
use lru::LruCache;
use std::num::NonZeroUsize;
use std::sync::Arc;

/// Whose memory an operand lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Base {
    Input,
    Output,
    Scratch,
}

/// An operand: a memory, and the byte at which it begins there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) base: Base,
    pub(super) offset: usize,
}

/// What a task does with its elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    Send(Address),
    Receive(Address),
    ReceiveReduce { into: Address, local: Address },
    Copy { source: Address, into: Address },
    Fold { sources: Box<[Address]>, into: Address },
    Finish(Address),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) action: Action,
    /// Bytes to work through.
    pub(super) bytes: usize,
    /// `shift` is in bytes here.
    pub(super) dependencies: Box<[Dependency]>,
}

/// A plan as it is run.
#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) tasks: Vec<Task>,
    /// Lanes with their tasks, those that compute first.
    pub(super) lanes: Vec<(Lane, Box<[u32]>)>,
    pub(super) scratch_bytes: usize,
    /// What ranks compare of the request and the schedule.
    pub(super) fingerprint: Fingerprint,
    /// What is run instead of lanes, where it runs in shared memory.
    pub(super) program: Option<Program>,
}

impl Compiled {
    fn new(lowered: &Lowered, schedule: Option<Schedule>) -> Result<Self> {
        let size = lowered.plan.request.element_size();
        let tasks = lowered
            .tasks
            .iter()
            .map(|task| {
                let step = &lowered.plan.steps[task.step];
                let dependencies = task
                    .dependencies
                    .iter()
                    .map(|dependency| Dependency {
                        on: dependency.on,
                        shift: match dependency.shift {
                            Dependency::UNTIL_DONE => Dependency::UNTIL_DONE,
                            shift => shift * size as isize,
                        },
                    })
                    .collect();
                Ok(Task { action: action(step, size)?, bytes: task.len * size, dependencies })
            })
            .collect::<Result<Vec<_>>>()?;
        let mut lanes: Vec<(Lane, Box<[u32]>)> = lowered
            .lanes
            .iter()
            .map(|(lane, tasks)| (*lane, tasks.iter().map(|&task| task as u32).collect()))
            .collect();
        lanes.sort_by_key(|(lane, _)| match lane {
            Lane::Compute => 0,
            Lane::Send(_) => 1,
            Lane::Receive(_) => 2,
        });
        Ok(Compiled {
            tasks,
            lanes,
            scratch_bytes: lowered.plan.scratch * size,
            fingerprint: fingerprint(&lowered.plan.request, schedule),
            program: None,
        })
    }

    fn shared(plan: &Plan, schedule: Schedule) -> Result<Self> {
        Ok(Compiled {
            tasks: Vec::new(),
            lanes: Vec::new(),
            scratch_bytes: 0,
            fingerprint: fingerprint(&plan.request, Some(schedule)),
            program: Some(Program::new(plan, schedule.slice)?),
        })
    }
}

/// What ranks compare of a request and its schedule.
pub(in crate::backend) fn fingerprint(request: &Request, schedule: Option<Schedule>) -> Fingerprint {
    let slice = |schedule: Schedule| u32::try_from(schedule.slice).unwrap_or(u32::MAX);
    Fingerprint {
        algorithm: schedule.map_or(0, |schedule| schedule.algorithm.to_wire()),
        slice: schedule.map_or(0, slice),
        ..Fingerprint::of(request)
    }
}

fn address(span: &Span, size: usize) -> Result<Address> {
    let base = match span.place {
        Place::Input => Base::Input,
        Place::Output => Base::Output,
        Place::Scratch => Base::Scratch,
        Place::Slot | Place::Peer { .. } => return Err(cannot("planned", "see the memory of other ranks")),
    };
    Ok(Address { base, offset: span.start * size })
}

fn action(step: &Step, size: usize) -> Result<Action> {
    Ok(match step {
        Step::Send { range, .. } => Action::Send(address(range, size)?),
        Step::Recv { range, .. } => Action::Receive(address(range, size)?),
        Step::RecvReduce { into, local, .. } => {
            Action::ReceiveReduce { into: address(into, size)?, local: address(local, size)? }
        }
        Step::Copy { source, into } => {
            Action::Copy { source: address(source, size)?, into: address(into, size)? }
        }
        Step::Fold { sources, into } => Action::Fold {
            sources: sources.iter().map(|source| address(source, size)).collect::<Result<_>>()?,
            into: address(into, size)?,
        },
        Step::Finish { range } => Action::Finish(address(range, size)?),
        Step::Signal { .. } | Step::Wait { .. } => {
            return Err(cannot("planned", "raise flags in shared memory"));
        }
    })
}

/// The plans that this rank has run lately, by request and schedule.
pub(super) struct Plans {
    rank: usize,
    pub(super) topology: Topology,
    cache: LruCache<(Request, Schedule), Arc<Compiled>, rustc_hash::FxBuildHasher>,
    /// The last one: training loops ask for few things again and again.
    last: Option<(Request, Schedule, Arc<Compiled>)>,
    /// Those of operations that may be run at once, by their numbers; and of the latest without a number.
    quick: [Option<Quick>; QUICK + 1],
}

/// What is known of operations of one number, which may be run at once.
pub(super) struct Quick {
    number: u64,
    pub(super) plan: Arc<Compiled>,
    /// What they add to the history.
    pub(super) footing: Footing,
}

/// Where a [`Quick`] is, until another is remembered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spot(usize);

/// As many as there are calls that a communicator remembers.
const QUICK: usize = 16;

/// How many plans are kept: a large model's gradients have fewer different sizes.
const KEPT: NonZeroUsize = NonZeroUsize::new(256).unwrap();

impl Plans {
    pub(super) fn new(rank: usize) -> Self {
        Plans {
            rank,
            topology: Topology::default(),
            cache: LruCache::with_hasher(KEPT, rustc_hash::FxBuildHasher),
            last: None,
            quick: Default::default(),
        }
    }

    /// What is known of operations of this number, where that is known and they may be run at once.
    #[inline]
    pub(super) fn quick(&self, number: u64) -> Option<Spot> {
        let place = number as usize % QUICK;
        let known = self.quick[place].as_ref().is_some_and(|quick| quick.number == number);
        (known && number != 0).then_some(Spot(place))
    }

    /// What is known there.
    #[inline]
    pub(super) fn at(&self, spot: Spot) -> &Quick {
        self.quick[spot.0].as_ref().expect("spots are told of what is there")
    }

    /// Operations of this number may be run at once, by this plan; where the number is 0, just this one.
    pub(super) fn may_run(&mut self, number: u64, plan: Arc<Compiled>, footing: Footing) -> Spot {
        let place = if number == 0 { QUICK } else { number as usize % QUICK };
        self.quick[place] = Some(Quick { number, plan, footing });
        Spot(place)
    }

    /// The plan for a request, made if it is not there.
    #[inline]
    pub(super) fn get(
        &mut self,
        request: &Request,
        schedule: Schedule,
        meter: &Meter,
    ) -> Result<&Arc<Compiled>> {
        let is_last = |(last, by, _): &(Request, Schedule, _)| *by == schedule && last == request;
        if self.last.as_ref().is_some_and(is_last) {
            meter.plans_found.add(1);
        } else {
            let plan = self.find(request, schedule, meter)?;
            self.last = Some((request.clone(), schedule, plan));
        }
        Ok(&self.last.as_ref().expect("it is there now").2)
    }

    /// The same where it is not the last one.
    #[cold]
    fn find(&mut self, request: &Request, schedule: Schedule, meter: &Meter) -> Result<Arc<Compiled>> {
        let key = (request.clone(), schedule);
        let plan = match self.cache.get(&key) {
            Some(plan) => {
                meter.plans_found.add(1);
                Arc::clone(plan)
            }
            None => {
                let plan = Arc::new(self.make(request, schedule)?);
                meter.plans_made.add(1);
                let (collective, bytes) = (request.collective.as_str(), request.bytes(self.rank));
                let (algorithm, slice) = (schedule.algorithm.name(), schedule.slice);
                tracing::debug!(rank = self.rank, collective, bytes, algorithm, slice, "made a plan");
                self.cache.put(key, Arc::clone(&plan));
                plan
            }
        };
        Ok(plan)
    }

    fn make(&self, request: &Request, schedule: Schedule) -> Result<Compiled> {
        let at_rank = |error: Error| error.at_rank(self.rank);
        if request.collective == Collective::SendRecv {
            let lowered = lower(messages(request, self.rank)?)?;
            return Compiled::new(&lowered, None).map_err(at_rank);
        }
        let plan = Plan::generate_on(&self.topology, request, self.rank, schedule).map_err(at_rank)?;
        match schedule.algorithm.needs() {
            Reach::Messages => Compiled::new(&lower(plan)?, Some(schedule)),
            _ => Compiled::shared(&plan, schedule),
        }
        .map_err(at_rank)
    }
}

/// The plan of point-to-point messages: at most one each way, both at once.
fn messages(request: &Request, rank: usize) -> Result<Plan> {
    request.validate()?;
    let Counts::Messages { send, receive, .. } = request.counts else {
        return Err(Error::invalid("a message without a rank to send it to or receive it from"));
    };
    let input = |count| Span { place: Place::Input, start: 0, len: count };
    let output = |count| Span { place: Place::Output, start: 0, len: count };
    let mut steps = Vec::new();
    if let (Some((to, count)), Some(_)) = (send, receive)
        && to == rank
    {
        steps.push(Step::Copy { source: input(count), into: output(count) });
    } else {
        steps.extend(send.map(|(to, count)| Step::Send { range: input(count), to }));
        steps.extend(receive.map(|(from, count)| Step::Recv { range: output(count), from }));
    }
    Ok(Plan { request: request.clone(), rank, algorithm: "messages".into(), scratch: 0, slot: 0, steps })
}
