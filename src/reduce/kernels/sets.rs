//! The instruction sets that the loops are compiled for.
//!
//! A *set* compiles every loop once more, with more instructions allowed: the compiler finds the vectors. What it
//! cannot find are the conversions of `f16`, a type that it does not know; a set that has instructions for them
//! says so here. `bf16` is the upper half of an `f32` and needs none: its conversion is integer arithmetic
//! everywhere, because AVX-512's own `VCVTNEPS2BF16` takes subnormal numbers for zeros.
//!
//! A value of a set's type exists only where the processor has the instructions, so that whoever holds one may
//! use them. All arithmetic assumes the floating-point environment that Rust assumes: to nearest, ties to even,
//! subnormal numbers kept. The conversions do not even depend on it.

use super::halves;
use super::loops;
use super::rules::{Divide, Rule};
use half::f16;

/// An instruction set: the loops compiled for it, and how it converts `f16`.
pub(super) trait Set: Copy {
    /// Bytes that all vector registers hold.
    const REGISTERS: usize;
    /// Whether it has loops over long blocks, which are the quickest and the most code.
    const LONG_BLOCKS: bool = true;

    /// `into[i] = a[i] op b[i]`.
    ///
    /// # Safety
    ///
    /// The processor must have the set. `a` and `b` must be readable and `into` writable for `count` elements,
    /// whatever their alignment. `into` is a source or does not overlap it.
    unsafe fn combine<T: Copy, R: Rule<T>>(into: *mut u8, a: *const u8, b: *const u8, count: usize);

    /// `into[i] = sources[0][i] op sources[1][i] op ...`.
    ///
    /// # Safety
    ///
    /// The processor must have the set. There must be a source, each readable and `into` writable for `count`
    /// elements, whatever their alignment. `into` is a source or does not overlap it.
    unsafe fn fold<T: Copy, R: Rule<T>>(into: *mut u8, sources: &[*const u8], count: usize);

    /// `into[i] = (a[i] op b[i]) op (c[i] op d[i])`, rounded at every node, where the sources are a, b, c, d.
    ///
    /// # Safety
    ///
    /// As for [`fold`](Set::fold).
    unsafe fn fold_four<T: Copy, R: Rule<T>>(into: *mut u8, sources: [*const u8; 4], count: usize);

    /// `data[i] = data[i] / world`.
    ///
    /// # Safety
    ///
    /// The processor must have the set. `data` must be readable and writable for `count` elements, whatever its
    /// alignment.
    unsafe fn divide<T: Divide>(data: *mut u8, count: usize, world: usize);

    /// Exact.
    #[inline(always)]
    fn widen<const N: usize>(self, values: [f16; N]) -> [f32; N] {
        let mut wide = [0.0; N];
        for i in 0..N {
            wide[i] = halves::f16_to_f32(values[i].to_bits());
        }
        wide
    }

    /// Rounded to nearest, ties to even; a NaN becomes the positive quiet one without payload.
    #[inline(always)]
    fn narrow<const N: usize>(self, values: [f32; N]) -> [f16; N] {
        let mut narrow = [f16::ZERO; N];
        for i in 0..N {
            narrow[i] = f16::from_bits(halves::f32_to_f16(values[i]));
        }
        narrow
    }
}

/// Defines a set by its name, its features, its registers and its conversions.
macro_rules! set {
    ($(#[$meta:meta])* $set:ident, $($features:literal)?, $registers:expr, { $($conversions:item)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy)]
        pub(super) struct $set(());

        $(#[$meta])*
        impl Set for $set {
            const REGISTERS: usize = $registers;
            // On x86 others are in its place since 2013.
            const LONG_BLOCKS: bool = cfg!(not(target_arch = "x86_64")) || $registers > 16 * 16;

            $(#[target_feature(enable = $features)])?
            unsafe fn combine<T: Copy, R: Rule<T>>(
                into: *mut u8,
                a: *const u8,
                b: *const u8,
                count: usize,
            ) {
                // SAFETY: the caller's promise is passed on.
                unsafe { loops::combine::<Self, T, R>($set(()), into, a, b, count) }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn fold<T: Copy, R: Rule<T>>(
                into: *mut u8,
                sources: &[*const u8],
                count: usize,
            ) {
                // SAFETY: the caller's promise is passed on.
                unsafe { loops::fold::<Self, T, R>($set(()), into, sources, count) }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn fold_four<T: Copy, R: Rule<T>>(into: *mut u8, sources: [*const u8; 4], count: usize) {
                // SAFETY: the caller's promise is passed on.
                unsafe { loops::fold_four::<Self, T, R>($set(()), into, sources, count) }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn divide<T: Divide>(data: *mut u8, count: usize, world: usize) {
                // SAFETY: the caller's promise is passed on.
                unsafe { loops::divide::<Self, T>($set(()), data, count, world) }
            }

            $($conversions)*
        }
    };
}

set! {
    /// What every processor of the target has.
    Baseline, , 16 * 16, {}
}

set! {
    #[cfg(target_arch = "x86_64")]
    Avx2, "avx2,f16c", 16 * 32, {
        #[inline(always)]
        fn widen<const N: usize>(self, values: [f16; N]) -> [f32; N] {
            by_chunks(values, |eight: [f16; 8]| {
                // SAFETY: this value proves that F16C is there; the types are plain data of the same size.
                unsafe {
                    let eight = transmute::<[f16; 8], __m128i>(eight);
                    transmute::<__m256, [f32; 8]>(_mm256_cvtph_ps(eight))
                }
            })
        }

        #[inline(always)]
        fn narrow<const N: usize>(self, values: [f32; N]) -> [f16; N] {
            one_nan(by_chunks(values, |eight: [f32; 8]| {
                // SAFETY: this value proves that F16C is there; the types are plain data of the same size.
                unsafe {
                    let eight = transmute::<[f32; 8], __m256>(eight);
                    transmute::<__m128i, [f16; 8]>(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(eight))
                }
            }))
        }
    }
}

set! {
    #[cfg(target_arch = "x86_64")]
    Avx512, "avx512f,avx512bw,avx512dq,avx512vl", 32 * 64, {
        #[inline(always)]
        fn widen<const N: usize>(self, values: [f16; N]) -> [f32; N] {
            by_chunks(values, |sixteen: [f16; 16]| {
                // SAFETY: this value proves that AVX-512F is there; the types are plain data of the same size.
                unsafe {
                    let sixteen = transmute::<[f16; 16], __m256i>(sixteen);
                    transmute::<__m512, [f32; 16]>(_mm512_cvtph_ps(sixteen))
                }
            })
        }

        #[inline(always)]
        fn narrow<const N: usize>(self, values: [f32; N]) -> [f16; N] {
            one_nan(by_chunks(values, |sixteen: [f32; 16]| {
                // SAFETY: this value proves that AVX-512F is there; the types are plain data of the same size.
                unsafe {
                    let sixteen = transmute::<[f32; 16], __m512>(sixteen);
                    transmute::<__m256i, [f16; 16]>(_mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(sixteen))
                }
            }))
        }
    }
}

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
#[cfg(target_arch = "x86_64")]
use std::mem::transmute;

/// Converts `C` values at a time; what is left over is filled up with zeros.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn by_chunks<A: Copy + Default, B: Copy + Default, const N: usize, const C: usize>(
    values: [A; N],
    convert: impl Fn([A; C]) -> [B; C],
) -> [B; N] {
    let mut converted = [B::default(); N];
    let (chunks, rest) = values.as_chunks::<C>();
    let (into, into_rest) = converted.as_chunks_mut::<C>();
    for (into, chunk) in into.iter_mut().zip(chunks) {
        *into = convert(*chunk);
    }
    if !rest.is_empty() {
        let mut chunk = [A::default(); C];
        chunk[..rest.len()].copy_from_slice(rest);
        into_rest.copy_from_slice(&convert(chunk)[..rest.len()]);
    }
    converted
}

/// The instructions keep what they can of a NaN's sign and payload.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn one_nan<const N: usize>(mut values: [f16; N]) -> [f16; N] {
    for value in &mut values {
        let is_nan = value.to_bits() & 0x7fff > f16::INFINITY.to_bits();
        *value = f16::from_bits(if is_nan { f16::NAN.to_bits() } else { value.to_bits() });
    }
    values
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use crate::reduce::InstructionSet;

    /// Runs of ten: a whole chunk of either set and a rest.
    fn converts_as_the_baseline<S: Set>(set: S) {
        for first in (0..=u16::MAX).step_by(10) {
            let values: [f16; 10] = std::array::from_fn(|i| f16::from_bits(first.wrapping_add(i as u16)));
            let (wide, is) = (set.widen(values), Baseline(()).widen(values));
            for i in 0..10 {
                let same = wide[i].to_bits() == is[i].to_bits() || wide[i].is_nan() && is[i].is_nan();
                assert!(same, "{:#06x}: {} is {}", values[i], wide[i], is[i]);
            }
        }
        // Both sides of each value, of each tie and of each last bit, and values without a plan.
        let lows = [0, 1, 0xfff, 0x1000, 0x1001, 0x1fff, 0x2fff, 0x3000, 0x8000, 0xffff];
        let edges = (0..=u16::MAX).map(|high| lows.map(|low| (high as u32) << 16 | low));
        let others = (0..=u32::MAX)
            .step_by(1 << 14)
            .map(|bits| [0, 1, 2, 3, 5, 7, 11, 13, 17, 19].map(|i| bits ^ (777 * i)));
        for bits in edges.chain(others) {
            let values = bits.map(f32::from_bits);
            let (narrow, is) = (set.narrow(values), Baseline(()).narrow(values));
            assert_eq!(narrow.map(f16::to_bits), is.map(f16::to_bits), "{bits:#010x?}");
        }
    }

    #[test]
    fn instructions_convert_as_the_baseline_does() {
        // Where a set is missing there is nothing to convert with.
        if InstructionSet::Avx2.is_available() {
            converts_as_the_baseline(Avx2(()));
        }
        if InstructionSet::Avx512.is_available() {
            converts_as_the_baseline(Avx512(()));
        }
    }
}
