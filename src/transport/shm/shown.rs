//! What a process shows the others of its host: shared tensors, by their addresses here and their offsets in the segment.

use super::Ground;
use crate::error::{Error, Result};
use crate::memory::pages::{self, Pages};
use crate::memory::{Block, PAGE};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Pages are promoted, given back and isolated so many bytes at a time, so that a tensor is never in memory twice.
const PORTION: usize = if cfg!(test) { 3 * PAGE } else { 64 << 20 };

/// The shared tensors of a process.
#[derive(Debug, Default)]
pub(super) struct Shown {
    /// By the address at which they begin, the provenance of which is exposed.
    stretches: Mutex<BTreeMap<usize, Stretch>>,
    /// How many of them lie outside of the segment's own mapping.
    registered: AtomicUsize,
    /// Whether something was isolated: from then on no memory is handed out a second time.
    spoilt: AtomicBool,
}

/// A stretch of this process's memory that shows a block.
#[derive(Debug)]
struct Stretch {
    /// In bytes, as it was asked for: the block has whole pages.
    len: usize,
    block: Block,
    /// Whether others may have been in the midst of writing it when their group failed.
    spoilt: bool,
    /// Its pages that are this process's own.
    apart: Vec<Apart>,
}

/// Pages of a stretch that are private, by their place in it.
#[derive(Debug)]
struct Apart {
    range: Range<usize>,
    /// Ordinary memory, and no copy that still stands for pages of the segment.
    ordinary: bool,
}

impl Stretch {
    fn new(len: usize, block: Block) -> Stretch {
        Stretch { len, block, spoilt: false, apart: Vec::new() }
    }

    /// The parts of a range of its pages that are still those of the block, or copies that stand for these if they are
    /// asked for, in portions.
    fn parts(&self, range: Range<usize>, copies: bool) -> Vec<Range<usize>> {
        let mut left = vec![range];
        for apart in self.apart.iter().filter(|apart| apart.ordinary || !copies) {
            let taken = &apart.range;
            let sides = |part: Range<usize>| {
                let (before, after) = (part.end.min(taken.start), part.start.max(taken.end));
                [part.start..before, after..part.end]
            };
            left = left.into_iter().flat_map(sides).filter(|part| !part.is_empty()).collect();
        }
        let portions = |part: Range<usize>| {
            let end = part.end;
            part.step_by(PORTION).map(move |from| from..end.min(from + PORTION))
        };
        left.into_iter().filter(|part| !part.is_empty()).flat_map(portions).collect()
    }

    /// Where in the segment a part of it is.
    fn offsets(&self, part: &Range<usize>) -> Range<usize> {
        self.block.offset() + part.start..self.block.offset() + part.end
    }
}

/// What becomes of the contents of memory that is isolated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// They stay as this process saw them last: as many bytes are copied.
    Kept,
    /// Zeroes are in their place. Where only a part of a page is isolated, that page's contents stay.
    Lost,
}

impl Shown {
    fn stretches(&self) -> MutexGuard<'_, BTreeMap<usize, Stretch>> {
        self.stretches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ground {
    /// Where in the segment a stretch of this process's memory lies; `None` where it, or a part of it, is in no shared
    /// tensor, or in one that was isolated. Nothing is nowhere. A comparison where the process has registered no memory, and a
    /// look into a map behind a lock where it has, or where the answer is in the segment.
    ///
    /// ```
    /// use ringfold::memory::{Arena, Segment};
    /// use ringfold::transport::shm::Ground;
    /// use std::sync::Arc;
    /// let segment = Arc::new(Segment::create(1 << 20)?);
    /// let ground = Arc::new(Ground::new(Arena::new(segment, 0, 1)));
    /// let shown = ground.allocate(10_000)?;
    /// let offset = ground.locate(shown.address(), 10_000).unwrap();
    /// assert_eq!(ground.locate(shown.address().wrapping_add(500), 8), Some(offset + 500));
    /// assert_eq!(ground.locate([0u8; 8].as_ptr(), 8), None);
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    pub fn locate(&self, pointer: *const u8, len: usize) -> Option<u64> {
        let from = pointer.addr();
        let segment = self.arena().segment();
        let inside = from.wrapping_sub(segment.address(0).addr()) < segment.len();
        if len == 0 || (!inside && self.shown.registered.load(Ordering::Acquire) == 0) {
            return None;
        }
        let end = from.checked_add(len)?;
        let stretches = self.shown.stretches();
        let (&at, stretch) = stretches.range(..=from).next_back()?;
        let shows = !stretch.spoilt && end <= at + stretch.len;
        shows.then(|| (stretch.block.offset() + (from - at)) as u64)
    }

    /// Takes memory of this many bytes, at least one, that the other ranks of the host can see: zeroed, page-aligned.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) where there is no memory for it.
    pub fn allocate(self: &Arc<Self>, len: usize) -> Result<Allocation> {
        let block = self.take(len)?;
        let at = NonNull::new(block.address()).expect("no mapping begins at 0");
        self.shown.stretches().insert(at.as_ptr().expose_provenance(), Stretch::new(len.max(1), block));
        Ok(Allocation { ground: Arc::clone(self), at, len: len.max(1) })
    }

    /// Makes whole pages of the caller's memory visible to the other ranks of the host, in their place and with their
    /// contents.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for what is not whole pages of ordinary memory of this process:
    /// private, of no file, not registered before. [`Io`](crate::ErrorKind::Io) where there is no memory for it. The
    /// memory is as it was then.
    ///
    /// # Safety
    /// Nobody else uses the memory during this call. It stays mapped, where it is, until what this returns has been
    /// [given back](Registration::give_back) or dropped, and nobody else uses it during that, either.
    pub unsafe fn register(self: &Arc<Self>, at: NonNull<u8>, len: usize) -> Result<Registration> {
        let start = at.as_ptr().expose_provenance();
        let end = start.checked_add(len).ok_or_else(|| Error::invalid("memory beyond the end of all"))?;
        whole_pages(start, len)?;
        let segment = Arc::clone(self.arena().segment());
        let overlaps = |stretches: &BTreeMap<usize, Stretch>| {
            stretches.range(..end).next_back().is_some_and(|(at, stretch)| at + stretch.len > start)
        };
        if overlaps(&self.shown.stretches()) {
            return Err(Error::invalid("memory that is shared already cannot be registered again")
                .remedy("register every tensor once, and none from allocate"));
        }
        if let Some(why) = pages::not_ordinary(start..end)? {
            return Err(Error::invalid(format!(
                "only private memory of no file can be registered, and this is none: {why}"
            ))
            .remedy("take memory from the communicator's allocate"));
        }
        let mut stretch = Stretch::new(len, self.reserve(len)?);
        let promote = |part: &Range<usize>| -> Result<()> {
            let offsets = stretch.offsets(part);
            segment.commit(offsets.clone())?;
            let into = at.as_ptr().wrapping_add(part.start);
            // SAFETY: both are mapped: the part by the caller's promise, what it is copied to by the commit just now. They
            // lie apart, since the segment's mapping is none that can be registered. The view that takes the part's
            // place has the same contents, and nobody looks meanwhile.
            unsafe {
                std::ptr::copy_nonoverlapping(into, segment.address(offsets.start), part.len());
                segment.view(offsets)?.put(into)
            }
        };
        let portions = stretch.parts(0..len, false);
        let refused = portions.iter().find_map(|part| Some((part.start, promote(part).err()?)));
        if let Some((done, error)) = refused {
            stretch.apart.push(Apart { range: done..len, ordinary: true });
            // SAFETY: the caller's promise.
            if let Err(again) = unsafe { self.make_private(at, &mut stretch) } {
                tracing::warn!(error = %again, len, "memory stays shared, though nobody is told of it");
                stretch.block.abandon();
            }
            return Err(error);
        }
        let mut stretches = self.shown.stretches();
        stretches.insert(start, stretch);
        self.shown.registered.fetch_add(1, Ordering::Release);
        Ok(Registration { ground: Arc::clone(self), at, len })
    }

    /// Makes all of a registered stretch ordinary memory with the same contents. Can be tried again where it fails: every
    /// portion is one or the other.
    ///
    /// # Safety
    /// The stretch is mapped, and nobody uses it meanwhile.
    unsafe fn make_private(&self, at: NonNull<u8>, stretch: &mut Stretch) -> Result<()> {
        for part in stretch.parts(0..stretch.len, true) {
            let into = at.as_ptr().wrapping_add(part.start);
            let private = Pages::zeroed(part.len())?;
            // SAFETY: the part is mapped and nobody writes it (the caller's promise); the pages are new, as many bytes, and
            // have the part's contents by the time that they take its place.
            unsafe {
                std::ptr::copy_nonoverlapping(into, private.address(), part.len());
                private.put(into)?;
            }
            self.vacate(stretch.offsets(&part));
            stretch.apart.push(Apart { range: part, ordinary: true });
        }
        Ok(())
    }

    /// Takes memory out of sharing: from here on nobody else's writes arrive in it, its own are nobody else's, and
    /// [`locate`](Ground::locate) does not know the whole tensor any more. Nothing happens to memory that is not
    /// shared. A rank whose operation has failed does this with what others were to write, before it hands the memory
    /// back to its user: one of them may have been stopped in the midst of it, and go on later.
    ///
    /// Pages are what can be isolated. What else lies on the first and the last one keeps its contents and is isolated
    /// as well; so an operation on that must fail, too. It does where it looks whether the group has failed when its own
    /// work is done, and this is called only after the group has.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) where there is no memory for it; some of it may still be shared then. No memory of
    /// this tensor is handed out again in any case.
    ///
    /// # Safety
    /// Where the contents are to be lost, nobody in this process relies on them: the memory is the caller's alone.
    pub unsafe fn isolate(&self, pointer: *const u8, len: usize, contents: Contents) -> Result<()> {
        let from = pointer.addr();
        let Some(end) = from.checked_add(len).filter(|&end| end > from) else { return Ok(()) };
        let mut stretches = self.shown.stretches();
        let mut result = Ok(());
        for (&at, stretch) in stretches.range_mut(..end) {
            let range = from.max(at)..end.min(at + stretch.len);
            if range.is_empty() {
                continue;
            }
            let range = range.start - at..range.end - at;
            // SAFETY: what is in the list is mapped; the rest is the caller's promise.
            result = result.and(unsafe { self.isolate_part(at, stretch, range, contents) });
        }
        result
    }

    /// Isolates every shared tensor of this process, with its contents: for groups that have failed.
    ///
    /// # Errors
    /// As [`isolate`](Ground::isolate); what could be isolated is.
    pub fn isolate_all(&self) -> Result<()> {
        let mut stretches = self.shown.stretches();
        self.shown.spoilt.store(true, Ordering::Release);
        let mut result = Ok(());
        for (&at, stretch) in stretches.iter_mut() {
            let all = 0..stretch.len;
            // SAFETY: what is in the list is mapped, and contents that are kept can be relied on.
            result = result.and(unsafe { self.isolate_part(at, stretch, all, Contents::Kept) });
        }
        result
    }

    /// Isolates a range of a stretch's bytes.
    ///
    /// # Safety
    /// The stretch is mapped; and as [`isolate`](Ground::isolate).
    unsafe fn isolate_part(
        &self,
        at: usize,
        stretch: &mut Stretch,
        range: Range<usize>,
        contents: Contents,
    ) -> Result<()> {
        self.shown.spoilt.store(true, Ordering::Release);
        stretch.spoilt = true;
        // Nobody has what is on the last page behind the end.
        let end = if range.end == stretch.len { stretch.block.len() } else { range.end };
        let outer = range.start / PAGE * PAGE..end.next_multiple_of(PAGE);
        let inner = range.start.next_multiple_of(PAGE)..end / PAGE * PAGE;
        let pieces = if contents == Contents::Lost && !inner.is_empty() {
            [(outer.start..inner.start, false), (inner.clone(), true), (inner.end..outer.end, false)]
        } else {
            [(outer, false), (0..0, false), (0..0, false)]
        };
        let mut result = Ok(());
        for (piece, lost) in pieces {
            for part in stretch.parts(piece, false) {
                // SAFETY: the caller's promises; a part of the stretch is mapped where the stretch is.
                let done = unsafe { self.isolate_pages(at, stretch, part, lost) };
                result = result.and(done);
            }
        }
        result
    }

    /// Isolates pages of a stretch that are still the block's.
    ///
    /// # Safety
    /// They are mapped, and nobody relies on their contents where these are to be lost.
    unsafe fn isolate_pages(
        &self,
        at: usize,
        stretch: &mut Stretch,
        part: Range<usize>,
        lost: bool,
    ) -> Result<()> {
        let offsets = stretch.offsets(&part);
        let segment = self.arena().segment();
        let pages = if lost { Pages::zeroed(part.len()) } else { segment.private_view(offsets.clone()) }?;
        let into = std::ptr::with_exposed_provenance_mut::<u8>(at + part.start);
        // SAFETY: the part is mapped. A private view has its contents, and whatever another thread of this process writes
        // is in one or the other; zeroes take the place of what nobody relies on.
        unsafe { pages.put(into)? };
        stretch.apart.push(Apart { range: part.clone(), ordinary: lost });
        if !lost {
            // SAFETY: it was mapped just now, to be written.
            unsafe { pages::make_own(into, part.len())? };
        }
        self.vacate(offsets);
        Ok(())
    }

    /// Gives the memory of a part of a block back that this process does not use any more. Whoever still writes there
    /// writes into memory that is nobody's.
    fn vacate(&self, offsets: Range<usize>) {
        // A process that was forked off would take it from its parent.
        if self.arena().is_own() {
            self.arena().segment().release(offsets);
        }
    }

    /// Lets a stretch's block be handed out again, unless somebody may still write there.
    fn part_with(&self, stretch: Stretch) {
        if stretch.spoilt || self.shown.spoilt.load(Ordering::Acquire) {
            self.vacate(stretch.block.range());
            stretch.block.abandon();
        }
    }

    /// Whether a stretch is shared as a whole.
    fn shows(&self, at: NonNull<u8>) -> bool {
        self.shown.stretches().get(&at.addr().get()).is_some_and(|stretch| !stretch.spoilt)
    }
}

/// Fails where memory is not whole pages.
///
/// # Errors
/// [`InvalidArgument`](crate::ErrorKind::InvalidArgument), with how to get such memory.
pub(crate) fn whole_pages(start: usize, len: usize) -> Result<()> {
    let wrong = if len == 0 {
        "no memory at all cannot be registered".to_owned()
    } else if !start.is_multiple_of(PAGE) {
        format!("memory at {start:#x} cannot be registered: its address is no multiple of {PAGE} bytes")
    } else if !len.is_multiple_of(PAGE) {
        format!("memory of {len} bytes cannot be registered: they are no whole pages of {PAGE} bytes")
    } else {
        return Ok(());
    };
    Err(Error::invalid(wrong).remedy(
        "take memory from the communicator's allocate, which has any length, or whole pages of your own",
    ))
}

/// Memory of the segment that its owner uses as its own and other ranks can see: given back when dropped. Send and Sync.
pub struct Allocation {
    ground: Arc<Ground>,
    at: NonNull<u8>,
    len: usize,
}

// SAFETY: the memory belongs to the process, not to a thread; it is reached by its address, each use of which argues for
// itself.
unsafe impl Send for Allocation {}
// SAFETY: as above.
unsafe impl Sync for Allocation {}

impl Allocation {
    /// The address of the first byte.
    pub fn address(&self) -> *mut u8 {
        self.at.as_ptr()
    }

    /// How many bytes it is.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: it is a byte at least.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Whether others still see all of it.
    pub fn is_shared(&self) -> bool {
        self.ground.shows(self.at)
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        let removed = self.ground.shown.stretches().remove(&self.at.addr().get());
        let Some(stretch) = removed else { return };
        for apart in &stretch.apart {
            // SAFETY: the part is mapped as long as the segment is, and was this value's alone.
            unsafe { pages::discard(self.address().wrapping_add(apart.range.start), apart.range.len()) };
        }
        self.ground.part_with(stretch);
    }
}

impl fmt::Debug for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Allocation").field("len", &self.len).finish_non_exhaustive()
    }
}

/// Memory of the caller's that other ranks can see, until it is given back or this is dropped. Send and Sync.
pub struct Registration {
    ground: Arc<Ground>,
    at: NonNull<u8>,
    len: usize,
}

// SAFETY: as for `Allocation`.
unsafe impl Send for Registration {}
// SAFETY: as above.
unsafe impl Sync for Registration {}

impl Registration {
    /// Whether others still see all of it.
    pub fn is_shared(&self) -> bool {
        self.ground.shows(self.at)
    }

    /// Makes the memory ordinary again, where it is and with its contents. Nothing happens a second time.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) where the system refuses. The memory is as valid as before, with its contents, and
    /// this can be called again.
    pub fn give_back(&mut self) -> Result<()> {
        let key = self.at.addr().get();
        let Some(mut stretch) = self.ground.shown.stretches().remove(&key) else { return Ok(()) };
        // SAFETY: whoever has registered it has promised so.
        let result = unsafe { self.ground.make_private(self.at, &mut stretch) };
        if result.is_err() {
            stretch.spoilt |= !stretch.apart.is_empty();
            self.ground.shown.stretches().insert(key, stretch);
            return result;
        }
        self.ground.shown.registered.fetch_sub(1, Ordering::Release);
        self.ground.part_with(stretch);
        Ok(())
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let Err(error) = self.give_back() else { return };
        tracing::warn!(%error, len = self.len, "registered memory stays shared, though nobody is told of it");
        if let Some(stretch) = self.ground.shown.stretches().remove(&self.at.addr().get()) {
            self.ground.shown.registered.fetch_sub(1, Ordering::Release);
            stretch.block.abandon();
        }
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").field("len", &self.len).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "shown_tests.rs"]
mod tests;
