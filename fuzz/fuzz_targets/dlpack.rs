//! Whatever structure a framework gives out: it is refused, or every element of it can be read, and written where it may be.
//!
//! What the specification leaves to the producer's word cannot be made up: addresses of shape, strides and data are real ones
//! here or NULL. All else comes from the input, and where a tensor is accepted whose elements are not in the memory that there
//! is, nobody looks at them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringfold::tensor::dlpack::{
    Borrowed, DLDataType, DLDevice, DLManagedTensor, DLManagedTensorVersioned, DLPackVersion, DLTensor,
    Imported, MAJOR, MOST_EXTENTS, READ_ONLY,
};
use ringfold::tensor::{Device, TensorMut, TensorRef};
use ringfold::{Communicator, ErrorKind, Options, ReduceOp};
use std::cell::{Cell, RefCell};
use std::ptr::null_mut;

thread_local! {
    static DELETED: Cell<usize> = const { Cell::new(0) };
    static ALONE: RefCell<Communicator> = RefCell::new(Communicator::local(1).remove(0));
}

unsafe extern "C" fn count(_: *mut DLManagedTensorVersioned) {
    DELETED.set(DELETED.get() + 1);
}

unsafe extern "C" fn count_unversioned(_: *mut DLManagedTensor) {
    DELETED.set(DELETED.get() + 1);
}

/// Bytes one after another; zeroes behind the last.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut taken = [0; N];
        let there = N.min(self.0.len());
        let (now, later) = self.0.split_at(there);
        taken[..there].copy_from_slice(now);
        self.0 = later;
        taken
    }

    fn byte(&mut self) -> u8 {
        self.take::<1>()[0]
    }

    /// A small number mostly, else any.
    fn number(&mut self) -> i64 {
        match self.byte() {
            255 => i64::from_le_bytes(self.take()),
            254 => i64::MAX,
            253 => i64::MIN,
            252 => 1 << (self.byte() % 64),
            small => i64::from(small as i8),
        }
    }
}

/// The memory that there is.
const ROOM: usize = 4096;
const MIDDLE: usize = ROOM / 2;

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = Bytes(bytes);
    let mut data: Vec<u8> = (0..ROOM).map(|i| (i * 31 + 7) as u8).collect();
    let before = data.clone();
    let room = data.as_mut_ptr_range();
    let room = room.start.addr()..room.end.addr();
    let (what, ndim) = (bytes.byte(), bytes.number());
    let ndim = if what & 1 == 0 { (ndim.unsigned_abs() % 6) as i32 } else { ndim as i32 };
    // As long as the tensor says that they are, where that can be accepted.
    let listed = usize::try_from(ndim).unwrap_or(0).min(MOST_EXTENTS);
    let mut shape: Vec<i64> = (0..listed).map(|_| bytes.number()).collect();
    let mut strides: Vec<i64> = (0..listed).map(|_| bytes.number()).collect();
    let tensor = DLTensor {
        data: if what & 2 == 0 { data.as_mut_ptr().wrapping_add(MIDDLE).cast() } else { null_mut() },
        device: DLDevice {
            device_type: if what & 4 == 0 { 1 } else { bytes.number() as i32 },
            device_id: bytes.byte() as i8 as i32,
        },
        ndim,
        dtype: match bytes.byte() {
            255 => {
                DLDataType { code: bytes.byte(), bits: bytes.byte(), lanes: u16::from_le_bytes(bytes.take()) }
            }
            one => {
                let (code, bits) =
                    [(0, 8), (0, 32), (1, 16), (1, 64), (2, 16), (2, 64), (4, 16)][one as usize % 7];
                DLDataType { code, bits, lanes: 1 }
            }
        },
        shape: if what & 8 == 0 { shape.as_mut_ptr() } else { null_mut() },
        strides: if what & 16 == 0 { strides.as_mut_ptr() } else { null_mut() },
        byte_offset: if what & 32 == 0 { u64::from(bytes.byte()) } else { bytes.number() as u64 },
    };
    let mut managed = DLManagedTensorVersioned {
        version: DLPackVersion {
            major: if what & 64 == 0 { MAJOR } else { bytes.number() as u32 },
            minor: u32::from(bytes.byte()),
        },
        manager_ctx: null_mut(),
        deleter: Some(count),
        flags: if what & 128 == 0 { 0 } else { bytes.number() as u64 },
        dl_tensor: tensor,
    };
    let is_read_only = managed.flags & READ_ONLY != 0;
    let mut older =
        DLManagedTensor { dl_tensor: tensor, manager_ctx: null_mut(), deleter: Some(count_unversioned) };
    DELETED.set(0);
    // SAFETY: lists are as long as is said, or NULL; elements are looked at only where they are in the room.
    let (imported, unversioned) =
        unsafe { (Imported::from_raw(&raw mut managed), Imported::from_raw_unversioned(&raw mut older)) };
    assert_eq!(DELETED.get(), 0, "what is refused stays its producer's");
    // Versions apart, both forms are looked at alike.
    assert_eq!(imported.is_ok(), unversioned.is_ok() && managed.version.major == MAJOR);
    // SAFETY: as above.
    assert_eq!(unsafe { Borrowed::from_raw(&raw const managed) }.is_ok(), imported.is_ok());
    let accepted = usize::from(imported.is_ok()) + usize::from(unversioned.is_ok());
    drop(unversioned);
    match imported {
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::InvalidArgument | ErrorKind::Unsupported), "{error}");
        }
        Ok(mut imported) => {
            let view = imported.view();
            assert_eq!(view.shape().len(), listed);
            assert!(view.shape().iter().zip(&shape).all(|(&a, &b)| a as i64 == b));
            let reached = view.addresses();
            assert!(reached.start <= reached.end && (view.count() == 0 || !reached.is_empty()));
            let is_here = view.device() == Device::Host
                && (view.count() == 0 || room.start <= reached.start && reached.end <= room.end);
            // A layout may say the same elements again and again.
            if is_here && view.count() <= ROOM {
                use_it(&mut imported, is_read_only);
            }
        }
    }
    assert_eq!(DELETED.get(), accepted);
    assert_eq!(data, before, "what one rank reduces stays as it is, and so does what lies beside it");
});

/// Reads all elements, and writes them where that may be; a group of one leaves them as they are.
fn use_it(imported: &mut Imported, is_read_only: bool) {
    ALONE.with_borrow(|alone| {
        let with = alone.with(Options::new().pack(true));
        let (dtype, count) = (imported.view().dtype(), imported.view().count());
        let read = |view: TensorRef<'_>| {
            let mut packed = vec![0u8; count * dtype.size()];
            // SAFETY: there is room for as many elements.
            let into = unsafe { TensorMut::from_raw_slice(packed.as_mut_ptr(), dtype, count) };
            with.all_reduce_dyn((view, into), ReduceOp::Sum).expect("every element is there");
            packed
        };
        let first = read(imported.view());
        match imported.view_mut() {
            Ok(view) => {
                assert!(!is_read_only);
                with.all_reduce_dyn(view, ReduceOp::Sum).expect("every element is there");
                assert_eq!(read(imported.view()), first);
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}"),
        }
    });
}
