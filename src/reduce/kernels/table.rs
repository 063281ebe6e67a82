//! Every loop compiled for every rule and element type, as plain function pointers: one table an instruction set.

use super::rules;
use super::sets::Set;
use super::{Finish, Kernels};
use crate::reduce::ReduceOp;
use crate::tensor::DType;

/// By operation and element type; `None` where the two do not go together.
pub(super) struct Table([[Option<Kernels>; DType::ALL.len()]; ReduceOp::ALL.len()]);

impl Table {
    /// The kernels compiled for `S`, and those of integers for `I`, to be run only where the processor has both.
    pub(super) const fn of<S: Set, I: Set>() -> Self {
        let mut table = [[None; DType::ALL.len()]; ReduceOp::ALL.len()];
        let mut i = 0;
        while i < ReduceOp::ALL.len() {
            let op = ReduceOp::ALL[i];
            let mut j = 0;
            while j < DType::ALL.len() {
                let dtype = DType::ALL[j];
                table[row(op)][column(dtype)] = entry::<S, I>(op, dtype);
                j += 1;
            }
            i += 1;
        }
        Table(table)
    }

    pub(super) fn get(&self, op: ReduceOp, dtype: DType) -> Option<&Kernels> {
        self.0[row(op)][column(dtype)].as_ref()
    }
}

/// The numbers of the wire begin at 1 and have no gaps; a gap would fail to compile, in the table above.
const fn row(op: ReduceOp) -> usize {
    op as usize - 1
}

const fn column(dtype: DType) -> usize {
    dtype as usize - 1
}

const fn entry<S: Set, I: Set>(op: ReduceOp, dtype: DType) -> Option<Kernels> {
    /// The kernels of a rule for the types listed, of a set, `None` for the others.
    macro_rules! of {
        ($set:ident, $rule:ident: $($name:ident = $t:ty),*) => {
            match dtype {
                $(DType::$name => Some(Kernels {
                    size: size_of::<$t>(),
                    combine: $set::combine::<$t, rules::$rule>,
                    fold: $set::fold::<$t, rules::$rule>,
                    finish: None,
                    rounds: rounds(op, dtype),
                    fold_four: if has_fold_four::<$set>(op, dtype) {
                        Some($set::fold_four::<$t, rules::$rule>)
                    } else {
                        None
                    },
                }),)*
                _ => None,
            }
        };
    }
    macro_rules! integers {
        ($rule:ident) => {
            of!(I, $rule: I8 = i8, I16 = i16, I32 = i32, I64 = i64, U8 = u8, U16 = u16, U32 = u32, U64 = u64)
        };
    }
    macro_rules! numbers {
        ($rule:ident) => {
            match of!(S, $rule: F16 = half::f16, BF16 = half::bf16, F32 = f32, F64 = f64) {
                None => integers!($rule),
                floats => floats,
            }
        };
    }
    match op {
        ReduceOp::Sum => numbers!(Sum),
        ReduceOp::Prod => numbers!(Prod),
        ReduceOp::Min => numbers!(Min),
        ReduceOp::Max => numbers!(Max),
        ReduceOp::Mean => match (entry::<S, I>(ReduceOp::Sum, dtype), finish::<S>(dtype)) {
            (Some(sum), Some(finish)) => Some(Kernels { finish: Some(finish), ..sum }),
            _ => None,
        },
        ReduceOp::BitAnd => integers!(BitAnd),
        ReduceOp::BitOr => integers!(BitOr),
        ReduceOp::BitXor => integers!(BitXor),
    }
}

/// Whether there is a loop for four operands of a tree: such loops are long, and the others go two by two.
const fn has_fold_four<S: Set>(op: ReduceOp, dtype: DType) -> bool {
    S::LONG_BLOCKS && matches!(op, ReduceOp::Sum) && matches!(dtype, DType::F32 | DType::F64)
}

/// Whether results are rounded, so that they depend on the order.
const fn rounds(op: ReduceOp, dtype: DType) -> bool {
    matches!(op, ReduceOp::Sum | ReduceOp::Prod | ReduceOp::Mean)
        && matches!(dtype, DType::F16 | DType::BF16 | DType::F32 | DType::F64)
}

const fn finish<S: Set>(dtype: DType) -> Option<Finish> {
    match dtype {
        DType::F16 => Some(S::divide::<half::f16>),
        DType::BF16 => Some(S::divide::<half::bf16>),
        DType::F32 => Some(S::divide::<f32>),
        DType::F64 => Some(S::divide::<f64>),
        _ => None,
    }
}
