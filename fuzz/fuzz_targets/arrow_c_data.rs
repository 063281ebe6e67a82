//! Arrow's C structures that somebody else filled: importing them neither panics nor reads what is not there, and what comes in is
//! sound.
//!
//! The bytes choose a tree of types, and for each array lengths, counts, pointers and what lies in the buffers, honest or not. Behind
//! every pointer that is not NULL there is as much memory as the lengths claim, except where the claim is larger than any
//! memory: what the importer cannot look at is true, and everything else may be a lie.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringfold::arrow::c_data::{
    ArrowArray, ArrowSchema, Exported, MAX_DEPTH, Structure, export, import, read_schema, to_batch,
};
use ringfold::arrow::schema::DataType;
use std::cell::Cell;
use std::ffi::{CString, c_void};
use std::fmt::Write;

thread_local! {
    static RELEASED: Cell<usize> = const { Cell::new(0) };
}

/// The bytes, taken from the front; zeros at the end.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end
    }

    /// One time in sixteen, if there are bytes.
    fn seldom(&mut self) -> bool {
        self.byte() & 15 == 15
    }

    fn wild(&mut self) -> i64 {
        let near = i64::from(self.byte() as i8);
        match self.byte() % 8 {
            0 => near,
            1 => i64::MAX - near.abs(),
            2 => i64::MIN + near.abs(),
            3 => i64::from(i32::MAX) + near,
            4 => (1 << 56) + near,
            5 => i64::MAX / 8 + near,
            6 => near << 32,
            _ => i64::from_le_bytes(std::array::from_fn(|_| self.byte())),
        }
    }
}

/// Takes so many bytes of text, and no more: what nested arrays print grows by a factor with every level.
struct Room(usize);

impl Write for Room {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0 = self.0.checked_sub(text.len()).ok_or(std::fmt::Error)?;
        Ok(())
    }
}

const FORMATS: &[&str] = &[
    "n",
    "b",
    "c",
    "C",
    "s",
    "S",
    "i",
    "I",
    "l",
    "L",
    "e",
    "f",
    "g",
    "z",
    "Z",
    "u",
    "U",
    "vz",
    "vu",
    "tdD",
    "tdm",
    "tts",
    "ttn",
    "tss:",
    "tsn:UTC",
    "tDs",
    "tiM",
    "tiD",
    "tin",
    "d:9,2,32",
    "d:18,1,64",
    "d:38,3",
    "d:76,3,256",
    "w:0",
    "w:3",
    "w:16",
    "+s",
    "+s",
    "+s",
    "+l",
    "+l",
    "+L",
    "+vl",
    "+vL",
    "+m",
    "+r",
    "+w:0",
    "+w:1",
    "+w:3",
    "+w:2147483647",
    "+us:0,1",
    "+us:5",
    "+ud:0,1",
    "+ud:3,127",
    "w:-1",
    "+w:-1",
    "w:99999999999",
    "d:77,0",
    "+us:",
    "+ud:0,0",
    "i",
    "C",
    "s",
];

/// What a format asks for: bits an element (0 where there is no such buffer), whether there are offsets and of how many bytes, and
/// whether the first buffer is the validity.
struct Shape {
    validity: bool,
    /// Bits of an element of each buffer after the validity; offsets have one element more.
    bits: Vec<usize>,
    offsets: usize,
    data: bool,
    views: bool,
}

fn shape(format: &str) -> Shape {
    let plain = |bits| Shape { validity: true, bits: vec![bits], offsets: 0, data: false, views: false };
    let offsets = |bytes: usize, data| Shape { offsets: bytes, data, ..plain(8 * bytes) };
    match format {
        "n" | "+r" => Shape { validity: false, bits: vec![], ..plain(0) },
        "b" => plain(1),
        "c" | "C" => plain(8),
        "s" | "S" | "e" => plain(16),
        "i" | "I" | "f" | "tdD" | "tts" | "ttm" | "tiM" => plain(32),
        "tin" => plain(128),
        "z" | "u" => offsets(4, true),
        "Z" | "U" => offsets(8, true),
        "+l" | "+m" => offsets(4, false),
        "+L" => offsets(8, false),
        "+vl" => Shape { bits: vec![32, 32], ..plain(0) },
        "+vL" => Shape { bits: vec![64, 64], ..plain(0) },
        "vz" | "vu" => Shape { views: true, ..plain(128) },
        _ if format.starts_with("+us") => Shape { validity: false, ..plain(8) },
        _ if format.starts_with("+ud") => Shape { validity: false, bits: vec![8, 32], ..plain(0) },
        _ if format.starts_with('+') => Shape { bits: vec![], ..plain(0) },
        _ if format.starts_with("d:") => match format.rsplit(',').next() {
            Some("32") => plain(32),
            Some("64") => plain(64),
            Some("256") => plain(256),
            _ => plain(128),
        },
        _ => match format.strip_prefix("w:").map(str::parse::<usize>) {
            Some(Ok(size)) => plain(size.saturating_mul(8)),
            _ => plain(64),
        },
    }
}

struct PrivateSchema {
    _texts: Vec<CString>,
    _metadata: Vec<u8>,
    children: Vec<*mut ArrowSchema>,
    dictionary: *mut ArrowSchema,
}

unsafe extern "C" fn release_schema(schema: *mut ArrowSchema) {
    // SAFETY: a schema that `schema` made.
    unsafe {
        let private = Box::from_raw((*schema).private_data.cast::<PrivateSchema>());
        for child in private.children.into_iter().chain([private.dictionary]).filter(|child| !child.is_null())
        {
            // Children may have been marked as released by a lie: their memory goes all the same.
            let mut child = Box::from_raw(child);
            child.release = Some(release_schema);
            child.release();
        }
        (*schema).release = None;
    }
}

struct PrivateArray {
    buffers: Vec<*const c_void>,
    _memory: Vec<Vec<u8>>,
    children: Vec<*mut ArrowArray>,
    dictionary: *mut ArrowArray,
}

unsafe extern "C" fn release_array(array: *mut ArrowArray) {
    RELEASED.set(RELEASED.get() + 1);
    // SAFETY: an array that `array` made.
    unsafe { free_array(&mut *array) };
}

unsafe fn free_array(array: &mut ArrowArray) {
    // SAFETY: as above.
    unsafe {
        let private = Box::from_raw(array.private_data.cast::<PrivateArray>());
        for child in private.children.into_iter().chain([private.dictionary]).filter(|child| !child.is_null())
        {
            free_array(&mut Box::from_raw(child));
        }
    }
    array.release = None;
}

/// A schema and the array that goes with it, more or less.
fn tree(bytes: &mut Bytes, depth: usize, left: &mut usize, need: i64) -> (ArrowSchema, ArrowArray) {
    *left = left.saturating_sub(1);
    let leaf = depth >= MAX_DEPTH + 2 || *left == 0;
    let content = |bytes: &mut Bytes, size: usize| -> Vec<u8> { (0..size).map(|_| bytes.byte()).collect() };
    let mut format = match bytes.below(FORMATS.len()) {
        nested if leaf && FORMATS[nested].starts_with('+') => b"f".to_vec(),
        other => FORMATS[other].as_bytes().to_vec(),
    };
    if bytes.seldom() {
        let size = bytes.below(12);
        format = content(bytes, size);
        format.retain(|byte| *byte != 0);
    }
    let text = String::from_utf8_lossy(&format).into_owned();
    let text = text.as_str();
    let shape = shape(text);

    // Lengths: what the parent needs, or more, or anything.
    let few = i64::from(bytes.byte() % 8);
    let (mut length, mut offset) = (need.max(few), 0);
    if bytes.byte() & 3 == 3 {
        offset = i64::from(bytes.byte() % 8);
    }
    if bytes.seldom() {
        length = bytes.wild();
    }
    if bytes.seldom() {
        offset = bytes.wild();
    }
    let null_count = match bytes.byte() % 8 {
        0..4 => 0,
        4..7 => -1,
        _ => bytes.wild(),
    };
    let total = length.checked_add(offset).filter(|_| length >= 0 && offset >= 0);
    let backed = total.filter(|total| *total <= 512);
    // Larger than what is refused in any case, smaller than memory: then there is no buffer.
    let elements = backed.unwrap_or(0) as usize;

    let count = match text {
        _ if leaf => 0,
        "+s" => bytes.below(4),
        "+l" | "+L" | "+vl" | "+vL" | "+m" => 1,
        "+r" => 2,
        _ if text.starts_with("+w") => 1,
        _ if text.starts_with("+u") => text.split(',').count(),
        _ => 0,
    };
    let child_need = match text {
        "+w:3" => elements as i64 * 3,
        "+w:0" | "+w:2147483647" | "+r" => 0,
        _ => elements as i64,
    };
    let (mut schemas, mut arrays) = (Vec::new(), Vec::new());
    let mut add = |bytes: &mut Bytes, left: &mut usize| {
        let (schema, array) = tree(bytes, depth + 1, left, child_need);
        schemas.push(Box::into_raw(Box::new(schema)));
        arrays.push(Box::into_raw(Box::new(array)));
    };
    for _ in 0..count {
        add(bytes, left);
    }
    let pair = (!leaf && bytes.seldom()).then(|| tree(bytes, depth + 1, left, 0));
    let (mut dictionary, mut dictionary_schema) = (std::ptr::null_mut(), std::ptr::null_mut());
    if let Some((schema, array)) = pair {
        dictionary_schema = Box::into_raw(Box::new(schema));
        dictionary = Box::into_raw(Box::new(array));
    }

    // Buffers, as large as the lengths claim, at any alignment.
    let mut memory: Vec<Vec<u8>> = Vec::new();
    let mut buffers: Vec<*const c_void> = Vec::new();
    let mut place = |bytes: &mut Bytes, content: Vec<u8>| -> *const c_void {
        let seldom = bytes.seldom();
        if backed.is_none() || seldom && bytes.byte() & 1 == 0 {
            return std::ptr::null();
        }
        let off = if seldom { bytes.below(16) } else { 0 };
        let mut moved = vec![0xaa; content.len() + off + 32];
        let begin = moved.as_ptr().align_offset(32).min(31) + off;
        let end = begin + content.len();
        moved.resize(end.max(1), 0);
        moved[begin..end].copy_from_slice(&content);
        // Not a byte more than is claimed, so that a sanitizer sees one too many.
        moved.truncate(end.max(1));
        let moved = moved.into_boxed_slice().into_vec();
        let begin =
            if moved.is_empty() { std::ptr::null() } else { moved[begin.min(moved.len())..].as_ptr() };
        memory.push(moved);
        begin.cast()
    };
    if shape.validity {
        let bits = content(bytes, elements.div_ceil(8));
        buffers.push(if bytes.byte() & 1 == 0 { std::ptr::null() } else { place(bytes, bits) });
    }
    let mut data = 0;
    for (at, bits) in shape.bits.iter().enumerate() {
        // Elements too long to have memory here have none.
        if *bits > 512 {
            buffers.push(std::ptr::null());
            continue;
        }
        let mut values = match (shape.offsets, at) {
            (width @ 1.., 0) => {
                // Offsets that climb, mostly.
                let mut last = 0i64;
                let mut offsets = Vec::new();
                for _ in 0..=elements {
                    last += i64::from(bytes.byte() % 4);
                    let lie = bytes.byte() == 255;
                    let offset = if lie { bytes.wild() } else { last };
                    offsets.extend_from_slice(&offset.to_le_bytes()[..width]);
                }
                let end = &offsets[elements * width..];
                data = match width {
                    4 => i64::from(i32::from_le_bytes(end.try_into().unwrap())),
                    _ => i64::from_le_bytes(end.try_into().unwrap()),
                };
                offsets
            }
            _ => content(bytes, (elements * bits).div_ceil(8)),
        };
        // Small numbers for keys, type ids, offsets and sizes of views: only the low byte of each, three times in four.
        if shape.offsets == 0 && bytes.byte() & 3 != 0 {
            let width = (bits / 8).max(1);
            for (index, byte) in values.iter_mut().enumerate() {
                *byte = if index % width == 0 { *byte % 4 } else { 0 };
            }
        }
        buffers.push(place(bytes, values));
    }
    if shape.data {
        // More than is there cannot be claimed but by NULL.
        let honest = usize::try_from(data).ok().filter(|data| *data <= 1 << 16);
        let text = honest.map(|size| content(bytes, size));
        buffers.push(text.map_or(std::ptr::null(), |text| place(bytes, text)));
    }
    if shape.views {
        let mut lengths = Vec::new();
        for _ in 0..bytes.below(3) {
            let size = bytes.below(40);
            let text = content(bytes, size);
            let text = place(bytes, text);
            let lie = bytes.seldom();
            let length = if lie { -bytes.wild().saturating_abs() } else { size as i64 };
            buffers.push(text);
            lengths.extend(length.to_le_bytes());
        }
        buffers.push(place(bytes, lengths));
    }

    let mut private =
        Box::new(PrivateArray { buffers, _memory: memory, children: arrays.clone(), dictionary });
    let mut array = ArrowArray {
        length,
        null_count,
        offset,
        n_buffers: private.buffers.len() as i64,
        n_children: private.children.len() as i64,
        buffers: private.buffers.as_mut_ptr(),
        children: private.children.as_mut_ptr(),
        dictionary,
        release: Some(release_array),
        private_data: Box::into_raw(private).cast(),
    };
    // Lies about counts and pointers: smaller ones may be followed, larger ones are refused by the type.
    if bytes.seldom() {
        match bytes.byte() % 6 {
            0 if !shape.views => array.n_buffers = bytes.wild(),
            1 => array.n_children = bytes.wild(),
            2 => array.buffers = std::ptr::null_mut(),
            3 => array.children = std::ptr::null_mut(),
            4 if depth > 1 => array.release = None,
            5 => array.dictionary = std::ptr::null_mut(),
            _ => {}
        }
    }

    let texts = vec![CString::new(format).unwrap(), CString::new("x").unwrap()];
    let mut schema = ArrowSchema::released();
    schema.format = texts[0].as_ptr();
    schema.name = texts[1].as_ptr();
    schema.flags = i64::from(bytes.byte() ^ 2);
    let metadata = match bytes.byte() % 16 {
        15 => [i32::from(bytes.byte() as i8).min(1).to_ne_bytes(), 1i32.to_ne_bytes()].concat(),
        _ => Vec::new(),
    };
    let metadata = match metadata.is_empty() {
        true => metadata,
        false => [&metadata[..], b"k", &i32::from(bytes.byte() as i8).min(1).to_ne_bytes(), &[bytes.byte()]]
            .concat(),
    };
    if !metadata.is_empty() {
        schema.metadata = metadata.as_ptr().cast();
    }
    let mut private = Box::new(PrivateSchema {
        _texts: texts,
        _metadata: metadata,
        children: schemas,
        dictionary: dictionary_schema,
    });
    schema.n_children = private.children.len() as i64;
    schema.children = private.children.as_mut_ptr();
    schema.dictionary = dictionary_schema;
    schema.private_data = Box::into_raw(private).cast();
    schema.release = Some(release_schema);
    if bytes.seldom() {
        match bytes.byte() % 5 {
            // As many children as there are, or a count that no schema has.
            0 => {
                schema.n_children =
                    if bytes.byte() & 1 == 0 { 0 } else { -bytes.wild().saturating_abs().max(1) }
            }
            1 => schema.children = std::ptr::null_mut(),
            2 if depth > 1 => schema.release = None,
            3 => schema.dictionary = std::ptr::null_mut(),
            _ => schema.format = std::ptr::null(),
        }
    }
    (schema, array)
}

fuzz_target!(|input: &[u8]| {
    let mut bytes = Bytes(input);
    let (schema, mut array) = tree(&mut bytes, 1, &mut 80, 0);
    // SAFETY: made above.
    let schema = unsafe { Exported::new(schema) };
    RELEASED.set(0);
    // SAFETY: what the importer cannot look at is true, as the head of this file says.
    match unsafe { import(&mut array, schema.as_ptr()) } {
        Err(error) => {
            assert!(!error.message().contains("the arrow crate panicked"), "{error}");
            assert!(array.release.is_some(), "a refusal changes nothing: {error}");
            assert_eq!(RELEASED.get(), 0);
            // SAFETY: made above.
            unsafe { array.release() };
        }
        Ok((imported, field)) => {
            assert!(array.release.is_none());
            assert_eq!(imported.data_type(), field.data_type());
            let data = imported.to_data();
            // A list of so many nulls takes no memory, but arrow's own check makes a bitmap of its length.
            if data.len() <= 1 << 16 && !field.data_type().to_string().contains("2147483647") {
                data.validate_full().unwrap();
                // Every accessor, of the first elements and the last.
                let _ = write!(Room(1 << 14), "{imported:?}");
                let (mut again, schema) = export(&imported, &field).unwrap();
                // SAFETY: exported above.
                let (again, _) = unsafe { import(again.as_mut_ptr(), schema.as_ptr()) }.unwrap();
                assert_eq!(again.to_data().len(), data.len());
                assert_eq!(again.data_type(), imported.data_type());
            }
            if let DataType::Struct(_) = field.data_type() {
                let _ = to_batch(&imported, &field);
            }
            drop((imported, data));
        }
    }
    assert_eq!(RELEASED.get(), 1, "released once");
    // SAFETY: made above.
    let _ = unsafe { read_schema(schema.as_ptr()) };
});
