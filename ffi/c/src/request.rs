//! Operations that have been started.

use crate::config::rf_destroy_fn;
use crate::context::Context;
use crate::error::{Fault, RF_OK, Result, rf_error, rf_status};
use crate::guard::{guarded, pending, quietly};
use crate::handle::{Handle, Place};
use core::error::ErrorKind;
use core::{Error, Owner, Pending};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::ffi::c_void;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Poll, Wake, Waker};
use std::time::Duration;

/// An operation that has been started. It goes on whatever is done with the handle. May be used by any thread, and by several.
pub struct rf_request {
    outstanding: Arc<Outstanding>,
}

impl Handle for rf_request {
    const NAME: &'static str = "the request";
}

/// What is asked of a pending operation, whatever its memory.
pub(crate) trait Operation {
    fn wait(&self, limit: Duration) -> bool;
    fn outcome(&self) -> Option<core::Result<()>>;
    fn poll(&self, waker: &Waker) -> Poll<()>;
}

impl<B: Owner> Operation for Pending<B> {
    fn wait(&self, limit: Duration) -> bool {
        self.wait_timeout(limit)
    }

    fn outcome(&self) -> Option<core::Result<()>> {
        self.outcome()
    }

    fn poll(&self, waker: &Waker) -> Poll<()> {
        self.poll_ready(waker)
    }
}

/// Is told that an operation is complete, by what status and with what error, which lives until it returns; where the library is older
/// than the program, it ends where its `size` says. Called once, on a thread of the library, or on the caller's where the operation is
/// complete already. Not to block, and to call nothing of this library but rf_request_test, rf_request_release and rf_comm_abort: every
/// operation of the process waits for it.
pub type rf_complete_fn =
    Option<unsafe extern "C" fn(context: *mut c_void, status: rf_status, error: *const rf_error)>;

struct Callback {
    tell: unsafe extern "C" fn(*mut c_void, rf_status, *const rf_error),
    context: Context,
}

impl Callback {
    fn call(self, outcome: core::Result<()>) {
        let mut told = rf_error::new();
        let status = match outcome {
            Ok(()) => RF_OK,
            Err(error) => {
                let fault = Fault::from(error);
                told.fill(&fault);
                fault.status
            }
        };
        // SAFETY: the caller gave it for this context; the error lives until it returns.
        unsafe { (self.tell)(self.context.pointer(), status, &raw const told) };
    }
}

struct Outstanding {
    operation: Box<dyn Operation + Send>,
    /// With the process that made it: one that was forked off has the same descriptor, and no say.
    event: OnceLock<(EventFd, u32)>,
    callback: Mutex<Option<Callback>>,
}

// SAFETY: all that is asked of the operation through a shared reference is about its completion, which any thread may ask for; its
// memory is not looked at. The rest is Sync.
unsafe impl Sync for Outstanding {}

impl Outstanding {
    /// Tells whoever wants to know that it is complete.
    fn tell(&self) {
        if let Some((event, pid)) = self.event.get()
            && *pid == std::process::id()
        {
            // It counts to 2^64 - 2, and is written once or twice.
            let _ = event.write(1);
        }
        let callback = self.callback.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let (Some(callback), Some(outcome)) = (callback, self.operation.outcome()) {
            callback.call(outcome);
        }
    }

    /// Has it told when it is complete, now where it is already.
    fn watch(self: &Arc<Self>) {
        // What is told may release the request.
        let kept = Arc::clone(self);
        if kept.operation.poll(&Waker::from(Arc::clone(&kept))).is_ready() {
            kept.tell();
        }
    }
}

impl Wake for Outstanding {
    fn wake(self: Arc<Self>) {
        quietly((), || self.tell());
    }
}

impl rf_request {
    pub(crate) fn new(operation: impl Operation + Send + 'static) -> Self {
        let operation = Box::new(operation);
        let (event, callback) = (OnceLock::new(), Mutex::new(None));
        rf_request { outstanding: Arc::new(Outstanding { operation, event, callback }) }
    }

    fn outcome(&self) -> Result<()> {
        match self.outstanding.operation.outcome() {
            None => Err(pending()),
            Some(result) => Ok(result?),
        }
    }
}

/// RF_PENDING while the operation is under way, else what became of it. Does not block.
///
/// # Safety
/// `request` is a request that is not released meanwhile; `error` is NULL or an initialised rf_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_request_test(request: *mut rf_request, error: *mut rf_error) -> rf_status {
    // SAFETY: the caller's promise.
    guarded(error, || unsafe { rf_request::get(request) }?.outcome())
}

/// Blocks until the operation is complete or `timeout_ns` have passed (negative: however long it takes, which its own deadline
/// bounds); returns RF_PENDING then, and nothing happens to the operation, else what became of it. Can be asked again.
///
/// # Safety
/// As rf_request_test.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_request_wait(
    request: *mut rf_request,
    timeout_ns: i64,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        // SAFETY: the caller's promise.
        let request = unsafe { rf_request::get(request) }?;
        let limit = u64::try_from(timeout_ns).map_or(Duration::MAX, Duration::from_nanos);
        request.outstanding.operation.wait(limit);
        request.outcome()
    })
}

/// A descriptor that becomes readable, and stays so, when the operation is complete: for poll, epoll and event loops. It is the
/// request's, lives as long as that, and is not to be read, written or closed.
///
/// # Safety
/// As rf_request_test; `descriptor` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_request_descriptor(
    request: *mut rf_request,
    descriptor: *mut i32,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        // SAFETY: the caller's promises.
        let (request, place) =
            unsafe { (rf_request::get(request)?, Place::new("the place of the descriptor", descriptor)?) };
        let outstanding = &request.outstanding;
        if outstanding.event.get().is_none() {
            let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
                .map_err(|error| Error::new(ErrorKind::Io, format!("making a descriptor: {error}")))?;
            // Where another thread was first, its descriptor counts.
            let _ = outstanding.event.set((event, std::process::id()));
            outstanding.watch();
        }
        place.put(outstanding.event.get().expect("it was set").0.as_fd().as_raw_fd());
        Ok(())
    })
}

/// Has a function told when the operation is complete; at once, on this thread, where it is already. One function at a time. Also
/// told where the request is released before. `destroy`, where it is not NULL, is called behind it, and where this call fails.
///
/// # Safety
/// As rf_request_test; `complete` can be called with `context` on any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_request_on_complete(
    request: *mut rf_request,
    complete: rf_complete_fn,
    context: *mut c_void,
    destroy: rf_destroy_fn,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        // First this, so that the context is given back whatever comes.
        let context = Context::new(context, destroy);
        // SAFETY: the caller's promise.
        let request = unsafe { rf_request::get(request) }?;
        let tell = complete.ok_or_else(|| Fault::invalid("the function to be told is NULL"))?;
        let outstanding = &request.outstanding;
        let mut place = outstanding.callback.lock().unwrap_or_else(PoisonError::into_inner);
        if place.is_some() {
            return Err(Fault::invalid("the request has a function that is told already"));
        }
        *place = Some(Callback { tell, context });
        drop(place);
        outstanding.watch();
        Ok(())
    })
}

/// Releases the handle. An operation that is under way goes on, as the other ranks expect, and its memory must stay until it is
/// complete: one rank cannot cancel a collective. NULL is ignored.
///
/// # Safety
/// `request` is NULL or a request that nobody uses any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_request_release(request: *mut rf_request) {
    quietly((), || {
        // SAFETY: the caller's promise.
        drop(unsafe { rf_request::take(request) });
    });
}
