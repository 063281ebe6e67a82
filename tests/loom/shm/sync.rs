//! What the protocols are made of here: loom's atomics, which can be made weaker than what is asked for, and threads that
//! can be made to vanish.

use super::seeded::Fault;
use loom::sync::Mutex;
use loom::sync::atomic;
pub(super) use loom::sync::atomic::Ordering;
use std::cell::Cell;

loom::thread_local! {
    /// How many more stores this thread makes before it vanishes: what it stores after that never happens.
    static STORES_LEFT: Cell<usize> = Cell::new(usize::MAX);
}

/// Lets this thread vanish after so many stores of the protocol.
pub(super) fn vanish_after(stores: usize) {
    STORES_LEFT.with(|left| left.set(stores));
}

/// Whether this thread is still there; counts a store.
fn stores() -> bool {
    STORES_LEFT.with(|left| {
        let there = left.get() > 0;
        left.set(left.get().saturating_sub(1));
        there
    })
}

macro_rules! atomic {
    ($name:ident, $integer:ident) => {
        /// loom's, with the orderings of the fault under test.
        #[derive(Debug, Default)]
        pub(super) struct $name(atomic::$name);

        #[allow(dead_code)]
        impl $name {
            pub(super) fn new(value: $integer) -> Self {
                Self(atomic::$name::new(value))
            }

            pub(super) fn load(&self, order: Ordering) -> $integer {
                let weakened = Fault::is(Fault::LoadsRelaxed) && order == Ordering::Acquire;
                self.0.load(if weakened { Ordering::Relaxed } else { order })
            }

            pub(super) fn store(&self, value: $integer, order: Ordering) {
                let weakened = Fault::is(Fault::StoresRelaxed) && order == Ordering::Release;
                if stores() {
                    self.0.store(value, if weakened { Ordering::Relaxed } else { order });
                }
            }

            pub(super) fn fetch_add(&self, value: $integer, order: Ordering) -> $integer {
                self.0.fetch_add(value, order)
            }
        }
    };
}

atomic!(AtomicU32, u32);
atomic!(AtomicU64, u64);

pub(super) fn fence(order: Ordering) {
    if !Fault::is(Fault::FencesLeftOut) {
        atomic::fence(order);
    }
}

loom::lazy_static! {
    /// Where a fence for all falls: one for each thread that such a fence may be passed for.
    static ref POINTS: [Mutex<()>; 2] = [Mutex::new(()), Mutex::new(())];
}

loom::thread_local! {
    static POINT: Cell<usize> = Cell::new(0);
}

/// Gives this thread a point of its own.
pub(super) fn point(index: usize) {
    POINT.with(|point| point.set(index));
}

/// A point that a fence for all falls before or after.
///
/// The kernel's fence falls somewhere in the program of each thread: what the thread did before is seen by whoever called
/// for it, and what that one did before calling is seen by the thread after. Where it falls before this point, the
/// second is all that is used of it, and where it falls after, the first. A lock that both take says just that, and nothing of
/// threads that nobody calls a fence for. That the compiler keeps the order of the program on both sides is what
/// its fence is for, and is not modelled.
pub(super) fn compiler_fence(_: Ordering) {
    drop(POINTS[POINT.with(Cell::get)].lock().unwrap());
}

pub(super) mod barrier {
    use super::{Fault, POINTS};

    pub(in crate::shm) fn fence_for_all() -> bool {
        if !Fault::is(Fault::FenceForAllLeftOut) {
            for point in POINTS.iter() {
                drop(point.lock().unwrap());
            }
        }
        true
    }
}

/// The kernel's part: whoever waits sleeps until it is woken, unless the word has moved.
pub(super) mod futex {
    use super::{AtomicU32, Ordering};
    use loom::sync::{Condvar, Mutex};
    use std::time::Duration;

    #[derive(Default)]
    struct State {
        wakes: usize,
        /// Nobody rings any more.
        over: bool,
    }

    loom::lazy_static! {
        static ref SLEEPERS: (Mutex<State>, Condvar) = (Mutex::new(State::default()), Condvar::new());
    }

    pub(in crate::shm) fn wait(word: &AtomicU32, seen: u32, _: Option<Duration>) {
        let mut state = SLEEPERS.0.lock().unwrap();
        let before = state.wakes;
        while word.load(Ordering::SeqCst) == seen && state.wakes == before {
            assert!(!state.over, "slept through what was done");
            state = SLEEPERS.1.wait(state).unwrap();
        }
    }

    pub(in crate::shm) fn wake(_: &AtomicU32) {
        SLEEPERS.0.lock().unwrap().wakes += 1;
        SLEEPERS.1.notify_all();
    }

    /// Nobody rings any more: whoever sleeps now, or is about to, sleeps for ever. loom would call that a deadlock, which
    /// ends the process and not the test.
    pub(in crate::shm) fn over() {
        SLEEPERS.0.lock().unwrap().over = true;
        SLEEPERS.1.notify_all();
    }
}
