//! Every collective, typed and untyped.
//!
//! The typed verbs take slices. The untyped ones (`_dyn`) take views whose element type is known at run time, and
//! are what the typed ones are made of. Both are written once and given to [`Communicator`] and [`With`] alike.

use super::call::Call;
use super::tensors::Tensors;
use super::{Communicator, Options, With};
use crate::error::Result;
use crate::reduce::Reduction;
use crate::tensor::{Element, TensorMut, TensorRef};

macro_rules! verbs {
    ($($type:ty, |$this:ident| $with:expr;)*) => {$(
impl $type {
    /// Every rank's `data` becomes the reduction of all ranks' `data`. One length on all ranks.
    ///
    /// # Errors
    /// As every verb: [`InvalidArgument`](crate::ErrorKind::InvalidArgument) and
    /// [`Unsupported`](crate::ErrorKind::Unsupported) before anything is sent; else the first cause of the group's
    /// failure. `data` is unchanged after a [`Mismatch`](crate::ErrorKind::Mismatch), unspecified after others.
    ///
    /// ```
    /// # use ringfold::{Communicator, ReduceOp};
    /// let comm = Communicator::local(1).remove(0);
    /// let mut data = [1.0f32, 2.0];
    /// comm.all_reduce(&mut data, ReduceOp::Sum)?;
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    pub fn all_reduce<T: Element>(&self, data: &mut [T], op: impl Into<Reduction>) -> Result<()> {
        self.all_reduce_dyn(data, op)
    }

    /// `output` becomes the reduction of all ranks' `input`. One length on all ranks.
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce).
    pub fn all_reduce_into<T: Element>(&self, input: &[T], output: &mut [T], op: impl Into<Reduction>) -> Result<()> {
        self.all_reduce_dyn((input, output), op)
    }

    /// [`all_reduce`](Self::all_reduce) of tensors whose type is known at run time.
    ///
    /// ```
    /// # use ringfold::{Communicator, ReduceOp, tensor::TensorMut};
    /// let comm = Communicator::local(1).remove(0);
    /// let mut data = [1u16, 2];
    /// comm.all_reduce_dyn(TensorMut::from_slice(&mut data), ReduceOp::BitOr)?;
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce).
    pub fn all_reduce_dyn<'t>(&self, tensors: impl Into<Tensors<'t>>, op: impl Into<Reduction>) -> Result<()> {
        let ($this, tensors) = (self, tensors.into());
        let with = $with;
        with.execute(&Call::AllReduce(op.into()), tensors)
    }

    /// The root's `data` becomes the reduction of all ranks' `data`; other ranks' stays. One length on all ranks.
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce).
    pub fn reduce<T: Element>(&self, data: &mut [T], op: impl Into<Reduction>, root: usize) -> Result<()> {
        self.reduce_dyn(data, op, root)
    }

    /// The root's `output` becomes the reduction of all ranks' `input`; other ranks' `output` is not looked at and
    /// may be empty.
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce).
    pub fn reduce_into<T: Element>(&self, input: &[T], output: &mut [T], op: impl Into<Reduction>, root: usize) -> Result<()> {
        self.reduce_dyn((input, output), op, root)
    }

    /// [`reduce`](Self::reduce) of tensors whose type is known at run time.
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce).
    pub fn reduce_dyn<'t>(&self, tensors: impl Into<Tensors<'t>>, op: impl Into<Reduction>, root: usize) -> Result<()> {
        let ($this, tensors) = (self, tensors.into());
        let with = $with;
        with.execute(&Call::Reduce(op.into(), root), tensors)
    }

    /// Rank r's `output` becomes block r of the reduction of all ranks' `input`, which has one block of
    /// `output`'s length for each rank.
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce).
    pub fn reduce_scatter<T: Element>(&self, input: &[T], output: &mut [T], op: impl Into<Reduction>) -> Result<()> {
        self.reduce_scatter_dyn((input, output), None, op)
    }

    /// Block r of rank r's `data` becomes block r of the reduction of all ranks' `data`; the other blocks stay.
    /// The blocks have one length.
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce).
    pub fn reduce_scatter_in_place<T: Element>(&self, data: &mut [T], op: impl Into<Reduction>) -> Result<()> {
        self.reduce_scatter_dyn(data, None, op)
    }

    /// [`reduce_scatter`](Self::reduce_scatter) with blocks of these lengths, the same list on every rank.
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce).
    pub fn reduce_scatter_v<T: Element>(
        &self,
        input: &[T],
        output: &mut [T],
        counts: &[usize],
        op: impl Into<Reduction>,
    ) -> Result<()> {
        self.reduce_scatter_dyn((input, output), Some(counts), op)
    }

    /// [`reduce_scatter`](Self::reduce_scatter) of tensors whose type is known at run time.
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce).
    pub fn reduce_scatter_dyn<'t>(
        &self,
        tensors: impl Into<Tensors<'t>>,
        counts: Option<&[usize]>,
        op: impl Into<Reduction>,
    ) -> Result<()> {
        let ($this, tensors) = (self, tensors.into());
        let with = $with;
        with.execute(&Call::ReduceScatter(counts, op.into()), tensors)
    }

    /// Every rank's `output` becomes the `input`s of all ranks, one after another. One length on all ranks.
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce).
    pub fn all_gather<T: Element>(&self, input: &[T], output: &mut [T]) -> Result<()> {
        self.all_gather_dyn((input, output), None)
    }

    /// Every rank's `data` becomes block 0 of rank 0's `data`, block 1 of rank 1's, and so on. The blocks have one
    /// length.
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce).
    pub fn all_gather_in_place<T: Element>(&self, data: &mut [T]) -> Result<()> {
        self.all_gather_dyn(data, None)
    }

    /// [`all_gather`](Self::all_gather) with inputs of these lengths, the same list on every rank.
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce).
    pub fn all_gather_v<T: Element>(&self, input: &[T], output: &mut [T], counts: &[usize]) -> Result<()> {
        self.all_gather_dyn((input, output), Some(counts))
    }

    /// [`all_gather`](Self::all_gather) of tensors whose type is known at run time.
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce).
    pub fn all_gather_dyn<'t>(&self, tensors: impl Into<Tensors<'t>>, counts: Option<&[usize]>) -> Result<()> {
        let ($this, tensors) = (self, tensors.into());
        let with = $with;
        with.execute(&Call::AllGather(counts), tensors)
    }

    /// Every rank's `data` becomes the root's. One length on all ranks.
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce); `data` of a rank that fails is unspecified unless the check is strict.
    pub fn broadcast<T: Element>(&self, data: &mut [T], root: usize) -> Result<()> {
        self.broadcast_dyn(data, root)
    }

    /// Every rank's `output` becomes the root's `input`; other ranks' `input` is not looked at and may be empty.
    ///
    /// # Errors
    /// As [`broadcast`](Self::broadcast).
    pub fn broadcast_into<T: Element>(&self, input: &[T], output: &mut [T], root: usize) -> Result<()> {
        self.broadcast_dyn((input, output), root)
    }

    /// [`broadcast`](Self::broadcast) of tensors whose type is known at run time.
    ///
    /// # Errors
    /// As [`broadcast`](Self::broadcast).
    pub fn broadcast_dyn<'t>(&self, tensors: impl Into<Tensors<'t>>, root: usize) -> Result<()> {
        let ($this, tensors) = (self, tensors.into());
        let with = $with;
        with.execute(&Call::Broadcast(root), tensors)
    }

    /// The root's `output` becomes the `input`s of all ranks, one after another; other ranks' `output` is not
    /// looked at and may be empty. One length on all ranks.
    ///
    /// # Errors
    /// As [`broadcast`](Self::broadcast).
    pub fn gather<T: Element>(&self, input: &[T], output: &mut [T], root: usize) -> Result<()> {
        self.gather_dyn((input, output), None, root)
    }

    /// [`gather`](Self::gather) with inputs of these lengths, the same list on every rank.
    ///
    /// # Errors
    /// As [`broadcast`](Self::broadcast).
    pub fn gather_v<T: Element>(
        &self,
        input: &[T],
        output: &mut [T],
        counts: &[usize],
        root: usize,
    ) -> Result<()> {
        self.gather_dyn((input, output), Some(counts), root)
    }

    /// [`gather`](Self::gather) of tensors whose type is known at run time. In place, the root's tensor holds its
    /// own block among all, and another rank's tensor is its block.
    ///
    /// # Errors
    /// As [`broadcast`](Self::broadcast).
    pub fn gather_dyn<'t>(
        &self,
        tensors: impl Into<Tensors<'t>>,
        counts: Option<&[usize]>,
        root: usize,
    ) -> Result<()> {
        let ($this, tensors) = (self, tensors.into());
        let with = $with;
        with.execute(&Call::Gather(counts, root), tensors)
    }

    /// Rank r's `output` becomes block r of the root's `input`, which has one block of `output`'s length for each
    /// rank; other ranks' `input` is not looked at and may be empty.
    ///
    /// # Errors
    /// As [`broadcast`](Self::broadcast).
    pub fn scatter<T: Element>(&self, input: &[T], output: &mut [T], root: usize) -> Result<()> {
        self.scatter_dyn((input, output), None, root)
    }

    /// [`scatter`](Self::scatter) with blocks of these lengths, the same list on every rank.
    ///
    /// # Errors
    /// As [`broadcast`](Self::broadcast).
    pub fn scatter_v<T: Element>(
        &self,
        input: &[T],
        output: &mut [T],
        counts: &[usize],
        root: usize,
    ) -> Result<()> {
        self.scatter_dyn((input, output), Some(counts), root)
    }

    /// [`scatter`](Self::scatter) of tensors whose type is known at run time. In place, the root's tensor keeps its
    /// own block among all, and another rank's tensor is its block.
    ///
    /// # Errors
    /// As [`broadcast`](Self::broadcast).
    pub fn scatter_dyn<'t>(
        &self,
        tensors: impl Into<Tensors<'t>>,
        counts: Option<&[usize]>,
        root: usize,
    ) -> Result<()> {
        let ($this, tensors) = (self, tensors.into());
        let with = $with;
        with.execute(&Call::Scatter(counts, root), tensors)
    }

    /// Block s of rank r's `output` becomes block r of rank s's `input`. All blocks have one length.
    ///
    /// # Errors
    /// As [`broadcast`](Self::broadcast).
    pub fn all_to_all<T: Element>(&self, input: &[T], output: &mut [T]) -> Result<()> {
        self.all_to_all_dyn((input, output), None)
    }

    /// Block s of rank r's `data` becomes block r of rank s's. All blocks have one length.
    ///
    /// # Errors
    /// As [`broadcast`](Self::broadcast).
    pub fn all_to_all_in_place<T: Element>(&self, data: &mut [T]) -> Result<()> {
        self.all_to_all_dyn(data, None)
    }

    /// [`all_to_all`](Self::all_to_all) with blocks of different lengths: `send_counts[s]` elements go to rank s,
    /// `receive_counts[s]` come from it. What one rank sends another is what that one receives from it.
    ///
    /// # Errors
    /// As [`broadcast`](Self::broadcast).
    pub fn all_to_all_v<T: Element>(
        &self,
        input: &[T],
        send_counts: &[usize],
        output: &mut [T],
        receive_counts: &[usize],
    ) -> Result<()> {
        self.all_to_all_dyn((input, output), Some((send_counts, receive_counts)))
    }

    /// [`all_to_all`](Self::all_to_all) of tensors whose type is known at run time; counts, where given, are what
    /// is sent to and received from each rank.
    ///
    /// # Errors
    /// As [`broadcast`](Self::broadcast).
    pub fn all_to_all_dyn<'t>(
        &self,
        tensors: impl Into<Tensors<'t>>,
        counts: Option<(&[usize], &[usize])>,
    ) -> Result<()> {
        let ($this, tensors) = (self, tensors.into());
        let with = $with;
        with.execute(&Call::AllToAll(counts), tensors)
    }

    /// Returns once every rank has called it.
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce).
    pub fn barrier(&self) -> Result<()> {
        let $this = self;
        let with = $with;
        let (here, mut all) = ([1u8], [0u8]);
        with.execute(&Call::Barrier, (&here[..], &mut all[..]).into())
    }

    /// Sends `data` to a rank, which receives it by [`recv`](Self::recv). Messages between two ranks arrive in the
    /// order of their sending. Blocks until the bytes have left this rank's buffer, which may be before the other
    /// rank has asked for them, or not: do not rely on either.
    ///
    /// # Errors
    /// As [`broadcast`](Self::broadcast).
    pub fn send<T: Element>(&self, data: &[T], to: usize) -> Result<()> {
        self.send_dyn(TensorRef::from_slice(data), to)
    }

    /// [`send`](Self::send) of a tensor whose type is known at run time.
    ///
    /// # Errors
    /// As [`broadcast`](Self::broadcast).
    pub fn send_dyn(&self, data: TensorRef<'_>, to: usize) -> Result<()> {
        let $this = self;
        let with = $with;
        let nothing = TensorMut::empty(data.dtype());
        with.execute(&Call::Messages { to: Some(to), from: None }, Tensors::Apart(data, nothing))
    }

    /// Receives what a rank has sent by [`send`](Self::send). Length and type are those of the message.
    ///
    /// # Errors
    /// As [`broadcast`](Self::broadcast).
    pub fn recv<T: Element>(&self, data: &mut [T], from: usize) -> Result<()> {
        self.recv_dyn(TensorMut::from_slice(data), from)
    }

    /// [`recv`](Self::recv) of a tensor whose type is known at run time.
    ///
    /// # Errors
    /// As [`broadcast`](Self::broadcast).
    pub fn recv_dyn(&self, data: TensorMut<'_>, from: usize) -> Result<()> {
        let $this = self;
        let with = $with;
        let nothing = TensorRef::empty(data.dtype());
        with.execute(&Call::Messages { to: None, from: Some(from) }, Tensors::Apart(nothing, data))
    }

    /// Sends to one rank and receives from another (or the same) at once, so that rings and pairs of ranks can
    /// swap without a deadlock.
    ///
    /// ```
    /// # use ringfold::Communicator;
    /// std::thread::scope(|scope| {
    ///     for comm in Communicator::local(3) {
    ///         scope.spawn(move || {
    ///             let (next, previous) = ((comm.rank() + 1) % 3, (comm.rank() + 2) % 3);
    ///             let mut got = [0u64];
    ///             comm.send_recv(&[comm.rank() as u64], next, &mut got, previous).unwrap();
    ///             assert_eq!(got[0], previous as u64);
    ///         });
    ///     }
    /// });
    /// ```
    ///
    /// # Errors
    /// As [`broadcast`](Self::broadcast).
    pub fn send_recv<T: Element>(&self, data: &[T], to: usize, into: &mut [T], from: usize) -> Result<()> {
        self.send_recv_dyn(TensorRef::from_slice(data), to, TensorMut::from_slice(into), from)
    }

    /// [`send_recv`](Self::send_recv) of tensors whose type is known at run time.
    ///
    /// # Errors
    /// As [`broadcast`](Self::broadcast).
    pub fn send_recv_dyn(&self, data: TensorRef<'_>, to: usize, into: TensorMut<'_>, from: usize) -> Result<()> {
        let $this = self;
        let with = $with;
        with.execute(&Call::Messages { to: Some(to), from: Some(from) }, Tensors::Apart(data, into))
    }
}
    )*};
}

verbs! {
    With<'_>, |this| this;
    Communicator, |this| &With { communicator: this, options: Options::default() };
}
