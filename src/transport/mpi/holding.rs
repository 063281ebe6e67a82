//! What MPI has of an operation, until it gives that back.

use super::call::{Checked, Refusal, Request};
use super::collective::{Custom, Lists, Type};
use super::library::Turn;
use crate::collective::Fingerprint;
use std::fmt;
use std::mem::ManuallyDrop;

/// Memory of a backend's own that operations pass through, one after another. Aligned for every element, and for a line of the caches.
#[derive(Default)]
pub(crate) struct Stage(Vec<Line>);

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line {
    _bytes: [u8; Line::SIZE],
}

impl Line {
    const SIZE: usize = 64;
}

impl Stage {
    /// The first of this many bytes, and of one at least. What was there is lost where it must grow.
    pub(crate) fn bytes(&mut self, length: usize) -> *mut u8 {
        let lines = length.div_ceil(Line::SIZE).max(1);
        if self.0.len() < lines {
            // Not both at once.
            self.0 = Vec::new();
            self.0 = vec![Line { _bytes: [0; Line::SIZE] }; lines];
        }
        self.0.as_mut_ptr().cast()
    }

    /// How many bytes it holds.
    pub(crate) fn held(&self) -> usize {
        self.0.len() * Line::SIZE
    }
}

/// The memory that MPI may have, and how to know when it has not any more. While MPI has it, it is never freed: who lets go of it
/// too early leaks it.
#[derive(Default)]
pub(crate) struct Holding {
    memory: ManuallyDrop<Memory>,
    /// What is under way.
    pub(crate) requests: Vec<Request>,
    /// The request of an incoming header, where one is waited for.
    pub(crate) header: Option<Request>,
    /// MPI has failed within: nobody knows what of it still goes on.
    failed: Option<Refusal>,
}

pub(crate) struct Memory {
    /// For inputs and for outputs.
    pub(crate) stages: [Stage; 2],
    pub(crate) lists: Lists,
    /// What goes ahead of a message, and what has come ahead of one; for a round of agreement, those of all ranks.
    pub(crate) own: Box<[u8; Fingerprint::SIZE]>,
    pub(crate) theirs: Vec<u8>,
    pub(crate) custom: Option<Box<Custom>>,
    pub(crate) types: Vec<Type>,
}

impl Default for Memory {
    fn default() -> Self {
        Memory {
            stages: Default::default(),
            lists: Lists::default(),
            own: Box::new([0; Fingerprint::SIZE]),
            theirs: Vec::new(),
            custom: None,
            types: Vec::new(),
        }
    }
}

impl Holding {
    pub(crate) fn memory(&mut self) -> &mut Memory {
        &mut self.memory
    }

    /// Whether all that is under way is done, but for a header. Tells of the first failure.
    #[inline]
    pub(crate) fn look(&mut self, turn: &Turn) -> Checked<bool> {
        if let Some(refusal) = &self.failed {
            return Err(refusal.clone());
        }
        while let Some(last) = self.requests.last_mut() {
            match last.is_done(turn) {
                Ok(true) => drop(self.requests.pop()),
                Ok(false) => return Ok(false),
                Err(refusal) => return Err(self.failed.insert(refusal).clone()),
            }
        }
        Ok(true)
    }

    /// Whether a header that is waited for has come. Where it has, it is still to be [looked for](Holding::look_for_header).
    pub(crate) fn peek_for_header(&mut self, turn: &Turn) -> Checked<bool> {
        if let Some(refusal) = &self.failed {
            return Err(refusal.clone());
        }
        match self.header.as_mut().map_or(Ok(false), |header| header.is_done(turn)) {
            Ok(come) => Ok(come),
            Err(refusal) => Err(self.failed.insert(refusal).clone()),
        }
    }

    /// Whether a header that is waited for has come.
    pub(crate) fn look_for_header(&mut self, turn: &Turn) -> Checked<bool> {
        let come = self.peek_for_header(turn)?;
        if come {
            self.header = None;
        }
        Ok(come)
    }

    /// MPI has failed in a call that has this memory.
    #[cold]
    pub(crate) fn fail(&mut self, refusal: Refusal) {
        self.failed.get_or_insert(refusal);
    }

    /// Whether MPI has nothing of it, as far as is known.
    pub(crate) fn is_free(&self) -> bool {
        self.requests.is_empty() && self.header.is_none() && self.failed.is_none()
    }

    /// The same, after a look.
    pub(super) fn is_over(&mut self, turn: &Turn) -> bool {
        let _ = self.look_for_header(turn);
        matches!(self.look(turn), Ok(true)) && self.is_free()
    }

    /// Frees what an operation has made, after its end.
    #[inline]
    pub(crate) fn clean(&mut self, turn: &Turn) {
        debug_assert!(self.is_free());
        if !self.memory.types.is_empty() {
            self.memory.types.drain(..).for_each(|made| made.free(turn));
        }
        self.memory.custom = None;
    }

    /// How much memory passes through it.
    pub(crate) fn bytes(&self) -> usize {
        self.memory.stages.iter().map(Stage::held).sum()
    }

    /// Leaves it to MPI, where it stays until that is done with it.
    pub(crate) fn abandon(mut self: Box<Self>, turn: &mut Turn) {
        if self.is_free() {
            self.clean(turn);
        } else {
            turn.spoilt = true;
            // What MPI has lies behind vectors and boxes, which stay where they are.
            turn.held.push(*self);
        }
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        if self.is_free() {
            // SAFETY: it is not used after this, and MPI has nothing of it.
            unsafe { ManuallyDrop::drop(&mut self.memory) };
        }
    }
}

impl fmt::Debug for Holding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Holding").field("requests", &self.requests.len()).finish_non_exhaustive()
    }
}
