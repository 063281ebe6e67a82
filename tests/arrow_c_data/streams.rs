//! Streams: whole, empty, failing at the beginning and in the middle, and released once.

use crate::hand::{Calls, floats, schema};
use ringfold::arrow::array::{ArrayRef, Int32Array, RecordBatch, StringArray};
use ringfold::arrow::c_data::{
    self, ArrowArray, ArrowArrayStream, ArrowSchema, Exported, Structure, export_chunks, export_stream,
    import_chunks, import_stream,
};
use ringfold::arrow::schema::{DataType, Field, SchemaRef};
use ringfold::{Error, ErrorKind};
use std::collections::HashMap;
use std::ffi::{c_char, c_int};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

fn batch(rows: i32) -> RecordBatch {
    let words: Vec<_> = (0..rows).map(|row| format!("row {row}")).collect();
    let columns = [
        ("number", Arc::new(Int32Array::from_iter_values(0..rows)) as _),
        ("word", Arc::new(StringArray::from(words)) as _),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn import(stream: &mut Exported<ArrowArrayStream>) -> ringfold::Result<c_data::Batches> {
    // SAFETY: made by this test, and alive until its end.
    unsafe { import_stream(stream.as_mut_ptr()) }
}

#[test]
fn batches_arrive_in_order_and_outlive_the_stream() {
    let batches: Vec<_> = [3, 0, 5].map(batch).into();
    let mut stream = export_stream(batches[0].schema(), batches.clone().into_iter().map(Ok));
    let imported = import(&mut stream).unwrap();
    assert!(stream.release.is_none(), "it was moved");
    assert_eq!(imported.schema(), &batches[0].schema());
    let read: Vec<_> = imported.map(Result::unwrap).collect();
    drop(stream);
    assert_eq!(read, batches);
}

#[test]
fn a_stream_of_nothing_has_a_schema() {
    let schema: SchemaRef = batch(1).schema();
    let mut stream = export_stream(schema.clone(), std::iter::empty());
    let mut imported = import(&mut stream).unwrap();
    assert_eq!(imported.schema(), &schema);
    assert!(imported.next().is_none());
    assert!(imported.next().is_none());
}

/// Counts its own end.
struct Source(Arc<AtomicUsize>, std::vec::IntoIter<ringfold::Result<RecordBatch>>);

impl Iterator for Source {
    type Item = ringfold::Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        self.1.next()
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_failure_in_the_middle_is_told_with_its_text_and_ends_the_stream() {
    for (error, kind, code) in [
        (Error::new(ErrorKind::Io, "the disk is\0gone"), ErrorKind::Io, "5 (EIO)"),
        (Error::invalid("the disk is\0gone"), ErrorKind::InvalidArgument, "22 (EINVAL)"),
        (Error::unsupported("the disk is\0gone"), ErrorKind::Unsupported, "38 (ENOSYS)"),
    ] {
        let ends = Arc::new(AtomicUsize::new(0));
        let source = Source(ends.clone(), vec![Ok(batch(2)), Err(error), Ok(batch(2))].into_iter());
        let mut stream = export_stream(batch(0).schema(), source);
        let mut imported = import(&mut stream).unwrap();
        assert_eq!(imported.next().unwrap().unwrap(), batch(2));
        let told = imported.next().unwrap().unwrap_err();
        assert_eq!(told.kind(), kind);
        assert!(told.message().contains(&format!("get_next failed with {code}")), "{told}");
        assert!(told.message().contains("the disk is\\0gone"), "{told}");
        assert!(imported.next().is_none());
        drop(imported);
        drop(stream);
        assert_eq!(ends.load(Ordering::SeqCst), 1);
    }
}

#[test]
fn a_source_that_panics_or_changes_its_schema_is_an_error() {
    let batches = (0..2).map(|at| if at == 0 { Ok(batch(1)) } else { panic!("out of rows") });
    let mut imported = import(&mut export_stream(batch(0).schema(), batches)).unwrap();
    assert!(imported.next().unwrap().is_ok());
    let error = imported.next().unwrap().unwrap_err();
    assert!(error.message().contains("the source of the stream panicked: out of rows"), "{error}");

    let other = batch(1).project(&[1]).unwrap();
    let mut imported = import(&mut export_stream(batch(0).schema(), std::iter::once(Ok(other)))).unwrap();
    assert_eq!(imported.next().unwrap().unwrap_err().kind(), ErrorKind::InvalidArgument);
}

fn numbers(values: &[Option<i32>]) -> ringfold::Result<ArrayRef> {
    Ok(Arc::new(Int32Array::from(values.to_vec())))
}

#[test]
fn chunks_arrive_with_name_and_nulls_and_outlive_the_stream() {
    let field = Field::new("n", DataType::Int32, true)
        .with_metadata(HashMap::from([("unit".to_owned(), "m".to_owned())]));
    let chunks = [numbers(&[Some(1), None]), numbers(&[]), numbers(&[Some(3)])];
    let mut stream = export_chunks(field.clone(), chunks.clone().into_iter());
    // SAFETY: made by this test, and alive until its end.
    let imported = unsafe { import_chunks(stream.as_mut_ptr()) }.unwrap();
    assert!(stream.release.is_none(), "it was moved");
    assert_eq!(imported.field(), &field);
    let read: Vec<_> = imported.map(Result::unwrap).collect();
    drop(stream);
    assert_eq!(read, chunks.map(Result::unwrap));
}

#[test]
fn batches_can_be_read_as_chunks() {
    let mut stream = export_stream(batch(0).schema(), (0..3).map(|rows| Ok(batch(rows))));
    // SAFETY: as above.
    let imported = unsafe { import_chunks(stream.as_mut_ptr()) }.unwrap();
    let field = imported.field().clone();
    let read: Vec<_> = imported.map(|chunk| c_data::to_batch(&chunk.unwrap(), &field).unwrap()).collect();
    assert_eq!(read, [batch(0), batch(1), batch(2)]);
}

#[test]
fn chunks_that_do_not_go_with_their_field_end_the_stream() {
    let of_words: ArrayRef = Arc::new(StringArray::from(vec!["one"]));
    for (wrong, words) in
        [(Ok(of_words), "Utf8 in a stream of Int32"), (numbers(&[None]), "says it has none")]
    {
        let field = Field::new("n", DataType::Int32, false);
        let mut stream = export_chunks(field, [numbers(&[Some(1)]), wrong, numbers(&[Some(2)])].into_iter());
        // SAFETY: as above.
        let mut imported = unsafe { import_chunks(stream.as_mut_ptr()) }.unwrap();
        assert!(imported.next().unwrap().is_ok());
        let error = imported.next().unwrap().unwrap_err();
        assert!(error.message().contains(words), "{error}");
        assert!(imported.next().is_none());
    }
}

#[test]
fn a_stream_goes_to_another_thread() {
    let mut stream = export_stream(batch(0).schema(), (0..4).map(|rows| Ok(batch(rows))));
    let imported = import(&mut stream).unwrap();
    let rows = std::thread::spawn(move || imported.map(|batch| batch.unwrap().num_rows()).sum::<usize>());
    assert_eq!(rows.join().unwrap(), 6);
}

/// A producer in C: its schema, its error, its arrays, and what was released.
#[derive(Default)]
struct Foreign {
    schema: Option<Exported<ArrowSchema>>,
    arrays: Vec<Exported<ArrowArray>>,
    code: c_int,
    text: Option<&'static std::ffi::CStr>,
    released: usize,
}

/// SAFETY: `private_data` of the streams below is a `Foreign` that outlives them.
unsafe fn foreign<'a>(stream: *mut ArrowArrayStream) -> &'a mut Foreign {
    // SAFETY: see above.
    unsafe { &mut *(*stream).private_data.cast() }
}

unsafe extern "C" fn get_schema(stream: *mut ArrowArrayStream, out: *mut ArrowSchema) -> c_int {
    // SAFETY: a stream of `Foreign::stream`, and memory for a schema.
    unsafe {
        let foreign = foreign(stream);
        match foreign.schema.take() {
            Some(schema) => out.write(schema.into_raw()),
            None => return foreign.code,
        }
    }
    0
}

unsafe extern "C" fn get_next(stream: *mut ArrowArrayStream, out: *mut ArrowArray) -> c_int {
    // SAFETY: a stream of `Foreign::stream`, and memory for an array.
    unsafe {
        let foreign = foreign(stream);
        match foreign.arrays.pop() {
            Some(array) => out.write(array.into_raw()),
            None if foreign.code != 0 => return foreign.code,
            None => out.write(ArrowArray::released()),
        }
    }
    0
}

unsafe extern "C" fn get_last_error(stream: *mut ArrowArrayStream) -> *const c_char {
    // SAFETY: a stream of `Foreign::stream`.
    unsafe { foreign(stream) }.text.map_or(std::ptr::null(), std::ffi::CStr::as_ptr)
}

unsafe extern "C" fn release(stream: *mut ArrowArrayStream) {
    // SAFETY: a stream of `Foreign::stream`.
    unsafe {
        foreign(stream).released += 1;
        (*stream).release = None;
    }
}

impl Foreign {
    fn stream(&mut self) -> Exported<ArrowArrayStream> {
        let stream = ArrowArrayStream {
            get_schema: Some(get_schema),
            get_next: Some(get_next),
            get_last_error: Some(get_last_error),
            release: Some(release),
            private_data: std::ptr::from_mut(self).cast(),
        };
        // SAFETY: the callbacks are those above.
        unsafe { Exported::new(stream) }
    }
}

#[test]
fn producers_whose_schema_fails_keep_their_stream() {
    for (code, text, kind, told) in [
        (5, Some(c"no such table"), ErrorKind::Io, "get_schema failed with 5 (EIO): no such table"),
        (12, Some(c"\xff"), ErrorKind::Io, "get_schema failed with 12 (ENOMEM): \u{fffd}"),
        (22, None, ErrorKind::InvalidArgument, "get_schema failed with 22 (EINVAL): it gives no reason"),
        (38, None, ErrorKind::Unsupported, "get_schema failed with 38 (ENOSYS)"),
        (-1, None, ErrorKind::Io, "get_schema failed with -1: it gives no reason"),
    ] {
        let mut foreign = Foreign { code, text, ..Foreign::default() };
        let mut stream = foreign.stream();
        let error = import(&mut stream).unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.message().contains(told), "{error}");
        assert!(stream.release.is_some(), "nothing was moved");
        drop(stream);
        assert_eq!(foreign.released, 1);
    }
}

#[test]
fn what_is_no_stream_of_batches_is_refused() {
    // SAFETY: NULL is refused.
    let error = unsafe { import_stream(std::ptr::null_mut()) }.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);

    let mut foreign = Foreign { schema: Some(schema(b"f", vec![])), ..Foreign::default() };
    let error = import(&mut foreign.stream()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("a stream of Float32"), "{error}");
    assert_eq!(foreign.released, 1);

    let mut foreign = Foreign { schema: Some(schema(b"+w:-1", vec![])), ..Foreign::default() };
    assert_eq!(import(&mut foreign.stream()).unwrap_err().kind(), ErrorKind::InvalidArgument);

    let mut released = foreign.stream();
    // SAFETY: plain data.
    unsafe { (*released.as_mut_ptr()).release = None };
    assert!(import(&mut released).unwrap_err().message().contains("released or moved"));

    for lacking in 0..2 {
        let mut stream = foreign.stream();
        // SAFETY: plain data.
        unsafe {
            match lacking {
                0 => (*stream.as_mut_ptr()).get_schema = None,
                _ => (*stream.as_mut_ptr()).get_next = None,
            }
        }
        assert!(import(&mut stream).unwrap_err().message().contains("(NULL)"));
    }
}

#[test]
fn an_array_of_another_schema_in_a_stream_is_refused_and_released() {
    let calls = Calls::default();
    let of_structs = schema(b"+s", vec![schema(b"f", vec![])]);
    let mut foreign =
        Foreign { schema: Some(of_structs), arrays: vec![floats(&[1.0], &calls)], ..Foreign::default() };
    let mut stream = foreign.stream();
    let mut imported = import(&mut stream).unwrap();
    let error = imported.next().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert_eq!(calls.count(), 1);
    assert!(imported.next().is_none());
    drop(imported);
    drop(stream);
    assert_eq!(foreign.released, 1);
}

#[test]
fn a_producer_without_texts_and_one_that_fails_later() {
    let mut foreign =
        Foreign { schema: Some(schema(b"+s", vec![])), code: 5, text: Some(c"later"), ..Foreign::default() };
    let mut stream = foreign.stream();
    // SAFETY: plain data.
    unsafe { (*stream.as_mut_ptr()).get_last_error = None };
    let mut imported = import(&mut stream).unwrap();
    let error = imported.next().unwrap().unwrap_err();
    assert!(error.message().contains("get_next failed with 5 (EIO): it gives no reason"), "{error}");
}
