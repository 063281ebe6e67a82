//! Arrow's C interfaces: the C Data, C Stream and C Device Data structures, taken in with suspicion and given out.
//!
//! What comes through these structures was written by somebody else, in another language. So nothing is believed that can be
//! looked at: pointers that must not be NULL, lengths, counts of buffers and children, format strings, offsets,
//! keys, UTF-8. Each refusal is a typed error that names the place (`array.children[2].dictionary`) and changes nothing. What
//! cannot be looked at is the caller's word, and makes these functions unsafe: that a pointer which is not NULL
//! points to what the specification says, for as many bytes as the lengths say, and that release callbacks release.
//!
//! Import **borrows until success**: [`lend`] gives an array over the caller's memory and a [`Lease`]. [`Lease::take`] moves
//! the caller's structure (its `release` becomes NULL) once all went well; dropping the lease leaves it as it was. Schemas
//! are only read.
//!
//! ```
//! use ringfold::arrow::array::{Array, Int32Array};
//! use ringfold::arrow::c_data::{self, Exported};
//! use ringfold::arrow::schema::{DataType, Field};
//!
//! // Somebody exports an array ...
//! let column = Int32Array::from(vec![Some(1), None, Some(3)]);
//! let (mut array, schema) = c_data::export(&column, &Field::new("x", DataType::Int32, true))?;
//!
//! // ... which is looked at, but stays theirs,
//! // SAFETY: both structures were exported above, and live until the end of this program.
//! let lent = unsafe { c_data::lend(array.as_mut_ptr(), schema.as_ptr()) }?;
//! assert_eq!(lent.array.len(), 3);
//! drop(lent);
//! assert!(array.release.is_some());
//!
//! // ... or is moved.
//! // SAFETY: as above.
//! let (imported, field) = unsafe { c_data::import(array.as_mut_ptr(), schema.as_ptr()) }?;
//! assert!(array.release.is_none());
//! assert_eq!((imported.as_ref(), field.name().as_str()), (&column as &dyn Array, "x"));
//! # Ok::<(), ringfold::Error>(())
//! ```
//!
//! Of arrays with elements of a fixed width nothing is read at import but, where the producer says that there are nulls or that
//! it does not know, the validity bitmap, whose nulls are counted. Of strings, lists and dictionaries all that could lead out of
//! bounds is read once. Buffers of any alignment will do; those that Rust could not refer to are copied.

mod abi;
mod array;
mod device;
mod export;
mod lease;
mod place;
mod schema;
mod stream;
mod values;

pub use abi::{ArrowArray, ArrowArrayStream, ArrowDeviceArray, ArrowSchema, Exported, Structure};
pub use device::{DeviceType, lend_device, view_device};
pub use export::{export, export_batch, export_chunks, export_field, export_stream};
pub use lease::{Lease, Lent};
pub use stream::{Batches, Chunks, import_chunks, import_stream};

use crate::error::{Error, Result};
use arrow_array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, StructArray};
use arrow_schema::{DataType, Field, Schema};
use lease::Owner;
use place::Place;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// How deep types may be nested, as in Arrow's C++ library.
pub const MAX_DEPTH: usize = 64;

/// How many fields a schema may have in all, at every depth. It bounds the work that a schema whose children are its parents makes.
pub const MAX_FIELDS: usize = 1 << 18;

/// Lends an array by the C Data interface: looked at, readable, and still the caller's.
///
/// Nothing is copied but buffers whose alignment Rust does not allow. On success the structure is as it was until
/// [`Lease::take`]; in case of an error, for good. The schema is only read, and may go when this returns. Where the array has
/// nulls and the schema's top says that there are none, as producers do that export a bare type, the field given back says
/// nullable.
///
/// # Errors
/// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where array or schema contradict the specification or each other, with
/// the place; [`Unsupported`](crate::ErrorKind::Unsupported) for types that this library does not know, more than
/// [`MAX_DEPTH`] levels or [`MAX_FIELDS`] fields.
///
/// # Safety
/// - `array` and `schema` are NULL or point to structures of these types; and so do the pointers in them that the
///   specification describes, to memory as large as it says for the lengths, offsets and counts that are given. Strings end with a
///   zero.
/// - Until the lease is taken or dropped nobody else releases, moves or changes the structure or writes to the memory behind it;
///   from then on, where it was taken, nobody writes to that memory until the structure's callback is called.
/// - The lease is taken or dropped, not forgotten; and the callback may be called on any thread.
pub unsafe fn lend(array: *mut ArrowArray, schema: *const ArrowSchema) -> Result<Lent> {
    guarded(|| {
        // Whether there is an array at all is asked first, so that the message is about it.
        // SAFETY: as the caller promises.
        unsafe { array::look(array, &Place::root("array")) }?;
        // SAFETY: as the caller promises.
        let field = unsafe { schema::field(schema) }?;
        // SAFETY: as the caller promises.
        unsafe { lend_as(array, field) }
    })
}

/// Imports an array by the C Data interface: moves it on success, so that the caller's `release` becomes NULL, and leaves it alone
/// otherwise. The callback runs when the last reference to the imported memory goes, on whatever thread that is. The schema is
/// only read.
///
/// # Errors
/// As [`lend`].
///
/// # Safety
/// As [`lend`].
pub unsafe fn import(array: *mut ArrowArray, schema: *const ArrowSchema) -> Result<(ArrayRef, Field)> {
    // SAFETY: as the caller promises.
    unsafe { lend(array, schema) }?.take()
}

/// Reads a schema by the C Data interface, without consuming it.
///
/// # Errors
/// As [`lend`], for what the schema says.
///
/// # Safety
/// `schema` is NULL or points to a schema as [`lend`] wants it, which nobody changes meanwhile.
pub unsafe fn read_schema(schema: *const ArrowSchema) -> Result<Field> {
    // SAFETY: as the caller promises.
    guarded(|| unsafe { schema::field(schema) })
}

/// A struct array as the record batch that it stands for in the C interfaces.
///
/// # Errors
/// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where the array is no struct, is not of the field's type, or has
/// nulls of its own, which a batch has no place for.
pub fn to_batch(array: &dyn Array, field: &Field) -> Result<RecordBatch> {
    let (DataType::Struct(fields), Some(columns)) =
        (field.data_type(), array.as_any().downcast_ref::<StructArray>())
    else {
        return Err(Error::invalid(format!("an array of {} is no record batch", array.data_type()))
            .remedy("pass a struct array (format \"+s\"), whose children are the columns"));
    };
    if columns.null_count() > 0 {
        return Err(Error::invalid(format!(
            "{} rows of the record batch are null as a whole",
            columns.null_count()
        ))
        .remedy("mark the values of these rows as null in the columns, and none in the struct itself"));
    }
    let schema = Schema::new(fields.clone()).with_metadata(field.metadata().clone());
    let options = RecordBatchOptions::new().with_row_count(Some(columns.len()));
    RecordBatch::try_new_with_options(Arc::new(schema), columns.columns().to_vec(), &options)
        .map_err(|error| Error::invalid(format!("the struct array is no record batch: {error}")))
}

/// Lends an array whose type is known already.
///
/// # Safety
/// As [`lend`], of the array.
unsafe fn lend_as(array: *mut ArrowArray, field: Field) -> Result<Lent> {
    let place = Place::root("array");
    // SAFETY: as the caller promises.
    unsafe { array::look(array, &place) }?;
    // SAFETY: it is there and aligned, and the caller promises the rest.
    let owner = unsafe { Owner::copy_of(array) };
    // The lease comes before any array over this memory, so that it goes last, whatever happens.
    let lease = Lease::new(array, owner);
    // SAFETY: as the caller promises; the owner goes with each buffer.
    let data = unsafe { array::data(array, field.data_type(), &place, lease.owner()) }?;
    let nulls = data.null_count() > 0;
    let array = arrow_array::make_array(data);
    let nullable = field.is_nullable() || nulls;
    Ok(Lent { array, field: field.with_nullable(nullable), lease })
}

/// The last line of defence: where Arrow's crates panic on what was let through, that is an error like others.
fn guarded<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let why = panic_text(panic.as_ref());
        Err(Error::invalid(format!("the arrow crate panicked: {why}"))
            .remedy("report this with the array's schema: bad input should have been refused before"))
    })
}

/// What a panic said.
fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text")
}
