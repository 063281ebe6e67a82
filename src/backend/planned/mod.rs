//! Runs lowered plans over a transport.
//!
//! One operation at a time is under way, the oldest. Its lanes are visited in turn; each moves as many bytes as its
//! dependencies and the transport allow, so that a ring is one stream of bytes through each rank. Ahead of its
//! first payload every link carries the operation's [`Fingerprint`], and no payload is consumed before that has
//! been compared.
//!
//! - [`compile`]: a lowered plan with byte addresses and link numbers, cached by request;
//! - [`state`]: how far each task of the running operation is, and the lanes that move it;
//! - [`agree`]: the round in which a group agrees before anything moves (strict checks);
//! - [`settle`]: from a fault that one rank has noticed to the cause that all ranks name.

mod agree;
mod compile;
mod settle;
mod state;

use super::{Backend, Operation, Progress, Ticket};
use crate::collective::{Collective, Counts, Fingerprint};
use crate::error::{Cause, CauseKind, Error, Result};
use crate::observe::Time;
use crate::transport::{Channel, Interest, LinkFault, Transport};
use agree::Agreement;
use compile::{Compiled, Plans};
use settle::Settling;
use state::{Moved, State};
use std::collections::VecDeque;
use std::sync::Arc;

/// Runs verified plans over any transport.
pub struct Planned<T: Transport> {
    name: &'static str,
    generation: u32,
    communicator: u32,
    transport: T,
    plans: Plans,
    queue: VecDeque<Queued>,
    running: Option<Running>,
    /// What the running operation writes down; kept from one to the next, so that nothing is allocated anew.
    state: State,
    next_ticket: u64,
    /// The next sequence number of each direction of each pair, for point-to-point messages.
    sent: Vec<u64>,
    received: Vec<u64>,
    failure: Option<Cause>,
    interests: Vec<Interest>,
    idle_turns: u32,
}

struct Queued {
    ticket: Ticket,
    operation: Operation,
    plan: Arc<Compiled>,
    deadline: Time,
}

struct Running {
    queued: Queued,
    agreement: Option<Agreement>,
    settling: Option<Settling>,
}

/// The size of a staging buffer that stays in a core's cache, in bytes.
pub const STAGING: usize = 256 << 10;

/// How many idle turns pass between two looks at the clock.
const TURNS_PER_CLOCK: u32 = 32;

impl<T: Transport> Planned<T> {
    /// A backend over this transport, which is called `name` on the command line.
    ///
    /// `staging` is the size of the buffer, in bytes, through which what is reduced on arrival passes: such that it
    /// stays in a core's cache; tests make it tiny.
    pub fn new(name: &'static str, transport: T, generation: u32, communicator: u32, staging: usize) -> Self {
        let world = transport.world();
        Planned {
            name,
            generation,
            communicator,
            plans: Plans::new(transport.rank()),
            transport,
            queue: VecDeque::new(),
            running: None,
            state: State::new(staging),
            next_ticket: 0,
            sent: vec![0; world],
            received: vec![0; world],
            failure: None,
            interests: Vec::new(),
            idle_turns: 0,
        }
    }

    /// The transport underneath.
    pub fn transport(&self) -> &T {
        &self.transport
    }

    /// Takes the next operation from the queue.
    fn start_next(&mut self) {
        let Some(queued) = self.queue.pop_front() else { return };
        let request = &queued.operation.request;
        let fingerprint = Fingerprint {
            generation: self.generation,
            communicator: self.communicator,
            sequence: queued.operation.sequence,
            algorithm: queued.plan.algorithm,
            strict: queued.operation.strict,
            slice: queued.plan.slice,
            ..Fingerprint::of(request)
        };
        let channel = match request.collective {
            Collective::SendRecv => Channel::POINT_TO_POINT,
            _ => Channel::COLLECTIVE,
        };
        let agreement = (queued.operation.strict && request.world > 1 && channel == Channel::COLLECTIVE)
            .then(|| Agreement::new(self.transport.rank(), request.world, fingerprint));
        self.state.start(&queued.plan, &queued.operation, channel, |peer, sends| {
            let mut fingerprint = fingerprint;
            fingerprint.pair_count = match &request.counts {
                Counts::Pairwise { send, receive, .. } => {
                    if sends {
                        send[peer]
                    } else {
                        receive[peer]
                    }
                }
                Counts::Messages { send, receive, .. } => {
                    if sends { *send } else { *receive }.map_or(0, |(_, count)| count)
                }
                _ => 0,
            } as u64;
            if channel == Channel::POINT_TO_POINT {
                // The order of messages counts in each direction of a pair, not in the communicator.
                let counter = if sends { &mut self.sent[peer] } else { &mut self.received[peer] };
                fingerprint.sequence = *counter;
                *counter += 1;
            }
            fingerprint
        });
        self.idle_turns = 0;
        self.running = Some(Running { queued, agreement, settling: None });
    }

    /// Ends the running operation.
    fn finish(&mut self, result: Result<()>) -> Progress {
        let running = self.running.take().expect("an operation is running");
        Progress::Done(running.queued.ticket, result)
    }

    /// Ends the running operation with the group's cause, which every later one will meet too.
    fn fail(&mut self, cause: Cause) -> Progress {
        let running = self.running.as_ref().expect("an operation is running");
        let operation = &running.queued.operation;
        let error =
            cause.to_error(self.transport.rank(), operation.request.collective.as_str(), operation.sequence);
        self.failure.get_or_insert(cause);
        self.finish(Err(error))
    }

    /// Something is wrong, as far as this rank can see: tell the group, and settle on one cause with it.
    fn notice(&mut self, kind: CauseKind, culprit: usize, detail: String) -> Progress {
        let running = self.running.as_mut().expect("an operation is running");
        let cause = Cause {
            generation: self.generation,
            sequence: running.queued.operation.sequence,
            kind,
            culprit,
            reporter: self.transport.rank(),
            detail,
        };
        running.settling = Some(Settling::begin(cause, &mut self.transport));
        Progress::Advanced
    }

    fn notice_fault(&mut self, fault: LinkFault) -> Progress {
        self.notice(fault.kind, fault.peer, fault.detail)
    }

    /// The clock is looked at now and then only: reading it costs as much as a small message's kernel.
    fn deadline_passed(&mut self) -> bool {
        self.idle_turns += 1;
        if !self.idle_turns.is_multiple_of(TURNS_PER_CLOCK) {
            return false;
        }
        let running = self.running.as_ref().expect("an operation is running");
        self.transport.now() >= running.queued.deadline
    }

    /// Fills `interests` with what the running operation waits for.
    fn collect_interests(&mut self) {
        self.interests.clear();
        if let Some(running) = &self.running {
            match &running.agreement {
                Some(agreement) => agreement.interests(&mut self.interests),
                None => self.state.interests(&running.queued.plan, &mut self.interests),
            }
        }
    }

    /// Whom this rank waits for, in words, with the first of them.
    fn waiting_for(&mut self) -> (usize, String) {
        self.collect_interests();
        let mut receives: Vec<usize> = Vec::new();
        let mut sends: Vec<usize> = Vec::new();
        for interest in &self.interests {
            match interest.direction {
                crate::transport::Direction::Receive => receives.push(interest.peer),
                crate::transport::Direction::Send => sends.push(interest.peer),
            }
        }
        receives.sort_unstable();
        sends.sort_unstable();
        let list = |ranks: &[usize]| ranks.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
        let mut parts = Vec::new();
        if !receives.is_empty() {
            parts.push(format!("for bytes from rank {}", list(&receives)));
        }
        if !sends.is_empty() {
            parts.push(format!("for rank {} to take bytes", list(&sends)));
        }
        let culprit = receives.first().or(sends.first()).copied().unwrap_or(self.transport.rank());
        (culprit, if parts.is_empty() { "for itself".into() } else { parts.join(" and ") })
    }
}

impl<T: Transport> Backend for Planned<T> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn submit(&mut self, operation: Operation) -> Result<Ticket> {
        let rank = self.transport.rank();
        if operation.request.world != self.transport.world() {
            return Err(Error::invalid(format!(
                "a request for {} ranks in a group of {}",
                operation.request.world,
                self.transport.world()
            ))
            .at_rank(rank));
        }
        let plan = self.plans.get(&operation.request, operation.schedule)?;
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let deadline = self.transport.now().after(operation.timeout);
        self.queue.push_back(Queued { ticket, operation, plan, deadline });
        Ok(ticket)
    }

    fn progress(&mut self) -> Progress {
        if self.running.is_none() {
            self.start_next();
        }
        let Some(running) = &mut self.running else { return Progress::Idle };
        if let Some(cause) = self.failure.clone().or_else(|| self.transport.verdict()) {
            return self.fail(cause);
        }
        if let Some(settling) = &running.settling {
            return match settling.give_up(self.transport.now()) {
                Some(cause) => self.fail(cause),
                None => Progress::Idle,
            };
        }
        let moved = match &mut running.agreement {
            Some(agreement) => agreement.step(&mut self.transport),
            None => self.state.step(&running.queued.plan, &running.queued.operation, &mut self.transport),
        };
        match moved {
            Ok(Moved::Some) => {
                self.idle_turns = 0;
                Progress::Advanced
            }
            Ok(Moved::All) if running.agreement.take().is_some() => Progress::Advanced,
            Ok(Moved::All) => self.finish(Ok(())),
            Ok(Moved::None) if self.deadline_passed() => {
                let (culprit, whom) = self.waiting_for();
                let timeout = self.running.as_ref().expect("it is running").queued.operation.timeout;
                let detail = format!(
                    "rank {} waited {timeout:?} {whom}, and the deadline passed",
                    self.transport.rank()
                );
                self.notice(CauseKind::Deadline, culprit, detail)
            }
            Ok(Moved::None) => Progress::Idle,
            Err(state::Trouble::Link(fault)) => self.notice_fault(fault),
            Err(state::Trouble::Mismatch { peer, difference }) => {
                let me = self.transport.rank();
                let detail = format!(
                    "{} differs: {} on rank {me}, {} on rank {peer}",
                    difference.field, difference.mine, difference.theirs
                );
                self.notice(CauseKind::Mismatch, peer, detail)
            }
            Err(state::Trouble::Garbled { peer }) => {
                let detail = format!("rank {peer} sent bytes that begin no operation");
                self.notice(CauseKind::Unreachable, peer, detail)
            }
        }
    }

    fn wait(&mut self, until: Time) {
        let Some(running) = &self.running else { return };
        let deadline = match &running.settling {
            Some(settling) => settling.until(),
            None => running.queued.deadline,
        };
        // The next look at the clock is due right after the wait.
        self.idle_turns = TURNS_PER_CLOCK - 1;
        self.collect_interests();
        self.transport.wait(&self.interests, until.min(deadline));
    }

    fn spins(&self) -> u32 {
        self.transport.spins()
    }

    fn now(&self) -> Time {
        self.transport.now()
    }

    fn failure(&self) -> Option<Cause> {
        self.failure.clone().or_else(|| self.transport.verdict())
    }
}
