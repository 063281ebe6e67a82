//! The protocols of shared memory under a model checker: the very files of the library, with loom's atomics in the place
//! of the machine's. Every interleaving of a few threads is gone through, and every value that the memory model
//! lets a load see.

/// The room of the library that the protocols are in, as far as they need it.
mod shm {
    mod sync {
        pub(super) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

        /// The kernel's part: whoever waits sleeps until it is woken, unless the word has moved.
        pub(super) mod futex {
            use super::{AtomicU32, Ordering};
            use loom::sync::{Condvar, Mutex};
            use std::time::Duration;

            loom::lazy_static! {
                static ref SLEEPERS: (Mutex<()>, Condvar) = (Mutex::new(()), Condvar::new());
            }

            pub(in crate::shm) fn wait(word: &AtomicU32, seen: u32, _: Option<Duration>) {
                let guard = SLEEPERS.0.lock().unwrap();
                if word.load(Ordering::SeqCst) == seen {
                    drop(SLEEPERS.1.wait(guard).unwrap());
                }
            }

            pub(in crate::shm) fn wake(_: &AtomicU32) {
                drop(SLEEPERS.0.lock().unwrap());
                SLEEPERS.1.notify_all();
            }
        }
    }

    #[path = "../../../src/transport/shm/bell.rs"]
    mod bell;
    #[path = "../../../src/transport/shm/ring.rs"]
    mod ring;

    mod bells;
    mod rings;
}
