//! What becomes of operations that somebody else drives.

use crate::error::{Error, Result};
use std::any::Any;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

/// The end of one started call, which may be several operations: completed by whoever drives them, waited for by
/// whoever started them.
#[derive(Default)]
pub(super) struct Completion {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Operations that are not complete.
    left: usize,
    /// The first error among them.
    error: Option<Error>,
    /// Whether a library still has their memory.
    keeps_memory: bool,
    waker: Option<Waker>,
    /// What must live until all are complete, where nobody waits any more.
    kept: Option<Box<dyn Any + Send>>,
}

impl Completion {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One operation is complete.
    pub(super) fn finish(&self, result: Result<()>) {
        let mut state = self.state();
        if let Err(error) = result {
            state.keeps_memory |= error.keeps_memory();
            state.error.get_or_insert(error);
        }
        state.left -= 1;
        if state.left > 0 {
            return;
        }
        let (waker, kept) = (state.waker.take(), state.kept.take());
        self.changed.notify_all();
        let keeps_memory = state.keeps_memory;
        drop(state);
        match keeps_memory {
            true => std::mem::forget(kept),
            false => drop(kept),
        }
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether all are complete.
    pub(super) fn is_ready(&self) -> bool {
        self.state().left == 0
    }

    /// Waits until all are complete, at most for `limit`; tells whether they are.
    pub(super) fn wait(&self, limit: Option<Duration>) -> bool {
        let mut state = self.state();
        let until = limit.and_then(|limit| Instant::now().checked_add(limit));
        while state.left > 0 {
            state = match until {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return false;
                    }
                    let waited = self.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        true
    }

    /// Whether all are complete; else this waker is woken once they are.
    pub(super) fn poll(&self, waker: &Waker) -> Poll<()> {
        let mut state = self.state();
        if state.left == 0 {
            return Poll::Ready(());
        }
        if !state.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            state.waker = Some(waker.clone());
        }
        Poll::Pending
    }

    /// What has become of them. All are complete.
    pub(super) fn result(&self) -> Result<()> {
        self.state().error.clone().map_or(Ok(()), Err)
    }

    /// Whether a library still has the memory of one that is complete: it must never be freed.
    pub(super) fn keeps_memory(&self) -> bool {
        self.state().keeps_memory
    }

    /// Keeps something until all are complete, and for ever where a library has it then; drops it at once where they are complete and none
    /// has.
    pub(super) fn keep<T: Any + Send>(&self, kept: T) {
        let mut state = self.state();
        if state.left > 0 {
            state.kept = Some(Box::new(kept));
        } else if state.keeps_memory {
            std::mem::forget(kept);
        }
    }
}

/// Completions that can be used again once nobody looks at them any more.
#[derive(Default)]
pub(super) struct Completions(Vec<Arc<Completion>>);

impl Completions {
    /// One for this many operations.
    pub(super) fn take(&mut self, operations: usize) -> Arc<Completion> {
        let free = self.0.iter_mut().position(|completion| Arc::get_mut(completion).is_some());
        let index = free.unwrap_or_else(|| {
            self.0.push(Arc::default());
            self.0.len() - 1
        });
        *self.0[index].state() = State { left: operations, ..State::default() };
        Arc::clone(&self.0[index])
    }
}
