//! Tensors of other frameworks, as DLPack 1 describes them: with strides, on any device, bf16 included, which neither Arrow nor
//! numpy has.
//!
//! [`Imported`] takes a tensor over from whoever gives it out (in Python: what is in the capsule that `__dlpack__` returns),
//! [`Borrowed`] looks at one that stays its owner's, and [`Exported`] gives out a vector, a
//! [`SharedTensor`](crate::SharedTensor), or memory of a device.
//!
//! # What is copied
//!
//! | tensor | what a verb does with it |
//! |---|---|
//! | dense and row-major, on the host or in memory pinned by CUDA | zero copy: read and written where it is, at any alignment |
//! | with strides, on the host | refused; under [`Options::pack`](crate::Options::pack) packed into dense memory for the time of a blocking call, and an output unpacked after it has succeeded |
//! | on a CUDA device | described as [`Device::Cuda`](super::Device::Cuda); backends of devices use it where it is, others stage it under [`Options::staging`](crate::Options::staging) and refuse it else |
//! | read-only | an input only |
//! | with elements that share memory (a stride of 0) | an input only, packed |
//! | given out | zero copy: the owner lives until the deleter is called |
//!
//! Nothing else is supported, and nothing is copied unasked: element types other than [`DType`](crate::DType)'s (bool, complex,
//! opaque handles, 8-bit floats, vectors of several lanes) and other devices are
//! [`Unsupported`](crate::ErrorKind::Unsupported) by name.

mod describe;
mod export;
mod import;
mod structures;

pub use describe::MOST_EXTENTS;
pub use export::Exported;
pub use import::{Borrowed, Imported};
pub use structures::{
    DLDataType, DLDevice, DLManagedTensor, DLManagedTensorVersioned, DLPackVersion, DLTensor, IS_COPIED,
    MAJOR, READ_ONLY,
};

#[cfg(test)]
mod tests;
