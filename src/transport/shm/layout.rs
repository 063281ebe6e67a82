//! What lies where in a segment: seats, rings and life words.
//!
//! Every offset that another rank has told is looked at before it is used: memory within the segment can be touched
//! without harm to anybody but the group, whatever lies in it.

use super::bell::Bell;
use super::sync::{AtomicU32, AtomicU64};
use crate::memory::{APART, Segment};
use std::ptr::NonNull;
use std::sync::Arc;

/// The streams of a pair: collectives and messages.
pub(super) const CHANNELS: usize = 2;

/// A place in the segment, with atomics at fixed distances.
#[derive(Clone)]
struct Part {
    /// Keeps it mapped.
    _segment: Arc<Segment>,
    /// Where it begins in this process: asked for once, since flags are looked at more often than anything else.
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a part is a place in a segment, which is Send and Sync; what lies there is reached by atomics and raw pointers.
unsafe impl Send for Part {}
// SAFETY: as above.
unsafe impl Sync for Part {}

impl Part {
    /// A part of this length, where it lies within the segment as it must.
    fn new(segment: &Arc<Segment>, offset: usize, len: usize) -> Option<Part> {
        let fits =
            offset.is_multiple_of(APART) && offset.checked_add(len).is_some_and(|end| end <= segment.len());
        let start = NonNull::new(segment.address(fits.then_some(offset)?))?;
        Some(Part { _segment: Arc::clone(segment), start, len })
    }

    /// The address of a byte of it.
    #[inline]
    fn address(&self, at: usize) -> *mut u8 {
        debug_assert!(at < self.len);
        self.start.as_ptr().wrapping_add(at)
    }

    #[inline]
    fn word(&self, at: usize) -> &AtomicU32 {
        debug_assert!(at.is_multiple_of(4));
        // SAFETY: the address is in the mapping, which lives as long as `self`, and aligned: the part's offset is, and so
        // is `at`, which is within the part: whoever has made it for what it is has asked for so many bytes. An atomic may
        // change at any time.
        unsafe { AtomicU32::from_ptr(self.address(at).cast()) }
    }

    #[inline]
    fn long(&self, at: usize) -> &AtomicU64 {
        debug_assert!(at.is_multiple_of(8));
        // SAFETY: as in `word`.
        unsafe { AtomicU64::from_ptr(self.address(at).cast()) }
    }

    fn longs<const N: usize>(&self, at: usize) -> &[AtomicU64; N] {
        debug_assert!(at.is_multiple_of(8));
        // SAFETY: as in `word`; a part ends where a seat does, which all of them lie in.
        unsafe { &*self.address(at).cast() }
    }
}

/// Where a rank of one communicator sits: its bell, its presence, and where the rings that lead to it are.
///
/// | bytes | what | written by |
/// |---|---|---|
/// | 0 | rings: how often the bell was rung | everybody |
/// | 4 | whether the rank sleeps | itself |
/// | 8 | whether it passes the fence for its ringers | itself, before it first sleeps |
/// | 12 | the CPU on which it was last and 1, as far as it has looked; 0 before that | itself |
/// | 128 | [`PRESENT`] or [`LEFT`] | itself |
/// | 136 | the offset of its slots and 1, or 0 where there are none | itself |
/// | 256 | how many of the others have left | the others |
/// | 384 | the last epoch that it has ended | itself |
/// | 512 + 128 b | its boards: a version, and the fingerprint of the collective that it is at, or of one before | itself |
/// | 1536 + 128 p | where its operands of an epoch of parity p are: stamp, addresses, offsets in the segment and 1 | itself |
/// | 1792 + 128 f | flag f | itself |
/// | 2816 + 2176 t | the slot in line of the epochs that leave t when divided by [`IN_LINE_SLOTS`]: stamp, 56 bytes, 2048 bytes | itself |
/// | 11520 + 8 (2 r + c) | the offset of the ring from rank r on channel c and 1, or 0 where there is none | rank r |
#[derive(Clone)]
pub(super) struct Seat {
    part: Part,
    world: usize,
}

/// In its place, or not yet known to have left.
pub(super) const PRESENT: u32 = 0;
/// It has left the group, after all that it had to say.
pub(super) const LEFT: u32 = 1;

const DONE: usize = 3 * APART;
const BOARD: usize = 4 * APART;
const ENTRIES: usize = BOARD + BOARDS * APART;
const FLAGS: usize = ENTRIES + 2 * APART;
const IN_LINE: usize = FLAGS + FLAG_COUNT * APART;
const TABLE: usize = IN_LINE + IN_LINE_SLOTS * IN_LINE_LEN;

/// How many boards a rank has, for as many collectives in a row: whoever comes later than others can be further still finds what they
/// did.
const BOARDS: usize = 8;
/// How many flags a rank has.
pub(super) const FLAG_COUNT: usize = 8;
/// How many slots in line a rank has, for as many epochs in a row: who shows something need not wait until the others have
/// taken what it showed in the last of them.
pub(super) const IN_LINE_SLOTS: usize = 4;
/// How many bytes a slot in line holds. With 4 KiB, calls that followed each other with something between them took as often
/// 2.2 us as 1.5, which slots elsewhere took.
pub(super) const IN_LINE_BYTES: usize = 2 << 10;
/// How many bytes one takes.
const IN_LINE_LEN: usize = (LINE + IN_LINE_BYTES).next_multiple_of(APART);
/// A line of memory, which is what processors pass on to each other.
pub(super) const LINE: usize = 64;
/// The bytes of a line behind a stamp.
const BEHIND_STAMP: usize = LINE - size_of::<u64>();

impl Seat {
    /// Where in it the number of those is that have left.
    pub(super) const DEPARTED: usize = 2 * APART;

    /// How many bytes a seat takes in a group of so many ranks.
    pub(super) fn len(world: usize) -> usize {
        TABLE + world * CHANNELS * 8
    }

    pub(super) fn at(segment: &Arc<Segment>, offset: usize, world: usize) -> Option<Seat> {
        Some(Seat { part: Part::new(segment, offset, Seat::len(world))?, world })
    }

    pub(super) fn bell(&self) -> Bell<'_> {
        Bell { rings: self.part.word(0), asleep: self.part.word(4), quick: false }
    }

    /// Whether its rank passes the fence for its ringers.
    pub(super) fn fences(&self) -> &AtomicU32 {
        self.part.word(8)
    }

    pub(super) fn cpu(&self) -> &AtomicU32 {
        self.part.word(12)
    }

    pub(super) fn slots(&self) -> &AtomicU64 {
        self.part.long(APART + 8)
    }

    pub(super) fn done(&self) -> &AtomicU64 {
        self.part.long(DONE)
    }

    /// The version and contents of the board for this place in the order.
    pub(super) fn board(&self, sequence: u64) -> (&AtomicU64, &[AtomicU64; 8]) {
        let board = BOARD + sequence as usize % BOARDS * APART;
        (self.part.long(board), self.part.longs(board + 8))
    }

    pub(super) fn entry(&self, parity: usize) -> &[AtomicU64; 5] {
        assert!(parity < 2);
        self.part.longs(ENTRIES + parity * APART)
    }

    pub(super) fn flag(&self, flag: usize) -> &AtomicU64 {
        assert!(flag < FLAG_COUNT);
        self.part.long(FLAGS + flag * APART)
    }

    /// The stamp of what is shown in line.
    #[inline]
    pub(super) fn in_line(&self, epoch: u64) -> &AtomicU64 {
        self.part.long(in_line_at(epoch))
    }

    /// Where so many bytes are shown in line: behind the stamp, if they fit into the same line of memory, else in the lines
    /// that follow.
    #[inline]
    pub(super) fn slot_in_line(&self, epoch: u64, bytes: usize) -> *mut u8 {
        assert!(bytes <= IN_LINE_BYTES);
        let behind = if bytes <= BEHIND_STAMP { size_of::<u64>() } else { LINE };
        self.part.address(in_line_at(epoch) + behind)
    }

    pub(super) fn presence(&self) -> &AtomicU32 {
        self.part.word(APART)
    }

    pub(super) fn departed(&self) -> &AtomicU32 {
        self.part.word(Seat::DEPARTED)
    }

    pub(super) fn ring_from(&self, rank: usize, channel: usize) -> &AtomicU64 {
        assert!(rank < self.world && channel < CHANNELS);
        self.part.long(TABLE + 8 * (rank * CHANNELS + channel))
    }
}

/// Where in a seat the slot in line of an epoch begins.
#[inline]
fn in_line_at(epoch: u64) -> usize {
    IN_LINE + epoch as usize % IN_LINE_SLOTS * IN_LINE_LEN
}

/// The word that says whether a process lives: its states are told of in `sentinel.rs`.
///
/// | bytes | what | written by |
/// |---|---|---|
/// | 0 | the life word | the rank's sentinel; the kernel where the process ends |
#[derive(Clone)]
pub(super) struct LifeWord {
    part: Part,
}

impl LifeWord {
    /// How many bytes it takes.
    pub(super) const LEN: usize = APART;

    pub(super) fn at(segment: &Arc<Segment>, offset: usize) -> Option<LifeWord> {
        Some(LifeWord { part: Part::new(segment, offset, LifeWord::LEN)? })
    }

    pub(super) fn word(&self) -> &AtomicU32 {
        self.part.word(0)
    }
}

/// The memory of a ring, which its sender has taken.
///
/// | bytes | what | written by |
/// |---|---|---|
/// | 0 | head: how many bytes were written | the sender |
/// | 128 | tail: how many bytes were read | the receiver |
/// | 256 | the capacity, a power of two | the sender, before anybody knows of the ring |
/// | 264 | whether the receiver has let go | the receiver; the sender where that had left before |
/// | 384 | the bytes | the sender |
#[derive(Clone)]
pub(super) struct Ring {
    part: Part,
    capacity: usize,
}

const BYTES: usize = 3 * APART;

impl Ring {
    /// Where in it the receiver says that it has let go.
    pub(super) const RELEASED: usize = 2 * APART + 8;

    /// How many bytes a ring takes that holds so many.
    pub(super) fn len(capacity: usize) -> usize {
        BYTES + capacity
    }

    /// A ring in memory that is this rank's own, and zeroed.
    pub(super) fn make(segment: &Arc<Segment>, offset: usize, capacity: usize) -> Option<Ring> {
        let ring = Ring { part: Part::new(segment, offset, Ring::len(capacity))?, capacity };
        ring.part.long(2 * APART).store(capacity as u64, std::sync::atomic::Ordering::Release);
        Some(ring)
    }

    /// A ring that another rank has made.
    pub(super) fn open(segment: &Arc<Segment>, offset: u64) -> Option<Ring> {
        let offset = usize::try_from(offset).ok()?;
        let header = Part::new(segment, offset, BYTES)?;
        let capacity = header.long(2 * APART).load(std::sync::atomic::Ordering::Acquire);
        let capacity = usize::try_from(capacity).ok().filter(|capacity| capacity.is_power_of_two())?;
        let len = BYTES.checked_add(capacity)?;
        Some(Ring { part: Part::new(segment, offset, len)?, capacity })
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity as u64
    }

    pub(super) fn head(&self) -> &AtomicU64 {
        self.part.long(0)
    }

    pub(super) fn tail(&self) -> &AtomicU64 {
        self.part.long(APART)
    }

    pub(super) fn released(&self) -> &AtomicU32 {
        self.part.word(Ring::RELEASED)
    }

    /// The two stretches of memory in which the `len` bytes from number `at` on lie.
    pub(super) fn stretches(&self, at: u64, len: usize) -> [(*mut u8, usize); 2] {
        assert!(len <= self.capacity);
        let start = (at as usize) & (self.capacity - 1);
        let first = len.min(self.capacity - start);
        let address = |from| self.part.address(BYTES + from);
        [(address(start), first), (address(0), len - first)]
    }

    /// Writes bytes from number `at` on. Only for the sender, into room that it has.
    pub(super) fn write(&self, at: u64, bytes: &[u8]) {
        let mut from = bytes.as_ptr();
        for (into, len) in self.stretches(at, bytes.len()) {
            // SAFETY: the stretch lies in the ring's memory, where nobody else reads or writes before these bytes are
            // published, by the protocol; where a peer breaks it, bytes are garbled and nothing else. `from` goes
            // through `bytes`, which the segment's memory is never part of as a reference.
            unsafe {
                std::ptr::copy_nonoverlapping(from, into, len);
                from = from.add(len);
            }
        }
    }

    /// Reads bytes from number `at` on. Only for the receiver, of what is there.
    pub(super) fn read(&self, at: u64, bytes: &mut [u8]) {
        let mut into = bytes.as_mut_ptr();
        for (from, len) in self.stretches(at, bytes.len()) {
            // SAFETY: as in `write`: the sender leaves these bytes alone until they are consumed.
            unsafe {
                std::ptr::copy_nonoverlapping(from, into, len);
                into = into.add(len);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::PAGE;
    use std::sync::atomic::Ordering;

    #[test]
    fn offsets_are_looked_at() {
        let segment = Arc::new(Segment::create(16 * PAGE).unwrap());
        segment.commit(0..16 * PAGE).unwrap();
        let end = 16 * PAGE;
        assert!(Seat::at(&segment, 0, 4).is_some());
        assert!(Seat::at(&segment, 64, 4).is_none());
        assert!(Seat::at(&segment, end - APART, 4).is_none());
        assert!(Ring::make(&segment, PAGE, PAGE).is_some());
        assert_eq!(Ring::open(&segment, PAGE as u64).map(|ring| ring.capacity()), Some(PAGE as u64));
        // Nothing was made there, beyond the end, nowhere near, and with a capacity that does not fit.
        for offset in [8 * PAGE as u64, end as u64, u64::MAX - 127, u64::MAX] {
            assert!(Ring::open(&segment, offset).is_none(), "{offset}");
        }
        let capacity = Ring::open(&segment, PAGE as u64).unwrap();
        for garbage in [0, 3, u64::MAX, 1 << 63, 1 << 20] {
            capacity.part.long(2 * APART).store(garbage, Ordering::SeqCst);
            assert!(Ring::open(&segment, PAGE as u64).is_none(), "{garbage}");
        }
    }

    #[test]
    fn bytes_go_round_the_end() {
        let segment = Arc::new(Segment::create(2 * PAGE).unwrap());
        segment.commit(0..2 * PAGE).unwrap();
        let ring = Ring::make(&segment, 0, 8).unwrap();
        let mut read = [0; 5];
        for at in [0, 5, 6, 7, u64::from(u32::MAX) * 8 + 6] {
            ring.write(at, b"abcde");
            ring.read(at, &mut read);
            assert_eq!(&read, b"abcde");
        }
    }
}
