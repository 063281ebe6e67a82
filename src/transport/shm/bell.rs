//! The protocol by which a rank sleeps until another has done something for it.
//!
//! A bell is two words: `rings`, which moves when it is rung, and `asleep`, which says whether anybody would hear it. The
//! sleeper raises `asleep`, passes a full fence and looks once more for what it waits for; whoever has done something
//! passes a full fence and looks at `asleep`. One of the two fences comes first: so either the sleeper sees what was
//! done, or the other sees the sleeper, and rings. Between the sleeper's last look and its sleep the kernel compares
//! `rings` with what it was before that look.

use super::sync::{AtomicU32, Ordering, fence, futex};
use std::time::Duration;

/// A bell in shared memory.
#[derive(Clone, Copy)]
pub(super) struct Bell<'a> {
    pub(super) rings: &'a AtomicU32,
    pub(super) asleep: &'a AtomicU32,
}

impl Bell<'_> {
    /// Wakes the sleeper, if there is one, after something was done for it.
    pub(super) fn ring(self) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) != 0 {
            self.ring_anyway();
        }
    }

    /// Wakes the sleeper, or keeps it from falling asleep.
    pub(super) fn ring_anyway(self) {
        self.rings.fetch_add(1, Ordering::Release);
        futex::wake(self.rings);
    }

    /// Sleeps until the bell is rung, at most for `limit`, unless `look` finds what is waited for. May return for no
    /// reason. One thread at a time sleeps by a bell.
    pub(super) fn sleep(self, limit: Option<Duration>, look: impl FnOnce() -> bool) {
        let seen = self.rings.load(Ordering::Acquire);
        self.asleep.store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if !look() {
            futex::wait(self.rings, seen, limit);
        }
        self.asleep.store(0, Ordering::Relaxed);
    }
}
