//! Element types.

use crate::error::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// An element type. The numbers are those of the wire and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
#[non_exhaustive]
pub enum DType {
    /// IEEE 754 binary16.
    F16 = 1,
    /// The upper half of a binary32 ("brain float").
    BF16 = 2,
    /// IEEE 754 binary32.
    F32 = 3,
    /// IEEE 754 binary64.
    F64 = 4,
    /// Signed, 8 bits.
    I8 = 5,
    /// Signed, 16 bits.
    I16 = 6,
    /// Signed, 32 bits.
    I32 = 7,
    /// Signed, 64 bits.
    I64 = 8,
    /// Unsigned, 8 bits.
    U8 = 9,
    /// Unsigned, 16 bits.
    U16 = 10,
    /// Unsigned, 32 bits.
    U32 = 11,
    /// Unsigned, 64 bits.
    U64 = 12,
}

impl DType {
    /// Every element type.
    pub const ALL: [DType; 12] = [
        DType::F16,
        DType::BF16,
        DType::F32,
        DType::F64,
        DType::I8,
        DType::I16,
        DType::I32,
        DType::I64,
        DType::U8,
        DType::U16,
        DType::U32,
        DType::U64,
    ];

    /// Bytes an element.
    #[inline]
    pub const fn size(self) -> usize {
        match self {
            DType::I8 | DType::U8 => 1,
            DType::F16 | DType::BF16 | DType::I16 | DType::U16 => 2,
            DType::F32 | DType::I32 | DType::U32 => 4,
            DType::F64 | DType::I64 | DType::U64 => 8,
        }
    }

    /// Whether it is a floating-point type.
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F16 | DType::BF16 | DType::F32 | DType::F64)
    }

    /// The short name: `f32`, `u8`.
    pub const fn as_str(self) -> &'static str {
        match self {
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::F32 => "f32",
            DType::F64 => "f64",
            DType::I8 => "i8",
            DType::I16 => "i16",
            DType::I32 => "i32",
            DType::I64 => "i64",
            DType::U8 => "u8",
            DType::U16 => "u16",
            DType::U32 => "u32",
            DType::U64 => "u64",
        }
    }

    /// The type with this number on the wire.
    pub fn from_wire(number: u8) -> Option<Self> {
        DType::ALL.into_iter().find(|dtype| *dtype as u8 == number)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for DType {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        DType::ALL.into_iter().find(|dtype| dtype.as_str() == name).ok_or_else(|| {
            let names: Vec<_> = DType::ALL.iter().map(|dtype| dtype.as_str()).collect();
            Error::invalid(format!("no element type is called {name:?}"))
                .remedy(format!("use one of {}", names.join(", ")))
        })
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A Rust type that tensors are made of. Sealed: every implementor is plain data, any bit pattern of which is
/// a value.
pub trait Element: sealed::Sealed + Copy + Default + PartialEq + fmt::Debug + Send + Sync + 'static {
    /// The element type that stands for it at run time.
    const DTYPE: DType;
}

macro_rules! elements {
    ($($rust:ty => $dtype:ident),* $(,)?) => {$(
        impl sealed::Sealed for $rust {}
        impl Element for $rust {
            const DTYPE: DType = DType::$dtype;
        }
    )*};
}

elements! {
    half::f16 => F16, half::bf16 => BF16, f32 => F32, f64 => F64,
    i8 => I8, i16 => I16, i32 => I32, i64 => I64,
    u8 => U8, u16 => U16, u32 => U32, u64 => U64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_round_trip() {
        for dtype in DType::ALL {
            assert_eq!(dtype.as_str().parse::<DType>().unwrap(), dtype);
            assert_eq!(DType::from_wire(dtype as u8), Some(dtype));
        }
        assert!("f8".parse::<DType>().unwrap_err().to_string().contains("bf16"));
        assert_eq!(DType::from_wire(0), None);
    }

    fn size_agrees<T: Element>() {
        assert_eq!(T::DTYPE.size(), std::mem::size_of::<T>());
    }

    #[test]
    fn sizes_are_those_of_the_rust_types() {
        size_agrees::<half::f16>();
        size_agrees::<half::bf16>();
        size_agrees::<f32>();
        size_agrees::<f64>();
        size_agrees::<i8>();
        size_agrees::<u16>();
        size_agrees::<i32>();
        size_agrees::<u64>();
    }
}
