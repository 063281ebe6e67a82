//! What the protocols of this room are made of: the loom tests put loom's in their place.

pub(super) use crate::memory::{barrier, futex};
pub(super) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, compiler_fence, fence};
