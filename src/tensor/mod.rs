//! What is reduced: element types and views of tensors.

mod dtype;
mod view;

pub use dtype::{DType, Element};
pub use view::{Device, TensorMut, TensorRef};
