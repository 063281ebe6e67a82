//! Structures made by hand, as a producer in C makes them: memory that their callback frees, and a count of its calls.

use ringfold::arrow::c_data::{ArrowArray, ArrowSchema, Exported, Structure};
use std::ffi::{CString, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How often release callbacks were called.
#[derive(Clone, Default)]
pub(crate) struct Calls(Arc<AtomicUsize>);

impl Calls {
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

struct Private {
    buffers: Vec<*const c_void>,
    children: Vec<*mut ArrowArray>,
    dictionary: *mut ArrowArray,
    _memory: Vec<Vec<u8>>,
    calls: Calls,
}

unsafe extern "C" fn release_array(array: *mut ArrowArray) {
    // SAFETY: called with a structure of `array`, once.
    unsafe {
        let private = Box::from_raw((*array).private_data.cast::<Private>());
        for child in private.children.iter().chain([&private.dictionary]).filter(|child| !child.is_null()) {
            drop(Exported::new(std::ptr::read(*child)));
            drop(Box::from_raw(*child));
        }
        private.calls.0.fetch_add(1, Ordering::SeqCst);
        (*array).release = None;
    }
}

/// What an array is made of.
#[derive(Default)]
pub(crate) struct Parts {
    pub(crate) length: i64,
    pub(crate) null_count: i64,
    pub(crate) offset: i64,
    /// None for NULL. The second number says by how many bytes the buffer is off its alignment.
    pub(crate) buffers: Vec<Option<(Vec<u8>, usize)>>,
    pub(crate) children: Vec<Exported<ArrowArray>>,
    pub(crate) dictionary: Option<Exported<ArrowArray>>,
}

/// An array of these parts, whose callback counts itself.
pub(crate) fn array(parts: Parts, calls: &Calls) -> Exported<ArrowArray> {
    let mut memory = Vec::new();
    let mut buffers = Vec::new();
    for buffer in parts.buffers {
        buffers.push(buffer.map_or(std::ptr::null(), |(bytes, off)| {
            let mut moved = vec![0; bytes.len() + off + 64];
            let begin = moved.as_ptr().align_offset(32) + off;
            moved[begin..begin + bytes.len()].copy_from_slice(&bytes);
            memory.push(moved);
            memory.last().unwrap()[begin..].as_ptr().cast()
        }));
    }
    let boxed = |child: Exported<ArrowArray>| Box::into_raw(Box::new(child.into_raw()));
    let mut private = Box::new(Private {
        buffers,
        children: parts.children.into_iter().map(boxed).collect(),
        dictionary: parts.dictionary.map_or(std::ptr::null_mut(), boxed),
        _memory: memory,
        calls: calls.clone(),
    });
    let array = ArrowArray {
        length: parts.length,
        null_count: parts.null_count,
        offset: parts.offset,
        n_buffers: private.buffers.len() as i64,
        n_children: private.children.len() as i64,
        buffers: private.buffers.as_mut_ptr(),
        children: private.children.as_mut_ptr(),
        dictionary: private.dictionary,
        release: Some(release_array),
        private_data: Box::into_raw(private).cast(),
    };
    // SAFETY: the callback is the one above.
    unsafe { Exported::new(array) }
}

/// A buffer of numbers, aligned.
pub(crate) fn bytes<T: Copy, const N: usize>(
    values: &[T],
    bytes: impl Fn(T) -> [u8; N],
) -> Option<(Vec<u8>, usize)> {
    Some((values.iter().flat_map(|value| bytes(*value)).collect(), 0))
}

/// A buffer of `i32`, of offsets say.
pub(crate) fn i32s(values: &[i32]) -> Option<(Vec<u8>, usize)> {
    bytes(values, i32::to_ne_bytes)
}

/// An array of `f32` without nulls.
pub(crate) fn floats(values: &[f32], calls: &Calls) -> Exported<ArrowArray> {
    let buffers = vec![None, bytes(values, f32::to_ne_bytes)];
    array(Parts { length: values.len() as i64, buffers, ..Parts::default() }, calls)
}

struct PrivateSchema {
    _format: CString,
    _name: CString,
    _metadata: Vec<u8>,
    children: Vec<*mut ArrowSchema>,
    dictionary: *mut ArrowSchema,
}

unsafe extern "C" fn release_schema(schema: *mut ArrowSchema) {
    // SAFETY: called with a structure of `schema`, once.
    unsafe {
        let private = Box::from_raw((*schema).private_data.cast::<PrivateSchema>());
        for child in private.children.iter().chain([&private.dictionary]).filter(|child| !child.is_null()) {
            drop(Exported::new(std::ptr::read(*child)));
            drop(Box::from_raw(*child));
        }
        (*schema).release = None;
    }
}

/// A nullable field of any format.
pub(crate) fn schema(format: &[u8], children: Vec<Exported<ArrowSchema>>) -> Exported<ArrowSchema> {
    full_schema(format, children, None, Vec::new())
}

pub(crate) fn full_schema(
    format: &[u8],
    children: Vec<Exported<ArrowSchema>>,
    dictionary: Option<Exported<ArrowSchema>>,
    metadata: Vec<u8>,
) -> Exported<ArrowSchema> {
    let format = CString::new(format).unwrap();
    let name = CString::new("field").unwrap();
    let boxed = |child: Exported<ArrowSchema>| Box::into_raw(Box::new(child.into_raw()));
    let mut raw = ArrowSchema::released();
    raw.format = format.as_ptr();
    raw.name = name.as_ptr();
    raw.flags = 2;
    raw.n_children = children.len() as i64;
    if !metadata.is_empty() {
        raw.metadata = metadata.as_ptr().cast();
    }
    let mut private = Box::new(PrivateSchema {
        _format: format,
        _name: name,
        _metadata: metadata,
        children: children.into_iter().map(boxed).collect(),
        dictionary: dictionary.map_or(std::ptr::null_mut(), boxed),
    });
    raw.children = private.children.as_mut_ptr();
    raw.dictionary = private.dictionary;
    raw.release = Some(release_schema);
    raw.private_data = Box::into_raw(private).cast();
    // SAFETY: the callback is the one above.
    unsafe { Exported::new(raw) }
}
