//! What stands around every call: nothing unwinds into C, and whoever wants to know why gets told.

use crate::error::{Fault, RF_INTERNAL, RF_INVALID_ARGUMENT, RF_OK, RF_PENDING, Result, rf_error, rf_status};
use std::any::Any;
use std::ffi::{CStr, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs a call, and makes a status of what it returns and of its panic, told to `error` where that is not NULL.
#[inline]
pub(crate) fn guarded(error: *mut rf_error, body: impl FnOnce() -> Result<()>) -> rf_status {
    if !error.is_null() {
        // SAFETY: it points to an rf_error of the caller's, of which nothing but the size is looked at before that is known.
        let size = unsafe { (&raw const (*error).size).read() };
        if (size as usize) < size_of::<rf_error>() {
            return RF_INVALID_ARGUMENT;
        }
    }
    // What a panic leaves behind is a handle that returns errors from then on.
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => {
            if !error.is_null() {
                // SAFETY: it is as large as an rf_error at least, and any bytes in it are numbers.
                unsafe { (*error).clear() };
            }
            RF_OK
        }
        Ok(Err(fault)) => tell(error, &fault),
        Err(panic) => tell(error, &Fault::new(RF_INTERNAL, format!("internal: {}", message(&*panic)))),
    }
}

#[cold]
fn tell(error: *mut rf_error, fault: &Fault) -> rf_status {
    if !error.is_null() {
        // SAFETY: as in `guarded`, where its size was looked at.
        unsafe { (*error).fill(fault) };
    }
    fault.status
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

/// The most bytes that a structure will ever have: whatever says more was never initialised.
const LARGEST: usize = 4096;

/// Fails where a field that means nothing yet says something.
pub(crate) fn reserved(what: &str, value: u32) -> Result<()> {
    if value == 0 { Ok(()) } else { Err(Fault::invalid(format!("the reserved field of {what} is {value}"))) }
}

/// A structure of the caller's that begins with its size; `None` for NULL.
///
/// # Safety
/// It is NULL, or points to as many readable bytes as its first four say, and lives as long as `'a`.
pub(crate) unsafe fn sized<'a, T>(what: &str, given: *const T) -> Result<Option<&'a T>> {
    if given.is_null() {
        return Ok(None);
    }
    // SAFETY: the first four bytes are readable.
    let size = unsafe { given.cast::<u32>().read() } as usize;
    // A later version's is larger, and what this one does not know stands behind. No version's is as large as that.
    if size < size_of::<T>() || size > LARGEST {
        let text = format!(
            "{what} says that its size is {size}, and this version's is {}: was it initialised by the macro or the function?",
            size_of::<T>()
        );
        return Err(Fault::invalid(text));
    }
    // SAFETY: as many bytes are readable, and any bytes are a value.
    Ok(Some(unsafe { &*given }))
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
