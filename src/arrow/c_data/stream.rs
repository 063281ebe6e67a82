//! Streams of somebody else's, read batch by batch.

use super::abi::{ArrowArray, ArrowArrayStream, ArrowSchema, Exported, Structure};
use super::export::{EINVAL, EIO, ENOMEM, ENOSYS};
use super::{guarded, lend_as, schema, to_batch};
use crate::error::{Error, ErrorKind, Result};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use std::ffi::{CStr, c_int};
use std::ptr;
use std::sync::Arc;

/// Imports a stream of record batches by the C Stream interface. The schema is asked for at once; the stream is moved on success, so
/// that the caller's `release` becomes NULL, and is left alone otherwise.
///
/// # Errors
/// [`InvalidArgument`](ErrorKind::InvalidArgument) where the stream is NULL or released, lacks a callback, or has a schema that
/// contradicts the specification; [`Unsupported`](ErrorKind::Unsupported) where it is one of arrays that are no structs. Where the
/// producer's `get_schema` fails the error tells its number and text, and is `InvalidArgument` for `EINVAL`, `Unsupported` for `ENOSYS`,
/// and [`Io`](ErrorKind::Io) for others.
///
/// # Safety
/// `stream` is NULL or points to a stream that its producer made by the specification, whose callbacks may be called on
/// any thread, one at a time; nobody else uses it meanwhile. What it gives is as [`lend`](super::lend) wants it.
pub unsafe fn import_stream(stream: *mut ArrowArrayStream) -> Result<Batches> {
    // SAFETY: as the caller promises.
    let field = unsafe { look(stream) }?;
    let DataType::Struct(fields) = field.data_type() else {
        return Err(Error::unsupported(format!(
            "a stream of {} is none of record batches",
            field.data_type()
        ))
        .remedy("wrap the arrays in structs of one field, or read them by import_chunks"));
    };
    let schema = Arc::new(Schema::new(fields.clone()).with_metadata(field.metadata().clone()));
    // SAFETY: it was looked at above, and the caller promises the rest.
    let chunks = unsafe { Chunks::take(stream, field) };
    Ok(Batches { chunks, schema })
}

/// Imports a stream of arrays of any type, such as the chunks of a chunked array; otherwise as [`import_stream`].
///
/// ```
/// use ringfold::arrow::array::{ArrayRef, Int32Array};
/// use ringfold::arrow::c_data::{export_chunks, import_chunks};
/// use ringfold::arrow::schema::{DataType, Field};
/// use std::sync::Arc;
///
/// let chunks = [vec![1, 2], vec![3]].map(|chunk| Arc::new(Int32Array::from(chunk)) as ArrayRef);
/// let mut stream = export_chunks(Field::new("x", DataType::Int32, false), chunks.clone().into_iter().map(Ok));
///
/// // SAFETY: the stream was exported above.
/// let imported = unsafe { import_chunks(stream.as_mut_ptr()) }?;
/// assert_eq!(imported.field().name(), "x");
/// assert_eq!(imported.collect::<Result<Vec<_>, _>>()?, chunks);
/// # Ok::<(), ringfold::Error>(())
/// ```
///
/// # Errors
/// As [`import_stream`], but for the type.
///
/// # Safety
/// As [`import_stream`].
pub unsafe fn import_chunks(stream: *mut ArrowArrayStream) -> Result<Chunks> {
    // SAFETY: as the caller promises.
    let field = unsafe { look(stream) }?;
    // SAFETY: it was looked at above, and the caller promises the rest.
    Ok(unsafe { Chunks::take(stream, field) })
}

/// The type of a stream's arrays. Nothing is moved.
///
/// # Safety
/// As [`import_stream`].
unsafe fn look(stream: *mut ArrowArrayStream) -> Result<Field> {
    if stream.is_null() || !stream.is_aligned() {
        return Err(Error::invalid(format!("the stream is no structure's address: {stream:p}"))
            .remedy("pass the address of a struct ArrowArrayStream"));
    }
    // SAFETY: it is there and aligned.
    let there = unsafe { &*stream };
    if there.release.is_none() {
        return Err(Error::invalid("the stream was released or moved (release is NULL)")
            .remedy("pass a stream that nobody has consumed"));
    }
    let (Some(get_schema), Some(_)) = (there.get_schema, there.get_next) else {
        return Err(Error::invalid("the stream has no get_schema or no get_next (NULL)"));
    };
    let mut schema = ArrowSchema::released();
    // SAFETY: the stream was not released, and the caller vouches for its callbacks.
    let code = unsafe { get_schema(stream, &mut schema) };
    if code != 0 {
        // SAFETY: the last call has failed.
        return Err(unsafe { failed(stream, "get_schema", code) });
    }
    // SAFETY: a schema that the producer made, and is ours.
    let schema = unsafe { Exported::new(schema) };
    // SAFETY: as above.
    guarded(|| unsafe { schema::field(schema.as_ptr()) })
}

/// The arrays of an imported stream. After an error the stream is at its end. Dropping this releases the stream; arrays live on.
///
/// `next` blocks for as long as the producer's `get_next` does.
#[derive(Debug)]
pub struct Chunks {
    stream: Exported<ArrowArrayStream>,
    field: Field,
    ended: bool,
}

impl Chunks {
    /// Moves a stream: a copy is ours, and the original says that it was released.
    ///
    /// # Safety
    /// [`look`] has found nothing wrong with it, and it is as [`import_stream`] wants it.
    unsafe fn take(stream: *mut ArrowArrayStream, field: Field) -> Self {
        // SAFETY: as the caller promises.
        let stream = unsafe {
            let moved = Exported::new(ptr::read(stream));
            (*stream).release = None;
            moved
        };
        Chunks { stream, field, ended: false }
    }

    /// Name, type, nullability and metadata of all arrays.
    pub fn field(&self) -> &Field {
        &self.field
    }

    fn read(&mut self) -> Result<Option<ArrayRef>> {
        let get_next = self.stream.get_next.expect("looked at when it was imported");
        let mut array = ArrowArray::released();
        let stream = self.stream.as_mut_ptr();
        // SAFETY: the stream is not released before this is dropped.
        let code = unsafe { get_next(stream, &mut array) };
        if code != 0 {
            // SAFETY: the last call has failed.
            return Err(unsafe { failed(stream, "get_next", code) });
        }
        if array.release.is_none() {
            return Ok(None);
        }
        // SAFETY: an array that the producer made, and is ours; where it is refused it is released here.
        let mut array = unsafe { Exported::new(array) };
        let field = self.field.clone();
        guarded(|| {
            // SAFETY: as above; the lease ends before the array does.
            let (array, _) = unsafe { lend_as(array.as_mut_ptr(), field) }?.take()?;
            Ok(Some(array))
        })
    }
}

impl Iterator for Chunks {
    type Item = Result<ArrayRef>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.read().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

/// The batches of an imported stream. After an error the stream is at its end. Dropping this releases the stream; batches live on.
///
/// `next` blocks for as long as the producer's `get_next` does.
#[derive(Debug)]
pub struct Batches {
    chunks: Chunks,
    schema: SchemaRef,
}

impl Batches {
    /// The schema of all batches, with the stream's metadata.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }
}

impl Iterator for Batches {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let array = self.chunks.next()?;
        let batch = array.and_then(|array| guarded(|| to_batch(&array, self.chunks.field())));
        self.chunks.ended |= batch.is_err();
        Some(batch)
    }
}

/// The error of a callback that has failed, with what the producer says about it.
///
/// # Safety
/// The stream is not released, and the last call of it failed.
unsafe fn failed(stream: *mut ArrowArrayStream, callback: &str, code: c_int) -> Error {
    // SAFETY: as the caller promises; the text is the producer's, and good until the next call.
    let text = unsafe {
        let text = (*stream).get_last_error.map_or(ptr::null(), |get_last_error| get_last_error(stream));
        (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
    };
    let text = text.unwrap_or_else(|| "it gives no reason".to_owned());
    let (kind, name) = match code {
        EINVAL => (ErrorKind::InvalidArgument, " (EINVAL)"),
        ENOSYS => (ErrorKind::Unsupported, " (ENOSYS)"),
        EIO => (ErrorKind::Io, " (EIO)"),
        ENOMEM => (ErrorKind::Io, " (ENOMEM)"),
        _ => (ErrorKind::Io, ""),
    };
    Error::new(kind, format!("the stream's {callback} failed with {code}{name}: {text}"))
        .remedy("look for the cause in the producer of the stream")
}
