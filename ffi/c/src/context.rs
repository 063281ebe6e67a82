//! Contexts of callers' functions, given back when nobody calls those any more.

use crate::config::rf_destroy_fn;
use std::ffi::c_void;

/// A caller's pointer, of which the caller is told when this is dropped.
pub(crate) struct Context {
    pointer: *mut c_void,
    destroy: rf_destroy_fn,
}

// SAFETY: the header says of every function with a context on which threads it is called, and that `destroy` is called on any.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    pub(crate) fn new(pointer: *mut c_void, destroy: rf_destroy_fn) -> Self {
        Context { pointer, destroy }
    }

    pub(crate) fn pointer(&self) -> *mut c_void {
        self.pointer
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if let Some(destroy) = self.destroy {
            // SAFETY: the caller gave it for this pointer, and it is called once.
            unsafe { destroy(self.pointer) };
        }
    }
}
