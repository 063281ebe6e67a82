//! The protocol of a byte ring between one sender and one receiver: two counters, one written by each.
//!
//! The counters count bytes from the beginning and never wrap; a byte lies at its number modulo the capacity. The sender
//! stores `head` with release after it has written bytes, and the receiver loads it with acquire before it reads them; the
//! receiver stores `tail` with release after it has read, and the sender loads it with acquire before it writes over
//! them. Each looks at the other's counter only when what it has seen of it no longer suffices, so that the line of a
//! counter travels once for many bytes.

use super::sync::{AtomicU64, Ordering};

/// What the other side's counter says cannot be: the memory is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Garbled;

/// The sender's end.
#[derive(Debug, Default)]
pub(super) struct Sender {
    written: u64,
    /// `tail` as it was seen last.
    read: u64,
}

impl Sender {
    /// How many bytes can be written, looking at the receiver's counter where less than `wanted` is known to be free.
    pub(super) fn room(&mut self, tail: &AtomicU64, capacity: u64, wanted: u64) -> Result<u64, Garbled> {
        if capacity - (self.written - self.read) < wanted.min(capacity) {
            let read = tail.load(Ordering::Acquire);
            if read > self.written || read < self.read {
                return Err(Garbled);
            }
            self.read = read;
        }
        Ok(capacity - (self.written - self.read))
    }

    /// The number of the next byte.
    pub(super) fn at(&self) -> u64 {
        self.written
    }

    /// Shows the receiver so many more bytes, which have been written.
    pub(super) fn publish(&mut self, head: &AtomicU64, bytes: u64) {
        self.written += bytes;
        head.store(self.written, Ordering::Release);
    }
}

/// The receiver's end.
#[derive(Debug, Default)]
pub(super) struct Receiver {
    read: u64,
    /// `head` as it was seen last.
    written: u64,
}

impl Receiver {
    /// How many bytes can be read, looking at the sender's counter where less than `wanted` is known to be there.
    pub(super) fn there(&mut self, head: &AtomicU64, capacity: u64, wanted: u64) -> Result<u64, Garbled> {
        if self.written - self.read < wanted.min(capacity) {
            let written = head.load(Ordering::Acquire);
            if written < self.written || written - self.read > capacity {
                return Err(Garbled);
            }
            self.written = written;
        }
        Ok(self.written - self.read)
    }

    /// The number of the next byte.
    pub(super) fn at(&self) -> u64 {
        self.read
    }

    /// Gives the sender the room of so many bytes, which have been read.
    pub(super) fn consume(&mut self, tail: &AtomicU64, bytes: u64) {
        assert!(bytes <= self.written - self.read, "more is consumed than was there");
        self.read += bytes;
        tail.store(self.read, Ordering::Release);
    }
}
