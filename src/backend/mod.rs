//! Whole collectives, carried out.
//!
//! A [`Backend`] takes operations one after another and drives them. [`Planned`] runs verified plans over any
//! [`Transport`](crate::transport::Transport); libraries that own their schedules fit behind the same three calls.

mod planned;

pub use planned::{Planned, STAGING};

use crate::collective::Request;
use crate::error::{Cause, Error, Result};
use crate::observe::Time;
use crate::plan::Schedule;
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

/// One operation, ready to be submitted.
#[derive(Debug, Clone)]
pub struct Operation {
    /// What is asked.
    pub request: Request,
    /// How it is to be carried out, by a backend that owns no schedule of its own.
    pub schedule: Schedule,
    /// Its place in the communicator's order.
    pub sequence: u64,
    /// Whether the group agrees on the request in a round of its own before any payload moves.
    pub strict: bool,
    /// How long it may take from its submission.
    pub timeout: Duration,
    buffers: Buffers,
}

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
    pub unsafe fn new(
        request: Request,
        schedule: Schedule,
        sequence: u64,
        strict: bool,
        timeout: Duration,
        buffers: Buffers,
    ) -> Self {
        Operation { request, schedule, sequence, strict, timeout, buffers }
    }

    /// The memory.
    pub(crate) fn buffers(&self) -> Buffers {
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

    /// How often to look again before waiting.
    fn spins(&self) -> u32;

    /// The clock of its deadlines.
    fn now(&self) -> Time;

    /// The group's first failure.
    fn failure(&self) -> Option<Cause>;

    /// Submits an operation and drives it, and all before it, to the end. Blocks at most for the operation's timeout
    /// and the time in which a group settles on the cause of a failure.
    ///
    /// # Errors
    /// As [`submit`](Backend::submit), or what has become of the operation.
    fn run(&mut self, operation: Operation) -> Result<()> {
        let mine = self.submit(operation)?;
        let mut idle = 0;
        loop {
            match self.progress() {
                Progress::Done(ticket, result) if ticket == mine => return result,
                Progress::Done(..) | Progress::Advanced => idle = 0,
                Progress::Idle if idle < self.spins() => {
                    idle += 1;
                    // Whoever is waited for may want this very CPU.
                    std::thread::yield_now();
                }
                Progress::Idle => self.wait(Time::NEVER),
            }
        }
    }
}

/// The error of an operation that a backend cannot carry out as asked.
pub(crate) fn cannot(backend: &str, what: &str) -> Error {
    Error::unsupported(format!("the {backend} backend cannot {what}"))
}
