//! Operations over Arrow's arrays, record batches and streams, by its C interfaces. What is passed is moved on success only.

use crate::comm::rf_comm;
use crate::error::{rf_error, rf_status};
use crate::guard::guarded;
use crate::lending::{ArrowArray, ArrowArrayStream, ArrowSchema, carry_out};
use crate::options::rf_options;
use crate::types::rf_op;
use std::ffi::c_char;

/// What a function does, as its caller says it.
#[cfg_attr(not(feature = "arrow"), expect(dead_code, reason = "nobody looks at them"))]
pub(crate) enum Verb {
    AllReduce(rf_op),
    /// To a root.
    Reduce(rf_op, i64),
    ReduceScatter(rf_op),
    /// From a root.
    Broadcast(i64),
    /// By a key.
    Shuffle(*const c_char),
    AllGather,
    /// To a root.
    Gather(i64),
    AllToAll,
}

#[cfg(feature = "arrow")]
impl Verb {
    /// What errors call it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Verb::AllReduce(_) => "all_reduce",
            Verb::Reduce(..) => "reduce",
            Verb::ReduceScatter(_) => "reduce_scatter",
            Verb::Broadcast(_) => "broadcast",
            Verb::Shuffle(_) | Verb::AllToAll => "all_to_all",
            Verb::AllGather => "all_gather",
            Verb::Gather(_) => "gather",
        }
    }
}

/// Where its data come from.
#[cfg_attr(not(feature = "arrow"), expect(dead_code, reason = "nobody looks at them"))]
pub(crate) enum Source {
    Array(*const ArrowSchema, *mut ArrowArray),
    Stream(*mut ArrowArrayStream),
}

/// Where its result goes: a schema, which may be NULL, and an array, or a stream.
#[cfg_attr(not(feature = "arrow"), expect(dead_code, reason = "nobody looks at them"))]
pub(crate) enum Target {
    Array(*mut ArrowSchema, *mut ArrowArray),
    Stream(*mut ArrowArrayStream),
}

/// Every rank's `out` becomes the reduction of all ranks' `input`, element by element: one type and length on all ranks. A struct at
/// the top is a record batch, reduced column by column, whose names stand in errors; anything else is an array. Numbers of all
/// types, in arrays, lists of one length, lists of any length that are alike on all ranks, structs; points in time have a min and a
/// max.
///
/// Of all functions that end in _arrow or _arrow_stream:
/// - `input` is moved on success only: then its `release` is NULL, and its callback is called when nobody needs the memory any more,
///   on any thread, maybe much later. After an error it is the caller's and as it was. `schema` is read and stays the caller's.
/// - `out` and `out_schema` are written on success only, without a look at what was there; the caller releases them. `out_schema` may
///   be NULL. `out` may be `input`, which is moved before.
/// - Arrays are read where they are. What a rank gets back of its own, in verbs that move tables, shares memory with what it
///   passed.
/// - Ranks compare what they bring before anything else happens. Where that does not go together, or one rank passes what cannot be
///   read, every rank gets the same error, of kind RF_KIND_REFUSED also where it is RF_MISMATCH, and the group goes on. What is
///   wrong with communicator or options is told to nobody else.
/// - `options.nulls` says what becomes of nulls in reductions. Calls are neither started nor prepared.
///
/// # Safety
/// `comm` is a communicator; structures are NULL or as Arrow's C data and stream interfaces demand, and are left alone by others until
/// the call returns; nobody writes to memory that was moved; release callbacks can be called on any thread. `options` is NULL or
/// initialised; `error` is NULL or an initialised rf_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_all_reduce_arrow(
    comm: *mut rf_comm,
    schema: *const ArrowSchema,
    input: *mut ArrowArray,
    out_schema: *mut ArrowSchema,
    out: *mut ArrowArray,
    op: rf_op,
    options: *const rf_options,
    error: *mut rf_error,
) -> rf_status {
    let verb = Verb::AllReduce(op);
    let (source, target) = (Source::Array(schema, input), Target::Array(out_schema, out));
    // SAFETY: the caller's promises.
    guarded(error, || unsafe { carry_out(comm, options, &verb, source, target) })
}

/// The root's `out` becomes the reduction of all ranks' `input`, as in rf_all_reduce_arrow. Other ranks' `out` and `out_schema` may be
/// NULL, and are set to released otherwise.
///
/// # Safety
/// As rf_all_reduce_arrow.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_reduce_arrow(
    comm: *mut rf_comm,
    schema: *const ArrowSchema,
    input: *mut ArrowArray,
    out_schema: *mut ArrowSchema,
    out: *mut ArrowArray,
    op: rf_op,
    root: i64,
    options: *const rf_options,
    error: *mut rf_error,
) -> rf_status {
    let verb = Verb::Reduce(op, root);
    let (source, target) = (Source::Array(schema, input), Target::Array(out_schema, out));
    // SAFETY: the caller's promises.
    guarded(error, || unsafe { carry_out(comm, options, &verb, source, target) })
}

/// Rank r's `out` becomes block r of the rows of the reduction of all ranks' `input`. Blocks differ by one row at most; the first ones
/// are the longer. Not of lists of any length.
///
/// # Safety
/// As rf_all_reduce_arrow.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_reduce_scatter_arrow(
    comm: *mut rf_comm,
    schema: *const ArrowSchema,
    input: *mut ArrowArray,
    out_schema: *mut ArrowSchema,
    out: *mut ArrowArray,
    op: rf_op,
    options: *const rf_options,
    error: *mut rf_error,
) -> rf_status {
    let verb = Verb::ReduceScatter(op);
    let (source, target) = (Source::Array(schema, input), Target::Array(out_schema, out));
    // SAFETY: the caller's promises.
    guarded(error, || unsafe { carry_out(comm, options, &verb, source, target) })
}

/// Every rank's `out` becomes the root's `input`, of any type that Arrow's IPC format has. Other ranks' `schema` and `input` are not
/// looked at and may be NULL.
///
/// # Safety
/// As rf_all_reduce_arrow.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_broadcast_arrow(
    comm: *mut rf_comm,
    schema: *const ArrowSchema,
    input: *mut ArrowArray,
    out_schema: *mut ArrowSchema,
    out: *mut ArrowArray,
    root: i64,
    options: *const rf_options,
    error: *mut rf_error,
) -> rf_status {
    let verb = Verb::Broadcast(root);
    let (source, target) = (Source::Array(schema, input), Target::Array(out_schema, out));
    // SAFETY: the caller's promises.
    guarded(error, || unsafe { carry_out(comm, options, &verb, source, target) })
}

/// Sends each row of a record batch to the rank that its key belongs to; `out` becomes the rows that belong to this one, rank 0's first,
/// each rank's in their order. `key` is the name of a column: of numbers, strings, bytes, times, or dictionaries of these. Equal keys
/// meet on one rank, and so do nulls; rows are divided as by Spark's hash partitioning. One schema on all ranks; lengths are each
/// rank's own.
///
/// # Safety
/// As rf_all_reduce_arrow.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_shuffle_arrow(
    comm: *mut rf_comm,
    schema: *const ArrowSchema,
    input: *mut ArrowArray,
    out_schema: *mut ArrowSchema,
    out: *mut ArrowArray,
    key: *const c_char,
    options: *const rf_options,
    error: *mut rf_error,
) -> rf_status {
    let verb = Verb::Shuffle(key);
    let (source, target) = (Source::Array(schema, input), Target::Array(out_schema, out));
    // SAFETY: the caller's promises.
    guarded(error, || unsafe { carry_out(comm, options, &verb, source, target) })
}

/// `out` becomes a stream of all ranks' `input`s: one array for each rank, in rank order. One schema on all ranks; lengths are each
/// rank's own.
///
/// # Safety
/// As rf_all_reduce_arrow.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_all_gather_arrow(
    comm: *mut rf_comm,
    schema: *const ArrowSchema,
    input: *mut ArrowArray,
    out: *mut ArrowArrayStream,
    options: *const rf_options,
    error: *mut rf_error,
) -> rf_status {
    let verb = Verb::AllGather;
    let (source, target) = (Source::Array(schema, input), Target::Stream(out));
    // SAFETY: the caller's promises.
    guarded(error, || unsafe { carry_out(comm, options, &verb, source, target) })
}

/// The root's `out` becomes a stream of all ranks' `input`s, as in rf_all_gather_arrow. Other ranks' `out` may be NULL, and is set to
/// released otherwise.
///
/// # Safety
/// As rf_all_reduce_arrow.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_gather_arrow(
    comm: *mut rf_comm,
    schema: *const ArrowSchema,
    input: *mut ArrowArray,
    out: *mut ArrowArrayStream,
    root: i64,
    options: *const rf_options,
    error: *mut rf_error,
) -> rf_status {
    let verb = Verb::Gather(root);
    let (source, target) = (Source::Array(schema, input), Target::Stream(out));
    // SAFETY: the caller's promises.
    guarded(error, || unsafe { carry_out(comm, options, &verb, source, target) })
}

/// Array r of the stream `input` goes to rank r; array r of the stream `out` came from rank r. One schema on all ranks, and as many
/// arrays as there are ranks; empty ones have no rows.
///
/// A stream can be read only once. So after an error `input` is a stream of the library's, which gives once more what was read,
/// and then goes on with what is left of the caller's, its error included; where the stream could not say its schema it
/// is as it was. It is read on the calling thread, which takes as long as its producer does.
///
/// # Safety
/// As rf_all_reduce_arrow.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_all_to_all_arrow(
    comm: *mut rf_comm,
    input: *mut ArrowArrayStream,
    out: *mut ArrowArrayStream,
    options: *const rf_options,
    error: *mut rf_error,
) -> rf_status {
    let verb = Verb::AllToAll;
    let (source, target) = (Source::Stream(input), Target::Stream(out));
    // SAFETY: the caller's promises.
    guarded(error, || unsafe { carry_out(comm, options, &verb, source, target) })
}

/// rf_all_reduce_arrow of an array or a record batch in chunks, which may be others on each rank, with one length in all. Several are
/// copied into one first. After an error `input` is as rf_all_to_all_arrow says.
///
/// # Safety
/// As rf_all_reduce_arrow.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_all_reduce_arrow_stream(
    comm: *mut rf_comm,
    input: *mut ArrowArrayStream,
    out_schema: *mut ArrowSchema,
    out: *mut ArrowArray,
    op: rf_op,
    options: *const rf_options,
    error: *mut rf_error,
) -> rf_status {
    let verb = Verb::AllReduce(op);
    let (source, target) = (Source::Stream(input), Target::Array(out_schema, out));
    // SAFETY: the caller's promises.
    guarded(error, || unsafe { carry_out(comm, options, &verb, source, target) })
}
