//! Collectives by NVIDIA's NCCL, among ranks that have a GPU each.
//!
//! The library (`libnccl.so.2`) and the driver's are found at run time, so every build has this backend. NCCL owns the schedules:
//! an operation's [`Schedule`](crate::plan::Schedule) means nothing here. Memory on the group's device is used as it is, on the
//! caller's stream; where none is given, on one that follows the device's default stream, and is followed by it. Where an operation
//! [may be staged](Operation::staged) it goes through buffers of the backend's own, in portions, which are pinned for memory of the
//! host.
//!
//! | file | subject |
//! |---|---|
//! | `library` | raw: NCCL's functions and numbers, what a version can do, its errors in words |
//! | `comm` | checked: a communicator, made, divided and ended without blocking; its calls |
//! | `issue` | which calls a collective is |
//! | `staging` | host memory |
//! | `landing` | what the caller's streams can wait for |
//!
//! # What is promised
//! - Every wait has a deadline: the making of the group, each operation, its division, its end. Where a deadline passes or
//!   anything else spoils the group, NCCL's communicator is aborted on every rank, which ends what it has queued on streams.
//! - NCCL tells of asynchronous errors only who is asked: it is asked while an operation is waited for.
//! - The order in which NCCL combines is its own: the same bits on every rank, which may change with the number of ranks, the
//!   network and NCCL's version. [`Order::Fixed`] is refused, and so are users' reductions and bitwise ones.
//!   A mean is what NCCL makes of it; whether NaN passes through a minimum or maximum is NCCL's affair.
//! - Where an operation fails, the contents of its output are unspecified. Nothing is written any more once the call has
//!   returned, unless NCCL's abort does not return within two seconds: the error then says so.
//! - Ranks are compared by NCCL not at all: where they call different things they wait, up to the deadline.
//! - Whether an operation may be staged is the same on all ranks. Then the memory of each may be anywhere; else it is on devices.
//! - Messages between two ranks are in the order of all operations.

mod comm;
mod issue;
mod landing;
mod library;
mod staging;

pub use landing::Landing;
pub use library::{Library, UniqueId, Version};

use super::{Backend, Meter, Operation, Pieces, Progress, Ticket, cannot};
use crate::collective::{Collective, Counts, Fingerprint, Order};
use crate::cuda::{Context, DeviceMemory, Event, OwnStream};
use crate::error::{Cause, CauseKind, Error, ErrorKind, Result};
use crate::observe::trace::{Record, Tracer};
use crate::observe::{Poison, Time, Waker};
use crate::tensor::{Device, Stream};
use crate::transport::control::{Awaited, Ledger};
use comm::{Comm, Trouble};
use issue::{Issue, part};
use library::Refusal;
use staging::{Course, Staging, Step};
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// The bytes of a portion of host memory: large enough to be worth a call of NCCL's, small enough for several to be under way.
pub const PORTION: usize = 1 << 20;

/// How long a rank waits for the group's verdict.
const SETTLING: Duration = Duration::from_millis(500);

/// How many ranks one whose deadline has passed names.
const NAMED: usize = 15;

/// How long NCCL may take to end a communicator.
const ENDING: Duration = Duration::from_secs(2);

/// How long a rank that waits sleeps between two looks: at first, and at most.
const NAP: Duration = Duration::from_micros(20);
const LONGEST_NAP: Duration = Duration::from_micros(500);

/// How many looks come before a rank that has a CPU of its own offers that to others.
const UNYIELDING: u32 = 20;

/// How many looks in a row come between two questions whether NCCL has failed, and what time it is.
const LOOKS: u32 = 32;

/// How long a rank waits before it tells what it waits in.
const TELL_AFTER: Duration = Duration::from_millis(5);

/// What a rank's part of a group is made of.
pub struct NcclSetup {
    /// This rank's number in the group.
    pub rank: usize,
    /// The ranks' numbers in the world, by which causes and errors name them.
    pub numbers: Arc<[usize]>,
    /// The generation of the group.
    pub generation: u32,
    /// Tells the groups of a world apart.
    pub communicator: u32,
    /// NCCL.
    pub library: Library,
    /// This rank's device.
    pub context: Arc<Context>,
    /// The group's failure.
    pub poison: Arc<Poison>,
    /// Tells the group of a failure. Must not block.
    pub report: Arc<dyn Fn(&Cause) + Send + Sync>,
    /// How often to look again before sleeping.
    pub spins: u32,
    /// The bytes of a portion of host memory, [`PORTION`] but in tests.
    pub portion: usize,
    /// Where operations are written down, if they are.
    pub tracer: Option<Arc<Tracer>>,
    /// What is told to a store of the operations, which compares it; where there is one.
    pub ledger: Option<Arc<Ledger>>,
}

impl fmt::Debug for NcclSetup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NcclSetup")
            .field("rank", &self.rank)
            .field("numbers", &self.numbers)
            .finish_non_exhaustive()
    }
}

impl Drop for NcclSetup {
    fn drop(&mut self) {
        if let Some(ledger) = &self.ledger {
            ledger.leave();
        }
    }
}

impl NcclSetup {
    fn world(&self) -> usize {
        self.numbers.len()
    }

    /// This rank's number in the world.
    fn me(&self) -> usize {
        self.numbers[self.rank]
    }

    fn cause(&self, kind: CauseKind, culprit: usize, sequence: u64, detail: String) -> Cause {
        Cause { generation: self.generation, sequence, kind, culprit, reporter: self.me(), detail }
    }

    /// Tells the group that NCCL has refused something of this rank's.
    #[cold]
    fn tell_refusal(&self, refusal: &Refusal, sequence: u64, doing: &str) -> Cause {
        let kind = if refusal.is_of_the_network() { CauseKind::Unreachable } else { CauseKind::Internal };
        let me = self.me();
        let cause = self.cause(kind, me, sequence, format!("rank {me}, {doing}: {}", refusal.text));
        (self.report)(&cause);
        cause
    }

    /// Tells the group that time is up. NCCL does not tell who is waited for: so each other rank is named, and the store takes one
    /// that does not complain itself.
    #[cold]
    fn tell_deadline(&self, sequence: u64, detail: &str) -> Cause {
        // As many as a link takes at once, those that follow this rank: so that somebody names each.
        let following = (1..self.world()).map(|step| self.numbers[(self.rank + step) % self.world()]);
        let causes: Vec<Cause> = following
            .take(NAMED)
            .map(|culprit| self.cause(CauseKind::Deadline, culprit, sequence, detail.to_owned()))
            .collect();
        causes.iter().for_each(|cause| (self.report)(cause));
        let alone = || self.cause(CauseKind::Deadline, self.me(), sequence, detail.to_owned());
        causes.into_iter().next().unwrap_or_else(alone)
    }

    /// The error of a group that could not be made: the group's verdict where there is one soon, else this rank's own story.
    #[cold]
    fn not_made(&self, trouble: Trouble, what: &str, limit: Duration) -> Error {
        let me = self.me();
        let own = match trouble {
            Trouble::Spoilt => None,
            Trouble::Refused(refusal) => {
                // Only this rank knows more than the others are told.
                let cause = self.tell_refusal(&refusal, Cause::NO_SEQUENCE, what);
                let error = Error::new(ErrorKind::Bootstrap, cause.detail).blame(me);
                return error.remedy("set NCCL_DEBUG=WARN, and see what NCCL says");
            }
            Trouble::Late => {
                let detail = format!("rank {me} waited {limit:?} for NCCL, {what}, and the deadline passed");
                Some(self.tell_deadline(Cause::NO_SEQUENCE, &detail))
            }
        };
        let until = Instant::now() + SETTLING;
        while self.poison.cause().is_none() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        let cause = self.poison.cause().cloned().or(own);
        cause.map_or_else(
            || Error::new(ErrorKind::Bootstrap, format!("{what} was given up")),
            |cause| cause.error(me),
        )
    }
}

/// Makes a sleeping rank look again.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Sleeps until it rings, or so long; tells whether it has rung.
    fn sleep(&self, longest: Duration) -> bool {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(rung, longest, |rung| !*rung);
        std::mem::take(&mut *waited.unwrap_or_else(PoisonError::into_inner).0)
    }
}

/// Where an operation is.
enum State {
    /// NCCL has not got it yet.
    Waiting,
    /// NCCL has it, and queues it in its own time, on this stream.
    Launching(Stream),
    /// It is queued, with this mark behind it.
    Queued(Arc<Event>),
    /// It goes in portions.
    Staged(Course),
}

struct Queued {
    ticket: Ticket,
    operation: Operation,
    submitted: Time,
    deadline: Time,
    state: State,
}

/// A cause that has been reported, and until when the verdict is waited for.
struct Settling {
    cause: Cause,
    until: Time,
}

/// One rank's part of a group that NCCL carries out the collectives of.
pub struct NcclBackend {
    setup: NcclSetup,
    comm: Arc<Comm>,
    /// What barriers reduce.
    token: Option<DeviceMemory>,
    stream: OwnStream,
    staging: Option<Staging>,
    /// Marks that nothing needs now.
    events: Vec<Arc<Event>>,
    queue: VecDeque<Queued>,
    /// How many of the queue, from its front, NCCL has got.
    issued: usize,
    next_ticket: u64,
    failure: Option<Cause>,
    settling: Option<Settling>,
    meter: Arc<Meter>,
    origin: Instant,
    bell: Arc<Bell>,
    looks: u32,
    nap: Duration,
    /// Of all collectives so far, for the ledger.
    history: u32,
    /// Whether the store has been told that the oldest operation is waited for.
    told: bool,
}

impl fmt::Debug for NcclBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NcclBackend").field("setup", &self.setup).finish_non_exhaustive()
    }
}

impl NcclBackend {
    /// Joins the group of this name, which one of its ranks has [made](Library::unique_id) and given to all. Blocks until all
    /// of them have joined, at most for so long.
    ///
    /// # Errors
    /// [`Bootstrap`](ErrorKind::Bootstrap) with what NCCL says; [`Deadline`](ErrorKind::Deadline), and whatever else the group has
    /// failed with meanwhile. All ranks are told of a failure by the setup's `report`.
    /// [`Unavailable`](ErrorKind::Unavailable) where NCCL is older than 2.14.
    pub fn new(setup: NcclSetup, id: UniqueId, timeout: Duration) -> Result<NcclBackend> {
        comm::check_age(&setup.library)?;
        let (until, place) = (after(timeout), (setup.rank, setup.world()));
        let is_spoilt = || setup.poison.is_set();
        let made = Comm::new(&setup.library, &setup.context, place, id, until, &is_spoilt);
        match made {
            Ok(comm) => NcclBackend::over(setup, comm),
            Err(trouble) => Err(setup.not_made(trouble, "joining the group", timeout)),
        }
    }

    #[cold]
    fn over(setup: NcclSetup, comm: Comm) -> Result<NcclBackend> {
        let token = DeviceMemory::new(&setup.context, 1);
        let both = token.and_then(|token| Ok((token, OwnStream::following(&setup.context)?)));
        let (token, stream) = match both {
            Ok(both) => both,
            Err(error) => {
                let detail = format!("rank {} cannot use its device: {}", setup.me(), error.message());
                (setup.report)(&setup.cause(CauseKind::Internal, setup.me(), 0, detail));
                return Err(error);
            }
        };
        let bell = Arc::new(Bell::default());
        let sleeper: Weak<Bell> = Arc::downgrade(&bell);
        setup.poison.on_set(move || sleeper.upgrade().map(|bell| bell.ring()).is_some());
        if let Some(tracer) = &setup.tracer {
            tracer.communicator(setup.communicator, setup.rank, setup.world());
        }
        Ok(NcclBackend {
            token: Some(token),
            stream,
            meter: Arc::new(Meter::traced(setup.world(), setup.tracer.clone())),
            comm: Arc::new(comm),
            staging: None,
            events: Vec::new(),
            queue: VecDeque::new(),
            issued: 0,
            next_ticket: 0,
            failure: None,
            settling: None,
            origin: Instant::now(),
            bell,
            looks: 0,
            nap: NAP,
            history: 0,
            told: false,
            setup,
        })
    }

    /// What makes groups of this one.
    pub(crate) fn divider(&self) -> Divider {
        Divider {
            comm: Arc::clone(&self.comm),
            library: self.setup.library.clone(),
            context: Arc::clone(&self.setup.context),
            place: (self.setup.rank, self.setup.world()),
        }
    }

    /// Whether an operation can be carried out as it is.
    fn check(&self, operation: &Operation) -> Result<()> {
        let request = operation.request();
        let moves_nothing = request.collective == Collective::Barrier || request.bytes(self.setup.rank) == 0;
        if request.world != self.setup.world() {
            let text = format!("a request for {} ranks in a group of {}", request.world, self.setup.world());
            return Err(Error::invalid(text));
        }
        operation.check_parts()?;
        if operation.custom().is_some() {
            return Err(cannot("nccl", "run a reduction of the user's")
                .remedy("use a backend of the host, such as shm or tcp"));
        }
        if request.collective.combines() {
            if let Some(op) = request.op {
                self.setup.library.check_reduction(op, request.dtype)?;
            }
            if request.order == Order::Fixed && request.world > 1 {
                return Err(cannot("nccl", "combine in a fixed order, since NCCL has one of its own")
                    .remedy("use the default order, or a backend of the host"));
            }
        }
        match operation.device() {
            _ if moves_nothing => Ok(()),
            Device::Host if operation.may_be_staged() => Ok(()),
            Device::Host => Err(cannot("nccl", "reach memory of the host by itself")
                .remedy("pass tensors on the device, or allow staging through pinned memory")),
            Device::Cuda(ordinal) => self.check_device(operation, ordinal),
        }
    }

    #[cold]
    fn check_device(&self, operation: &Operation, ordinal: u32) -> Result<()> {
        let own = self.setup.context.device().ordinal;
        if ordinal != own {
            let text = format!("memory of CUDA device {ordinal}, in a group whose device here is {own}");
            return Err(Error::invalid(text).remedy("copy it, or set RINGFOLD_CUDA_DEVICE"));
        }
        let request = operation.request();
        if request.collective == Collective::AllToAll && request.in_place && !operation.may_be_staged() {
            return Err(cannot("nccl", "do an all_to_all in place on a device")
                .remedy("pass an input and an output that lie apart, or allow staging"));
        }
        let size = request.element_size();
        let odd = |pointer: *const u8, len: usize| len > 0 && !pointer.addr().is_multiple_of(size);
        let rank = self.setup.rank;
        let is_odd = match operation.pieces() {
            Some(pieces) => pieces.iter().any(|piece| odd(piece.input, 1) || odd(piece.output, 1)),
            None => {
                let buffers = operation.buffers();
                odd(buffers.input, request.input_len(rank)) || odd(buffers.output, request.output_len(rank))
            }
        };
        if is_odd {
            return Err(Error::invalid(format!("{} on a device that is not aligned", request.dtype))
                .remedy("begin tensors at a multiple of their element's size"));
        }
        Ok(())
    }

    /// Enters an operation where the store looks what ranks differ in.
    #[inline]
    fn note(&mut self, operation: &Operation) {
        let Some(ledger) = &self.setup.ledger else { return };
        let request = operation.request();
        if let Counts::Messages { send, receive, .. } = request.counts {
            for (peer, sends) in [(send, true), (receive, false)] {
                if let Some((peer, _)) = peer {
                    ledger.message(self.setup.numbers[peer], sends);
                }
            }
            return;
        }
        let base = Fingerprint::of(request);
        let fingerprint = Fingerprint {
            generation: self.setup.generation,
            communicator: self.setup.communicator,
            sequence: operation.sequence(),
            strict: operation.strict(),
            counts_hash: base.counts_hash ^ operation.pieces().map_or(0, Pieces::layout),
            history: self.history,
            ..base
        };
        self.history = fingerprint.history_after();
        ledger.note(&fingerprint);
    }

    /// Lets the store know that the oldest operation is waited for.
    #[cold]
    fn tell_of_waiting(&mut self) {
        let is_message = |queued: &Queued| queued.operation.request().collective == Collective::SendRecv;
        if let Some(ledger) = &self.setup.ledger
            && !self.queue.iter().any(is_message)
        {
            self.told = true;
            ledger.wait(Awaited::Collective);
        }
    }

    /// Gives NCCL what it can have now.
    fn issue(&mut self) -> std::result::Result<(), (usize, Refusal)> {
        while self.issued < self.queue.len() {
            let at = self.issued;
            let latest = at.checked_sub(1).map(|latest| &self.queue[latest].state);
            // It does one thing at a time, and portions are given one by one.
            if matches!(latest, Some(State::Launching(_) | State::Staged(_))) {
                break;
            }
            self.issue_one(at).map_err(|refusal| (at, refusal))?;
            self.issued += 1;
        }
        Ok(())
    }

    #[inline]
    fn issue_one(&mut self, at: usize) -> std::result::Result<(), Refusal> {
        let operation = &self.queue[at].operation;
        let request = operation.request();
        let is_barrier = request.collective == Collective::Barrier;
        let rank = self.setup.rank;
        if !is_barrier && operation.may_be_staged() && request.bytes(rank) > 0 {
            if self.staging.is_none() {
                let (context, world) = (&self.setup.context, self.setup.world());
                let made = Staging::new(context, self.setup.portion, world);
                let staging = made.map_err(|error| Refusal { code: 1, text: error.message().to_owned() })?;
                self.meter.scratch_bytes.set(staging.held() as u64);
                self.staging = Some(staging);
            }
            let Queued { operation, state, .. } = &mut self.queue[at];
            let Some(staging) = &self.staging else { return Ok(()) };
            let mut course = Course::new(operation.request(), rank, staging.bytes());
            if operation.device() != Device::Host {
                let _entered = self.setup.context.enter()?;
                let stream = operation.stream().unwrap_or_default();
                staging.follow(&mut course, &self.setup.context, stream)?;
            }
            *state = State::Staged(course);
            return Ok(());
        }
        let stream = operation.stream().unwrap_or(self.stream.stream());
        let context = Arc::clone(&self.setup.context);
        let _entered = context.enter()?;
        let turn = self.comm.turn()?;
        let (library, context) = (&self.setup.library, &*context);
        let queue = |place: &dyn Fn(issue::Way, usize) -> std::ops::Range<usize>, input: u64, output: u64| {
            let issue = Issue { library, context, request, rank, place, input, output, stream };
            // SAFETY: whoever has made the operation promised that its memory, which is on this device as was checked, is its own
            // until it is complete, and so is the stream; the token is this backend's, and its content means nothing.
            unsafe { issue.queue(&turn) }
        };
        let done = match operation.pieces() {
            Some(pieces) => turn.group(|| {
                for piece in pieces.iter() {
                    let count = piece.bytes / request.dtype.size();
                    queue(&|_, _| 0..count, piece.input.addr() as u64, piece.output.addr() as u64)?;
                }
                Ok(true)
            })?,
            None if is_barrier => {
                let token = self.token.as_ref().map_or(0, DeviceMemory::address);
                queue(&|_, _| 0..1, token, token)?
            }
            None => {
                let buffers = operation.buffers();
                let place = |way, peer| part(request, rank, way, peer);
                queue(&place, buffers.input.addr() as u64, buffers.output.addr() as u64)?
            }
        };
        drop(turn);
        self.queue[at].state = State::Launching(stream);
        if done { self.mark(at) } else { Ok(()) }
    }

    /// Sets a mark behind an operation that NCCL has queued.
    fn mark(&mut self, at: usize) -> std::result::Result<(), Refusal> {
        let State::Launching(stream) = self.queue[at].state else { return Ok(()) };
        let event = match self.events.pop() {
            Some(event) => event,
            None => {
                let made = Event::new(&self.setup.context);
                Arc::new(made.map_err(|error| Refusal { code: 1, text: error.message().to_owned() })?)
            }
        };
        // SAFETY: the stream lives until the operation is complete, says whoever made it.
        unsafe { event.record(stream) }?;
        if let Some(landing) = self.queue[at].operation.landing() {
            landing.queued(&self.setup.context, &event);
        }
        self.queue[at].state = State::Queued(event);
        Ok(())
    }

    /// Moves the oldest operation on. Whether it is over.
    fn step(&mut self) -> std::result::Result<Step, Refusal> {
        // The latest that NCCL has got may not be queued yet.
        if let Some(latest) = self.issued.checked_sub(1)
            && let State::Launching(_) = self.queue[latest].state
        {
            let name = self.queue[latest].operation.request().collective.as_str();
            if self.comm.turn()?.is_settled(name)? {
                let entered = Arc::clone(&self.setup.context);
                let _entered = entered.enter()?;
                self.mark(latest)?;
                return Ok(Step::Advanced);
            }
        }
        let Some(Queued { operation, state, .. }) = self.queue.front_mut() else { return Ok(Step::Idle) };
        match state {
            State::Waiting | State::Launching(_) => Ok(Step::Idle),
            State::Queued(event) => Ok(if event.is_over()? { Step::Over } else { Step::Idle }),
            State::Staged(course) => {
                let Some(staging) = &self.staging else { return Ok(Step::Idle) };
                let setup = &self.setup;
                let _entered = setup.context.enter()?;
                staging.step(course, operation, setup.rank, (&setup.library, &setup.context, &self.comm))
            }
        }
    }

    /// Between two steps that bring nothing: is time up, has NCCL failed?
    fn look_around(&mut self) -> Progress {
        self.looks += 1;
        if !self.looks.is_multiple_of(LOOKS) {
            return Progress::Idle;
        }
        let Some(oldest) = self.queue.front() else { return Progress::Idle };
        if !self.told && self.now().since(oldest.submitted) >= TELL_AFTER {
            self.tell_of_waiting();
        }
        let Some(Queued { operation, deadline, .. }) = self.queue.front() else { return Progress::Idle };
        let (request, sequence) = (operation.request(), operation.sequence());
        if self.now() >= *deadline {
            let (me, limit) = (self.setup.me(), operation.timeout());
            let detail = format!(
                "rank {me} waited {limit:?} for NCCL's {} to be done, and the deadline passed",
                request.collective
            );
            let cause = self.setup.tell_deadline(sequence, &detail);
            return self.settle(cause);
        }
        let name = request.collective.as_str();
        match self.comm.turn().and_then(|turn| turn.is_settled(name)) {
            Ok(_) => Progress::Idle,
            Err(refusal) => self.notice(0, &refusal),
        }
    }

    /// NCCL has refused an operation, at once or later.
    #[cold]
    fn notice(&mut self, at: usize, refusal: &Refusal) -> Progress {
        let operation = &self.queue[at].operation;
        let sequence = operation.sequence();
        let doing = format!("{} #{sequence}", operation.request().collective);
        let cause = self.setup.tell_refusal(refusal, sequence, &doing);
        self.settle(cause)
    }

    #[cold]
    fn settle(&mut self, cause: Cause) -> Progress {
        let Cause { reporter: rank, culprit: peer, kind, sequence, detail, .. } = &cause;
        tracing::debug!(rank, peer, ?kind, sequence, %detail, "noticed a failure");
        self.settling = Some(Settling { cause, until: self.now().after(SETTLING) });
        Progress::Advanced
    }

    /// Ends the oldest operation with the group's cause, which every later one will meet too.
    #[cold]
    fn fail(&mut self, cause: Cause) -> Progress {
        if self.failure.is_none() {
            let Cause { culprit, kind, reporter, detail, .. } = &cause;
            tracing::warn!(rank = self.setup.me(), culprit, ?kind, reporter, %detail, "the group has failed");
            if let Some(tracer) = &self.setup.tracer {
                tracer.failed(&cause);
            }
            self.failure = Some(cause.clone());
            self.stop();
        }
        let Some(Queued { operation, .. }) = self.queue.front() else { return Progress::Idle };
        let name = operation.request().collective.as_str();
        let error = cause.to_error(self.setup.me(), name, operation.sequence());
        self.finish(Err(error))
    }

    /// Aborts NCCL's communicator, and waits until nothing that it had queued touches memory any more.
    #[cold]
    fn stop(&mut self) {
        let ended = self.comm.abort(ENDING);
        let until = Instant::now() + ENDING;
        while ended && !self.is_quiet() && Instant::now() < until {
            std::thread::sleep(NAP);
        }
        if !ended || !self.is_quiet() {
            let rank = self.setup.me();
            tracing::warn!(rank, "NCCL's abort has not ended what was queued: the device may still write");
            // The device may still use it, and to free it would be to wait for the device.
            std::mem::forget((self.staging.take(), self.token.take()));
        }
    }

    /// Whether nothing that was given to NCCL is under way on the device.
    fn is_quiet(&self) -> bool {
        let over = |queued: &Queued| match &queued.state {
            State::Queued(event) => event.is_over().unwrap_or(true),
            State::Launching(stream) => {
                self.setup.context.is_through(*stream) && self.stream.is_done().unwrap_or(true)
            }
            State::Waiting | State::Staged(_) => true,
        };
        self.queue.iter().all(over) && self.staging.as_ref().is_none_or(Staging::is_quiet)
    }

    /// Ends the oldest operation.
    fn finish(&mut self, result: Result<()>) -> Progress {
        let Some(Queued { ticket, operation, submitted, state, .. }) = self.queue.pop_front() else {
            return Progress::Idle;
        };
        self.issued = self.issued.saturating_sub(1);
        self.nap = NAP;
        self.told = false;
        if let Some(landing) = operation.landing() {
            landing.over();
        }
        match state {
            State::Queued(event) if result.is_ok() => self.events.push(event),
            // The device may not have come to it.
            State::Queued(event) => drop(event),
            _ => {}
        }
        let now = self.now();
        let request = operation.request();
        let bytes = request.bytes(self.setup.rank) as u64;
        self.meter.ended(request.collective, bytes, now.since(submitted), result.is_ok());
        if let Err(error) = &result {
            operation.span().record("error", tracing::field::display(error));
        }
        self.write_down(&operation, submitted, now, &result);
        Progress::Done(ticket, result)
    }

    #[cold]
    fn write_down(&self, operation: &Operation, submitted: Time, ended: Time, result: &Result<()>) {
        let Some(tracer) = &self.setup.tracer else { return };
        let origin = tracer.now().saturating_sub(self.now().as_nanos());
        let at = |time: Time| origin + time.as_nanos();
        let request = operation.request();
        tracer.record(Record {
            communicator: self.setup.communicator,
            collective: request.collective.as_str(),
            sequence: operation.sequence(),
            bytes: request.bytes(self.setup.rank) as u64,
            dtype: request.dtype.as_str(),
            op: operation.op_name(),
            algorithm: "nccl",
            order: request.order.as_str(),
            submitted: at(submitted),
            begun: at(submitted),
            ended: at(ended),
            first_sent: None,
            first_received: None,
            sent: 0,
            received: 0,
            waits: 0,
            waited: 0,
            longest_wait: None,
            error: result.as_ref().err().map(Error::kind),
        });
    }
}

impl Backend for NcclBackend {
    fn name(&self) -> &'static str {
        "nccl"
    }

    fn submit(&mut self, operation: Operation) -> Result<Ticket> {
        self.check(&operation).map_err(|error| error.at_rank(self.setup.me()))?;
        self.note(&operation);
        // What is noted takes back what was told of waiting.
        self.told = false;
        let submitted = self.now();
        let deadline = submitted.after(operation.timeout());
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.queue.push_back(Queued { ticket, operation, submitted, deadline, state: State::Waiting });
        Ok(ticket)
    }

    /// Moves what can be moved now. Does not block, except where the group fails: then up to four seconds, until NCCL has ended what
    /// it had queued.
    fn progress(&mut self) -> Progress {
        if self.queue.is_empty() {
            return Progress::Idle;
        }
        if let Some(cause) = self.failure() {
            return self.fail(cause);
        }
        if let Some(settling) = &self.settling {
            if self.now() < settling.until {
                return Progress::Idle;
            }
            let cause = settling.cause.clone();
            return self.fail(cause);
        }
        if let Err((at, refusal)) = self.issue() {
            return self.notice(at, &refusal);
        }
        match self.step() {
            Ok(Step::Over) => self.finish(Ok(())),
            Ok(Step::Advanced) => {
                self.nap = NAP;
                Progress::Advanced
            }
            Ok(Step::Idle) => self.look_around(),
            Err(refusal) => self.notice(0, &refusal),
        }
    }

    fn wait(&mut self, until: Time) {
        if self.queue.is_empty() {
            return;
        }
        let left = until.since(self.now());
        let from = self.now();
        self.bell.sleep(self.nap.min(left));
        self.meter.waits.add(1);
        self.meter.waiting_nanos.add(self.now().since(from).as_nanos() as u64);
        self.nap = (self.nap * 2).min(LONGEST_NAP);
        // After a wait the next look is at everything.
        self.looks = LOOKS - 1;
    }

    fn waker(&self) -> Waker {
        let bell = Arc::clone(&self.bell);
        Arc::new(move || bell.ring())
    }

    fn meter(&self) -> Arc<Meter> {
        Arc::clone(&self.meter)
    }

    fn spins(&self) -> u32 {
        self.setup.spins
    }

    fn unyielding(&self) -> u32 {
        if self.setup.spins == 0 { 0 } else { UNYIELDING }
    }

    fn now(&self) -> Time {
        Time::default().after(self.origin.elapsed())
    }

    fn owns_schedules(&self) -> bool {
        true
    }

    fn works_on_devices(&self) -> bool {
        true
    }

    fn failure(&self) -> Option<Cause> {
        self.failure.clone().or_else(|| self.setup.poison.cause().cloned())
    }
}

impl Drop for NcclBackend {
    fn drop(&mut self) {
        if self.failure.is_some() {
            return;
        }
        if !self.queue.is_empty() || self.setup.poison.is_set() {
            self.stop();
        } else {
            self.comm.leave(ENDING);
        }
        for queued in &self.queue {
            if let Some(landing) = queued.operation.landing() {
                landing.over();
            }
        }
    }
}

/// What makes groups of a group: NCCL's own division, where it has one; else names for new groups, which go over the old one.
#[derive(Debug, Clone)]
pub(crate) struct Divider {
    comm: Arc<Comm>,
    library: Library,
    context: Arc<Context>,
    /// This rank and the number of ranks.
    place: (usize, usize),
}

impl Divider {
    /// Takes part in the division of a group. Each of its ranks calls this, or stands aside, at once: `first` is the number in the
    /// old group of the first rank of the new one. Blocks until all have.
    #[cold]
    pub(crate) fn found(&self, setup: NcclSetup, first: usize, timeout: Duration) -> Result<NcclBackend> {
        let is_spoilt = || setup.poison.is_set();
        let (until, place) = (after(timeout), (setup.rank, setup.world()));
        let made = if self.library.splits() {
            let part = Some((first, setup.rank));
            let none = "NCCL divided the group, and has no part of it for this rank";
            self.comm
                .split(part, until, &is_spoilt)
                .and_then(|made| made.ok_or_else(|| Refusal { code: 3, text: none.into() }.into()))
        } else {
            let id = (setup.rank == 0).then(|| self.library.unique_id().map_err(|error| error.to_string()));
            let id = id.transpose().map_err(|text| Refusal { code: 3, text }.into());
            let ids = id.and_then(|id| self.tell_ids(id, until, &is_spoilt));
            ids.and_then(|ids| Comm::new(&self.library, &self.context, place, ids[first], until, &is_spoilt))
        };
        match made {
            Ok(comm) => NcclBackend::over(setup, comm),
            Err(trouble) => Err(setup.not_made(trouble, "dividing the group", timeout)),
        }
    }

    /// The same of a rank that joins no new group.
    #[cold]
    pub(crate) fn stand_aside(&self, poison: &Poison, timeout: Duration) -> Result<()> {
        let (until, is_spoilt) = (after(timeout), || poison.is_set());
        let done = if self.library.splits() {
            self.comm.split(None, until, &is_spoilt).map(drop)
        } else {
            self.tell_ids(None, until, &is_spoilt).map(drop)
        };
        match done {
            Ok(()) => Ok(()),
            Err(Trouble::Refused(refusal)) => Err(refusal.into()),
            Err(Trouble::Late) => {
                let text = format!("NCCL did not divide the group within {timeout:?}");
                Err(Error::new(ErrorKind::Deadline, text))
            }
            Err(Trouble::Spoilt) => Err(poison.cause().map_or_else(
                || Error::new(ErrorKind::Closed, "the group was given up"),
                |cause| cause.error(cause.reporter),
            )),
        }
    }

    /// Gives all ranks of the old group the names that its ranks have made, by rank.
    #[cold]
    fn tell_ids(
        &self,
        own: Option<UniqueId>,
        until: Instant,
        is_spoilt: &dyn Fn() -> bool,
    ) -> std::result::Result<Vec<UniqueId>, Trouble> {
        let (rank, world) = self.place;
        let refused = |error: Error| Refusal { code: 1, text: error.message().to_owned() };
        let mut memory = DeviceMemory::new(&self.context, world * UniqueId::BYTES).map_err(refused)?;
        let stream = OwnStream::new(&self.context).map_err(refused)?;
        let mut all = vec![0; world * UniqueId::BYTES];
        if let Some(own) = own {
            all[rank * UniqueId::BYTES..][..UniqueId::BYTES].copy_from_slice(&own.to_bytes());
        }
        memory.write(&all).map_err(refused)?;
        let done =
            self.comm.gather_in_place(memory.address(), (rank, UniqueId::BYTES), &stream, (until, is_spoilt));
        if let Err(trouble) = done {
            // The device may still use it.
            std::mem::forget((memory, stream));
            return Err(trouble);
        }
        memory.read(&mut all).map_err(refused)?;
        let id = |bytes: &[u8]| UniqueId::from_bytes(std::array::from_fn(|i| bytes[i]));
        Ok(all.chunks_exact(UniqueId::BYTES).map(id).collect())
    }
}

/// A time from now, or the far future where it cannot be told.
fn after(timeout: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(timeout).unwrap_or_else(|| now + Duration::from_secs(1 << 32))
}
