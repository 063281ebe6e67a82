//! The streams on which devices work.

use std::ffi::c_void;
use std::ptr::NonNull;

/// A stream of a device, on which its work is queued in order: a `CUstream` (which is a `cudaStream_t` as well), borrowed from
/// whoever made it. The device's default stream is one too.
///
/// A name and no more: whoever uses it for something vouches for it there. Send and Sync, as CUDA's streams are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Stream(Option<NonNull<c_void>>);

// SAFETY: a handle that is never followed here; CUDA's streams may be used from any thread.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    /// The stream of a raw handle; the device's default stream where it is null.
    ///
    /// ```
    /// use ringfold::tensor::Stream;
    /// assert_eq!(Stream::from_raw(std::ptr::null_mut()), Stream::default());
    /// ```
    pub fn from_raw(handle: *mut c_void) -> Stream {
        Stream(NonNull::new(handle))
    }

    /// The raw handle.
    pub fn as_raw(self) -> *mut c_void {
        self.0.map_or(std::ptr::null_mut(), NonNull::as_ptr)
    }
}
