//! What every kernel must compute, one element at a time, written to be believed rather than to be fast.
//!
//! Each function panics where [`ReduceOp::supports`] says no.

use super::ReduceOp;
use crate::tensor::{DType, Element};
use half::{bf16, f16};
use std::any::Any;

/// `a` op `b`. [`Mean`](ReduceOp::Mean) adds, as [`Sum`](ReduceOp::Sum) does; [`finish`] divides.
///
/// ```
/// use ringfold::ReduceOp;
/// use ringfold::reduce::oracle;
/// assert_eq!(oracle::combine(ReduceOp::Sum, 200u8, 100), 44);
/// assert!(oracle::combine(ReduceOp::Min, 1.0, f32::NAN).is_nan());
/// assert!(oracle::combine(ReduceOp::Max, -0.0f64, 0.0).is_sign_positive());
/// ```
pub fn combine<T: Element>(op: ReduceOp, a: T, b: T) -> T {
    fold(op, &[a, b])
}

/// The values combined from left to right. 16-bit floats are gathered in `f32` and rounded once, at the end.
/// One value comes back as it is, bit for bit.
///
/// # Panics
///
/// Where there is no value.
///
/// ```
/// use half::f16;
/// use ringfold::ReduceOp;
/// use ringfold::reduce::oracle;
/// let ones_and_a_big_one = [f16::from_f32(2048.0), f16::ONE, f16::ONE];
/// assert_eq!(oracle::fold(ReduceOp::Sum, &ones_and_a_big_one), f16::from_f32(2050.0));
/// ```
pub fn fold<T: Element>(op: ReduceOp, values: &[T]) -> T {
    match T::DTYPE {
        DType::F16 => fold_as::<T, f16>(op, values),
        DType::BF16 => fold_as::<T, bf16>(op, values),
        DType::F32 => fold_as::<T, f32>(op, values),
        DType::F64 => fold_as::<T, f64>(op, values),
        DType::I8 => fold_as::<T, i8>(op, values),
        DType::I16 => fold_as::<T, i16>(op, values),
        DType::I32 => fold_as::<T, i32>(op, values),
        DType::I64 => fold_as::<T, i64>(op, values),
        DType::U8 => fold_as::<T, u8>(op, values),
        DType::U16 => fold_as::<T, u16>(op, values),
        DType::U32 => fold_as::<T, u32>(op, values),
        DType::U64 => fold_as::<T, u64>(op, values),
    }
}

/// What remains to be done when everything has been combined: [`Mean`](ReduceOp::Mean) divides by the world
/// size (16-bit floats in `f32`, rounded once), every other operation gives the value back.
///
/// ```
/// use ringfold::ReduceOp;
/// use ringfold::reduce::oracle;
/// assert_eq!(oracle::finish(ReduceOp::Mean, 10.0f32, 4), 2.5);
/// assert_eq!(oracle::finish(ReduceOp::Sum, 10.0f32, 4), 10.0);
/// ```
pub fn finish<T: Element>(op: ReduceOp, value: T, world: usize) -> T {
    assert_supported::<T>(op);
    if op != ReduceOp::Mean {
        return value;
    }
    match T::DTYPE {
        DType::F16 => same(f16::from_f32(same::<T, f16>(value).to_f32() / world as f32)),
        DType::BF16 => same(bf16::from_f32(same::<T, bf16>(value).to_f32() / world as f32)),
        DType::F32 => same(same::<T, f32>(value) / world as f32),
        DType::F64 => same(same::<T, f64>(value) / world as f64),
        _ => unreachable!("no integer has a mean"),
    }
}

fn assert_supported<T: Element>(op: ReduceOp) {
    assert!(op.supports(T::DTYPE), "{op} is not defined for {}", T::DTYPE);
}

/// The same value under the other name of its type.
fn same<T: Element, U: Element>(value: T) -> U {
    let value: &dyn Any = &value;
    *value.downcast_ref().expect("each element type has a DTYPE of its own")
}

fn fold_as<T: Element, U: Element + Scalar>(op: ReduceOp, values: &[T]) -> T {
    assert_supported::<T>(op);
    let mut values = values.iter().map(|value| same::<T, U>(*value));
    let first = values.next().expect("at least one value");
    let Some(second) = values.next() else {
        return same(first);
    };
    let mut sum = U::apply(op, first.widen(), second.widen());
    for value in values {
        sum = U::apply(op, sum, value.widen());
    }
    same(U::narrow(sum))
}

/// A type, the wider type in which it is reduced (often itself) and how.
trait Scalar {
    type Wide;
    fn widen(self) -> Self::Wide;
    fn apply(op: ReduceOp, a: Self::Wide, b: Self::Wide) -> Self::Wide;
    fn narrow(wide: Self::Wide) -> Self;
}

macro_rules! integer {
    ($($t:ty)*) => {$(
        impl Scalar for $t {
            type Wide = $t;

            fn widen(self) -> $t {
                self
            }

            fn apply(op: ReduceOp, a: $t, b: $t) -> $t {
                match op {
                    ReduceOp::Sum => a.wrapping_add(b),
                    ReduceOp::Prod => a.wrapping_mul(b),
                    ReduceOp::Min => if a < b { a } else { b },
                    ReduceOp::Max => if a > b { a } else { b },
                    ReduceOp::BitAnd => a & b,
                    ReduceOp::BitOr => a | b,
                    ReduceOp::BitXor => a ^ b,
                    ReduceOp::Mean => unreachable!("no integer has a mean"),
                }
            }

            fn narrow(wide: $t) -> $t {
                wide
            }
        }
    )*};
}

integer! { i8 i16 i32 i64 u8 u16 u32 u64 }

macro_rules! float {
    ($t:ident) => {
        impl Scalar for $t {
            type Wide = $t;

            fn widen(self) -> $t {
                self
            }

            fn apply(op: ReduceOp, a: $t, b: $t) -> $t {
                match op {
                    ReduceOp::Sum | ReduceOp::Mean => a + b,
                    ReduceOp::Prod => a * b,
                    ReduceOp::Min | ReduceOp::Max if a.is_nan() || b.is_nan() => $t::NAN,
                    ReduceOp::Min | ReduceOp::Max if a == 0.0 && b == 0.0 => {
                        let wants_negative = op == ReduceOp::Min;
                        if a.is_sign_negative() == wants_negative { a } else { b }
                    }
                    ReduceOp::Min => {
                        if a < b {
                            a
                        } else {
                            b
                        }
                    }
                    ReduceOp::Max => {
                        if a > b {
                            a
                        } else {
                            b
                        }
                    }
                    ReduceOp::BitAnd | ReduceOp::BitOr | ReduceOp::BitXor => {
                        unreachable!("floats have no bitwise operations")
                    }
                }
            }

            fn narrow(wide: $t) -> $t {
                wide
            }
        }
    };
}

float! { f32 }
float! { f64 }

macro_rules! half_float {
    ($t:ident) => {
        impl Scalar for $t {
            type Wide = f32;

            fn widen(self) -> f32 {
                self.to_f32()
            }

            fn apply(op: ReduceOp, a: f32, b: f32) -> f32 {
                <f32 as Scalar>::apply(op, a, b)
            }

            fn narrow(wide: f32) -> $t {
                $t::from_f32(wide)
            }
        }
    };
}

half_float! { f16 }
half_float! { bf16 }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_wrap() {
        assert_eq!(combine(ReduceOp::Sum, i32::MAX, 1), i32::MIN);
        assert_eq!(combine(ReduceOp::Prod, 1u64 << 63, 2), 0);
        assert_eq!(combine(ReduceOp::Min, -3i8, 4), -3);
        assert_eq!(combine(ReduceOp::Max, 0u16, 65535), 65535);
        assert_eq!(fold(ReduceOp::BitXor, &[0b1100u8, 0b1010, 1]), 0b0111);
    }

    #[test]
    fn zeros_are_ordered_and_nan_propagates() {
        for [a, b] in [[0.0f32, -0.0], [-0.0, 0.0]] {
            assert!(combine(ReduceOp::Min, a, b).is_sign_negative());
            assert!(combine(ReduceOp::Max, a, b).is_sign_positive());
        }
        for op in [ReduceOp::Min, ReduceOp::Max] {
            assert!(combine(op, f64::NAN, f64::INFINITY).is_nan());
            assert!(combine(op, f16::NEG_INFINITY, f16::NAN).is_nan());
        }
        assert_eq!(combine(ReduceOp::Max, f64::NEG_INFINITY, f64::MIN), f64::MIN);
    }

    #[test]
    fn sixteen_bits_round_once_a_fold() {
        let [big, one] = [256.0, 1.0].map(bf16::from_f32);
        let twice = combine(ReduceOp::Sum, combine(ReduceOp::Sum, big, one), one);
        assert_eq!(twice, big, "256 + 1 rounds back to 256, twice");
        assert_eq!(fold(ReduceOp::Sum, &[big, one, one]), bf16::from_f32(258.0));
    }

    #[test]
    fn only_the_mean_is_finished() {
        assert_eq!(finish(ReduceOp::Mean, f16::from_f32(1.0), 3), f16::from_f32(1.0 / 3.0));
        assert_eq!(finish(ReduceOp::Prod, 7i64, 3), 7);
    }

    #[test]
    #[should_panic(expected = "mean is not defined for i32")]
    fn what_is_not_supported_panics() {
        combine(ReduceOp::Mean, 1, 2);
    }
}
