//! Ending a group from outside.

use crate::communicator::AbortHandle;
use crate::launch::{Signal, Signaller};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// An attempt that is under way, as it can be ended.
pub(super) enum Current {
    Threads(AbortHandle),
    Processes(Signaller),
}

impl Current {
    fn cancel(&self, reason: &str) {
        match self {
            Current::Threads(group) => group.abort(reason),
            Current::Processes(ranks) => ranks.signal(Signal::SIGTERM),
        }
    }
}

#[derive(Default)]
struct State {
    /// Why nothing more is to be tried.
    cancelled: Option<String>,
    current: Vec<(u64, Current)>,
    next: u64,
}

/// What a group and its handles share.
#[derive(Default)]
pub(super) struct Control {
    state: Mutex<State>,
    changed: Condvar,
}

impl Control {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the group has been cancelled.
    pub(super) fn cancelled(&self) -> Option<String> {
        self.lock().cancelled.clone()
    }

    /// Lets an attempt be ended for as long as the result lives; at once where that has been asked for already.
    pub(super) fn enter(&self, current: Current) -> Entered<'_> {
        let mut state = self.lock();
        if let Some(reason) = &state.cancelled {
            current.cancel(reason);
        }
        let id = state.next;
        state.next += 1;
        state.current.push((id, current));
        Entered { control: self, id }
    }

    /// Sleeps for so long, unless the group is cancelled.
    pub(super) fn sleep(&self, time: Duration) {
        let until = Instant::now() + time;
        let mut state = self.lock();
        while state.cancelled.is_none() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// An attempt that can be ended.
pub(super) struct Entered<'a> {
    control: &'a Control,
    id: u64,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.control.lock().current.retain(|(id, _)| *id != self.id);
    }
}

/// Ends the attempts of a [`TaskGroup`](super::TaskGroup), from any thread. Send, Sync and Clone.
#[derive(Clone)]
pub struct GroupHandle(pub(super) Arc<Control>);

impl GroupHandle {
    /// Cancels the group: no further attempt is begun, the tasks of the present one are told to end (threads by their
    /// [`CancellationToken`](super::CancellationToken) and by errors of their collectives, processes by `SIGTERM`), and the group
    /// returns an error for which [`is_cancelled`](super::GroupError::is_cancelled) holds. Does not block. It stays cancelled.
    ///
    /// ```
    /// use ringfold::task::TaskGroup;
    /// use std::time::Duration;
    /// let group = TaskGroup::new(2).max_attempts(9);
    /// let handle = group.handle();
    /// std::thread::spawn(move || handle.cancel("the user pressed stop"));
    /// let error = group
    ///     .run(|task| match task.cancellation().sleep(Duration::from_secs(60)) {
    ///         true => Err("told to end"),
    ///         false => Ok(()),
    ///     })
    ///     .unwrap_err();
    /// assert!(error.is_cancelled());
    /// ```
    pub fn cancel(&self, reason: &str) {
        let mut state = self.0.lock();
        if state.cancelled.is_none() {
            state.cancelled = Some(reason.to_owned());
            state.current.iter().for_each(|(_, current)| current.cancel(reason));
        }
        drop(state);
        self.0.changed.notify_all();
    }

    /// Sends a signal to all processes of the present attempt, as [`Signaller::signal`] does. After one that asks to end, or kills,
    /// no further attempt is begun. Without effect on threads, but for that.
    pub fn signal(&self, signal: Signal) {
        let mut state = self.0.lock();
        let ends = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGKILL];
        if ends.contains(&signal) {
            state.cancelled.get_or_insert_with(|| format!("it was sent {signal}"));
        }
        for (_, current) in &state.current {
            if let Current::Processes(ranks) = current {
                ranks.signal(signal);
            }
        }
        drop(state);
        self.0.changed.notify_all();
    }
}

impl fmt::Debug for GroupHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupHandle").field("cancelled", &self.0.cancelled()).finish_non_exhaustive()
    }
}
