//! What is accepted, what is refused, and whose the memory is.

use super::*;
use crate::error::{ErrorKind, Result};
use crate::tensor::{DType, Device, Element};
use half::bf16;
use std::ffi::c_void;
use std::ops::{Deref, DerefMut};
use std::ptr::{null, null_mut};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A producer's tensor: 24 elements of memory, and a deleter that counts.
struct Given {
    data: Vec<u64>,
    shape: Vec<i64>,
    strides: Vec<i64>,
    deleted: AtomicUsize,
}

unsafe extern "C" fn count(managed: *mut DLManagedTensorVersioned) {
    // SAFETY: the context is a `Given` that outlives the structure.
    unsafe { (*(*managed).manager_ctx.cast::<Given>()).deleted.fetch_add(1, Ordering::Relaxed) };
}

unsafe extern "C" fn count_unversioned(managed: *mut DLManagedTensor) {
    // SAFETY: as above.
    unsafe { (*(*managed).manager_ctx.cast::<Given>()).deleted.fetch_add(1, Ordering::Relaxed) };
}

const I32: DLDataType = DLDataType { code: 0, bits: 32, lanes: 1 };
const BF16: DLDataType = DLDataType { code: 4, bits: 16, lanes: 1 };

impl Given {
    fn new(shape: &[i64], strides: &[i64]) -> Box<Self> {
        let (data, deleted) = ((0..24).collect(), AtomicUsize::new(0));
        Box::new(Given { data, shape: shape.to_vec(), strides: strides.to_vec(), deleted })
    }

    /// Strides are NULL where there are none.
    fn tensor(&mut self, dtype: DLDataType) -> DLTensor {
        DLTensor {
            data: self.data.as_mut_ptr().cast(),
            device: DLDevice::HOST,
            ndim: self.shape.len() as i32,
            dtype,
            shape: self.shape.as_mut_ptr(),
            strides: if self.strides.is_empty() { null_mut() } else { self.strides.as_mut_ptr() },
            byte_offset: 0,
        }
    }

    fn managed(&mut self, dtype: DLDataType) -> DLManagedTensorVersioned {
        DLManagedTensorVersioned {
            version: DLPackVersion { major: 1, minor: 1 },
            manager_ctx: (&raw mut *self).cast(),
            deleter: Some(count),
            flags: 0,
            dl_tensor: self.tensor(dtype),
        }
    }

    fn deleted(&self) -> usize {
        self.deleted.load(Ordering::Relaxed)
    }
}

/// Imports a tensor of i32 with something changed.
fn import(
    shape: &[i64],
    strides: &[i64],
    change: impl FnOnce(&mut DLManagedTensorVersioned),
) -> (Result<Vec<i32>>, usize) {
    let mut given = Given::new(shape, strides);
    let mut managed = given.managed(I32);
    change(&mut managed);
    // SAFETY: what the structures say is there, or is refused before it is looked at.
    let result = unsafe { Imported::from_raw(&raw mut managed) };
    let elements = result.map(|imported| {
        let view = imported.view();
        let mut bytes = vec![0; view.bytes()];
        view.pack(&mut bytes);
        bytes.chunks_exact(4).map(|chunk| i32::from_le_bytes(chunk.try_into().unwrap())).collect()
    });
    (elements, given.deleted())
}

/// The memory seen as i32: numbers and zeroes in turn.
fn at(place: usize) -> i32 {
    if place.is_multiple_of(2) { (place / 2) as i32 } else { 0 }
}

fn accepted(
    shape: &[i64],
    strides: &[i64],
    change: impl FnOnce(&mut DLManagedTensorVersioned),
    places: &[usize],
) {
    let (elements, deleted) = import(shape, strides, change);
    let expected: Vec<i32> = places.iter().map(|&place| at(place)).collect();
    assert_eq!(elements.unwrap(), expected, "{shape:?} {strides:?}");
    assert_eq!(deleted, 1, "{shape:?} {strides:?}");
}

fn refused(kind: ErrorKind, words: &str, change: impl FnOnce(&mut DLManagedTensorVersioned)) {
    let (elements, deleted) = import(&[2, 3], &[3, 1], change);
    let error = elements.expect_err(words);
    assert_eq!(error.kind(), kind, "{words}: {error}");
    assert!(error.to_string().contains(words), "{words}: {error}");
    assert_eq!(deleted, 0, "{words}: what is refused stays the caller's");
}

#[test]
fn every_form_of_a_host_tensor_is_accepted() {
    accepted(&[2, 3], &[], |_| (), &[0, 1, 2, 3, 4, 5]);
    accepted(&[2, 3], &[3, 1], |_| (), &[0, 1, 2, 3, 4, 5]);
    accepted(&[2, 3], &[1, 2], |_| (), &[0, 2, 4, 1, 3, 5]);
    accepted(&[2, 2], &[0, 5], |_| (), &[0, 5, 0, 5]);
    accepted(&[3], &[-2], |m| m.dl_tensor.byte_offset = 5 * 4, &[5, 3, 1]);
    accepted(&[3], &[-2], |m| m.dl_tensor.data = m.dl_tensor.data.wrapping_byte_add(20), &[5, 3, 1]);
    accepted(&[2], &[], |m| m.dl_tensor.byte_offset = 8, &[2, 3]);
    accepted(&[1], &[i64::MAX], |_| (), &[0]);
    accepted(&[], &[], |_| (), &[0]);
    accepted(&[], &[], |m| (m.dl_tensor.shape, m.dl_tensor.strides) = (null_mut(), null_mut()), &[0]);
    accepted(&[1; MOST_EXTENTS], &[], |_| (), &[0]);
    accepted(&[2], &[], |m| m.dl_tensor.device = DLDevice { device_type: 3, device_id: 0 }, &[0, 1]);
    accepted(&[2], &[], |m| m.version.minor = 99, &[0, 1]);
    accepted(&[2], &[], |m| m.flags = !0, &[0, 1]);
    // Nothing is anywhere.
    accepted(&[0], &[], |m| m.dl_tensor.data = null_mut(), &[]);
    accepted(&[3, 0], &[i64::MAX, i64::MIN], |m| m.dl_tensor.byte_offset = u64::MAX, &[]);
}

#[test]
fn addresses_off_alignment_are_elements_too() {
    let mut given = Given::new(&[2], &[]);
    given.data[0] = 0x0706_0504_0302_0100;
    let mut managed = given.managed(DLDataType { code: 1, bits: 16, lanes: 1 });
    managed.dl_tensor.byte_offset = 1;
    // SAFETY: four bytes behind the first are there.
    let imported = unsafe { Imported::from_raw(&raw mut managed) }.unwrap();
    let mut bytes = [0; 4];
    imported.view().pack(&mut bytes);
    assert_eq!(bytes, [1, 2, 3, 4]);
}

#[test]
fn what_cannot_be_right_is_refused_and_stays_the_callers() {
    use ErrorKind::{InvalidArgument as Invalid, Unsupported};
    // SAFETY: nothing is there to be looked at.
    let nothing = unsafe { Imported::from_raw(null_mut()) };
    assert!(nothing.unwrap_err().to_string().contains("tensor is NULL"));
    // SAFETY: as above.
    let nothing = unsafe { Imported::from_raw_unversioned(null_mut()) };
    assert_eq!(nothing.unwrap_err().kind(), Invalid);
    // SAFETY: as above.
    let nothing = unsafe { Borrowed::from_raw(null()) };
    assert_eq!(nothing.unwrap_err().kind(), Invalid);
    // SAFETY: an address that is not aligned is not looked at.
    let odd = unsafe { Imported::from_raw(null_mut::<u8>().wrapping_add(4097).cast()) };
    assert!(odd.unwrap_err().to_string().contains("no address of one"));

    refused(Unsupported, "version 0.8", |m| m.version = DLPackVersion { major: 0, minor: 8 });
    refused(Unsupported, "version 2.0", |m| m.version = DLPackVersion { major: 2, minor: 0 });
    refused(Invalid, "-1 extents", |m| m.dl_tensor.ndim = -1);
    refused(Invalid, "65 extents", |m| m.dl_tensor.ndim = 65);
    refused(Invalid, "2147483647 extents", |m| m.dl_tensor.ndim = i32::MAX);
    refused(Invalid, "shape of a DLPack tensor of 2 extents is NULL", |m| m.dl_tensor.shape = null_mut());
    refused(Invalid, "shape of a DLPack tensor lie at", |m| {
        m.dl_tensor.shape = m.dl_tensor.shape.wrapping_byte_add(3);
    });
    refused(Invalid, "strides of a DLPack tensor lie at", |m| {
        m.dl_tensor.strides = m.dl_tensor.strides.wrapping_byte_add(4);
    });
    refused(Invalid, "data of a DLPack tensor of 6 elements is NULL", |m| m.dl_tensor.data = null_mut());
    refused(Invalid, "no memory does", |m| m.dl_tensor.byte_offset = u64::MAX);
    refused(Invalid, "no memory does", |m| m.dl_tensor.byte_offset = u64::MAX - m.dl_tensor.data as u64 - 3);
    let change = |shape: [i64; 2], strides: [i64; 2]| {
        move |m: &mut DLManagedTensorVersioned| {
            // SAFETY: both have two numbers.
            unsafe {
                m.dl_tensor.shape.cast::<[i64; 2]>().write(shape);
                m.dl_tensor.strides.cast::<[i64; 2]>().write(strides);
            }
        }
    };
    refused(Invalid, "extent -3", change([2, -3], [3, 1]));
    refused(Invalid, "does not fit", change([i64::MAX, 2], [2, 1]));
    refused(Invalid, "does not fit", change([1 << 31, 1 << 31], [1 << 31, 1]));
    refused(Invalid, "does not fit", change([1 << 32, 1 << 32], [1 << 32, 1]));
    refused(Invalid, "does not fit", change([2, 3], [i64::MAX, 1]));
    refused(Invalid, "does not fit", change([2, 3], [i64::MIN, 1]));
    refused(Invalid, "does not fit", change([2, 3], [1 << 61, -(1 << 61)]));
    // Before all memory, and behind.
    refused(Invalid, "no memory does", change([2, 3], [-(1 << 60), 1]));
    refused(Invalid, "no memory does", |m| {
        change([2, 3], [1 << 59, 1])(m);
        m.dl_tensor.byte_offset = u64::MAX - (1 << 60);
    });

    let device = |device_type, device_id| {
        move |m: &mut DLManagedTensorVersioned| m.dl_tensor.device = DLDevice { device_type, device_id }
    };
    refused(Invalid, "CUDA device -1", device(2, -1));
    refused(Unsupported, "ROCm", device(10, 0));
    refused(Unsupported, "managed by CUDA", device(13, 0));
    refused(Unsupported, "unknown kind 0", device(0, 0));
    refused(Unsupported, "unknown kind -5", device(-5, 0));
    let dtype = |code, bits, lanes| {
        move |m: &mut DLManagedTensorVersioned| m.dl_tensor.dtype = DLDataType { code, bits, lanes }
    };
    refused(Unsupported, "bool of 8 bits", dtype(6, 8, 1));
    refused(Unsupported, "complex64", dtype(5, 64, 1));
    refused(Unsupported, "opaque handle", dtype(3, 64, 1));
    refused(Unsupported, "float8_e4m3fn", dtype(10, 8, 1));
    refused(Unsupported, "float8_e5m2", dtype(12, 8, 1));
    refused(Unsupported, "int4", dtype(0, 4, 1));
    refused(Unsupported, "float128", dtype(2, 128, 1));
    refused(Unsupported, "bfloat32", dtype(4, 32, 1));
    refused(Unsupported, "code 99", dtype(99, 8, 1));
    refused(Unsupported, "vector of 4 times float32", dtype(2, 32, 4));
    refused(Unsupported, "vector of 0 times float32", dtype(2, 32, 0));
}

#[test]
fn memory_of_a_device_is_described_only() {
    let mut given = Given::new(&[6], &[]);
    let mut managed = given.managed(BF16);
    managed.dl_tensor.device = DLDevice { device_type: 2, device_id: 3 };
    // SAFETY: nobody looks at the memory, which is said to be elsewhere.
    let mut imported = unsafe { Imported::from_raw(&raw mut managed) }.unwrap();
    assert_eq!((imported.view().device(), imported.view().dtype()), (Device::Cuda(3), DType::BF16));
    assert_eq!(imported.view_mut().unwrap().device(), Device::Cuda(3));
}

#[test]
fn memory_of_a_device_goes_out_as_it_comes_in() {
    for (device, place) in [
        (DLDevice::cuda(3), Device::Cuda(3)),
        (DLDevice::CUDA_HOST, Device::Host),
        (DLDevice::HOST, Device::Host),
    ] {
        let owner = Arc::new(());
        let mut memory = vec![0u8; 24];
        let first = memory.as_mut_ptr();
        // SAFETY: it is there until this ends, on whatever device it is said to be, where nobody looks.
        let out =
            unsafe { Exported::from_raw(Arc::clone(&owner), first, DType::F32, &[2, 3], device) }.unwrap();
        // SAFETY: nobody else has it.
        let mut back = unsafe { Imported::from_raw(out.into_raw()) }.unwrap();
        let view = back.view();
        assert_eq!((view.device(), view.dtype(), view.shape()), (place, DType::F32, &[2, 3][..]));
        assert_eq!(back.view_mut().unwrap().pointer(), first);
        assert_eq!(Arc::strong_count(&owner), 2);
        drop(back);
        assert_eq!(Arc::strong_count(&owner), 1);
    }
    let refused = |pointer: *mut u8, device| {
        // SAFETY: it is refused.
        unsafe { Exported::from_raw((), pointer, DType::F32, &[2, 3], device) }.unwrap_err()
    };
    let elsewhere = DLDevice { device_type: 10, device_id: 0 };
    assert_eq!(refused(null_mut(), elsewhere).kind(), ErrorKind::Unsupported);
    assert_eq!(refused(null_mut(), DLDevice::cuda(0)).kind(), ErrorKind::InvalidArgument);
}

#[test]
fn read_only_and_overlapping_tensors_are_read_and_not_written() {
    let mut given = Given::new(&[2, 3], &[0, 1]);
    let mut managed = given.managed(I32);
    // SAFETY: three elements are there.
    let mut imported = unsafe { Imported::from_raw(&raw mut managed) }.unwrap();
    assert_eq!(imported.view().count(), 6);
    let error = imported.view_mut().unwrap_err();
    assert!(
        error.kind() == ErrorKind::InvalidArgument && error.to_string().contains("share memory"),
        "{error}"
    );
    drop(imported);
    let mut given = Given::new(&[2, 3], &[]);
    let mut managed = given.managed(I32);
    managed.flags = READ_ONLY | IS_COPIED;
    // SAFETY: six elements are there.
    let mut imported = unsafe { Imported::from_raw(&raw mut managed) }.unwrap();
    assert!(imported.is_read_only() && imported.is_copied() && imported.view().count() == 6);
    let error = imported.view_mut().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(
        error.to_string().contains("read-only") && error.what_to_do().unwrap().contains("copy"),
        "{error}"
    );
}

#[test]
fn the_description_does_not_change_with_the_structure() {
    let mut given = Given::new(&[2, 3], &[]);
    let mut managed = given.managed(I32);
    // SAFETY: six elements are there.
    let imported = unsafe { Imported::from_raw(&raw mut managed) }.unwrap();
    given.shape[1] = 1 << 40;
    assert_eq!(imported.view().shape(), [2, 3]);
}

#[test]
fn deleters_are_called_once_on_whatever_thread() {
    let mut given = Given::new(&[6], &[]);
    let mut managed = given.managed(I32);
    // SAFETY: six elements are there.
    let imported = unsafe { Imported::from_raw(&raw mut managed) }.unwrap();
    std::thread::scope(|scope| scope.spawn(move || drop(imported)).join().unwrap());
    assert_eq!(given.deleted(), 1);
    managed.deleter = None;
    // SAFETY: as above.
    drop(unsafe { Imported::from_raw(&raw mut managed) }.unwrap());
    assert_eq!(given.deleted(), 1);
    let mut older = DLManagedTensor {
        dl_tensor: given.tensor(BF16),
        manager_ctx: (&raw mut *given).cast(),
        deleter: Some(count_unversioned),
    };
    // SAFETY: as above.
    let mut imported = unsafe { Imported::from_raw_unversioned(&raw mut older) }.unwrap();
    assert_eq!((imported.view().dtype(), imported.view_mut().is_ok()), (DType::BF16, true));
    drop(imported);
    assert_eq!(given.deleted(), 2);
    older.dl_tensor.ndim = 99;
    // SAFETY: as above.
    assert!(unsafe { Imported::from_raw_unversioned(&raw mut older) }.is_err());
    assert_eq!(given.deleted(), 2);
    let managed = given.managed(I32);
    // SAFETY: as above, and it is only looked at.
    let borrowed = unsafe { Borrowed::from_raw(&raw const managed) }.unwrap();
    assert_eq!(borrowed.into_view().count(), 6);
    assert_eq!(given.deleted(), 2, "what is borrowed is not deleted");
}

/// An owner that tells of its end.
struct Owner<T>(Vec<T>, Arc<AtomicUsize>);

impl<T> Deref for Owner<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T> DerefMut for Owner<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

impl<T> Drop for Owner<T> {
    fn drop(&mut self) {
        self.1.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn what_is_given_out_comes_back_as_it_is() {
    fn round<T: Element>(value: T) {
        let ends = Arc::new(AtomicUsize::new(0));
        let owner = Owner(vec![value; 24], Arc::clone(&ends));
        let address = owner.as_ptr().addr();
        let given = Exported::new(owner, &[2, 3, 4]).unwrap().into_raw();
        // SAFETY: nobody else has it.
        let managed = unsafe { &*given };
        assert_eq!(managed.version.major, MAJOR);
        assert_eq!((managed.flags, managed.dl_tensor.byte_offset), (0, 0));
        // SAFETY: there are three of them.
        let strides = unsafe { std::slice::from_raw_parts(managed.dl_tensor.strides, 3) };
        assert_eq!(strides, [12, 4, 1]);
        // SAFETY: nobody else has it.
        let mut imported = unsafe { Imported::from_raw(given) }.unwrap();
        assert_eq!((imported.view().shape(), imported.view().dtype()), (&[2, 3, 4][..], T::DTYPE));
        assert_eq!(imported.view_mut().unwrap().pointer().addr(), address, "nothing is copied");
        assert_eq!(ends.load(Ordering::Relaxed), 0);
        std::thread::spawn(move || drop(imported)).join().unwrap();
        assert_eq!(ends.load(Ordering::Relaxed), 1);
    }
    round(bf16::from_f32(1.5));
    round(half::f16::ONE);
    round(1.5f32);
    round(1.5f64);
    round(-3i8);
    round(3u16);
    round(-3i32);
    round(u64::MAX);
}

#[test]
fn what_is_not_given_out_ends_where_it_is() {
    let ends = Arc::new(AtomicUsize::new(0));
    let owner = |len| Owner(vec![1u8; len], Arc::clone(&ends));
    drop(Exported::new(owner(6), &[2, 3]).unwrap());
    assert_eq!(ends.load(Ordering::Relaxed), 1);
    for (len, shape) in [
        (5, &[2, 3][..]),
        (0, &[]),
        (2, &[usize::MAX, 2]),
        (1, &[1; MOST_EXTENTS + 1]),
        (0, &[usize::MAX, 0]),
    ] {
        let error = Exported::new(owner(len), shape).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    }
    assert_eq!(ends.load(Ordering::Relaxed), 6);
    // A number, and nothing.
    for (len, shape) in [(1, &[][..]), (0, &[0]), (0, &[4, 0, 5])] {
        let given = Exported::new(owner(len), shape).unwrap().into_raw();
        // SAFETY: nobody else has it.
        let data: *mut c_void = unsafe { (*given).dl_tensor.data };
        assert_eq!(data.is_null(), len == 0);
        // SAFETY: as above.
        let imported = unsafe { Imported::from_raw(given) }.unwrap();
        assert_eq!(imported.view().shape(), shape);
    }
    assert_eq!(ends.load(Ordering::Relaxed), 9);
}

/// Memory within the owner itself, which must not move, and of which one half is hidden from who writes.
struct Odd([u32; 4], bool);

impl Deref for Odd {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        &self.0
    }
}

impl DerefMut for Odd {
    fn deref_mut(&mut self) -> &mut [u32] {
        let end = if self.1 { 2 } else { 4 };
        &mut self.0[..end]
    }
}

#[test]
fn what_an_owner_gives_to_be_written_counts() {
    assert!(Exported::new(Odd([1, 2, 3, 4], true), &[4]).is_err());
    let given = Exported::new(Odd([1, 2, 3, 4], false), &[4]).unwrap();
    let given = Box::new(given).into_raw();
    // SAFETY: nobody else has it.
    let mut imported = unsafe { Imported::from_raw(given) }.unwrap();
    imported.view_mut().unwrap().unpack(&[5; 16]);
    let mut bytes = [0; 16];
    imported.view().pack(&mut bytes);
    assert_eq!(bytes, [5; 16]);
}

/// An owner whose end panics: nothing of it gets into who calls the deleter.
struct Angry(Vec<u8>);

impl Deref for Angry {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Angry {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for Angry {
    fn drop(&mut self) {
        panic!("the end of an owner");
    }
}

#[test]
fn a_panic_at_an_owners_end_stays_here() {
    drop(Exported::new(Angry(vec![1, 2]), &[2]).unwrap());
}
