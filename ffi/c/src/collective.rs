//! Every operation. What is done with a call, now, later or again and again, stands in its options.

use crate::comm::rf_comm;
use crate::error::{Fault, Result, rf_error, rf_status};
use crate::guard::guarded;
use crate::handle::{Handle, missing};
use crate::operand::{Laid, Need, Operands, blocks, counts, sum};
use crate::options::{How, Way, rf_options};
use crate::prepared::rf_prepared;
use crate::reduction::dtype;
use crate::request::rf_request;
use crate::sized::reserved;
use crate::types::{named_op, rf_dtype, rf_op};
use core::reduce::Reduction;
use core::{Call, Lent, LentMany, Nothing, Options, Tensors};
use std::ffi::c_void;

/// What all operations begin with. Small: where nothing is said of a call, nothing more is carried along.
#[derive(Clone, Copy)]
pub(crate) struct Begun<'a> {
    pub(crate) comm: &'a rf_comm,
    options: *const rf_options,
    pub(crate) rank: usize,
    pub(crate) world: usize,
}

impl<'a> Begun<'a> {
    /// # Safety
    /// Communicator and options are as every operation's description says, as long as this lives.
    #[inline]
    pub(crate) unsafe fn new(comm: *mut rf_comm, options: *const rf_options) -> Result<Self> {
        // SAFETY: the caller's promise.
        let comm = unsafe { rf_comm::get(comm) }?;
        let (rank, world) = comm.group().fixed();
        Ok(Begun { comm, options, rank, world })
    }

    fn rank_of(&self, what: &str, rank: i64) -> Result<usize> {
        match usize::try_from(rank) {
            Ok(rank) if rank < self.world => Ok(rank),
            _ => Err(Fault::invalid(format!("{what} {rank} in a group of {} ranks", self.world))),
        }
    }

    pub(crate) fn peer(&self, rank: i64) -> Result<usize> {
        self.rank_of("rank", rank)
    }

    /// The root, and whether this rank is it.
    pub(crate) fn is_root(&self, root: i64) -> Result<(usize, bool)> {
        self.rank_of("root", root).map(|root| (root, root == self.rank))
    }

    /// What is said of the call.
    pub(crate) fn how(&self) -> Result<How<'a>> {
        // SAFETY: promised at the making.
        unsafe { How::read(self.options) }
    }

    /// The reduction that a number stands for.
    #[inline]
    pub(crate) fn reduction(&self, op: rf_op) -> Result<Reduction> {
        match named_op(op) {
            Some(op) => Ok(Reduction::Named(op)),
            None => self.how()?.reduction(op),
        }
    }

    /// # Safety
    /// The memory is as every operation's description says: as long as `need` says, and left to the operation for as long as
    /// the options say.
    #[inline]
    unsafe fn carry_out(self, call: &Call<'_>, operands: Operands, need: Need) -> Result<()> {
        let laid = operands.laid(need)?;
        if self.options.is_null() {
            // SAFETY: the caller's promise.
            return self.comm.group().call(|comm| Ok(comm.call(call, unsafe { laid.tensors() })?));
        }
        // SAFETY: handed on to the caller.
        unsafe { self.carry_out_as_said(call, laid) }
    }

    /// # Safety
    /// As [`carry_out`](Begun::carry_out).
    #[inline(never)]
    unsafe fn carry_out_as_said(self, call: &Call<'_>, laid: Laid) -> Result<()> {
        let How { options, way, .. } = self.how()?;
        match way {
            Way::Now => self.comm.group().call(|comm| {
                // SAFETY: the caller's promise.
                Ok(comm.with(options).call(call, unsafe { laid.tensors() })?)
            }),
            // SAFETY: the caller leaves the memory to it, says the description of the options.
            way => self.hand_out(options, way, call, Some(unsafe { Lent::new(laid.tensors()) })),
        }
    }

    /// Carries out a call over tensors that are there already.
    ///
    /// # Safety
    /// Their memory is left to the operation for as long as the options say.
    pub(crate) unsafe fn carry_out_over(self, call: &Call<'_>, tensors: Tensors<'_>) -> Result<()> {
        let How { options, way, .. } = self.how()?;
        match way {
            Way::Now => self.comm.group().call(|comm| Ok(comm.with(options).call(call, tensors)?)),
            // SAFETY: the caller's promise.
            way => self.hand_out(options, way, call, Some(unsafe { Lent::new(tensors) })),
        }
    }

    /// Starts or prepares a call over memory of the caller's, or a barrier.
    fn hand_out(self, options: Options, way: Way, call: &Call<'_>, lent: Option<Lent>) -> Result<()> {
        let group = self.comm.group();
        match way {
            Way::Started(place) => {
                let request = group.call(|comm| {
                    let with = comm.with(options);
                    Ok(match lent {
                        Some(lent) => rf_request::new(with.start(call, lent)?),
                        None => rf_request::new(with.start(call, Nothing::new())?),
                    })
                })?;
                place.put(request.give());
            }
            Way::Prepared(place) => place.put(rf_prepared::new(group, options, call, lent)?.give()),
            Way::Now => unreachable!("it is neither started nor prepared"),
        }
        Ok(())
    }
}

/// Every rank's `output` becomes the reduction of all ranks' `input`, `count` elements each. In place where both have the same address.
///
/// # Safety
/// `comm` is a communicator; the memory is there, initialised where it is read, and used by nobody else meanwhile; `options` is
/// NULL or initialised; `error` is NULL or an initialised rf_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_all_reduce(
    comm: *mut rf_comm,
    input: *const c_void,
    output: *mut c_void,
    count: u64,
    element: rf_dtype,
    op: rf_op,
    options: *const rf_options,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        // SAFETY: the caller's promises.
        let begun = unsafe { Begun::new(comm, options) }?;
        let operands = Operands { input, output, dtype: dtype(element)? };
        let op = begun.reduction(op)?;
        let need = Need::same(count as usize);
        // SAFETY: as above.
        unsafe { begun.carry_out(&Call::AllReduce(op), operands, need) }
    })
}

/// The root's `output` becomes the reduction of all ranks' `input`, `count` elements each. Other ranks' `output` is not looked at
/// and may be NULL. In place where both have the same address.
///
/// # Safety
/// `comm` is a communicator; the memory is there, initialised where it is read, and used by nobody else meanwhile; `options` is
/// NULL or initialised; `error` is NULL or an initialised rf_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_reduce(
    comm: *mut rf_comm,
    input: *const c_void,
    output: *mut c_void,
    count: u64,
    element: rf_dtype,
    op: rf_op,
    root: i64,
    options: *const rf_options,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        // SAFETY: the caller's promises.
        let begun = unsafe { Begun::new(comm, options) }?;
        let operands = Operands { input, output, dtype: dtype(element)? };
        let op = begun.reduction(op)?;
        let (root, is_root) = begun.is_root(root)?;
        let need = if is_root { Need::same(count as usize) } else { Need::input_only(count as usize) };
        // SAFETY: as above.
        unsafe { begun.carry_out(&Call::Reduce(op, root), operands, need) }
    })
}

/// Rank r's `output` of `count` elements becomes block r of the reduction of all ranks' `input`, which has a block of `count`
/// elements for each rank. In place where `output` is block r of `input`.
///
/// # Safety
/// `comm` is a communicator; the memory is there, initialised where it is read, and used by nobody else meanwhile; `options` is
/// NULL or initialised; `error` is NULL or an initialised rf_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_reduce_scatter(
    comm: *mut rf_comm,
    input: *const c_void,
    output: *mut c_void,
    count: u64,
    element: rf_dtype,
    op: rf_op,
    options: *const rf_options,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        // SAFETY: the caller's promises.
        let begun = unsafe { Begun::new(comm, options) }?;
        let operands = Operands { input, output, dtype: dtype(element)? };
        let (op, block) = (begun.reduction(op)?, count as usize);
        let input = blocks(block, begun.world)?;
        let need = Need { input, output: block, output_at: block * begun.rank, input_at: 0 };
        // SAFETY: as above.
        unsafe { begun.carry_out(&Call::ReduceScatter(None, op), operands, need) }
    })
}

/// As rf_reduce_scatter, with blocks of different lengths: `block_counts` has one for each rank, the same list on all ranks.
///
/// # Safety
/// `comm` is a communicator; the memory is there, initialised where it is read, and used by nobody else meanwhile; `options` is
/// NULL or initialised; `error` is NULL or an initialised rf_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_reduce_scatter_v(
    comm: *mut rf_comm,
    input: *const c_void,
    output: *mut c_void,
    block_counts: *const u64,
    element: rf_dtype,
    op: rf_op,
    options: *const rf_options,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        // SAFETY: the caller's promises.
        let begun = unsafe { Begun::new(comm, options) }?;
        let operands = Operands { input, output, dtype: dtype(element)? };
        let op = begun.reduction(op)?;
        // SAFETY: as above.
        let list = unsafe { counts("the list of counts", block_counts, begun.world) }?;
        let (input, output) = (sum(list)?, list[begun.rank]);
        let output_at = sum(&list[..begun.rank])?;
        let need = Need { input, output, output_at, input_at: 0 };
        // SAFETY: as above.
        unsafe { begun.carry_out(&Call::ReduceScatter(Some(list), op), operands, need) }
    })
}

/// Every rank's `output` becomes the `input`s of all ranks, `count` elements each, one after another. In place where rank r's
/// `input` is block r of its `output`.
///
/// # Safety
/// `comm` is a communicator; the memory is there, initialised where it is read, and used by nobody else meanwhile; `options` is
/// NULL or initialised; `error` is NULL or an initialised rf_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_all_gather(
    comm: *mut rf_comm,
    input: *const c_void,
    output: *mut c_void,
    count: u64,
    element: rf_dtype,
    options: *const rf_options,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        // SAFETY: the caller's promises.
        let begun = unsafe { Begun::new(comm, options) }?;
        let operands = Operands { input, output, dtype: dtype(element)? };
        let block = count as usize;
        let output = blocks(block, begun.world)?;
        let need = Need { input: block, output, input_at: block * begun.rank, output_at: 0 };
        // SAFETY: as above.
        unsafe { begun.carry_out(&Call::AllGather(None), operands, need) }
    })
}

/// As rf_all_gather, with inputs of different lengths: `block_counts` has one for each rank, the same list on all ranks.
///
/// # Safety
/// `comm` is a communicator; the memory is there, initialised where it is read, and used by nobody else meanwhile; `options` is
/// NULL or initialised; `error` is NULL or an initialised rf_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_all_gather_v(
    comm: *mut rf_comm,
    input: *const c_void,
    output: *mut c_void,
    block_counts: *const u64,
    element: rf_dtype,
    options: *const rf_options,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        // SAFETY: the caller's promises.
        let begun = unsafe { Begun::new(comm, options) }?;
        let operands = Operands { input, output, dtype: dtype(element)? };
        // SAFETY: as above.
        let list = unsafe { counts("the list of counts", block_counts, begun.world) }?;
        let (input, output) = (list[begun.rank], sum(list)?);
        let input_at = sum(&list[..begun.rank])?;
        let need = Need { input, output, input_at, output_at: 0 };
        // SAFETY: as above.
        unsafe { begun.carry_out(&Call::AllGather(Some(list)), operands, need) }
    })
}

/// Every rank's `output` becomes the root's `input`, `count` elements. Other ranks' `input` is not looked at and may be NULL. In
/// place where the root's have the same address.
///
/// # Safety
/// `comm` is a communicator; the memory is there, initialised where it is read, and used by nobody else meanwhile; `options` is
/// NULL or initialised; `error` is NULL or an initialised rf_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_broadcast(
    comm: *mut rf_comm,
    input: *const c_void,
    output: *mut c_void,
    count: u64,
    element: rf_dtype,
    root: i64,
    options: *const rf_options,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        // SAFETY: the caller's promises.
        let begun = unsafe { Begun::new(comm, options) }?;
        let operands = Operands { input, output, dtype: dtype(element)? };
        let (root, is_root) = begun.is_root(root)?;
        let need = if is_root { Need::same(count as usize) } else { Need::output_only(count as usize) };
        // SAFETY: as above.
        unsafe { begun.carry_out(&Call::Broadcast(root), operands, need) }
    })
}

/// The root's `output` becomes the `input`s of all ranks, `count` elements each, one after another. Other ranks' `output` is not
/// looked at and may be NULL. In place where the root's `input` is its block of `output`.
///
/// # Safety
/// `comm` is a communicator; the memory is there, initialised where it is read, and used by nobody else meanwhile; `options` is
/// NULL or initialised; `error` is NULL or an initialised rf_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_gather(
    comm: *mut rf_comm,
    input: *const c_void,
    output: *mut c_void,
    count: u64,
    element: rf_dtype,
    root: i64,
    options: *const rf_options,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        // SAFETY: the caller's promises.
        let begun = unsafe { Begun::new(comm, options) }?;
        let operands = Operands { input, output, dtype: dtype(element)? };
        let ((root, is_root), block) = (begun.is_root(root)?, count as usize);
        let output = blocks(block, begun.world)?;
        let need = if is_root {
            Need { input: block, output, input_at: block * begun.rank, output_at: 0 }
        } else {
            Need::input_only(block)
        };
        // SAFETY: as above.
        unsafe { begun.carry_out(&Call::Gather(None, root), operands, need) }
    })
}

/// As rf_gather, with inputs of different lengths: `block_counts` has one for each rank, the same list on all ranks.
///
/// # Safety
/// `comm` is a communicator; the memory is there, initialised where it is read, and used by nobody else meanwhile; `options` is
/// NULL or initialised; `error` is NULL or an initialised rf_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_gather_v(
    comm: *mut rf_comm,
    input: *const c_void,
    output: *mut c_void,
    block_counts: *const u64,
    element: rf_dtype,
    root: i64,
    options: *const rf_options,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        // SAFETY: the caller's promises.
        let begun = unsafe { Begun::new(comm, options) }?;
        let operands = Operands { input, output, dtype: dtype(element)? };
        let (root, is_root) = begun.is_root(root)?;
        // SAFETY: as above.
        let list = unsafe { counts("the list of counts", block_counts, begun.world) }?;
        let (input, output) = (list[begun.rank], sum(list)?);
        let input_at = sum(&list[..begun.rank])?;
        let need =
            if is_root { Need { input, output, input_at, output_at: 0 } } else { Need::input_only(input) };
        // SAFETY: as above.
        unsafe { begun.carry_out(&Call::Gather(Some(list), root), operands, need) }
    })
}

/// Rank r's `output` of `count` elements becomes block r of the root's `input`, which has a block for each rank. Other ranks'
/// `input` is not looked at and may be NULL. In place where the root's `output` is its block of `input`.
///
/// # Safety
/// `comm` is a communicator; the memory is there, initialised where it is read, and used by nobody else meanwhile; `options` is
/// NULL or initialised; `error` is NULL or an initialised rf_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_scatter(
    comm: *mut rf_comm,
    input: *const c_void,
    output: *mut c_void,
    count: u64,
    element: rf_dtype,
    root: i64,
    options: *const rf_options,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        // SAFETY: the caller's promises.
        let begun = unsafe { Begun::new(comm, options) }?;
        let operands = Operands { input, output, dtype: dtype(element)? };
        let ((root, is_root), block) = (begun.is_root(root)?, count as usize);
        let input = blocks(block, begun.world)?;
        let need = if is_root {
            Need { input, output: block, output_at: block * begun.rank, input_at: 0 }
        } else {
            Need::output_only(block)
        };
        // SAFETY: as above.
        unsafe { begun.carry_out(&Call::Scatter(None, root), operands, need) }
    })
}

/// As rf_scatter, with blocks of different lengths: `block_counts` has one for each rank, the same list on all ranks.
///
/// # Safety
/// `comm` is a communicator; the memory is there, initialised where it is read, and used by nobody else meanwhile; `options` is
/// NULL or initialised; `error` is NULL or an initialised rf_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_scatter_v(
    comm: *mut rf_comm,
    input: *const c_void,
    output: *mut c_void,
    block_counts: *const u64,
    element: rf_dtype,
    root: i64,
    options: *const rf_options,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        // SAFETY: the caller's promises.
        let begun = unsafe { Begun::new(comm, options) }?;
        let operands = Operands { input, output, dtype: dtype(element)? };
        let (root, is_root) = begun.is_root(root)?;
        // SAFETY: as above.
        let list = unsafe { counts("the list of counts", block_counts, begun.world) }?;
        let (input, output) = (sum(list)?, list[begun.rank]);
        let output_at = sum(&list[..begun.rank])?;
        let need =
            if is_root { Need { input, output, output_at, input_at: 0 } } else { Need::output_only(output) };
        // SAFETY: as above.
        unsafe { begun.carry_out(&Call::Scatter(Some(list), root), operands, need) }
    })
}

/// Block s of rank r's `output` becomes block r of rank s's `input`; each has a block of `count` elements for each rank. In place
/// where both have the same address.
///
/// # Safety
/// `comm` is a communicator; the memory is there, initialised where it is read, and used by nobody else meanwhile; `options` is
/// NULL or initialised; `error` is NULL or an initialised rf_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_all_to_all(
    comm: *mut rf_comm,
    input: *const c_void,
    output: *mut c_void,
    count: u64,
    element: rf_dtype,
    options: *const rf_options,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        // SAFETY: the caller's promises.
        let begun = unsafe { Begun::new(comm, options) }?;
        let operands = Operands { input, output, dtype: dtype(element)? };
        let need = Need::same(blocks(count as usize, begun.world)?);
        // SAFETY: as above.
        unsafe { begun.carry_out(&Call::AllToAll(None), operands, need) }
    })
}

/// As rf_all_to_all, with blocks of different lengths: `send_counts[s]` elements go to rank s, `receive_counts[s]` come from it. Not
/// in place.
///
/// # Safety
/// `comm` is a communicator; the memory is there, initialised where it is read, and used by nobody else meanwhile; `options` is
/// NULL or initialised; `error` is NULL or an initialised rf_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_all_to_all_v(
    comm: *mut rf_comm,
    input: *const c_void,
    send_counts: *const u64,
    output: *mut c_void,
    receive_counts: *const u64,
    element: rf_dtype,
    options: *const rf_options,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        // SAFETY: the caller's promises.
        let begun = unsafe { Begun::new(comm, options) }?;
        let operands = Operands { input, output, dtype: dtype(element)? };
        // SAFETY: as above.
        let (send, receive) = unsafe {
            (
                counts("the list of counts to send", send_counts, begun.world)?,
                counts("the list of counts to receive", receive_counts, begun.world)?,
            )
        };
        let (sent, received) = (sum(send)?, sum(receive)?);
        if input.addr() == output.addr() && sent > 0 && received > 0 {
            return Err(Fault::unsupported("all_to_all_v in place"));
        }
        let need = Need { input: sent, output: received, ..Need::default() };
        // SAFETY: as above.
        unsafe { begun.carry_out(&Call::AllToAll(Some((send, receive))), operands, need) }
    })
}

/// Sends `count` elements to a rank, which receives them by rf_recv. Messages between two ranks arrive in the order of their sending.
/// Blocks until the bytes have left this rank's memory.
///
/// # Safety
/// `comm` is a communicator; the memory is there, initialised where it is read, and used by nobody else meanwhile; `options` is
/// NULL or initialised; `error` is NULL or an initialised rf_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_send(
    comm: *mut rf_comm,
    data: *const c_void,
    count: u64,
    element: rf_dtype,
    to: i64,
    options: *const rf_options,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        // SAFETY: the caller's promises.
        let begun = unsafe { Begun::new(comm, options) }?;
        let operands = Operands { input: data, output: std::ptr::null_mut(), dtype: dtype(element)? };
        let to = begun.peer(to)?;
        let need = Need::input_only(count as usize);
        // SAFETY: as above.
        unsafe { begun.carry_out(&Call::Messages { to: Some(to), from: None }, operands, need) }
    })
}

/// Receives what a rank has sent by rf_send. Count and type are those of the message.
///
/// # Safety
/// `comm` is a communicator; the memory is there, initialised where it is read, and used by nobody else meanwhile; `options` is
/// NULL or initialised; `error` is NULL or an initialised rf_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_recv(
    comm: *mut rf_comm,
    data: *mut c_void,
    count: u64,
    element: rf_dtype,
    from: i64,
    options: *const rf_options,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        // SAFETY: the caller's promises.
        let begun = unsafe { Begun::new(comm, options) }?;
        let operands = Operands { input: std::ptr::null(), output: data, dtype: dtype(element)? };
        let from = begun.peer(from)?;
        let need = Need::output_only(count as usize);
        // SAFETY: as above.
        unsafe { begun.carry_out(&Call::Messages { to: None, from: Some(from) }, operands, need) }
    })
}

/// Sends to one rank and receives from another, or the same, at once, so that rings and pairs can swap without a deadlock.
///
/// # Safety
/// `comm` is a communicator; the memory is there, initialised where it is read, and used by nobody else meanwhile; `options` is
/// NULL or initialised; `error` is NULL or an initialised rf_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_send_recv(
    comm: *mut rf_comm,
    input: *const c_void,
    input_count: u64,
    to: i64,
    output: *mut c_void,
    output_count: u64,
    from: i64,
    element: rf_dtype,
    options: *const rf_options,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        // SAFETY: the caller's promises.
        let begun = unsafe { Begun::new(comm, options) }?;
        let operands = Operands { input, output, dtype: dtype(element)? };
        let (to, from) = (begun.peer(to)?, begun.peer(from)?);
        if input.addr() == output.addr() && input_count > 0 && output_count > 0 {
            return Err(Fault::unsupported("send_recv in place"));
        }
        let need = Need { input: input_count as usize, output: output_count as usize, ..Need::default() };
        // SAFETY: as above.
        unsafe { begun.carry_out(&Call::Messages { to: Some(to), from: Some(from) }, operands, need) }
    })
}

/// Returns once every rank has called it.
///
/// # Safety
/// `comm` is a communicator; `options` is NULL or initialised; `error` is NULL or an initialised rf_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_barrier(
    comm: *mut rf_comm,
    options: *const rf_options,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        // SAFETY: the caller's promises.
        let begun = unsafe { Begun::new(comm, options) }?;
        let How { options, way, .. } = begun.how()?;
        match way {
            Way::Now => begun.comm.group().call(|comm| Ok(comm.with(options).barrier()?)),
            way => begun.hand_out(options, way, &Call::Barrier, None),
        }
    })
}

/// One tensor of a batch, which is input and output.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct rf_tensor {
    /// Its first element.
    pub data: *mut c_void,
    /// Its elements.
    pub count: u64,
    /// Their type.
    pub dtype: rf_dtype,
    /// 0.
    pub reserved: u32,
}

/// All-reduces many tensors in place, of any types and lengths, as one operation for each type: for lists of gradients. The same
/// list of types and counts on every rank. The tensors lie apart. It can be started, and not prepared.
/// # Safety
/// `comm` is a communicator; the memory is there, initialised where it is read, and used by nobody else meanwhile; `options` is
/// NULL or initialised; `error` is NULL or an initialised rf_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_all_reduce_batch(
    comm: *mut rf_comm,
    tensors: *const rf_tensor,
    count: u64,
    op: rf_op,
    options: *const rf_options,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        // SAFETY: the caller's promises.
        let begun = unsafe { Begun::new(comm, options) }?;
        let op = begun.reduction(op)?;
        if tensors.is_null() && count > 0 {
            return Err(missing("the list of tensors"));
        }
        let most = isize::MAX as usize / size_of::<rf_tensor>();
        if count as usize > most {
            return Err(Fault::invalid(format!("a list of {count} tensors")));
        }
        let given: &[rf_tensor] = match count {
            0 => &[],
            // SAFETY: the caller says that there are so many.
            _ => unsafe { std::slice::from_raw_parts(tensors, count as usize) },
        };
        let mut list = Vec::with_capacity(given.len());
        let mut ranges = Vec::with_capacity(given.len());
        for one in given {
            reserved("a tensor", one.reserved)?;
            let dtype = dtype(one.dtype)?;
            let operands = Operands { input: one.data, output: one.data, dtype };
            let laid = operands.laid(Need::same(one.count as usize))?;
            if laid.is_in_place() {
                ranges.push((one.data.addr(), one.data.addr() + one.count as usize * dtype.size()));
            }
            // SAFETY: as above; where it is not in place, it has no elements.
            list.push(unsafe { laid.output() });
        }
        ranges.sort_unstable();
        if ranges.windows(2).any(|pair| pair[1].0 < pair[0].1) {
            return Err(Fault::invalid("tensors of a batch overlap"));
        }
        let How { options, way, .. } = begun.how()?;
        match way {
            Way::Now => {
                begun.comm.group().call(|comm| Ok(comm.with(options).all_reduce_batch(&mut list, op)?))
            }
            Way::Started(place) => {
                // SAFETY: the caller leaves the memory to it, says the description of the options, and the tensors lie apart.
                let lent = unsafe { LentMany::new(list) };
                let request = begun
                    .comm
                    .group()
                    .call(|comm| Ok(rf_request::new(comm.with(options).start_all_reduce_lent(lent, op)?)))?;
                place.put(request.give());
                Ok(())
            }
            Way::Prepared(_) => Err(Fault::unsupported("a batch that is prepared; to do: start it")),
        }
    })
}
