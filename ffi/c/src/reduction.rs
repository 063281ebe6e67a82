//! Reductions that callers write.

use crate::config::rf_destroy_fn;
use crate::context::Context;
use crate::error::{Fault, Result, rf_error, rf_status};
use crate::guard::{guarded, needed, quietly};
use crate::handle::{Handle, Place};
use crate::sized::{initialise, reserved, sized};
use crate::types::rf_dtype;
use core::{CustomOp, DType};
use std::ffi::{c_char, c_void};
use std::mem::MaybeUninit;

/// Combines values: into[i] = left[i] op right[i] for each of `count`. `into` is `left` or `right`; pointers may be unaligned for
/// anything larger than a byte. Called on any thread of the library, several at once; not to block, and not to call this
/// library. Returns 0, or another number where it fails, for which the group fails on every rank with RF_USER_FAILURE.
pub type rf_combine_fn = Option<
    unsafe extern "C" fn(
        context: *mut c_void,
        left: *const c_void,
        right: *const c_void,
        into: *mut c_void,
        count: u64,
    ) -> i32,
>;

/// A reduction of the caller's. All ranks use one name, width and commutativity, which are compared, and one function, which cannot
/// be. The function must be associative; where it is not commutative, values are combined in rank order.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct rf_reduction_config {
    /// sizeof(rf_reduction_config), set by the caller (RF_REDUCTION_INIT, or rf_reduction_init).
    pub size: u32,
    /// Whether the operands may be exchanged: 1 or 0.
    pub commutative: i32,
    /// What ranks compare and errors tell.
    pub name: *const c_char,
    /// The type of the tensors.
    pub dtype: rf_dtype,
    /// 0.
    pub reserved: u32,
    /// The bytes of one value, a multiple of an element's, at most 64 KiB; 0: one element. A structure is reduced as tensors of
    /// bytes with this width.
    pub width: u64,
    /// The function.
    pub combine: rf_combine_fn,
    /// Handed to it.
    pub context: *mut c_void,
    /// Told when the function is not called any more: after the handle is released and all operations with it have ended. On any
    /// thread. NULL: nobody is told.
    pub destroy: rf_destroy_fn,
}

/// A reduction of the caller's, for any number of communicators and threads.
pub struct rf_reduction {
    op: CustomOp,
}

impl Handle for rf_reduction {
    const NAME: &'static str = "the reduction";
}

impl rf_reduction {
    pub(crate) fn op(&self) -> &CustomOp {
        &self.op
    }
}

impl rf_reduction_config {
    const fn new() -> Self {
        rf_reduction_config {
            size: size_of::<rf_reduction_config>() as u32,
            commutative: 0,
            name: std::ptr::null(),
            dtype: rf_dtype { code: 0, bits: 0, lanes: 0 },
            reserved: 0,
            width: 0,
            combine: None,
            context: std::ptr::null_mut(),
            destroy: None,
        }
    }
}

/// Makes an rf_reduction_config ready to be filled in. `size` is the caller's sizeof(rf_reduction_config); RF_INVALID_ARGUMENT where
/// that cannot be.
///
/// # Safety
/// `config` is NULL, which is refused, or has room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_reduction_init(config: *mut rf_reduction_config, size: u32) -> rf_status {
    // SAFETY: the caller's promise.
    unsafe { initialise(config, size, &rf_reduction_config::new()) }
}

/// Makes a reduction. `*out` is written on success only; where it fails, `destroy` is called all the same, unless `size` is wrong.
///
/// # Safety
/// `config` is initialised, and its function can be called as described; `out` can be written; `error` is NULL or an initialised
/// rf_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_reduction_create(
    config: *const rf_reduction_config,
    out: *mut *mut rf_reduction,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        let mut room = MaybeUninit::uninit();
        // SAFETY: the caller's promise.
        let all = unsafe { sized(config, &mut room) }?;
        let all = all.ok_or_else(|| Fault::invalid("the reduction is NULL"))?;
        let given: &rf_reduction_config = all.known();
        let context = Context::new(given.context, given.destroy);
        all.whole()?;
        reserved("the reduction", given.reserved)?;
        // SAFETY: the caller's promise.
        let (out, name) = unsafe {
            (Place::new("the place of the reduction", out)?, needed("the name of the reduction", given.name)?)
        };
        let combine = given.combine.ok_or_else(|| Fault::invalid("the reduction has no function"))?;
        let dtype = dtype(given.dtype)?;
        let width = if given.width == 0 { dtype.size() } else { given.width as usize };
        let apply = move |left: *const u8, right: *const u8, into: *mut u8, count: usize| {
            // SAFETY: each holds so many values, `into` is one of the others, and the context has not been given back.
            match unsafe { combine(context.pointer(), left.cast(), right.cast(), into.cast(), count as u64) }
            {
                0 => Ok(()),
                code => Err(format!("it returned {code}")),
            }
        };
        let op = CustomOp::blocks(name, dtype, width, given.commutative != 0, apply)?;
        out.put(rf_reduction { op }.give());
        Ok(())
    })
}

/// Releases a reduction. Operations that have it go on. NULL is ignored.
///
/// # Safety
/// `reduction` is NULL or a reduction that nobody passes any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_reduction_release(reduction: *mut rf_reduction) {
    quietly((), || {
        // SAFETY: the caller's promise.
        drop(unsafe { rf_reduction::take(reduction) });
    });
}

pub(crate) fn dtype(given: rf_dtype) -> Result<DType> {
    given.read().ok_or_else(|| {
        Fault::unsupported(format!(
            "elements of {{code {}, bits {}, lanes {}}}; to do: use one of the RF_ types of the header",
            given.code, given.bits, given.lanes
        ))
    })
}
