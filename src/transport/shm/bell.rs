//! The protocol by which a rank sleeps until another has done something for it.
//!
//! A bell is two words: `rings`, which moves when it is rung, and `asleep`, which says whether anybody would hear it. The
//! sleeper raises `asleep`, passes a full fence and looks once more for what it waits for; whoever has done something
//! passes a full fence and looks at `asleep`. One of the two fences comes first: so either the sleeper sees what was
//! done, or the other sees the sleeper, and rings. Between the sleeper's last look and its sleep the kernel compares
//! `rings` with what it was before that look.
//!
//! The ringer's fence is dear: it waits for a store whose line is in another cache. Where the kernel lets a sleeper pass
//! the fence for everybody, it does that, once, before it sleeps; and ringers, who ring far more often than anybody sleeps,
//! pass none (`quick`).

use super::sync::{AtomicU32, Ordering, barrier, compiler_fence, fence, futex};
use std::time::Duration;

/// How long a sleeper sleeps whose ringers may have missed it.
const UNFENCED: Duration = Duration::from_millis(1);

/// A bell in shared memory.
#[derive(Clone, Copy)]
pub(super) struct Bell<'a> {
    pub(super) rings: &'a AtomicU32,
    pub(super) asleep: &'a AtomicU32,
    /// The sleeper has said that it passes the fence for its ringers, and this process lets it.
    pub(super) quick: bool,
}

impl Bell<'_> {
    /// Wakes the sleeper, if there is one, after something was done for it.
    pub(super) fn ring(self) {
        if self.quick {
            compiler_fence(Ordering::SeqCst);
        } else {
            fence(Ordering::SeqCst);
        }
        self.ring_after_fence();
    }

    /// The same of whoever has passed the fence.
    pub(super) fn ring_after_fence(self) {
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
        // A fence that fails once it has been promised leaves no way but not to sleep for long.
        let limit = if self.quick && !barrier::fence_for_all() {
            Some(limit.map_or(UNFENCED, |limit| limit.min(UNFENCED)))
        } else {
            limit
        };
        if !look() {
            futex::wait(self.rings, seen, limit);
        }
        self.asleep.store(0, Ordering::Relaxed);
    }
}
