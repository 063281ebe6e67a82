//! Whose turn it is: one thread at a time has a communicator.
//!
//! Nearly always it is the same thread, again and again, and an exchange of a word in memory would be a good part of what a small
//! call costs. So the first thread that comes has the turn by custom: it stores that it is in, and looks whether the custom
//! still holds, without any fence. Another thread that comes ends the custom for good and lets the system pass a fence on all
//! threads of the process (`membarrier`), after which it sees whether the first is in, and the first sees that the custom has ended.
//! From then on everybody exchanges a word. This is what is known as biased locking, and the fence as asymmetric.

use core::memory::barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, compiler_fence};

/// Nobody has come yet.
const NOBODY: usize = 0;
/// There is no custom (any more). No thread's pointer is odd.
const EVERYBODY: usize = 1;

/// Who may have something that one thread at a time may have.
#[derive(Debug)]
pub(crate) struct Turn {
    /// Whose custom it is.
    custom: AtomicUsize,
    /// Whether the one whose custom it is is in; written by it alone.
    in_by_custom: AtomicBool,
    /// Whether another is.
    taken: AtomicBool,
}

/// Somebody's turn, to be given back.
#[derive(Debug)]
pub(crate) struct Taken<'a>(&'a AtomicBool);

impl Drop for Taken<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// What no two threads that live have alike, and costs nothing to ask for.
#[inline]
fn this_thread() -> usize {
    let pointer: usize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the first word of a thread's block is its own address (System V ABI for thread-local storage, variant II).
    unsafe {
        std::arch::asm!("mov {}, fs:0", out(reg) pointer, options(nostack, pure, readonly, preserves_flags));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the register that holds the thread's pointer may be read anywhere.
    unsafe {
        std::arch::asm!("mrs {}, tpidr_el0", out(reg) pointer, options(nomem, nostack, pure, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        thread_local!(static HERE: u64 = const { 0 });
        pointer = HERE.with(|here| std::ptr::from_ref(here).addr());
    }
    pointer
}

impl Turn {
    pub(crate) fn new() -> Self {
        let custom = if barrier::register_own() { NOBODY } else { EVERYBODY };
        Turn {
            custom: AtomicUsize::new(custom),
            in_by_custom: AtomicBool::new(false),
            taken: AtomicBool::new(false),
        }
    }

    /// The turn, where nobody has it.
    #[inline]
    pub(crate) fn take(&self) -> Option<Taken<'_>> {
        let me = this_thread();
        if self.custom.load(Ordering::Relaxed) == me && !self.in_by_custom.load(Ordering::Relaxed) {
            self.in_by_custom.store(true, Ordering::Relaxed);
            // The processor may still let the load pass the store; whoever ends the custom passes the fence for both.
            compiler_fence(Ordering::SeqCst);
            if self.custom.load(Ordering::Relaxed) == me {
                return Some(Taken(&self.in_by_custom));
            }
            self.in_by_custom.store(false, Ordering::Release);
        }
        self.take_slowly(me)
    }

    #[cold]
    #[inline(never)]
    fn take_slowly(&self, me: usize) -> Option<Taken<'_>> {
        match self.custom.load(Ordering::Acquire) {
            // In already, and called again from within.
            custom if custom == me => return None,
            NOBODY => {
                let first =
                    self.custom.compare_exchange(NOBODY, me, Ordering::AcqRel, Ordering::Acquire).is_ok();
                if first {
                    return self.take();
                }
                return self.take_slowly(me);
            }
            EVERYBODY => {}
            _ => {
                self.custom.store(EVERYBODY, Ordering::SeqCst);
                if !barrier::fence_for_own() {
                    // A sandbox that has come since. No processor keeps a store to itself for that long.
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            }
        }
        if self.taken.swap(true, Ordering::Acquire) {
            return None;
        }
        let turn = Taken(&self.taken);
        // Whose custom it was may be in still, and looks no more once it is out.
        if self.in_by_custom.load(Ordering::Acquire) {
            return None;
        }
        Some(turn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::UnsafeCell;

    struct Shared {
        turn: Turn,
        value: UnsafeCell<[u64; 2]>,
    }

    // SAFETY: the value is touched by whoever has the turn.
    unsafe impl Sync for Shared {}

    #[test]
    fn one_thread_takes_it_again_and_again_but_not_twice_at_once() {
        let turn = Turn::new();
        for _ in 0..3 {
            let taken = turn.take();
            assert!(taken.is_some());
            assert!(turn.take().is_none(), "from within");
        }
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let taken = turn.take();
                assert!(taken.is_some() && turn.take().is_none());
            });
        });
        assert!(turn.take().is_some(), "and the first one after another");
    }

    #[test]
    fn who_comes_while_another_is_in_is_sent_away() {
        let turn = Turn::new();
        let taken = turn.take().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| assert!(turn.take().is_none()));
        });
        drop(taken);
        std::thread::scope(|scope| {
            scope.spawn(|| assert!(turn.take().is_some()));
        });
    }

    /// The first comes and goes as fast as it can when another comes for the first time, ever again.
    #[test]
    fn never_are_two_in_at_once() {
        for round in 0..300u32 {
            let shared = Shared { turn: Turn::new(), value: UnsafeCell::new([0; 2]) };
            let shared = &shared; // all of it, not what is in it
            let enter = || {
                let Some(_taken) = shared.turn.take() else { return 0 };
                // SAFETY: this thread has the turn.
                let value = unsafe { &mut *shared.value.get() };
                assert_eq!(value[0], value[1], "somebody else is in");
                value[0] += 1;
                std::hint::black_box(&mut *value);
                value[1] += 1;
                1
            };
            let entered: u64 = std::thread::scope(|scope| {
                let enter = &enter;
                let first = scope.spawn(move || (0..20_000).map(|_| enter()).sum::<u64>());
                let other = |after: u32| {
                    scope.spawn(move || {
                        (0..after).for_each(|_| std::hint::spin_loop());
                        (0..2_000).map(|_| enter()).sum::<u64>()
                    })
                };
                let others = [other(round * 7), other(round * 31)];
                first.join().unwrap() + others.map(|other| other.join().unwrap()).iter().sum::<u64>()
            });
            // SAFETY: the others are gone.
            assert_eq!(unsafe { *shared.value.get() }, [entered; 2]);
        }
    }
}
