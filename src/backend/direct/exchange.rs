//! The short form of a plan whose operands go in line: show, wait, take, without going through its steps one by one.
//!
//! Which bytes go where is data, so that one function does it for every collective. A plan that does anything else has no such
//! form.

use super::program::{Action, Base, Operand};
use crate::plan::Region;

/// A plan in the short form.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Exchange {
    /// What this rank shows of its input: from where, to where in its slot.
    pub(super) shows: Box<[Part]>,
    /// Whether it shows anything, if only that it has come.
    pub(super) tells: bool,
    /// Whom it waits for, those who follow it first.
    pub(super) hears: Box<[usize]>,
    /// What it copies to its output, once all have shown theirs.
    pub(super) takes: Box<[Part]>,
    /// What it folds into its output.
    pub(super) fold: Option<Fold>,
}

/// Some bytes of a rank's slot, or of this rank's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) rank: usize,
    pub(super) from: usize,
    pub(super) into: usize,
    pub(super) bytes: usize,
}

/// What all ranks have is made one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fold {
    /// Where each rank's begins: this one's in its input, the others' in their slots.
    pub(super) from: Box<[usize]>,
    pub(super) into: usize,
    pub(super) count: usize,
    /// Whether the last touch follows.
    pub(super) finish: bool,
}

impl Exchange {
    /// The short form of these actions, which go in line, if they have one.
    pub(super) fn of(actions: &[Action], rank: usize, world: usize, element: usize) -> Option<Exchange> {
        let (mut shows, mut hears, mut takes) = (Vec::new(), Vec::new(), Vec::new());
        let (mut tells, mut fold) = (false, None);
        for action in actions {
            match action {
                Action::Copy { source, into, bytes } if into.base == Base::Slot => {
                    // What is shown later is not shown in time.
                    if tells || source.base != Base::Input {
                        return None;
                    }
                    shows.push(Part { rank, from: source.offset, into: into.offset, bytes: *bytes });
                }
                Action::Signal { .. } if !tells => tells = true,
                // From none before all have shown theirs.
                Action::Wait { rank, .. } if takes.is_empty() && fold.is_none() => hears.push(*rank),
                Action::Copy { source, into, bytes } if into.base == Base::Output => {
                    let owner = owner(source, rank)?;
                    takes.push(Part { rank: owner, from: source.offset, into: into.offset, bytes: *bytes });
                }
                Action::Fold { sources, into, bytes, finish }
                    if fold.is_none() && into.base == Base::Output =>
                {
                    let in_order = sources.len() == world
                        && sources.iter().enumerate().all(|(of, source)| owner(source, rank) == Some(of));
                    if !in_order {
                        return None;
                    }
                    let from = sources.iter().map(|source| source.offset).collect();
                    fold = Some(Fold { from, into: into.offset, count: bytes / element, finish: *finish });
                }
                _ => return None,
            }
        }
        hears.sort_by_key(|peer| (peer + world - rank) % world);
        hears.dedup();
        let (shows, hears, takes) = (shows.into(), hears.into(), takes.into());
        Some(Exchange { shows, tells, hears, takes, fold })
    }

    /// The same of a barrier: the byte that it is planned with is nobody's.
    pub(super) fn without_bytes(self) -> Exchange {
        Exchange { shows: Box::default(), takes: Box::default(), fold: None, ..self }
    }
}

/// Whose an operand is that is taken: of what a rank shows, or of this rank's input.
fn owner(operand: &Operand, own: usize) -> Option<usize> {
    match operand.base {
        Base::Input => Some(own),
        Base::Peer(rank, Region::Slot) => Some(rank),
        _ => None,
    }
}

/// Copies a few bytes.
///
/// # Safety
/// `from` is readable and `into` writable for so many bytes, which nobody else touches meanwhile. They may be the same.
#[inline(always)]
pub(super) unsafe fn copy(from: *const u8, into: *mut u8, bytes: usize) {
    /// Copies the first and the last bytes, as many as two of these numbers have, which may overlap.
    #[inline(always)]
    unsafe fn ends<T: Copy>(from: *const u8, into: *mut u8, bytes: usize) {
        let last = bytes - size_of::<T>();
        // SAFETY: both lie within the bytes that the caller speaks of, of which there are as many as a number has. Everything
        // is read before anything is written.
        unsafe {
            let (a, b) = (from.cast::<T>().read_unaligned(), from.add(last).cast::<T>().read_unaligned());
            into.cast::<T>().write_unaligned(a);
            into.add(last).cast::<T>().write_unaligned(b);
        }
    }
    // SAFETY: the caller's promise; `copy` allows them to overlap.
    unsafe {
        match bytes {
            4..=7 => ends::<u32>(from, into, bytes),
            8..=16 => ends::<u64>(from, into, bytes),
            17..=32 => ends::<u128>(from, into, bytes),
            33..=64 => ends::<[u128; 2]>(from, into, bytes),
            _ => std::ptr::copy(from, into, bytes),
        }
    }
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
