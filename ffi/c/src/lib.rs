//! The C ABI of ringfold. `include/ringfold.h` is generated from this crate: what C programmers read of a function is
//! what stands here.
//!
//! Each export is a [`guard`](guard::guarded) and a call. Casts between handles and values are in [`handle`] alone.
#![expect(non_camel_case_types, reason = "the names are those of the header")]

pub mod arrow;
pub mod collective;
pub mod comm;
pub mod config;
pub mod context;
pub mod dlpack;
pub mod error;
pub mod exchange;
pub mod guard;
pub mod handle;
#[cfg_attr(not(feature = "arrow"), path = "lending_nothing.rs")]
pub mod lending;
pub mod log;
pub mod memory;
pub mod operand;
pub mod options;
pub mod prepared;
pub mod reduction;
pub mod request;
mod sized;
mod turn;
pub mod types;
pub mod version;

#[cfg(not(target_pointer_width = "64"))]
compile_error!("the C ABI counts in 64 bits, and so must the machine");

#[cfg(test)]
mod layout_tests;
