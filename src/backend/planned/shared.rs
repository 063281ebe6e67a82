//! Operations in memory that the ranks see of each other: how they are begun, driven at once, and found to disagree.

use super::super::direct::{Direct, Program, Programs, Step, Stop};
use super::super::{Operation, Progress};
use super::compile::{self, Compiled};
use super::state::{Moved, Trouble};
use super::watched::Watched;
use super::{Planned, Queued, Running};
use crate::collective::{Collective, Difference, Fingerprint};
use crate::error::{Cause, CauseKind, Result};
use crate::observe::Time;
use crate::plan::select::Table;
use crate::plan::{Algorithm, Reach, Schedule};
use crate::transport::shm::HostMemory;
use crate::transport::{LinkFault, Transport};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a rank with a CPU of its own looks again before it turns to what costs more: some 10 us.
const QUICK: u32 = 100;

/// The same where ranks must share CPUs: for what another CPU is just about to write.
const QUICK_SHARED: u32 = 2;

/// How often such a rank then offers its CPU and looks again, before it turns to what costs more: mostly another rank has it for as long as
/// that takes to do its part.
const OFFERS: u32 = 16;

/// How many offers pass between two looks whether there are fewer ranks on another CPU.
const OFFERS_PER_LOOK: u32 = 128;

/// How many of these looks come without a pause.
const UNPAUSED: u32 = 20;

/// Every so manieth operation is given all these looks, however few were enough or in vain lately: else those who once had to
/// wait for long would never again find out that they need not.
const TRIED_AGAIN: u32 = 128;

/// How many of these looks pass between two looks whether the group has failed.
const LOOKS_PER_VERDICT: u32 = 64;

/// Of operations that are over at once every so manieth is timed, and stands for the others: the clock costs a third of
/// them.
const TIMED: u32 = 16;

/// Up to how many bytes shared tensors go as other memory does. Where they lie has to be told and waited for first, which costs more than it saves:
/// 4 KiB took 0.52 us instead of 0.43.
const LITTLE: usize = 8 << 10;

/// The same where ranks must share CPUs, and whoever waits has to come to its turn first: of 4 ranks on 2 CPUs 16 KiB took 13.3 us instead of 9.1.
const LITTLE_IN_TURN: usize = 32 << 10;

/// How long a rank sleeps at most of which nobody knows that it waits.
pub(super) const UNTOLD: Duration = Duration::from_millis(1);

/// How long a rank waits for another, which does something else, to post what that is: at once, unless others have its CPU just then.
const POSTED: Duration = Duration::from_millis(250);

/// So many of the latest collectives are remembered, to be compared with what those post who are behind.
const REMEMBERED: usize = 16;

/// How far the ranks of a transport reach.
pub(super) fn reach(transport: &mut impl Transport) -> Reach {
    match transport.host_memory() {
        None => Reach::Messages,
        Some(memory) if memory.reads_processes() => Reach::Memory,
        Some(_) => Reach::Slots,
    }
}

/// One step of the program that is running.
pub(super) fn step(
    direct: &mut Direct,
    running: &Running,
    transport: &mut impl Transport,
) -> std::result::Result<Moved, Trouble> {
    let Running { queued, fingerprint, .. } = running;
    let memory = memory_of(transport);
    match direct.step(&queued.programs().expect("it runs in shared memory"), &queued.operation, memory) {
        Ok(Step::Over) => Ok(Moved::All),
        Ok(Step::More) => Ok(Moved::Some),
        Ok(Step::Blocked(_)) => Ok(Moved::None),
        Err(stop) => Err(trouble(stop, fingerprint, memory)),
    }
}

impl<T: Transport> Planned<T> {
    /// Runs an operation in shared memory at once, on the way that costs least, where there is none before it. What comes between
    /// a rank's seeing the others and its showing them the next operation is waited for by all, so that whatever
    /// can be done while it waits itself is done then.
    #[inline]
    pub(super) fn run_quickly(&mut self, operation: &Operation) -> Quick {
        let alone = self.running.is_none() && self.queue.is_empty();
        if !alone || self.failure.is_some() || self.transport.inner.verdict().is_some() {
            return Quick::No;
        }
        let known = if operation.extras.is_none() { self.plans.quick(operation.number) } else { None };
        let place = match known {
            Some(place) => {
                self.transport.meter.plans_found.add(1);
                place
            }
            None => match self.may_run(operation) {
                Some(place) => place,
                None => return Quick::No,
            },
        };
        let in_line = self.plans.at(place).plan.program.as_ref().is_some_and(Program::is_in_line);
        let (shared, variant) = match in_line {
            true => (None, None),
            false => match self.shared(operation) {
                Ok(shared) => shared,
                Err(_) => return Quick::No,
            },
        };
        // To count its users costs as much as all else that is done with it.
        let compile::Quick { plan, footing, .. } = self.plans.at(place);
        let program = plan.program.as_ref().expect("what may be run at once runs in shared memory");
        let collective = operation.request.collective;
        let programs =
            Programs { base: program, shared: variant.as_ref().and_then(|variant| variant.program.as_ref()) };
        self.runs = self.runs.wrapping_add(1);
        let timed = !in_line || self.runs.is_multiple_of(TIMED);
        let submitted = if timed { self.transport.inner.now() } else { Time::NEVER };
        let before = self.history;
        self.history = footing.history_after(operation.sequence, before);
        self.direct.start(&programs, operation, self.history, shared);
        let shares_cpus = self.transport.inner.shares_cpus();
        let most = if shares_cpus { QUICK_SHARED + OFFERS } else { QUICK };
        let patience = if self.runs.is_multiple_of(TRIED_AGAIN) { most } else { self.patience };
        let looks = patience.clamp(QUICK_SHARED, most);
        let mut idle = 0;
        let mut posted = false;
        let stopped = loop {
            let memory = memory_of(&mut self.transport.inner);
            let step = self.direct.step(&programs, operation, memory);
            if !posted {
                // Not before the others have what they wait for.
                posted = true;
                let fingerprint = self.group.fingerprint(before, plan, operation);
                memory.post(&fingerprint);
                remember(&mut self.recent, &fingerprint);
            }
            match step {
                Ok(Step::Over) => {
                    if self.direct.is_in_tensors() && self.transport.inner.verdict().is_some() {
                        break None;
                    }
                    if idle > 0 {
                        self.patience = looks.saturating_mul(2);
                        if shares_cpus {
                            self.offers += idle;
                            if self.offers >= OFFERS_PER_LOOK {
                                // Ranks that have nothing but each other to wait for may all be on one CPU.
                                self.offers = 0;
                                let transport = &mut self.transport.inner;
                                self.aside.look(|| transport.step_aside());
                            }
                        }
                    }
                    count(&mut self.transport, self.direct.program(&programs));
                    let mut time = Duration::ZERO;
                    if timed {
                        time = self.transport.inner.now().since(submitted) * if in_line { TIMED } else { 1 };
                        self.transport
                            .meter
                            .scratch_bytes
                            .set((self.state.held() + self.direct.held()) as u64);
                    }
                    self.transport.meter.ended(collective, program.bytes, time, true);
                    return Quick::Over;
                }
                Ok(Step::More) => {
                    if self.transport.inner.verdict().is_some() {
                        break None;
                    }
                }
                Ok(Step::Blocked(_)) => {
                    idle += 1;
                    let failed = idle % LOOKS_PER_VERDICT == 0 && self.transport.inner.verdict().is_some();
                    if idle > looks || failed {
                        break None;
                    }
                    // An answer to little is there before a pause is over.
                    if shares_cpus && idle > QUICK_SHARED {
                        std::thread::yield_now();
                    } else if idle > UNPAUSED {
                        std::hint::spin_loop();
                    }
                }
                Err(stop) => {
                    let fingerprint = self.group.fingerprint(before, plan, operation);
                    break Some(trouble(stop, &fingerprint, memory));
                }
            }
        };
        // Who has waited in vain may have a CPU that another needs.
        self.patience = self.patience.min(looks) / 2;
        let fingerprint = self.group.fingerprint(before, plan, operation);
        Quick::Begun(Begun { plan: Arc::clone(plan), shared, variant, submitted, fingerprint, stopped })
    }

    /// Whether an operation may be run at once as far as it is one that may, and what is known of those of its number.
    #[cold]
    fn may_run(&mut self, operation: &Operation) -> Option<compile::Spot> {
        let Operation { request, schedule, strict, .. } = operation;
        if schedule.algorithm.needs() == Reach::Messages
            || self.reach == Reach::Messages
            || *strict
            || operation.part_of.is_some()
            || request.world < 2
            || request.collective == Collective::SendRecv
            || self.transport.meter.tracer.is_some()
            || request.world != self.transport.inner.world()
            || operation.check(self.name).is_err()
        {
            return None;
        }
        let plan = self.plans.get(request, *schedule, &self.transport.meter).ok()?;
        let plan = Arc::clone(plan);
        plan.program.as_ref()?;
        let bare = Fingerprint { sequence: 0, ..self.group.fingerprint(0, &plan, operation) };
        let number = if operation.extras.is_none() { operation.number } else { 0 };
        Some(self.plans.may_run(number, plan, bare.footing()))
    }

    /// Takes an operation over that has begun, to be driven further; its result where it is over with that.
    #[cold]
    pub(super) fn go_on(
        &mut self,
        operation: Operation,
        begun: Begun,
    ) -> std::result::Result<super::Ticket, Result<()>> {
        let Begun { plan, shared, variant, submitted, fingerprint, stopped } = begun;
        let submitted = if submitted == Time::NEVER { self.transport.inner.now() } else { submitted };
        let ticket = self.ticket();
        let deadline = submitted.after(operation.timeout());
        let queued = Queued { ticket, operation, plan, shared, variant, submitted, deadline };
        self.begin(queued, fingerprint, None);
        match stopped.map(|trouble| self.notice_trouble(trouble)) {
            Some(Progress::Done(_, result)) => Err(result),
            _ => Ok(ticket),
        }
    }

    /// Where an operation's operands are in the segment, where both are in shared tensors, and the plan for that case.
    #[inline]
    pub(super) fn shared(&mut self, operation: &Operation) -> Result<Shared> {
        let request = operation.request();
        // Of little every rank has shown all before it could have said where it is.
        let little = if self.transport.shares_cpus() { LITTLE_IN_TURN } else { LITTLE };
        let little = Table::agreed_bytes(request) <= little;
        let messages = operation.schedule().algorithm.needs() == Reach::Messages;
        // Where there is a root, not everybody has both an input and an output; and who exchanges blocks in place would have to
        // copy all of them first, for which slots are quicker (16 MiB: 1.2 ms, instead of 2.5).
        let exchanged = request.in_place && request.collective == Collective::AllToAll;
        let rooted = request.collective.is_rooted();
        if little || messages || operation.pieces().is_some() || rooted || exchanged {
            return Ok((None, None));
        }
        let Some(memory) = self.transport.inner.host_memory() else { return Ok((None, None)) };
        let (rank, size) = (memory.rank(), request.element_size());
        let buffers = operation.buffers();
        let input = memory.locate(buffers.input, request.input_len(rank) * size);
        let Some(input) = input else { return Ok((None, None)) };
        let output = memory.locate(buffers.output, request.output_len(rank) * size);
        let Some(output) = output else { return Ok((None, None)) };
        let Some(algorithm) = Algorithm::for_tensors(request) else { return Ok((None, None)) };
        let schedule = Schedule { algorithm, slice: algorithm.own_slice(request).unwrap_or(usize::MAX) };
        let variant = self.plans.get(request, schedule, &self.transport.meter)?;
        Ok((Some((input, output)), Some(Arc::clone(variant))))
    }

    /// Takes a collective into the history.
    pub(super) fn remember(&mut self, fingerprint: &Fingerprint) {
        self.history = fingerprint.history_after();
        remember(&mut self.recent, fingerprint);
    }

    /// Counts what the running operation, which is over, has moved in shared memory.
    pub(super) fn count_moved(&mut self) {
        if let Some(programs) = self.running.as_ref().and_then(|running| running.queued.programs()) {
            count(&mut self.transport, self.direct.program(&programs));
        }
    }

    /// The group's failure, where the operation that is over was in shared tensors: one that failed meanwhile in another
    /// group of this process may have taken a page out of sharing that this one wrote to.
    pub(super) fn spoilt_meanwhile(&self) -> Option<Cause> {
        if self.direct.is_in_tensors() { self.transport.inner.verdict() } else { None }
    }

    /// Before a failed operation's memory is its user's again, nobody else may write to it any more. Where all ranks are in
    /// shared tensors each writes into the outputs of all, and one may have been stopped in the midst of that.
    pub(super) fn isolate_output(&mut self) {
        let Some(Running { queued, .. }) = &self.running else { return };
        let (true, Some(memory)) = (self.direct.is_in_tensors(), self.transport.inner.host_memory()) else {
            return;
        };
        let request = queued.operation.request();
        let bytes = request.output_len(memory.rank()) * request.element_size();
        // SAFETY: the output is the operation's until it is told of its end, which follows; what is in it is unspecified
        // then, says the contract of all verbs. The group has failed.
        unsafe { memory.isolate(queued.operation.buffers().output, bytes) };
    }
}

/// Finds whoever has posted that it is at a place in the order where this rank is or was lately, and does something else
/// there.
pub(super) fn look_at_boards(
    transport: &mut impl Transport,
    mine: &Fingerprint,
    recent: &[Fingerprint],
) -> std::result::Result<(), Trouble> {
    let Some(memory) = transport.host_memory() else { return Ok(()) };
    let own = memory.rank();
    for peer in (0..memory.world()).filter(|&peer| peer != own) {
        let here = posted_difference(mine, peer, memory);
        let before = || recent.iter().find_map(|mine| posted_difference(mine, peer, memory));
        if let Some(difference) = here.or_else(before) {
            return Err(Trouble::Mismatch { peer, difference });
        }
    }
    Ok(())
}

/// What has become of an operation that was tried at once.
pub(super) enum Quick {
    /// It has not begun.
    No,
    Over,
    /// It has to wait for long, or has failed.
    Begun(Begun),
}

/// An operation that has begun.
pub(super) struct Begun {
    plan: Arc<Compiled>,
    shared: Option<(u64, u64)>,
    variant: Option<Arc<Compiled>>,
    /// Where somebody looked at the clock.
    submitted: Time,
    fingerprint: Fingerprint,
    stopped: Option<Trouble>,
}

/// Where operands are in the segment, and the plan for operands that are.
pub(super) type Shared = (Option<(u64, u64)>, Option<Arc<Compiled>>);

impl Queued {
    /// What it runs by, where it runs in shared memory.
    pub(super) fn programs(&self) -> Option<Programs<'_>> {
        let shared = self.variant.as_ref().and_then(|variant| variant.program.as_ref());
        Some(Programs { base: self.plan.program.as_ref()?, shared })
    }
}

/// Keeps a collective, to be compared with what others post.
#[inline]
pub(super) fn remember(recent: &mut Vec<Fingerprint>, fingerprint: &Fingerprint) {
    let place = fingerprint.sequence as usize % REMEMBERED;
    match recent.get_mut(place) {
        Some(recent) => *recent = *fingerprint,
        None => recent.resize(place + 1, *fingerprint),
    }
}

#[inline]
fn count<T: Transport>(transport: &mut Watched<T>, program: &Program) {
    for (peer, &(read, written)) in program.moved.iter().enumerate() {
        if read + written > 0 {
            transport.moved(peer, read, written);
        }
    }
}

fn memory_of(transport: &mut impl Transport) -> &mut HostMemory {
    transport.host_memory().expect("programs are refused where there is none")
}

/// How the collective that a peer has posted differs from this rank's, where it is at the same place in the order.
fn posted_difference(mine: &Fingerprint, peer: usize, memory: &HostMemory) -> Option<Difference> {
    let theirs = memory.posted(peer, mine.sequence)?;
    Fingerprint { pair_count: theirs.pair_count, ..*mine }.difference(&theirs)
}

#[cold]
fn trouble(stop: Stop, mine: &Fingerprint, memory: &HostMemory) -> Trouble {
    let link = |peer, kind, detail| Trouble::Link(LinkFault { peer, kind, detail });
    match stop {
        Stop::Disagrees(peer) => {
            // It posts what it does right after it has shown it.
            let begun = Instant::now();
            let posted = loop {
                let posted = posted_difference(mine, peer, memory);
                if posted.is_some() || begun.elapsed() > POSTED {
                    break posted;
                }
                std::thread::yield_now();
            };
            let difference = posted.unwrap_or_else(|| Difference {
                field: "the operation (hash)",
                mine: format!("{:08x}", mine.history_after()),
                theirs: "another".into(),
            });
            Trouble::Mismatch { peer, difference }
        }
        Stop::Left(peer) => link(peer, CauseKind::Closed, "it left the group".into()),
        Stop::Garbled(peer) => Trouble::Garbled { peer },
        Stop::Unreadable(peer, why) => {
            link(peer, CauseKind::Closed, format!("its memory cannot be read: {why}"))
        }
        Stop::NoSlots(why) => {
            let detail = format!("it has no memory for what it shows to others: {why}");
            link(memory.rank(), CauseKind::Unreachable, detail)
        }
    }
}
