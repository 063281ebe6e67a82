//! One rank's part of a segment, and what it has taken of it.

use super::{PAGE, Segment};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Blocks of this size and above begin where a huge page may.
const HUGE: usize = 2 << 20;

/// The part of a [`Segment`] that belongs to one rank, which alone takes memory there and gives it back. Cheap to clone;
/// Send and Sync.
#[derive(Clone)]
pub struct Arena {
    inner: Arc<Inner>,
}

struct Inner {
    segment: Arc<Segment>,
    part: Range<usize>,
    /// The process whose part it is: what is forked off it gives nothing back.
    pid: u32,
    /// What nobody has: where it begins, and how long it is. Neighbours are one.
    free: Mutex<BTreeMap<usize, usize>>,
}

impl Arena {
    /// The part of the rank at `place` of `places` in a segment that is parted evenly among them.
    ///
    /// # Panics
    /// Where there is no such place, or the parts would have no page.
    pub fn new(segment: Arc<Segment>, place: usize, places: usize) -> Arena {
        let each = Arena::part_len(&segment, places);
        assert!(place < places && each > 0, "place {place} of {places} in {} bytes", segment.len());
        let part = place * each..(place + 1) * each;
        let free = Mutex::new(BTreeMap::from([(part.start, each)]));
        Arena { inner: Arc::new(Inner { segment, part, pid: std::process::id(), free }) }
    }

    /// How long each of so many parts of a segment is, in bytes.
    pub fn part_len(segment: &Segment, places: usize) -> usize {
        let each = segment.len() / places.max(1);
        if each >= HUGE { each - each % HUGE } else { each - each % PAGE }
    }

    /// Where this part lies in the segment.
    pub fn part(&self) -> Range<usize> {
        self.inner.part.clone()
    }

    /// The segment.
    pub fn segment(&self) -> &Arc<Segment> {
        &self.inner.segment
    }

    /// Whether this is the process that made it, and not one that was forked off it.
    pub fn is_own(&self) -> bool {
        self.inner.pid == std::process::id()
    }

    /// Takes a block of this many bytes, rounded up to pages, zeroed, with real memory behind it.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) where there is not so much memory, or no such room left in this part.
    pub fn take(&self, len: usize) -> Result<Block> {
        // From here on the drop gives it back.
        let block = self.reserve(len)?;
        self.inner.segment.commit(block.range())?;
        Ok(block)
    }

    /// Takes a block of this many bytes, rounded up to pages, without memory behind it: that is
    /// [committed](Segment::commit) by whoever takes it, before it is touched.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) where there is no such room left in this part.
    pub fn reserve(&self, len: usize) -> Result<Block> {
        let len = len.max(1).checked_next_multiple_of(PAGE).unwrap_or(usize::MAX);
        let start = self.find(len).ok_or_else(|| {
            let text = format!("no room for {len} bytes in shared memory");
            Error::io(text, std::io::ErrorKind::OutOfMemory).remedy("drop shared tensors and communicators")
        })?;
        Ok(Block { arena: self.clone(), range: start..start + len })
    }

    /// Takes the first free range that is long enough off the list.
    fn find(&self, len: usize) -> Option<usize> {
        let align = if len >= HUGE { HUGE } else { PAGE };
        let mut free = self.inner.free.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, has, start) = free.iter().find_map(|(&at, &has)| {
            let start = at.next_multiple_of(align);
            (start - at <= has && has - (start - at) >= len).then_some((at, has, start))
        })?;
        free.remove(&at);
        if start > at {
            free.insert(at, start - at);
        }
        let rest = at + has - (start + len);
        if rest > 0 {
            free.insert(start + len, rest);
        }
        Some(start)
    }

    fn give_back(&self, range: Range<usize>) {
        // What has not been zeroed is never taken again.
        if !self.is_own() || !self.inner.segment.release(range.clone()) {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        let mut free = self.inner.free.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((&before, &len)) = free.range(..start).next_back()
            && before + len == start
        {
            free.remove(&before);
            start = before;
        }
        if let Some(len) = free.remove(&end) {
            end += len;
        }
        free.insert(start, end - start);
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena").field("part", &self.inner.part).finish_non_exhaustive()
    }
}

/// Some pages of an [`Arena`], given back when dropped: whoever drops it knows that no other rank uses them any more.
pub struct Block {
    arena: Arena,
    range: Range<usize>,
}

impl Block {
    /// Where it lies in the segment.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// Where it begins in the segment.
    pub fn offset(&self) -> usize {
        self.range.start
    }

    /// The segment.
    pub fn segment(&self) -> &Arc<Segment> {
        self.arena.segment()
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Never: a block has a page at least.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Never gives it back: its memory goes with the segment, when the last process has let go of that.
    pub fn abandon(mut self) {
        self.range = 0..0;
    }

    /// The address of its first byte in this process.
    pub fn address(&self) -> *mut u8 {
        self.arena.inner.segment.address(self.range.start)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if !self.range.is_empty() {
            self.arena.give_back(self.range());
        }
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block").field("range", &self.range).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_lie_apart_and_come_back_whole() {
        let segment = Arc::new(Segment::create(64 << 20).unwrap());
        let arenas: Vec<Arena> = (0..3).map(|place| Arena::new(Arc::clone(&segment), place, 3)).collect();
        let mut random = fastrand::Rng::with_seed(7);
        for arena in &arenas {
            let mut held: Vec<Block> = Vec::new();
            for _ in 0..500 {
                if random.bool() {
                    let len = if random.u8(..8) == 0 { 3 << 20 } else { random.usize(1..40_000) };
                    held.extend(arena.take(len).ok());
                } else if !held.is_empty() {
                    held.swap_remove(random.usize(..held.len()));
                }
                let mut ranges: Vec<_> = held.iter().map(Block::range).collect();
                ranges.sort_by_key(|range| range.start);
                assert!(ranges.windows(2).all(|two| two[0].end <= two[1].start));
                assert!(ranges.iter().all(|r| arena.part().start <= r.start && r.end <= arena.part().end));
                assert!(held.iter().all(|block| block.len() < HUGE || block.offset().is_multiple_of(HUGE)));
            }
            drop(held);
            let whole = arena.inner.free.lock().unwrap().clone();
            assert_eq!(whole, BTreeMap::from([(arena.part().start, arena.part().len())]));
        }
    }

    #[test]
    fn a_block_is_zeroed_each_time() {
        let arena = Arena::new(Arc::new(Segment::create(PAGE).unwrap()), 0, 1);
        for _ in 0..2 {
            let block = arena.take(1).unwrap();
            assert_eq!((block.len(), block.offset()), (PAGE, 0));
            // SAFETY: the block is this test's own.
            unsafe {
                assert_eq!(block.address().read(), 0);
                block.address().write(9);
            }
            assert!(arena.take(1).is_err(), "it has one page");
        }
    }
}
