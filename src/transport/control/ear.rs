//! Whoever wants to know what ranks tell of their work.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Hears what a rank tells: the rank, and its message.
pub type Hear = dyn Fn(usize, &[u8]) + Send + Sync;

/// A function that hears what ranks tell: the rank, and its message of at most 16 KiB, as it came.
///
/// It is called on the store's thread, which watches over the group meanwhile: it must not block. Where it panics it is
/// not called again, and the group goes on. It hears nothing of a rank after that has left. Send, Sync and Clone.
#[derive(Clone)]
pub struct Ear(Arc<Hear>);

impl Ear {
    /// The ear that this function is.
    pub fn new(hear: Arc<Hear>) -> Self {
        Ear(hear)
    }

    /// One for two, of which this hears first. Where one panics the other is told nevertheless.
    pub(crate) fn and(self, other: Ear) -> Ear {
        let both = [(self, AtomicBool::new(false)), (other, AtomicBool::new(false))];
        Ear::new(Arc::new(move |rank, message| {
            for (ear, deaf) in &both {
                if !deaf.load(Ordering::Relaxed) && !ear.hear(rank, message) {
                    deaf.store(true, Ordering::Relaxed);
                }
            }
        }))
    }

    /// Passes a message on. False where the function has panicked.
    pub(crate) fn hear(&self, rank: usize, message: &[u8]) -> bool {
        let heard = catch_unwind(AssertUnwindSafe(|| (self.0)(rank, message))).is_ok();
        if !heard {
            tracing::warn!(rank, "whoever hears what ranks tell has panicked, and is told no more");
        }
        heard
    }
}

impl fmt::Debug for Ear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ear")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn of_two_one_may_panic_and_is_told_no_more() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let ear = |name: &'static str, panics: bool| {
            let heard = Arc::clone(&heard);
            Ear::new(Arc::new(move |rank, message: &[u8]| {
                heard.lock().unwrap().push((name, rank, message.len()));
                assert!(!panics, "on purpose");
            }))
        };
        let both = ear("first", true).and(ear("second", false));
        assert!(both.hear(3, b"ab"));
        assert!(both.hear(4, b""));
        assert_eq!(*heard.lock().unwrap(), [("first", 3, 2), ("second", 3, 2), ("second", 4, 0)]);
    }
}
