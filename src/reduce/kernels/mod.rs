//! The loops that reduce memory, one set for each pair of operation and element type, behind a table.
//!
//! Vocabulary: a *rule* says how two elements become one ([`rules`]); a *loop* runs a rule over memory
//! ([`loops`]); a *set* of instructions compiles the loops ([`sets`]); a *table* holds every loop compiled for
//! every rule and type by one set, as plain function pointers ([`table`]). Whoever reduces looks the pointers up
//! once a message, in the table of the best set that there is ([`dispatch`]), and never asks for the type again.

use super::balanced::{self, BETWEEN, Buffers, Nodes};
use std::convert::Infallible;
use std::mem::MaybeUninit;

mod dispatch;
mod halves;
mod loops;
mod rules;
#[cfg(feature = "arrow")]
mod select;
mod sets;
mod table;
#[cfg(test)]
mod tests;

pub use dispatch::{InstructionSet, kernels};
#[cfg(feature = "arrow")]
pub(crate) use select::select;

type Combine = unsafe fn(into: *mut u8, a: *const u8, b: *const u8, count: usize);
type Fold = unsafe fn(into: *mut u8, sources: &[*const u8], count: usize);
type FoldFour = unsafe fn(into: *mut u8, sources: [*const u8; 4], count: usize);
type Finish = unsafe fn(data: *mut u8, count: usize, world: usize);

/// The kernels of one operation on one element type; [`kernels`] finds them.
///
/// Every result has the bits that [`oracle`](super::oracle) computes, except that a NaN may be any NaN. The
/// order of the two operands of [`combine`](Kernels::combine) makes no difference, with the same exception;
/// for `Min` and `Max`, and for whatever is computed from 16-bit floats, there is no exception, because there
/// a NaN result is always the positive quiet one without payload.
///
/// Memory need not be aligned for the element. Where `count` is 0 no pointer is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Kernels {
    size: usize,
    combine: Combine,
    fold: Fold,
    finish: Option<Finish>,
    /// Whether a fold in another order has other bits.
    rounds: bool,
    /// `(a op b) op (c op d)` at once, for what is asked for most often.
    fold_four: Option<FoldFour>,
}

impl Kernels {
    /// `into[i] = a[i] op b[i]`. [`Mean`](crate::reduce::ReduceOp::Mean) adds.
    ///
    /// ```
    /// use ringfold::reduce::kernels;
    /// use ringfold::{DType, ReduceOp};
    /// let mut mine = [1.0f32, 2.0, 3.0];
    /// let theirs = [10.0f32, 20.0, 30.0];
    /// let sum = kernels(ReduceOp::Sum, DType::F32).unwrap();
    /// let data = mine.as_mut_ptr().cast::<u8>();
    /// // SAFETY: both arrays hold three f32; `data` is target and source at once, `theirs` is apart from it.
    /// unsafe { sum.combine(data, data, theirs.as_ptr().cast(), 3) };
    /// assert_eq!(mine, [11.0, 22.0, 33.0]);
    /// ```
    ///
    /// # Safety
    ///
    /// `a` and `b` must be readable and `into` writable for `count` elements of the type, and nobody else may
    /// write to them meanwhile. `into` may be `a`, or `b`, or both; otherwise it must not overlap them.
    #[inline]
    pub unsafe fn combine(&self, into: *mut u8, a: *const u8, b: *const u8, count: usize) {
        debug_assert!(same_or_apart(into, a, count * self.size), "`into` overlaps `a` in part");
        debug_assert!(same_or_apart(into, b, count * self.size), "`into` overlaps `b` in part");
        // SAFETY: the caller's promise is what the loop asks for.
        unsafe { (self.combine)(into, a, b, count) }
    }

    /// `into[i] = sources[0][i] op sources[1][i] op ...`, from left to right. 16-bit floats are gathered in
    /// `f32` and rounded once, at the end. A single source is copied.
    ///
    /// ```
    /// use ringfold::reduce::kernels;
    /// use ringfold::{DType, ReduceOp};
    /// let ranks = [[3i32, -1], [2, 7], [5, 0]];
    /// let mut least = [0i32; 2];
    /// let min = kernels(ReduceOp::Min, DType::I32).unwrap();
    /// let sources = ranks.each_ref().map(|rank| rank.as_ptr().cast());
    /// // SAFETY: every array holds two i32, and `least` is apart from the sources.
    /// unsafe { min.fold(least.as_mut_ptr().cast(), &sources, 2) };
    /// assert_eq!(least, [2, -1]);
    /// ```
    ///
    /// # Panics
    ///
    /// Where there is no source.
    ///
    /// # Safety
    ///
    /// Every source must be readable and `into` writable for `count` elements of the type, and nobody else may
    /// write to them meanwhile. `into` may be one or more of the sources; otherwise it must not overlap them.
    #[inline]
    pub unsafe fn fold(&self, into: *mut u8, sources: &[*const u8], count: usize) {
        debug_assert!(
            sources.iter().all(|source| same_or_apart(into, *source, count * self.size)),
            "`into` overlaps a source in part"
        );
        match *sources {
            [] => panic!("a fold needs at least one source"),
            // SAFETY: the caller promises that the source is readable and `into` writable for these bytes; the
            // two may be the same, which `copy` allows.
            [source] => unsafe { into.copy_from(source, count * self.size) },
            // SAFETY: the caller's promise is what the loop asks for. Two 16-bit floats are rounded once by
            // `combine` as well.
            [a, b] => unsafe { (self.combine)(into, a, b, count) },
            // SAFETY: as above, and there is a source.
            _ => unsafe { (self.fold)(into, sources, count) },
        }
    }

    /// `into[i]` becomes the balanced tree over the sources: of n the first 2^k are one side and the rest the other, with the
    /// largest power of two below n, and each side is a tree in turn. 16-bit floats are rounded at every node, as they are by
    /// [`combine`](Kernels::combine), so the bits are those of the same tree by messages. A single source is copied.
    ///
    /// ```
    /// use ringfold::reduce::kernels;
    /// use ringfold::{DType, ReduceOp};
    /// let ranks = [1e8f32, -1e8, 3.0, 4.0];
    /// let mut sum = 0f32;
    /// let sources = ranks.each_ref().map(|rank| std::ptr::from_ref(rank).cast());
    /// // SAFETY: every source is one f32, and `sum` is apart from them.
    /// unsafe {
    ///     kernels(ReduceOp::Sum, DType::F32).unwrap().fold_balanced((&raw mut sum).cast(), &sources, 1);
    /// }
    /// assert_eq!(sum, (1e8 - 1e8) + (3.0 + 4.0));
    /// ```
    ///
    /// # Panics
    ///
    /// Where there is no source.
    ///
    /// # Safety
    ///
    /// As for [`fold`](Kernels::fold).
    pub unsafe fn fold_balanced(&self, into: *mut u8, sources: &[*const u8], count: usize) {
        if sources.len() <= 2 || !self.rounds {
            // SAFETY: the caller's promise is the same.
            return unsafe { self.fold(into, sources, count) };
        }
        let mut between = MaybeUninit::<[u8; BETWEEN]>::uninit();
        // Whole vectors, and an element at least: of more operands than any group has.
        let each = (BETWEEN / Buffers::needed(sources.len())) & !63;
        let portion = each / self.size;
        let buffers = Buffers { at: between.as_mut_ptr().cast(), each };
        for first in (0..count).step_by(portion) {
            let now = portion.min(count - first);
            let at = first * self.size;
            let mut loops = Loops { kernels: self, count: now };
            let Ok(()) = balanced::tree(sources, at, into.wrapping_add(at), buffers, &mut loops);
        }
    }

    /// What remains to be done when every rank's elements are combined: [`Mean`](crate::reduce::ReduceOp::Mean) divides each
    /// by `world` (16-bit floats in `f32`, rounded once); every other operation does nothing.
    ///
    /// # Safety
    ///
    /// `data` must be readable and writable for `count` elements of the type, and nobody else may use it
    /// meanwhile.
    #[inline]
    pub unsafe fn finish(&self, data: *mut u8, count: usize, world: usize) {
        if let Some(finish) = self.finish {
            // SAFETY: the caller's promise is what the loop asks for.
            unsafe { finish(data, count, world) }
        }
    }

    /// Whether [`finish`](Kernels::finish) does anything.
    #[inline]
    pub fn finishes(&self) -> bool {
        self.finish.is_some()
    }
}

/// The nodes of a tree over so many elements each.
struct Loops<'a> {
    kernels: &'a Kernels,
    count: usize,
}

impl Nodes for Loops<'_> {
    type Error = Infallible;

    fn two(&mut self, into: *mut u8, a: *const u8, b: *const u8) -> Result<(), Infallible> {
        // SAFETY: the operands are sources, of which the tree's maker says that they have these elements, or buffers, which have room for
        // as many and were written before; the target is a buffer or the fold's, and an operand or apart from them.
        unsafe { (self.kernels.combine)(into, a, b, self.count) };
        Ok(())
    }

    fn four(&mut self, into: *mut u8, operands: [*const u8; 4]) -> bool {
        let Some(fold_four) = self.kernels.fold_four else { return false };
        // SAFETY: as above.
        unsafe { fold_four(into, operands, self.count) };
        true
    }
}

/// Whether two stretches of this many bytes are one and the same, or have no byte in common.
fn same_or_apart(into: *const u8, source: *const u8, bytes: usize) -> bool {
    into == source || into.addr().abs_diff(source.addr()) >= bytes
}
