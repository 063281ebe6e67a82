//! Memory for results, which becomes Arrow's.

use crate::communicator::Communicator;
use crate::error::Result;
use crate::memory::{LARGE_PAGE, Recycled};
use crate::tensor::{DType, TensorMut};
use arrow_buffer::{Buffer, MutableBuffer};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

/// From how many bytes on memory is used again: less comes from the allocator quickly.
const WORTHWHILE: usize = 32 << 10;

/// Memory for a result, aligned for any type.
#[derive(Debug)]
pub(super) enum Output {
    Small(MutableBuffer),
    Large(Recycled),
}

impl Output {
    /// So many bytes, of any contents.
    pub(super) fn new(comm: &Communicator, len: usize) -> Result<Self> {
        Ok(match len {
            ..WORTHWHILE => Output::Small(MutableBuffer::from_len_zeroed(len)),
            _ => Output::Large(comm.recycler().take(len)?),
        })
    }

    /// So many bytes, by which longer ones pass a portion at a time: all of one large page, where there are many, since the system reads
    /// those of another rank with less effort. It is at least so long.
    pub(super) fn passage(comm: &Communicator, len: usize) -> Result<Self> {
        Output::new(comm, if len < WORTHWHILE { len } else { len.max(LARGE_PAGE) })
    }

    /// As a tensor of so many elements.
    pub(super) fn tensor(&mut self, dtype: DType, count: usize) -> TensorMut<'_> {
        TensorMut::from_bytes(&mut self[..count * dtype.size()], dtype)
    }

    /// As an immutable buffer. Large ones go back to the communicator when nobody has them any more.
    pub(super) fn into_buffer(self) -> Buffer {
        match self {
            Output::Small(buffer) => buffer.into(),
            Output::Large(memory) => {
                let (at, len) = (NonNull::from(&memory[..]).cast::<u8>(), memory.len());
                // SAFETY: the memory is so long and initialised, does not move with its owner, is written by nobody from here
                // on, and lives as long as its owner, which the buffer keeps.
                unsafe { Buffer::from_custom_allocation(at, len, Arc::new(memory)) }
            }
        }
    }
}

impl Deref for Output {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Output::Small(buffer) => buffer,
            Output::Large(memory) => memory,
        }
    }
}

impl DerefMut for Output {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Output::Small(buffer) => buffer,
            Output::Large(memory) => memory,
        }
    }
}
