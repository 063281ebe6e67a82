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

mod account;
mod arrays;
mod column;
mod message;
mod nulls;
mod output;
mod partition;
mod reduce;
mod shuffle;
mod single;
mod tables;

pub use message::decode;
pub use single::{array_of, batch_of};
