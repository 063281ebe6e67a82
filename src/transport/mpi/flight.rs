//! Buffers that MPI has, until it gives them back.

use super::call::{Checked, Comm, Found, Request};
use super::library::Turn;
use std::mem::ManuallyDrop;

/// A buffer, and what MPI does with it. It is never freed while MPI has it: who lets go of it too early leaks it.
pub(super) struct Flight {
    request: Request,
    buffer: ManuallyDrop<Vec<u8>>,
    over: bool,
}

impl Flight {
    /// Begins to send this buffer. With `matched` it is over only when the receiver has asked for it.
    pub(super) fn send(
        buffer: Vec<u8>,
        comm: Comm,
        to: usize,
        tag: usize,
        matched: bool,
        turn: &Turn,
    ) -> Checked<Flight> {
        let buffer = ManuallyDrop::new(buffer);
        // SAFETY: the buffer is not touched before the request is done, nor freed: see `reclaim` and the type.
        let request = unsafe { comm.send(buffer.as_ptr(), buffer.len(), to, tag, matched, turn) }?;
        Ok(Flight { request, buffer, over: false })
    }

    /// Begins to receive a message that was found, into this buffer, which is made as long as that.
    pub(super) fn receive(found: Found, mut buffer: Vec<u8>, turn: &Turn) -> Checked<Flight> {
        buffer.resize(found.bytes, 0);
        let mut buffer = ManuallyDrop::new(buffer);
        // SAFETY: the buffer has this length, and is not touched before the request is done, nor freed.
        let request = unsafe { found.receive(buffer.as_mut_ptr(), turn) }?;
        Ok(Flight { request, buffer, over: false })
    }

    /// Whether MPI has let go of it; a request that MPI has failed is over too.
    pub(super) fn is_over(&mut self, turn: &Turn) -> bool {
        self.look(turn).unwrap_or(true)
    }

    /// The same, with what has become of it.
    pub(super) fn look(&mut self, turn: &Turn) -> Checked<bool> {
        if !self.over {
            match self.request.is_done(turn) {
                Ok(done) => self.over = done,
                Err(refusal) => {
                    // A failed request is MPI's no more.
                    self.over = true;
                    return Err(refusal);
                }
            }
        }
        Ok(self.over)
    }

    /// Its bytes, where it is over.
    pub(super) fn bytes(&self) -> &[u8] {
        if self.over { &self.buffer } else { &[] }
    }

    /// How many bytes it has.
    pub(super) fn len(&self) -> usize {
        self.buffer.len()
    }

    /// The buffer of one that is over, to be used again.
    pub(super) fn reclaim(mut self) -> Vec<u8> {
        if self.over {
            return std::mem::take(&mut *self.buffer);
        }
        Vec::new()
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if self.over {
            // SAFETY: it is not used after this, and MPI has let go of it.
            unsafe { ManuallyDrop::drop(&mut self.buffer) };
        }
    }
}
