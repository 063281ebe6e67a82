//! Many tensors as one operation.
//!
//! Tensors of one element type that are reduced alike become one operation over a list of pieces: one plan, one
//! fingerprint a link, and as few messages as a single tensor of their total would take.

use super::call::Call;
use super::execute::Checked;
use super::tensors::Tensors;
use super::{Communicator, Options, With};
use crate::backend::{Buffers, Operation, Piece};
use crate::collective::{Collective, Counts, Request};
use crate::error::{Error, Result};
use crate::reduce::Reduction;
use crate::tensor::TensorMut;

/// An operation that has its place in the order.
pub(super) struct Ask {
    pub(super) operation: Operation,
    pub(super) is_message: bool,
}

/// Whether calls that differ only in their lengths and memory can be one operation: each rank has the whole tensor, and
/// all of it goes the same way.
pub(super) fn fuses(request: &Request) -> bool {
    matches!(request.collective, Collective::AllReduce | Collective::Reduce | Collective::Broadcast)
}

/// Whether two calls differ only in their lengths and memory. Depends on nothing that only this rank knows: every rank
/// must make the same operations of the same calls.
fn alike(a: &Checked, b: &Checked) -> bool {
    let fields = |c: &Checked| {
        let r = &c.request;
        (r.collective, r.dtype, r.op, r.custom, r.root, c.one_tensor)
    };
    fuses(&a.request) && fields(a) == fields(b)
}

impl With<'_> {
    /// Makes operations of checked calls, those that are alike together, in the order of each kind's first. Where one is
    /// refused, none of them has a place in the order.
    ///
    /// # Safety
    /// As [`operation`](Self::operation), for all of them; the memories of different calls lie apart.
    pub(super) unsafe fn fuse(&self, calls: &[Checked]) -> Result<Vec<Ask>> {
        let place = self.communicator.sequencer.borrow().place();
        // SAFETY: handed on to the caller.
        let asks = unsafe { self.asks(calls) };
        if asks.is_err() {
            self.communicator.sequencer.borrow_mut().back_to(place);
        }
        asks
    }

    /// # Safety
    /// As [`fuse`](Self::fuse).
    unsafe fn asks(&self, calls: &[Checked]) -> Result<Vec<Ask>> {
        let mut asks = Vec::new();
        let mut taken = vec![false; calls.len()];
        for (index, first) in calls.iter().enumerate() {
            if std::mem::replace(&mut taken[index], true) {
                continue;
            }
            let mut kind: Vec<&Checked> = vec![first];
            for (other, taken) in calls.iter().zip(&mut taken).skip(index + 1) {
                if !*taken && alike(first, other) {
                    *taken = true;
                    kind.push(other);
                }
            }
            let is_message = first.request.collective == Collective::SendRecv;
            // SAFETY: handed on to the caller.
            let operation = unsafe {
                match &kind[..] {
                    [one] => self.operation(one)?,
                    all => self.operation_of_pieces(all)?,
                }
            };
            asks.push(Ask { operation, is_message });
        }
        Ok(asks)
    }

    /// One operation of calls that are alike.
    ///
    /// # Safety
    /// As [`fuse`](Self::fuse).
    unsafe fn operation_of_pieces(&self, calls: &[&Checked]) -> Result<Operation> {
        let size = calls[0].request.element_size();
        let site = calls[0].site;
        if let Some(other) = calls.iter().find(|call| call.site != site) {
            let text =
                format!("a batch with one tensor in {} and another in {}", site.device, other.site.device);
            let error = Error::unsupported(text).remedy("call it with the tensors of one device at a time");
            return Err(self.communicator.line.complete(error));
        }
        let pieces = calls.iter().map(|call| Piece {
            input: call.buffers.input,
            output: call.buffers.output,
            bytes: call.request.whole() * size,
        });
        let pieces = self.communicator.sequencer.borrow_mut().pieces(pieces);
        let total = calls.iter().map(|call| call.request.whole()).sum();
        let checked = Checked {
            request: Request { counts: Counts::Same(total), ..calls[0].request.clone() },
            one_tensor: calls[0].one_tensor,
            buffers: Buffers { input: std::ptr::null(), output: std::ptr::null_mut() },
            custom: calls[0].custom.clone(),
            site,
        };
        checked.request.validate().map_err(|error| self.communicator.line.complete(error))?;
        let Checked { mut request, buffers, custom, .. } = checked;
        let comm = self.communicator;
        let course = comm.sequencer.borrow().course_of_pieces(&mut request, &self.options);
        let course = course.map_err(|error| comm.line.complete(error))?;
        // SAFETY: each piece is the memory of a call, as long as its request says, and the buffers are not looked at.
        unsafe { Ok(comm.next(&request, &course, buffers, custom.as_ref(), site).in_pieces(pieces)) }
    }

    /// Runs checked calls to their ends, those that are alike as one operation.
    ///
    /// # Safety
    /// As [`fuse`](Self::fuse).
    pub(super) unsafe fn run_fused(&self, calls: &[Checked]) -> Result<()> {
        // SAFETY: handed on to the caller.
        let mut asks = unsafe { self.fuse(calls) }?;
        self.communicator.run_all(&mut asks)
    }

    fn all_reduce_tensors(&self, tensors: &mut [TensorMut<'_>], op: &Reduction) -> Result<()> {
        let checked = self.check_each(tensors.iter_mut().map(TensorMut::reborrow), op)?;
        // SAFETY: the tensors are borrowed, each exclusively, until this returns, which is after the operations' ends.
        unsafe { self.run_fused(&checked) }
    }
}

macro_rules! batches {
    ($($type:ty, |$this:ident| $with:expr;)*) => {$(
impl $type {
    /// [`all_reduce`](Self::all_reduce) of many tensors, of any element types and lengths, as one operation for each
    /// element type: for lists of gradients. The same list of types and lengths on every rank. Under
    /// [`Order::Default`](crate::Order::Default) the bits may depend on how the list is laid out, under
    /// [`Order::Fixed`](crate::Order::Fixed) they are those of each tensor by itself.
    ///
    /// ```
    /// use ringfold::{Communicator, ReduceOp, tensor::TensorMut};
    /// let comm = Communicator::local(1).remove(0);
    /// let (mut weights, mut biases) = (vec![1.0f32; 1000], vec![1.0f64; 10]);
    /// comm.all_reduce_batch(
    ///     &mut [TensorMut::from_slice(&mut weights), TensorMut::from_slice(&mut biases)],
    ///     ReduceOp::Sum,
    /// )?;
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce); where one tensor is refused, nothing has happened to any.
    pub fn all_reduce_batch(&self, tensors: &mut [TensorMut<'_>], op: impl Into<Reduction>) -> Result<()> {
        let $this = self;
        let with = $with;
        with.all_reduce_tensors(tensors, &op.into())
    }
}
    )*};
}

batches! {
    With<'_>, |this| this;
    Communicator, |this| &With { communicator: this, options: Options::default() };
}

impl With<'_> {
    /// Checks an all_reduce of each tensor, in place.
    pub(super) fn check_each<'t>(
        &self,
        tensors: impl IntoIterator<Item = TensorMut<'t>>,
        op: &Reduction,
    ) -> Result<Vec<Checked>> {
        let call = Call::AllReduce(op.clone());
        tensors.into_iter().map(|one| self.check(&call, &mut Tensors::InPlace(one))).collect()
    }
}
