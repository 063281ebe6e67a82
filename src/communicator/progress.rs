//! The progress thread: drives what has been started while its owners do something else.
//!
//! One for all communicators of a process's world, made when the first operation is started, and asleep while none is
//! outstanding. A single communicator's operations are waited for where its backend waits; where several have some
//! under way, the thread looks at each in turn.

use super::line::{Handed, Line, Turn};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::Origin;
use crate::observe::{self, Waker};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How long the thread sleeps at most on one communicator while others have operations under way, too.
const SHARED_SLEEP: Duration = Duration::from_micros(100);

/// The owners' end of the progress thread. The thread ends when its owners are gone and nothing is outstanding.
#[derive(Default)]
pub(super) struct ProgressThread {
    shared: Arc<Shared>,
    origin: Origin,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    bell: Condvar,
    /// Counts the times that operations were handed over.
    handings: AtomicU64,
    /// How many of the owners' threads sleep until an operation is complete.
    awaited: AtomicUsize,
}

#[derive(Default)]
struct State {
    /// Those with operations outstanding.
    busy: Vec<Arc<Line>>,
    /// Wakes the thread where it sleeps in a backend.
    sleeping: Option<Waker>,
    started: bool,
    closed: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ProgressThread {
    /// Fails in a process that was forked off the one whose threads these are: there nobody would drive anything, and locks
    /// may be held by nobody.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported).
    #[inline]
    pub(super) fn check_origin(&self) -> Result<()> {
        if self.origin.is_here() { Ok(()) } else { Err(forked()) }
    }

    /// Makes the thread, unless it is there.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) where the system refuses it.
    pub(super) fn make(&self) -> Result<()> {
        self.check_origin()?;
        let mut state = self.shared.state();
        if !state.started {
            let shared = Arc::clone(&self.shared);
            observe::thread::spawn("ringfold-progress", move || drive(&shared))
                .map_err(|error| Error::io("making the progress thread", error))?;
            state.started = true;
        }
        Ok(())
    }

    /// Hands operations over to the thread.
    pub(super) fn hand_over(&self, line: &Arc<Line>, operations: impl Iterator<Item = Handed>) {
        let mut state = self.shared.state();
        debug_assert!(state.started, "operations are handed to a thread that is there");
        line.hand_over(operations);
        if !state.busy.iter().any(|busy| Arc::ptr_eq(busy, line)) {
            state.busy.push(Arc::clone(line));
        }
        self.shared.handings.fetch_add(1, Ordering::Release);
        if let Some(wake) = &state.sleeping {
            wake();
        }
        drop(state);
        self.shared.bell.notify_one();
    }

    /// Notes that a thread sleeps until an operation is complete, as long as the guard lives: the progress thread may
    /// then spin in its place.
    pub(super) fn awaiting(&self) -> Awaiting<'_> {
        self.shared.awaited.fetch_add(1, Ordering::Relaxed);
        Awaiting(&self.shared)
    }
}

/// See [`ProgressThread::awaiting`].
pub(super) struct Awaiting<'a>(&'a Shared);

impl Drop for Awaiting<'_> {
    fn drop(&mut self) {
        self.0.awaited.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for ProgressThread {
    fn drop(&mut self) {
        if !self.origin.is_here() {
            return; // a fork's copy: the thread is the parent's, and may have held the lock
        }
        self.shared.state().closed = true;
        self.shared.bell.notify_one();
    }
}

#[cold]
fn forked() -> Error {
    Error::new(ErrorKind::Unsupported, "this process was forked off the one that is a rank of the group")
        .remedy("form groups after forking, or start new programs instead (exec, or multiprocessing's spawn)")
}

fn drive(shared: &Shared) {
    let mut lines: Vec<Arc<Line>> = Vec::new();
    loop {
        // Whatever is through is among `lines`, too: it was driven.
        shared.state().busy.retain(|line| line.is_busy());
        // Where a communicator is gone, this is its end. It closes sockets, so nobody is locked out meanwhile.
        lines.clear();
        let handings = {
            let mut state = shared.state();
            while state.busy.is_empty() {
                if state.closed {
                    return;
                }
                state = shared.bell.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            lines.extend(state.busy.iter().cloned());
            shared.handings.load(Ordering::Acquire)
        };
        drive_until_something_changes(shared, &lines, handings);
    }
}

/// Drives these until one of them is through or operations have been handed over.
fn drive_until_something_changes(shared: &Shared, lines: &[Arc<Line>], handings: u64) {
    let spins = lines.iter().map(|line| line.spins()).min().unwrap_or(0);
    let mut idle = 0;
    let mut next = 0;
    loop {
        let mut advanced = false;
        for line in lines {
            match catch_unwind(AssertUnwindSafe(|| line.turn())) {
                Ok(Turn::Advanced) => advanced = true,
                Ok(Turn::Idle) => {}
                Ok(Turn::Over) => return,
                Err(_) => return line.give_up(),
            }
        }
        if shared.handings.load(Ordering::Acquire) != handings {
            return;
        }
        if advanced {
            idle = 0;
        } else if idle < spins && shared.awaited.load(Ordering::Relaxed) > 0 {
            idle += 1;
            thread::yield_now();
        } else {
            next = (next + 1) % lines.len();
            let line = &lines[next];
            {
                let mut state = shared.state();
                if shared.handings.load(Ordering::Acquire) != handings {
                    return;
                }
                state.sleeping = Some(Arc::clone(&line.waker));
            }
            line.sleep((lines.len() > 1).then_some(SHARED_SLEEP));
            shared.state().sleeping = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Communicator, ReduceOp};
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Instant;

    /// Tells, as it is dropped, whether operations could be handed over meanwhile.
    struct AtTheEnd(Arc<Shared>, Sender<bool>);

    impl Drop for AtTheEnd {
        fn drop(&mut self) {
            let _ = self.1.send(self.0.state.try_lock().is_ok());
        }
    }

    /// Tells, as it is dropped.
    struct Ends(Sender<()>);

    impl Drop for Ends {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }

    /// A communicator of one, and who is told of its end.
    fn ending() -> (Communicator, Receiver<()>) {
        let comm = Communicator::local(1).remove(0);
        let (tell, told) = channel();
        *comm.line.held().lock().unwrap() = Box::new(Ends(tell));
        (comm, told)
    }

    /// The process may end as soon as its last communicator is gone, and must have left by then.
    #[test]
    fn a_communicator_ends_with_its_drop_even_where_the_thread_knows_it_still() {
        let hang = Instant::now() + Duration::from_secs(20);
        loop {
            let (comm, told) = ending();
            let pending = comm.start_all_reduce(vec![1u8], ReduceOp::Sum).unwrap();
            while !pending.is_ready() {}
            let progress = Arc::clone(&comm.progress);
            // Now and then this comes before the thread has put the line away, which it cannot while this is held.
            let state = progress.shared.state();
            let caught = !state.busy.is_empty();
            drop(comm);
            let ended = told.try_recv();
            drop(state);
            assert!(ended.is_ok());
            if caught {
                return;
            }
            assert!(Instant::now() < hang, "the thread is always sooner");
        }
    }

    #[test]
    fn a_communicator_that_was_dropped_ends_before_its_last_operation_is_told_of() {
        for _ in 0..100 {
            let (comm, told) = ending();
            let pending = comm.start_all_reduce(vec![1u8], ReduceOp::Sum).unwrap();
            drop(comm);
            pending.wait().unwrap();
            assert!(told.try_recv().is_ok());
        }
    }

    #[test]
    fn a_communicator_that_ends_on_the_thread_locks_nobody_out() {
        let mut comms = Communicator::local(2);
        let (other, comm) = (comms.pop().unwrap(), comms.pop().unwrap());
        let (tell, told) = channel();
        *comm.line.held().lock().unwrap() = Box::new(AtTheEnd(Arc::clone(&comm.progress.shared), tell));
        // Detached: the thread alone still has the communicator's line.
        drop(comm.start_all_reduce(vec![1u8], ReduceOp::Sum).unwrap());
        drop(comm);
        other.all_reduce(&mut [1u8], ReduceOp::Sum).unwrap();
        assert!(told.recv_timeout(Duration::from_secs(20)).unwrap(), "the end holds the lock");
    }
}
