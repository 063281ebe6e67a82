//! Arrays, batches and streams of them, given out.

use super::abi::{ArrowArray, ArrowArrayStream, ArrowSchema, Exported, Structure};
use super::panic_text;
use super::schema::told;
use crate::ErrorKind;
use crate::error::{Error, Result};
use arrow_array::{Array, ArrayRef, RecordBatch, StructArray};
use arrow_data::ffi::FFI_ArrowArray;
use arrow_schema::ffi::FFI_ArrowSchema;
use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef};
use std::ffi::{CString, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::Arc;

/// Exports an array with its field. Nothing is copied but bitmaps that begin within a byte; the memory stays until both the structure
/// is released and nothing in this process refers to it.
///
/// # Errors
/// [`InvalidArgument`](ErrorKind::InvalidArgument) where the field is of another type than the array, or has no nulls while the
/// array has some, or where a name has a zero byte.
pub fn export(array: &dyn Array, field: &Field) -> Result<(Exported<ArrowArray>, Exported<ArrowSchema>)> {
    if array.data_type() != field.data_type() {
        let (have, say) = (array.data_type(), field.data_type());
        return Err(Error::invalid(format!("the array is of type {have}, and the field of type {say}"))
            .remedy("pass the array's own type in the field"));
    }
    if array.null_count() > 0 && !field.is_nullable() {
        let nulls = array.null_count();
        return Err(Error::invalid(format!(
            "the array has {nulls} nulls, and the field says that it has none"
        ))
        .remedy("make the field nullable"));
    }
    let schema = export_field(field)?;
    Ok((array_of(array), schema))
}

/// Exports a record batch as a struct array, with its schema and the schema's metadata.
///
/// # Errors
/// As [`export_field`].
pub fn export_batch(batch: &RecordBatch) -> Result<(Exported<ArrowArray>, Exported<ArrowSchema>)> {
    let schema = export_schema(batch.schema_ref())?;
    Ok((array_of(&StructArray::from(batch.clone())), schema))
}

/// Exports a field: type, name, nullability and metadata.
///
/// # Errors
/// [`InvalidArgument`](ErrorKind::InvalidArgument) where the name or a time zone has a zero byte.
pub fn export_field(field: &Field) -> Result<Exported<ArrowSchema>> {
    FFI_ArrowSchema::try_from(field).map(Into::into).map_err(|error| Error::invalid(told(error)))
}

fn export_schema(schema: &Schema) -> Result<Exported<ArrowSchema>> {
    FFI_ArrowSchema::try_from(schema).map(Into::into).map_err(|error| Error::invalid(told(error)))
}

fn array_of(array: &dyn Array) -> Exported<ArrowArray> {
    FFI_ArrowArray::new(&array.to_data()).into()
}

/// Exports batches as a stream, which asks for one whenever its consumer does, on the consumer's thread.
///
/// An error of the iterator, its panic, or a batch of another schema is what the consumer gets from `get_next`, with the text
/// from `get_last_error`; after that the stream is at its end. The iterator is dropped when the stream is released.
///
/// ```
/// use ringfold::arrow::array::{Int32Array, RecordBatch};
/// use ringfold::arrow::c_data::{export_stream, import_stream};
/// use std::sync::Arc;
///
/// let batch = RecordBatch::try_from_iter([("x", Arc::new(Int32Array::from(vec![1, 2])) as _)]).unwrap();
/// let batches = vec![Ok(batch.clone()), Ok(batch.slice(1, 1))];
/// let mut stream = export_stream(batch.schema(), batches.into_iter());
///
/// // SAFETY: the stream was exported above.
/// let imported = unsafe { import_stream(stream.as_mut_ptr()) }?;
/// assert_eq!(imported.schema(), &batch.schema());
/// let rows: usize = imported.map(|batch| batch.map_or(0, |batch| batch.num_rows())).sum();
/// assert_eq!(rows, 3);
/// # Ok::<(), ringfold::Error>(())
/// ```
pub fn export_stream(
    schema: SchemaRef,
    batches: impl Iterator<Item = Result<RecordBatch>> + Send + 'static,
) -> Exported<ArrowArrayStream> {
    let rows = DataType::Struct(schema.fields().clone());
    let field = Field::new("", rows, false).with_metadata(schema.metadata().clone());
    export_chunks(field, batches.map(|batch| Ok(Arc::new(StructArray::from(batch?)) as ArrayRef)))
}

/// Exports arrays of one type as a stream, such as the chunks of a chunked array; otherwise as [`export_stream`].
pub fn export_chunks(
    field: Field,
    chunks: impl Iterator<Item = Result<ArrayRef>> + Send + 'static,
) -> Exported<ArrowArrayStream> {
    let source = Source { field, chunks: Some(Box::new(chunks)), last_error: None };
    let stream = ArrowArrayStream {
        get_schema: Some(get_schema),
        get_next: Some(get_next),
        get_last_error: Some(get_last_error),
        release: Some(release),
        private_data: Box::into_raw(Box::new(source)).cast::<c_void>(),
    };
    // SAFETY: the callbacks are those below, which keep to the specification, on any thread since the source is Send.
    unsafe { Exported::new(stream) }
}

/// What a stream of ours gets its arrays from.
struct Source {
    field: Field,
    /// None after the end or an error.
    chunks: Option<Box<dyn Iterator<Item = Result<ArrayRef>> + Send>>,
    last_error: Option<CString>,
}

impl Source {
    fn next(&mut self) -> Result<Option<ArrayRef>> {
        let Some(chunks) = &mut self.chunks else { return Ok(None) };
        let next = chunks.next().transpose()?;
        match &next {
            Some(chunk) if !same_types(chunk.data_type(), self.field.data_type()) => {
                let (other, own) = (chunk.data_type(), self.field.data_type());
                return Err(Error::invalid(format!("an array of {other} in a stream of {own}")));
            }
            Some(chunk) if chunk.null_count() > 0 && !self.field.is_nullable() => {
                let nulls = chunk.null_count();
                return Err(Error::invalid(format!("{nulls} nulls in a stream that says it has none")));
            }
            Some(_) => {}
            None => self.chunks = None,
        }
        Ok(next)
    }

    /// Runs what a callback does: 0, or the number of the error whose text is kept.
    fn answer(&mut self, body: impl FnOnce(&mut Self) -> Result<()>) -> c_int {
        let result = catch_unwind(AssertUnwindSafe(|| body(self))).unwrap_or_else(|panic| {
            let why = panic_text(panic.as_ref());
            Err(Error::new(ErrorKind::UserPanic, format!("the source of the stream panicked: {why}")))
        });
        let Err(error) = result else { return 0 };
        self.chunks = None;
        let text = error.to_string().replace('\0', "\\0");
        self.last_error = CString::new(text).ok();
        match error.kind() {
            ErrorKind::InvalidArgument | ErrorKind::Mismatch => EINVAL,
            ErrorKind::Unsupported => ENOSYS,
            _ => EIO,
        }
    }
}

/// Of record batches the columns' types count, not their names.
fn same_types(one: &DataType, other: &DataType) -> bool {
    let types =
        |fields: &Fields| -> Vec<DataType> { fields.iter().map(|field| field.data_type().clone()).collect() };
    match (one, other) {
        (DataType::Struct(one), DataType::Struct(other)) => types(one) == types(other),
        _ => one == other,
    }
}

// What the specification's callbacks return, by the numbers of Linux.
pub(super) const EIO: c_int = 5;
pub(super) const ENOMEM: c_int = 12;
pub(super) const EINVAL: c_int = 22;
pub(super) const ENOSYS: c_int = 38;

/// The source of a stream of ours; none where the stream was released.
///
/// # Safety
/// The stream is NULL or one that [`export_stream`] made, and nobody else uses it meanwhile.
unsafe fn source<'a>(stream: *mut ArrowArrayStream) -> Option<&'a mut Source> {
    // SAFETY: as the caller promises.
    let stream = unsafe { stream.as_ref() }?;
    stream.release?;
    // SAFETY: streams of ours that were not released have a source there.
    unsafe { stream.private_data.cast::<Source>().as_mut() }
}

unsafe extern "C" fn get_schema(stream: *mut ArrowArrayStream, out: *mut ArrowSchema) -> c_int {
    // SAFETY: the consumer calls the callback with its stream.
    let Some(source) = (unsafe { source(stream) }) else { return EINVAL };
    source.answer(|source| {
        let schema = export_field(&source.field)?.into_raw();
        // SAFETY: the consumer passes memory for a schema.
        unsafe { out.write(schema) };
        Ok(())
    })
}

unsafe extern "C" fn get_next(stream: *mut ArrowArrayStream, out: *mut ArrowArray) -> c_int {
    // SAFETY: the consumer calls the callback with its stream.
    let Some(source) = (unsafe { source(stream) }) else { return EINVAL };
    source.answer(|source| {
        let array = source.next()?.map_or_else(ArrowArray::released, |chunk| array_of(&chunk).into_raw());
        // SAFETY: the consumer passes memory for an array.
        unsafe { out.write(array) };
        Ok(())
    })
}

unsafe extern "C" fn get_last_error(stream: *mut ArrowArrayStream) -> *const c_char {
    // SAFETY: the consumer calls the callback with its stream.
    let source = unsafe { source(stream) };
    source.and_then(|source| source.last_error.as_ref()).map_or(ptr::null(), |text| text.as_ptr())
}

unsafe extern "C" fn release(stream: *mut ArrowArrayStream) {
    // SAFETY: the consumer calls the callback with its stream, once.
    let Some(source) = (unsafe { source(stream) }) else { return };
    // SAFETY: the source was boxed by `export_stream`; from here on the stream says that it was released.
    let source = unsafe {
        (*stream).release = None;
        Box::from_raw(ptr::from_mut(source))
    };
    // An iterator that panics when it is dropped must not unwind into C.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(source)));
}
