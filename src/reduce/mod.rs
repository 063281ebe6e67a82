//! How elements are combined: the operations, a scalar oracle, and kernels behind a run-time table.

mod op;

pub use op::ReduceOp;
