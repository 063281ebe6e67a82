//! Every collective, typed and untyped.
//!
//! The typed verbs take slices. The untyped ones (`_dyn`) take views whose element type is known at run time, and
//! are what the typed ones are made of. Both are written once and given to [`Communicator`] and [`With`] alike.

use super::{Communicator, Options, With};
use crate::backend::Buffers;
use crate::collective::{Collective, Counts, Request};
use crate::error::{Error, Result};
use crate::reduce::ReduceOp;
use crate::tensor::{DType, Element, TensorMut, TensorRef};

/// The tensors of one call: one that is both input and output, or one for each.
///
/// In place, the input lies within the output (or the output within the input) where it would stand in the
/// concatenation of all blocks: rank r's block of an all_gather is block r of the buffer that receives all.
#[derive(Debug)]
pub enum Tensors<'a> {
    /// Input and output are one.
    InPlace(TensorMut<'a>),
    /// Input and output lie apart.
    Apart(TensorRef<'a>, TensorMut<'a>),
}

impl<'a> From<TensorMut<'a>> for Tensors<'a> {
    fn from(tensor: TensorMut<'a>) -> Self {
        Tensors::InPlace(tensor)
    }
}

impl<'a> From<(TensorRef<'a>, TensorMut<'a>)> for Tensors<'a> {
    fn from((input, output): (TensorRef<'a>, TensorMut<'a>)) -> Self {
        Tensors::Apart(input, output)
    }
}

impl<'a, T: Element> From<&'a mut [T]> for Tensors<'a> {
    fn from(data: &'a mut [T]) -> Self {
        Tensors::InPlace(TensorMut::from_slice(data))
    }
}

impl<'a, T: Element> From<(&'a [T], &'a mut [T])> for Tensors<'a> {
    fn from((input, output): (&'a [T], &'a mut [T])) -> Self {
        Tensors::Apart(TensorRef::from_slice(input), TensorMut::from_slice(output))
    }
}

impl Tensors<'_> {
    fn dtype(&self) -> DType {
        match self {
            Tensors::InPlace(tensor) => tensor.dtype(),
            Tensors::Apart(_, output) => output.dtype(),
        }
    }

    /// The lengths of input and output; of one tensor, its length twice.
    fn lens(&self) -> (usize, usize) {
        match self {
            Tensors::InPlace(tensor) => (tensor.count(), tensor.count()),
            Tensors::Apart(input, output) => (input.count(), output.count()),
        }
    }

    fn is_in_place(&self) -> bool {
        matches!(self, Tensors::InPlace(_))
    }

    /// Fails unless both are dense, on the host and of one element type.
    fn check(&self) -> Result<()> {
        match self {
            Tensors::InPlace(tensor) => tensor.check_dense_host(),
            Tensors::Apart(input, output) => {
                input.check_dense_host()?;
                output.check_dense_host()?;
                if input.dtype() == output.dtype() {
                    return Ok(());
                }
                Err(Error::invalid(format!("the input is {}, the output {}", input.dtype(), output.dtype())))
            }
        }
    }
}

impl With<'_> {
    /// Carries out a request on these tensors, after checking all that one rank can check.
    fn execute(&self, mut request: Request, mut tensors: Tensors<'_>) -> Result<()> {
        let comm = self.communicator;
        let rank = comm.rank;
        let of_rank = |error: Error| comm.complete(error.at_rank(rank));
        tensors.check().map_err(of_rank)?;
        request.validate().map_err(of_rank)?;
        request.in_place = tensors.is_in_place() && request.in_place_shift(rank).is_some();
        if request.in_place {
            request.validate().map_err(of_rank)?;
        }
        let (input, output) = (request.input_len(rank), request.output_len(rank));
        let (has_input, has_output) = tensors.lens();
        // A tensor that this rank's part does not use may have any length: the output of a rank that is not
        // the root of a reduce, for one.
        let expect = |role: &str, has: usize, needs: usize| {
            if has == needs || needs == 0 {
                return Ok(());
            }
            let text = format!("the {role} has {has} elements, this {} needs {needs}", request.collective);
            Err(of_rank(Error::invalid(text).remedy("pass buffers of the lengths that the counts say")))
        };
        let buffers = match &mut tensors {
            Tensors::Apart(from, to) => {
                expect("input", has_input, input)?;
                expect("output", has_output, output)?;
                Buffers { input: from.pointer(), output: to.pointer() }
            }
            Tensors::InPlace(tensor) => {
                expect("buffer", has_input, input.max(output))?;
                let pointer = tensor.pointer();
                let shift = request.in_place_shift(rank).unwrap_or(0);
                let bytes = shift.unsigned_abs() * request.dtype.size();
                // Input element i is output element i + shift.
                let (from, to) = if shift >= 0 {
                    (pointer.wrapping_add(bytes), pointer)
                } else {
                    (pointer, pointer.wrapping_add(bytes))
                };
                Buffers { input: from, output: to }
            }
        };
        let mut engine = comm.engine_for_call().map_err(of_rank)?;
        // SAFETY: the tensors are borrowed until this returns, dense and long enough as just checked; two of
        // them lie apart because one is borrowed exclusively; in place, the pointers are laid out by the shift.
        // Where this unwinds instead, the engine is never run again.
        let result = unsafe { engine.run(request, buffers, &self.options) };
        drop(engine);
        drop(tensors);
        result.map_err(of_rank)
    }

    fn request(&self, collective: Collective, dtype: DType, counts: Counts) -> Request {
        let mut request = Request::new(collective, self.communicator.world, dtype, 0);
        request.counts = counts;
        request
    }

    /// One count for all blocks of `total` elements in place, or from the block's own length.
    fn block_count(&self, collective: Collective, total: usize) -> Result<usize> {
        let world = self.communicator.world;
        if total.is_multiple_of(world) {
            return Ok(total / world);
        }
        Err(Error::invalid(format!("{total} elements are no {world} blocks of one length"))
            .at_rank(self.communicator.rank)
            .remedy(format!("pass a multiple of {world} elements, or {collective}_v with one count a rank")))
    }
}

/// Counts as a caller gives them: `None` where every block is as long as this rank's.
type BlockCounts<'a> = Option<&'a [usize]>;

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
    pub fn all_reduce<T: Element>(&self, data: &mut [T], op: ReduceOp) -> Result<()> {
        self.all_reduce_dyn(data, op)
    }

    /// `output` becomes the reduction of all ranks' `input`. One length on all ranks.
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce).
    pub fn all_reduce_into<T: Element>(&self, input: &[T], output: &mut [T], op: ReduceOp) -> Result<()> {
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
    pub fn all_reduce_dyn<'t>(&self, tensors: impl Into<Tensors<'t>>, op: ReduceOp) -> Result<()> {
        let ($this, tensors) = (self, tensors.into());
        let with = $with;
        let mut request = with.request(Collective::AllReduce, tensors.dtype(), Counts::Same(tensors.lens().0));
        request.op = Some(op);
        with.execute(request, tensors)
    }

    /// The root's `data` becomes the reduction of all ranks' `data`; other ranks' stays. One length on all ranks.
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce).
    pub fn reduce<T: Element>(&self, data: &mut [T], op: ReduceOp, root: usize) -> Result<()> {
        self.reduce_dyn(data, op, root)
    }

    /// The root's `output` becomes the reduction of all ranks' `input`; other ranks' `output` is not looked at and
    /// may be empty.
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce).
    pub fn reduce_into<T: Element>(&self, input: &[T], output: &mut [T], op: ReduceOp, root: usize) -> Result<()> {
        self.reduce_dyn((input, output), op, root)
    }

    /// [`reduce`](Self::reduce) of tensors whose type is known at run time.
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce).
    pub fn reduce_dyn<'t>(&self, tensors: impl Into<Tensors<'t>>, op: ReduceOp, root: usize) -> Result<()> {
        let ($this, tensors) = (self, tensors.into());
        let with = $with;
        let mut request = with.request(Collective::Reduce, tensors.dtype(), Counts::Same(tensors.lens().0));
        request.op = Some(op);
        request.root = root;
        with.execute(request, tensors)
    }

    /// Rank r's `output` becomes block r of the reduction of all ranks' `input`, which has one block of
    /// `output`'s length for each rank.
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce).
    pub fn reduce_scatter<T: Element>(&self, input: &[T], output: &mut [T], op: ReduceOp) -> Result<()> {
        self.reduce_scatter_dyn((input, output), None, op)
    }

    /// Block r of rank r's `data` becomes block r of the reduction of all ranks' `data`; the other blocks stay.
    /// The blocks have one length.
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce).
    pub fn reduce_scatter_in_place<T: Element>(&self, data: &mut [T], op: ReduceOp) -> Result<()> {
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
        op: ReduceOp,
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
        op: ReduceOp,
    ) -> Result<()> {
        let ($this, tensors) = (self, tensors.into());
        let with = $with;
        let collective = Collective::ReduceScatter;
        let counts = with.blocks(collective, counts, tensors.is_in_place(), tensors.lens().1)?;
        let mut request = with.request(collective, tensors.dtype(), counts);
        request.op = Some(op);
        with.execute(request, tensors)
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
        let collective = Collective::AllGather;
        let counts = with.blocks(collective, counts, tensors.is_in_place(), tensors.lens().0)?;
        let request = with.request(collective, tensors.dtype(), counts);
        with.execute(request, tensors)
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
        let mut request = with.request(Collective::Broadcast, tensors.dtype(), Counts::Same(tensors.lens().1));
        request.root = root;
        with.execute(request, tensors)
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
        let collective = Collective::Gather;
        let whole = tensors.is_in_place() && with.communicator.rank == root;
        let counts = with.blocks(collective, counts, whole, tensors.lens().0)?;
        let mut request = with.request(collective, tensors.dtype(), counts);
        request.root = root;
        with.execute(request, tensors)
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
        let collective = Collective::Scatter;
        let whole = tensors.is_in_place() && with.communicator.rank == root;
        let counts = with.blocks(collective, counts, whole, tensors.lens().1)?;
        let mut request = with.request(collective, tensors.dtype(), counts);
        request.root = root;
        with.execute(request, tensors)
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
        let collective = Collective::AllToAll;
        let counts = match counts {
            Some((send, receive)) => Counts::Pairwise {
                rank: with.communicator.rank,
                send: send.into(),
                receive: receive.into(),
            },
            None => Counts::Same(with.block_count(collective, tensors.lens().0)?),
        };
        let request = with.request(collective, tensors.dtype(), counts);
        with.execute(request, tensors)
    }

    /// Returns once every rank has called it.
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce).
    pub fn barrier(&self) -> Result<()> {
        let $this = self;
        let with = $with;
        let (here, mut all) = ([1u8], [0u8]);
        let request = Request::new(Collective::Barrier, with.communicator.world, DType::U8, 1);
        with.execute(request, (&here[..], &mut all[..]).into())
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
        with.messages(data, Some(to), nothing, None)
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
        with.messages(nothing, None, data, Some(from))
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
        with.messages(data, Some(to), into, Some(from))
    }
}
    )*};
}

verbs! {
    With<'_>, |this| this;
    Communicator, |this| &With { communicator: this, options: Options::default() };
}

impl With<'_> {
    /// The counts of a collective that has blocks. `len` is the length of all blocks where `whole`, else of this
    /// rank's.
    fn blocks(
        &self,
        collective: Collective,
        counts: BlockCounts<'_>,
        whole: bool,
        len: usize,
    ) -> Result<Counts> {
        Ok(match counts {
            Some(counts) => Counts::PerRank(counts.into()),
            None if whole => Counts::Same(self.block_count(collective, len)?),
            None => Counts::Same(len),
        })
    }

    fn messages(
        &self,
        data: TensorRef<'_>,
        to: Option<usize>,
        into: TensorMut<'_>,
        from: Option<usize>,
    ) -> Result<()> {
        let counts = Counts::Messages {
            rank: self.communicator.rank,
            send: to.map(|to| (to, data.count())),
            receive: from.map(|from| (from, into.count())),
        };
        let request = self.request(Collective::SendRecv, data.dtype(), counts);
        self.execute(request, Tensors::Apart(data, into))
    }
}
