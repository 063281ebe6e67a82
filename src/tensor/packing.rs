//! Copies between a strided tensor and dense memory, element by element or, where elements stand one after another, run by
//! run.

use super::layout::{Layout, Runs};

/// Copies the elements of a tensor, in row-major order, one behind another.
///
/// # Safety
/// `from` is the address of the first element, and what the layout reaches from there can be read; `to` has room for all
/// elements, apart from them.
pub(super) unsafe fn pack(layout: &Layout, from: *const u8, to: *mut u8) {
    let mut to = to;
    // SAFETY: each run lies within what the layout reaches, and the runs together are the elements, for which there is room.
    each(layout, |at, bytes, copy| unsafe {
        copy(from.wrapping_offset(at), to, bytes);
        to = to.add(bytes);
    });
}

/// Copies elements that stand one behind another to the places of a tensor, in row-major order.
///
/// # Safety
/// `to` is the address of the first element, and what the layout reaches from there can be written; `from` has all elements,
/// apart from that.
pub(super) unsafe fn unpack(layout: &Layout, from: *const u8, to: *mut u8) {
    let mut from = from;
    // SAFETY: as in `pack`, with the sides exchanged.
    each(layout, |at, bytes, copy| unsafe {
        copy(from, to.wrapping_offset(at), bytes);
        from = from.add(bytes);
    });
}

/// Copies so many bytes from one place to another that lies apart.
type Mover = unsafe fn(*const u8, *mut u8, usize);

/// Visits each run with its place in bytes, its bytes, and what copies so many.
#[inline(always)]
fn each(layout: &Layout, mut visit: impl FnMut(isize, usize, Mover)) {
    let runs = Runs::of(layout);
    let size = layout.dtype.size();
    let bytes = runs.run * size;
    // One loop for each length that is a load and a store, so that they are these and no calls.
    match bytes {
        1 => runs.each(|at| visit(at * size as isize, 1, fixed::<1>)),
        2 => runs.each(|at| visit(at * size as isize, 2, fixed::<2>)),
        4 => runs.each(|at| visit(at * size as isize, 4, fixed::<4>)),
        8 => runs.each(|at| visit(at * size as isize, 8, fixed::<8>)),
        _ => runs.each(|at| visit(at * size as isize, bytes, any)),
    }
}

/// # Safety
/// As [`Mover`] says, of `N` bytes.
#[inline(always)]
unsafe fn fixed<const N: usize>(from: *const u8, to: *mut u8, _: usize) {
    // SAFETY: the caller's promise; bytes have no alignment.
    unsafe { to.cast::<[u8; N]>().write(from.cast::<[u8; N]>().read()) }
}

/// # Safety
/// As [`Mover`] says.
#[inline(always)]
unsafe fn any(from: *const u8, to: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe { to.copy_from_nonoverlapping(from, bytes) }
}
