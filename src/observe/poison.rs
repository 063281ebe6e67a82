//! The poison word of a world: set once, by anybody, read by everybody, waking whoever sleeps.

use crate::error::Cause;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Tells whether its sleeper is still there.
type Sleeper = Box<dyn Fn() -> bool + Send + Sync>;

/// The failure of a group, as this rank knows it: nothing yet, or one [`Cause`] for ever.
///
/// Reading costs one relaxed load. Setting it runs the wakers, each of which must be quick and must not
/// block (write to an eventfd, notify a condition variable). Send and Sync.
#[derive(Default)]
pub struct Poison {
    word: AtomicBool,
    cause: OnceLock<Cause>,
    wakers: Mutex<Vec<Sleeper>>,
}

impl Poison {
    /// A clean one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether a cause is set. One atomic load.
    #[inline]
    pub fn is_set(&self) -> bool {
        self.word.load(Ordering::Acquire)
    }

    /// The cause, once there is one.
    pub fn cause(&self) -> Option<&Cause> {
        if self.is_set() { self.cause.get() } else { None }
    }

    /// Sets the cause unless one is there already, wakes every sleeper, and returns the one that counts.
    pub fn set(&self, cause: Cause) -> &Cause {
        let kept = self.cause.get_or_init(|| cause);
        self.word.store(true, Ordering::Release);
        for wake in self.wakers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            wake();
        }
        kept
    }

    /// Adds a function to call when the cause is set; it is called at once where that has already happened. It is also
    /// called now and then for no reason, and forgotten once it says (`false`) that its sleeper is gone.
    pub fn on_set(&self, wake: impl Fn() -> bool + Send + Sync + 'static) {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_set() {
            wake();
        }
        // Groups come and go in a world: each doubling looks who is left.
        if wakers.len() == wakers.capacity() {
            wakers.retain(|wake| wake());
        }
        wakers.push(Box::new(wake));
    }
}

impl fmt::Debug for Poison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poison").field("cause", &self.cause()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::CauseKind;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    fn cause(culprit: usize) -> Cause {
        Cause {
            generation: 0,
            sequence: 0,
            kind: CauseKind::Abort,
            culprit,
            reporter: 0,
            detail: String::new(),
        }
    }

    #[test]
    fn the_first_cause_stays_and_everyone_is_woken() {
        let poison = Poison::new();
        let woken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&woken);
        poison.on_set(move || {
            count.fetch_add(1, Ordering::SeqCst);
            true
        });
        assert!(!poison.is_set());
        assert_eq!(poison.set(cause(3)).culprit, 3);
        assert_eq!(poison.set(cause(4)).culprit, 3);
        assert!(woken.load(Ordering::SeqCst) >= 1);
        let count = Arc::clone(&woken);
        poison.on_set(move || {
            count.fetch_add(100, Ordering::SeqCst);
            true
        });
        assert!(woken.load(Ordering::SeqCst) >= 100, "a late sleeper is woken at once");
    }
}
