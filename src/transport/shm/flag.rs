//! The protocol by which ranks that see each other's memory tell each other how far they are in an operation.
//!
//! Operations are counted: the *epoch* of an operation is its number among those of its group that are carried out in
//! shared memory. A *stamp* is an epoch with a hash of what was asked for, and every word that a rank writes for others
//! carries one: so a word that is left over from an earlier operation says nothing, and a word of the same epoch with
//! another hash says that the ranks do not agree. Whatever was written before a word is visible to whoever has seen it
//! (release and acquire).
//!
//! What a rank writes twice, once for each parity of the epoch, may be written again when all ranks have ended the epoch
//! before the last: then nobody looks at it any more.

use super::sync::{AtomicU64, Ordering, fence};

/// An operation, as words in shared memory name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp {
    /// Its number.
    pub epoch: u64,
    /// Of what was asked for.
    pub hash: u32,
}

/// What a word says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Nothing of this operation yet.
    NotYet,
    /// What is waited for.
    There,
    /// That its writer does something else.
    Other,
}

/// The bits of an epoch that a flag carries.
const EPOCH: u32 = 24;

/// The largest number that a flag can be raised to.
pub(super) const MOST: u32 = u16::MAX as u32;

/// A flag that is raised to `value`.
pub(super) fn raised(stamp: Stamp, value: u32) -> u64 {
    debug_assert!(value <= MOST);
    stamp.epoch << (64 - EPOCH) | u64::from(value) << 24 | u64::from(stamp.hash >> 8)
}

/// Whether a flag has been raised to `value`, or its owner is further than this operation. What the operation of this epoch
/// was to an owner who is further, the flag does not say.
pub(super) fn seen(flag: &AtomicU64, stamp: Stamp, value: u32) -> Seen {
    let word = flag.load(Ordering::Acquire);
    let mine = raised(stamp, value);
    // The difference of the epochs, as a number with a sign.
    let ahead = (word & !0 << (64 - EPOCH)).wrapping_sub(mine & !0 << (64 - EPOCH)).cast_signed();
    match ahead {
        ..0 => Seen::NotYet,
        1.. => Seen::There,
        0 if (word ^ mine) & 0xff_ffff != 0 => Seen::Other,
        0 if word >= mine => Seen::There,
        0 => Seen::NotYet,
    }
}

/// Whether a flag is of this very operation.
pub(super) fn is_of(flag: &AtomicU64, stamp: Stamp) -> bool {
    const VALUE: u64 = 0xffff << 24;
    (flag.load(Ordering::Acquire) ^ raised(stamp, 0)) & !VALUE == 0
}

/// After so many epochs all flags are written again, whether or not anybody has raised them: an old word must not be
/// taken for one that is ahead.
pub(super) const RENEWED: u64 = 1 << (EPOCH - 4);

fn tag(stamp: Stamp) -> u64 {
    u64::from(stamp.hash) << 32 | stamp.epoch & 0xffff_ffff
}

/// Says that what stands behind this word, a slot or an entry, is what its owner shows in an operation.
#[inline]
pub(super) fn show(word: &AtomicU64, stamp: Stamp) {
    word.store(tag(stamp), Ordering::Release);
}

/// Whether what stands behind this word is what its owner shows in an operation.
#[inline]
pub(super) fn shown(word: &AtomicU64, stamp: Stamp) -> Seen {
    let (word, mine) = (word.load(Ordering::Acquire), tag(stamp));
    if word == mine {
        Seen::There
    } else if word as u32 == mine as u32 {
        Seen::Other
    } else {
        Seen::NotYet
    }
}

/// Writes what others may read at any time, whole or not at all.
pub(super) fn post(version: &AtomicU64, board: &[AtomicU64; 8], words: &[u64; 8]) {
    let before = version.load(Ordering::Relaxed);
    version.store(before.wrapping_add(1), Ordering::Relaxed);
    fence(Ordering::Release);
    for (word, value) in board.iter().zip(words) {
        word.store(*value, Ordering::Relaxed);
    }
    version.store(before.wrapping_add(2), Ordering::Release);
}

/// Reads what was posted last; none where nothing was, or it is written just now.
pub(super) fn posted(version: &AtomicU64, board: &[AtomicU64; 8]) -> Option<[u64; 8]> {
    let before = version.load(Ordering::Acquire);
    let words = std::array::from_fn(|i| board[i].load(Ordering::Relaxed));
    fence(Ordering::Acquire);
    let after = version.load(Ordering::Relaxed);
    (before == after && before != 0 && before.is_multiple_of(2)).then_some(words)
}
