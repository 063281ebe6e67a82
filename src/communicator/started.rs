//! Every collective, started: its memory given away, its end waited for later.

use super::buffer::{Batch, Buffer, Incoming, LentMany, Many, Nothing, Outgoing, Owner};
use super::call::Call;
use super::pending::Pending;
use super::{Communicator, Options, With};
use crate::backend::nccl::Landing;
use crate::error::Result;
use crate::reduce::Reduction;
use crate::tensor::Element;
use std::sync::Arc;

impl With<'_> {
    /// Starts a call. See [`Communicator::start`].
    ///
    /// # Errors
    /// As there.
    pub fn start<B: Buffer>(&self, call: &Call<'_>, mut buffer: B) -> Result<Pending<B>> {
        let slot = self.recall(call, &mut buffer.tensors())?;
        self.communicator.make_progress_thread()?;
        // SAFETY: the buffer goes to the pending operation, which keeps it to the end, also where it is dropped; moving
        // it does not move its memory, and nobody can reach that before it is given back.
        let operation = unsafe { self.communicator.again(slot, call, &mut buffer.tensors(), &self.options) };
        let mut operation = if B::OWNS {
            // SAFETY: see `Pending`, which forgets a buffer that is kept, and `Completion::keep`.
            unsafe { operation.owning() }
        } else {
            operation
        };
        let mut landing = None;
        if self.communicator.line.works_on_devices {
            let place = Landing::new();
            landing = Some((Arc::clone(&place), operation.timeout()));
            operation = operation.landing_at(place);
        }
        let completion = self.communicator.hand_over(1, std::iter::once(operation));
        Ok(Pending::new(completion, Arc::clone(&self.communicator.progress), buffer).landing_at(landing))
    }

    fn start_many<B: Batch>(&self, mut many: B, op: &Reduction) -> Result<Pending<B>> {
        let checked = self.check_each(many.each(), op)?;
        self.communicator.make_progress_thread()?;
        // SAFETY: as in `start`; they lie apart.
        let asks = unsafe { self.fuse(&checked) }?;
        let operations = asks.into_iter().map(|ask| match B::OWNS {
            // SAFETY: as in `start`.
            true => unsafe { ask.operation.owning() },
            false => ask.operation,
        });
        let completion = self.communicator.hand_over(operations.len(), operations);
        Ok(Pending::new(completion, Arc::clone(&self.communicator.progress), many))
    }
}

macro_rules! started {
    ($($type:ty, |$this:ident| $with:expr;)*) => {$(
/// Started operations. They run in the order of all calls of the communicator, blocking ones among them; each returns
/// at once, with what blocks the caller being no more than making the plan. All ranks start the same operations in the
/// same order, but a rank may start what another calls.
impl $type {
    /// Starts an [`all_reduce`](Self::all_reduce) of a vector in place, or of an input and an output.
    ///
    /// ```
    /// use ringfold::{Communicator, ReduceOp};
    /// let comm = Communicator::local(1).remove(0);
    /// let pending = comm.start_all_reduce(vec![1.0f32; 1000], ReduceOp::Sum)?;
    /// // Compute something else meanwhile.
    /// let gradients: Vec<f32> = pending.wait()?;
    /// let both = comm.start_all_reduce((gradients, vec![0.0f32; 1000]), ReduceOp::Sum)?;
    /// let (input, output) = both.wait()?;
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    ///
    /// # Errors
    /// As every started verb: [`InvalidArgument`](crate::ErrorKind::InvalidArgument) and
    /// [`Unsupported`](crate::ErrorKind::Unsupported) at once, [`Io`](crate::ErrorKind::Io) where the progress thread
    /// cannot be made; the buffer is dropped then. All else is told by the pending operation.
    pub fn start_all_reduce<B: Buffer>(&self, buffer: B, op: impl Into<Reduction>) -> Result<Pending<B>> {
        let $this = self;
        $with.start(&Call::AllReduce(op.into()), buffer)
    }

    /// Starts an [`all_reduce_batch`](Self::all_reduce_batch) of vectors in place.
    ///
    /// # Errors
    /// As [`start_all_reduce`](Self::start_all_reduce).
    pub fn start_all_reduce_batch<T: Element>(
        &self,
        tensors: Vec<Vec<T>>,
        op: impl Into<Reduction>,
    ) -> Result<Pending<Many<T>>> {
        let $this = self;
        $with.start_many(Many(tensors), &op.into())
    }

    /// The same of tensors that somebody else owns, of any element types.
    ///
    /// # Errors
    /// As [`start_all_reduce`](Self::start_all_reduce).
    pub fn start_all_reduce_lent(
        &self,
        tensors: LentMany,
        op: impl Into<Reduction>,
    ) -> Result<Pending<LentMany>> {
        let $this = self;
        $with.start_many(tensors, &op.into())
    }

    /// Starts a [`reduce`](Self::reduce).
    ///
    /// # Errors
    /// As [`start_all_reduce`](Self::start_all_reduce).
    pub fn start_reduce<B: Buffer>(&self, buffer: B, op: impl Into<Reduction>, root: usize) -> Result<Pending<B>> {
        let $this = self;
        $with.start(&Call::Reduce(op.into(), root), buffer)
    }

    /// Starts a [`reduce_scatter`](Self::reduce_scatter); `counts` as in
    /// [`reduce_scatter_v`](Self::reduce_scatter_v), none where blocks have one length.
    ///
    /// # Errors
    /// As [`start_all_reduce`](Self::start_all_reduce).
    pub fn start_reduce_scatter<B: Buffer>(
        &self,
        buffer: B,
        counts: Option<&[usize]>,
        op: impl Into<Reduction>,
    ) -> Result<Pending<B>> {
        let $this = self;
        $with.start(&Call::ReduceScatter(counts, op.into()), buffer)
    }

    /// Starts an [`all_gather`](Self::all_gather); `counts` as in [`all_gather_v`](Self::all_gather_v).
    ///
    /// # Errors
    /// As [`start_all_reduce`](Self::start_all_reduce).
    pub fn start_all_gather<B: Buffer>(&self, buffer: B, counts: Option<&[usize]>) -> Result<Pending<B>> {
        let $this = self;
        $with.start(&Call::AllGather(counts), buffer)
    }

    /// Starts a [`broadcast`](Self::broadcast).
    ///
    /// # Errors
    /// As [`start_all_reduce`](Self::start_all_reduce).
    pub fn start_broadcast<B: Buffer>(&self, buffer: B, root: usize) -> Result<Pending<B>> {
        let $this = self;
        $with.start(&Call::Broadcast(root), buffer)
    }

    /// Starts a [`gather`](Self::gather); `counts` as in [`gather_v`](Self::gather_v).
    ///
    /// # Errors
    /// As [`start_all_reduce`](Self::start_all_reduce).
    pub fn start_gather<B: Buffer>(
        &self,
        buffer: B,
        counts: Option<&[usize]>,
        root: usize,
    ) -> Result<Pending<B>> {
        let $this = self;
        $with.start(&Call::Gather(counts, root), buffer)
    }

    /// Starts a [`scatter`](Self::scatter); `counts` as in [`scatter_v`](Self::scatter_v).
    ///
    /// # Errors
    /// As [`start_all_reduce`](Self::start_all_reduce).
    pub fn start_scatter<B: Buffer>(
        &self,
        buffer: B,
        counts: Option<&[usize]>,
        root: usize,
    ) -> Result<Pending<B>> {
        let $this = self;
        $with.start(&Call::Scatter(counts, root), buffer)
    }

    /// Starts an [`all_to_all`](Self::all_to_all); `counts` are what is sent to and received from each rank, as in
    /// [`all_to_all_v`](Self::all_to_all_v).
    ///
    /// # Errors
    /// As [`start_all_reduce`](Self::start_all_reduce).
    pub fn start_all_to_all<B: Buffer>(
        &self,
        buffer: B,
        counts: Option<(&[usize], &[usize])>,
    ) -> Result<Pending<B>> {
        let $this = self;
        $with.start(&Call::AllToAll(counts), buffer)
    }

    /// Starts a [`barrier`](Self::barrier).
    ///
    /// # Errors
    /// As [`start_all_reduce`](Self::start_all_reduce).
    pub fn start_barrier(&self) -> Result<Pending<Nothing>> {
        let $this = self;
        $with.start(&Call::Barrier, Nothing::new())
    }

    /// Starts a [`send`](Self::send).
    ///
    /// # Errors
    /// As [`start_all_reduce`](Self::start_all_reduce).
    pub fn start_send<T: Element>(&self, data: Vec<T>, to: usize) -> Result<Pending<Outgoing<T>>> {
        let $this = self;
        $with.start(&Call::Messages { to: Some(to), from: None }, Outgoing(data))
    }

    /// Starts a [`recv`](Self::recv) of as many elements as the vector holds.
    ///
    /// # Errors
    /// As [`start_all_reduce`](Self::start_all_reduce).
    pub fn start_recv<T: Element>(&self, data: Vec<T>, from: usize) -> Result<Pending<Incoming<T>>> {
        let $this = self;
        $with.start(&Call::Messages { to: None, from: Some(from) }, Incoming(data))
    }

    /// Starts a [`send_recv`](Self::send_recv): the first vector goes to `to`, the second comes from `from`.
    ///
    /// # Errors
    /// As [`start_all_reduce`](Self::start_all_reduce).
    pub fn start_send_recv<T: Element>(
        &self,
        data: Vec<T>,
        to: usize,
        into: Vec<T>,
        from: usize,
    ) -> Result<Pending<(Vec<T>, Vec<T>)>> {
        let $this = self;
        $with.start(&Call::Messages { to: Some(to), from: Some(from) }, (data, into))
    }
}
    )*};
}

started! {
    With<'_>, |this| this;
    Communicator, |this| (&With { communicator: this, options: Options::default() });
}

const _: fn() = || {
    // A handle may be waited for on another thread than the one that started it.
    fn is_send<T: Send>() {}
    fn all<B: Owner>() {
        is_send::<Pending<B>>();
    }
    all::<Vec<f32>>();
};
