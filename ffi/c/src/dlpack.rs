//! Operations over tensors of other frameworks, as DLPack describes them. They are looked at and used where they are: nothing is taken
//! over, and no deleter is called.

use crate::collective::Begun;
use crate::comm::rf_comm;
use crate::error::{Fault, Result, rf_error, rf_status};
use crate::guard::guarded;
use crate::handle::missing;
use crate::options::rf_options;
use crate::types::rf_op;
use core::tensor::dlpack::{Borrowed, DLManagedTensorVersioned};
use core::tensor::{TensorMut, TensorRef};
use core::{Call, DType, Tensors};
use std::ptr::NonNull;

/// The tensors of a call, as the caller gives them, and how the one may be a block of the other.
struct Given {
    /// NULL where this rank's part has none.
    input: *const DLManagedTensorVersioned,
    /// NULL where this rank's part has none.
    output: *const DLManagedTensorVersioned,
    has_input: bool,
    has_output: bool,
    block: Block,
}

/// Which of two tensors holds a block for each rank, where they have not one length.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Block {
    Neither,
    OfOutput,
    OfInput,
}

impl Given {
    fn both(
        input: *const DLManagedTensorVersioned,
        output: *const DLManagedTensorVersioned,
        block: Block,
    ) -> Self {
        Given { input, output, has_input: true, has_output: true, block }
    }

    fn input_only(self, only: bool) -> Self {
        Given { has_output: !only, ..self }
    }

    fn output_only(self, only: bool) -> Self {
        Given { has_input: !only, ..self }
    }

    /// The tensors, of which nothing is known yet but that they are as they say.
    ///
    /// # Safety
    /// They are as every description says, as long as `'a` lives.
    unsafe fn tensors<'a>(self, rank: usize, world: usize) -> Result<Tensors<'a>> {
        let Given { input, output, has_input, has_output, block } = self;
        let look = |what: &str, has: bool, tensor: *const DLManagedTensorVersioned| match has {
            false => Ok(None),
            true if tensor.is_null() => Err(missing(what)),
            // SAFETY: the caller's promise.
            true => Ok(Some(unsafe { Borrowed::<'a>::from_raw(tensor) }?)),
        };
        let tensors = (look("the input", has_input, input)?, look("the output", has_output, output)?);
        let (input, output) = match tensors {
            (Some(input), Some(output)) => (input, output),
            (Some(input), None) => {
                let input = input.into_view();
                let nothing = nothing(input.dtype());
                return Ok(Tensors::Apart(input, nothing));
            }
            (None, Some(output)) => {
                let output = output.into_view_mut()?;
                // SAFETY: nothing is read.
                let nothing = unsafe { TensorRef::from_raw_slice(no_address(), output.dtype(), 0) };
                return Ok(Tensors::Apart(nothing, output));
            }
            (None, None) => return Err(missing("the tensor")),
        };
        let (from, to) = (input.view(), output.view());
        if is_same(&from, &to) {
            return Ok(Tensors::InPlace(output.into_view_mut()?));
        }
        if is_block(&from, &to, Block::OfOutput, block, rank, world) {
            return Ok(Tensors::InPlace(output.into_view_mut()?));
        }
        if is_block(&to, &from, Block::OfInput, block, rank, world) {
            output.into_view_mut()?;
            return Ok(Tensors::InPlace(input.into_view_mut()?));
        }
        let (read, written) = (from.addresses(), to.addresses());
        if read.start < written.end && written.start < read.end {
            return Err(Fault::invalid(
                "input and output overlap, or lie between each other's elements; to do: for a call in place pass one tensor for \
                 both, else keep them apart",
            ));
        }
        Ok(Tensors::Apart(input.into_view(), output.into_view_mut()?))
    }
}

/// No elements.
fn nothing<'a>(dtype: DType) -> TensorMut<'a> {
    // SAFETY: nothing is written.
    unsafe { TensorMut::from_raw_slice(no_address().cast_mut(), dtype, 0) }
}

fn no_address() -> *const u8 {
    NonNull::<u64>::dangling().as_ptr().cast_const().cast()
}

/// Whether two tensors are one: the same elements in the same order.
fn is_same(a: &TensorRef<'_>, b: &TensorRef<'_>) -> bool {
    let alike = a.is_contiguous() && b.is_contiguous() || a.strides() == b.strides();
    alike
        && a.pointer() == b.pointer()
        && a.shape() == b.shape()
        && a.dtype() == b.dtype()
        && a.device() == b.device()
}

/// Whether one is this rank's block of the other, where the call has blocks of that one.
fn is_block(
    part: &TensorRef<'_>,
    whole: &TensorRef<'_>,
    which: Block,
    block: Block,
    rank: usize,
    world: usize,
) -> bool {
    let place = whole.pointer().addr().checked_add(part.addresses().len() * rank);
    which == block
        && part.is_contiguous()
        && whole.is_contiguous()
        && part.dtype() == whole.dtype()
        && part.device() == whole.device()
        && part.count().checked_mul(world) == Some(whole.count())
        && place == Some(part.pointer().addr())
}

impl Begun<'_> {
    /// # Safety
    /// The tensors are as every description says.
    unsafe fn over_dlpack(self, call: &Call<'_>, given: Given) -> Result<()> {
        // SAFETY: handed on to the caller.
        unsafe {
            let tensors = given.tensors(self.rank, self.world)?;
            self.carry_out_over(call, tensors)
        }
    }
}

/// Every rank's `output` becomes the reduction of all ranks' `input`, which have as many elements. In place where both are one tensor:
/// the same pointer, or another structure that describes the same.
///
/// Of all functions that end in _dlpack: elements count in row-major order, whatever the shape. Strided tensors need the option
/// `pack`. Tensors are borrowed: they stay their owner's, and no deleter is called. Those with the flag of a read-only one, and
/// those whose elements share memory, can be inputs only.
///
/// # Safety
/// `comm` is a communicator; tensors are NULL or structures as DLPack's specification demands, whose memory is there, initialised
/// where it is read, and used by nobody else meanwhile: until the call returns, of a started one until it is complete, of a prepared
/// one until that is released. The structures themselves are not needed any longer than the call takes. `options` is NULL or
/// initialised; `error` is NULL or an initialised rf_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_all_reduce_dlpack(
    comm: *mut rf_comm,
    input: *const DLManagedTensorVersioned,
    output: *const DLManagedTensorVersioned,
    op: rf_op,
    options: *const rf_options,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        // SAFETY: the caller's promises.
        let begun = unsafe { Begun::new(comm, options) }?;
        let op = begun.reduction(op)?;
        // SAFETY: as above.
        unsafe { begun.over_dlpack(&Call::AllReduce(op), Given::both(input, output, Block::Neither)) }
    })
}

/// The root's `output` becomes the reduction of all ranks' `input`, which have as many elements. Other ranks' `output` is not looked
/// at and may be NULL. In place as in rf_all_reduce_dlpack.
///
/// # Safety
/// As rf_all_reduce_dlpack.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_reduce_dlpack(
    comm: *mut rf_comm,
    input: *const DLManagedTensorVersioned,
    output: *const DLManagedTensorVersioned,
    op: rf_op,
    root: i64,
    options: *const rf_options,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        // SAFETY: the caller's promises.
        let begun = unsafe { Begun::new(comm, options) }?;
        let op = begun.reduction(op)?;
        let (root, is_root) = begun.is_root(root)?;
        // SAFETY: as above.
        unsafe {
            begun.over_dlpack(
                &Call::Reduce(op, root),
                Given::both(input, output, Block::Neither).input_only(!is_root),
            )
        }
    })
}

/// Rank r's `output` becomes block r of the reduction of all ranks' `input`, which has a block of that length for each rank. In place
/// where `output` is block r of `input`, both dense, or where both are one tensor, of which block r is written.
///
/// # Safety
/// As rf_all_reduce_dlpack.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_reduce_scatter_dlpack(
    comm: *mut rf_comm,
    input: *const DLManagedTensorVersioned,
    output: *const DLManagedTensorVersioned,
    op: rf_op,
    options: *const rf_options,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        // SAFETY: the caller's promises.
        let begun = unsafe { Begun::new(comm, options) }?;
        let op = begun.reduction(op)?;
        // SAFETY: as above.
        unsafe {
            begun.over_dlpack(&Call::ReduceScatter(None, op), Given::both(input, output, Block::OfInput))
        }
    })
}

/// Every rank's `output` becomes the `input`s of all ranks, which have one length, one after another. In place where rank r's `input`
/// is block r of its `output`, both dense, or where both are one tensor, whose block r is the input.
///
/// # Safety
/// As rf_all_reduce_dlpack.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_all_gather_dlpack(
    comm: *mut rf_comm,
    input: *const DLManagedTensorVersioned,
    output: *const DLManagedTensorVersioned,
    options: *const rf_options,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        // SAFETY: the caller's promises.
        let begun = unsafe { Begun::new(comm, options) }?;
        // SAFETY: as above.
        unsafe { begun.over_dlpack(&Call::AllGather(None), Given::both(input, output, Block::OfOutput)) }
    })
}

/// Every rank's `output` becomes the root's `input`. Other ranks' `input` is not looked at and may be NULL. In place as in
/// rf_all_reduce_dlpack.
///
/// # Safety
/// As rf_all_reduce_dlpack.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_broadcast_dlpack(
    comm: *mut rf_comm,
    input: *const DLManagedTensorVersioned,
    output: *const DLManagedTensorVersioned,
    root: i64,
    options: *const rf_options,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        // SAFETY: the caller's promises.
        let begun = unsafe { Begun::new(comm, options) }?;
        let (root, is_root) = begun.is_root(root)?;
        // SAFETY: as above.
        unsafe {
            begun.over_dlpack(
                &Call::Broadcast(root),
                Given::both(input, output, Block::Neither).output_only(!is_root),
            )
        }
    })
}

/// The root's `output` becomes the `input`s of all ranks, which have one length, one after another. Other ranks' `output` is not
/// looked at and may be NULL. In place on the root as in rf_all_gather_dlpack.
///
/// # Safety
/// As rf_all_reduce_dlpack.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_gather_dlpack(
    comm: *mut rf_comm,
    input: *const DLManagedTensorVersioned,
    output: *const DLManagedTensorVersioned,
    root: i64,
    options: *const rf_options,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        // SAFETY: the caller's promises.
        let begun = unsafe { Begun::new(comm, options) }?;
        let (root, is_root) = begun.is_root(root)?;
        // SAFETY: as above.
        unsafe {
            begun.over_dlpack(
                &Call::Gather(None, root),
                Given::both(input, output, Block::OfOutput).input_only(!is_root),
            )
        }
    })
}

/// Rank r's `output` becomes block r of the root's `input`, which has a block of that length for each rank. Other ranks' `input` is
/// not looked at and may be NULL. In place on the root as in rf_reduce_scatter_dlpack.
///
/// # Safety
/// As rf_all_reduce_dlpack.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_scatter_dlpack(
    comm: *mut rf_comm,
    input: *const DLManagedTensorVersioned,
    output: *const DLManagedTensorVersioned,
    root: i64,
    options: *const rf_options,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        // SAFETY: the caller's promises.
        let begun = unsafe { Begun::new(comm, options) }?;
        let (root, is_root) = begun.is_root(root)?;
        // SAFETY: as above.
        unsafe {
            begun.over_dlpack(
                &Call::Scatter(None, root),
                Given::both(input, output, Block::OfInput).output_only(!is_root),
            )
        }
    })
}

/// Block s of rank r's `output` becomes block r of rank s's `input`; both have a block for each rank, all of one length. In place as in
/// rf_all_reduce_dlpack.
///
/// # Safety
/// As rf_all_reduce_dlpack.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_all_to_all_dlpack(
    comm: *mut rf_comm,
    input: *const DLManagedTensorVersioned,
    output: *const DLManagedTensorVersioned,
    options: *const rf_options,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        // SAFETY: the caller's promises.
        let begun = unsafe { Begun::new(comm, options) }?;
        // SAFETY: as above.
        unsafe { begun.over_dlpack(&Call::AllToAll(None), Given::both(input, output, Block::Neither)) }
    })
}

/// Sends a tensor to a rank, which receives as many elements of its type by rf_recv or rf_recv_dlpack. See rf_send.
///
/// # Safety
/// As rf_all_reduce_dlpack.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_send_dlpack(
    comm: *mut rf_comm,
    tensor: *const DLManagedTensorVersioned,
    to: i64,
    options: *const rf_options,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        // SAFETY: the caller's promises.
        let begun = unsafe { Begun::new(comm, options) }?;
        let to = begun.peer(to)?;
        // SAFETY: as above.
        unsafe {
            begun.over_dlpack(
                &Call::Messages { to: Some(to), from: None },
                Given::both(tensor, tensor, Block::Neither).input_only(true),
            )
        }
    })
}

/// Receives what a rank has sent by rf_send or rf_send_dlpack. Number and type of the elements are those of the message.
///
/// # Safety
/// As rf_all_reduce_dlpack.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_recv_dlpack(
    comm: *mut rf_comm,
    tensor: *const DLManagedTensorVersioned,
    from: i64,
    options: *const rf_options,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        // SAFETY: the caller's promises.
        let begun = unsafe { Begun::new(comm, options) }?;
        let from = begun.peer(from)?;
        // SAFETY: as above.
        unsafe {
            begun.over_dlpack(
                &Call::Messages { to: None, from: Some(from) },
                Given::both(tensor, tensor, Block::Neither).output_only(true),
            )
        }
    })
}
