//! Stopping a group from outside.

use crate::error::{Cause, CauseKind};
use crate::observe::Poison;
use std::fmt;
use std::sync::Arc;

/// Stops a group from any thread: every rank's call in progress, and every later one, returns
/// [`Aborted`](crate::ErrorKind::Aborted).
///
/// Send, Sync and Clone. It takes no lock of the communicator, does not block, and does nothing once the communicator
/// is gone.
#[derive(Clone)]
pub struct AbortHandle {
    /// This rank's number in the world.
    rank: usize,
    generation: u32,
    pid: u32,
    poison: Arc<Poison>,
    report: Arc<dyn Fn(&Cause) + Send + Sync>,
}

impl AbortHandle {
    pub(super) fn new(
        rank: usize,
        generation: u32,
        poison: Arc<Poison>,
        report: Arc<dyn Fn(&Cause) + Send + Sync>,
    ) -> Self {
        AbortHandle { rank, generation, pid: std::process::id(), poison, report }
    }

    /// Aborts the group for this reason, which every rank's error tells.
    ///
    /// ```
    /// use ringfold::{Communicator, ErrorKind};
    /// let mut comms = Communicator::local(2);
    /// let (b, a) = (comms.pop().unwrap(), comms.pop().unwrap());
    /// let handle = a.abort_handle();
    /// std::thread::scope(|scope| {
    ///     let waiting = scope.spawn(move || b.barrier());
    ///     handle.abort("the user pressed stop");
    ///     assert_eq!(waiting.join().unwrap().unwrap_err().kind(), ErrorKind::Aborted);
    /// });
    /// ```
    pub fn abort(&self, reason: &str) {
        self.spoil(CauseKind::Abort, format!("rank {} aborted the group: {reason}", self.rank));
    }

    /// The first cause of the group's failure, as far as the control plane or an abort has told of it. Does not block.
    pub fn failure(&self) -> Option<Cause> {
        self.poison.cause().cloned()
    }

    /// Whether [`failure`](AbortHandle::failure) would tell of one. One atomic load.
    pub(crate) fn has_failed(&self) -> bool {
        self.poison.is_set()
    }

    /// Ends the group for a reason that is no rank's.
    pub(crate) fn cancel(&self, detail: String) {
        self.tell(CauseKind::Abort, Cause::STORE, detail);
    }

    /// Spoils the group by a failure of this rank's, in words that begin with who it is.
    pub(crate) fn fail(&self, kind: CauseKind, detail: String) {
        self.spoil(kind, detail);
    }

    /// Lets a function be called when the group has failed, at once where it has: see [`Poison::on_set`].
    pub(crate) fn on_failure(&self, wake: impl Fn() -> bool + Send + Sync + 'static) {
        self.poison.on_set(wake);
    }

    /// Tells the group that a call of this rank's panicked inside the library: for bindings, at whose border a panic ends, so that
    /// peers need not wait for this rank until their deadlines. As an abort otherwise; every rank's call returns
    /// [`Internal`](crate::ErrorKind::Internal).
    ///
    /// ```
    /// use ringfold::{Communicator, ErrorKind};
    /// let mut comms = Communicator::local(2);
    /// let (b, a) = (comms.pop().unwrap(), comms.pop().unwrap());
    /// a.abort_handle().broke();
    /// let error = b.barrier().unwrap_err();
    /// assert_eq!((error.kind(), error.culprit()), (ErrorKind::Internal, Some(0)));
    /// ```
    pub fn broke(&self) {
        self.spoil(CauseKind::Internal, format!("a call of rank {} panicked inside the library", self.rank));
    }

    /// Tells the group that this rank's thread is panicking.
    pub(super) fn panicked(&self) {
        self.spoil(CauseKind::UserPanic, format!("rank {} panicked and left the group", self.rank));
    }

    fn spoil(&self, kind: CauseKind, detail: String) {
        self.tell(kind, self.rank, detail);
    }

    fn tell(&self, kind: CauseKind, culprit: usize, detail: String) {
        // What was forked off the process is nobody in the group.
        if self.poison.is_set() || std::process::id() != self.pid {
            return;
        }
        let cause = Cause {
            generation: self.generation,
            sequence: Cause::NO_SEQUENCE,
            kind,
            culprit,
            reporter: self.rank,
            detail,
        };
        (self.report)(&cause);
        // This rank does not wait for the verdict: an abort returns even where nobody is left to give one.
        self.poison.set(cause);
    }
}

impl fmt::Debug for AbortHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AbortHandle").field("rank", &self.rank).finish_non_exhaustive()
    }
}
