//! One anonymous file that the ranks of a host map.

use super::Pages;
use super::available::{available, is_too_much};
use crate::error::{Error, Result};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mprotect, munlock, munmap};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::fstat;
use nix::unistd::{SysconfVar, ftruncate, sysconf};
use std::ffi::c_void;
use std::fmt;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

/// Nobody can change how long it is: so nobody's access can ever fail with SIGBUS for that reason.
const SEALS: SealFlag = SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_SEAL);

/// Memory is committed so many bytes at a time: a signal undoes a portion, and what is available is looked at again.
const PORTION: usize = 64 << 20;

/// What is smaller is taken as any other memory is: what is available is an estimate, and a low one.
const NOTEWORTHY: usize = 1 << 20;

/// A sealed anonymous file, mapped as a whole. Address space only: memory is [committed](Segment::commit) by the range.
///
/// Send and Sync: what lies in it is reached by raw pointers only.
pub struct Segment {
    descriptor: OwnedFd,
    base: NonNull<u8>,
    len: NonZeroUsize,
}

// SAFETY: a mapping belongs to the process, not to a thread; its contents are reached by raw pointers, each use of which
// argues for itself.
unsafe impl Send for Segment {}
// SAFETY: as above.
unsafe impl Sync for Segment {}

impl Segment {
    /// A new segment of this many bytes of address space, rounded up to whole pages.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) where the system has no such files, no descriptor or no address space left.
    ///
    /// ```
    /// use ringfold::memory::Segment;
    /// let segment = Segment::create(1 << 20)?;
    /// let same = Segment::open(segment.descriptor().try_clone_to_owned().unwrap(), 1 << 20)?;
    /// segment.commit(4096..8192)?;
    /// // SAFETY: the page is committed, and nobody else writes it.
    /// unsafe { segment.address(5000).write(7) };
    /// assert_eq!(unsafe { same.address(5000).read() }, 7);
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    pub fn create(len: usize) -> Result<Segment> {
        let len = whole_pages(len)?;
        // Executable pages are of no use here; kernels that know no such wish refuse it.
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let noexec = MFdFlags::from_bits_retain(nix::libc::MFD_NOEXEC_SEAL);
        let descriptor = memfd_create(c"ringfold", flags | noexec)
            .or_else(|_| memfd_create(c"ringfold", flags))
            .map_err(|error| failed("making an anonymous file for shared memory", error))?;
        let size = nix::libc::off_t::try_from(len.get()).map_err(|_| too_long(len.get()))?;
        within_file_size(len.get())?;
        ftruncate(&descriptor, size).map_err(|error| failed("sizing shared memory", error))?;
        fcntl(&descriptor, FcntlArg::F_ADD_SEALS(SEALS))
            .map_err(|error| failed("sealing shared memory", error))?;
        Segment::map(descriptor, len)
    }

    /// Maps a segment that another process has made, of this length.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) where it cannot be mapped; [`InvalidArgument`](crate::ErrorKind::InvalidArgument)
    /// where it has another length, or could still be resized.
    pub fn open(descriptor: OwnedFd, len: usize) -> Result<Segment> {
        let len = whole_pages(len)?;
        let size = fstat(&descriptor)
            .map_err(|error| failed("asking for the size of shared memory", error))?
            .st_size;
        if usize::try_from(size) != Ok(len.get()) {
            return Err(Error::invalid(format!("shared memory of {size} bytes where {len} are expected")));
        }
        within_file_size(len.get())?;
        let seals = fcntl(&descriptor, FcntlArg::F_GET_SEALS)
            .map_err(|error| failed("asking for the seals of shared memory", error))?;
        if !SealFlag::from_bits_retain(seals).contains(SEALS) {
            return Err(Error::invalid("shared memory that is not sealed against resizing"));
        }
        Segment::map(descriptor, len)
    }

    fn map(descriptor: OwnedFd, len: NonZeroUsize) -> Result<Segment> {
        #[cfg(not(ringfold_tsan))]
        let base = map(&descriptor, len)?;
        #[cfg(ringfold_tsan)]
        let base = super::one_mapping::of(&descriptor, || map(&descriptor, len))?;
        Ok(Segment { descriptor, base, len })
    }

    /// What another process [opens](Segment::open) it by.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.len.get()
    }

    /// Never: a segment has a page at least.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The address of a byte in this process.
    ///
    /// # Panics
    /// Where the offset is beyond the end.
    pub fn address(&self, offset: usize) -> *mut u8 {
        assert!(offset < self.len.get(), "offset {offset} in a segment of {} bytes", self.len);
        self.base.as_ptr().wrapping_add(offset)
    }

    /// Gives a range of pages real memory, zeroed where it had none, for all processes, and maps it in this one. After
    /// this no access to it fails for want of memory.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) where there is not so much memory; then it has none of it.
    pub fn commit(&self, range: Range<usize>) -> Result<()> {
        let len = range.len();
        let mut from = range.start;
        while from < range.end {
            let part = from..range.end.min(from + PORTION);
            if let Err(error) = self.commit_portion(part.clone(), range.end - from) {
                self.release(range.start..part.end);
                return Err(failed(&format!("taking {len} bytes of shared memory"), error)
                    .remedy("free memory, or raise the memory limit of the control group"));
            }
            from = part.end;
        }
        self.populate(range);
        Ok(())
    }

    /// The same of a part, after which `ahead` bytes, itself among them, are to be committed.
    fn commit_portion(&self, part: Range<usize>, ahead: usize) -> nix::Result<()> {
        // Asked first: the system would not refuse, but kill somebody.
        if ahead >= NOTEWORTHY && is_too_much(ahead as u64, available()) {
            return Err(Errno::ENOMEM);
        }
        let (start, len) = self.pages(&part);
        retried(|| fallocate(&self.descriptor, FallocateFlags::empty(), start, len))
    }

    /// Maps a range of committed pages in this process now rather than when they are first touched.
    pub fn populate(&self, range: Range<usize>) {
        let (_, len) = self.pages(&range);
        let Some(start) = NonNull::new(self.address(range.start).cast::<c_void>()) else { return };
        // SAFETY: the range is part of this mapping, and the advice changes no contents.
        let mapped = unsafe { madvise(start, len as usize, MmapAdvise::MADV_POPULATE_WRITE) };
        if let Err(error) = mapped {
            // Kernels before 5.14: the pages are there, and are mapped when they are touched.
            tracing::debug!(%error, "shared memory is mapped as it is touched");
        }
    }

    /// Gives the memory of a range of pages back to the system, for all processes: whoever still reads it reads zeroes.
    /// Tells whether it was.
    pub fn release(&self, range: Range<usize>) -> bool {
        let (start, len) = self.pages(&range);
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let released = retried(|| fallocate(&self.descriptor, flags, start, len));
        if let Err(error) = released {
            tracing::warn!(%error, len, "shared memory was not given back");
        }
        released.is_ok()
    }

    /// Puts private memory, zeroed, in the place of a range of pages in this process: from here on nobody else's writes
    /// arrive there, and its own are nobody else's.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) where there is no memory for it.
    ///
    /// # Safety
    /// Nothing in this process may rely on the contents of the range, or on sharing it.
    pub unsafe fn isolate(&self, range: Range<usize>) -> Result<()> {
        let (_, len) = self.pages(&range);
        // SAFETY: the range is part of this mapping, which nobody relies on (the caller's promise).
        unsafe { Pages::zeroed(len as usize)?.put(self.address(range.start)) }
    }

    /// A range of bytes that must be whole pages of this segment, as the system takes it.
    pub(super) fn pages(&self, range: &Range<usize>) -> (nix::libc::off_t, nix::libc::off_t) {
        assert!(
            range.start < range.end
                && range.end <= self.len.get()
                && range.start.is_multiple_of(super::PAGE)
                && range.end.is_multiple_of(super::PAGE),
            "{range:?} is no range of pages in a segment of {} bytes",
            self.len
        );
        // The length fits: it did where the segment was made.
        (range.start as nix::libc::off_t, range.len() as nix::libc::off_t)
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        #[cfg(ringfold_tsan)]
        if !super::one_mapping::let_go(&self.descriptor) {
            return;
        }
        // SAFETY: the mapping is this value's own, and whoever holds an address into it holds the segment too.
        if let Err(error) = unsafe { munmap(self.base.cast(), self.len.get()) } {
            tracing::warn!(%error, "shared memory stays mapped");
        }
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment").field("len", &self.len).finish_non_exhaustive()
    }
}

/// Maps a file as a whole.
fn map(descriptor: &OwnedFd, len: NonZeroUsize) -> Result<NonNull<u8>> {
    let flags = MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE;
    // Not to be touched at first: a process that locks all its memory (mlockall) would be given all of this at once.
    // SAFETY: a new mapping at an address of the system's choice touches no memory that is in use.
    let base = unsafe { mmap(None, len, ProtFlags::PROT_NONE, flags, descriptor, 0) }
        .map_err(|error| failed("mapping shared memory", error))?;
    // SAFETY: the range was mapped just now, and nobody relies on anything in it.
    let opened = unsafe {
        let _ = munlock(base, len.get());
        mprotect(base, len.get(), ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)
    };
    if let Err(error) = opened {
        // SAFETY: nobody knows of the range.
        let _ = unsafe { munmap(base, len.get()) };
        return Err(failed("mapping shared memory", error));
    }
    // A core file of every rank with the memory of all of them helps nobody.
    // SAFETY: the range was mapped just now; the advice changes no contents.
    let advised = unsafe { madvise(base, len.get(), MmapAdvise::MADV_DONTDUMP) };
    if let Err(error) = advised {
        tracing::debug!(%error, "shared memory will be part of core files");
    }
    Ok(base.cast())
}

/// Fails where this process may not have files of this length: the system would not only refuse it, but send a signal.
fn within_file_size(len: usize) -> Result<()> {
    let (limit, _) = getrlimit(Resource::RLIMIT_FSIZE)
        .map_err(|error| failed("asking for the limit of file sizes", error))?;
    if (len as u64) <= limit {
        return Ok(());
    }
    let text = format!("shared memory of {len} bytes");
    Err(Error::io(text, format!("files may have {limit} bytes")).remedy("raise the limit (ulimit -f)"))
}

fn whole_pages(len: usize) -> Result<NonZeroUsize> {
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    if let Some(page) = page.filter(|&page| page > super::PAGE as i64) {
        return Err(Error::unsupported(format!("shared memory in pages of {page} bytes")));
    }
    len.checked_next_multiple_of(super::PAGE).and_then(NonZeroUsize::new).ok_or_else(|| too_long(len))
}

fn too_long(len: usize) -> Error {
    Error::invalid(format!("shared memory of {len} bytes"))
}

fn failed(doing: &str, error: Errno) -> Error {
    Error::io(doing, error)
}

fn retried(mut call: impl FnMut() -> nix::Result<()>) -> nix::Result<()> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::memory::PAGE;

    fn again(segment: &Segment) -> OwnedFd {
        segment.descriptor().try_clone_to_owned().unwrap()
    }

    /// How many bytes of memory the file holds.
    fn held(segment: &Segment) -> i64 {
        fstat(segment.descriptor()).unwrap().st_blocks * 512
    }

    #[test]
    fn memory_is_taken_and_given_back_by_the_range() {
        let segment = Segment::create(1 << 40).unwrap();
        assert_eq!(held(&segment), 0);
        segment.commit(PAGE..9 * PAGE).unwrap();
        assert_eq!(held(&segment), 8 * PAGE as i64);
        segment.release(PAGE..5 * PAGE);
        assert_eq!(held(&segment), 4 * PAGE as i64);
    }

    #[test]
    fn nobody_can_resize_it() {
        let segment = Segment::create(PAGE).unwrap();
        for len in [0, 2 * PAGE as i64] {
            assert_eq!(ftruncate(segment.descriptor(), len), Err(Errno::EPERM));
        }
        let error =
            segment.commit(0..PAGE).and_then(|()| Segment::open(again(&segment), 2 * PAGE).map(|_| ()));
        assert_eq!(error.unwrap_err().kind(), ErrorKind::InvalidArgument);
        let unsealed = memfd_create(c"unsealed", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        ftruncate(&unsealed, PAGE as i64).unwrap();
        let error = Segment::open(unsealed, PAGE).unwrap_err();
        assert!(error.to_string().contains("not sealed"), "{error}");
    }

    #[test]
    fn what_is_isolated_is_shared_no_more() {
        let ours = Segment::create(4 * PAGE).unwrap();
        let theirs = Segment::open(again(&ours), 4 * PAGE).unwrap();
        ours.commit(0..4 * PAGE).unwrap();
        // SAFETY: committed, and only this thread touches it.
        let (write, read) = unsafe {
            (
                |segment: &Segment, at: usize, byte: u8| segment.address(at).write_volatile(byte),
                |segment: &Segment, at: usize| segment.address(at).read_volatile(),
            )
        };
        write(&theirs, 2 * PAGE, 5);
        assert_eq!(read(&ours, 2 * PAGE), 5);
        // SAFETY: nothing here relies on what was in it.
        unsafe { ours.isolate(2 * PAGE..3 * PAGE) }.unwrap();
        assert_eq!(read(&ours, 2 * PAGE), 0);
        write(&theirs, 2 * PAGE, 6);
        assert_eq!(read(&ours, 2 * PAGE), 0);
        write(&ours, 2 * PAGE, 7);
        assert_eq!(read(&theirs, 2 * PAGE), 6);
        write(&theirs, 3 * PAGE, 8);
        assert_eq!(read(&ours, 3 * PAGE), 8, "its neighbours are shared as before");
    }

    #[test]
    fn too_much_is_an_error_and_leaves_nothing() {
        let segment = Segment::create(1 << 46).unwrap();
        let error = segment.commit(PAGE..1 << 46).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
        assert!(error.what_to_do().is_some());
        assert_eq!(held(&segment), 0);
    }
}
