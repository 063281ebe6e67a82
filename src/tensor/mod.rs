//! What is reduced: element types and views of tensors.

pub mod dlpack;
mod dtype;
mod layout;
mod packing;
mod view;

pub use dtype::{DType, Element};
pub use view::{Device, TensorMut, TensorRef};
