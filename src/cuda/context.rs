//! A device's context, and what it makes: streams, events, memory.

use super::driver::{CudaDevice, Driver, Failure, NOT_READY};
use crate::error::Result;
use crate::tensor::Stream;
use std::ffi::{c_int, c_uint, c_void};
use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

type Handle = *mut c_void;

/// Streams that do not wait for the default stream, nor it for them.
const NON_BLOCKING: c_uint = 1;
/// Events that take no time down, which are the quick ones.
const DISABLE_TIMING: c_uint = 2;
/// Pinned memory that all contexts know.
const PORTABLE: c_uint = 1;
/// Which device an address belongs to.
const DEVICE_ORDINAL: c_int = 9;

/// The primary context of a CUDA device, which it has in common with all other libraries of the process, PyTorch and JAX
/// among them. Send and Sync; held for as long as anything that it has made.
pub struct Context {
    driver: Driver,
    device: CudaDevice,
    handle: c_int,
    raw: Handle,
}

// SAFETY: the driver's functions may be called from any thread, and a context may be current on several at once.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("device", &self.device).finish_non_exhaustive()
    }
}

/// The time in which a context is this thread's current one; afterwards that is again what it was.
pub(crate) struct Entered<'a> {
    context: &'a Context,
    /// It is left on the thread that has entered.
    here: PhantomData<*const ()>,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut was = std::ptr::null_mut();
        // SAFETY: this thread has pushed one, and whoever pushes another pops it before.
        unsafe { (self.context.driver.raw().ctx_pop)(&mut was) };
    }
}

impl Context {
    /// The context of the device with this ordinal.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable) where there is no such device; [`Io`](crate::ErrorKind::Io) where the
    /// driver refuses.
    pub fn new(driver: &Driver, ordinal: u32) -> Result<Arc<Context>> {
        let device = driver.device(ordinal)?;
        let handle = driver.handle(ordinal)?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the device is one of the driver's, and the context is this function's.
        let code = unsafe { (driver.raw().primary_ctx_retain)(&mut raw, handle) };
        driver.check("cuDevicePrimaryCtxRetain", code)?;
        Ok(Arc::new(Context { driver: driver.clone(), device, handle, raw }))
    }

    /// The device.
    pub fn device(&self) -> &CudaDevice {
        &self.device
    }

    /// The driver.
    pub fn driver(&self) -> &Driver {
        &self.driver
    }

    /// The ordinal of the device that an address belongs to; `None` where it is no device's.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) where the driver does not let this thread ask.
    pub fn device_of(&self, pointer: *const u8) -> Result<Option<u32>> {
        let _entered = self.enter()?;
        let mut ordinal: c_int = -1;
        let into = std::ptr::from_mut(&mut ordinal).cast();
        // SAFETY: the answer to this question is one int; any address may be asked about.
        let code =
            unsafe { (self.driver.raw().pointer_get_attribute)(into, DEVICE_ORDINAL, pointer.addr() as u64) };
        // It knows nothing of ordinary memory, and says that such a value is invalid.
        Ok(if code == 0 { u32::try_from(ordinal).ok() } else { None })
    }

    /// Makes it this thread's current context for a while.
    #[inline]
    pub(crate) fn enter(&self) -> std::result::Result<Entered<'_>, Failure> {
        // SAFETY: the context is retained.
        self.driver.check("cuCtxPushCurrent", unsafe { (self.driver.raw().ctx_push)(self.raw) })?;
        Ok(Entered { context: self, here: PhantomData })
    }

    /// Queues a copy from the host to the device.
    ///
    /// # Safety
    /// Until the stream has come so far, so many bytes must be readable there, pinned, and writable here, and touched by nobody
    /// else.
    pub(crate) unsafe fn copy_in(
        &self,
        to: u64,
        from: *const u8,
        bytes: usize,
        stream: Stream,
    ) -> std::result::Result<(), Failure> {
        // SAFETY: the caller's promise.
        let code = unsafe { (self.driver.raw().memcpy_htod)(to, from.cast(), bytes, stream.as_raw()) };
        self.driver.check("cuMemcpyHtoDAsync", code)
    }

    /// Queues a copy from the device to the host.
    ///
    /// # Safety
    /// As [`copy_in`](Self::copy_in).
    pub(crate) unsafe fn copy_out(
        &self,
        to: *mut u8,
        from: u64,
        bytes: usize,
        stream: Stream,
    ) -> std::result::Result<(), Failure> {
        // SAFETY: the caller's promise.
        let code = unsafe { (self.driver.raw().memcpy_dtoh)(to.cast(), from, bytes, stream.as_raw()) };
        self.driver.check("cuMemcpyDtoHAsync", code)
    }

    /// Queues a copy within the device.
    ///
    /// # Safety
    /// Until the stream has come so far, so many bytes must be readable there and writable here, apart from each other, and
    /// touched by nobody else.
    pub(crate) unsafe fn copy_within(
        &self,
        to: u64,
        from: u64,
        bytes: usize,
        stream: Stream,
    ) -> std::result::Result<(), Failure> {
        // SAFETY: the caller's promise.
        let code = unsafe { (self.driver.raw().memcpy_dtod)(to, from, bytes, stream.as_raw()) };
        self.driver.check("cuMemcpyDtoDAsync", code)
    }

    /// Blocks until a stream has come to the end of what is queued, or to a failure, after which nothing of it runs any more.
    ///
    /// # Safety
    /// The stream must be one of this device's that lives.
    #[cold]
    pub(crate) unsafe fn come_to_an_end(&self, stream: Stream) {
        // SAFETY: the caller's promise. Whatever it says, nothing is left to be done.
        unsafe { (self.driver.raw().stream_synchronize)(stream.as_raw()) };
    }

    /// Whether a stream has come to the end of what is queued, or to a failure, after which nothing of it runs. Does not block.
    ///
    /// A stream that is gone has.
    pub(crate) fn is_through(&self, stream: Stream) -> bool {
        let Ok(_entered) = self.enter() else { return true };
        // SAFETY: the stream of an operation is there until that is complete, as whoever made it promised.
        let code = unsafe { (self.driver.raw().stream_query)(stream.as_raw()) };
        code != NOT_READY
    }

    /// Lets what is queued on a stream from now on wait for an event.
    ///
    /// # Safety
    /// The stream must be one of this device's that lives.
    pub(crate) unsafe fn wait_on(&self, stream: Stream, event: &Event) -> std::result::Result<(), Failure> {
        // SAFETY: the stream is the caller's promise, the event lives.
        let code = unsafe { (self.driver.raw().stream_wait_event)(stream.as_raw(), event.raw, 0) };
        self.driver.check("cuStreamWaitEvent", code)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: it was retained once, and nothing that it has made is left.
        unsafe { (self.driver.raw().primary_ctx_release)(self.handle) };
    }
}

/// A stream of a device's that is the library's own. Dropping it lets what is queued come to its end.
#[derive(Debug)]
pub struct OwnStream {
    context: Arc<Context>,
    raw: Handle,
}

// SAFETY: as of the context.
unsafe impl Send for OwnStream {}
// SAFETY: as of the context.
unsafe impl Sync for OwnStream {}

impl OwnStream {
    /// A stream that neither waits for the default one nor makes it wait.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) where the driver refuses.
    pub fn new(context: &Arc<Context>) -> Result<OwnStream> {
        OwnStream::of(context, NON_BLOCKING)
    }

    /// A stream that comes behind what was queued on the device's default stream before, and ahead of what is queued there later.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) where the driver refuses.
    pub fn following(context: &Arc<Context>) -> Result<OwnStream> {
        OwnStream::of(context, 0)
    }

    fn of(context: &Arc<Context>, flags: c_uint) -> Result<OwnStream> {
        let _entered = context.enter()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the context is current, and the stream is this function's.
        let code = unsafe { (context.driver.raw().stream_create)(&mut raw, flags) };
        context.driver.check("cuStreamCreate", code)?;
        Ok(OwnStream { context: Arc::clone(context), raw })
    }

    /// Its handle, for as long as it lives.
    pub fn stream(&self) -> Stream {
        Stream::from_raw(self.raw)
    }

    /// Whether all that was queued is done. Does not block.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) where some of it has failed.
    pub fn is_done(&self) -> Result<bool> {
        let _entered = self.context.enter()?;
        // SAFETY: the stream lives.
        let code = unsafe { (self.context.driver.raw().stream_query)(self.raw) };
        if code == NOT_READY {
            return Ok(false);
        }
        Ok(self.context.driver.check("cuStreamQuery", code).map(|()| true)?)
    }

    /// Blocks until all that was queued is done, without a deadline.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) where some of it has failed.
    pub fn synchronize(&self) -> Result<()> {
        let _entered = self.context.enter()?;
        // SAFETY: the stream lives.
        let code = unsafe { (self.context.driver.raw().stream_synchronize)(self.raw) };
        Ok(self.context.driver.check("cuStreamSynchronize", code)?)
    }
}

impl Drop for OwnStream {
    fn drop(&mut self) {
        let _entered = self.context.enter();
        // SAFETY: it is destroyed once, by its owner.
        unsafe { (self.context.driver.raw().stream_destroy)(self.raw) };
    }
}

/// A mark in a stream.
#[derive(Debug)]
pub struct Event {
    context: Arc<Context>,
    raw: Handle,
}

// SAFETY: as of the context.
unsafe impl Send for Event {}
// SAFETY: as of the context.
unsafe impl Sync for Event {}

impl Event {
    /// An event that counts as over until it is recorded.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) where the driver refuses.
    pub fn new(context: &Arc<Context>) -> Result<Event> {
        let _entered = context.enter()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the context is current, and the event is this function's.
        let code = unsafe { (context.driver.raw().event_create)(&mut raw, DISABLE_TIMING) };
        context.driver.check("cuEventCreate", code)?;
        Ok(Event { context: Arc::clone(context), raw })
    }

    /// Sets the mark behind all that is queued on a stream now.
    ///
    /// # Safety
    /// The stream must be one of this device's that lives.
    pub(crate) unsafe fn record(&self, stream: Stream) -> std::result::Result<(), Failure> {
        // SAFETY: the stream is the caller's promise, the event lives.
        let code = unsafe { (self.context.driver.raw().event_record)(self.raw, stream.as_raw()) };
        self.context.driver.check("cuEventRecord", code)
    }

    /// Whether the stream has come to the mark. Does not block.
    #[inline]
    pub(crate) fn is_over(&self) -> std::result::Result<bool, Failure> {
        // SAFETY: the event lives.
        let code = unsafe { (self.context.driver.raw().event_query)(self.raw) };
        if code == NOT_READY {
            return Ok(false);
        }
        self.context.driver.check("cuEventQuery", code).map(|()| true)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: it is destroyed once, by its owner.
        unsafe { (self.context.driver.raw().event_destroy)(self.raw) };
    }
}

/// Memory of the host that the device reads and writes by itself. Dropping it waits for nothing: its owner does.
#[derive(Debug)]
pub struct Pinned {
    context: Arc<Context>,
    pointer: NonNull<u8>,
    bytes: usize,
}

// SAFETY: plain memory with one owner.
unsafe impl Send for Pinned {}

impl Pinned {
    /// So many bytes of unspecified content, one at least.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) where the driver refuses.
    pub fn new(context: &Arc<Context>, bytes: usize) -> Result<Pinned> {
        let _entered = context.enter()?;
        let mut pointer = std::ptr::null_mut();
        // SAFETY: the context is current, and the address is this function's.
        let code = unsafe { (context.driver.raw().mem_host_alloc)(&mut pointer, bytes.max(1), PORTABLE) };
        context.driver.check("cuMemHostAlloc", code)?;
        let Some(pointer) = NonNull::new(pointer.cast::<u8>()) else {
            return Err(crate::error::Error::io("cuMemHostAlloc", "no address"));
        };
        // SAFETY: so many bytes are there, and nobody else knows them.
        unsafe { pointer.write_bytes(0, bytes) };
        Ok(Pinned { context: Arc::clone(context), pointer, bytes })
    }

    /// How many bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where they are.
    pub fn pointer(&self) -> *mut u8 {
        self.pointer.as_ptr()
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _entered = self.context.enter();
        // SAFETY: it is freed once, by its owner.
        unsafe { (self.context.driver.raw().mem_free_host)(self.pointer.as_ptr().cast()) };
    }
}

/// Memory of a device. Dropping it lets the device come to the end of what uses it.
#[derive(Debug)]
pub struct DeviceMemory {
    context: Arc<Context>,
    address: u64,
    bytes: usize,
}

impl DeviceMemory {
    /// So many bytes of unspecified content, one at least.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) where the driver refuses, or has no more.
    pub fn new(context: &Arc<Context>, bytes: usize) -> Result<DeviceMemory> {
        let _entered = context.enter()?;
        let mut address = 0;
        // SAFETY: the context is current, and the address is this function's.
        let code = unsafe { (context.driver.raw().mem_alloc)(&mut address, bytes.max(1)) };
        context.driver.check("cuMemAlloc", code)?;
        Ok(DeviceMemory { context: Arc::clone(context), address, bytes })
    }

    /// How many bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where they are, on the device.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Copies bytes to its beginning, and waits for that.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where it is too short; [`Io`](crate::ErrorKind::Io) where the
    /// driver refuses.
    pub fn write(&mut self, from: &[u8]) -> Result<()> {
        self.check(from.len())?;
        let stream = OwnStream::new(&self.context)?;
        let _entered = self.context.enter()?;
        // SAFETY: both are as long, and borrowed until the copy is done.
        unsafe { self.context.copy_in(self.address, from.as_ptr(), from.len(), stream.stream()) }?;
        stream.synchronize()
    }

    /// Copies bytes from its beginning, and waits for that.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn read(&self, into: &mut [u8]) -> Result<()> {
        self.check(into.len())?;
        let stream = OwnStream::new(&self.context)?;
        let _entered = self.context.enter()?;
        // SAFETY: both are as long, and borrowed until the copy is done.
        unsafe { self.context.copy_out(into.as_mut_ptr(), self.address, into.len(), stream.stream()) }?;
        stream.synchronize()
    }

    fn check(&self, bytes: usize) -> Result<()> {
        if bytes <= self.bytes {
            return Ok(());
        }
        let text = format!("{bytes} bytes, and there are {} on the device", self.bytes);
        Err(crate::error::Error::invalid(text))
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        let _entered = self.context.enter();
        // SAFETY: it is freed once, by its owner.
        unsafe { (self.context.driver.raw().mem_free)(self.address) };
    }
}
