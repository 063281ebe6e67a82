//! Collectives of Arrow data, as Arrow describes it.
//!
//! Arrow's own crates are re-exported here, so that a program uses the same version as this one.

pub mod c_data;

pub use arrow_array as array;
pub use arrow_buffer as buffer;
pub use arrow_data as data;
pub use arrow_ipc as ipc;
pub use arrow_schema as schema;
pub use arrow_select as select;
