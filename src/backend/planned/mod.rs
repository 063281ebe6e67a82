//! Runs lowered plans over a transport.
//!
//! One operation at a time is under way, the oldest. Its lanes are visited in turn; each moves as many bytes as its
//! dependencies and the transport allow, so that a ring is one stream of bytes through each rank. Ahead of its
//! first payload every link carries the operation's [`Fingerprint`], and no payload is consumed before that has
//! been compared.
//!
//! - [`compile`]: a lowered plan with byte addresses and link numbers, cached by request;
//! - [`state`]: how far each task of the running operation is, and the lanes that move it;
//! - [`knock`]: what arrives on links that the running operation expects nothing on;
//! - [`alone`]: operations of a group of one that change nothing;
//! - [`aside`]: when to look whether ranks have come to run on one CPU;
//! - [`agree`]: the round in which a group agrees before anything moves (strict checks);
//! - [`shared`]: operations in memory that the ranks see of each other, which [`direct`](super::direct) runs;
//! - [`settle`]: from a fault that one rank has noticed to the cause that all ranks name.

mod agree;
mod alone;
mod aside;
mod compile;
mod knock;
mod settle;
mod shared;
mod state;
mod watched;

use super::direct::Direct;
use super::{Backend, Meter, Operation, Pieces, Progress, Ticket, cannot};
use crate::collective::{Collective, Counts, Difference, Fingerprint, Request};
use crate::error::{Cause, CauseKind, Error, Result};
use crate::observe::trace::Tracer;
use crate::observe::{Time, Waker};
use crate::plan::{Reach, Schedule, Topology};
use crate::transport::{Channel, Direction, Interest, Transport};
use agree::Agreement;
use alone::Alone;
use aside::Aside;
pub(super) use compile::fingerprint;
use compile::{Compiled, Plans};
use knock::Knocks;
use settle::Settling;
use shared::Quick;
use state::{Moved, State, Trouble};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use watched::Watched;

/// Runs verified plans over any transport.
pub struct Planned<T: Transport> {
    name: &'static str,
    group: GroupId,
    /// The ranks' numbers in the world, by which causes and errors name them; none where they are the same.
    numbers: Option<Arc<[usize]>>,
    transport: Watched<T>,
    plans: Plans,
    queue: VecDeque<Queued>,
    running: Option<Running>,
    /// What the running operation writes down; kept from one to the next, so that nothing is allocated anew.
    state: State,
    /// The same of what runs in shared memory.
    direct: Direct,
    reach: Reach,
    alone: Alone,
    /// Operations that were run at once.
    runs: u32,
    /// How often to look again at once.
    patience: u32,
    next_ticket: u64,
    /// The next sequence number of each direction of each pair, for point-to-point messages.
    sent: Vec<u64>,
    received: Vec<u64>,
    /// The history that the next collective's fingerprint tells of.
    history: u32,
    /// Collectives that have begun lately, by their sequence numbers.
    recent: Vec<Fingerprint>,
    failure: Option<Cause>,
    interests: Vec<Interest>,
    /// Looks at the lanes, and whether the last of them was before a wait.
    turns: u32,
    waited: bool,
    aside: Aside,
    /// How often this rank has offered its CPU since it last looked who is on it.
    offers: u32,
    knocks: Knocks,
    /// When to look at links that nothing is expected on, and how long to wait until the next time.
    look_at: Time,
    look_after: Duration,
}

/// Which group's operations these are.
#[derive(Debug, Clone, Copy)]
struct GroupId {
    generation: u32,
    communicator: u32,
}

impl GroupId {
    /// What a rank is asked for, as ranks compare it.
    #[inline]
    fn fingerprint(self, history: u32, plan: &Compiled, operation: &Operation) -> Fingerprint {
        if let Some(fingerprint) = operation.part_of.as_ref().and_then(|whole| whole.fingerprint) {
            return fingerprint;
        }
        let is_message = operation.request().collective == Collective::SendRecv;
        Fingerprint {
            generation: self.generation,
            communicator: self.communicator,
            sequence: operation.sequence(),
            strict: operation.strict(),
            counts_hash: plan.fingerprint.counts_hash ^ operation.pieces().map_or(0, Pieces::layout),
            history: if is_message { 0 } else { history },
            ..plan.fingerprint
        }
    }
}

struct Queued {
    ticket: Ticket,
    operation: Operation,
    plan: Arc<Compiled>,
    /// Where its operands are in shared memory, if both are in shared tensors, and the plan where all ranks' are.
    shared: Option<(u64, u64)>,
    variant: Option<Arc<Compiled>>,
    submitted: Time,
    deadline: Time,
}

struct Running {
    queued: Queued,
    /// What this rank is asked for; the parts between pairs are not in it.
    fingerprint: Fingerprint,
    agreement: Option<Agreement>,
    settling: Option<Settling>,
}

/// The size of a staging buffer that stays in a core's cache, in bytes.
pub const STAGING: usize = 256 << 10;

/// How long a rank is idle before it looks at links that it expects nothing on; twice as long each time.
const FIRST_LOOK: Duration = Duration::from_millis(20);
const RAREST_LOOK: Duration = Duration::from_secs(1);
const PART_LOOK: Duration = Duration::from_millis(1);

/// How long a rank that settles on a cause waits before it tries again to tell its peers what it does.
const TELL_AGAIN: Duration = Duration::from_millis(1);

/// How many looks come before a rank that has a CPU of its own offers that to others.
const UNYIELDING: u32 = 20;

/// How many turns pass between two looks at the clock.
const TURNS_PER_CLOCK: u32 = 32;

impl<T: Transport> Planned<T> {
    /// A backend over this transport, which is called `name` on the command line.
    ///
    /// `staging` is the size of the buffer, in bytes, through which what is reduced on arrival passes: such that it
    /// stays in a core's cache; tests make it tiny.
    pub fn new(
        name: &'static str,
        mut transport: T,
        generation: u32,
        communicator: u32,
        staging: usize,
    ) -> Self {
        let world = transport.world();
        let reach = shared::reach(&mut transport);
        Planned {
            name,
            group: GroupId { generation, communicator },
            numbers: None,
            plans: Plans::new(transport.rank()),
            transport: Watched::new(transport),
            queue: VecDeque::new(),
            running: None,
            state: State::new(staging),
            direct: Direct::new(),
            reach,
            alone: Alone::default(),
            runs: 0,
            patience: u32::MAX,
            next_ticket: 0,
            sent: vec![0; world],
            received: vec![0; world],
            history: 0,
            recent: Vec::new(),
            failure: None,
            // One each way and channel with every peer: a wait allocates nothing.
            interests: Vec::with_capacity(2 * world),
            turns: 0,
            waited: false,
            aside: Aside::default(),
            offers: 0,
            knocks: Knocks::new(world),
            look_at: Time::NEVER,
            look_after: FIRST_LOOK,
        }
    }

    /// The same as a group within a world, whose ranks have these numbers there: causes and errors name them by these.
    pub fn among(mut self, numbers: Arc<[usize]>) -> Self {
        self.numbers = Some(numbers);
        self
    }

    /// A rank's number in the world.
    fn number(&self, rank: usize) -> usize {
        self.numbers.as_ref().map_or(rank, |numbers| numbers[rank])
    }

    /// This rank's number in the world.
    fn me(&self) -> usize {
        self.number(self.transport.rank())
    }

    /// Tells which ranks share a host, before the first operation. Every rank must say the same: where they differ, the
    /// first collective is a mismatch.
    #[must_use]
    pub fn on(mut self, topology: Topology) -> Self {
        self.history = topology.hash();
        self.plans.topology = topology;
        self
    }

    /// Makes the plan of a request before it is asked for, or finds it in the cache.
    ///
    /// # Errors
    /// As [`submit`](Backend::submit).
    pub fn prepare(&mut self, request: &Request, schedule: Schedule) -> Result<()> {
        self.plans.get(request, schedule, &self.transport.meter).map(|_| ())
    }

    /// The transport underneath.
    pub fn transport(&self) -> &T {
        &self.transport.inner
    }

    /// The same with a trace, into which every operation is written.
    pub fn traced(mut self, tracer: Option<Arc<Tracer>>) -> Self {
        let world = self.transport.world();
        if let Some(tracer) = &tracer {
            tracer.communicator(self.group.communicator, self.transport.rank(), world);
        }
        self.transport.trace(Meter::traced(world, tracer));
        self
    }

    fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket - 1)
    }

    /// Takes the next operation from the queue.
    fn start_next(&mut self) {
        let Some(queued) = self.queue.pop_front() else { return };
        let request = queued.operation.request();
        let fingerprint = self.group.fingerprint(self.history, &queued.plan, &queued.operation);
        let is_message = request.collective == Collective::SendRecv;
        if !is_message {
            self.remember(&fingerprint);
            // Of a group that has failed nobody is shown another call: they might tell of that instead of the failure.
            let is_sound = self.failure.is_none() && self.transport.verdict().is_none();
            if is_sound && let Some(memory) = self.transport.inner.host_memory() {
                memory.post(&fingerprint);
            }
        }
        let agreement = (queued.operation.strict() && request.world > 1 && !is_message)
            .then(|| Agreement::new(self.transport.rank(), request.world, fingerprint));
        self.transport.begin();
        match queued.programs() {
            Some(programs) => {
                self.direct.start(&programs, &queued.operation, self.history, queued.shared);
            }
            None => self.start_lanes(&queued, fingerprint),
        }
        self.begin(queued, fingerprint, agreement);
    }

    fn begin(&mut self, queued: Queued, fingerprint: Fingerprint, agreement: Option<Agreement>) {
        self.transport.meter.scratch_bytes.set((self.state.held() + self.direct.held()) as u64);
        self.look_at = Time::NEVER;
        self.look_after = FIRST_LOOK;
        self.running = Some(Running { queued, fingerprint, agreement, settling: None });
    }

    fn start_lanes(&mut self, queued: &Queued, fingerprint: Fingerprint) {
        let (meter, request) = (&self.transport.meter, queued.operation.request());
        let channel = match request.collective {
            Collective::SendRecv => Channel::POINT_TO_POINT,
            _ => Channel::COLLECTIVE,
        };
        let (mut lists, mut messages) = (None, [0, 0]);
        match &request.counts {
            Counts::Pairwise { send, receive, .. } => lists = Some([send, receive]),
            Counts::Messages { send, receive, .. } => {
                messages = [send, receive].map(|message| message.map_or(0, |(_, count)| count));
            }
            _ => {}
        }
        self.state.start(&queued.plan, &queued.operation, channel, |peer, sends| {
            if sends { &meter.messages_sent } else { &meter.messages_received }.add(1);
            let mut fingerprint = fingerprint;
            let way = usize::from(!sends);
            fingerprint.pair_count = lists.map_or(messages[way], |lists| lists[way][peer]) as u64;
            if channel == Channel::POINT_TO_POINT {
                // The order of messages counts in each direction of a pair, not in the communicator.
                let counter = if sends { &mut self.sent[peer] } else { &mut self.received[peer] };
                fingerprint.sequence = *counter;
                *counter += 1;
            }
            fingerprint
        });
    }

    /// Ends the running operation.
    fn finish(&mut self, result: Result<()>) -> Progress {
        let queued = self.running.take().expect("an operation is running").queued;
        self.state.end();
        self.transport.end(self.group.communicator, &queued.operation, queued.submitted, &result);
        if let Err(error) = &result {
            queued.operation.span().record("error", tracing::field::display(error));
        }
        Progress::Done(queued.ticket, result)
    }

    /// Ends the running operation with the group's cause, which every later one will meet too.
    fn fail(&mut self, cause: Cause) -> Progress {
        let running = self.running.as_ref().expect("an operation is running");
        let operation = &running.queued.operation;
        let error = cause.to_error(self.me(), operation.request().collective.as_str(), operation.sequence());
        self.isolate_output();
        let done = self.finish(Err(error));
        if self.failure.is_none() {
            let Cause { culprit, kind, reporter, detail, .. } = &cause;
            tracing::warn!(rank = self.me(), culprit, ?kind, reporter, %detail, "the group has failed");
            if let Some(tracer) = &self.transport.meter.tracer {
                tracer.failed(&cause);
            }
            self.failure = Some(cause);
        }
        done
    }

    /// Something is wrong, as far as this rank can see: tell the group, and settle on one cause with it.
    fn notice(&mut self, kind: CauseKind, culprit: usize, detail: String) -> Progress {
        let (culprit, reporter) = (self.number(culprit), self.me());
        let running = self.running.as_mut().expect("an operation is running");
        let cause = Cause {
            generation: self.group.generation,
            sequence: running.queued.operation.sequence(),
            kind,
            culprit,
            reporter,
            detail,
        };
        running.settling = Some(Settling::begin(cause, &mut self.transport));
        Progress::Advanced
    }

    /// Opens a link to whoever is waited for: that fails where a rank has left the group before it had any link with
    /// this one, which nothing else would tell.
    fn call_on_the_silent(&mut self) -> std::result::Result<(), Trouble> {
        self.collect_interests();
        for interest in &self.interests {
            if interest.direction == Direction::Receive {
                self.transport.try_send(interest.peer, interest.channel, &[])?;
            }
        }
        Ok(())
    }

    /// Looks at links that nothing is expected on, if it is time.
    fn look_for_knocks(&mut self, now: Time) -> std::result::Result<(), Trouble> {
        if now < self.look_at {
            return Ok(());
        }
        if self.look_after == RAREST_LOOK {
            self.call_on_the_silent()?;
        }
        let running = self.running.as_ref().expect("an operation is running");
        // What the collectives' links bring is no business of a message between two.
        let is_message = running.queued.operation.request().collective == Collective::SendRecv;
        if !is_message {
            shared::look_at_boards(&mut self.transport, &running.fingerprint, &self.recent)?;
        }
        let state = &self.state;
        let expects = |peer| match &running.agreement {
            Some(agreement) => agreement.expects(peer),
            None => state.expects(peer),
        };
        if !is_message && self.knocks.look(&mut self.transport, &running.fingerprint, expects)? {
            // Small queues bring a fingerprint in parts.
            self.look_after = PART_LOOK;
        } else {
            self.look_after = (self.look_after * 2).clamp(FIRST_LOOK, RAREST_LOOK);
        }
        self.look_at = now.after(self.look_after);
        Ok(())
    }

    /// The time, if it is time to look at the clock: now and then only, since reading it costs as much as a small
    /// message's kernel; and after every wait, whatever it brought.
    fn time_to_look(&mut self) -> Option<Time> {
        self.turns += 1;
        let due = std::mem::take(&mut self.waited) || self.turns.is_multiple_of(TURNS_PER_CLOCK);
        due.then(|| self.transport.now())
    }

    /// Between two turns: is time up, or does somebody do something else?
    fn look_around(&mut self, moved: bool) -> Progress {
        let otherwise = if moved { Progress::Advanced } else { Progress::Idle };
        let Some(now) = self.time_to_look() else { return otherwise };
        let queued = &self.running.as_ref().expect("an operation is running").queued;
        if now >= queued.deadline {
            let operation = &queued.operation;
            let timeout = operation.part_of.as_ref().map_or(operation.timeout, |whole| whole.timeout);
            let (culprit, whom) = self.waiting_for();
            let me = self.me();
            let detail = format!("rank {me} waited {timeout:?} {whom}, and the deadline passed");
            return self.notice(CauseKind::Deadline, culprit, detail);
        }
        if moved {
            return otherwise;
        }
        let transport = &mut self.transport.inner;
        self.aside.look(|| transport.step_aside());
        match self.look_for_knocks(now) {
            Ok(()) => otherwise,
            Err(trouble) => self.notice_trouble(trouble),
        }
    }

    fn notice_trouble(&mut self, trouble: Trouble) -> Progress {
        match trouble {
            Trouble::Link(fault) => {
                let detail = match &self.numbers {
                    None => fault.detail,
                    Some(numbers) => {
                        let (peer, number) = (fault.peer, numbers[fault.peer]);
                        format!("{} (in a group whose rank {peer} is rank {number})", fault.detail)
                    }
                };
                self.notice(fault.kind, fault.peer, detail)
            }
            Trouble::Mismatch { peer, difference } => {
                let (me, number) = (self.me(), self.number(peer));
                let detail = format!(
                    "{} differs: {} on rank {me}, {} on rank {number}",
                    difference.field, difference.mine, difference.theirs
                );
                self.notice(CauseKind::Mismatch, peer, detail)
            }
            Trouble::Panic(detail) => {
                let (rank, me) = (self.transport.rank(), self.me());
                self.notice(CauseKind::UserPanic, rank, format!("on rank {me} {detail}"))
            }
            Trouble::Garbled { peer } => {
                let number = self.number(peer);
                let detail = format!("rank {number} sent bytes that begin no operation");
                self.notice(CauseKind::Unreachable, peer, detail)
            }
        }
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

    /// Whom an operation in shared memory waits for.
    fn waits_for(&mut self) -> Option<usize> {
        let running = self.running.as_ref().filter(|running| running.agreement.is_none())?;
        let programs = running.queued.programs()?;
        let memory = self.transport.inner.host_memory()?;
        self.direct.waits_for(&programs, memory)
    }

    /// Whom this rank waits for, in words, with the first of them.
    fn waiting_for(&mut self) -> (usize, String) {
        if let Some(peer) = self.waits_for() {
            return (peer, format!("for rank {} to come to its part", self.number(peer)));
        }
        self.collect_interests();
        let mut receives: Vec<usize> = Vec::new();
        let mut sends: Vec<usize> = Vec::new();
        for interest in &self.interests {
            match interest.direction {
                Direction::Receive => receives.push(interest.peer),
                Direction::Send => sends.push(interest.peer),
            }
        }
        receives.sort_unstable();
        sends.sort_unstable();
        let number = |rank: &usize| self.number(*rank).to_string();
        let list = |ranks: &[usize]| ranks.iter().map(number).collect::<Vec<_>>().join(", ");
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
        if operation.request().world != self.transport.world() {
            return Err(Error::invalid(format!(
                "a request for {} ranks in a group of {}",
                operation.request().world,
                self.transport.world()
            ))
            .at_rank(rank));
        }
        operation.check(self.name).map_err(|error| error.at_rank(rank))?;
        if operation.schedule().algorithm.needs() > self.reach {
            return Err(
                cannot(self.name, "see the memory of other ranks as this algorithm demands").at_rank(rank)
            );
        }
        let plan = self.plans.get(operation.request(), operation.schedule(), &self.transport.meter)?;
        let plan = Arc::clone(plan);
        let (shared, variant) = self.shared(&operation)?;
        let ticket = self.ticket();
        let submitted = self.transport.now();
        let deadline = submitted.after(operation.timeout());
        self.queue.push_back(Queued { ticket, operation, plan, shared, variant, submitted, deadline });
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
            // Whether a link still takes a fingerprint makes no difference to this rank any more.
            let _ = match &mut running.agreement {
                Some(agreement) => agreement.tell(&mut self.transport).map(|_| ()),
                None => self.state.tell(&mut self.transport),
            };
            return match settling.give_up(self.transport.now()) {
                Some(cause) => self.fail(cause),
                None => Progress::Idle,
            };
        }
        let moved = match &mut running.agreement {
            Some(agreement) => agreement.step(&mut self.transport, &mut self.knocks),
            None if running.queued.plan.program.is_some() => {
                shared::step(&mut self.direct, running, &mut self.transport.inner)
            }
            None => self.state.step(
                &running.queued.plan,
                &running.queued.operation,
                &mut self.transport,
                &mut self.knocks,
            ),
        };
        match moved {
            Ok(Moved::Some) => self.look_around(true),
            Ok(Moved::All) if running.agreement.take().is_some() => Progress::Advanced,
            Ok(Moved::All) => match self.spoilt_meanwhile() {
                Some(cause) => self.fail(cause),
                None => {
                    self.count_moved();
                    self.finish(Ok(()))
                }
            },
            Ok(Moved::None) => self.look_around(false),
            Err(trouble) => self.notice_trouble(trouble),
        }
    }

    fn wait(&mut self, until: Time) {
        let Some(running) = &self.running else { return };
        if let Some(settling) = &running.settling {
            // For the verdict only: what arrives now is not read, and would be a reason to return at once. Links
            // that have not taken a fingerprint yet are tried now and then.
            let soon = self.transport.now().after(TELL_AGAIN);
            self.transport.wait(&[], until.min(settling.until()).min(soon));
            return;
        }
        let deadline = running.queued.deadline;
        self.waited = true;
        if self.look_at == Time::NEVER {
            self.look_at = self.transport.now().after(self.look_after);
        }
        if let (None, Some(programs)) = (&running.agreement, running.queued.programs()) {
            let mut until = until.min(deadline).min(self.look_at);
            if self.direct.is_guarded() {
                until = until.min(self.transport.now().after(shared::UNTOLD));
            }
            let direct = &mut self.direct;
            self.transport.wait_for(&mut |memory| direct.may_go_on(&programs, memory), until);
            return;
        }
        self.collect_interests();
        self.transport.wait(&self.interests, until.min(deadline).min(self.look_at));
    }

    fn meter(&self) -> Arc<Meter> {
        Arc::clone(&self.transport.meter)
    }

    fn waker(&self) -> Waker {
        self.transport.waker()
    }

    fn spins(&self) -> u32 {
        self.transport.spins()
    }

    fn unyielding(&self) -> u32 {
        if self.transport.shares_cpus() { 0 } else { UNYIELDING }
    }

    fn now(&self) -> Time {
        self.transport.now()
    }

    fn failure(&self) -> Option<Cause> {
        self.failure.clone().or_else(|| self.transport.verdict())
    }

    fn reach(&self) -> Reach {
        self.reach
    }

    fn announce(&mut self, collective: &Fingerprint) {
        if let Some(memory) = self.transport.inner.host_memory() {
            memory.post(collective);
        }
        shared::remember(&mut self.recent, collective);
    }

    fn overhear(&mut self, collective: &Fingerprint) -> Option<(usize, Difference)> {
        if self.running.is_some() {
            return None;
        }
        let looked = shared::look_at_boards(&mut self.transport, collective, &self.recent)
            .and_then(|()| self.knocks.look(&mut self.transport, collective, |_| false));
        match looked {
            Err(Trouble::Mismatch { peer, difference }) => Some((self.number(peer), difference)),
            _ => None,
        }
    }

    #[inline]
    fn run(&mut self, operation: &mut Option<Operation>) -> Result<()> {
        let asked = operation.as_ref().expect("an operation to run");
        if self.transport.world() == 1 {
            return self.run_in_group_of_one(operation);
        }
        let quick = self.run_quickly(asked);
        if let Quick::Over = quick {
            *operation = None;
            return Ok(());
        }
        let operation = operation.take().expect("it was there");
        let mine = match quick {
            Quick::Begun(begun) => match self.go_on(operation, begun) {
                Ok(ticket) => ticket,
                Err(result) => return result,
            },
            _ => self.submit(operation)?,
        };
        self.drive(mine)
    }
}
