//! Collectives of Arrow data: arrays, record batches and tables go into the verbs as they are, and what comes out is Arrow's again.
//!
//! ```
//! use ringfold::arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch};
//! use ringfold::{Communicator, NullPolicy, Options, ReduceOp};
//! use std::sync::Arc;
//!
//! // Two threads are the ranks here; under a launcher `Communicator::from_env` joins the group.
//! std::thread::scope(|scope| {
//!     for comm in Communicator::local(2) {
//!         scope.spawn(move || {
//!             let clicks: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(comm.rank() as i64)]));
//!             let stay: ArrayRef = Arc::new(Float64Array::from(vec![0.5, 1.5, 2.5]));
//!             let own = RecordBatch::try_from_iter([("clicks", clicks), ("stay", stay)]).unwrap();
//!
//!             // Element by element, each column; nulls count as absent.
//!             let skip = Options::new().nulls(NullPolicy::Skip);
//!             let sums = comm.with(skip).all_reduce_record_batch(&own, ReduceOp::Sum).unwrap();
//!             assert_eq!(&*sums["clicks"], &Int64Array::from(vec![Some(2), None, Some(1)]));
//!             assert_eq!(&*sums["stay"], &Float64Array::from(vec![1.0, 3.0, 5.0]));
//!
//!             // As tables: any types, any number of rows on each rank.
//!             let all = comm.all_gather_record_batch(&own.slice(0, comm.rank() + 1)).unwrap();
//!             assert_eq!((all[0].num_rows(), all[1].num_rows()), (1, 2));
//!         });
//!     }
//! });
//! ```
//!
//! # What there is
//!
//! All of it is methods of [`Communicator`](crate::Communicator), and of [`With`](crate::With) for what holds for one call.
//!
//! - **Arrays** of numbers, reduced element by element: [`all_reduce_array`](crate::Communicator::all_reduce_array), into memory of the
//!   caller's by [`all_reduce_array_into`](crate::Communicator::all_reduce_array_into), from chunks by
//!   [`all_reduce_chunks`](crate::Communicator::all_reduce_chunks), [`reduce_array`](crate::Communicator::reduce_array),
//!   [`reduce_scatter_array`](crate::Communicator::reduce_scatter_array). Lists and structs of numbers are reduced within.
//! - **Record batches**, reduced column by column: [`all_reduce_record_batch`](crate::Communicator::all_reduce_record_batch),
//!   [`reduce_record_batch`](crate::Communicator::reduce_record_batch),
//!   [`reduce_scatter_record_batch`](crate::Communicator::reduce_scatter_record_batch).
//! - **Tables** of any types, strings and dictionaries included, that go from rank to rank as they are:
//!   [`all_gather_record_batch`](crate::Communicator::all_gather_record_batch),
//!   [`gather_record_batch`](crate::Communicator::gather_record_batch),
//!   [`broadcast_record_batch`](crate::Communicator::broadcast_record_batch),
//!   [`all_to_all_record_batches`](crate::Communicator::all_to_all_record_batches), and
//!   [`all_gather_array`](crate::Communicator::all_gather_array), [`broadcast_array`](crate::Communicator::broadcast_array) and
//!   [`all_to_all_list`](crate::Communicator::all_to_all_list) of single arrays.
//! - [`shuffle`](crate::Communicator::shuffle): each row to the rank that its key belongs to, divided as Spark divides.
//! - [`c_data`]: Arrow's C Data, C Stream and C Device Data structures, in and out.
//! - Tensors by DLPack, which have strides and bf16 and are no Arrow data, are at [`tensor::dlpack`](crate::tensor::dlpack).
//! - Arrow's own crates are re-exported here, so that a program uses the same version as this one. The macro
//!   `array::record_batch!` also wants `use ringfold::arrow::schema as arrow_schema;` in a program that has no crate of that name.
//!
//! # What is copied
//!
//! | data | what a verb does with it |
//! |---|---|
//! | arrays and batches that are reduced, without nulls, at any offset, in lists and structs too | zero copy: read where they are |
//! | the offsets of lists that do not begin at 0 | copied, since the result has others |
//! | an array in several chunks | without nulls one copy, into one; with nulls that are skipped, as the next line says; a single chunk is none |
//! | with nulls that are skipped on any rank | one packing copy on every rank, with a neutral value for each null, in portions that stay in the caches: into the result's memory in `all_reduce`, else into memory beside it |
//! | the result of a reduction | new memory, which becomes the array's without a copy; `all_reduce_array_into` writes to the caller's |
//! | a table that is sent | one packing copy, into a message; validity that begins within a byte and offsets that do not begin at 0 are made anew before |
//! | a table that comes | zero copy: the batch lies where its message arrived; in `all_gather` over shared memory it passes through 256 KiB of memory for each rank on the way |
//! | what a rank would send to itself | zero copy: the batch that it passed; `gather` packs the root's too |
//! | `all_to_all_list` | as a table, and one copy into one list |
//! | `shuffle` | three copies: when rows are divided, into messages, and into one batch. Columns of views are compacted meanwhile; in other verbs a part of an array of views goes with all that the whole one looks at |
//! | C structures, lent or imported | zero copy; buffers whose alignment Rust does not allow are copied |
//! | C structures, exported | zero copy: the owner lives until the callback is called |
//!
//! All that came in one call lies in one memory, which lives as long as any batch or array that refers to it. Results of 32 KiB or more
//! go back to the communicator when nobody has them any more, and are used again.
//!
//! # Nulls
//!
//! In reductions a null on any rank is an error on every rank, which names the column, the rank and how many there are. Under
//! [`NullPolicy::Skip`](crate::NullPolicy::Skip) it counts as absent: the others' values are reduced, the result is null only where
//! every rank has a null, and a mean is divided by the number of ranks that have a value. A value within a list or struct that is null is
//! absent too. Lists of any length must be alike on all ranks also where they are null: one that is null and empty does not go together with
//! one that has values. In tables nulls go along like any value, and in a shuffle null keys meet on one rank.
//!
//! # Errors
//!
//! Before anything moves, the ranks compare what they bring: the verb and what it was told, column names, types, lengths where they
//! must be alike, nulls where these are refused, and whether each has the memory that it needs. Where that does not go together, or where one
//! rank cannot take part (a type that has no sum, a root that is not there, no memory), **every rank gets the same error**:
//! [`Mismatch`](crate::ErrorKind::Mismatch), [`InvalidArgument`](crate::ErrorKind::InvalidArgument) or
//! [`Unsupported`](crate::ErrorKind::Unsupported), with the column, the rank, and what to do. Nothing has changed then, and the group is
//! sound: the next call is like any other. All other errors are the group's, as in every verb. A rank that could not make its array at
//! all says so by [`refuse_array`](crate::Communicator::refuse_array), and nobody waits for it.
//!
//! Messages of other ranks are checked in full before they are a batch ([`decode`]): what lies is
//! [`Protocol`](crate::ErrorKind::Protocol) on the rank that reads it.
//!
//! # Threads and blocking
//!
//! As in the other verbs: each call blocks until this rank has its result or the group has failed, every rank makes the same calls in
//! the same order, and one thread at a time has a communicator. Results are immutable, and can be sent to, shared with and dropped on any thread.
//! [`Order::Fixed`](crate::Order::Fixed) and other options of one call hold here too; a deadline holds for each of the operations that a
//! call is made of: the agreement, and one or several that move data.

pub mod c_data;

pub use arrow_array as array;
pub use arrow_buffer as buffer;
pub use arrow_data as data;
pub use arrow_ipc as ipc;
pub use arrow_schema as schema;
pub use arrow_select as select;

mod account;
mod arrays;
mod column;
mod message;
mod nulls;
mod output;
mod partition;
mod reduce;
mod seen;
mod shuffle;
mod single;
mod tables;

pub use message::decode;
pub use single::{array_of, batch_of};
