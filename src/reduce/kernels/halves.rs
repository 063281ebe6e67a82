//! 16-bit floats in integer arithmetic: conversions to and from `f32` that round to nearest, ties to even, as
//! hardware does, and an order. There is no branch and no look-up, so loops over them become vector code on
//! every machine. A NaN narrows to the positive quiet NaN without payload.

const F32_INFINITY: u32 = 0x7f80_0000;

/// Exact.
#[inline(always)]
pub(super) fn f16_to_f32(bits: u16) -> f32 {
    /// The bits of 2^-14, the smallest normal `f16`.
    const SMALLEST_NORMAL: u32 = 113 << 23;

    let sign = (bits as u32 & 0x8000) << 16;
    // Exponent and fraction, where an f32 has them; the exponent is still biased by 15 and not by 127.
    let magnitude = (bits as u32 & 0x7fff) << 13;
    let normal = magnitude + (112 << 23);
    // The fraction counts steps of 2^-24. Put under the exponent of 2^-14 it counts them from there.
    let subnormal = f32::from_bits(magnitude | SMALLEST_NORMAL) - f32::from_bits(SMALLEST_NORMAL);
    let finite = if magnitude < (1 << 23) { subnormal.to_bits() } else { normal };
    let all = if magnitude >= (31 << 23) { magnitude | F32_INFINITY } else { finite };
    f32::from_bits(sign | all)
}

/// Rounded to nearest, ties to even.
#[inline(always)]
pub(super) fn f32_to_f16(value: f32) -> u16 {
    let sign = (value.to_bits() >> 16) & 0x8000;
    let magnitude = value.to_bits() & 0x7fff_ffff;
    // Just under half a step more, or exactly half where the last bit that stays is odd; a carry runs into the
    // exponent, and from the largest finite value into infinity, as it should.
    let half_a_step = 0xfff + ((magnitude >> 13) & 1);
    let normal = magnitude.wrapping_sub(112 << 23).wrapping_add(half_a_step) >> 13;
    // From 0.5 to 1 an f32 has steps of 2^-24, as a subnormal f16 has: the addition rounds.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let finite = if magnitude < (113 << 23) { subnormal } else { normal };
    let number = sign | if magnitude >= (143 << 23) { 0x7c00 } else { finite };
    (if magnitude > F32_INFINITY { 0x7e00 } else { number }) as u16
}

/// Exact.
#[inline(always)]
pub(super) fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits((bits as u32) << 16)
}

/// Rounded to nearest, ties to even.
#[inline(always)]
pub(super) fn f32_to_bf16(value: f32) -> u16 {
    (round_to_bf16(value) >> 16) as u16
}

/// Two neighbours at once, each in the place of the word that both fill: no value changes its lane.
#[inline(always)]
pub(super) fn bf16s_to_f32s([low, high]: [u16; 2]) -> [f32; 2] {
    let word = low as u32 | (high as u32) << 16;
    [f32::from_bits(word << 16), f32::from_bits(word & 0xffff_0000)]
}

/// Two neighbours at once, as above.
#[inline(always)]
pub(super) fn f32s_to_bf16s(values: [f32; 2]) -> [u16; 2] {
    let [low, high] = values.map(round_to_bf16);
    let word = low >> 16 | high & 0xffff_0000;
    [word as u16, (word >> 16) as u16]
}

/// The nearest bf16, in the upper half; the lower half means nothing.
#[inline(always)]
fn round_to_bf16(value: f32) -> u32 {
    let bits = value.to_bits();
    let half_a_step = 0x7fff + ((bits >> 16) & 1);
    if value.is_nan() { f32::NAN.to_bits() } else { bits.wrapping_add(half_a_step) }
}

/// Orders the numbers of either format as their values are ordered, -0 below +0.
#[inline(always)]
pub(super) fn rank(bits: u16) -> i16 {
    let bits = bits as i16;
    // A set sign bit turns every other bit round.
    bits ^ ((bits >> 15) & 0x7fff)
}

/// Undoes [`rank`].
#[inline(always)]
pub(super) fn unrank(rank: i16) -> u16 {
    (rank ^ ((rank >> 15) & 0x7fff)) as u16
}

/// How far the ranks of a format must be moved up so that those of the positive NaNs wrap round to the lowest
/// ones, below every number, where those of the negative NaNs are already. Moved down as far, the negative NaNs
/// wrap round to the highest ones, above every number.
pub(super) const fn beyond_infinity(infinity: u16) -> i16 {
    (0x7fff - infinity) as i16
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    #[test]
    fn widening_is_exact() {
        for bits in 0..=u16::MAX {
            let (wide, is) = (f16_to_f32(bits), f16::from_bits(bits).to_f32());
            assert!(wide.to_bits() == is.to_bits() || wide.is_nan() && is.is_nan(), "f16 {bits:#06x}");
            let (wide, is) = (bf16_to_f32(bits), bf16::from_bits(bits).to_f32());
            assert!(wide.to_bits() == is.to_bits() || wide.is_nan() && is.is_nan(), "bf16 {bits:#06x}");
            let pair = bf16s_to_f32s([bits, !bits]).map(f32::to_bits);
            assert_eq!(pair, [bits, !bits].map(|bits| bf16_to_f32(bits).to_bits()));
        }
    }

    fn narrows(bits: u32) {
        let value = f32::from_bits(bits);
        assert_eq!(f32s_to_bf16s([value, -value]), [value, -value].map(f32_to_bf16), "{bits:#010x}");
        if value.is_nan() {
            assert_eq!((f32_to_f16(value), f32_to_bf16(value)), (0x7e00, 0x7fc0), "{bits:#010x}");
        } else {
            assert_eq!(f32_to_f16(value), f16::from_f32(value).to_bits(), "f16 of {bits:#010x}");
            assert_eq!(f32_to_bf16(value), bf16::from_f32(value).to_bits(), "bf16 of {bits:#010x}");
        }
    }

    #[test]
    fn narrowing_rounds_to_nearest_even() {
        for high in 0..=u16::MAX {
            // Both sides of each value, of each tie and of each last bit, in both formats.
            for low in [0, 1, 0xfff, 0x1000, 0x1001, 0x1fff, 0x2fff, 0x3000, 0x7fff, 0x8000, 0x8001, 0xffff] {
                narrows((high as u32) << 16 | low);
            }
        }
    }

    #[test]
    fn narrowing_rounds_any_value() {
        (0..=u32::MAX).step_by(2047).for_each(narrows);
    }

    #[test]
    fn nans_are_beyond_the_numbers_on_the_side_that_is_asked() {
        for (infinity, negative_infinity) in [(0x7c00, 0xfc00), (0x7f80, 0xff80)] {
            let shift = beyond_infinity(infinity);
            for bits in 0..=u16::MAX {
                let is_nan = bits & 0x7fff > infinity;
                let (low, high) = (rank(bits).wrapping_add(shift), rank(bits).wrapping_sub(shift));
                assert_eq!(is_nan, low < rank(negative_infinity).wrapping_add(shift), "{bits:#06x}");
                assert_eq!(is_nan, high > rank(infinity).wrapping_sub(shift), "{bits:#06x}");
                assert_eq!(unrank(rank(bits)), bits);
            }
        }
    }

    #[test]
    fn ranks_follow_values() {
        for (a, b) in [(0x8000, 0), (0xfbff, 0x8001), (0xfc00, 0xfbff), (0x7bff, 0x7c00), (0x3c00, 0x3c01)] {
            assert!(rank(a) < rank(b), "{a:#06x} {b:#06x}");
        }
    }
}
