//! Nulls that count as absent: what stands in their place while others are reduced, and who has a value at all.

use crate::reduce::{ReduceOp, select};
use crate::tensor::DType;
use arrow_buffer::NullBuffer;

/// The bytes of the value that changes nothing when it is reduced with another: of a sum -0, since +0 would make +0 of -0.
fn neutral(op: ReduceOp, dtype: DType) -> [u8; 8] {
    let mut bytes = [0u8; 8];
    let mut put = |value: &[u8]| bytes[..value.len()].copy_from_slice(value);
    macro_rules! integers {
        ($type:ty) => {
            match op {
                ReduceOp::Prod => put(&<$type>::to_ne_bytes(1)),
                ReduceOp::Min => put(&<$type>::MAX.to_ne_bytes()),
                ReduceOp::Max => put(&<$type>::MIN.to_ne_bytes()),
                ReduceOp::BitAnd => put(&(!(0 as $type)).to_ne_bytes()),
                _ => {}
            }
        };
    }
    macro_rules! floats {
        ($type:ty, $of:expr) => {
            match op {
                ReduceOp::Prod => put(&<$type>::to_ne_bytes($of(1.0))),
                ReduceOp::Min => put(&<$type>::INFINITY.to_ne_bytes()),
                ReduceOp::Max => put(&<$type>::NEG_INFINITY.to_ne_bytes()),
                _ => put(&<$type>::to_ne_bytes($of(-0.0))),
            }
        };
    }
    match dtype {
        DType::F16 => floats!(half::f16, half::f16::from_f32),
        DType::BF16 => floats!(half::bf16, half::bf16::from_f32),
        DType::F32 => floats!(f32, |value: f32| value),
        DType::F64 => floats!(f64, |value: f64| value),
        DType::I8 => integers!(i8),
        DType::I16 => integers!(i16),
        DType::I32 => integers!(i32),
        DType::I64 => integers!(i64),
        DType::U8 => integers!(u8),
        DType::U16 => integers!(u16),
        DType::U32 => integers!(u32),
        DType::U64 => integers!(u64),
    }
    bytes
}

/// Copies values, and puts the neutral one of a reduction where there is none.
pub(super) fn pack(values: &[u8], nulls: Option<&NullBuffer>, op: ReduceOp, dtype: DType, out: &mut [u8]) {
    let Some(nulls) = nulls else { return out.copy_from_slice(values) };
    let (neutral, size) = (neutral(op, dtype), dtype.size());
    let there: Vec<u64> = nulls.inner().bit_chunks().iter_padded().collect();
    let done = select(values, &there, neutral, size, out);
    let (out, there) = (&mut out[done * size..], &there[done / 64..]);
    out.copy_from_slice(&values[done * size..]);
    match size {
        1 => patch::<1>(there, *neutral.first_chunk().expect("8 bytes"), out),
        2 => patch::<2>(there, *neutral.first_chunk().expect("8 bytes"), out),
        4 => patch::<4>(there, *neutral.first_chunk().expect("8 bytes"), out),
        _ => patch::<8>(there, neutral, out),
    }
}

/// Writes a value wherever there is none. Quick where few are missing, as in most data.
fn patch<const N: usize>(there: &[u64], value: [u8; N], out: &mut [u8]) {
    for (out, bits) in out.as_chunks_mut::<N>().0.chunks_mut(64).zip(there) {
        let mut missing = !bits;
        while let Some(out) = out.get_mut(missing.trailing_zeros() as usize) {
            *out = value;
            missing &= missing - 1;
        }
    }
}

/// The bytes of a bitmap from its first bit on.
pub(super) fn bitmap(nulls: Option<&NullBuffer>, len: usize, out: &mut [u8]) {
    match nulls {
        None => {
            out.fill(u8::MAX);
            if let (Some(last), rest @ 1..) = (out.last_mut(), len % 8) {
                *last = (1 << rest) - 1;
            }
        }
        Some(nulls) => {
            let chunks = nulls.inner().bit_chunks();
            let words = chunks.iter().chain([chunks.remainder_bits()]);
            for (out, bits) in out.chunks_mut(8).zip(words) {
                out.copy_from_slice(&bits.to_le_bytes()[..out.len()]);
            }
        }
    }
}

/// How many bytes a bitmap of so many bits has.
pub(super) fn bitmap_bytes(bits: usize) -> usize {
    bits.div_ceil(8)
}

/// Writes 1 where there is a value and 0 where there is none, in numbers of `N` bytes.
pub(super) fn presence<const N: usize>(nulls: Option<&NullBuffer>, out: &mut [u8]) {
    let one = 1u64.to_ne_bytes();
    let one = if cfg!(target_endian = "little") { one.first_chunk::<N>() } else { one.last_chunk() };
    out.as_chunks_mut().0.fill(*one.expect("no count is wider than 8 bytes"));
    if let Some(nulls) = nulls {
        patch(&nulls.inner().bit_chunks().iter_padded().collect::<Vec<_>>(), [0; N], out);
    }
}

/// A count of ranks, as it lies in memory.
trait Count: Copy {
    fn get(self) -> u32;
}

impl Count for [u8; 1] {
    fn get(self) -> u32 {
        self[0].into()
    }
}

impl Count for [u8; 2] {
    fn get(self) -> u32 {
        u16::from_ne_bytes(self).into()
    }
}

impl Count for [u8; 4] {
    fn get(self) -> u32 {
        u32::from_ne_bytes(self)
    }
}

/// Divides sums by how many ranks had a value, numbers of `width` bytes; where none had, there is nothing to divide.
pub(super) fn divide(sums: &mut [u8], dtype: DType, counts: &[u8], width: usize) {
    match width {
        1 => divide_by(sums, dtype, counts.as_chunks::<1>().0),
        2 => divide_by(sums, dtype, counts.as_chunks::<2>().0),
        _ => divide_by(sums, dtype, counts.as_chunks::<4>().0),
    }
}

fn divide_by<C: Count>(sums: &mut [u8], dtype: DType, counts: &[C]) {
    macro_rules! of {
        ($type:ty, $wide:ty, $from:expr, $to:expr) => {
            for (sum, count) in sums.as_chunks_mut().0.iter_mut().zip(counts) {
                let value: $wide = $from(<$type>::from_ne_bytes(*sum));
                *sum = <$type>::to_ne_bytes($to(value / count.get().max(1) as $wide));
            }
        };
    }
    match dtype {
        DType::F16 => of!(half::f16, f32, half::f16::to_f32, half::f16::from_f32),
        DType::BF16 => of!(half::bf16, f32, half::bf16::to_f32, half::bf16::from_f32),
        DType::F32 => of!(f32, f32, |value| value, |value| value),
        DType::F64 => of!(f64, f64, |value| value, |value| value),
        _ => unreachable!("a mean is of floats"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reduce::oracle;
    use crate::tensor::Element;

    macro_rules! changes_nothing {
        ($($type:ty),*) => {$(
            for op in ReduceOp::ALL.into_iter().filter(|op| op.supports(<$type>::DTYPE)) {
                let neutral = neutral(op, <$type>::DTYPE);
                let neutral = <$type>::from_ne_bytes(*neutral.first_chunk().unwrap());
                for pattern in [*b"\0\0\0\0\0\0\0\0", [0x80; 8], [0x3c; 8], [0xbc; 8], *b"abcdefgh", 128u64.to_be_bytes()] {
                    let value = <$type>::from_ne_bytes(*pattern.last_chunk().unwrap());
                    for with in [oracle::combine(op, value, neutral), oracle::combine(op, neutral, value)] {
                        assert_eq!(with.to_ne_bytes(), value.to_ne_bytes(), "{op} of {value} with {neutral}");
                    }
                }
            }
        )*};
    }

    #[test]
    fn the_neutral_value_changes_nothing() {
        changes_nothing!(half::f16, half::bf16, f32, f64, i8, i16, i32, i64, u8, u16, u32, u64);
    }

    fn nulls(len: usize) -> NullBuffer {
        (0..len + 3).map(|at| at % 3 != 0 && !(100..180).contains(&at)).collect::<NullBuffer>().slice(3, len)
    }

    #[test]
    fn what_is_absent_becomes_neutral() {
        for len in [0, 1, 63, 64, 65, 300] {
            let values: Vec<f32> = (0..len).map(|value| value as f32 + 1.0).collect();
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
            let (nulls, mut out) = (nulls(len), vec![0; bytes.len()]);
            pack(&bytes, Some(&nulls), ReduceOp::Prod, DType::F32, &mut out);
            for (at, out) in out.as_chunks::<4>().0.iter().enumerate() {
                let expected = if nulls.is_valid(at) { values[at] } else { 1.0 };
                assert_eq!(f32::from_ne_bytes(*out), expected, "{at} of {len}");
            }
        }
    }

    #[test]
    fn bitmaps_begin_at_their_first_bit_and_end_clean() {
        for len in [0, 1, 7, 8, 63, 64, 65, 300] {
            for nulls in [None, Some(nulls(len))] {
                let mut out = vec![0xaa; bitmap_bytes(len)];
                bitmap(nulls.as_ref(), len, &mut out);
                for at in 0..out.len() * 8 {
                    let expected = at < len && nulls.as_ref().is_none_or(|nulls| nulls.is_valid(at));
                    assert_eq!(out[at / 8] >> (at % 8) & 1 == 1, expected, "{at} of {len}");
                }
            }
        }
    }

    #[test]
    fn sums_are_divided_by_those_who_have_a_value() {
        let (mut counts, all) = (vec![0; 5 * 2], NullBuffer::from(vec![true, false, true, true, false]));
        presence::<2>(Some(&all), &mut counts);
        let numbers: Vec<u16> = counts.as_chunks().0.iter().map(|count| u16::from_ne_bytes(*count)).collect();
        assert_eq!(numbers, [1, 0, 1, 1, 0]);
        counts[..2].copy_from_slice(&4u16.to_ne_bytes());
        let mut sums: Vec<u8> =
            [8.0f64, -0.0, 3.0, 1.0, 5.0].iter().flat_map(|sum| sum.to_ne_bytes()).collect();
        divide(&mut sums, DType::F64, &counts, 2);
        let means: Vec<f64> = sums.as_chunks().0.iter().map(|mean| f64::from_ne_bytes(*mean)).collect();
        assert_eq!(means, [2.0, -0.0, 3.0, 1.0, 5.0]);
    }
}
