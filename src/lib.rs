//! Collective communication for tasks that must agree.
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod config;
pub mod error;
pub mod observe;

pub mod reduce;
pub mod tensor;

pub mod collective;
pub mod transport;

pub mod bootstrap;

pub use error::{Error, ErrorKind, Result};
pub use reduce::ReduceOp;
pub use tensor::{DType, Element};
