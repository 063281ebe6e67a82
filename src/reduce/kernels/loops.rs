//! Rules run over memory.
//!
//! A loop takes a block of elements at a time: it reads them all, applies the rule, and writes them all. So the
//! compiler need not ask whether the target is one of the sources, and uses vector instructions even then. Each
//! body here is inlined into a function of every instruction set ([`Set`](super::sets::Set)), which chooses the
//! instructions.

use super::rules::{Divide, Rule};
use super::sets::Set;

/// Does `$block` for each block of `$n` elements from the one with number `$first`: long blocks first, then short
/// ones, and single elements at the end.
///
/// 64 elements make a loop that the compiler does not unroll before it has looked for vectors in it; of shorter
/// ones it loses the vectors in the longer rules. But where the registers do not hold as many values of type
/// `$wide`, a block goes to the stack and back for each source, and half the length is better. A set that few processors have to
/// take does without long blocks, which are most of the code.
macro_rules! in_blocks {
    ($set:ident, $wide:ty, $count:ident, |$first:ident, $n:ident| $block:expr) => {
        let mut $first = 0;
        if $set::LONG_BLOCKS {
            if 64 * size_of::<$wide>() <= $set::REGISTERS {
                in_blocks!(64, $count, $first, $n, $block);
            } else {
                in_blocks!(32, $count, $first, $n, $block);
            }
        }
        in_blocks!(8, $count, $first, $n, $block);
        in_blocks!(1, $count, $first, $n, $block);
    };
    ($size:literal, $count:ident, $first:ident, $n:ident, $block:expr) => {{
        const $n: usize = $size;
        while $count - $first >= $n {
            $block;
            $first += $n;
        }
    }};
}

/// `into[i] = a[i] op b[i]`.
///
/// # Safety
///
/// As for [`Set::combine`].
#[inline(always)]
pub(super) unsafe fn combine<S: Set, T: Copy, R: Rule<T>>(
    set: S,
    into: *mut u8,
    a: *const u8,
    b: *const u8,
    count: usize,
) {
    // SAFETY: every block is below `count`.
    in_blocks!(S, R::Wide, count, |first, N| unsafe { combine_block::<S, T, R, N>(set, into, a, b, first) });
}

/// `into[i] = sources[0][i] op sources[1][i] op ...`.
///
/// # Safety
///
/// As for [`Set::fold`].
#[inline(always)]
pub(super) unsafe fn fold<S: Set, T: Copy, R: Rule<T>>(
    set: S,
    into: *mut u8,
    sources: &[*const u8],
    count: usize,
) {
    // SAFETY: every block is below `count`.
    in_blocks!(S, R::Wide, count, |first, N| unsafe { fold_block::<S, T, R, N>(set, into, sources, first) });
}

/// `into[i] = (a[i] op b[i]) op (c[i] op d[i])`.
///
/// # Safety
///
/// As for [`Set::fold_four`].
#[inline(always)]
pub(super) unsafe fn fold_four<S: Set, T: Copy, R: Rule<T>>(
    set: S,
    into: *mut u8,
    sources: [*const u8; 4],
    count: usize,
) {
    // SAFETY: every block is below `count`.
    in_blocks!(S, R::Wide, count, |first, N| unsafe {
        fold_four_block::<S, T, R, N>(set, into, sources, first);
    });
}

/// `data[i] = data[i] / world`.
///
/// # Safety
///
/// As for [`Set::divide`].
#[inline(always)]
pub(super) unsafe fn divide<S: Set, T: Divide>(set: S, data: *mut u8, count: usize, world: usize) {
    let world = T::world(world);
    // SAFETY: every block is below `count`.
    in_blocks!(S, T, count, |first, N| unsafe {
        write(data, first, T::divide(set, read::<T, N>(data, first), world));
    });
}

/// Combines `N` elements from the one with number `first`, which must all be there.
#[inline(always)]
unsafe fn combine_block<S: Set, T: Copy, R: Rule<T>, const N: usize>(
    set: S,
    into: *mut u8,
    a: *const u8,
    b: *const u8,
    first: usize,
) {
    // SAFETY: the caller promises these elements.
    let (a, b) = unsafe { (read(a, first), read(b, first)) };
    let (mut a, b) = (R::widen::<S, N>(set, a), R::widen::<S, N>(set, b));
    for i in 0..N {
        a[i] = R::apply(a[i], b[i]);
    }
    // SAFETY: the caller promises these elements.
    unsafe { write(into, first, R::narrow(set, a)) }
}

/// Folds `N` elements from the one with number `first`, which must all be there in each source.
#[inline(always)]
unsafe fn fold_block<S: Set, T: Copy, R: Rule<T>, const N: usize>(
    set: S,
    into: *mut u8,
    sources: &[*const u8],
    first: usize,
) {
    // SAFETY: the caller promises these elements and a source.
    let mut sum = R::widen::<S, N>(set, unsafe { read(*sources.get_unchecked(0), first) });
    for source in &sources[1..] {
        // SAFETY: the caller promises these elements.
        let next = R::widen::<S, N>(set, unsafe { read(*source, first) });
        for i in 0..N {
            sum[i] = R::apply(sum[i], next[i]);
        }
    }
    // SAFETY: the caller promises these elements.
    unsafe { write(into, first, R::narrow(set, sum)) }
}

/// Folds `N` elements of four sources from the one with number `first`, which must all be there in each.
#[inline(always)]
unsafe fn fold_four_block<S: Set, T: Copy, R: Rule<T>, const N: usize>(
    set: S,
    into: *mut u8,
    sources: [*const u8; 4],
    first: usize,
) {
    // SAFETY: the caller promises these elements.
    let [a, b, c, d] = sources.map(|source| unsafe { read::<T, N>(source, first) });
    let low = combined::<S, T, R, N>(set, a, b);
    let high = combined::<S, T, R, N>(set, c, d);
    // SAFETY: the caller promises these elements.
    unsafe { write(into, first, combined::<S, T, R, N>(set, low, high)) }
}

/// One node of a tree.
#[inline(always)]
fn combined<S: Set, T: Copy, R: Rule<T>, const N: usize>(set: S, a: [T; N], b: [T; N]) -> [T; N] {
    let (mut a, b) = (R::widen::<S, N>(set, a), R::widen::<S, N>(set, b));
    for i in 0..N {
        a[i] = R::apply(a[i], b[i]);
    }
    R::narrow(set, a)
}

/// Reads `N` elements of plain data from the one with number `first`, which must all be there.
#[inline(always)]
unsafe fn read<T: Copy, const N: usize>(from: *const u8, first: usize) -> [T; N] {
    // SAFETY: the caller promises these elements; nothing is asked of the alignment.
    unsafe { from.cast::<T>().wrapping_add(first).cast::<[T; N]>().read_unaligned() }
}

/// Writes `N` elements of plain data from the one with number `first`, for all of which there must be room.
#[inline(always)]
unsafe fn write<T: Copy, const N: usize>(into: *mut u8, first: usize, block: [T; N]) {
    // SAFETY: the caller promises these elements; nothing is asked of the alignment.
    unsafe { into.cast::<T>().wrapping_add(first).cast::<[T; N]>().write_unaligned(block) }
}
