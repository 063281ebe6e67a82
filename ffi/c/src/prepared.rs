//! Operations that are checked once and run again and again.

use crate::comm::Group;
use crate::error::{Result, rf_error, rf_status};
use crate::guard::{guarded, pending, quietly};
use crate::handle::Handle;
use core::{Buffer, Call, Communicator, Lent, Nothing, Options, Prepared};
use std::sync::Arc;
use std::time::Duration;

/// An operation that is checked once and run again and again, over the memory that it was prepared with. Between its runs that
/// can be read and written. Each run is a call of its communicator like any other, in its order, on all ranks.
pub struct rf_prepared {
    /// Before the group, whose communicator it borrows.
    operation: Operation,
    group: Arc<Group>,
}

enum Operation {
    Lent(Prepared<'static, Lent>),
    Barrier(Prepared<'static, Nothing>),
}

impl Handle for rf_prepared {
    const NAME: &'static str = "the prepared operation";
}

/// Asks the same of either.
macro_rules! either {
    ($operation:expr, $prepared:ident => $body:expr) => {
        match $operation {
            Operation::Lent($prepared) => $body,
            Operation::Barrier($prepared) => $body,
        }
    };
}

fn prepare<B: Buffer>(
    communicator: &Communicator,
    options: Options,
    call: &Call<'_>,
    buffer: B,
) -> Result<Prepared<'static, B>> {
    let prepared = communicator.with(options).prepare(call, buffer)?;
    // SAFETY: only the lifetime changes. The communicator lies in a group, which does not move and which the handle holds until
    // after this has been dropped.
    Ok(unsafe { std::mem::transmute::<Prepared<'_, B>, Prepared<'static, B>>(prepared) })
}

impl rf_prepared {
    /// Prepares a call over memory of the caller's, or a barrier.
    pub(crate) fn new(
        group: &Arc<Group>,
        options: Options,
        call: &Call<'_>,
        memory: Option<Lent>,
    ) -> Result<Self> {
        let operation = group.call(|communicator| {
            Ok(match memory {
                Some(lent) => Operation::Lent(prepare(communicator, options, call, lent)?),
                None => Operation::Barrier(prepare(communicator, options, call, Nothing::new())?),
            })
        })?;
        Ok(rf_prepared { operation, group: Arc::clone(group) })
    }
}

/// Runs it once; returns when it is complete.
///
/// # Safety
/// `prepared` is a prepared operation that no other thread uses meanwhile; its memory is there; `error` is NULL or an initialised
/// rf_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_prepared_run(prepared: *mut rf_prepared, error: *mut rf_error) -> rf_status {
    // SAFETY: the caller's promises.
    guarded(error, || unsafe { using(prepared, |operation| Ok(either!(operation, p => p.run())?)) })
}

/// Starts it once; returns at once. Wait for its end by rf_prepared_wait before the next run.
///
/// # Safety
/// As rf_prepared_run, and the memory is left to it until it is complete.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_prepared_start(prepared: *mut rf_prepared, error: *mut rf_error) -> rf_status {
    // SAFETY: the caller's promises.
    guarded(error, || unsafe { using(prepared, |operation| Ok(either!(operation, p => p.start())?)) })
}

/// Blocks until the run that was started is complete or `timeout_ns` have passed (negative: however long it takes); returns
/// RF_PENDING then, else what became of it. RF_OK where none was started.
///
/// # Safety
/// As rf_prepared_run.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_prepared_wait(
    prepared: *mut rf_prepared,
    timeout_ns: i64,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        let limit = u64::try_from(timeout_ns).map_or(Duration::MAX, Duration::from_nanos);
        // SAFETY: the caller's promises: no other thread uses it. The communicator is free for others meanwhile.
        let Some(rf_prepared { operation, .. }) = (unsafe { prepared.as_mut() }) else {
            return Err(crate::handle::missing(rf_prepared::NAME));
        };
        if !either!(&*operation, p => p.wait_timeout(limit)) {
            return Err(pending());
        }
        Ok(either!(operation, p => p.wait())?)
    })
}

/// Releases it. A run that is under way goes on, and the memory must stay until it is complete. NULL is ignored.
///
/// # Safety
/// `prepared` is NULL or a prepared operation that nobody uses any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_prepared_release(prepared: *mut rf_prepared) {
    quietly((), || {
        // SAFETY: the caller's promise.
        drop(unsafe { rf_prepared::take(prepared) });
    });
}

/// Does something with a prepared operation that needs its communicator.
///
/// # Safety
/// It is NULL, or a prepared operation that no other thread uses.
#[inline]
unsafe fn using(prepared: *mut rf_prepared, body: impl FnOnce(&mut Operation) -> Result<()>) -> Result<()> {
    // SAFETY: the caller's promise.
    let Some(rf_prepared { operation, group }) = (unsafe { prepared.as_mut() }) else {
        return Err(crate::handle::missing(rf_prepared::NAME));
    };
    group.call(|_| body(operation))
}
