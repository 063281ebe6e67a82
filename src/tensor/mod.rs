//! What is reduced: element types and views of tensors.

pub mod dlpack;
mod dtype;
mod layout;
mod packing;
mod stream;
mod view;

pub use dtype::{DType, Element};
pub use stream::Stream;
pub use view::{Device, TensorMut, TensorRef};
