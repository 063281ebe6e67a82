//! What is refused: with the right kind, at the right place, and with nothing changed.

use crate::hand::{Calls, Parts, array, bytes, floats, full_schema, i32s, schema};
use ringfold::ErrorKind::{self, InvalidArgument, Unsupported};
use ringfold::arrow::c_data::{self, ArrowArray, ArrowSchema, Exported, MAX_DEPTH, MAX_FIELDS};

/// The bytes of a structure.
fn image<T>(structure: &T) -> Vec<u8> {
    // SAFETY: the structures have no padding.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(structure).cast::<u8>(), size_of::<T>()) }.to_vec()
}

/// Tries to import, and looks at the refusal: its kind, its text, and that the structures are as they were.
#[track_caller]
fn refused(array: &mut Exported<ArrowArray>, schema: &Exported<ArrowSchema>, kind: ErrorKind, text: &str) {
    let (before, schema_before) = (image(&**array), image(&**schema));
    for _ in 0..2 {
        // SAFETY: made by hand, and alive until the end of the test; the lies are those that are looked at.
        let error = unsafe { c_data::import(array.as_mut_ptr(), schema.as_ptr()) }.unwrap_err();
        assert!(error.message().contains(text), "{error}");
        assert!(!error.message().contains("panicked"), "{error}");
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!((image(&**array), image(&**schema)), (before.clone(), schema_before.clone()), "{error}");
    }
}

/// A refusal of parts, whose callbacks are called once all the same, and not by the import.
#[track_caller]
fn refused_parts(parts: Parts, schema: &Exported<ArrowSchema>, text: &str) {
    let calls = Calls::default();
    let mut array = array(parts, &calls);
    refused(&mut array, schema, InvalidArgument, text);
    assert_eq!(calls.count(), 0);
    drop(array);
    assert_eq!(calls.count(), 1);
}

/// A refusal of a schema, whatever the array.
#[track_caller]
fn refused_schema(schema: Exported<ArrowSchema>, kind: ErrorKind, text: &str) {
    refused(&mut floats(&[1.0], &Calls::default()), &schema, kind, text);
    // SAFETY: as in `refused`.
    assert_eq!(unsafe { c_data::read_schema(schema.as_ptr()) }.unwrap_err().kind(), kind);
}

fn float() -> Exported<ArrowSchema> {
    schema(b"f", vec![])
}

fn child(values: &[f32]) -> Exported<ArrowArray> {
    floats(values, &Calls::default())
}

/// An array of one `f32`, changed.
#[track_caller]
fn refused_change(change: impl FnOnce(&mut ArrowArray), text: &str) {
    let mut array = child(&[1.0]);
    // SAFETY: plain data, of which the callback uses `private_data` alone.
    change(unsafe { &mut *array.as_mut_ptr() });
    refused(&mut array, &float(), InvalidArgument, text);
}

/// A schema of `f32`, changed.
#[track_caller]
fn refused_schema_change(change: impl FnOnce(&mut ArrowSchema), text: &str) {
    let mut schema = float();
    // SAFETY: as above.
    change(unsafe { &mut *schema.as_mut_ptr() });
    refused_schema(schema, InvalidArgument, text);
}

#[test]
fn structures_that_are_not_there() {
    let (mut array, schema) = (child(&[1.0]), float());
    // SAFETY: NULL and addresses that are no structure's are refused before anything is read.
    unsafe {
        let error = c_data::import(std::ptr::null_mut(), schema.as_ptr()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "invalid argument: array: NULL; to do: pass the address of a struct ArrowArray"
        );
        let error = c_data::import(array.as_mut_ptr(), std::ptr::null()).unwrap_err();
        assert!(error.message().contains("schema: NULL"), "{error}");
        let error = c_data::import(array.as_mut_ptr().byte_add(1), schema.as_ptr()).unwrap_err();
        assert!(error.message().contains("misaligned"), "{error}");
        let error = c_data::import(array.as_mut_ptr(), schema.as_ptr().byte_add(1)).unwrap_err();
        assert!(error.message().contains("misaligned"), "{error}");
    }
    assert!(array.release.is_some());
}

#[test]
fn structures_that_were_released() {
    let calls = Calls::default();
    let mut array = floats(&[1.0], &calls);
    // SAFETY: made by hand.
    let (imported, _) = unsafe { c_data::import(array.as_mut_ptr(), float().as_ptr()) }.unwrap();
    refused(&mut array, &float(), InvalidArgument, "array: it was released or moved");
    drop(imported);
    refused(&mut array, &float(), InvalidArgument, "array: it was released or moved");
    assert_eq!(calls.count(), 1);
    // A callback is put back, since nothing else frees the schema.
    let mut schema = float();
    let raw = schema.as_mut_ptr();
    // SAFETY: plain data.
    let release = unsafe { (*raw).release.take() };
    refused(&mut child(&[1.0]), &schema, InvalidArgument, "schema: it was released or moved");
    // SAFETY: plain data.
    unsafe { (*raw).release = release };
}

#[test]
fn children_that_were_moved_away() {
    let of_structs = schema(b"+s", vec![float()]);
    let mut moved = child(&[1.0]);
    // SAFETY: made by hand.
    drop(unsafe { c_data::import(moved.as_mut_ptr(), float().as_ptr()) }.unwrap());
    let parts = Parts { length: 1, buffers: vec![None], children: vec![moved], ..Parts::default() };
    refused_parts(parts, &of_structs, "array.children[0] (\"field\"): it was released or moved");
}

#[test]
fn lengths() {
    refused_change(|array| array.length = -1, "array: length is -1");
    refused_change(|array| array.length = i64::MIN, "array: length is -9223372036854775808");
    refused_change(|array| array.offset = -1, "array: offset is -1");
    refused_change(|array| array.null_count = -2, "array: null_count is -2 of 1 elements");
    refused_change(|array| array.null_count = 2, "array: null_count is 2 of 1 elements");
    refused_change(|array| (array.length, array.offset) = (i64::MAX, i64::MAX), "more than any memory holds");
    refused_change(|array| array.length = i64::MAX, "more than any memory holds");
    refused_change(|array| array.offset = 1 << 56, "more than any memory holds");
    // What an element is long counts too.
    let parts = Parts { length: 1 << 40, buffers: vec![None, Some((vec![0], 0))], ..Parts::default() };
    refused_parts(parts, &schema(b"w:2147483647", vec![]), "are more than any memory holds");
    // No address has so many bytes after it.
    let mut beyond = child(&[1.0]);
    // SAFETY: plain data; the pointer is not followed.
    unsafe {
        (*beyond.as_mut_ptr()).length = 1 << 40;
        *beyond.buffers.add(1) = std::ptr::without_provenance(usize::MAX - 63);
    }
    refused(&mut beyond, &float(), InvalidArgument, "buffers[1] cannot have 4398046511104 bytes");
}

#[test]
fn buffers() {
    refused_change(|array| array.n_buffers = -1, "array: Float32 has 2 buffers, and n_buffers is -1");
    refused_change(|array| array.n_buffers = 1, "n_buffers is 1");
    refused_change(|array| array.n_buffers = 3, "n_buffers is 3");
    refused_change(|array| array.n_buffers = i64::MAX, "n_buffers is 9223372036854775807");
    refused_change(|array| array.buffers = std::ptr::null_mut(), "n_buffers is 2, and buffers is NULL");
    refused_change(|array| array.null_count = 1, "there is no validity bitmap (buffers[0] is NULL)");
    let parts = Parts { length: 1, buffers: vec![None, None], ..Parts::default() };
    refused_parts(parts, &float(), "array: buffers[1] is NULL, and 4 bytes belong there");
    let parts = Parts { length: 9, buffers: vec![None, None], ..Parts::default() };
    refused_parts(parts, &schema(b"b", vec![]), "array: buffers[1] is NULL, and 2 bytes belong there");
    let parts = Parts { length: 1, buffers: vec![None, None, None], ..Parts::default() };
    refused_parts(parts, &schema(b"u", vec![]), "array: buffers[1] is NULL, and 8 bytes belong there");
    let parts = Parts { length: 1, buffers: vec![None, i32s(&[0, 3]), None], ..Parts::default() };
    refused_parts(parts, &schema(b"u", vec![]), "array: buffers[2] is NULL, and 3 bytes belong there");
    let parts = Parts { length: 1, buffers: vec![None], ..Parts::default() };
    refused_parts(parts, &schema(b"n", vec![]), "array: Null has 0 buffers, and n_buffers is 1");
}

#[test]
fn nulls_counted_wrong() {
    let parts = |null_count| Parts {
        length: 3,
        null_count,
        buffers: vec![Some((vec![0b101], 0)), Some((vec![1, 2, 3], 0))],
        ..Parts::default()
    };
    for wrong in [2, 3] {
        let text = format!("null_count is {wrong}, and the validity bitmap has 1 nulls");
        refused_parts(parts(wrong), &schema(b"C", vec![]), &text);
    }
}

#[test]
fn children() {
    let of_structs = || schema(b"+s", vec![float(), float()]);
    let parts = |children| Parts { length: 2, buffers: vec![None], children, ..Parts::default() };
    let one = || child(&[1.0, 2.0]);
    refused_parts(parts(vec![one()]), &of_structs(), "has 2 children, and the array's n_children is 1");
    refused_parts(parts(vec![one(), one(), one()]), &of_structs(), "the array's n_children is 3");
    refused_change(|array| array.n_children = 1, "has 0 children, and the array's n_children is 1");
    refused_change(|array| array.n_children = -1, "the array's n_children is -1");
    let short = vec![one(), child(&[1.0])];
    let text = "array.children[1] (\"field\"): it has 1 elements, too few for 2 of Struct";
    refused_parts(parts(short), &of_structs(), text);
    let offset = Parts { offset: 1, ..parts(vec![one(), one()]) };
    refused_parts(offset, &of_structs(), "array.children[0] (\"field\"): it has 2 elements");
    for level in 0..2 {
        let mut array = array(parts(vec![one(), one()]), &Calls::default());
        // SAFETY: plain data; the callback has its own copy of the pointers.
        unsafe {
            let children = Box::leak(Box::new([*array.children, std::ptr::null_mut()])).as_mut_ptr();
            (*array.as_mut_ptr()).children = if level == 0 { std::ptr::null_mut() } else { children };
            let text =
                ["n_children is 2, and children is NULL", "array.children[1] (\"field\"): NULL"][level];
            refused(&mut array, &of_structs(), InvalidArgument, text);
            drop(Box::from_raw(children.cast::<[*mut ArrowArray; 2]>()));
        }
    }
}

#[test]
fn lists() {
    let of_lists = || schema(b"+l", vec![float()]);
    let parts = |offsets: &[i32]| Parts {
        length: offsets.len() as i64 - 1,
        buffers: vec![None, i32s(offsets)],
        children: vec![child(&[1.0, 2.0, 3.0])],
        ..Parts::default()
    };
    refused_parts(parts(&[0, -1, 2]), &of_lists(), "array: Offset invariant failure");
    refused_parts(parts(&[0, 2, 1, 3]), &of_lists(), "non-monotonic offset");
    refused_parts(parts(&[0, 2, 4]), &of_lists(), "out of bounds: 4 > 3");
    refused_parts(parts(&[-4, 2, 3]), &of_lists(), "array: the first offset is -4");
    refused_parts(parts(&[4, 2, 3]), &of_lists(), "array: the first offset is 4, and there are 3 elements");
    refused_parts(parts(&[3, 2, 3]), &of_lists(), "non-monotonic offset");
    let none = Parts { length: 0, offset: 1, ..parts(&[0, -7]) };
    refused_parts(none, &of_lists(), "array: the first offset is -7");
    let large = Parts { buffers: vec![None, bytes(&[0, i64::MAX], i64::to_ne_bytes)], ..parts(&[0, 0]) };
    refused_parts(large, &schema(b"+L", vec![float()]), "out of bounds");

    let fixed = Parts { buffers: vec![None], ..parts(&[0, 0, 0]) };
    refused_parts(
        fixed,
        &schema(b"+w:2", vec![float()]),
        "array.children[0] (\"field\"): it has 3 elements, too few for 2 of",
    );
    let huge = Parts { buffers: vec![None], length: 1 << 50, ..parts(&[0, 0, 0]) };
    refused_parts(huge, &schema(b"+w:2147483647", vec![float()]), "too few");

    let views = |offsets: &[i32], sizes: &[i32]| Parts {
        buffers: vec![None, i32s(offsets), i32s(sizes)],
        ..parts(&[0, 0])
    };
    let of_views = || schema(b"+vl", vec![float()]);
    refused_parts(
        views(&[1], &[3]),
        &of_views(),
        "array: list 0 has 3 elements from 1 on, and its child has 3",
    );
    refused_parts(views(&[-1], &[1]), &of_views(), "list 0 has 1 elements from -1 on");
    refused_parts(views(&[1], &[-1]), &of_views(), "list 0 has -1 elements from 1 on");
    let most = bytes(&[i64::MAX], i64::to_ne_bytes);
    let large = Parts { buffers: vec![None, most.clone(), most], ..parts(&[0, 0]) };
    refused_parts(large, &schema(b"+vL", vec![float()]), "list 0 has 9223372036854775807 elements");
}

#[test]
fn strings() {
    let parts = |offsets: &[i32], text: &[u8]| Parts {
        length: offsets.len() as i64 - 1,
        buffers: vec![None, i32s(offsets), Some((text.to_vec(), 0))],
        ..Parts::default()
    };
    let of_strings = || schema(b"u", vec![]);
    refused_parts(parts(&[0, 1, -5], b"abc"), &of_strings(), "array: the last offset is -5");
    refused_parts(parts(&[0, 9, 3], b"abc"), &of_strings(), "array: Offset invariant failure");
    refused_parts(parts(&[0, 2, 1, 3], b"abc"), &of_strings(), "non-monotonic offset");
    refused_parts(parts(&[-1, 2, 3], b"abc"), &of_strings(), "array: the first offset is -1");
    refused_parts(parts(&[9, 3, 3], b"abc"), &of_strings(), "array: the first offset is 9");
    refused_parts(
        parts(&[0, 1, 3], b"a\xff\xfe"),
        &of_strings(),
        "array: Invalid UTF8 sequence at string index 1",
    );
    refused_parts(parts(&[0, 1, 2], "\u{e4}".as_bytes()), &of_strings(), "incomplete utf-8 byte sequence");
    refused_parts(parts(&[0, 2, 1, 3], b"abc"), &schema(b"z", vec![]), "non-monotonic offset");
    let large = bytes(&[0, i64::MIN], i64::to_ne_bytes);
    let large = Parts { buffers: vec![None, large, None], ..parts(&[0, 0], b"") };
    refused_parts(large, &schema(b"U", vec![]), "the last offset is -9223372036854775808");
}

#[test]
fn views() {
    let view = |length: u32, index: u32, offset: u32| {
        let mut view = length.to_ne_bytes().to_vec();
        view.extend(b"abcd");
        view.extend(index.to_ne_bytes());
        view.extend(offset.to_ne_bytes());
        Some((view, 0))
    };
    let data = || Some((b"abcdefghijklmnopqrst".to_vec(), 0));
    let parts = |view, length: i64| Parts {
        length: 1,
        buffers: vec![None, view, data(), bytes(&[length], i64::to_ne_bytes)],
        ..Parts::default()
    };
    let of_views = || schema(b"vu", vec![]);
    refused_parts(parts(view(20, 1, 0), 20), &of_views(), "Invalid buffer index");
    refused_parts(parts(view(20, 0, 1), 20), &of_views(), "Invalid buffer slice");
    refused_parts(parts(view(u32::MAX, 0, u32::MAX), 20), &of_views(), "Invalid buffer slice");
    refused_parts(parts(view(15, 0, 0), -20), &of_views(), "array: the length of buffers[2] is -20");
    refused_parts(parts(view(4, 0, 1), 20), &of_views(), "non-zero padding");
    refused_parts(parts(view(15, 0, 3), 20), &of_views(), "Mismatch between embedded prefix and data");
    let none = Parts { length: 1, buffers: vec![None, view(1, 0, 0)], ..Parts::default() };
    refused_parts(none, &of_views(), "has at least 3 buffers, and n_buffers is 2");
    let lengths = Parts { length: 1, buffers: vec![None, view(15, 0, 0), data(), None], ..Parts::default() };
    refused_parts(lengths, &of_views(), "buffers[3] is NULL");
    let mut many = array(parts(view(15, 0, 0), 20), &Calls::default());
    // SAFETY: plain data.
    unsafe { (*many.as_mut_ptr()).n_buffers = i64::MAX };
    refused(&mut many, &of_views(), Unsupported, "more than 1048576 buffers of views");
}

#[test]
fn dictionaries() {
    let of_words = |format: &[u8]| full_schema(format, vec![], Some(float()), Vec::new());
    let parts = |keys: &[i32], dictionary| Parts {
        length: keys.len() as i64,
        buffers: vec![None, i32s(keys)],
        dictionary,
        ..Parts::default()
    };
    let words = || Some(child(&[0.5, 1.5]));
    refused_parts(parts(&[0, 1, 2], words()), &of_words(b"i"), "Value at position 2 out of bounds: 2");
    refused_parts(parts(&[0, -1], words()), &of_words(b"i"), "Value at position 1 out of bounds: -1");
    refused_parts(parts(&[0], Some(child(&[]))), &of_words(b"i"), "Value at position 0 out of bounds");
    refused_parts(parts(&[0], None), &of_words(b"i"), "the schema has a dictionary, and the array's is NULL");
    refused_parts(
        parts(&[0], words()),
        &schema(b"i", vec![]),
        "the array has a dictionary, and the schema says Int32",
    );
    let mut broken = child(&[0.5]);
    // SAFETY: plain data.
    unsafe { (*broken.as_mut_ptr()).length = -3 };
    refused_parts(parts(&[0], Some(broken)), &of_words(b"i"), "array.dictionary: length is -3");
    for format in [b"f".as_slice(), b"u", b"b", b"n", b"+s"] {
        refused_schema(of_words(format), InvalidArgument, "schema: a dictionary's keys cannot be");
    }
}

#[test]
fn unions_and_runs() {
    let parts = |ids: &[i8], offsets: Option<&[i32]>| Parts {
        length: ids.len() as i64,
        buffers: [bytes(ids, i8::to_ne_bytes)].into_iter().chain(offsets.map(i32s)).collect(),
        children: vec![child(&[1.0, 2.0]), child(&[3.0, 4.0])],
        ..Parts::default()
    };
    let union = |format: &[u8]| schema(format, vec![float(), float()]);
    refused_parts(parts(&[0, 2], None), &union(b"+us:0,1"), "Type id values must match");
    refused_parts(parts(&[0, -1], None), &union(b"+us:0,1"), "Type id values cannot be negative");
    refused_parts(parts(&[0, 1, 0], None), &union(b"+us:0,1"), "too few for 3 of Union");
    refused_parts(
        parts(&[0, 1], Some(&[0, 2])),
        &union(b"+ud:0,1"),
        "Offsets must be non-negative and within",
    );
    refused_parts(
        parts(&[0, 1], Some(&[0, -1])),
        &union(b"+ud:0,1"),
        "Offsets must be non-negative and within",
    );
    for wrong in
        [b"+us:".as_slice(), b"+us:a,b", b"+us:1,128", b"+us:0,0", b"+us:0,-1", b"+ud:0,1,2", b"+us:0"]
    {
        refused_schema(union(wrong), InvalidArgument, "schema: ");
    }

    let runs = |ends: &[i32], length| {
        let ends = Parts { length: ends.len() as i64, buffers: vec![None, i32s(ends)], ..Parts::default() };
        let children = vec![array(ends, &Calls::default()), child(&[1.0, 2.0])];
        Parts { length, children, ..Parts::default() }
    };
    let of_runs = || schema(b"+r", vec![schema(b"i", vec![]), float()]);
    refused_parts(runs(&[2, 2], 2), &of_runs(), "strictly increasing");
    refused_parts(runs(&[0, 2], 2), &of_runs(), "strictly positive");
    refused_parts(runs(&[1, 2], 3), &of_runs(), "less or equal to last value in the run_ends");
    refused_parts(runs(&[1], 1), &of_runs(), "there are 1 run ends and 2 values");
    refused_schema(schema(b"+r", vec![float(), float()]), InvalidArgument, "run ends cannot be Float32");
    let mut null = runs(&[1, 2], 2);
    let ends = Parts {
        length: 2,
        null_count: -1,
        buffers: vec![Some((vec![1], 0)), i32s(&[1, 2])],
        ..Parts::default()
    };
    null.children[0] = array(ends, &Calls::default());
    refused_parts(null, &of_runs(), "run ends are null");
}

#[test]
fn nulls_where_the_schema_has_none() {
    let without = || {
        let mut field = float();
        // SAFETY: plain data.
        unsafe { (*field.as_mut_ptr()).flags = 0 };
        field
    };
    let with = |validity: u8| {
        let buffers = vec![Some((vec![validity], 0)), bytes(&[1.0, 2.0], f32::to_ne_bytes)];
        array(Parts { length: 2, null_count: -1, buffers, ..Parts::default() }, &Calls::default())
    };
    let text = "array.children[0] (\"field\"): it has nulls, and the schema says that it has none";
    let structs = |parent: Option<u8>| Parts {
        length: 2,
        null_count: -1,
        buffers: vec![parent.map(|bits| (vec![bits], 0))],
        children: vec![with(0b01)],
        ..Parts::default()
    };
    refused_parts(structs(None), &schema(b"+s", vec![without()]), text);
    refused_parts(structs(Some(0b10)), &schema(b"+s", vec![without()]), text);
    // SAFETY: made by hand. Where the struct is null itself so may its children be.
    unsafe {
        let mut hidden = array(structs(Some(0b01)), &Calls::default());
        c_data::import(hidden.as_mut_ptr(), schema(b"+s", vec![without()]).as_ptr()).unwrap();
    }
    let fixed = Parts { length: 1, ..structs(None) };
    refused_parts(fixed, &schema(b"+w:2", vec![without()]), text);
    let lists = Parts { length: 1, buffers: vec![None, i32s(&[0, 2])], ..structs(None) };
    refused_parts(lists, &schema(b"+l", vec![without()]), text);
    // Keys of maps have none, whatever the schema says.
    let entries =
        Parts { length: 2, buffers: vec![None], children: vec![with(0b01), with(0b11)], ..Parts::default() };
    let entries = array(entries, &Calls::default());
    let maps =
        Parts { length: 1, buffers: vec![None, i32s(&[0, 2])], children: vec![entries], ..Parts::default() };
    let of_maps = schema(b"+m", vec![schema(b"+s", vec![float(), float()])]);
    refused_parts(maps, &of_maps, "array.children[0] (\"field\").children[0] (\"field\"): it has nulls");
}

#[test]
fn format_strings() {
    for unknown in [
        "", "x", "ff", "f ", "+", "+x", "+l:3", "+s:", "+w", "+us", "tsx:", "tdx", "vz:", "\u{e4}", "ttt",
        "+vx",
    ] {
        let children = if unknown.starts_with("+l") { vec![float()] } else { vec![] };
        refused_schema(schema(unknown.as_bytes(), children), Unsupported, "is not known");
    }
    for size in ["-1", "99999999999", "", " 1", "1x", "2147483648", "0x10"] {
        let format = format!("w:{size}");
        refused_schema(schema(format.as_bytes(), vec![]), InvalidArgument, &format!("schema: \"{format}\""));
        let format = format!("+w:{size}");
        refused_schema(
            schema(format.as_bytes(), vec![float()]),
            InvalidArgument,
            "has no size from 0 to 2147483647",
        );
    }
    for decimal in
        ["0,0", "39,2", "5,6", "256,0", "3", "3,200", "10,2,32", "19,0,64", "77,0,256", "3,2,17", "3,2,1,1"]
    {
        let format = format!("d:{decimal}");
        refused_schema(schema(format.as_bytes(), vec![]), InvalidArgument, &format!("schema: \"{format}\""));
    }
    refused_schema(
        schema(b"f\xff", vec![]),
        InvalidArgument,
        "schema: the format string is no UTF-8: \"f\\xff\"",
    );
    refused_schema(
        schema(&[b'f'; 5000], vec![]),
        InvalidArgument,
        "the format string has more than 4096 bytes",
    );
    refused_schema_change(|schema| schema.format = std::ptr::null(), "schema: the format string is NULL");
    refused_schema_change(|schema| schema.name = c"\xff".as_ptr(), "schema: the name is no UTF-8");
    // Long texts are cut in messages.
    let error = c_data::import;
    let long = schema(&[b'q'; 4000], vec![]);
    // SAFETY: made by hand.
    let error = unsafe { error(child(&[1.0]).as_mut_ptr(), long.as_ptr()) }.unwrap_err();
    assert!(error.to_string().len() < 300, "{error}");
}

#[test]
fn children_of_schemas() {
    refused_schema_change(|schema| schema.n_children = -1, "schema: n_children is -1");
    let none = |schema: &mut ArrowSchema| (schema.n_children, schema.children) = (1, std::ptr::null_mut());
    refused_schema_change(none, "n_children is 1, and children is NULL");
    refused_schema(schema(b"f", vec![float()]), InvalidArgument, "\"f\" has 0 children, and n_children is 1");
    for (format, wanted) in [("+l", 1), ("+L", 1), ("+vl", 1), ("+vL", 1), ("+m", 1), ("+w:3", 1), ("+r", 2)]
    {
        for found in [0, 3] {
            let children = (0..found).map(|_| float()).collect();
            let text = format!("schema: \"{format}\" has {wanted} children, and n_children is {found}");
            refused_schema(schema(format.as_bytes(), children), InvalidArgument, &text);
        }
    }
    refused_schema(
        schema(b"+m", vec![float()]),
        InvalidArgument,
        "a map's entries are a struct, not Float32",
    );
    let three = schema(b"+s", vec![float(), float(), float()]);
    refused_schema(schema(b"+m", vec![three]), InvalidArgument, "a key and a value, not 3 fields");
    let inner = schema(b"+s", vec![float(), schema(b"?", vec![])]);
    refused_schema(
        schema(b"+l", vec![inner]),
        Unsupported,
        "schema.children[0].children[1]: the format \"?\" is not known",
    );
    let of_words = full_schema(b"i", vec![], Some(schema(b"?", vec![])), Vec::new());
    refused_schema(of_words, Unsupported, "schema.dictionary: the format \"?\"");

    let mut null = schema(b"+s", vec![float(), float()]);
    // SAFETY: plain data; the callback has its own pointers, and is not called.
    unsafe {
        let mut children = [*null.children, std::ptr::null_mut()];
        (*null.as_mut_ptr()).children = children.as_mut_ptr();
        refused(&mut child(&[1.0]), &null, InvalidArgument, "schema.children[1]: NULL");
    }
}

#[test]
fn depth_and_breadth() {
    let nested = |depth: usize| (1..depth).fold(float(), |inner, _| schema(b"+l", vec![inner]));
    // SAFETY: made by hand.
    let deepest = unsafe { c_data::read_schema(nested(MAX_DEPTH).as_ptr()) };
    assert!(deepest.is_ok());
    refused_schema(nested(MAX_DEPTH + 1), Unsupported, "types are nested more than 64 deep");
    let words = (0..MAX_DEPTH).fold(float(), |inner, _| full_schema(b"i", vec![], Some(inner), Vec::new()));
    refused_schema(words, Unsupported, "types are nested more than 64 deep");

    // A schema that is its own children would be 2 to the 64 fields.
    let mut own = schema(b"+s", vec![float(), float()]);
    let raw = own.as_mut_ptr();
    let mut children = [raw, raw];
    // SAFETY: plain data; the callback has its own pointers.
    unsafe { (*raw).children = children.as_mut_ptr() };
    refused(&mut child(&[1.0]), &own, Unsupported, "nested more than 64 deep");
    // And with an end before that depth, 2 to the 40.
    let mut levels: Vec<Box<Exported<ArrowSchema>>> = vec![Box::new(float())];
    let mut pairs = Vec::new();
    for level in 0..40 {
        let below = levels[level].as_mut_ptr();
        pairs.push(Box::new([below, below]));
        let mut above = schema(b"+s", vec![float(), float()]);
        // SAFETY: as above.
        unsafe { (*above.as_mut_ptr()).children = pairs[level].as_mut_ptr() };
        levels.push(Box::new(above));
    }
    let text = format!("the schema has more than {MAX_FIELDS} fields");
    refused(&mut child(&[1.0]), levels.last().unwrap(), Unsupported, &text);
    let mut many = schema(b"+s", vec![float()]);
    // SAFETY: plain data.
    unsafe { (*many.as_mut_ptr()).n_children = i64::MAX };
    refused(&mut child(&[1.0]), &many, Unsupported, &text);
}

#[test]
fn metadata() {
    let pair = |counts: [i32; 3]| {
        let [pairs, key, value] = counts.map(i32::to_ne_bytes);
        [&pairs[..], &key, b"k", &value, b"v"].concat()
    };
    let with = |metadata| full_schema(b"f", vec![], None, metadata);
    // SAFETY: made by hand.
    let field = unsafe { c_data::read_schema(with(pair([1, 1, 1])).as_ptr()) }.unwrap();
    assert_eq!(field.metadata()["k"], "v");
    refused_schema(with(pair([-1, 1, 1])), InvalidArgument, "the metadata's number of pairs is -1");
    refused_schema(with(pair([1, -1, 1])), InvalidArgument, "the metadata's length of a key is -1");
    refused_schema(with(pair([1, 1, -7])), InvalidArgument, "the metadata's length of a value is -7");
    refused_schema(with(pair([1, i32::MAX, 1])), Unsupported, "more than 268435456 bytes of metadata");
    let mut binary = pair([1, 1, 1]);
    *binary.last_mut().unwrap() = 0xff;
    refused_schema(with(binary), Unsupported, "the metadata is no UTF-8");
}

#[test]
fn what_is_no_batch() {
    let lend = |parts, schema: Exported<ArrowSchema>| {
        let mut array = array(parts, &Calls::default());
        // SAFETY: made by hand.
        let (imported, field) = unsafe { c_data::import(array.as_mut_ptr(), schema.as_ptr()) }.unwrap();
        c_data::to_batch(&imported, &field).unwrap_err()
    };
    let values = || bytes(&[1.0, 2.0], f32::to_ne_bytes);
    let error = lend(Parts { length: 2, buffers: vec![None, values()], ..Parts::default() }, float());
    assert!(error.message().contains("an array of Float32 is no record batch"), "{error}");
    let nulls = Some((vec![0b01], 0));
    let children = vec![child(&[1.0, 2.0])];
    let parts = Parts { length: 2, null_count: 1, buffers: vec![nulls], children, ..Parts::default() };
    let error = lend(parts, schema(b"+s", vec![float()]));
    assert!(error.message().contains("1 rows of the record batch are null as a whole"), "{error}");
}
