//! NVIDIA's driver, as far as collectives need it: devices, streams, events, memory and copies.
//!
//! The library (`libcuda.so.1`) is looked for at run time, so every build has this module, and a machine without a driver gets
//! an error that says what was looked for where. Three layers, each in files of its own, and what uses them:
//!
//! | file | layer |
//! |---|---|
//! | `dynamic` | a shared library that is found at run time, and a table of its functions |
//! | `driver` | raw and checked: the functions of the driver, each return code an [`Error`](crate::Error) |
//! | `context` | safe: a device's [`Context`], and the streams, events and memory that it makes |
//! | `reach` | copies for backends that work on the host's memory |
//!
//! A library stays in the process once it is loaded: it has threads of its own, and what was made by it may outlive
//! whoever loaded it.

mod context;
mod driver;
mod dynamic;
mod reach;

pub use context::{Context, DeviceMemory, Event, OwnStream, Pinned};
pub(crate) use driver::Failure;
pub use driver::{CudaDevice, Driver};
pub(crate) use dynamic::{Dynamic, Search, table};
pub use reach::Reach;
