//! Elements as the suites see them: how to draw them, and what a reduction of them is by definition.

use fastrand::Rng;
use half::{bf16, f16};
use ringfold::{DType, Element, ReduceOp};

/// What values are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Draw {
    /// To be moved only: any bits, NaN payloads included.
    Bits,
    /// To be reduced so, with one result in whatever order up to eight of them are combined.
    Exact(ReduceOp),
    /// To be reduced with a result that depends on the order.
    Rough,
    /// To be summed up with large terms that cancel, so that nearly every other order has other bits.
    Cancelling,
}

/// An element with its arithmetic written from the definition.
pub trait Value: Element {
    fn draw(draw: Draw, random: &mut Rng) -> Self;
    /// `a` op `b`; the mean adds.
    fn apply(op: ReduceOp, a: Self, b: Self) -> Self;
    /// The last step of a mean.
    fn divide(self, world: usize) -> Self;
    fn is_a_nan(self) -> bool;
}

macro_rules! integers {
    ($($t:ty),*) => {$(
        impl Value for $t {
            fn draw(_: Draw, random: &mut Rng) -> Self {
                // Sums and products wrap, so that any value is exact in any order.
                if random.u8(..4) == 0 { random.u8(..3) as $t } else { random.u64(..) as $t }
            }

            fn apply(op: ReduceOp, a: Self, b: Self) -> Self {
                match op {
                    ReduceOp::Sum => a.wrapping_add(b),
                    ReduceOp::Prod => a.wrapping_mul(b),
                    ReduceOp::Min => a.min(b),
                    ReduceOp::Max => a.max(b),
                    ReduceOp::BitAnd => a & b,
                    ReduceOp::BitOr => a | b,
                    ReduceOp::BitXor => a ^ b,
                    _ => unreachable!("no integer has this"),
                }
            }

            fn divide(self, _: usize) -> Self {
                unreachable!("no integer has a mean")
            }

            fn is_a_nan(self) -> bool {
                false
            }
        }
    )*};
}

integers!(i8, i16, i32, i64, u8, u16, u32, u64);

macro_rules! floats {
    ($($t:ident, $bits:ty, $wide:ident, $narrow:expr);*) => {$(
        impl Value for $t {
            fn draw(draw: Draw, random: &mut Rng) -> Self {
                let narrow: fn($wide) -> $t = $narrow;
                let bits = $t::from_bits(random.u64(..) as $bits);
                match draw {
                    Draw::Bits => bits,
                    Draw::Rough => {
                        let scale = $wide::from([0.125f32, 1.0, 1.0, 16.0][random.usize(..4)]);
                        narrow((random.$wide() - 0.5) * scale)
                    }
                    Draw::Cancelling => {
                        let large = [1024.0, -1024.0, 96.0, -96.0, 0.0, 0.0][random.usize(..6)];
                        narrow($wide::from(large as f32) + random.$wide() - 0.5)
                    }
                    Draw::Exact(ReduceOp::Prod) => {
                        narrow($wide::from([1.0f32, -1.0, 2.0, -2.0, 0.5, -0.5, 1.0, 0.25][random.usize(..8)]))
                    }
                    Draw::Exact(ReduceOp::Min | ReduceOp::Max) => match random.u8(..8) {
                        0 => $t::NAN,
                        1 => $t::INFINITY,
                        2 => $t::NEG_INFINITY,
                        3 => narrow(0.0),
                        4 => narrow(-0.0),
                        _ => bits,
                    },
                    // Quarters up to 3: eight of them add up exactly in the 8 bits of a bf16.
                    Draw::Exact(_) => narrow($wide::from(random.i8(-12..=12)) / 4.0),
                }
            }

            fn apply(op: ReduceOp, a: Self, b: Self) -> Self {
                let narrow: fn($wide) -> $t = $narrow;
                let (x, y) = ($wide::from(a), $wide::from(b));
                match op {
                    ReduceOp::Sum | ReduceOp::Mean => narrow(x + y),
                    ReduceOp::Prod => narrow(x * y),
                    ReduceOp::Min | ReduceOp::Max if x.is_nan() => a,
                    ReduceOp::Min | ReduceOp::Max if y.is_nan() => b,
                    // Of numbers, the total order is the usual one with -0 below +0.
                    ReduceOp::Min => if x.total_cmp(&y).is_le() { a } else { b },
                    ReduceOp::Max => if x.total_cmp(&y).is_ge() { a } else { b },
                    _ => unreachable!("no float has this"),
                }
            }

            fn divide(self, world: usize) -> Self {
                let narrow: fn($wide) -> $t = $narrow;
                narrow($wide::from(self) / world as $wide)
            }

            fn is_a_nan(self) -> bool {
                self.is_nan()
            }
        }
    )*};
}

floats!(
    f16, u16, f32, f16::from_f32;
    bf16, u16, f32, bf16::from_f32;
    f32, u32, f32, |x| x;
    f64, u64, f64, |x| x
);

/// Evaluates an expression with `$T` being the Rust type of a [`DType`].
macro_rules! with_type {
    ($dtype:expr, $T:ident => $body:expr) => {
        $crate::calls::value::with_type!(@arms $dtype, $T, $body,
            F16 half::f16, BF16 half::bf16, F32 f32, F64 f64,
            I8 i8, I16 i16, I32 i32, I64 i64, U8 u8, U16 u16, U32 u32, U64 u64)
    };
    (@arms $dtype:expr, $T:ident, $body:expr, $($name:ident $rust:ty),*) => {
        match $dtype {
            $(ringfold::DType::$name => {
                type $T = $rust;
                $body
            })*
            other => unreachable!("a new element type: {other}"),
        }
    };
}
pub(crate) use with_type;

/// The bytes of these values.
pub fn bytes_of<T: Value>(values: &[T]) -> &[u8] {
    // SAFETY: elements are plain data without padding.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), std::mem::size_of_val(values)) }
}

/// The values that these bytes are.
pub fn values_of<T: Value>(bytes: &[u8]) -> Vec<T> {
    bytes
        .chunks_exact(size_of::<T>())
        // SAFETY: as many bytes as the type has, any of which are a value; read without asking for alignment.
        .map(|chunk| unsafe { chunk.as_ptr().cast::<T>().read_unaligned() })
        .collect()
}

/// The operations that a type supports, and one that it does not.
pub fn ops(dtype: DType) -> impl Iterator<Item = ReduceOp> {
    ReduceOp::ALL.into_iter().filter(move |op| op.supports(dtype))
}

/// Whether two results are one: bit for bit, but for which NaN a minimum or maximum is.
pub fn same(dtype: DType, op: Option<ReduceOp>, a: &[u8], b: &[u8]) -> bool {
    if a == b {
        return true;
    }
    if a.len() != b.len() || !dtype.is_float() || !matches!(op, Some(ReduceOp::Min | ReduceOp::Max)) {
        return false;
    }
    with_type!(dtype, T => {
        let pairs = values_of::<T>(a).into_iter().zip(values_of::<T>(b));
        pairs.into_iter().all(|(a, b)| bytes_of(&[a]) == bytes_of(&[b]) || (a.is_a_nan() && b.is_a_nan()))
    })
}
