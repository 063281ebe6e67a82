//! Ending a group from outside.

use crate::communicator::AbortHandle;
use crate::launch::{Signal, Signaller};
use crate::transport::control::after;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// An attempt that is under way, as it can be ended.
pub(super) enum Current {
    Threads(AbortHandle),
    Processes(Signaller),
}

/// What tasks have been told from outside; the stronger, the later here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    /// A signal that asks to end has been passed on.
    Asked(Signal),
    /// They are to end.
    End,
    /// They are to be killed.
    Kill,
}

impl Current {
    fn tell(&self, told: Told, reason: &str) {
        match (self, told) {
            (Current::Threads(group), _) => group.cancel(format!("the group was cancelled: {reason}")),
            (Current::Processes(ranks), Told::Asked(signal)) => ranks.signal(signal),
            (Current::Processes(ranks), Told::End) => ranks.end(),
            (Current::Processes(ranks), Told::Kill) => ranks.signal(Signal::SIGKILL),
        }
    }
}

#[derive(Default)]
struct State {
    /// What the tasks have been told, and why: nothing more is tried then.
    told: Option<(Told, String)>,
    current: Vec<(u64, Current)>,
    next: u64,
}

impl State {
    /// Tells the tasks of now, and those of an attempt that is just beginning. What is weaker than something before is passed on, and
    /// not remembered.
    fn tell(&mut self, told: Told, reason: String) {
        self.current.iter().for_each(|(_, current)| current.tell(told, &reason));
        if self.told.as_ref().is_none_or(|(before, _)| *before < told) {
            self.told = Some((told, reason));
        }
    }
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

    /// Why nothing more is to be tried.
    pub(super) fn ended(&self) -> Option<String> {
        self.lock().told.as_ref().map(|(_, reason)| reason.clone())
    }

    /// The same where it is more than a signal that was passed on: what the tasks make of that is theirs.
    pub(super) fn cancelled(&self) -> Option<String> {
        let state = self.lock();
        let told = state.told.as_ref().filter(|(told, _)| !matches!(told, Told::Asked(_)));
        told.map(|(_, reason)| reason.clone())
    }

    /// Lets an attempt be ended for as long as the result lives; at once where that has been asked for already.
    pub(super) fn enter(&self, current: Current) -> Entered<'_> {
        let mut state = self.lock();
        if let Some((told, reason)) = &state.told {
            current.tell(*told, reason);
        }
        let id = state.next;
        state.next += 1;
        state.current.push((id, current));
        Entered { control: self, id }
    }

    /// Sleeps for so long, unless the group is cancelled.
    pub(super) fn sleep(&self, time: Duration) {
        let until = after(time);
        let mut state = self.lock();
        while state.told.is_none() {
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
    /// [`CancellationToken`](super::CancellationToken) and by errors of their collectives, processes by `SIGTERM`, and by `SIGKILL`
    /// where they are still there after 2 s), and the group returns an error for which
    /// [`is_cancelled`](super::GroupError::is_cancelled) holds, whatever its tasks make of it. Does not block. It stays cancelled.
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
        self.0.lock().tell(Told::End, reason.to_owned());
        self.0.changed.notify_all();
    }

    /// Sends a signal to all processes of the present attempt, as [`Signaller::signal`] does. After one that asks to end (`SIGINT`,
    /// `SIGTERM`, `SIGHUP`, `SIGQUIT`) no further attempt is begun; should all tasks succeed nevertheless, the group has. `SIGKILL` cancels
    /// it. Threads are cancelled by any of these, and know no others.
    pub fn signal(&self, signal: Signal) {
        let mut state = self.0.lock();
        let reason = || format!("it was sent {signal}");
        match signal {
            Signal::SIGKILL => state.tell(Told::Kill, reason()),
            Signal::SIGINT | Signal::SIGTERM | Signal::SIGHUP | Signal::SIGQUIT => {
                state.tell(Told::Asked(signal), reason());
            }
            _ => state.current.iter().for_each(|(_, current)| {
                if let Current::Processes(ranks) = current {
                    ranks.signal(signal);
                }
            }),
        }
        drop(state);
        self.0.changed.notify_all();
    }
}

impl fmt::Debug for GroupHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupHandle").field("ended", &self.0.ended()).finish_non_exhaustive()
    }
}
