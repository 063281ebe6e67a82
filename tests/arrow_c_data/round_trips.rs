//! What goes out by the C Data interface comes back equal: every type, sliced, with offsets, at any alignment.

use crate::hand::{Calls, Parts, array, schema};
use ringfold::arrow::array::builder::{
    Int32Builder, ListBuilder, MapBuilder, StringBuilder, StringDictionaryBuilder, StringViewBuilder,
};
use ringfold::arrow::array::types::{Float64Type, Int16Type, Int32Type};
use ringfold::arrow::array::*;
use ringfold::arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use ringfold::arrow::c_data;
use ringfold::arrow::schema::{DataType, Field, Fields, IntervalUnit, Schema, TimeUnit, UnionFields};
use std::collections::HashMap;
use std::sync::Arc;

/// Out and in again, whole and sliced; lent first, then moved.
fn there_and_back(column: &dyn Array) {
    let field = Field::new("x", column.data_type().clone(), true);
    let end = column.len();
    for (from, to) in [(0, end), (1.min(end), end), (0, end.saturating_sub(1)), (2.min(end), end), (end, end)]
    {
        let slice = column.slice(from, to - from);
        let (mut array, schema) = c_data::export(&slice, &field).unwrap();
        // SAFETY: exported above, and alive until the end of this loop.
        let lent = unsafe { c_data::lend(array.as_mut_ptr(), schema.as_ptr()) }
            .unwrap_or_else(|error| panic!("{} from {from} to {to}: {error}", column.data_type()));
        assert_eq!(lent.array.as_ref(), slice.as_ref());
        assert_eq!(lent.field, field);
        lent.array.to_data().validate_full().unwrap();
        drop(lent);
        // SAFETY: as above.
        let (imported, _) = unsafe { c_data::import(array.as_mut_ptr(), schema.as_ptr()) }.unwrap();
        assert!(array.release.is_none());
        assert_eq!(imported.as_ref(), slice.as_ref());
    }
}

/// Seventeen elements of a primitive type, of which some are null, whatever its bits mean.
fn primitive(data_type: DataType) -> ArrayRef {
    let width = data_type.primitive_width().unwrap();
    // The highest byte stays small, for types that bound their values.
    let bytes: Vec<u8> =
        (0..17 * width).map(|at| if at % width == width - 1 { 0 } else { at as u8 }).collect();
    let nulls = NullBuffer::from_iter((0..17).map(|at| at % 5 != 3));
    let data = ringfold::arrow::data::ArrayData::builder(data_type).len(17).nulls(Some(nulls));
    make_array(data.add_buffer(Buffer::from(bytes)).align_buffers(true).build().unwrap())
}

#[test]
fn primitive_types() {
    use DataType::*;
    let mut types = vec![Int8, Int16, Int32, Int64, UInt8, UInt16, UInt32, UInt64, Float16, Float32, Float64];
    types.extend([Date32, Date64, Decimal32(9, 2), Decimal64(18, -3), Decimal128(38, 10), Decimal256(76, 5)]);
    types.extend([TimeUnit::Second, TimeUnit::Millisecond].map(Time32));
    types.extend([TimeUnit::Microsecond, TimeUnit::Nanosecond].map(Time64));
    for unit in [TimeUnit::Second, TimeUnit::Millisecond, TimeUnit::Microsecond, TimeUnit::Nanosecond] {
        types.extend([Duration(unit), Timestamp(unit, None), Timestamp(unit, Some("Europe/Berlin".into()))]);
    }
    types.extend([IntervalUnit::YearMonth, IntervalUnit::DayTime, IntervalUnit::MonthDayNano].map(Interval));
    assert_eq!(types.len(), 36);
    for data_type in types {
        there_and_back(&primitive(data_type));
    }
    there_and_back(&BooleanArray::from_iter((0..20).map(|at| (at % 7 != 2).then_some(at % 3 == 0))));
    there_and_back(&NullArray::new(9));
}

#[test]
fn strings_and_binary() {
    let words = vec![Some("eins"), None, Some(""), Some("vier und noch viel mehr"), Some("\u{1F980}")];
    let bytes: Vec<_> = words.iter().map(|word| word.map(str::as_bytes)).collect();
    there_and_back(&StringArray::from(words.clone()));
    there_and_back(&LargeStringArray::from(words.clone()));
    there_and_back(&StringViewArray::from(words.clone()));
    there_and_back(&BinaryArray::from(bytes.clone()));
    there_and_back(&LargeBinaryArray::from(bytes.clone()));
    there_and_back(&BinaryViewArray::from(bytes));
    there_and_back(&StringArray::from(Vec::<&str>::new()));
    let mut views = StringViewBuilder::new().with_fixed_block_size(32);
    for at in 0..20 {
        views.append_value(format!("a string of more than twelve bytes, the {at}th"));
    }
    there_and_back(&views.finish());
    let fixed: Vec<Option<[u8; 3]>> = vec![Some(*b"abc"), None, Some(*b"def")];
    there_and_back(&FixedSizeBinaryArray::try_from_sparse_iter_with_size(fixed.into_iter(), 3).unwrap());
    there_and_back(
        &FixedSizeBinaryArray::try_from_sparse_iter_with_size([Some(b""), None].into_iter(), 0).unwrap(),
    );
}

fn lists() -> ListArray {
    let lists = vec![Some(vec![Some(1), None]), None, Some(vec![]), Some(vec![Some(3), Some(4), Some(5)])];
    ListArray::from_iter_primitive::<Int32Type, _, _>(lists)
}

#[test]
fn nested_types() {
    there_and_back(&lists());
    let large = vec![Some(vec![Some(1.0)]), None, Some(vec![None, Some(2.0)])];
    there_and_back(&LargeListArray::from_iter_primitive::<Float64Type, _, _>(large.clone()));
    there_and_back(&FixedSizeListArray::from_iter_primitive::<Int16Type, _, _>(
        vec![Some(vec![Some(1), None]), None, Some(vec![Some(5), Some(6)])],
        2,
    ));
    let item = Arc::new(Field::new("item", DataType::Int32, true));
    there_and_back(&FixedSizeListArray::new(
        item.clone(),
        0,
        new_empty_array(&DataType::Int32),
        Some(vec![true, false].into()),
    ));
    let values: ArrayRef = Arc::new(Int32Array::from_iter_values(0..6));
    let (offsets, sizes) = (vec![4, 0, 2, 2], vec![2, 1, 0, 3]);
    there_and_back(&ListViewArray::new(
        item,
        offsets.into(),
        sizes.into(),
        values,
        Some(vec![true, true, false, true].into()),
    ));

    let fields = Fields::from(vec![
        Field::new("number", DataType::Int32, true),
        Field::new("lists", lists().data_type().clone(), true),
    ]);
    let columns: Vec<ArrayRef> =
        vec![Arc::new(Int32Array::from(vec![Some(1), None, Some(3), Some(4)])), Arc::new(lists())];
    let nulls = Some(NullBuffer::from(vec![true, true, false, true]));
    let structs = StructArray::new(fields, columns, nulls);
    there_and_back(&structs);
    let deep = Arc::new(Field::new("structs", structs.data_type().clone(), true));
    there_and_back(&ListArray::new(
        deep,
        OffsetBuffer::new(vec![0, 1, 1, 4].into()),
        Arc::new(structs),
        None,
    ));
    there_and_back(&StructArray::new_empty_fields(5, None));

    let mut maps = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    for keys in [vec!["a", "b"], vec![], vec!["c"]] {
        for key in &keys {
            maps.keys().append_value(key);
            maps.values().append_option((*key != "b").then_some(7));
        }
        maps.append(keys.len() != 1).unwrap();
    }
    there_and_back(&maps.finish());
}

#[test]
fn dictionaries_unions_and_runs() {
    let mut words = StringDictionaryBuilder::<Int16Type>::new();
    words.extend([Some("a"), Some("b"), None, Some("a")]);
    there_and_back(&words.finish());
    let runs = RunArray::<Int32Type>::from_iter([Some("a"), Some("a"), None, Some("b"), Some("b")]);
    there_and_back(&runs);

    let fields = UnionFields::try_new(
        [3, 5],
        [Field::new("number", DataType::Int32, true), Field::new("word", DataType::Utf8, true)],
    )
    .unwrap();
    let ids = ScalarBuffer::from(vec![3i8, 5, 3]);
    let numbers: ArrayRef = Arc::new(Int32Array::from(vec![1, 2, 3]));
    let words: ArrayRef = Arc::new(StringArray::from(vec!["x", "y", "z"]));
    let children = vec![numbers, words];
    there_and_back(&UnionArray::try_new(fields.clone(), ids.clone(), None, children.clone()).unwrap());
    let offsets = ScalarBuffer::from(vec![0i32, 2, 1]);
    there_and_back(&UnionArray::try_new(fields, ids, Some(offsets), children).unwrap());
}

#[test]
fn lists_of_lists_of_strings() {
    let mut outer = ListBuilder::new(ListBuilder::new(StringBuilder::new()));
    for length in [0, 3, 1] {
        for inner in 0..length {
            outer.values().values().append_value(format!("{length} {inner}"));
            outer.values().values().append_null();
            outer.values().append(true);
        }
        outer.append(length != 1);
    }
    there_and_back(&outer.finish());
}

#[test]
fn batches_with_their_metadata() {
    let metadata = HashMap::from([("unit".to_owned(), "m".to_owned()), (String::new(), "\u{e4}".to_owned())]);
    let field = Field::new("x", DataType::Int32, false).with_metadata(metadata.clone());
    let schema = Arc::new(Schema::new(vec![field]).with_metadata(metadata));
    let batch = RecordBatch::try_new(schema, vec![Arc::new(Int32Array::from(vec![1, 2, 3]))]).unwrap();
    for batch in [batch.clone(), batch.slice(1, 2), batch.slice(3, 0), batch.project(&[]).unwrap()] {
        let (mut array, schema) = c_data::export_batch(&batch).unwrap();
        // SAFETY: exported above, and alive until the end of this loop.
        let lent = unsafe { c_data::lend(array.as_mut_ptr(), schema.as_ptr()) }.unwrap();
        assert_eq!(lent.batch().unwrap(), batch);
    }
}

#[test]
fn exports_that_contradict_themselves_are_refused() {
    let column = Int32Array::from(vec![Some(1), None]);
    for field in [
        Field::new("x", DataType::Int64, true),
        Field::new("x", DataType::Int32, false),
        Field::new("x\0y", DataType::Int32, true),
    ] {
        let error = c_data::export(&column, &field).unwrap_err();
        assert_eq!(error.kind(), ringfold::ErrorKind::InvalidArgument);
    }
}

/// The element widths that have alignments, at every address modulo 16, with an offset.
#[test]
fn memory_of_any_alignment() {
    let calls = Calls::default();
    let formats: [(&[u8], usize); 7] =
        [(b"C", 1), (b"s", 2), (b"f", 4), (b"g", 8), (b"tin", 16), (b"d:38,2", 16), (b"d:76,2,256", 32)];
    for (format, width) in formats {
        let bytes: Vec<u8> = (0..5 * width).map(|at| at as u8 / 2).collect();
        let expected = &bytes[2 * width..];
        for off in 0..16 {
            let buffers = vec![Some((vec![0b10111], off)), Some((bytes.clone(), off))];
            let parts = Parts { length: 3, null_count: 1, offset: 2, buffers, ..Parts::default() };
            let mut array = array(parts, &calls);
            // SAFETY: made by hand, and alive until the end of this loop.
            let lent = unsafe { c_data::lend(array.as_mut_ptr(), schema(format, vec![]).as_ptr()) }.unwrap();
            assert!(lent.array.is_valid(0) && lent.array.is_null(1) && lent.array.is_valid(2));
            let data = lent.array.to_data();
            assert_eq!(&data.buffers()[0].as_slice()[data.offset() * width..][..3 * width], expected);
        }
    }
    // Offsets of strings.
    for off in 0..8 {
        let offsets = [0i32, 1, 3].iter().flat_map(|offset| offset.to_ne_bytes()).collect();
        let buffers = vec![None, Some((offsets, off)), Some((b"abc".to_vec(), off))];
        let mut array = array(Parts { length: 2, buffers, ..Parts::default() }, &calls);
        // SAFETY: as above.
        let lent = unsafe { c_data::lend(array.as_mut_ptr(), schema(b"u", vec![]).as_ptr()) }.unwrap();
        assert_eq!(lent.array.as_ref(), &StringArray::from(vec!["a", "bc"]) as &dyn Array);
    }
}

/// What other producers write, and the specification allows.
#[test]
fn liberties_of_producers() {
    let calls = Calls::default();
    let check = |format: &[u8], parts: Parts, expected: &dyn Array| {
        let mut array = array(parts, &calls);
        // SAFETY: made by hand, and alive until the end of this closure.
        let lent = unsafe { c_data::lend(array.as_mut_ptr(), schema(format, vec![]).as_ptr()) }.unwrap();
        assert_eq!(lent.array.as_ref(), expected);
    };
    // No element, no memory: not even one offset.
    let empty = || Parts { buffers: vec![None, None, None], ..Parts::default() };
    check(b"u", empty(), &StringArray::from(Vec::<&str>::new()));
    check(b"Z", empty(), &LargeBinaryArray::from(Vec::<&[u8]>::new()));
    check(
        b"f",
        Parts { buffers: vec![None, None], ..Parts::default() },
        &Float32Array::from(Vec::<f32>::new()),
    );
    // Nobody has counted, with a bitmap and without.
    let numbers = || Some((vec![1, 2, 3], 0));
    let uncounted =
        |bitmap| Parts { length: 3, null_count: -1, buffers: vec![bitmap, numbers()], ..Parts::default() };
    check(b"C", uncounted(None), &UInt8Array::from(vec![1, 2, 3]));
    check(b"C", uncounted(Some((vec![0b101], 0))), &UInt8Array::from(vec![Some(1), None, Some(3)]));
    // A bitmap, and no nulls.
    let full = Parts { length: 3, buffers: vec![Some((vec![0xff], 0)), numbers()], ..Parts::default() };
    check(b"C", full, &UInt8Array::from(vec![1, 2, 3]));
}

#[test]
fn the_top_becomes_nullable_where_it_has_nulls() {
    let column = Int32Array::from(vec![Some(1), None]);
    let (mut array, mut schema) = c_data::export(&column, &Field::new("x", DataType::Int32, true)).unwrap();
    // SAFETY: exported above; the flags are plain data.
    let lent = unsafe {
        (*schema.as_mut_ptr()).flags = 0;
        c_data::lend(array.as_mut_ptr(), schema.as_ptr())
    };
    assert!(lent.unwrap().field.is_nullable());
}
