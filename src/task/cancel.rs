//! How a task is told to end.

use crate::communicator::AbortHandle;
use crate::error::Cause;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Tells a task that its attempt is over: another task has failed, time is up, or somebody has cancelled the group.
///
/// A thread cannot be ended from outside, so a task that works for long between collectives looks here now and then. Send, Sync
/// and Clone.
#[derive(Clone)]
pub struct CancellationToken {
    group: AbortHandle,
    sleepers: Arc<Sleepers>,
}

#[derive(Default)]
struct Sleepers {
    lock: Mutex<()>,
    woken: Condvar,
}

impl CancellationToken {
    pub(super) fn new(group: AbortHandle) -> Self {
        let sleepers = Arc::<Sleepers>::default();
        let there = Arc::downgrade(&sleepers);
        group.on_failure(move || {
            let Some(sleepers) = there.upgrade() else { return false };
            drop(sleepers.lock.lock().unwrap_or_else(PoisonError::into_inner));
            sleepers.woken.notify_all();
            true
        });
        CancellationToken { group, sleepers }
    }

    /// Whether the task is to end. Costs an atomic load.
    pub fn is_cancelled(&self) -> bool {
        self.group.has_failed()
    }

    /// Why; `None` where it is not.
    pub fn reason(&self) -> Option<Cause> {
        self.group.failure()
    }

    /// Sleeps for so long, or until the task is to end. Whether it is.
    ///
    /// ```
    /// use ringfold::task::TaskGroup;
    /// use std::time::Duration;
    /// let error = TaskGroup::new(2)
    ///     .run(|task| match task.partition_id() {
    ///         0 => Err("there is no such file".to_owned()),
    ///         _ => {
    ///             let told = task.cancellation().sleep(Duration::from_secs(60));
    ///             assert!(told, "the other has failed");
    ///             Ok(())
    ///         }
    ///     })
    ///     .unwrap_err();
    /// assert_eq!(error.failures()[0].partition, 0);
    /// ```
    pub fn sleep(&self, time: Duration) -> bool {
        let until = Instant::now().checked_add(time);
        let mut guard = self.sleepers.lock.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if self.is_cancelled() {
                return true;
            }
            let left = match until {
                Some(until) => until.saturating_duration_since(Instant::now()),
                None => Duration::MAX,
            };
            if left.is_zero() {
                return false;
            }
            let woken = &self.sleepers.woken;
            guard = woken.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl fmt::Debug for CancellationToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancellationToken").field("reason", &self.reason()).finish()
    }
}
