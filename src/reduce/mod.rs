//! How elements are combined: the operations, a scalar oracle, and kernels behind a run-time table.

mod kernels;
mod op;
pub mod oracle;

pub use kernels::{Kernels, kernels};
pub use op::ReduceOp;
