//! Whoever wants to know what ranks tell of their work.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

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

    /// Passes a message on. False where the function has panicked.
    pub(super) fn hear(&self, rank: usize, message: &[u8]) -> bool {
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
