//! Operations that have been started and not been waited for.

use super::buffer::Owner;
use super::completion::Completion;
use super::progress::ProgressThread;
use crate::backend::nccl::Landing;
use crate::error::Result;
use crate::tensor::Stream;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// An operation that has been started: its handle, and the owner of its buffer.
///
/// It goes on whatever is done with the handle; the progress thread drives it. [`wait`](Pending::wait) gives the
/// buffer back, as does awaiting it, on any executor. Dropping it detaches: the operation goes on as other ranks
/// expect, and its buffer is dropped at its end. One rank cannot cancel a collective; to stop a group, abort it.
///
/// Send, so that one thread may start and another wait.
#[must_use = "without waiting, the result is lost"]
pub struct Pending<B: Owner> {
    completion: Arc<Completion>,
    progress: Arc<ProgressThread>,
    /// Taken out when it is given back.
    buffer: Option<B>,
    /// Where streams can wait for it, and for how long it may take to come there; for backends that work on devices.
    landing: Option<(Arc<Landing>, Duration)>,
}

impl<B: Owner> Pending<B> {
    pub(super) fn new(completion: Arc<Completion>, progress: Arc<ProgressThread>, buffer: B) -> Self {
        Pending { completion, progress, buffer: Some(buffer), landing: None }
    }

    /// The same of an operation that streams can wait for.
    pub(super) fn landing_at(mut self, landing: Option<(Arc<Landing>, Duration)>) -> Self {
        self.landing = landing;
        self
    }

    /// Whether the operation is complete, well or not. Does not block.
    pub fn is_ready(&self) -> bool {
        self.progress.check_origin().is_err() || self.completion.is_ready()
    }

    /// Blocks until the operation is complete, and gives its buffer back.
    ///
    /// # Errors
    /// As the blocking verb of the same name; the buffer is dropped then, unless a library still [has it](crate::Error::keeps_memory).
    pub fn wait(mut self) -> Result<B::Output> {
        self.progress.check_origin()?;
        let awaiting = self.progress.awaiting();
        self.completion.wait(None);
        drop(awaiting);
        self.take()
    }

    /// Lets what the caller queues on a stream from now on find the operation's result, and gives the buffer back.
    ///
    /// Over the backend `nccl`, of memory on its device, this blocks until the operation is queued there, and the stream waits for it while
    /// the host goes on; what became of it is told by later operations, or where the stream is waited for. Backends of the host
    /// complete operations for the host: there this blocks until the operation is complete, as [`wait`](Pending::wait) does, and then no
    /// stream has anything to wait for. An operation that follows a stream of its own
    /// ([`Options::stream`](crate::Options::stream)) needs this for other streams only.
    ///
    /// # Errors
    /// As [`wait`](Pending::wait).
    ///
    /// # Safety
    /// The stream is one of the operation's device, and there until this returns. Memory on that device is there, and not touched but by
    /// what is queued on the stream afterwards, until the stream has come so far.
    ///
    /// ```
    /// use ringfold::tensor::Stream;
    /// use ringfold::{Communicator, ReduceOp};
    /// let comm = Communicator::local(1).remove(0);
    /// let pending = comm.start_all_reduce(vec![1.0f32; 100], ReduceOp::Sum)?;
    /// // SAFETY: every device has a default stream, and it is there for ever.
    /// let sums = unsafe { pending.wait_on(Stream::default()) }?;
    /// assert_eq!(sums[0], 1.0);
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    pub unsafe fn wait_on(mut self, stream: Stream) -> Result<B::Output> {
        let Some((landing, timeout)) = self.landing.take() else {
            tracing::trace!(?stream, "the host waits, and so the stream need not");
            return self.wait();
        };
        self.progress.check_origin()?;
        let awaiting = self.progress.awaiting();
        // SAFETY: the caller's promise.
        let landed = unsafe { landing.wait_on(stream, timeout) };
        drop(awaiting);
        match landed {
            Ok(true) => {
                let buffer = self.buffer.take().expect("a pending operation is waited for once");
                Ok(buffer.into_output())
            }
            // It is over, or its own deadline says what became of it.
            Ok(false) | Err(_) => self.wait(),
        }
    }

    /// Blocks until the operation is complete or `limit` has passed; tells whether it is complete. Nothing happens to
    /// the operation where it is not: its own deadline is another matter.
    ///
    /// ```
    /// use ringfold::{Communicator, ReduceOp};
    /// use std::time::Duration;
    /// let comm = Communicator::local(1).remove(0);
    /// let pending = comm.start_all_reduce(vec![1.0f32; 100], ReduceOp::Sum)?;
    /// while !pending.wait_timeout(Duration::from_millis(10)) {
    ///     println!("still under way");
    /// }
    /// let sums = pending.wait()?;
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    pub fn wait_timeout(&self, limit: Duration) -> bool {
        if self.progress.check_origin().is_err() {
            return true;
        }
        let _awaiting = self.progress.awaiting();
        self.completion.wait(Some(limit))
    }

    /// What has become of the operation; `None` while it is under way. Does not block, and can be asked again: the buffer
    /// stays here until [`wait`](Pending::wait).
    ///
    /// ```
    /// use ringfold::{Communicator, ReduceOp};
    /// use std::time::Duration;
    /// let comm = Communicator::local(1).remove(0);
    /// let pending = comm.start_all_reduce(vec![1.0f32; 100], ReduceOp::Sum)?;
    /// while !pending.wait_timeout(Duration::from_millis(10)) {}
    /// assert!(pending.outcome().is_some_and(|result| result.is_ok()));
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    pub fn outcome(&self) -> Option<Result<()>> {
        if let Err(error) = self.progress.check_origin() {
            return Some(Err(error));
        }
        self.completion.is_ready().then(|| self.completion.result())
    }

    /// Whether the operation is complete; where it is not, `waker` is woken once it is, on the thread that completes it, which
    /// it must not block. The last waker that is given counts. Does not block.
    pub fn poll_ready(&self, waker: &Waker) -> Poll<()> {
        if self.progress.check_origin().is_err() {
            return Poll::Ready(());
        }
        self.completion.poll(waker)
    }

    fn take(&mut self) -> Result<B::Output> {
        let buffer = self.buffer.take().expect("a pending operation is waited for once");
        if self.completion.keeps_memory() {
            // Whatever becomes of this process, the library may write there.
            std::mem::forget(buffer);
            return Err(self.completion.result().expect_err("only an error keeps memory"));
        }
        self.completion.result().map(|()| buffer.into_output())
    }
}

impl<B: Owner + Unpin> Future for Pending<B> {
    type Output = Result<<B as Owner>::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Err(error) = self.progress.check_origin() {
            return Poll::Ready(Err(error));
        }
        self.completion.poll(context.waker()).map(|()| self.take())
    }
}

impl<B: Owner> Drop for Pending<B> {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            // The buffer must outlive the operation. What was forked off has a copy of the memory.
            if self.progress.check_origin().is_ok() {
                self.completion.keep(buffer);
            }
        }
    }
}

impl<B: Owner> fmt::Debug for Pending<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").field("is_ready", &self.is_ready()).finish_non_exhaustive()
    }
}
