//! Whole collectives, carried out.
//!
//! A [`Backend`] takes operations one after another and drives them. [`Planned`] runs verified plans over any
//! [`Transport`](crate::transport::Transport); libraries that own their schedules fit behind the same three calls. [`choose`] says which one a group takes.
#![doc = include_str!("guarantees.md")]

pub mod choose;
mod combiner;
mod direct;
pub mod hierarchical;
mod meter;
#[cfg(feature = "mpi")]
pub mod mpi;
pub mod nccl;
mod pieces;
mod planned;

pub use meter::{Count, Counters, Meter, OperationCounters, PeerCounters};
pub use pieces::{Piece, Pieces};
pub use planned::{Planned, STAGING};

use crate::collective::{Collective, Difference, Fingerprint, Request};
use crate::error::{Cause, Error, Result};
use crate::observe::{Time, Waker};
use crate::plan::{Levels, Reach, Schedule};
use crate::reduce::CustomOp;
use crate::tensor::{Device, Stream};
use std::sync::Arc;
use std::time::Duration;

/// What an operation works on: the addresses of its first elements.
///
/// Raw, because input and output are the same memory in place, and because an operation may outlive the call that
/// submitted it.
#[derive(Debug, Clone, Copy)]
pub struct Buffers {
    /// Read. May be dangling where the request's input is empty.
    pub input: *const u8,
    /// Written, and read where the operation is in place. May be dangling where the request's output is empty.
    pub output: *mut u8,
}

/// One operation, ready to be submitted. What it asks for cannot be changed any more, since its maker has vouched for
/// memory that fits just that; and it can be submitted once only.
#[derive(Debug)]
pub struct Operation {
    request: Request,
    schedule: Schedule,
    sequence: u64,
    strict: bool,
    /// Whether its memory belongs to it.
    owned: bool,
    /// Others of its backend with the same number have the same request and schedule; 0 where that is not known.
    number: u64,
    /// Whether its memory is the library's, and used for something else after its end, however it ends.
    reused: bool,
    /// Whether whoever made it waits for its end, and makes no other meanwhile.
    blocking: bool,
    timeout: Duration,
    buffers: Buffers,
    /// Where it is a part of an operation of another backend's: that one.
    part_of: Option<Arc<Whole>>,
    extras: Option<Box<Extras>>,
}

/// What the parts of an operation have of it.
#[derive(Debug, Clone)]
struct Whole {
    /// What ranks compare, in each of the parts; none of a message between two.
    fingerprint: Option<Fingerprint>,
    /// How long it may take.
    timeout: Duration,
}

/// What few operations have. Kept apart, because operations are moved from hand to hand, and the others would carry the
/// room for it.
#[derive(Debug, Default)]
struct Extras {
    pieces: Option<Arc<Pieces>>,
    custom: Option<CustomOp>,
    span: Option<tracing::Span>,
    device: Device,
    stream: Option<Stream>,
    staged: bool,
    landing: Option<Arc<nccl::Landing>>,
}

impl Drop for Extras {
    fn drop(&mut self) {
        // However it has ended, also where it was refused: nobody has to wait there any more.
        if let Some(landing) = &self.landing {
            landing.over();
        }
    }
}

/// The span of an operation that nobody listens to.
static SILENT: tracing::Span = tracing::Span::none();

// SAFETY: whoever made the operation promised that its memory may be used until it is complete, from whichever
// thread drives the backend; nothing else in it is tied to a thread.
unsafe impl Send for Operation {}

impl Operation {
    /// An operation over this memory.
    ///
    /// # Safety
    /// Until the operation is complete (its result is returned, or the backend is dropped):
    /// `buffers.input` must be readable for `request.input_len(rank)` elements and written by nobody but the
    /// operation, `buffers.output` writable for `request.output_len(rank)` elements and touched by nobody else. The
    /// two must not overlap, except that where `request.in_place` says so they must be one memory as
    /// [`Request::in_place_shift`] lays it out. Neither need be aligned.
    #[inline]
    pub unsafe fn new(
        request: Request,
        schedule: Schedule,
        sequence: u64,
        strict: bool,
        timeout: Duration,
        buffers: Buffers,
    ) -> Self {
        // SAFETY: the caller's promise; nothing is said of the number.
        unsafe { Operation::numbered(0, request, schedule, sequence, strict, timeout, buffers) }
    }

    /// The same with a number that says, where it is not 0, that request and schedule are those of whatever operation of the same
    /// backend has it, too.
    ///
    /// # Safety
    /// As [`new`](Operation::new), and the number is true.
    #[inline(always)]
    pub(crate) unsafe fn numbered(
        number: u64,
        request: Request,
        schedule: Schedule,
        sequence: u64,
        strict: bool,
        timeout: Duration,
        buffers: Buffers,
    ) -> Self {
        Operation {
            request,
            schedule,
            sequence,
            strict,
            owned: false,
            number,
            reused: false,
            blocking: false,
            timeout,
            buffers,
            part_of: None,
            extras: None,
        }
    }

    /// The same as a part of another operation.
    fn within(mut self, whole: Arc<Whole>) -> Self {
        self.part_of = Some(whole);
        self
    }

    /// The same over the tensors of a batch instead of its buffers: of an all_reduce, reduce or broadcast, whose input
    /// and output are cut alike.
    ///
    /// # Safety
    /// As [`new`](Operation::new) of its buffers, of all pieces together: each piece's input and output are one memory
    /// where the request is in place, and apart where it is not; different pieces lie apart.
    pub unsafe fn in_pieces(mut self, pieces: Arc<Pieces>) -> Self {
        self.extras().pieces = Some(pieces);
        self
    }

    /// The same with the user's reduction that its request has the signature of.
    pub fn reducing_by(mut self, custom: CustomOp) -> Self {
        self.reduce_by(custom);
        self
    }

    /// Gives it the user's reduction that its request has the signature of.
    pub(crate) fn reduce_by(&mut self, custom: CustomOp) {
        self.extras().custom = Some(custom);
    }

    /// The same with memory that belongs to it: where it ends with an error that
    /// [keeps the memory](Error::keeps_memory), that is never freed nor used again.
    ///
    /// # Safety
    /// The caller sees to that.
    pub unsafe fn owning(mut self) -> Self {
        self.owned = true;
        self
    }

    /// The same with memory of this library's own, which is used for something else after its end, however it ends: no other library may keep
    /// it, whatever is [allowed](crate::Config::with_mpi_direct) otherwise.
    pub fn reusing(mut self) -> Self {
        self.reused = true;
        self
    }

    /// The same for a caller that waits for its end and submits nothing meanwhile, on every rank: a library may carry it out by a call that
    /// comes back at its end only.
    pub fn blocking(mut self) -> Self {
        self.block();
        self
    }

    /// Says that the caller waits for its end.
    #[inline]
    pub(crate) fn block(&mut self) {
        self.blocking = true;
    }

    /// The same with its memory, both input and output, on a device.
    pub fn on_device(mut self, device: Device) -> Self {
        self.extras().device = device;
        self
    }

    /// The same after what is queued on a stream of the caller's: its input is there once the stream has come so far, and what
    /// the caller queues afterwards finds the output.
    pub fn on_stream(mut self, stream: Stream) -> Self {
        self.extras().stream = Some(stream);
        self
    }

    /// The same with leave to go through memory of the backend's own where it cannot reach the operation's memory itself.
    pub fn staged(mut self) -> Self {
        self.extras().staged = true;
        self
    }

    /// Says that its memory is this library's own.
    pub(crate) fn reuse(&mut self) {
        self.reused = true;
    }

    /// Says where its memory is, which stream it follows, and whether it may be staged.
    pub(crate) fn place_at(&mut self, device: Device, stream: Option<Stream>, staged: bool) {
        let extras = self.extras();
        (extras.device, extras.stream, extras.staged) = (device, stream, staged);
    }

    /// The same with a place where streams of the device can wait for it. Backends of the host do not tell it anything.
    pub fn landing_at(mut self, landing: Arc<nccl::Landing>) -> Self {
        self.extras().landing = Some(landing);
        self
    }

    /// What is asked.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// How it is to be carried out, by a backend that owns no schedule of its own.
    pub fn schedule(&self) -> Schedule {
        self.schedule
    }

    /// Its place in the communicator's order.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether the group agrees on the request in a round of its own before any payload moves.
    pub fn strict(&self) -> bool {
        self.strict
    }

    /// Whether its memory belongs to it, and can be left to a library for ever.
    pub fn owns_memory(&self) -> bool {
        self.owned
    }

    /// Whether its memory is this library's own, and no other library may keep it.
    pub fn reuses_memory(&self) -> bool {
        self.reused
    }

    /// Whether the caller waits for its end, and so does every other rank's.
    pub fn is_blocking(&self) -> bool {
        self.blocking
    }

    /// How long it may take from its submission.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The tensors of a batch, where it is one.
    pub fn pieces(&self) -> Option<&Pieces> {
        self.extras.as_deref()?.pieces.as_deref()
    }

    /// The user's reduction, where it reduces by one.
    pub fn custom(&self) -> Option<&CustomOp> {
        self.extras.as_deref()?.custom.as_ref()
    }

    /// Where its memory is.
    pub fn device(&self) -> Device {
        self.extras.as_deref().map_or(Device::Host, |extras| extras.device)
    }

    /// The stream of the caller's that it follows, if any.
    pub fn stream(&self) -> Option<Stream> {
        self.extras.as_deref()?.stream
    }

    /// Whether it may go through memory of the backend's own.
    pub fn may_be_staged(&self) -> bool {
        self.extras.as_deref().is_some_and(|extras| extras.staged)
    }

    /// Where streams can wait for it, if anywhere.
    pub(crate) fn landing(&self) -> Option<&Arc<nccl::Landing>> {
        self.extras.as_deref()?.landing.as_ref()
    }

    /// The word for its reduction: `none` where it has none, `custom` where that is the user's own.
    pub fn op_name(&self) -> &'static str {
        match (self.request.op, self.custom()) {
            (_, Some(_)) => "custom",
            (Some(op), None) => op.as_str(),
            (None, None) => "none",
        }
    }

    /// The word for its algorithm: `none` where it is a message between two, which needs none.
    pub fn algorithm_name(&self) -> &'static str {
        match self.request.collective {
            Collective::SendRecv => "none",
            _ => self.schedule.algorithm.name(),
        }
    }

    /// The span that tells of it, where somebody listens.
    pub fn span(&self) -> &tracing::Span {
        self.extras.as_deref().and_then(|extras| extras.span.as_ref()).unwrap_or(&SILENT)
    }

    /// The same with a span that tells of it.
    pub fn told_by(mut self, span: tracing::Span) -> Self {
        self.tell(span);
        self
    }

    /// Gives it a span that tells of it.
    pub(crate) fn tell(&mut self, span: tracing::Span) {
        self.extras().span = Some(span);
    }

    fn extras(&mut self) -> &mut Extras {
        self.extras.get_or_insert_default()
    }

    /// Fails where its parts do not fit each other, or its memory is not the host's, on which this backend works.
    fn check(&self, backend: &str) -> Result<()> {
        if self.device() != Device::Host {
            return Err(cannot(backend, &format!("work on {}", self.device())).remedy(
                "copy the tensor to the host's memory first, or form the group with the backend nccl",
            ));
        }
        self.check_parts()
    }

    /// Fails where its parts do not fit each other.
    fn check_parts(&self) -> Result<()> {
        let request = &self.request;
        if self.custom().map(CustomOp::signature) != request.custom {
            return Err(Error::invalid("an operation without the reduction that its request names"));
        }
        let Some(pieces) = self.pieces() else { return Ok(()) };
        let whole =
            matches!(request.collective, Collective::AllReduce | Collective::Reduce | Collective::Broadcast);
        if !whole || pieces.bytes() != request.whole() * request.element_size() {
            return Err(Error::invalid(format!("a batch that does not fit its {}", request.collective)));
        }
        Ok(())
    }

    /// The memory.
    pub fn buffers(&self) -> Buffers {
        self.buffers
    }
}

/// A submitted operation, in the order of submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What a call of [`Backend::progress`] achieved.
#[derive(Debug)]
pub enum Progress {
    /// Something moved; call again.
    Advanced,
    /// Nothing can move before something arrives or leaves; wait, or look again.
    Idle,
    /// The oldest operation is complete, well or not. Nothing of it is in flight any more.
    Done(Ticket, Result<()>),
}

/// Carries out whole collectives, in the order of their submission.
///
/// Driven by one thread at a time. After an operation has failed for any reason that concerns the group, the group
/// is spoilt: that and every later operation fails with the group's first cause.
pub trait Backend: Send {
    /// The word that stands for it on the command line.
    fn name(&self) -> &'static str;

    /// Queues an operation. Nothing has been sent and nothing has changed where this fails.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) or [`InvalidArgument`](crate::ErrorKind::InvalidArgument).
    fn submit(&mut self, operation: Operation) -> Result<Ticket>;

    /// Moves what can be moved now. Does not block.
    fn progress(&mut self) -> Progress;

    /// Blocks until [`progress`](Backend::progress) may achieve something, at most until `until`.
    fn wait(&mut self, until: Time);

    /// What makes a present call of [`wait`](Backend::wait), or else the next one, return at once.
    fn waker(&self) -> Waker;

    /// What it counts.
    fn meter(&self) -> Arc<Meter>;

    /// How often to look again before waiting.
    fn spins(&self) -> u32;

    /// How many of these looks come before it offers its CPU to others with each: none where ranks must share CPUs, since
    /// whoever is waited for may want this very one; else a few, since answers to small messages are mostly there by then,
    /// and an offer costs as much as two looks.
    fn unyielding(&self) -> u32 {
        0
    }

    /// The clock of its deadlines.
    fn now(&self) -> Time;

    /// The group's first failure.
    fn failure(&self) -> Option<Cause>;

    /// Submits an operation, which it takes from where it is, and drives it, and all before it, to the end: most are over before
    /// they would have been moved to another place. What became of those before it is not told,
    /// so whoever has any under way drives [`progress`](Backend::progress) instead. Blocks at most for the operation's timeout
    /// and the time in which a group settles on the cause of a failure.
    ///
    /// # Errors
    /// As [`submit`](Backend::submit), or what has become of the operation.
    ///
    /// # Panics
    /// Where there is none.
    fn run(&mut self, operation: &mut Option<Operation>) -> Result<()> {
        let mine = self.submit(operation.take().expect("an operation to run"))?;
        self.drive(mine)
    }

    /// Drives an operation that was submitted, and all before it, to the end.
    ///
    /// # Errors
    /// What has become of it.
    fn drive(&mut self, mine: Ticket) -> Result<()> {
        let mut idle = 0;
        loop {
            match self.progress() {
                Progress::Done(ticket, result) if ticket == mine => return result,
                Progress::Done(..) | Progress::Advanced => idle = 0,
                Progress::Idle if idle < self.spins() => {
                    idle += 1;
                    if idle > self.unyielding() {
                        std::thread::yield_now();
                    }
                }
                Progress::Idle => self.wait(Time::NEVER),
            }
        }
    }

    /// Whether it works on memory of devices: it takes operations whose memory is there, and judges itself whether it
    /// can reach it. Others are given memory of the host only.
    fn works_on_devices(&self) -> bool {
        false
    }

    /// Whether operations that their callers wait for are calls which come back at their end only: those are run on their callers'
    /// threads, never on one that has others to drive.
    fn holds_up(&self) -> bool {
        false
    }

    /// Whether it has schedules of its own, and does not look at an operation's.
    fn owns_schedules(&self) -> bool {
        false
    }

    /// What the ranks can reach of each other.
    fn reach(&self) -> Reach {
        Reach::Messages
    }

    /// The group in two levels, where collectives are carried out level by level.
    fn levels(&self) -> Option<&Arc<Levels>> {
        None
    }

    /// Shows the ranks that see each other's memory which collective this rank is at, where another backend carries it out.
    fn announce(&mut self, _collective: &Fingerprint) {}

    /// While nothing is under way: which rank of the group, by its number in the world, is seen to be at another collective than this one
    /// of another backend's, and how that differs.
    fn overhear(&mut self, _collective: &Fingerprint) -> Option<(usize, Difference)> {
        None
    }
}

/// The error of an operation that a backend cannot carry out as asked.
pub(crate) fn cannot(backend: &str, what: &str) -> Error {
    Error::unsupported(format!("the {backend} backend cannot {what}"))
}
