//! How two elements become one. Everything here is inlined into a loop and written without branches that
//! depend on the data, so that the compiler can turn the loop into vector instructions.

use super::halves;
use half::{bf16, f16};

/// An operation on elements of type `T`.
pub(super) trait Rule<T> {
    /// What the operation works on between reading and writing: `f32` for the sum of 16-bit floats.
    type Wide: Copy + Default;

    fn widen(value: T) -> Self::Wide;
    fn apply(a: Self::Wide, b: Self::Wide) -> Self::Wide;
    fn narrow(wide: Self::Wide) -> T;
}

/// A float that can be divided by the size of the world.
pub(super) trait Divide: Copy {
    /// The size of the world, rounded once to what the division works in.
    type World: Copy;

    fn world(world: usize) -> Self::World;
    fn divide(self, world: Self::World) -> Self;
}

pub(super) struct Sum;
pub(super) struct Prod;
pub(super) struct Min;
pub(super) struct Max;
pub(super) struct BitAnd;
pub(super) struct BitOr;
pub(super) struct BitXor;

/// A rule that works on the elements as they are.
macro_rules! rule {
    ($rule:ident, $t:ty, $apply:expr) => {
        impl Rule<$t> for $rule {
            type Wide = $t;

            #[inline(always)]
            fn widen(value: $t) -> $t {
                value
            }

            #[inline(always)]
            fn apply(a: $t, b: $t) -> $t {
                $apply(a, b)
            }

            #[inline(always)]
            fn narrow(wide: $t) -> $t {
                wide
            }
        }
    };
}

/// A rule that works on 16-bit floats in `f32`.
macro_rules! widened_rule {
    ($rule:ident, $t:ty, $widen:path, $narrow:path, $apply:expr) => {
        impl Rule<$t> for $rule {
            type Wide = f32;

            #[inline(always)]
            fn widen(value: $t) -> f32 {
                $widen(value.to_bits())
            }

            #[inline(always)]
            fn apply(a: f32, b: f32) -> f32 {
                $apply(a, b)
            }

            #[inline(always)]
            fn narrow(wide: f32) -> $t {
                <$t>::from_bits($narrow(wide))
            }
        }
    };
}

macro_rules! integers {
    ($($t:ty)*) => {$(
        rule!(Sum, $t, <$t>::wrapping_add);
        rule!(Prod, $t, <$t>::wrapping_mul);
        rule!(Min, $t, Ord::min);
        rule!(Max, $t, Ord::max);
        rule!(BitAnd, $t, std::ops::BitAnd::bitand);
        rule!(BitOr, $t, std::ops::BitOr::bitor);
        rule!(BitXor, $t, std::ops::BitXor::bitxor);
    )*};
}

integers! { i8 i16 i32 i64 u8 u16 u32 u64 }

/// Values that compare equal have equal bits, or are zeros, of which the bits say which is the lesser: a common
/// sign bit is kept, of two different ones `Min` keeps the set one and `Max` the clear one.
macro_rules! floats {
    ($($t:ident, $nan:literal);*) => {$(
        rule!(Sum, $t, std::ops::Add::add);
        rule!(Prod, $t, std::ops::Mul::mul);
        rule!(Min, $t, |a: $t, b: $t| {
            let tie = $t::from_bits(if a == b { a.to_bits() | b.to_bits() } else { $nan });
            let rest = if b < a { b } else { tie };
            if a < b { a } else { rest }
        });
        rule!(Max, $t, |a: $t, b: $t| {
            let tie = $t::from_bits(if a == b { a.to_bits() & b.to_bits() } else { $nan });
            let rest = if b > a { b } else { tie };
            if a > b { a } else { rest }
        });

        impl Divide for $t {
            type World = $t;

            #[inline(always)]
            fn world(world: usize) -> $t {
                world as $t
            }

            #[inline(always)]
            fn divide(self, world: $t) -> $t {
                self / world
            }
        }
    )*};
}

floats! { f32, 0x7fc0_0000; f64, 0x7ff8_0000_0000_0000 }

/// `Min` and `Max` need no arithmetic: the bits are compared as integers.
macro_rules! half_floats {
    ($($t:ident, $widen:path, $narrow:path);*) => {$(
        widened_rule!(Sum, $t, $widen, $narrow, std::ops::Add::add);
        widened_rule!(Prod, $t, $widen, $narrow, std::ops::Mul::mul);
        rule!(Min, $t, |a: $t, b: $t| {
            let (a, b) = (a.to_bits(), b.to_bits());
            let lesser = if halves::rank(a) < halves::rank(b) { a } else { b };
            let nan = either_is_nan::<{ $t::INFINITY.to_bits() }>(a, b);
            $t::from_bits(if nan { $t::NAN.to_bits() } else { lesser })
        });
        rule!(Max, $t, |a: $t, b: $t| {
            let (a, b) = (a.to_bits(), b.to_bits());
            let greater = if halves::rank(a) > halves::rank(b) { a } else { b };
            let nan = either_is_nan::<{ $t::INFINITY.to_bits() }>(a, b);
            $t::from_bits(if nan { $t::NAN.to_bits() } else { greater })
        });

        impl Divide for $t {
            type World = f32;

            #[inline(always)]
            fn world(world: usize) -> f32 {
                world as f32
            }

            #[inline(always)]
            fn divide(self, world: f32) -> $t {
                $t::from_bits($narrow($widen(self.to_bits()) / world))
            }
        }
    )*};
}

half_floats! {
    f16, halves::f16_to_f32, halves::f32_to_f16;
    bf16, halves::bf16_to_f32, halves::f32_to_bf16
}

/// Whether one of two 16-bit floats of the format with this infinity is a NaN.
#[inline(always)]
fn either_is_nan<const INFINITY: u16>(a: u16, b: u16) -> bool {
    let [a, b] = [a, b].map(|bits| bits & 0x7fff);
    (a > INFINITY) | (b > INFINITY)
}
