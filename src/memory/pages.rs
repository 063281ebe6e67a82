//! Whole pages of this process: made beside others, and put in their place in one step.

use super::{LARGE_PAGE, PAGE, Segment};
use crate::error::{Error, Result};
use nix::errno::Errno;
use nix::sys::mman::{
    MRemapFlags, MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, mremap, munmap,
};
use std::ffi::c_void;
use std::fmt;
use std::mem::ManuallyDrop;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

const READ_AND_WRITE: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);

/// A mapping of its own, page-aligned and at least a page long, unmapped when dropped.
///
/// Send and Sync: what lies in it is reached by raw pointers only.
pub struct Pages {
    at: NonNull<c_void>,
    len: NonZeroUsize,
}

// SAFETY: a mapping belongs to the process, not to a thread; its contents are reached by raw pointers, each use of which
// argues for itself.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Pages {
    /// Private memory of this many bytes, rounded up to whole pages, zeroed. The system gives it when it is touched.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) where the system refuses so much.
    ///
    /// ```
    /// use ringfold::memory::{PAGE, Pages};
    /// let pages = Pages::zeroed(5000)?;
    /// assert_eq!((pages.len(), pages.address().addr() % PAGE), (2 * PAGE, 0));
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    pub fn zeroed(len: usize) -> Result<Pages> {
        let refused = |error| Error::io(format!("taking {len} bytes of memory"), error);
        let whole = len.max(1).checked_next_multiple_of(PAGE).and_then(NonZeroUsize::new);
        let whole = whole.ok_or_else(|| refused(Errno::ENOMEM))?;
        // SAFETY: a new mapping at an address of the system's choice touches no memory that is in use.
        let at = unsafe { mmap_anonymous(None, whole, READ_AND_WRITE, MapFlags::MAP_PRIVATE) };
        Ok(Pages { at: at.map_err(refused)?, len: whole })
    }

    /// The same in large pages, where the system has some to give: aligned to [`LARGE_PAGE`], and rounded up to whole ones.
    ///
    /// # Errors
    /// As [`zeroed`](Pages::zeroed).
    ///
    /// ```
    /// use ringfold::memory::{LARGE_PAGE, Pages};
    /// let pages = Pages::large(5000)?;
    /// assert_eq!((pages.len(), pages.address().addr() % LARGE_PAGE), (LARGE_PAGE, 0));
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    pub fn large(len: usize) -> Result<Pages> {
        let refused = || Error::io(format!("taking {len} bytes of memory"), Errno::ENOMEM);
        let whole = len.max(1).checked_next_multiple_of(LARGE_PAGE).ok_or_else(refused)?;
        let Pages { at, len: mapped } =
            &*ManuallyDrop::new(Pages::zeroed(whole.checked_add(LARGE_PAGE).ok_or_else(refused)?)?);
        let (start, end) = (at.addr().get(), at.addr().get() + mapped.get());
        let first = start.next_multiple_of(LARGE_PAGE);
        let part = |from: usize, to: usize| {
            let len = NonZeroUsize::new(to - from)?;
            Some(Pages { at: at.with_addr(NonZeroUsize::new(from)?), len })
        };
        // What is too much in front and behind goes at once.
        drop((part(start, first), part(first + whole, end)));
        let pages = part(first, first + whole).ok_or_else(refused)?;
        // SAFETY: advice on memory of its own. Where it is not taken, these are ordinary pages.
        let _ = unsafe { madvise(pages.at, pages.len.get(), MmapAdvise::MADV_HUGEPAGE) };
        Ok(pages)
    }

    /// Private memory of this many bytes: in large pages where it fills them, but for a quarter of its length at most.
    pub(crate) fn of_fitting_size(len: usize) -> Result<Pages> {
        let over = len.checked_next_multiple_of(LARGE_PAGE).map_or(usize::MAX, |whole| whole - len);
        if len > 0 && over <= len / 4 { Pages::large(len) } else { Pages::zeroed(len) }
    }

    /// The address of the first byte.
    pub fn address(&self) -> *mut u8 {
        self.at.as_ptr().cast()
    }

    /// How many bytes they are.
    pub fn len(&self) -> usize {
        self.len.get()
    }

    /// Never: there is a page at least.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Puts these in the place of others, as one step to every other thread. Whatever the system may refuse for want of
    /// memory it has refused before, when these were made; so this leaves no hole where it fails.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) where the system refuses; then the others are still there.
    ///
    /// # Safety
    /// `at` is the page-aligned address of as many mapped bytes, and nobody relies on anything in them that these do not
    /// hold as well.
    pub(crate) unsafe fn put(self, at: *mut u8) -> Result<()> {
        let (from, len) = (self.at, self.len.get());
        let flags = MRemapFlags::MREMAP_MAYMOVE | MRemapFlags::MREMAP_FIXED;
        // SAFETY: the mapping is this value's own; what is replaced is the caller's to give.
        let moved = unsafe { mremap(from, len, len, flags, NonNull::new(at.cast())) };
        moved.map_err(|error| Error::io("putting pages in the place of others", error))?;
        // They are at their new address, and nobody's here.
        std::mem::forget(self);
        Ok(())
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and whoever holds an address into it holds this.
        if let Err(error) = unsafe { munmap(self.at, self.len.get()) } {
            tracing::warn!(%error, "memory stays mapped");
        }
    }
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages").field("len", &self.len).finish_non_exhaustive()
    }
}

/// Other views of a segment's pages than its own mapping.
impl Segment {
    /// The same pages once more: what is written in one place is there in the other.
    pub(crate) fn view(&self, range: Range<usize>) -> Result<Pages> {
        self.map_again(range, MapFlags::MAP_SHARED | MapFlags::MAP_POPULATE)
    }

    /// The same pages until they are written, or [made one's own](make_own): from then on a copy.
    pub(crate) fn private_view(&self, range: Range<usize>) -> Result<Pages> {
        self.map_again(range, MapFlags::MAP_PRIVATE)
    }

    fn map_again(&self, range: Range<usize>, flags: MapFlags) -> Result<Pages> {
        let (start, len) = self.pages(&range);
        let refused = |error| Error::io("mapping shared memory", error);
        let len = NonZeroUsize::new(len as usize).ok_or_else(|| refused(Errno::EINVAL))?;
        // SAFETY: a new mapping at an address of the system's choice touches no memory that is in use.
        let at = unsafe { mmap(None, len, READ_AND_WRITE, flags, self.descriptor(), start) };
        Ok(Pages { at: at.map_err(refused)?, len })
    }
}

/// Copies the pages of a private view now, rather than when they are written. Other threads may use them meanwhile.
///
/// # Errors
/// [`Io`](crate::ErrorKind::Io) where there is no memory for it.
///
/// # Safety
/// `at` is the page-aligned address of `len` mapped bytes that can be written.
pub(crate) unsafe fn make_own(at: *mut u8, len: usize) -> Result<()> {
    let Some(start) = NonNull::new(at.cast::<c_void>()) else { return Ok(()) };
    // SAFETY: the range is mapped (the caller's promise), and the advice changes no contents.
    match unsafe { madvise(start, len, MmapAdvise::MADV_POPULATE_WRITE) } {
        Ok(()) => Ok(()),
        // Kernels before 5.14.
        Err(Errno::EINVAL) => {
            for page in (0..len).step_by(PAGE) {
                // SAFETY: the byte is mapped; an addition of nothing is no change to whoever else writes it.
                unsafe { AtomicU8::from_ptr(at.add(page)) }.fetch_add(0, Ordering::Relaxed);
            }
            Ok(())
        }
        Err(error) => Err(Error::io("copying what was shared", error)),
    }
}

/// Gives the private memory of a range back to the system; the range stays mapped.
///
/// # Safety
/// `at` is the page-aligned address of `len` mapped bytes, which nobody relies on.
pub(crate) unsafe fn discard(at: *mut u8, len: usize) {
    let Some(start) = NonNull::new(at.cast::<c_void>()) else { return };
    // SAFETY: nobody relies on the contents (the caller's promise).
    if let Err(error) = unsafe { madvise(start, len, MmapAdvise::MADV_DONTNEED) } {
        tracing::debug!(%error, "memory that nobody needs is kept");
    }
}

/// Why a range is no ordinary memory of this process alone, if it is none.
///
/// # Errors
/// [`Io`](crate::ErrorKind::Io) where the system does not say what is mapped.
pub(crate) fn not_ordinary(range: Range<usize>) -> Result<Option<String>> {
    let maps = std::fs::read_to_string("/proc/self/maps")
        .map_err(|error| Error::io("reading /proc/self/maps", error))?;
    Ok(first_other(&maps, range))
}

fn first_other(maps: &str, range: Range<usize>) -> Option<String> {
    let mut from = range.start;
    for line in maps.lines() {
        let mut fields = line.split_ascii_whitespace();
        let (place, may, inode) = (fields.next()?, fields.next()?, fields.nth(2)?);
        let (start, end) = place.split_once('-')?;
        let start = usize::from_str_radix(start, 16).ok()?;
        let end = usize::from_str_radix(end, 16).ok()?;
        if end <= from {
            continue;
        }
        if start > from {
            break;
        }
        if may.get(..2) != Some("rw") || !may.ends_with('p') || inode != "0" {
            let file = fields.next().unwrap_or("");
            return Some(format!("the system knows it as {may} {file}").trim_end().to_owned());
        }
        from = end;
        if from >= range.end {
            return None;
        }
    }
    Some(format!("nothing is mapped at {from:#x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ordinary_memory_is_ordinary() {
        let maps = "\
            1000-2000 r--p 00000000 08:01 12 /usr/bin/true\n\
            2000-4000 rw-p 00000000 00:00 0 [heap]\n\
            4000-5000 rw-p 00000000 00:00 0\n\
            5000-6000 rw-s 00000000 00:01 7 /memfd:ringfold (deleted)\n\
            7000-8000 rw-p 00000000 00:00 0 [anon:mine]\n";
        assert_eq!(first_other(maps, 0x2000..0x4000), None);
        assert_eq!(first_other(maps, 0x3000..0x5000), None);
        assert_eq!(first_other(maps, 0x7000..0x8000), None);
        for (range, why) in [
            (0x1000..0x2000, "/usr/bin/true"),
            (0x4000..0x6000, "memfd"),
            (0x6000..0x8000, "nothing is mapped at 0x6000"),
            (0x7000..0x9000, "nothing is mapped at 0x8000"),
        ] {
            let other = first_other(maps, range.clone()).unwrap();
            assert!(other.contains(why), "{range:x?}: {other}");
        }
        let own = Pages::zeroed(3 * PAGE).unwrap();
        let start = own.address().addr();
        assert_eq!(not_ordinary(start..start + 3 * PAGE).unwrap(), None);
    }

    #[test]
    fn far_too_much_is_refused() {
        for len in [1 << 60, usize::MAX] {
            assert_eq!(Pages::zeroed(len).unwrap_err().kind(), crate::ErrorKind::Io);
        }
    }

    #[test]
    fn a_private_view_is_the_segments_until_it_is_made_ones_own() {
        let segment = Segment::create(4 * PAGE).unwrap();
        segment.commit(0..4 * PAGE).unwrap();
        let view = segment.private_view(PAGE..3 * PAGE).unwrap();
        // SAFETY: all addresses are in mappings that this test has to itself, and read and written by one thread.
        unsafe {
            let shared = segment.address(PAGE);
            shared.write_volatile(1);
            assert_eq!(view.address().read_volatile(), 1);
            make_own(view.address(), view.len()).unwrap();
            shared.write_volatile(2);
            assert_eq!(view.address().read_volatile(), 1);
            // Nor is it gone when the segment's memory is.
            assert!(segment.release(0..4 * PAGE));
            assert_eq!(view.address().read_volatile(), 1);
            assert_eq!(shared.read_volatile(), 0);
        }
    }
}
