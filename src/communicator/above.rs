//! What the rooms above may know of a communicator, besides what everybody may.

use super::{Communicator, Options, With};
use crate::backend::Meter;
use crate::transport::control::Reporter;
use std::sync::Arc;

impl Communicator {
    /// What tells the store's host of this rank's work; `None` among threads, which have no store.
    pub(crate) fn reporter(&self) -> Option<Reporter> {
        self.kind.reporter().cloned()
    }

    /// What [`counters`](Communicator::counters) reads, for those who read it on another thread.
    pub(crate) fn meter(&self) -> Arc<Meter> {
        Arc::clone(&self.line.meter)
    }

    /// The verbs for tensors that are the library's own: no other library may keep them after the call.
    pub(crate) fn over_own_memory(&self) -> With<'_> {
        self.with(Options { reused: true, ..Options::default() })
    }
}
