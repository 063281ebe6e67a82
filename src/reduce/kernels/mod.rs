//! The loops that reduce memory, one set for each pair of operation and element type, behind a table.
//!
//! Vocabulary: a *rule* says how two elements become one ([`rules`]); a *loop* runs a rule over memory
//! ([`loops`]); the table here holds every loop compiled for every rule and type as plain function pointers.
//! Whoever reduces looks the pointers up once a message and never asks for the type again.

mod halves;
mod loops;
mod rules;
#[cfg(test)]
mod tests;

use super::ReduceOp;
use crate::tensor::DType;
use loops::lanes;

type Combine = unsafe fn(into: *mut u8, a: *const u8, b: *const u8, count: usize);
type Fold = unsafe fn(into: *mut u8, sources: &[*const u8], count: usize);
type Finish = unsafe fn(data: *mut u8, count: usize, world: usize);

/// The kernels of one operation on one element type; [`kernels`] finds them.
///
/// Every result has the bits that [`oracle`](super::oracle) computes, except that a NaN may be any NaN. The
/// order of the two operands of [`combine`](Kernels::combine) makes no difference, with the same exception;
/// for `Min` and `Max`, and for whatever is computed from 16-bit floats, there is no exception, because there
/// a NaN result is always the positive quiet one without payload.
///
/// Memory need not be aligned for the element. Where `count` is 0 no pointer is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Kernels {
    size: usize,
    combine: Combine,
    fold: Fold,
    finish: Option<Finish>,
}

/// The kernels that reduce `dtype` by `op`: a table look-up. `None` where [`ReduceOp::supports`] says no.
///
/// ```
/// use ringfold::reduce::kernels;
/// use ringfold::{DType, ReduceOp};
/// assert!(kernels(ReduceOp::Sum, DType::BF16).is_some());
/// assert!(kernels(ReduceOp::BitOr, DType::F32).is_none());
/// ```
pub fn kernels(op: ReduceOp, dtype: DType) -> Option<&'static Kernels> {
    TABLE[row(op)][column(dtype)].as_ref()
}

impl Kernels {
    /// `into[i] = a[i] op b[i]`. [`Mean`](ReduceOp::Mean) adds.
    ///
    /// ```
    /// use ringfold::reduce::kernels;
    /// use ringfold::{DType, ReduceOp};
    /// let mut mine = [1.0f32, 2.0, 3.0];
    /// let theirs = [10.0f32, 20.0, 30.0];
    /// let sum = kernels(ReduceOp::Sum, DType::F32).unwrap();
    /// let data = mine.as_mut_ptr().cast::<u8>();
    /// // SAFETY: both arrays hold three f32; `data` is target and source at once, `theirs` is apart from it.
    /// unsafe { sum.combine(data, data, theirs.as_ptr().cast(), 3) };
    /// assert_eq!(mine, [11.0, 22.0, 33.0]);
    /// ```
    ///
    /// # Safety
    ///
    /// `a` and `b` must be readable and `into` writable for `count` elements of the type, and nobody else may
    /// write to them meanwhile. `into` may be `a`, or `b`, or both; otherwise it must not overlap them.
    #[inline]
    pub unsafe fn combine(&self, into: *mut u8, a: *const u8, b: *const u8, count: usize) {
        debug_assert!(same_or_apart(into, a, count * self.size), "`into` overlaps `a` in part");
        debug_assert!(same_or_apart(into, b, count * self.size), "`into` overlaps `b` in part");
        // SAFETY: the caller's promise is what the loop asks for.
        unsafe { (self.combine)(into, a, b, count) }
    }

    /// `into[i] = sources[0][i] op sources[1][i] op ...`, from left to right. 16-bit floats are gathered in
    /// `f32` and rounded once, at the end. A single source is copied.
    ///
    /// ```
    /// use ringfold::reduce::kernels;
    /// use ringfold::{DType, ReduceOp};
    /// let ranks = [[3i32, -1], [2, 7], [5, 0]];
    /// let mut least = [0i32; 2];
    /// let min = kernels(ReduceOp::Min, DType::I32).unwrap();
    /// let sources = ranks.each_ref().map(|rank| rank.as_ptr().cast());
    /// // SAFETY: every array holds two i32, and `least` is apart from the sources.
    /// unsafe { min.fold(least.as_mut_ptr().cast(), &sources, 2) };
    /// assert_eq!(least, [2, -1]);
    /// ```
    ///
    /// # Panics
    ///
    /// Where there is no source.
    ///
    /// # Safety
    ///
    /// Every source must be readable and `into` writable for `count` elements of the type, and nobody else may
    /// write to them meanwhile. `into` may be one or more of the sources; otherwise it must not overlap them.
    #[inline]
    pub unsafe fn fold(&self, into: *mut u8, sources: &[*const u8], count: usize) {
        debug_assert!(
            sources.iter().all(|source| same_or_apart(into, *source, count * self.size)),
            "`into` overlaps a source in part"
        );
        match *sources {
            [] => panic!("a fold needs at least one source"),
            // SAFETY: the caller promises that the source is readable and `into` writable for these bytes; the
            // two may be the same, which `copy` allows.
            [source] => unsafe { into.copy_from(source, count * self.size) },
            // SAFETY: the caller's promise is what the loop asks for. Two 16-bit floats are rounded once by
            // `combine` as well.
            [a, b] => unsafe { (self.combine)(into, a, b, count) },
            // SAFETY: as above, and there is a source.
            _ => unsafe { (self.fold)(into, sources, count) },
        }
    }

    /// What remains to be done when every rank's elements are combined: [`Mean`](ReduceOp::Mean) divides each
    /// by `world` (16-bit floats in `f32`, rounded once); every other operation does nothing.
    ///
    /// # Safety
    ///
    /// `data` must be readable and writable for `count` elements of the type, and nobody else may use it
    /// meanwhile.
    #[inline]
    pub unsafe fn finish(&self, data: *mut u8, count: usize, world: usize) {
        if let Some(finish) = self.finish {
            // SAFETY: the caller's promise is what the loop asks for.
            unsafe { finish(data, count, world) }
        }
    }

    /// Whether [`finish`](Kernels::finish) does anything.
    #[inline]
    pub fn finishes(&self) -> bool {
        self.finish.is_some()
    }
}

/// Whether two stretches of this many bytes are one and the same, or have no byte in common.
fn same_or_apart(into: *const u8, source: *const u8, bytes: usize) -> bool {
    into == source || into.addr().abs_diff(source.addr()) >= bytes
}

type Table = [[Option<Kernels>; DType::ALL.len()]; ReduceOp::ALL.len()];

static TABLE: Table = {
    let mut table: Table = [[None; DType::ALL.len()]; ReduceOp::ALL.len()];
    let mut i = 0;
    while i < ReduceOp::ALL.len() {
        let op = ReduceOp::ALL[i];
        let mut j = 0;
        while j < DType::ALL.len() {
            let dtype = DType::ALL[j];
            table[row(op)][column(dtype)] = entry(op, dtype);
            j += 1;
        }
        i += 1;
    }
    table
};

/// The numbers of the wire begin at 1 and have no gaps; a gap would fail to compile, in the table above.
const fn row(op: ReduceOp) -> usize {
    op as usize - 1
}

const fn column(dtype: DType) -> usize {
    dtype as usize - 1
}

const fn entry(op: ReduceOp, dtype: DType) -> Option<Kernels> {
    /// The kernels of a rule for the types listed, `None` for the others.
    macro_rules! of {
        ($rule:ident: $($name:ident = $t:ty),*) => {
            match dtype {
                $(DType::$name => Some(Kernels {
                    size: size_of::<$t>(),
                    combine: loops::combine::<$t, rules::$rule, { lanes(size_of::<$t>()) }>,
                    fold: loops::fold::<$t, rules::$rule, { lanes(size_of::<$t>()) }>,
                    finish: None,
                }),)*
                _ => None,
            }
        };
    }
    macro_rules! integers {
        ($rule:ident) => {
            of!($rule: I8 = i8, I16 = i16, I32 = i32, I64 = i64, U8 = u8, U16 = u16, U32 = u32, U64 = u64)
        };
    }
    macro_rules! numbers {
        ($rule:ident) => {
            match of!($rule: F16 = half::f16, BF16 = half::bf16, F32 = f32, F64 = f64) {
                None => integers!($rule),
                floats => floats,
            }
        };
    }
    match op {
        ReduceOp::Sum => numbers!(Sum),
        ReduceOp::Prod => numbers!(Prod),
        ReduceOp::Min => numbers!(Min),
        ReduceOp::Max => numbers!(Max),
        ReduceOp::Mean => match (entry(ReduceOp::Sum, dtype), finish(dtype)) {
            (Some(sum), Some(finish)) => Some(Kernels { finish: Some(finish), ..sum }),
            _ => None,
        },
        ReduceOp::BitAnd => integers!(BitAnd),
        ReduceOp::BitOr => integers!(BitOr),
        ReduceOp::BitXor => integers!(BitXor),
    }
}

const fn finish(dtype: DType) -> Option<Finish> {
    match dtype {
        DType::F16 => Some(loops::divide::<half::f16>),
        DType::BF16 => Some(loops::divide::<half::bf16>),
        DType::F32 => Some(loops::divide::<f32>),
        DType::F64 => Some(loops::divide::<f64>),
        _ => None,
    }
}
