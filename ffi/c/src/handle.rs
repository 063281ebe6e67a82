//! Handles: values that C has by a pointer. The one place where these become each other.

use crate::error::{Fault, Result};
use std::ptr::NonNull;

/// What a caller may get a handle of.
pub(crate) trait Handle: Sized {
    /// What to call it where it is missing.
    const NAME: &'static str;

    /// Gives it away.
    fn give(self) -> *mut Self {
        Box::into_raw(Box::new(self))
    }

    /// The value behind a handle.
    ///
    /// # Safety
    /// It is NULL, or a handle that was given and is not released while `'a` lives.
    #[inline]
    unsafe fn get<'a>(handle: *const Self) -> Result<&'a Self> {
        // SAFETY: the caller's promise.
        unsafe { handle.as_ref() }.ok_or_else(|| missing(Self::NAME))
    }

    /// Takes a handle back; nothing for NULL.
    ///
    /// # Safety
    /// It is NULL, or a handle that was given and that nobody uses any more.
    unsafe fn take(handle: *mut Self) -> Option<Self> {
        // SAFETY: it was made by `give`, and is nobody else's.
        (!handle.is_null()).then(|| unsafe { *Box::from_raw(handle) })
    }
}

#[cold]
pub(crate) fn missing(what: &str) -> Fault {
    Fault::invalid(format!("{what} is NULL"))
}

/// Where a caller wants something to be put.
pub(crate) struct Place<T>(NonNull<T>);

impl<T> Place<T> {
    /// The place behind a pointer.
    ///
    /// # Safety
    /// `place` is NULL, or can be written as long as this lives.
    pub(crate) unsafe fn new(what: &str, place: *mut T) -> Result<Self> {
        NonNull::new(place).map(Place).ok_or_else(|| missing(what))
    }

    /// The same where there need not be one.
    ///
    /// # Safety
    /// As [`new`](Place::new).
    pub(crate) unsafe fn maybe(place: *mut T) -> Option<Self> {
        NonNull::new(place).map(Place)
    }

    pub(crate) fn put(self, value: T) {
        // SAFETY: it can be written, by the promise at its making; what was there is not looked at.
        unsafe { self.0.write(value) }
    }
}
