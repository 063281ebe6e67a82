//! What MPI's own collectives are told, for a backend that leaves the schedules to the library: types, reductions, counts; and messages of
//! these types.
//!
//! # Types and reductions
//! What is moved is bytes. What is reduced has MPI's own type and reduction where that means the same, and else a function of ringfold's,
//! which runs its kernels: see [`predefined`].

use super::call::{Checked, Comm, Request, check};
use super::library::Turn;
use crate::reduce::{CustomOp, ReduceOp, kernels};
use crate::tensor::DType;
use mpi_sys as raw;
use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, PoisonError};

/// The most bytes of one part of a type that is made here, and of one call in basic types: MPI counts in `int`.
pub(crate) const LIMIT: usize = 1 << 30;

/// A type of MPI's.
#[derive(Clone, Copy)]
pub(crate) struct Type(pub(super) raw::MPI_Datatype);

// SAFETY: a handle is an opaque value, as with communicators.
unsafe impl Send for Type {}

/// A reduction of MPI's.
#[derive(Clone, Copy)]
pub(crate) struct Op(pub(super) raw::MPI_Op);

// SAFETY: as above.
unsafe impl Send for Op {}

/// Where MPI has a reduction of its own that means the same as ringfold's: it, and the type to use.
///
/// - Sums and products of integers wrap, which they do without fail in unsigned types, and signed ones have the same bits. Open MPI adds
///   integers of 8 and 16 bits with saturation where the processor can, so these are not left to it.
/// - `MPI_MIN` and `MPI_MAX` of floats do not say what becomes of a NaN and of zeros, and ringfold's do.
/// - MPICH 4.0 compares unsigned integers as if they were signed.
/// - MPI's C types have no 16-bit floats.
fn predefined(op: ReduceOp, dtype: DType) -> Option<(Op, Type)> {
    // SAFETY: constants of the C shim, which has them from MPI's header.
    unsafe {
        let unsigned = match dtype.size() {
            1 => raw::RSMPI_UINT8_T,
            2 => raw::RSMPI_UINT16_T,
            4 => raw::RSMPI_UINT32_T,
            _ => raw::RSMPI_UINT64_T,
        };
        let found = match (op, dtype) {
            (ReduceOp::Sum | ReduceOp::Mean, DType::F32) => (raw::RSMPI_SUM, raw::RSMPI_FLOAT),
            (ReduceOp::Sum | ReduceOp::Mean, DType::F64) => (raw::RSMPI_SUM, raw::RSMPI_DOUBLE),
            (ReduceOp::Prod, DType::F32) => (raw::RSMPI_PROD, raw::RSMPI_FLOAT),
            (ReduceOp::Prod, DType::F64) => (raw::RSMPI_PROD, raw::RSMPI_DOUBLE),
            (ReduceOp::Sum, _) if !dtype.is_float() && dtype.size() > 2 => (raw::RSMPI_SUM, unsigned),
            (ReduceOp::Prod, _) if !dtype.is_float() && dtype.size() > 2 => (raw::RSMPI_PROD, unsigned),
            (ReduceOp::Min, DType::I8) => (raw::RSMPI_MIN, raw::RSMPI_INT8_T),
            (ReduceOp::Min, DType::I16) => (raw::RSMPI_MIN, raw::RSMPI_INT16_T),
            (ReduceOp::Min, DType::I32) => (raw::RSMPI_MIN, raw::RSMPI_INT32_T),
            (ReduceOp::Min, DType::I64) => (raw::RSMPI_MIN, raw::RSMPI_INT64_T),
            (ReduceOp::Max, DType::I8) => (raw::RSMPI_MAX, raw::RSMPI_INT8_T),
            (ReduceOp::Max, DType::I16) => (raw::RSMPI_MAX, raw::RSMPI_INT16_T),
            (ReduceOp::Max, DType::I32) => (raw::RSMPI_MAX, raw::RSMPI_INT32_T),
            (ReduceOp::Max, DType::I64) => (raw::RSMPI_MAX, raw::RSMPI_INT64_T),
            (ReduceOp::BitAnd, _) if !dtype.is_float() => (raw::RSMPI_BAND, unsigned),
            (ReduceOp::BitOr, _) if !dtype.is_float() => (raw::RSMPI_BOR, unsigned),
            (ReduceOp::BitXor, _) if !dtype.is_float() => (raw::RSMPI_BXOR, unsigned),
            _ => return None,
        };
        Some((Op(found.0), Type(found.1)))
    }
}

/// `both = input op both`, by ringfold's kernels.
unsafe extern "C" fn combine<const OP: u8, const DTYPE: u8>(
    input: *mut c_void,
    both: *mut c_void,
    count: *mut c_int,
    _: *mut raw::MPI_Datatype,
) {
    let (op, dtype) = (ReduceOp::from_wire(OP), DType::from_wire(DTYPE));
    if let (Some(op), Some(dtype)) = (op, dtype)
        && let Some(kernels) = kernels(op, dtype)
    {
        let both = both.cast::<u8>();
        // SAFETY: MPI gives two arrays of so many elements of the type that the operation is used with, which has this one's
        // size; they lie apart, and nobody else has them now.
        unsafe { kernels.combine(both, input.cast(), both, (*count).max(0) as usize) };
    }
}

/// The function that stands for a reduction that MPI has not; `None` where there is no such reduction.
fn function(op: ReduceOp, dtype: DType) -> Option<raw::MPI_User_function> {
    // A mean is a sum here, and divided afterwards.
    let op = if op == ReduceOp::Mean && dtype.is_float() { ReduceOp::Sum } else { op };
    macro_rules! functions {
        ($($op:ident: $($dtype:ident),*;)*) => {
            match (op, dtype) {
                $($((ReduceOp::$op, DType::$dtype) => {
                    Some(combine::<{ ReduceOp::$op as u8 }, { DType::$dtype as u8 }>)
                })*)*
                _ => return None,
            }
        };
    }
    Some(functions! {
        Sum: F16, BF16, I8, I16, U8, U16;
        Prod: F16, BF16, I8, I16, U8, U16;
        Min: F16, BF16, F32, F64, U8, U16, U32, U64;
        Max: F16, BF16, F32, F64, U8, U16, U32, U64;
    })
}

/// What a type of a user's reduction knows.
static KEY: AtomicI32 = AtomicI32::new(-1);

/// A user's reduction while MPI has it.
pub(crate) struct Custom {
    op: CustomOp,
    failed: Mutex<Option<String>>,
}

impl Custom {
    pub(crate) fn new(op: &CustomOp) -> Box<Custom> {
        Box::new(Custom { op: op.clone(), failed: Mutex::default() })
    }

    /// What the user's function has said where it failed.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The same by a user's function, which is known by the type.
unsafe extern "C" fn combine_custom(
    input: *mut c_void,
    both: *mut c_void,
    count: *mut c_int,
    datatype: *mut raw::MPI_Datatype,
) {
    let (mut value, mut there) = (std::ptr::null_mut::<c_void>(), 0);
    // SAFETY: MPI gives the type that the call was made with, and allows this question within a reduction.
    let code = unsafe {
        raw::MPI_Type_get_attr(
            *datatype,
            KEY.load(Ordering::Relaxed),
            (&raw mut value).cast::<c_void>(),
            &mut there,
        )
    };
    if code != raw::MPI_SUCCESS as c_int || there == 0 || value.is_null() {
        return;
    }
    // SAFETY: the attribute was set to a value that lives for as long as MPI may use the type.
    let custom = unsafe { &*value.cast_const().cast::<Custom>() };
    let both = both.cast::<u8>();
    // SAFETY: MPI gives two arrays of so many values of the width that the type was made with, apart from each other and nobody else's
    // now. A panic is caught within.
    let done = unsafe { custom.op.combine(both, input.cast(), both, (*count).max(0) as usize) };
    if let Err(why) = done {
        custom.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
    }
}

impl Type {
    /// One byte.
    pub(crate) fn byte() -> Type {
        // SAFETY: a constant of the C shim, which has it from MPI's header.
        Type(unsafe { raw::RSMPI_UINT8_T })
    }

    /// `length` bytes that begin `start` bytes behind the address that it is used with, whatever MPI's `int` holds. To be
    /// [freed](Type::free).
    pub(crate) fn region(start: usize, length: usize, part: usize, _: &Turn) -> Checked<Type> {
        let starts = (0..length).step_by(part.max(1));
        let (mut lengths, mut places) = (Vec::new(), Vec::new());
        for at in starts {
            lengths.push(part.min(length - at) as c_int);
            places.push((start + at) as raw::MPI_Aint);
        }
        let mut made = MaybeUninit::uninit();
        // SAFETY: both arrays have this length, and MPI copies them; a call that succeeds has written the handle.
        unsafe {
            let code = raw::MPI_Type_create_hindexed(
                lengths.len() as c_int,
                lengths.as_ptr(),
                places.as_ptr(),
                raw::RSMPI_UINT8_T,
                made.as_mut_ptr(),
            );
            check("MPI_Type_create_hindexed", code)?;
            Type(made.assume_init()).commit()
        }
    }

    /// A value of a user's reduction. To be [freed](Type::free).
    ///
    /// # Safety
    /// `custom` must stay where it is for as long as MPI may use the type.
    pub(crate) unsafe fn of_custom(custom: &Custom, turn: &mut Turn) -> Checked<Type> {
        // The key is made once.
        turn.library();
        let mut made = MaybeUninit::uninit();
        let width = custom.op.signature().width as c_int;
        // SAFETY: what calls that succeed have written is used only; the functions that are not there need not be. The caller vouches for
        // the value of the attribute.
        unsafe {
            let code = raw::MPI_Type_contiguous(width, raw::RSMPI_UINT8_T, made.as_mut_ptr());
            check("MPI_Type_contiguous", code)?;
            let made = Type(made.assume_init()).commit()?;
            if KEY.load(Ordering::Relaxed) < 0 {
                let mut key = 0;
                let nothing = std::ptr::null_mut();
                let code = raw::MPI_Type_create_keyval(Some(no_copy), Some(no_delete), &mut key, nothing);
                check("MPI_Type_create_keyval", code)?;
                KEY.store(key, Ordering::Relaxed);
            }
            let value = std::ptr::from_ref(custom).cast_mut().cast::<c_void>();
            let code = raw::MPI_Type_set_attr(made.0, KEY.load(Ordering::Relaxed), value);
            check("MPI_Type_set_attr", code)?;
            Ok(made)
        }
    }

    /// # Safety
    /// It is a type that was made and not freed.
    unsafe fn commit(mut self) -> Checked<Type> {
        // SAFETY: the caller's promise.
        check("MPI_Type_commit", unsafe { raw::MPI_Type_commit(&mut self.0) })?;
        Ok(self)
    }

    /// Frees a type that was made here. What MPI still does with it goes on.
    pub(crate) fn free(mut self, _: &Turn) {
        // SAFETY: it was made, and is not used after this, since whoever made it gives it away.
        unsafe { raw::MPI_Type_free(&mut self.0) };
    }
}

/// The attribute goes to no other type.
unsafe extern "C" fn no_copy(
    _: raw::MPI_Datatype,
    _: c_int,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    flag: *mut c_int,
) -> c_int {
    // SAFETY: MPI gives the place for the answer.
    unsafe { *flag = 0 };
    raw::MPI_SUCCESS as c_int
}

unsafe extern "C" fn no_delete(_: raw::MPI_Datatype, _: c_int, _: *mut c_void, _: *mut c_void) -> c_int {
    raw::MPI_SUCCESS as c_int
}

/// The reductions that were made of functions of ringfold's: one for each pair, for as long as MPI runs.
#[derive(Default)]
pub(super) struct Made(Vec<((ReduceOp, DType), Op)>, Option<Op>);

impl Made {
    pub(super) const fn new() -> Self {
        Made(Vec::new(), None)
    }
}

fn make(function: raw::MPI_User_function) -> Checked<Op> {
    let mut made = MaybeUninit::uninit();
    // SAFETY: the function has the form that MPI calls; a call that succeeds has written the handle.
    unsafe {
        check("MPI_Op_create", raw::MPI_Op_create(function, 1, made.as_mut_ptr()))?;
        Ok(Op(made.assume_init()))
    }
}

impl Turn {
    /// The reduction of MPI's for one of ringfold's, and the type to use; `None` where there is no such reduction.
    pub(crate) fn reduction(&mut self, op: ReduceOp, dtype: DType) -> Checked<Option<(Op, Type)>> {
        if let Some(found) = predefined(op, dtype) {
            return Ok(Some(found));
        }
        let Some(function) = function(op, dtype) else { return Ok(None) };
        // SAFETY: constants of the C shim, which has them from MPI's header.
        let of_size = Type(unsafe {
            match dtype.size() {
                1 => raw::RSMPI_UINT8_T,
                2 => raw::RSMPI_UINT16_T,
                4 => raw::RSMPI_UINT32_T,
                _ => raw::RSMPI_UINT64_T,
            }
        });
        let known = &mut self.library().made.0;
        if let Some((_, made)) = known.iter().find(|(known, _)| *known == (op, dtype)) {
            return Ok(Some((*made, of_size)));
        }
        let made = make(function)?;
        known.push(((op, dtype), made));
        Ok(Some((made, of_size)))
    }

    /// The reduction by a user's function, which the type tells.
    pub(crate) fn custom_reduction(&mut self) -> Checked<Op> {
        let known = &mut self.library().made.1;
        match known {
            Some(made) => Ok(*made),
            None => Ok(*known.insert(make(Some(combine_custom))?)),
        }
    }
}

/// What MPI takes for an input that lies where the output does, as far as it is known of this library: a macro of its header, which no
/// binding has.
pub(super) fn in_place(version: &str) -> Option<InPlace> {
    // Of each of the two families, since its beginning.
    let families = [("Open MPI", 1), ("MPICH", usize::MAX), ("Intel", usize::MAX), ("MVAPICH", usize::MAX)];
    let found = families.into_iter().find(|(name, _)| version.contains(name));
    found.map(|(_, value)| InPlace(std::ptr::without_provenance(value)))
}

/// Counts, places and types that a call of MPI refers to until it is done.
#[derive(Default)]
pub(crate) struct Lists {
    /// Of what is sent, or of all blocks.
    pub(crate) counts: Vec<c_int>,
    pub(crate) places: Vec<c_int>,
    pub(super) types: Vec<raw::MPI_Datatype>,
    /// The same of what is received.
    pub(crate) counts_in: Vec<c_int>,
    pub(crate) places_in: Vec<c_int>,
    pub(super) types_in: Vec<raw::MPI_Datatype>,
}

// SAFETY: handles of types are opaque values.
unsafe impl Send for Lists {}

impl Lists {
    pub(crate) fn clear(&mut self) {
        [&mut self.counts, &mut self.places, &mut self.counts_in, &mut self.places_in]
            .into_iter()
            .for_each(Vec::clear);
        self.types.clear();
        self.types_in.clear();
    }

    /// Adds what goes to the next rank.
    pub(crate) fn send(&mut self, count: usize, place: usize, each: Type) {
        self.counts.push(count as c_int);
        self.places.push(place as c_int);
        self.types.push(each.0);
    }

    /// Adds what comes from the next rank.
    pub(crate) fn receive(&mut self, count: usize, place: usize, each: Type) {
        self.counts_in.push(count as c_int);
        self.places_in.push(place as c_int);
        self.types_in.push(each.0);
    }
}

impl Comm {
    /// Begins to send `count` of a type.
    ///
    /// # Safety
    /// The memory must stay as it is until the request is done.
    pub(crate) unsafe fn send_of(
        self,
        data: *const u8,
        count: usize,
        each: Type,
        to: usize,
        tag: usize,
        _: &Turn,
    ) -> Checked<Request> {
        let mut request = MaybeUninit::uninit();
        let (count, to, tag) = (count as c_int, to as c_int, tag as c_int);
        // SAFETY: the caller vouches for the memory; a call that succeeds has written the request.
        unsafe {
            let code = raw::MPI_Isend(data.cast(), count, each.0, to, tag, self.0, request.as_mut_ptr());
            check("MPI_Isend", code)?;
            Ok(Request::of(request.assume_init()))
        }
    }

    /// Begins to receive `count` of a type.
    ///
    /// # Safety
    /// The memory must be writable and touched by nobody until the request is done.
    pub(crate) unsafe fn receive_of(
        self,
        data: *mut u8,
        count: usize,
        each: Type,
        from: usize,
        tag: usize,
        _: &Turn,
    ) -> Checked<Request> {
        let mut request = MaybeUninit::uninit();
        let (count, from, tag) = (count as c_int, from as c_int, tag as c_int);
        // SAFETY: as in `send_of`.
        unsafe {
            let code = raw::MPI_Irecv(data.cast(), count, each.0, from, tag, self.0, request.as_mut_ptr());
            check("MPI_Irecv", code)?;
            Ok(Request::of(request.assume_init()))
        }
    }
}

/// What this MPI takes for an input that lies where the output does.
#[derive(Clone, Copy)]
pub(crate) struct InPlace(pub(super) *const c_void);

// SAFETY: a constant, never followed.
unsafe impl Send for InPlace {}
// SAFETY: as above.
unsafe impl Sync for InPlace {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reduction_is_mpis_or_ringfolds() {
        for dtype in DType::ALL {
            for op in ReduceOp::ALL {
                let (own, mpis) = (function(op, dtype).is_some(), predefined(op, dtype).is_some());
                assert_eq!(own || mpis, op.supports(dtype), "{op} of {dtype}");
                assert!(!(own && mpis), "{op} of {dtype} twice");
            }
        }
    }

    #[test]
    fn what_stands_for_in_place_is_known_of_two_families() {
        assert!(in_place("Open MPI v4.1.4, package: Debian").is_some_and(|InPlace(place)| place.addr() == 1));
        assert!(in_place("MPICH Version: 4.0.2").is_some_and(|InPlace(place)| place.addr() == usize::MAX));
        assert!(in_place("Some MPI 1.0").is_none());
    }
}
