//! What ranks that share memory do in each other's sight, apart from byte streams: flags, slots, lines and boards.

use super::flag::{self, RENEWED, Seen, Stamp};
use super::ground::Ground;
use super::layout::{FLAG_COUNT, IN_LINE_BYTES, IN_LINE_SLOTS, LINE, PRESENT, Seat};
use super::shown::Contents;
use super::sync::{Ordering, compiler_fence, fence};
use crate::collective::Fingerprint;
use crate::error::Result;
use crate::memory::{Block, PAGE};
use crate::plan::SLOT;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use std::cell::Cell;
use std::io::IoSliceMut;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where a rank's operands are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Operands {
    /// The address of its input, in its process.
    pub input: u64,
    /// The address of its output.
    pub output: u64,
    /// Where its input and its output are in the segment, where both are.
    pub shared: Option<(u64, u64)>,
}

/// The memory that the ranks of a group see of each other. Driven by the thread that drives the transport.
pub struct HostMemory {
    rank: usize,
    seats: Vec<Seat>,
    ground: Arc<Ground>,
    /// Whose bells may be rung without a fence, and whether all may.
    quick: Vec<bool>,
    all_quick: bool,
    /// The last epoch that each is known to have ended.
    ended: Vec<Cell<u64>>,
    /// Whether the processor pauses for less than it takes to pass a line on.
    short_pauses: bool,
    /// This rank's slots, once it needs any.
    slots: Option<Block>,
    /// Where the others' are, as far as that is known.
    others: Vec<Option<usize>>,
    /// The others' processes, where each may read all.
    processes: Option<Arc<[i32]>>,
}

/// A rank's slots: for even and odd epochs.
const SLOTS: usize = 2 * SLOT;

/// Up to how many bytes are fetched before they are known to be there: 256 bytes took 0.41 us instead of 0.48, 512 took 0.61
/// instead of 0.57.
const LITTLE: usize = 256;

impl HostMemory {
    /// How many flags a rank has.
    pub const FLAGS: usize = FLAG_COUNT;

    /// After how many epochs a slot in line is written again; what else there is after two.
    pub const IN_LINE: u64 = IN_LINE_SLOTS as u64;

    /// The largest number that a flag can be raised to.
    pub const MOST: u32 = flag::MOST;

    pub(super) fn new(
        rank: usize,
        seats: Vec<Seat>,
        ground: Arc<Ground>,
        processes: Option<Arc<[i32]>>,
    ) -> Self {
        let world = seats.len();
        HostMemory {
            rank,
            seats,
            ground,
            quick: vec![false; world],
            all_quick: false,
            ended: vec![Cell::new(0); world],
            short_pauses: pauses_are_short(),
            slots: None,
            others: vec![None; world],
            processes,
        }
    }

    /// This rank.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The number of ranks.
    pub fn world(&self) -> usize {
        self.seats.len()
    }

    pub(super) fn seats(&self) -> &[Seat] {
        &self.seats
    }

    /// Whether a rank has left the group.
    pub fn has_left(&self, rank: usize) -> bool {
        self.seats[rank].presence().load(Ordering::Acquire) != PRESENT
    }

    /// Wakes whoever sleeps, after something was done for all.
    #[inline]
    fn ring_all(&mut self) {
        if self.all_quick {
            compiler_fence(Ordering::SeqCst);
        } else {
            self.fence();
        }
        for (rank, seat) in self.seats.iter().enumerate() {
            if rank != self.rank {
                seat.bell().ring_after_fence();
            }
        }
    }

    /// Passes the fence, and looks who passes it for the ringers the next time.
    #[cold]
    fn fence(&mut self) {
        fence(Ordering::SeqCst);
        if self.ground.fenced_by_others() {
            for (quick, seat) in self.quick.iter_mut().zip(&self.seats) {
                *quick = seat.fences().load(Ordering::Acquire) != 0;
            }
            self.all_quick = self.quick.iter().enumerate().all(|(rank, quick)| *quick || rank == self.rank);
        }
    }

    /// Rings a rank's bell after something was done for it.
    #[inline]
    pub(super) fn ring(&self, rank: usize) {
        let mut bell = self.seats[rank].bell();
        bell.quick = self.quick[rank];
        bell.ring();
    }

    /// Whether words are written when an epoch begins, that others may still look at where they have not ended those before.
    #[inline]
    pub fn renews(epoch: u64) -> bool {
        epoch % RENEWED < IN_LINE_SLOTS as u64
    }

    /// Begins an epoch: every so often all words are written again that others might take for new ones.
    #[inline]
    pub fn begin(&mut self, stamp: Stamp) {
        if HostMemory::renews(stamp.epoch) {
            let own = &self.seats[self.rank];
            let before = Stamp { epoch: stamp.epoch - 1, hash: stamp.hash };
            flag::show(own.in_line(stamp.epoch), before);
            for flag in 0..FLAG_COUNT {
                own.flag(flag).store(flag::raised(stamp, 0), Ordering::Release);
            }
        }
    }

    /// Raises a flag, after everything that was written before, and wakes whoever waits for it.
    #[inline]
    pub fn raise(&mut self, flag: u32, stamp: Stamp, value: u32) {
        self.seats[self.rank].flag(flag as usize).store(flag::raised(stamp, value), Ordering::Release);
        self.ring_all();
    }

    /// Whether a rank has raised a flag to `value`.
    #[inline]
    pub fn flag(&self, rank: usize, flag: u32, stamp: Stamp, value: u32) -> Seen {
        let word = self.seats[rank].flag(flag as usize);
        let seen = flag::seen(word, stamp, value);
        if seen == Seen::There && !flag::is_of(word, stamp) {
            // It is further, and what it did here its entry says, which it cannot have written over yet.
            let entry = &self.seats[rank].entry((stamp.epoch & 1) as usize)[0];
            return if flag::shown(entry, stamp) == Seen::There { Seen::There } else { Seen::Other };
        }
        seen
    }

    /// Whether so many bytes can be shown in line.
    pub fn goes_in_line(bytes: usize) -> bool {
        bytes <= IN_LINE_BYTES
    }

    /// Where a rank shows so many bytes in line. Its owner writes there before it [shows](Self::show) them; others read there
    /// when they have [seen](Self::shown) that, until they end the epoch.
    ///
    /// # Panics
    /// Where they are more than go [in line](Self::goes_in_line).
    #[inline]
    pub fn in_line(&self, rank: usize, stamp: Stamp, bytes: usize) -> *mut u8 {
        self.seats[rank].slot_in_line(stamp.epoch, bytes)
    }

    /// Shows what this rank has written in line, and wakes whoever waits for it.
    #[inline]
    pub fn show(&mut self, stamp: Stamp) {
        flag::show(self.seats[self.rank].in_line(stamp.epoch), stamp);
        self.ring_all();
    }

    /// Whether a rank shows something in line.
    #[inline]
    pub fn shown(&self, rank: usize, stamp: Stamp) -> Seen {
        flag::shown(self.seats[rank].in_line(stamp.epoch), stamp)
    }

    /// Pauses between two looks, where pauses are short: whoever looks all the time takes the line from its writer, who has to
    /// have it back first.
    #[inline]
    pub fn pause(&self) {
        if self.short_pauses {
            std::hint::spin_loop();
        }
    }

    /// Has the lines fetched in which a rank shows so many bytes, if they are few, before it is known whether they are shown:
    /// mostly they are by the time that the stamp is seen, and have not to be waited for after it. Of more lines the
    /// other would lose too many that it is writing.
    #[inline]
    pub fn fetch_little(&self, rank: usize, stamp: Stamp, bytes: usize) {
        if bytes <= LITTLE {
            let slot = self.in_line(rank, stamp, bytes);
            for line in (0..bytes).step_by(LINE) {
                prefetch(slot.wrapping_add(line));
            }
        }
    }

    /// Says where this rank's operands are, and wakes whoever waits for that.
    pub fn enter(&mut self, stamp: Stamp, operands: Operands, wanted: bool) {
        let entry = self.seats[self.rank].entry((stamp.epoch & 1) as usize);
        let (input, output) = operands.shared.map_or((0, 0), |(input, output)| (input + 1, output + 1));
        for (word, value) in entry[1..].iter().zip([operands.input, operands.output, input, output]) {
            word.store(value, Ordering::Relaxed);
        }
        flag::show(&entry[0], stamp);
        if wanted {
            self.ring_all();
        }
    }

    /// Where a rank's operands are, once it has said so. Nobody writes an entry of this epoch over before this rank has ended it, so
    /// one of another epoch is an old one: of how old a one nobody can tell, since operations in line have none.
    pub fn operands(&self, rank: usize, stamp: Stamp) -> (Seen, Operands) {
        let entry = self.seats[rank].entry((stamp.epoch & 1) as usize);
        let seen = flag::shown(&entry[0], stamp);
        let [input, output, first, second] = std::array::from_fn(|i| entry[i + 1].load(Ordering::Relaxed));
        let shared = first.checked_sub(1).zip(second.checked_sub(1));
        (seen, Operands { input, output, shared })
    }

    /// Says that this rank has ended an epoch: it looks at nothing of it any more. `wanted` where others may wait for that.
    #[inline]
    pub fn end(&mut self, epoch: u64, wanted: bool) {
        self.seats[self.rank].done().store(epoch, Ordering::Release);
        if wanted {
            self.ring_all();
        }
    }

    /// Whether a rank has ended an epoch. What was seen before is not looked at again.
    pub fn has_ended(&self, rank: usize, epoch: u64) -> bool {
        let known = &self.ended[rank];
        if known.get() < epoch {
            known.set(self.seats[rank].done().load(Ordering::Acquire));
        }
        known.get() >= epoch
    }

    /// Makes this rank's slots, if they are not there, and says where they are.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) where there is no memory for them.
    pub fn make_slots(&mut self) -> Result<()> {
        if self.slots.is_none() {
            let block = self.ground.take(SLOTS)?;
            self.seats[self.rank].slots().store(block.offset() as u64 + 1, Ordering::Release);
            self.others[self.rank] = Some(block.offset());
            self.slots = Some(block);
        }
        Ok(())
    }

    /// Where a rank's slots begin in the segment; none where it has none, or where they cannot be there.
    fn slots_of(&mut self, rank: usize) -> Option<usize> {
        if let Some(offset) = self.others[rank] {
            return Some(offset);
        }
        let segment = self.ground.arena().segment();
        let offset = self.seats[rank].slots().load(Ordering::Acquire).checked_sub(1)?;
        let offset = usize::try_from(offset).ok().filter(|offset| offset.is_multiple_of(PAGE))?;
        offset.checked_add(SLOTS).filter(|end| *end <= segment.len())?;
        // Now rather than page by page when they are read.
        segment.populate(offset..offset + SLOTS);
        self.others[rank] = Some(offset);
        Some(offset)
    }

    /// The slot of a rank for an epoch: [`SLOT`] bytes. None where it has none, or where it cannot be.
    #[inline]
    pub fn slot(&mut self, rank: usize, stamp: Stamp) -> Option<*mut u8> {
        let offset = self.slots_of(rank)?;
        Some(self.ground.arena().segment().address(offset + (stamp.epoch & 1) as usize * SLOT))
    }

    /// The address in this process of `len` bytes of the segment, where they lie in it.
    pub fn mapped(&self, offset: u64, len: usize) -> Option<*mut u8> {
        let segment = self.ground.arena().segment();
        let offset = usize::try_from(offset).ok()?;
        let within =
            offset.checked_add(len).is_some_and(|end| end <= segment.len()) && offset < segment.len();
        within.then(|| segment.address(offset))
    }

    /// Where in the segment memory of this process lies, where all of it does.
    pub fn locate(&self, pointer: *const u8, len: usize) -> Option<u64> {
        self.ground.locate(pointer, len)
    }

    /// Takes memory of this process out of the others' reach, where it lies in shared tensors: nobody's writes arrive there any
    /// more. Its contents are lost.
    ///
    /// # Safety
    /// The memory is lent to the operation that has failed, and nobody relies on its contents; the group has a verdict.
    pub unsafe fn isolate(&self, pointer: *const u8, len: usize) {
        // SAFETY: the caller's promise.
        if let Err(error) = unsafe { self.ground.isolate(pointer, len, Contents::Lost) } {
            tracing::error!(rank = self.rank, %error, "memory stays shared after a failure");
        }
    }

    /// Reads another rank's own memory.
    ///
    /// # Errors
    /// What the system says.
    ///
    /// # Safety
    /// `into` must be writable for `len` bytes that nobody else touches meanwhile.
    pub unsafe fn read(
        &self,
        rank: usize,
        address: u64,
        into: *mut u8,
        len: usize,
    ) -> std::result::Result<(), String> {
        let Some(processes) = &self.processes else { return Err("its memory cannot be read".into()) };
        let process = Pid::from_raw(processes[rank]);
        #[cfg(ringfold_tsan)]
        if process == Pid::this() {
            let from = std::ptr::with_exposed_provenance::<u8>(address as usize);
            // The sanitizer does not see what the kernel reads.
            // SAFETY: the caller's promise, and the rank is a thread of this process that has shown this memory.
            unsafe { std::ptr::copy_nonoverlapping(from, into, len) };
            return Ok(());
        }
        let mut at = 0;
        while at < len {
            // SAFETY: the caller's promise; the kernel writes there and nothing else, and the bytes are initialised: they are
            // a user's tensor or a buffer that was zeroed.
            let rest = unsafe { std::slice::from_raw_parts_mut(into.wrapping_add(at), len - at) };
            let from = RemoteIoVec { base: address as usize + at, len: len - at };
            match process_vm_readv(process, &mut [IoSliceMut::new(rest)], &[from]) {
                Ok(0) => return Err("its memory ends there".into()),
                Ok(count) => at += count,
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    }

    /// Whether the ranks can read each other's own memory.
    pub fn reads_processes(&self) -> bool {
        self.processes.is_some()
    }

    /// Tells whoever looks which collective this rank is at.
    #[inline]
    pub fn post(&self, fingerprint: &Fingerprint) {
        let (version, board) = self.seats[self.rank].board(fingerprint.sequence);
        flag::post(version, board, &fingerprint.words());
    }

    /// Which collective a rank has at this place in the order, if it has come so far and is not much further.
    pub fn posted(&self, rank: usize, sequence: u64) -> Option<Fingerprint> {
        let (version, board) = self.seats[rank].board(sequence);
        let words = flag::posted(version, board)?;
        let mut bytes = [0; Fingerprint::SIZE];
        for (part, word) in bytes.chunks_mut(8).zip(words) {
            part.copy_from_slice(&word.to_le_bytes());
        }
        Fingerprint::decode(&bytes).filter(|posted| posted.sequence == sequence)
    }

    /// This rank leaves, and shows nothing more. Whoever has not left may still look there.
    pub(super) fn take_slots(&mut self) -> Option<Block> {
        self.slots.take()
    }
}

/// Whether a pause takes less than a line takes from one cache to another: so it is on AMD's processors (20 ns) and on older ones of
/// Intel's, on newer ones it takes twice as long.
fn pauses_are_short() -> bool {
    const PAUSES: u32 = 32;
    const LONG: Duration = Duration::from_nanos(30);
    // This thread may be interrupted.
    (0..8).any(|_| {
        let begun = Instant::now();
        (0..PAUSES).for_each(|_| std::hint::spin_loop());
        begun.elapsed() < LONG * PAUSES
    })
}

/// Has a line fetched, to be read. A hint, at whatever address.
#[inline(always)]
fn prefetch(address: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: it changes nothing that a program can see, and faults at no address; every processor of the target has it.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(any(not(target_arch = "x86_64"), miri))]
    let _ = address;
}
