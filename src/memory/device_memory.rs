//! Memory of devices, as the host can reach it: by copies to and from host memory that is pinned for that.
//!
//! A seam: what reaches a device implements [`DeviceMemory`] ([`cuda::Reach`](crate::cuda::Reach) does for CUDA's), and backends that work on host memory have tensors of devices staged
//! through it ([`Options::staging`](crate::Options::staging)).

use crate::error::Result;
use crate::tensor::{Device, Stream};
use std::fmt;
use std::time::Duration;

/// Which way a copy goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the device to the host.
    ToHost,
    /// From the host to the device.
    ToDevice,
}

/// A copy between a device and the host.
#[derive(Debug, Clone, Copy)]
pub struct Copying {
    /// The device.
    pub device: Device,
    /// Where in its memory.
    pub there: *mut u8,
    /// Where in the host's: pinned by the same [`DeviceMemory`], or any.
    pub here: *mut u8,
    /// How many bytes.
    pub bytes: usize,
    /// Which way.
    pub way: Way,
    /// The stream after whose work it comes; the device's default stream where there is none.
    pub stream: Option<Stream>,
}

/// Host memory that devices copy to and from at full speed. Given back when it is dropped. [`DeviceMemory::pinned`] makes it.
///
/// # Safety
/// At its address are as many bytes as were asked for, initialised, for nobody else, until it is dropped; moving it does not move them.
pub unsafe trait Pinned: Send {
    /// Where it is.
    fn address(&self) -> *mut u8;
}

/// A copy that is under way.
pub trait Moving: Send {
    /// Blocks until the copy is over, at most so long; tells whether it is. Over, well or not, it touches neither memory any more.
    ///
    /// # Errors
    /// Whatever the device says of the copy, which is over then.
    fn finish(&mut self, within: Duration) -> Result<bool>;
}

/// What copies between the host and devices. Used by one communicator's caller at a time.
///
/// # Safety
/// A copy that has finished well has copied all its bytes, and one that is over touches no memory any more.
pub unsafe trait DeviceMemory: fmt::Debug + Send + Sync {
    /// Host memory of so many bytes, pinned for a device.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for a device that it does not reach, [`Io`](crate::ErrorKind::Io) where there is no
    /// memory.
    fn pinned(&self, device: Device, bytes: usize) -> Result<Box<dyn Pinned>>;

    /// Begins a copy, behind those that were begun on the same stream before. Does not wait for it.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for a device that it does not reach, and whatever the device says; nothing is
    /// copied then.
    ///
    /// # Safety
    /// Until the copy is over, the memory on both sides is there, as long as it says; what is read is written by nobody, and what
    /// is written touched by nobody else. The stream is one of the device's.
    unsafe fn start(&self, copying: Copying) -> Result<Box<dyn Moving>>;
}
