//! Numbers that mean something. They never change; new ones come from the reserved ranges.

use core::{Check, DType, NullPolicy, Order, ReduceOp};

/// The element type of a tensor, as DLPack describes it: a kind of number, the bits of one, and 1. Any other number of
/// lanes is unsupported.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct rf_dtype {
    /// 0 signed integer, 1 unsigned integer, 2 IEEE 754 float, 4 bfloat.
    pub code: u8,
    /// The bits of an element.
    pub bits: u8,
    /// 1.
    pub lanes: u16,
}

impl rf_dtype {
    pub(crate) fn read(self) -> Option<DType> {
        if self.lanes != 1 {
            return None;
        }
        Some(match (self.code, self.bits) {
            (0, 8) => DType::I8,
            (0, 16) => DType::I16,
            (0, 32) => DType::I32,
            (0, 64) => DType::I64,
            (1, 8) => DType::U8,
            (1, 16) => DType::U16,
            (1, 32) => DType::U32,
            (1, 64) => DType::U64,
            (2, 16) => DType::F16,
            (2, 32) => DType::F32,
            (2, 64) => DType::F64,
            (4, 16) => DType::BF16,
            _ => return None,
        })
    }
}

/// How the contributions of the ranks become one value. Integer sums and products wrap; 16-bit floats are combined in 32
/// bits and rounded once each time; the smallest and the largest of anything and a NaN is a NaN. 9 to 255 are reserved.
pub type rf_op = i32;
/// The sum.
pub const RF_SUM: rf_op = 1;
/// The product.
pub const RF_PROD: rf_op = 2;
/// The smallest.
pub const RF_MIN: rf_op = 3;
/// The largest.
pub const RF_MAX: rf_op = 4;
/// The sum divided by the number of ranks, of floats.
pub const RF_MEAN: rf_op = 5;
/// Bitwise and, of integers.
pub const RF_BITAND: rf_op = 6;
/// Bitwise or, of integers.
pub const RF_BITOR: rf_op = 7;
/// Bitwise exclusive or, of integers.
pub const RF_BITXOR: rf_op = 8;
/// The reduction of the options.
pub const RF_CUSTOM: rf_op = 256;

pub(crate) fn named_op(op: rf_op) -> Option<ReduceOp> {
    u8::try_from(op).ok().and_then(ReduceOp::from_wire)
}

/// What is promised about the order of combination. 3 to 255 are reserved.
pub type rf_order = i32;
/// As the communicator has it.
pub const RF_ORDER_UNSAID: rf_order = 0;
/// The same bits on every rank, run after run; they may depend on the algorithm.
pub const RF_ORDER_DEFAULT: rf_order = 1;
/// The bits of a balanced tree over rank order, whatever the algorithm, the transport and the layout.
pub const RF_ORDER_FIXED: rf_order = 2;

pub(crate) fn order(order: rf_order) -> Option<Option<Order>> {
    Some(match order {
        RF_ORDER_UNSAID => None,
        RF_ORDER_DEFAULT => Some(Order::Default),
        RF_ORDER_FIXED => Some(Order::Fixed),
        _ => return None,
    })
}

/// When ranks compare what they ask for. 4 to 255 are reserved.
pub type rf_check = i32;
/// As the communicator has it.
pub const RF_CHECK_UNSAID: rf_check = 0;
/// Strict above 64 KiB where that helps, else normal.
pub const RF_CHECK_AUTO: rf_check = 1;
/// With the first bytes between every two ranks.
pub const RF_CHECK_NORMAL: rf_check = 2;
/// Before any payload moves.
pub const RF_CHECK_STRICT: rf_check = 3;

pub(crate) fn check(check: rf_check) -> Option<Option<Check>> {
    Some(match check {
        RF_CHECK_UNSAID => None,
        RF_CHECK_AUTO => Some(Check::Auto),
        RF_CHECK_NORMAL => Some(Check::Normal),
        RF_CHECK_STRICT => Some(Check::Strict),
        _ => return None,
    })
}

/// What becomes of nulls, in reductions of Arrow data. 3 to 255 are reserved.
pub type rf_nulls = i32;
/// They are refused.
pub const RF_NULLS_UNSAID: rf_nulls = 0;
/// A null on any rank is an error on every rank, which names column and rank.
pub const RF_NULLS_REJECT: rf_nulls = 1;
/// What is there is combined, as in SQL: a mean is divided by how many ranks have a value, and where none has one the result is null.
pub const RF_NULLS_SKIP: rf_nulls = 2;

pub(crate) fn nulls(nulls: rf_nulls) -> Option<Option<NullPolicy>> {
    Some(match nulls {
        RF_NULLS_UNSAID => None,
        RF_NULLS_REJECT => Some(NullPolicy::Reject),
        RF_NULLS_SKIP => Some(NullPolicy::Skip),
        _ => return None,
    })
}

/// How loud a line of the log is. 6 to 255 are reserved.
pub type rf_level = i32;
/// Something is wrong.
pub const RF_LEVEL_ERROR: rf_level = 1;
/// A group has failed, or something is odd.
pub const RF_LEVEL_WARN: rf_level = 2;
/// A group has formed.
pub const RF_LEVEL_INFO: rf_level = 3;
/// Connections and choices.
pub const RF_LEVEL_DEBUG: rf_level = 4;
/// Everything.
pub const RF_LEVEL_TRACE: rf_level = 5;
