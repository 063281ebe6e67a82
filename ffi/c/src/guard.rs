//! What stands around every call: nothing unwinds into C, and whoever wants to know why gets told.

use crate::error::{Fault, RF_INTERNAL, RF_INVALID_ARGUMENT, RF_OK, RF_PENDING, Result, rf_error, rf_status};
use crate::sized::{size_to_write, write_as};
use std::any::Any;
use std::ffi::{CStr, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs a call, and makes a status of what it returns and of its panic, told to `error` where that is not NULL.
#[inline]
pub(crate) fn guarded(error: *mut rf_error, body: impl FnOnce() -> Result<()>) -> rf_status {
    // SAFETY: it points to an rf_error of the caller's, of which nothing but the size is looked at before that is known.
    let Ok(told) = (unsafe { Told::new(error) }) else { return RF_INVALID_ARGUMENT };
    // What a panic leaves behind is a handle that returns errors from then on.
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => {
            told.clear();
            RF_OK
        }
        Ok(Err(fault)) => tell(told, &fault),
        Err(panic) => tell(told, &Fault::new(RF_INTERNAL, format!("internal: {}", message(&*panic)))),
    }
}

#[cold]
fn tell(told: Told, fault: &Fault) -> rf_status {
    told.write(|error| error.fill(fault));
    fault.status
}

/// Where a caller wants to be told of an error, and how much of it there is room for.
struct Told {
    error: *mut rf_error,
    size: usize,
}

impl Told {
    /// Fails where there is something that cannot be an rf_error.
    ///
    /// # Safety
    /// It is NULL, or its first four bytes are readable, and as many as they say can be written as long as this lives.
    #[inline]
    unsafe fn new(error: *mut rf_error) -> std::result::Result<Self, ()> {
        if error.is_null() {
            return Ok(Told { error, size: 0 });
        }
        // SAFETY: the caller's promise.
        let size = unsafe { size_to_write(error) }.ok_or(())?;
        Ok(Told { error, size })
    }

    #[inline]
    fn clear(self) {
        if self.error.is_null() {
            return;
        }
        if self.size != size_of::<rf_error>() {
            return self.write(rf_error::clear);
        }
        // SAFETY: promised at the making; it is as large as this version's, and any bytes in it are numbers.
        unsafe { (*self.error).clear() }
    }

    #[cold]
    #[inline(never)]
    fn write(self, write: impl FnOnce(&mut rf_error)) {
        if !self.error.is_null() {
            // SAFETY: promised at the making, where the size was looked at.
            unsafe { write_as(self.error, self.size, rf_error::new, write) };
        }
    }
}

/// That something is not complete, which is no error.
#[cold]
pub(crate) fn pending() -> Fault {
    Fault::told(RF_PENDING, "pending: not complete yet")
}

/// Runs what can only go wrong by a panic, and gives `otherwise` then.
pub(crate) fn quietly<T>(otherwise: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(otherwise)
}

fn message(panic: &(dyn Any + Send)) -> &str {
    (panic.downcast_ref::<&str>().copied())
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message")
}

/// A text of the caller's; `None` for NULL.
///
/// # Safety
/// It is NULL, or ends with a zero and lives as long as `'a`.
pub(crate) unsafe fn text<'a>(what: &str, text: *const c_char) -> Result<Option<&'a str>> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map(Some).map_err(|_| Fault::invalid(format!("{what} is not UTF-8")))
}

/// The same of a text that has to be there.
///
/// # Safety
/// As [`text`].
pub(crate) unsafe fn needed<'a>(what: &str, given: *const c_char) -> Result<&'a str> {
    // SAFETY: handed on to the caller.
    unsafe { text(what, given) }?.ok_or_else(|| Fault::invalid(format!("{what} is NULL")))
}

/// As much of a text as fits in so many bytes, up to the end of a character.
pub(crate) fn cut(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|&at| text.is_char_boundary(at));
    &text[..end.unwrap_or(0)]
}

/// Puts a text where the caller has room for `capacity` bytes, and tells how many the whole needs, with its zero. What does not
/// fit is left away.
///
/// # Safety
/// `room` is NULL or has room for `capacity` bytes.
pub(crate) unsafe fn put_text(room: *mut c_char, capacity: usize, text: &str) -> usize {
    if !room.is_null() && capacity > 0 {
        // SAFETY: there is so much room, and no byte of it is looked at before it is written.
        unsafe {
            let fits = cut(text, capacity - 1);
            room.copy_from_nonoverlapping(fits.as_ptr().cast(), fits.len());
            room.add(fits.len()).write(0);
        }
    }
    text.len() + 1
}
