//! How elements are combined: the operations, a scalar oracle, and kernels behind a run-time table.

mod balanced;
mod custom;
mod kernels;
mod nulls;
mod op;
pub mod oracle;

pub use custom::{CustomOp, Reduction, Signature, WIDEST};
#[cfg(feature = "arrow")]
pub(crate) use kernels::select;
pub use kernels::{InstructionSet, Kernels, kernels};
pub use nulls::NullPolicy;
pub use op::ReduceOp;
