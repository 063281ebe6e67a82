//! The structures of the specification, field by field, and the owner of those that this library makes.

use arrow_array::ffi_stream::FFI_ArrowArrayStream;
use arrow_data::ffi::FFI_ArrowArray;
use arrow_schema::ffi::FFI_ArrowSchema;
use std::ffi::{c_char, c_int, c_void};
use std::fmt;
use std::ops::Deref;
use std::ptr;

/// `struct ArrowSchema` of the [C Data interface](https://arrow.apache.org/docs/format/CDataInterface.html): a type, a name,
/// metadata.
///
/// Plain data, as in C: dropping one releases nothing ([`Exported`] does).
#[repr(C)]
#[derive(Debug)]
pub struct ArrowSchema {
    /// The type as a format string that ends with a zero.
    pub format: *const c_char,
    /// The field's name that ends with a zero, or NULL.
    pub name: *const c_char,
    /// Pairs of keys and values in the specification's binary form, or NULL.
    pub metadata: *const c_char,
    /// Bits: 1 an ordered dictionary, 2 nullable, 4 a map's keys are sorted.
    pub flags: i64,
    /// How many children the type has.
    pub n_children: i64,
    /// As many pointers, or NULL where there are none.
    pub children: *mut *mut ArrowSchema,
    /// The type of a dictionary's values, or NULL.
    pub dictionary: *mut ArrowSchema,
    /// The producer's callback; NULL where the structure was released or moved.
    pub release: Option<unsafe extern "C" fn(*mut ArrowSchema)>,
    /// The producer's own.
    pub private_data: *mut c_void,
}

/// `struct ArrowArray` of the [C Data interface](https://arrow.apache.org/docs/format/CDataInterface.html): lengths and memory.
///
/// Plain data, as in C: dropping one releases nothing ([`Exported`] does).
#[repr(C)]
#[derive(Debug)]
pub struct ArrowArray {
    /// How many elements the array has.
    pub length: i64,
    /// How many of them are null; -1 where nobody has counted.
    pub null_count: i64,
    /// How many elements in the buffers lie before the first.
    pub offset: i64,
    /// How many buffers there are, those included that are NULL.
    pub n_buffers: i64,
    /// How many children there are.
    pub n_children: i64,
    /// As many pointers as there are buffers.
    pub buffers: *mut *const c_void,
    /// As many pointers as there are children.
    pub children: *mut *mut ArrowArray,
    /// The values of a dictionary, or NULL.
    pub dictionary: *mut ArrowArray,
    /// The producer's callback; NULL where the structure was released or moved.
    pub release: Option<unsafe extern "C" fn(*mut ArrowArray)>,
    /// The producer's own.
    pub private_data: *mut c_void,
}

/// `struct ArrowArrayStream` of the [C Stream interface](https://arrow.apache.org/docs/format/CStreamInterface.html): arrays of one
/// schema, one after another.
///
/// Plain data, as in C: dropping one releases nothing ([`Exported`] does).
#[repr(C)]
#[derive(Debug)]
pub struct ArrowArrayStream {
    /// Writes the schema of all arrays of the stream; 0 or an `errno`.
    pub get_schema: Option<unsafe extern "C" fn(*mut ArrowArrayStream, *mut ArrowSchema) -> c_int>,
    /// Writes the next array, or a released one at the end; 0 or an `errno`.
    pub get_next: Option<unsafe extern "C" fn(*mut ArrowArrayStream, *mut ArrowArray) -> c_int>,
    /// What went wrong in the last call that failed, or NULL.
    pub get_last_error: Option<unsafe extern "C" fn(*mut ArrowArrayStream) -> *const c_char>,
    /// The producer's callback; NULL where the structure was released or moved.
    pub release: Option<unsafe extern "C" fn(*mut ArrowArrayStream)>,
    /// The producer's own.
    pub private_data: *mut c_void,
}

/// `struct ArrowDeviceArray` of the [C Device Data
/// interface](https://arrow.apache.org/docs/format/CDeviceDataInterface.html): an array and where its buffers lie.
#[repr(C)]
#[derive(Debug)]
pub struct ArrowDeviceArray {
    /// The array; its structures lie in the memory of the CPU, what its buffers point to does not have to.
    pub array: ArrowArray,
    /// Which device of its type; -1 for the CPU.
    pub device_id: i64,
    /// The type of device ([`DeviceType`](super::DeviceType)).
    pub device_type: i32,
    /// What to wait for on the device before the buffers are read, or NULL.
    pub sync_event: *mut c_void,
    /// 0.
    pub reserved: [i64; 3],
}

const _: () = {
    assert!(size_of::<ArrowSchema>() == size_of::<FFI_ArrowSchema>());
    assert!(align_of::<ArrowSchema>() == align_of::<FFI_ArrowSchema>());
    assert!(size_of::<ArrowArray>() == size_of::<FFI_ArrowArray>());
    assert!(align_of::<ArrowArray>() == align_of::<FFI_ArrowArray>());
    assert!(size_of::<ArrowArrayStream>() == size_of::<FFI_ArrowArrayStream>());
    assert!(align_of::<ArrowArrayStream>() == align_of::<FFI_ArrowArrayStream>());
    // By the specification, with pointers of 64 bits.
    assert!(size_of::<usize>() != 8 || size_of::<ArrowSchema>() == 72);
    assert!(size_of::<usize>() != 8 || size_of::<ArrowArray>() == 80);
    assert!(size_of::<usize>() != 8 || size_of::<ArrowArrayStream>() == 40);
    assert!(size_of::<usize>() != 8 || size_of::<ArrowDeviceArray>() == 128);
};

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::ArrowArray {}
    impl Sealed for super::ArrowSchema {}
    impl Sealed for super::ArrowArrayStream {}
}

/// A structure of the C interfaces that has a release callback. The set is closed.
pub trait Structure: sealed::Sealed {
    /// The structure that says it was released.
    fn released() -> Self;

    /// Calls the release callback, if the structure was not released or moved already.
    ///
    /// # Safety
    /// The structure is one that its producer made, and nobody uses what it stands for after this.
    unsafe fn release(&mut self);
}

impl Structure for ArrowArray {
    fn released() -> Self {
        ArrowArray {
            length: 0,
            null_count: 0,
            offset: 0,
            n_buffers: 0,
            n_children: 0,
            buffers: ptr::null_mut(),
            children: ptr::null_mut(),
            dictionary: ptr::null_mut(),
            release: None,
            private_data: ptr::null_mut(),
        }
    }

    unsafe fn release(&mut self) {
        if let Some(release) = self.release {
            // SAFETY: the caller vouches for the structure, and so for its callback.
            unsafe { release(self) };
            // A producer that forgets to say so is not called twice.
            self.release = None;
        }
    }
}

impl Structure for ArrowSchema {
    fn released() -> Self {
        ArrowSchema {
            format: ptr::null(),
            name: ptr::null(),
            metadata: ptr::null(),
            flags: 0,
            n_children: 0,
            children: ptr::null_mut(),
            dictionary: ptr::null_mut(),
            release: None,
            private_data: ptr::null_mut(),
        }
    }

    unsafe fn release(&mut self) {
        if let Some(release) = self.release {
            // SAFETY: the caller vouches for the structure, and so for its callback.
            unsafe { release(self) };
            self.release = None;
        }
    }
}

impl Structure for ArrowArrayStream {
    fn released() -> Self {
        ArrowArrayStream {
            get_schema: None,
            get_next: None,
            get_last_error: None,
            release: None,
            private_data: ptr::null_mut(),
        }
    }

    unsafe fn release(&mut self) {
        if let Some(release) = self.release {
            // SAFETY: the caller vouches for the structure, and so for its callback.
            unsafe { release(self) };
            self.release = None;
        }
    }
}

/// A structure that its holder has to release: [`ArrowArray`], [`ArrowSchema`] or [`ArrowArrayStream`].
///
/// Its fields can be read; dropping it calls the release callback, unless a consumer has moved the structure (or set `release` to
/// NULL) by then. [`into_raw`](Exported::into_raw) gives it away.
///
/// ```
/// use ringfold::arrow::array::Float32Array;
/// use ringfold::arrow::c_data::{ArrowArray, ArrowSchema, export};
/// use ringfold::arrow::schema::{DataType, Field};
///
/// /// What a C function would do whose caller passes memory for two structures.
/// fn give(out: &mut ArrowArray, out_schema: &mut ArrowSchema) -> ringfold::Result<()> {
///     let (array, schema) = export(&Float32Array::from(vec![1.0]), &Field::new("x", DataType::Float32, false))?;
///     (*out, *out_schema) = (array.into_raw(), schema.into_raw());
///     Ok(())
/// }
/// ```
pub struct Exported<T: Structure>(T);

impl<T: Structure> Exported<T> {
    /// Takes over a structure.
    ///
    /// # Safety
    /// It was made by a producer that keeps to the specification, so that its callback may be called once, on any
    /// thread; or it is released.
    pub unsafe fn new(structure: T) -> Self {
        Exported(structure)
    }

    /// The structure itself, which whoever gets it has to release.
    pub fn into_raw(mut self) -> T {
        std::mem::replace(&mut self.0, T::released())
    }

    /// For functions that read the structure.
    pub fn as_ptr(&self) -> *const T {
        &self.0
    }

    /// For functions that move the structure.
    pub fn as_mut_ptr(&mut self) -> *mut T {
        &mut self.0
    }
}

impl<T: Structure> Deref for Exported<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Structure> Drop for Exported<T> {
    fn drop(&mut self) {
        // SAFETY: whoever made this vouched for the structure; its fields cannot be changed from outside but by its address.
        unsafe { self.0.release() };
    }
}

impl<T: Structure + fmt::Debug> fmt::Debug for Exported<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// SAFETY: what it points to is its own, and `new` asks for callbacks that may be called on any thread.
unsafe impl<T: Structure> Send for Exported<T> {}

impl From<FFI_ArrowArray> for Exported<ArrowArray> {
    fn from(array: FFI_ArrowArray) -> Self {
        // SAFETY: two descriptions of one structure of C, of one size and alignment, as asserted above; each field may have
        // any bits. The original gives up its ownership by not being dropped.
        Exported(unsafe { std::mem::transmute::<FFI_ArrowArray, ArrowArray>(array) })
    }
}

impl From<FFI_ArrowSchema> for Exported<ArrowSchema> {
    fn from(schema: FFI_ArrowSchema) -> Self {
        // SAFETY: as for arrays.
        Exported(unsafe { std::mem::transmute::<FFI_ArrowSchema, ArrowSchema>(schema) })
    }
}
