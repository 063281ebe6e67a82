//! How two elements become one. Everything here is inlined into a loop and written without branches that
//! depend on the data, so that the compiler can turn the loop into vector instructions.

use super::halves;
use super::sets::Set;
use half::{bf16, f16};

/// An operation on elements of type `T`.
pub(super) trait Rule<T> {
    /// What the operation works on between reading and writing: `f32` for the sum of 16-bit floats.
    type Wide: Copy;

    fn widen<S: Set, const N: usize>(set: S, values: [T; N]) -> [Self::Wide; N];
    fn apply(a: Self::Wide, b: Self::Wide) -> Self::Wide;
    fn narrow<S: Set, const N: usize>(set: S, wide: [Self::Wide; N]) -> [T; N];
}

/// A float that can be divided by the size of the world.
pub(super) trait Divide: Copy {
    /// The size of the world, rounded once to what the division works in.
    type World: Copy;

    fn world(world: usize) -> Self::World;
    fn divide<S: Set, const N: usize>(set: S, values: [Self; N], world: Self::World) -> [Self; N];
}

/// A 16-bit float: its conversions, a block at a time.
trait Half: Sized {
    fn widen<S: Set, const N: usize>(set: S, values: [Self; N]) -> [f32; N];
    fn narrow<S: Set, const N: usize>(set: S, wide: [f32; N]) -> [Self; N];
}

impl Half for f16 {
    #[inline(always)]
    fn widen<S: Set, const N: usize>(set: S, values: [f16; N]) -> [f32; N] {
        set.widen(values)
    }

    #[inline(always)]
    fn narrow<S: Set, const N: usize>(set: S, wide: [f32; N]) -> [f16; N] {
        set.narrow(wide)
    }
}

impl Half for bf16 {
    /// The first of every two, then the second of every two: so no value changes its place in a register.
    #[inline(always)]
    fn widen<S: Set, const N: usize>(_: S, values: [bf16; N]) -> [f32; N] {
        let mut wide = [0.0; N];
        let (pairs, single) = values.as_chunks::<2>();
        for (i, pair) in pairs.iter().enumerate() {
            let [first, second] = halves::bf16s_to_f32s(pair.map(bf16::to_bits));
            wide[i] = first;
            wide[N / 2 + i] = second;
        }
        if let [value] = single {
            wide[N - 1] = halves::bf16_to_f32(value.to_bits());
        }
        wide
    }

    #[inline(always)]
    fn narrow<S: Set, const N: usize>(_: S, wide: [f32; N]) -> [bf16; N] {
        let mut values = [bf16::ZERO; N];
        let (pairs, single) = values.as_chunks_mut::<2>();
        for (i, pair) in pairs.iter_mut().enumerate() {
            *pair = halves::f32s_to_bf16s([wide[i], wide[N / 2 + i]]).map(bf16::from_bits);
        }
        if let [value] = single {
            *value = bf16::from_bits(halves::f32_to_bf16(wide[N - 1]));
        }
        values
    }
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
            fn widen<S: Set, const N: usize>(_: S, values: [$t; N]) -> [$t; N] {
                values
            }

            #[inline(always)]
            fn apply(a: $t, b: $t) -> $t {
                $apply(a, b)
            }

            #[inline(always)]
            fn narrow<S: Set, const N: usize>(_: S, wide: [$t; N]) -> [$t; N] {
                wide
            }
        }
    };
}

/// A rule that works on 16-bit floats in `f32`.
macro_rules! widened_rule {
    ($rule:ident, $t:ty, $apply:expr) => {
        impl Rule<$t> for $rule {
            type Wide = f32;

            #[inline(always)]
            fn widen<S: Set, const N: usize>(set: S, values: [$t; N]) -> [f32; N] {
                <$t>::widen(set, values)
            }

            #[inline(always)]
            fn apply(a: f32, b: f32) -> f32 {
                $apply(a, b)
            }

            #[inline(always)]
            fn narrow<S: Set, const N: usize>(set: S, wide: [f32; N]) -> [$t; N] {
                <$t>::narrow(set, wide)
            }
        }
    };
}

/// A rule that compares 16-bit floats as integers, shifted so that the NaNs come out.
macro_rules! ordered_rule {
    ($rule:ident, $t:ident, $apply:path, $shift:block) => {
        impl Rule<$t> for $rule {
            type Wide = i16;

            #[inline(always)]
            fn widen<S: Set, const N: usize>(_: S, values: [$t; N]) -> [i16; N] {
                let mut keys = [0; N];
                for i in 0..N {
                    keys[i] = halves::rank(values[i].to_bits()).wrapping_add(const $shift);
                }
                keys
            }

            #[inline(always)]
            fn apply(a: i16, b: i16) -> i16 {
                $apply(a, b)
            }

            #[inline(always)]
            fn narrow<S: Set, const N: usize>(_: S, keys: [i16; N]) -> [$t; N] {
                let mut values = [$t::ZERO; N];
                for i in 0..N {
                    let bits = halves::unrank(keys[i].wrapping_sub(const $shift));
                    let is_nan = bits & 0x7fff > $t::INFINITY.to_bits();
                    values[i] = $t::from_bits(if is_nan { $t::NAN.to_bits() } else { bits });
                }
                values
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
            fn divide<S: Set, const N: usize>(_: S, mut values: [$t; N], world: $t) -> [$t; N] {
                for value in &mut values {
                    *value /= world;
                }
                values
            }
        }
    )*};
}

floats! { f32, 0x7fc0_0000; f64, 0x7ff8_0000_0000_0000 }

macro_rules! half_floats {
    ($($t:ident)*) => {$(
        widened_rule!(Sum, $t, std::ops::Add::add);
        widened_rule!(Prod, $t, std::ops::Mul::mul);
        ordered_rule!(Min, $t, Ord::min, { halves::beyond_infinity($t::INFINITY.to_bits()) });
        ordered_rule!(Max, $t, Ord::max, { -halves::beyond_infinity($t::INFINITY.to_bits()) });

        impl Divide for $t {
            type World = f32;

            #[inline(always)]
            fn world(world: usize) -> f32 {
                world as f32
            }

            #[inline(always)]
            fn divide<S: Set, const N: usize>(set: S, values: [$t; N], world: f32) -> [$t; N] {
                $t::narrow(set, f32::divide(set, $t::widen(set, values), world))
            }
        }
    )*};
}

half_floats! { f16 bf16 }
