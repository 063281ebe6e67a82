//! What can be said of one call.

use crate::error::{Fault, Result, rf_status};
use crate::guard::text;
use crate::handle::{Handle, Place};
use crate::prepared::rf_prepared;
use crate::reduction::rf_reduction;
use crate::request::rf_request;
use crate::sized::{initialise, sized};
use crate::types::{
    RF_CHECK_UNSAID, RF_CUSTOM, RF_NULLS_UNSAID, RF_ORDER_UNSAID, check, nulls, order, rf_check, rf_nulls,
    rf_op, rf_order,
};
use core::reduce::Reduction;
use core::tensor::Stream;
use core::{Algorithm, Options};
use std::ffi::{c_char, c_void};
use std::mem::MaybeUninit;
use std::time::Duration;

/// What can be said of one call; NULL in its place says nothing. Made ready by RF_OPTIONS_INIT or rf_options_init. All but the
/// deadline, `pack`, `stream`, `request` and `prepared` must be alike on all ranks.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct rf_options {
    /// sizeof(rf_options).
    pub size: u32,
    /// What is promised about the order of combination.
    pub order: rf_order,
    /// When ranks compare what they ask for.
    pub check: rf_check,
    /// 1: strided tensors on the host, which the functions that end in _dlpack can be given, are packed into dense memory for
    /// the time of the call, and an output is unpacked when that has succeeded. Not where it is started or prepared. 0: they are
    /// refused.
    pub pack: u32,
    /// How long the call may take, in nanoseconds; when it passes, the group fails. 0: as the communicator has it.
    pub deadline_ns: i64,
    /// The algorithm by its name; NULL: the table's choice.
    pub algorithm: *const c_char,
    /// The stream of the tensors' device that the call follows: a cudaStream_t or CUstream, there until the call is complete. NULL: the
    /// device's default stream. It says nothing of tensors on the host.
    pub stream: *mut c_void,
    /// The reduction that RF_CUSTOM stands for.
    pub reduction: *const rf_reduction,
    /// Not NULL: the call is started and returns at once, and its handle goes there. Until it is complete its memory must stay,
    /// and nobody else writes what it reads or reads what it writes.
    pub request: *mut *mut rf_request,
    /// Not NULL: the call is checked, but not carried out, and a handle goes there by which it can be run again and again. Its
    /// memory must stay until that is released.
    pub prepared: *mut *mut rf_prepared,
    /// What becomes of nulls. Only the functions that end in _arrow, or in _arrow_stream, meet any.
    pub nulls: rf_nulls,
    /// 1: tensors that lie where the backend cannot reach, which the functions that end in _dlpack can be given, are copied to where
    /// it can, by way of pinned memory, and an output is copied back. Not where the call is started or prepared. 0: they are refused.
    pub staging: u32,
}

impl rf_options {
    const fn new() -> Self {
        rf_options {
            size: size_of::<rf_options>() as u32,
            order: RF_ORDER_UNSAID,
            check: RF_CHECK_UNSAID,
            pack: 0,
            deadline_ns: 0,
            algorithm: std::ptr::null(),
            stream: std::ptr::null_mut(),
            reduction: std::ptr::null(),
            request: std::ptr::null_mut(),
            prepared: std::ptr::null_mut(),
            nulls: RF_NULLS_UNSAID,
            staging: 0,
        }
    }
}

/// Makes rf_options ready to be filled in. `size` is the caller's sizeof(rf_options); RF_INVALID_ARGUMENT where that cannot be.
///
/// # Safety
/// `options` is NULL, which is refused, or has room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_options_init(options: *mut rf_options, size: u32) -> rf_status {
    // SAFETY: the caller's promise.
    unsafe { initialise(options, size, &rf_options::new()) }
}

/// A flag that is 0 or 1.
fn flag(name: &str, given: u32) -> Result<bool> {
    match given {
        0 | 1 => Ok(given == 1),
        other => Err(Fault::invalid(format!("{name} is {other}; to do: set it to 0 or 1"))),
    }
}

/// What becomes of a call.
pub(crate) enum Way {
    /// It is carried out now.
    Now,
    Started(Place<*mut rf_request>),
    Prepared(Place<*mut rf_prepared>),
}

/// Options as they were read.
pub(crate) struct How<'a> {
    pub(crate) options: Options,
    pub(crate) way: Way,
    reduction: Option<&'a rf_reduction>,
}

impl<'a> How<'a> {
    /// What a caller says of a call.
    ///
    /// # Safety
    /// It is NULL or initialised, and its pointers are as their descriptions say.
    pub(crate) unsafe fn read(options: *const rf_options) -> Result<Self> {
        let mut room = MaybeUninit::uninit();
        // SAFETY: the caller's promise.
        let Some(given) = (unsafe { sized(options, &mut room) })? else {
            return Ok(How { options: Options::new(), way: Way::Now, reduction: None });
        };
        let given: &rf_options = given.whole()?;
        let unknown = |what: &str, number: i32| Fault::invalid(format!("no {what} has the number {number}"));
        let mut options = Options::new();
        if flag("pack", given.pack)? {
            options = options.pack(true);
        }
        if flag("staging", given.staging)? {
            options = options.staging(true);
        }
        if let Some(order) = order(given.order).ok_or_else(|| unknown("order", given.order))? {
            options = options.order(order);
        }
        if let Some(check) = check(given.check).ok_or_else(|| unknown("check", given.check))? {
            options = options.check(check);
        }
        if let Some(nulls) = nulls(given.nulls).ok_or_else(|| unknown("policy of nulls", given.nulls))? {
            options = options.nulls(nulls);
        }
        match given.deadline_ns {
            0 => {}
            ..0 => return Err(Fault::invalid(format!("deadline_ns is {}", given.deadline_ns))),
            time => options = options.deadline(Duration::from_nanos(time.unsigned_abs())),
        }
        // SAFETY: as described.
        if let Some(name) = unsafe { text("the algorithm", given.algorithm) }? {
            options = options.algorithm(Algorithm::named(name)?);
        }
        if !given.stream.is_null() {
            // SAFETY: the caller's promise.
            options = unsafe { options.stream(Stream::from_raw(given.stream)) };
        }
        // SAFETY: as described.
        let reduction = unsafe { given.reduction.as_ref() };
        // SAFETY: as described.
        let (request, prepared) = unsafe { (Place::maybe(given.request), Place::maybe(given.prepared)) };
        let way = match (request, prepared) {
            (None, None) => Way::Now,
            (Some(place), None) => Way::Started(place),
            (None, Some(place)) => Way::Prepared(place),
            (Some(_), Some(_)) => {
                return Err(Fault::invalid("a call that is to be started and prepared at once"));
            }
        };
        Ok(How { options, way, reduction })
    }

    /// The reduction that a number stands for which names none of the library's.
    pub(crate) fn reduction(&self, op: rf_op) -> Result<Reduction> {
        match self.reduction {
            _ if op != RF_CUSTOM => Err(Fault::invalid(format!("no reduction has the number {op}"))),
            Some(reduction) => Ok(Reduction::Custom(reduction.op().clone())),
            None => Err(crate::handle::missing(rf_reduction::NAME)),
        }
    }
}
