//! Operations that are checked once and run again and again.

use super::buffer::Buffer;
use super::call::Call;
use super::completion::Completion;
use super::execute::Checked;
use super::sequencer::Course;
use super::{Communicator, Options, With};
use crate::backend::Operation;
use crate::error::{Error, ErrorKind, Result};
use crate::reduce::Reduction;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// An operation with its buffer, checked once, to be run again and again: for training loops. Its plan is made at the
/// first run, and found again by the others.
///
/// Each run is a call of the communicator like any other, in its order, on all ranks. Between runs the buffer can be
/// read and written; while one is started and not waited for, it cannot. Dropping it while one is under way detaches
/// that: it goes on, and the buffer is dropped at its end.
///
/// ```
/// use ringfold::{Communicator, ReduceOp};
/// let comm = Communicator::local(1).remove(0);
/// let mut step = comm.prepare_all_reduce(vec![0.0f32; 1000], ReduceOp::Mean)?;
/// for epoch in 0..3 {
///     step.buffer_mut()?.fill(epoch as f32);
///     step.run()?;
///     step.start()?;
///     // Compute something else meanwhile.
///     step.wait()?;
/// }
/// let gradients = step.into_buffer()?;
/// # Ok::<(), ringfold::Error>(())
/// ```
pub struct Prepared<'c, B: Buffer> {
    communicator: &'c Communicator,
    checked: Checked,
    course: Course,
    /// Taken out when it is given back.
    buffer: Option<B>,
    under_way: Option<Arc<Completion>>,
}

impl<'c, B: Buffer> Prepared<'c, B> {
    /// The next operation in the order.
    ///
    /// # Safety
    /// Nobody may reach the buffer until the operation is complete.
    #[inline]
    unsafe fn operation(&self) -> Operation {
        let Checked { request, buffers, custom, site, .. } = &self.checked;
        // SAFETY: the buffer is this one's own, and lies where it was and is as long as it was when it was checked: it is
        // shown by `&B` and by slices only, through which a vector can neither grow nor be exchanged for another. The
        // rest is the caller's promise.
        let operation =
            unsafe { self.communicator.next(request, &self.course, *buffers, custom.as_ref(), *site) };
        match B::OWNS {
            // SAFETY: see `keep`, and `Completion::keep` for one that is dropped.
            true => unsafe { operation.owning() },
            false => operation,
        }
    }

    /// Runs it once; returns when it is complete.
    ///
    /// # Errors
    /// As the blocking verb of the same name; [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where a run is
    /// under way.
    pub fn run(&mut self) -> Result<()> {
        self.idle()?;
        // SAFETY: the buffer is not touched while this is borrowed.
        let mut operation = Some(unsafe { self.operation() });
        let result = self.communicator.run(&mut operation);
        self.keep(result.as_ref().is_err_and(Error::keeps_memory));
        result
    }

    /// Starts it once. [`wait`](Prepared::wait) for its end before the next run.
    ///
    /// # Errors
    /// As the started verb of the same name; [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where a run is
    /// under way.
    pub fn start(&mut self) -> Result<()> {
        self.idle()?;
        self.communicator.make_progress_thread()?;
        // SAFETY: while the operation is under way nobody can reach the buffer, and dropping this leaves it to the
        // operation.
        let operation = unsafe { self.operation() };
        self.under_way = Some(self.communicator.hand_over(1, std::iter::once(operation)));
        Ok(())
    }

    /// Blocks until the run that was started is complete; returns at once where none is.
    ///
    /// # Errors
    /// As the blocking verb of the same name.
    pub fn wait(&mut self) -> Result<()> {
        let Some(completion) = self.under_way.take() else { return Ok(()) };
        self.communicator.check_origin()?;
        let _awaiting = self.communicator.progress.awaiting();
        completion.wait(None);
        self.keep(completion.keeps_memory());
        completion.result()
    }

    /// Where a library still has the buffer, it is never seen again.
    fn keep(&mut self, keeps_memory: bool) {
        if keeps_memory {
            std::mem::forget(self.buffer.take());
        }
    }

    /// Blocks until the run that was started is complete or `limit` has passed; tells whether it is complete, which
    /// [`wait`](Prepared::wait) then ends at once.
    pub fn wait_timeout(&self, limit: Duration) -> bool {
        let Some(completion) = &self.under_way else { return true };
        if self.communicator.check_origin().is_err() {
            return true;
        }
        let _awaiting = self.communicator.progress.awaiting();
        completion.wait(Some(limit))
    }

    /// Whether no run is under way. Does not block.
    pub fn is_ready(&self) -> bool {
        self.under_way.as_ref().is_none_or(|completion| completion.is_ready())
    }

    /// The buffer, between runs.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where a run is under way.
    pub fn buffer(&self) -> Result<&B> {
        self.idle()?;
        Ok(self.buffer.as_ref().expect("it is there between runs"))
    }

    /// The buffer's memory, between runs: the elements of a vector, or of the input and the output.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where a run is under way.
    pub fn buffer_mut(&mut self) -> Result<B::Slices<'_>> {
        self.idle()?;
        Ok(self.buffer.as_mut().expect("it is there between runs").slices())
    }

    /// Gives the buffer back, between runs.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where a run is under way; the buffer is dropped at its
    /// end.
    pub fn into_buffer(mut self) -> Result<B> {
        self.idle()?;
        Ok(self.buffer.take().expect("it is there between runs"))
    }

    fn idle(&self) -> Result<()> {
        if self.under_way.is_none() && self.buffer.is_some() {
            return Ok(());
        }
        if self.under_way.is_none() {
            return Err(Error::new(
                ErrorKind::Closed,
                "the buffer was left to a library when a run failed within it",
            )
            .at_rank(self.communicator.rank)
            .remedy("form a new group, and prepare another buffer for it"));
        }
        Err(Error::invalid("a prepared operation is under way")
            .at_rank(self.communicator.rank)
            .remedy("wait for it first"))
    }
}

impl<B: Buffer> Drop for Prepared<'_, B> {
    fn drop(&mut self) {
        if let (Some(completion), Some(buffer)) = (self.under_way.take(), self.buffer.take()) {
            // The buffer must outlive the operation. What was forked off has a copy of the memory.
            if self.communicator.check_origin().is_ok() {
                completion.keep(buffer);
            }
        }
    }
}

impl<B: Buffer> fmt::Debug for Prepared<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").field("request", &self.checked.request).finish_non_exhaustive()
    }
}

impl<'c> With<'c> {
    /// Prepares a call. See [`Communicator::prepare`].
    ///
    /// # Errors
    /// As there.
    pub fn prepare<B: Buffer>(&self, call: &Call<'_>, mut buffer: B) -> Result<Prepared<'c, B>> {
        let mut checked = self.check(call, &mut buffer.tensors())?;
        // What no algorithm does is refused here, and not at the first run.
        let course = self.course(&mut checked.request)?;
        Ok(Prepared {
            communicator: self.communicator,
            checked,
            course,
            buffer: Some(buffer),
            under_way: None,
        })
    }
}

/// Prepared operations.
impl<'c> With<'c> {
    /// Prepares an [`all_reduce`](Self::all_reduce). Nothing is sent.
    ///
    /// # Errors
    /// As every prepared verb: [`InvalidArgument`](crate::ErrorKind::InvalidArgument), and
    /// [`Unsupported`](crate::ErrorKind::Unsupported) where the algorithm that is asked for cannot do it; the buffer is
    /// dropped then.
    pub fn prepare_all_reduce<B: Buffer>(
        &self,
        buffer: B,
        op: impl Into<Reduction>,
    ) -> Result<Prepared<'c, B>> {
        self.prepare(&Call::AllReduce(op.into()), buffer)
    }

    /// Prepares a [`reduce`](Self::reduce).
    ///
    /// # Errors
    /// As [`prepare_all_reduce`](Self::prepare_all_reduce).
    pub fn prepare_reduce<B: Buffer>(
        &self,
        buffer: B,
        op: impl Into<Reduction>,
        root: usize,
    ) -> Result<Prepared<'c, B>> {
        self.prepare(&Call::Reduce(op.into(), root), buffer)
    }

    /// Prepares a [`reduce_scatter`](Self::reduce_scatter); `counts` as in
    /// [`reduce_scatter_v`](Self::reduce_scatter_v).
    ///
    /// # Errors
    /// As [`prepare_all_reduce`](Self::prepare_all_reduce).
    pub fn prepare_reduce_scatter<B: Buffer>(
        &self,
        buffer: B,
        counts: Option<&[usize]>,
        op: impl Into<Reduction>,
    ) -> Result<Prepared<'c, B>> {
        self.prepare(&Call::ReduceScatter(counts, op.into()), buffer)
    }

    /// Prepares an [`all_gather`](Self::all_gather); `counts` as in [`all_gather_v`](Self::all_gather_v).
    ///
    /// # Errors
    /// As [`prepare_all_reduce`](Self::prepare_all_reduce).
    pub fn prepare_all_gather<B: Buffer>(
        &self,
        buffer: B,
        counts: Option<&[usize]>,
    ) -> Result<Prepared<'c, B>> {
        self.prepare(&Call::AllGather(counts), buffer)
    }

    /// Prepares a [`broadcast`](Self::broadcast).
    ///
    /// # Errors
    /// As [`prepare_all_reduce`](Self::prepare_all_reduce).
    pub fn prepare_broadcast<B: Buffer>(&self, buffer: B, root: usize) -> Result<Prepared<'c, B>> {
        self.prepare(&Call::Broadcast(root), buffer)
    }

    /// Prepares an [`all_to_all`](Self::all_to_all); `counts` as in [`all_to_all_v`](Self::all_to_all_v).
    ///
    /// # Errors
    /// As [`prepare_all_reduce`](Self::prepare_all_reduce).
    pub fn prepare_all_to_all<B: Buffer>(
        &self,
        buffer: B,
        counts: Option<(&[usize], &[usize])>,
    ) -> Result<Prepared<'c, B>> {
        self.prepare(&Call::AllToAll(counts), buffer)
    }
}

/// Prepared operations.
impl Communicator {
    /// Prepares an [`all_reduce`](Self::all_reduce): checked once, run again and again. Nothing is sent.
    /// Other verbs are prepared through [`with`](Self::with).
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) and [`Unsupported`](crate::ErrorKind::Unsupported); the
    /// buffer is dropped then.
    pub fn prepare_all_reduce<B: Buffer>(
        &self,
        buffer: B,
        op: impl Into<Reduction>,
    ) -> Result<Prepared<'_, B>> {
        self.with(Options::new()).prepare_all_reduce(buffer, op)
    }
}
