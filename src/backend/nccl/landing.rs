//! What the caller's streams can wait for.

use crate::cuda::{Context, Event};
use crate::error::{Error, ErrorKind, Result};
use crate::tensor::Stream;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Where an operation that is under way can be waited for by a stream: what is queued there afterwards comes after the operation,
/// while the host goes on. Given to an operation by [`landing_at`](crate::backend::Operation::landing_at). Send and Sync.
///
/// ```
/// use ringfold::backend::nccl::Landing;
/// use ringfold::tensor::Stream;
/// use std::time::Duration;
/// let landing = Landing::new();
/// // SAFETY: every device has a default stream, and it is there for ever.
/// let waited = unsafe { landing.wait_on(Stream::default(), Duration::from_millis(1)) };
/// assert!(waited.is_err(), "no operation has been given it");
/// ```
#[derive(Debug, Default)]
pub struct Landing {
    state: Mutex<State>,
    changed: Condvar,
}

/// A wait that no clock can count to the end.
const FOR_EVER: Duration = Duration::from_secs(3600);

#[derive(Debug, Default)]
enum State {
    /// Not queued on the device yet.
    #[default]
    Expected,
    /// Queued, with a mark behind it.
    Queued(Arc<Context>, Arc<Event>),
    /// Over: there is nothing to wait for.
    Over,
}

impl Landing {
    /// Of an operation that has not begun.
    pub fn new() -> Arc<Landing> {
        Arc::default()
    }

    /// Lets what is queued on a stream from now on wait for the operation. Blocks until the operation is queued on the device
    /// itself (where that is staged, until it is over), at most for so long; where it is over already, there is nothing to wait for. What has become of it is told to
    /// whoever waits for it on the host. Tells whether there is something to wait for.
    ///
    /// # Errors
    /// [`Deadline`](ErrorKind::Deadline) where it is not queued in time; [`Io`](ErrorKind::Io) where the driver refuses.
    ///
    /// # Safety
    /// The stream must be one of the operation's device that lives.
    pub unsafe fn wait_on(&self, stream: Stream, timeout: Duration) -> Result<bool> {
        let until = Instant::now().checked_add(timeout);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match &*state {
                State::Over => return Ok(false),
                State::Queued(context, event) => {
                    let _entered = context.enter()?;
                    // SAFETY: the stream is the caller's promise.
                    unsafe { context.wait_on(stream, event) }?;
                    return Ok(true);
                }
                State::Expected => {}
            }
            let left = until.map_or(FOR_EVER, |until| until.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                let text = format!("the operation was not queued on its device within {timeout:?}");
                return Err(Error::new(ErrorKind::Deadline, text).remedy("wait for it on the host"));
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The operation is queued, with this mark behind it.
    pub(super) fn queued(&self, context: &Arc<Context>, event: &Arc<Event>) {
        self.set(State::Queued(Arc::clone(context), Arc::clone(event)));
    }

    /// The operation is over, well or not.
    pub(in crate::backend) fn over(&self) {
        self.set(State::Over);
    }

    fn set(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        self.changed.notify_all();
    }
}
