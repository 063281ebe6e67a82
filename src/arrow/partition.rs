//! Which rank a row goes to, by the hash of its key: as Spark's `HashPartitioning` has it, so that what is shuffled here lies where a
//! shuffle of Spark's with as many partitions would have put it.
//!
//! The hash is Murmur3 (A. Appleby, 32 bits, x86) with seed 42 in the form that Spark has (`org.apache.spark.sql.catalyst.expressions.
//! Murmur3Hash`): whole numbers of up to 32 bits are hashed as 4 bytes, longer ones as 8, the bytes that are left of a string one at a time and
//! signed. -0 is 0, every NaN is one NaN, and a null is the seed itself.

use crate::error::{Error, Result};
use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type, Float16Type,
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};
use arrow_array::{Array, ArrayAccessor, make_array};
use arrow_schema::DataType;

/// Spark's seed.
const SEED: u32 = 42;

/// The digits of a decimal up to which Spark hashes it as a number of 64 bits.
const DIGITS_IN_64_BITS: u8 = 18;

fn mix_word(word: u32) -> u32 {
    word.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593)
}

fn mix(hash: u32, word: u32) -> u32 {
    (hash ^ mix_word(word)).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64)
}

fn finish(hash: u32, len: u32) -> u32 {
    let hash = hash ^ len;
    let hash = (hash ^ hash >> 16).wrapping_mul(0x85eb_ca6b);
    let hash = (hash ^ hash >> 13).wrapping_mul(0xc2b2_ae35);
    hash ^ hash >> 16
}

fn of_32(value: i32, seed: u32) -> u32 {
    finish(mix(seed, value as u32), 4)
}

fn of_64(value: i64, seed: u32) -> u32 {
    finish(mix(mix(seed, value as u32), (value as u64 >> 32) as u32), 8)
}

fn of_bytes(bytes: &[u8], seed: u32) -> u32 {
    let (words, rest) = bytes.as_chunks::<4>();
    let hash = words.iter().fold(seed, |hash, word| mix(hash, u32::from_le_bytes(*word)));
    let hash = rest.iter().fold(hash, |hash, &byte| mix(hash, i32::from(byte.cast_signed()) as u32));
    finish(hash, bytes.len() as u32)
}

fn of_f32(value: f32, seed: u32) -> u32 {
    let value = if value.is_nan() { f32::NAN } else { value + 0.0 }; // -0 + 0 is 0
    of_32(value.to_bits().cast_signed(), seed)
}

fn of_f64(value: f64, seed: u32) -> u32 {
    let value = if value.is_nan() { f64::NAN } else { value + 0.0 };
    of_64(value.to_bits().cast_signed(), seed)
}

/// A decimal of more digits: its unscaled value as big-endian bytes, as few as hold it.
fn of_128(value: i128, seed: u32) -> u32 {
    let bytes = value.to_be_bytes();
    let sign = if value < 0 { 0xff } else { 0 };
    let redundant = |pair: &&[u8]| pair[0] == sign && (pair[1] ^ sign) & 0x80 == 0;
    let from = bytes.windows(2).take_while(|pair| redundant(pair)).count();
    of_bytes(&bytes[from..], seed)
}

/// A row's hash, from that of the columns before it.
fn hash_column(name: &str, array: &dyn Array, hashes: &mut [u32]) -> Result<()> {
    macro_rules! primitive {
        ($type:ty, $hash:expr) => {
            primitive::<$type>(array, hashes, $hash)
        };
    }
    match array.data_type() {
        DataType::Null => {}
        DataType::Boolean => {
            each(array, array.as_boolean(), hashes, |value, seed| of_32(i32::from(value), seed))
        }
        DataType::Int8 => primitive!(Int8Type, |value, seed| of_32(value.into(), seed)),
        DataType::Int16 => primitive!(Int16Type, |value, seed| of_32(value.into(), seed)),
        DataType::Int32 => primitive!(Int32Type, of_32),
        DataType::Date32 => primitive!(Date32Type, of_32),
        DataType::Int64 => primitive!(Int64Type, of_64),
        DataType::Date64 => primitive!(Date64Type, of_64),
        // Spark has no unsigned numbers: as its next larger ones, and the largest by their bits.
        DataType::UInt8 => primitive!(UInt8Type, |value, seed| of_32(value.into(), seed)),
        DataType::UInt16 => primitive!(UInt16Type, |value, seed| of_32(value.into(), seed)),
        DataType::UInt32 => primitive!(UInt32Type, |value, seed| of_64(value.into(), seed)),
        DataType::UInt64 => primitive!(UInt64Type, |value: u64, seed| of_64(value.cast_signed(), seed)),
        DataType::Float16 => primitive!(Float16Type, |value: half::f16, seed| of_f32(value.to_f32(), seed)),
        DataType::Float32 => primitive!(Float32Type, of_f32),
        DataType::Float64 => primitive!(Float64Type, of_f64),
        DataType::Time32(_) | DataType::Time64(_) | DataType::Timestamp(..) | DataType::Duration(_) => {
            let wide = matches!(array.data_type(), DataType::Time32(_));
            let bits = if wide { DataType::Int32 } else { DataType::Int64 };
            let plain = array.to_data().into_builder().data_type(bits).build();
            let plain = plain.map_err(|error| super::column::arrow_error(name, &error))?;
            return hash_column(name, &make_array(plain), hashes);
        }
        DataType::Decimal32(..) => primitive!(Decimal32Type, |value, seed| of_64(value.into(), seed)),
        DataType::Decimal64(..) => primitive!(Decimal64Type, of_64),
        DataType::Decimal128(..=DIGITS_IN_64_BITS, _) => {
            primitive!(Decimal128Type, |value, seed| of_64(value as i64, seed));
        }
        DataType::Decimal128(..) => primitive!(Decimal128Type, of_128),
        DataType::Utf8 => {
            each(array, array.as_string::<i32>(), hashes, |value, seed| of_bytes(value.as_bytes(), seed))
        }
        DataType::LargeUtf8 => {
            each(array, array.as_string::<i64>(), hashes, |value, seed| of_bytes(value.as_bytes(), seed))
        }
        DataType::Utf8View => {
            each(array, array.as_string_view(), hashes, |value, seed| of_bytes(value.as_bytes(), seed))
        }
        DataType::Binary => each(array, array.as_binary::<i32>(), hashes, of_bytes),
        DataType::LargeBinary => each(array, array.as_binary::<i64>(), hashes, of_bytes),
        DataType::BinaryView => each(array, array.as_binary_view(), hashes, of_bytes),
        DataType::FixedSizeBinary(_) => each(array, array.as_fixed_size_binary(), hashes, of_bytes),
        DataType::Dictionary(_, _) => {
            let dictionary = array.as_any_dictionary();
            let values = arrow_select::take::take(dictionary.values(), dictionary.keys(), None);
            let values = values.map_err(|error| super::column::arrow_error(name, &error))?;
            return hash_column(name, &values, hashes);
        }
        other => {
            let text = format!("{name} is {other}, by which rows are not divided");
            return Err(
                Error::unsupported(text).remedy("use a column of numbers, strings or bytes as the key")
            );
        }
    }
    Ok(())
}

fn primitive<T: ArrowPrimitiveType>(
    array: &dyn Array,
    hashes: &mut [u32],
    hash: impl Fn(T::Native, u32) -> u32,
) {
    each(array, array.as_primitive::<T>(), hashes, hash);
}

fn each<A: ArrayAccessor>(
    array: &dyn Array,
    values: A,
    hashes: &mut [u32],
    hash: impl Fn(A::Item, u32) -> u32,
) {
    for (row, of_row) in hashes.iter_mut().enumerate() {
        if array.is_valid(row) {
            *of_row = hash(values.value(row), *of_row);
        }
    }
}

/// The rows of each of so many partitions, in their order.
///
/// # Errors
/// [`Unsupported`](crate::ErrorKind::Unsupported) where there is no hash for the keys.
pub(super) fn rows_of_each(name: &str, keys: &dyn Array, partitions: usize) -> Result<Vec<Vec<u32>>> {
    if u32::try_from(keys.len()).is_err() || i32::try_from(partitions).is_err() {
        return Err(Error::unsupported(format!("{} rows in one batch", keys.len()))
            .remedy("pass them in several batches"));
    }
    let mut hashes = vec![SEED; keys.len()];
    hash_column(name, keys, &mut hashes)?;
    let mut rows = vec![Vec::new(); partitions];
    for (row, hash) in hashes.into_iter().enumerate() {
        rows[hash.cast_signed().rem_euclid(partitions as i32) as usize].push(row as u32);
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{
        Decimal128Array, DictionaryArray, Float32Array, Float64Array, Int32Array, Int64Array, StringArray,
        StringViewArray, types::Int8Type,
    };

    fn hashes(array: &dyn Array) -> Vec<i32> {
        let mut hashes = vec![SEED; array.len()];
        hash_column("k", array, &mut hashes).unwrap();
        hashes.into_iter().map(u32::cast_signed).collect()
    }

    /// What `SELECT hash('Spark', array(123), 2)` gives, in the documentation of Spark's SQL functions.
    #[test]
    fn hashes_are_sparks() {
        let hash = of_32(2, of_32(123, of_bytes(b"Spark", SEED)));
        assert_eq!(hash.cast_signed(), -1_321_691_492);
    }

    #[test]
    fn equal_keys_have_one_hash_whatever_their_form() {
        let plain = StringArray::from(vec![Some("one"), None, Some("three and more"), Some("ä")]);
        let expected = hashes(&plain);
        assert_eq!(expected[1].cast_unsigned(), SEED);
        assert_eq!(hashes(&StringViewArray::from_iter(plain.iter())), expected);
        let dictionary: DictionaryArray<Int8Type> = plain.iter().collect();
        assert_eq!(hashes(&dictionary), expected);
        assert_eq!(hashes(&plain.slice(2, 2)), expected[2..]);

        let zeros = hashes(&Float64Array::from(vec![0.0, -0.0, f64::NAN, -f64::NAN]));
        assert_eq!((zeros[0], zeros[2]), (zeros[1], zeros[3]));
        let narrow = hashes(&Float32Array::from(vec![0.0, -0.0]));
        assert_eq!(narrow[0], narrow[1]);
        let decimals = |values: Vec<i128>, digits| {
            hashes(&Decimal128Array::from(values).with_precision_and_scale(digits, 2).unwrap())
        };
        assert_eq!(decimals(vec![12_345], 18), hashes(&Int64Array::from(vec![12_345])));
        for (value, bytes) in
            [(0i128, &[0u8][..]), (127, &[127]), (128, &[0, 128]), (-128, &[128]), (-129, &[255, 127])]
        {
            assert_eq!(decimals(vec![value], 30)[0].cast_unsigned(), of_bytes(bytes, SEED), "{value}");
        }
    }

    #[test]
    fn rows_keep_their_order_and_none_is_lost() {
        let keys = Int32Array::from_iter((0..1000).map(|key| (key % 7 != 0).then_some(key / 3)));
        let rows = rows_of_each("k", &keys, 5).unwrap();
        let mut all: Vec<u32> = rows.iter().flatten().copied().collect();
        assert!(rows.iter().all(|rows| rows.is_sorted() && !rows.is_empty()));
        all.sort_unstable();
        assert_eq!(all, (0..1000).collect::<Vec<_>>());
        let at = |row: u32| rows.iter().position(|rows| rows.contains(&row));
        assert_eq!(at(0), at(7), "nulls lie together");
        assert_eq!(at(3), at(4), "and so do equal keys");
    }
}
