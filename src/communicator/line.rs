//! The one place that drives a communicator's backend: on the caller's thread where nothing else is under way, else on
//! the progress thread.

use super::completion::Completion;
use super::kin::Held;
use crate::backend::{Backend, Meter, Operation, Progress, Ticket};
use crate::error::{Cause, Error, ErrorKind, Result};
use crate::observe::{Time, Waker};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tracing::Span;

/// A communicator's operations, in their order, and what carries them out.
///
/// Either no operation is outstanding, and the communicator's owner may drive the backend itself; or some are, and the
/// progress thread alone drives it. Only the owner makes operations outstanding.
///
/// When the owner is gone and nothing is outstanding, that is the end of the communicator at once, whoever still knows the line: the
/// process may be about to end, and who has left in good order must have said so by then.
pub(super) struct Line {
    /// This rank's number in the world.
    pub(super) rank: usize,
    /// The names of the hosts of the world's ranks; none among threads.
    pub(super) hosts: Arc<[String]>,
    pub(super) backend: &'static str,
    pub(super) works_on_devices: bool,
    /// Whether the backend [holds up](Backend::holds_up) whoever runs an operation.
    holds_up: bool,
    spins: u32,
    pub(super) waker: Waker,
    pub(super) meter: Arc<Meter>,
    driven: Mutex<Driven>,
    /// Operations that the progress thread has not taken yet.
    handed: Mutex<VecDeque<Handed>>,
    /// Operations that were handed over and are not complete.
    outstanding: AtomicUsize,
    /// Whether its owner is gone.
    closed: AtomicBool,
    /// The owner's: what is forked off it ends nothing.
    pid: u32,
}

/// An operation for the progress thread, and whom to tell of its end.
pub(super) struct Handed {
    pub(super) operation: Operation,
    pub(super) completion: Arc<Completion>,
}

struct Driven {
    /// Until the end.
    means: Option<Means>,
    /// Those that the backend has, in their order; last one that it is about to get, without a ticket.
    under_way: VecDeque<(Option<Ticket>, Arc<Completion>, Span)>,
}

struct Means {
    backend: Box<dyn Backend>,
    /// What must live as long as the backend, and is dropped after it: the control link, a hosted store.
    held: Held,
}

impl Driven {
    fn means(&self) -> &Means {
        self.means.as_ref().expect("whoever has operations for it comes before its end")
    }

    #[inline]
    fn backend(&mut self) -> &mut dyn Backend {
        &mut *self.means.as_mut().expect("whoever has operations for it comes before its end").backend
    }
}

/// What a turn of the progress thread achieved.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Advanced,
    Idle,
    /// Nothing is outstanding.
    Over,
}

impl Line {
    pub(super) fn new(rank: usize, hosts: Arc<[String]>, backend: Box<dyn Backend>, held: Held) -> Self {
        Line {
            rank,
            hosts,
            backend: backend.name(),
            works_on_devices: backend.works_on_devices(),
            holds_up: backend.holds_up(),
            spins: backend.spins(),
            waker: backend.waker(),
            meter: backend.meter(),
            driven: Mutex::new(Driven { means: Some(Means { backend, held }), under_way: VecDeque::new() }),
            handed: Mutex::default(),
            outstanding: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            pid: std::process::id(),
        }
    }

    /// The owner goes. What is outstanding is driven to its end, which is then the line's.
    pub(super) fn close(&self) {
        if self.pid != std::process::id() {
            return;
        }
        // Each stores and then looks at what the other stores: one of the two sees that it is the last, or both.
        self.closed.store(true, Ordering::SeqCst);
        if self.outstanding.load(Ordering::SeqCst) == 0 {
            let means = self.driven.lock().unwrap_or_else(PoisonError::into_inner).means.take();
            drop(means);
        }
    }

    /// What the communicators of a world have in common.
    pub(super) fn held(&self) -> Held {
        Arc::clone(&self.driven.lock().unwrap_or_else(PoisonError::into_inner).means().held)
    }

    /// Whether the progress thread has the backend.
    pub(super) fn is_busy(&self) -> bool {
        self.outstanding.load(Ordering::Acquire) > 0
    }

    /// Whether an operation may not be left to the progress thread: it has those of other communicators to drive.
    pub(super) fn holds_up(&self) -> bool {
        self.holds_up
    }

    /// The group's first failure, unless somebody is driving just now.
    pub(super) fn failure(&self) -> Option<Cause> {
        match self.driven.try_lock() {
            Ok(driven) => driven.means.as_ref().and_then(|means| means.backend.failure()),
            Err(_) => None,
        }
    }

    /// Runs an operation to its end on this thread. Nothing may be outstanding.
    ///
    /// # Panics
    /// Where there is no operation.
    #[inline]
    pub(super) fn run(&self, operation: &mut Option<Operation>) -> Result<()> {
        let span = operation.as_ref().expect("an operation to run").span();
        if !span.is_none() {
            let span = span.clone();
            return span.in_scope(|| self.run_here(operation));
        }
        self.run_here(operation)
    }

    /// The same where its span is entered, if it has one.
    #[inline]
    fn run_here(&self, operation: &mut Option<Operation>) -> Result<()> {
        let mut driven = self.driven()?;
        let result = driven.backend().run(operation);
        drop(driven);
        result.map_err(|error| self.complete(error))
    }

    /// Runs operations to their ends on this thread, all under way at once; the first error among them. Nothing may be
    /// outstanding. Where one is refused, it and those after it have not happened; how many these are is told.
    pub(super) fn run_all(&self, operations: impl Iterator<Item = Operation>) -> (Result<()>, usize) {
        let mut driven = match self.driven() {
            Ok(driven) => driven,
            Err(error) => return (Err(error), operations.count()),
        };
        let backend = driven.backend();
        let (mut result, mut submitted, mut refused) = (Ok(()), 0usize, 0);
        for operation in operations {
            // None may begin after one that has not.
            match (refused == 0).then(|| backend.submit(operation)) {
                Some(Ok(_)) => submitted += 1,
                Some(Err(error)) => (result, refused) = (Err(error), 1),
                None => refused += 1,
            }
        }
        let mut idle = 0;
        while submitted > 0 {
            match backend.progress() {
                Progress::Done(_, done) => {
                    submitted -= 1;
                    result = result.and(done);
                }
                Progress::Advanced => idle = 0,
                Progress::Idle if idle < backend.spins() => {
                    idle += 1;
                    std::thread::yield_now();
                }
                Progress::Idle => backend.wait(Time::NEVER),
            }
        }
        (result.map_err(|error| self.complete(error)), refused)
    }

    /// Puts operations where the progress thread takes them.
    pub(super) fn hand_over(&self, operations: impl Iterator<Item = Handed>) {
        let mut handed = self.handed.lock().unwrap_or_else(PoisonError::into_inner);
        for one in operations {
            self.outstanding.fetch_add(1, Ordering::Relaxed);
            handed.push_back(one);
        }
    }

    /// Moves what can be moved now: the progress thread's part.
    pub(super) fn turn(&self) -> Turn {
        if !self.is_busy() {
            return Turn::Over;
        }
        let Ok(mut driven) = self.driven() else {
            self.give_up();
            return Turn::Over;
        };
        let driven = &mut *driven;
        loop {
            let next = self.handed.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(Handed { operation, completion }) = next else { break };
            // First this: where the backend panics, whoever waits for the operation is told.
            driven.under_way.push_back((None, completion, operation.span().clone()));
            let submitted = driven.backend().submit(operation);
            let last = driven.under_way.back_mut().expect("it was put there");
            match submitted {
                Ok(ticket) => last.0 = Some(ticket),
                Err(error) => {
                    let (_, completion, _) = driven.under_way.pop_back().expect("it was put there");
                    self.finish(driven, &completion, Err(error));
                }
            }
        }
        if driven.means.is_none() {
            return Turn::Over;
        }
        // The oldest is the one that runs.
        let span = driven.under_way.front().map_or(Span::none(), |(_, _, span)| span.clone());
        let _entered = span.enter();
        match driven.backend().progress() {
            Progress::Advanced => Turn::Advanced,
            Progress::Idle => Turn::Idle,
            Progress::Done(ticket, result) => {
                let expected = driven.under_way.front().expect("it is under way").0;
                assert_eq!(expected, Some(ticket), "operations end in the order of their submission");
                let (_, completion, _) = driven.under_way.pop_front().expect("it is under way");
                self.finish(driven, &completion, result);
                Turn::Advanced
            }
        }
    }

    /// Sleeps until a turn may achieve something: the progress thread's part.
    pub(super) fn sleep(&self, longest: Option<std::time::Duration>) {
        // Where it has none any more its owner may be in the backend, for as long as that takes.
        if self.is_busy()
            && let Ok(mut driven) = self.driven()
            && let Some(Means { backend, .. }) = &mut driven.means
        {
            let until = longest.map_or(Time::NEVER, |longest| backend.now().after(longest));
            backend.wait(until);
        }
    }

    /// How often to look again before sleeping.
    pub(super) fn spins(&self) -> u32 {
        self.spins
    }

    /// Ends all that is outstanding with an error: a turn has panicked, and the backend is never driven again.
    pub(super) fn give_up(&self) {
        let mut driven = self.driven.lock().unwrap_or_else(PoisonError::into_inner);
        let under_way =
            std::mem::take(&mut driven.under_way).into_iter().map(|(_, completion, _)| completion);
        let handed = std::mem::take(&mut *self.handed.lock().unwrap_or_else(PoisonError::into_inner));
        for completion in under_way.chain(handed.into_iter().map(|handed| handed.completion)) {
            self.finish(&mut driven, &completion, Err(panicked()));
        }
    }

    fn finish(&self, driven: &mut Driven, completion: &Completion, result: Result<()>) {
        // First this: whoever is told of the end may go on at once on a thread of its own, or end the process.
        if self.outstanding.fetch_sub(1, Ordering::SeqCst) == 1 && self.closed.load(Ordering::SeqCst) {
            driven.means = None;
        }
        completion.finish(result.map_err(|error| self.complete(error)));
    }

    /// The backend, unless a call has panicked inside of it: an operation may then still hold on to memory that was
    /// borrowed for that call only.
    fn driven(&self) -> Result<MutexGuard<'_, Driven>> {
        self.driven.lock().map_err(|_| self.complete(panicked()))
    }

    /// Adds what an error of the backend may not know: this rank, and the culprit's host.
    pub(super) fn complete(&self, error: Error) -> Error {
        let error = error.at_rank(self.rank);
        match error.culprit().and_then(|culprit| self.hosts.get(culprit)) {
            Some(host) => {
                let host = host.clone();
                error.on_host(host)
            }
            None => error,
        }
    }
}

fn panicked() -> Error {
    Error::new(ErrorKind::Internal, "an earlier call panicked inside the library")
        .remedy("drop this communicator and report what the panic said")
}

#[cfg(test)]
mod tests {
    use crate::{Communicator, ErrorKind};
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn after_a_panic_inside_the_library_its_calls_say_so() {
        let comm = Communicator::local(1).remove(0);
        comm.barrier().unwrap();
        let driving = AssertUnwindSafe(|| {
            let _driven = comm.line.driven.lock();
            panic!("seeded");
        });
        catch_unwind(driving).unwrap_err();
        assert_eq!(comm.barrier().unwrap_err().kind(), ErrorKind::Internal);
        let pending = comm.start_barrier().and_then(|pending| pending.wait().map(drop));
        assert_eq!(pending.unwrap_err().kind(), ErrorKind::Internal);
    }
}
