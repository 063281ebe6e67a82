//! The segment as miri has it, which knows no anonymous files: memory of the heap, for the threads that share the value.
//!
//! So the protocols of shared memory run under miri as they are, which sees every access to it. It cannot be opened a second time.

use crate::error::{Error, Result};
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr::NonNull;

/// Zeroed memory of the heap.
///
/// Send and Sync: what lies in it is reached by raw pointers only.
pub struct Segment {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: memory belongs to the process, not to a thread; its contents are reached by raw pointers, each use of which argues for
// itself.
unsafe impl Send for Segment {}
// SAFETY: as above.
unsafe impl Sync for Segment {}

impl Segment {
    /// So many bytes, rounded up to whole pages.
    pub fn create(len: usize) -> Result<Segment> {
        let whole = len.max(1).checked_next_multiple_of(super::PAGE);
        let layout = whole.and_then(|len| Layout::from_size_align(len, super::PAGE).ok());
        let layout = layout.ok_or_else(|| Error::invalid(format!("shared memory of {len} bytes")))?;
        // SAFETY: the layout has a page at least.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) });
        Ok(Segment { base: base.unwrap_or_else(|| handle_alloc_error(layout)), layout })
    }

    /// Always an error.
    pub fn open(_: OwnedFd, _: usize) -> Result<Segment> {
        Err(Error::unsupported("a segment of another process under miri"))
    }

    /// There is none: a panic.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        unimplemented!("miri has no anonymous files")
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.layout.size()
    }

    /// Never: it has a page at least.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The address of a byte.
    pub fn address(&self, offset: usize) -> *mut u8 {
        assert!(offset < self.len(), "offset {offset} in a segment of {} bytes", self.len());
        self.base.as_ptr().wrapping_add(offset)
    }

    /// All of it is there.
    pub fn commit(&self, range: Range<usize>) -> Result<()> {
        self.pages(&range);
        Ok(())
    }

    /// All of it is there.
    pub fn populate(&self, range: Range<usize>) {
        self.pages(&range);
    }

    /// Makes it zeroes, by plain writes: whoever still looks there has a race, which miri sees.
    pub fn release(&self, range: Range<usize>) -> bool {
        self.pages(&range);
        // SAFETY: the range lies in this memory; that nobody else touches it is what is tried.
        unsafe { self.address(range.start).write_bytes(0, range.len()) };
        true
    }

    /// Always an error.
    ///
    /// # Safety
    /// None is needed.
    pub unsafe fn isolate(&self, _: Range<usize>) -> Result<()> {
        Err(Error::unsupported("isolating under miri"))
    }

    /// As of the segment that is a file.
    pub(super) fn pages(&self, range: &Range<usize>) -> (nix::libc::off_t, nix::libc::off_t) {
        let whole = |at: usize| at.is_multiple_of(super::PAGE);
        assert!(
            range.start < range.end && range.end <= self.len() && whole(range.start) && whole(range.end),
            "{range:?} is no range of pages in a segment of {} bytes",
            self.len()
        );
        (range.start as nix::libc::off_t, range.len() as nix::libc::off_t)
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // SAFETY: the memory is this value's own, and whoever holds an address into it holds this.
        unsafe { dealloc(self.base.as_ptr(), self.layout) };
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment").field("len", &self.len()).finish_non_exhaustive()
    }
}
