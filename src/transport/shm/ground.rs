//! A process's part of its world's segment, and what it may not give back yet.

use super::shown::Shown;
use crate::error::Result;
use crate::memory::{Arena, Block, barrier};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

/// Where the transports of one world take memory in a process. Blocks that others may still look at are kept until those
/// have let go. Send and Sync.
#[derive(Debug)]
pub struct Ground {
    arena: Arena,
    /// Others may pass fences for this process.
    fenced: bool,
    leftovers: Mutex<Vec<Leftover>>,
    pub(super) shown: Shown,
}

/// A block that its owner needs no more.
#[derive(Debug)]
struct Leftover {
    block: Block,
    /// What is needed as long as that.
    with: Option<Block>,
    /// Where in the block a counter is, and how far that must be before nobody else needs the block either.
    counter: usize,
    needed: u32,
}

impl Leftover {
    fn is_needed(&self) -> bool {
        // SAFETY: the counter lies in the block, which is committed, and all counters are aligned.
        let counter = unsafe { AtomicU32::from_ptr(self.block.address().wrapping_add(self.counter).cast()) };
        counter.load(Ordering::Acquire) < self.needed
    }
}

impl Ground {
    /// A ground over this rank's part of the segment.
    pub fn new(arena: Arena) -> Ground {
        Ground { arena, fenced: barrier::register(), leftovers: Mutex::default(), shown: Shown::default() }
    }

    /// This rank's part of the segment.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// Whether others may pass fences for this process, and it for them.
    pub(super) fn fenced_by_others(&self) -> bool {
        self.fenced
    }

    /// Takes a block, after giving back what nobody needs any more.
    pub(super) fn take(&self, len: usize) -> Result<Block> {
        self.tidy();
        self.arena.take(len)
    }

    /// The same without memory behind it: see [`Arena::reserve`].
    pub(super) fn reserve(&self, len: usize) -> Result<Block> {
        self.tidy();
        self.arena.reserve(len)
    }

    fn tidy(&self) {
        self.leftovers.lock().unwrap_or_else(PoisonError::into_inner).retain(Leftover::is_needed);
    }

    /// Keeps a block, and another with it, until the 32-bit counter at `counter` bytes from its beginning is `needed`.
    pub(super) fn leave(&self, block: Block, with: Option<Block>, counter: usize, needed: u32) {
        let leftover = Leftover { block, with, counter, needed };
        if self.arena.is_own() && leftover.is_needed() {
            self.leftovers.lock().unwrap_or_else(PoisonError::into_inner).push(leftover);
        }
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let leftovers = self.leftovers.get_mut().unwrap_or_else(PoisonError::into_inner);
        for leftover in leftovers.drain(..).filter(Leftover::is_needed) {
            leftover.block.abandon();
            leftover.with.into_iter().for_each(Block::abandon);
        }
    }
}
