//! The reductions.

use crate::error::{Error, Result};
use crate::tensor::DType;
use std::fmt;
use std::str::FromStr;

/// How the contributions of the ranks become one value. The numbers are those of the wire.
///
/// - Integer sums and products wrap.
/// - 16-bit floats are combined in `f32` and rounded once each time two values are combined.
/// - `Min` and `Max` are IEEE 754-2019 `minimum` and `maximum`: a NaN on any rank gives NaN, and -0 is below +0.
///   Which NaN comes out (sign and payload) is not specified.
/// - `Mean` is the sum divided by the world size, rounded once at the end; for floats only.
/// - The bitwise operations are for integers only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
#[non_exhaustive]
pub enum ReduceOp {
    /// The sum.
    Sum = 1,
    /// The product.
    Prod = 2,
    /// The smallest.
    Min = 3,
    /// The largest.
    Max = 4,
    /// The sum divided by the number of ranks.
    Mean = 5,
    /// Bitwise and.
    BitAnd = 6,
    /// Bitwise or.
    BitOr = 7,
    /// Bitwise exclusive or.
    BitXor = 8,
}

impl ReduceOp {
    /// Every reduction.
    pub const ALL: [ReduceOp; 8] = [
        ReduceOp::Sum,
        ReduceOp::Prod,
        ReduceOp::Min,
        ReduceOp::Max,
        ReduceOp::Mean,
        ReduceOp::BitAnd,
        ReduceOp::BitOr,
        ReduceOp::BitXor,
    ];

    /// The short name: `sum`, `bitand`.
    pub const fn as_str(self) -> &'static str {
        match self {
            ReduceOp::Sum => "sum",
            ReduceOp::Prod => "prod",
            ReduceOp::Min => "min",
            ReduceOp::Max => "max",
            ReduceOp::Mean => "mean",
            ReduceOp::BitAnd => "bitand",
            ReduceOp::BitOr => "bitor",
            ReduceOp::BitXor => "bitxor",
        }
    }

    /// The operation with this number on the wire.
    pub fn from_wire(number: u8) -> Option<Self> {
        ReduceOp::ALL.into_iter().find(|op| *op as u8 == number)
    }

    /// Whether elements of this type can be reduced so.
    pub const fn supports(self, dtype: DType) -> bool {
        match self {
            ReduceOp::Sum | ReduceOp::Prod | ReduceOp::Min | ReduceOp::Max => true,
            ReduceOp::Mean => dtype.is_float(),
            ReduceOp::BitAnd | ReduceOp::BitOr | ReduceOp::BitXor => !dtype.is_float(),
        }
    }

    /// An [`Unsupported`](crate::ErrorKind::Unsupported) error unless [`supports`](ReduceOp::supports).
    pub fn check(self, dtype: DType) -> Result<()> {
        if self.supports(dtype) {
            return Ok(());
        }
        let remedy = match self {
            ReduceOp::Mean => "reduce with sum and divide as you see fit, or convert to a float",
            _ => "use an integer type, or sum, prod, min, max or mean",
        };
        Err(Error::unsupported(format!("{self} is not defined for {dtype}")).remedy(remedy))
    }
}

impl fmt::Display for ReduceOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for ReduceOp {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        ReduceOp::ALL.into_iter().find(|op| op.as_str() == name).ok_or_else(|| {
            let names: Vec<_> = ReduceOp::ALL.iter().map(|op| op.as_str()).collect();
            Error::invalid(format!("no reduction is called {name:?}"))
                .remedy(format!("use one of {}", names.join(", ")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_round_trip() {
        for op in ReduceOp::ALL {
            assert_eq!(op.as_str().parse::<ReduceOp>().unwrap(), op);
            assert_eq!(ReduceOp::from_wire(op as u8), Some(op));
        }
        assert!("avg".parse::<ReduceOp>().unwrap_err().to_string().contains("mean"));
    }

    #[test]
    fn what_is_not_defined_is_refused_with_a_remedy() {
        assert!(ReduceOp::Mean.check(DType::I32).unwrap_err().what_to_do().is_some());
        assert!(ReduceOp::BitOr.check(DType::F16).is_err());
        assert!(ReduceOp::BitXor.check(DType::U64).is_ok());
        assert!(ReduceOp::Mean.check(DType::BF16).is_ok());
    }
}
