//! Collective communication for tasks that must agree.
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod error;
pub mod observe;

pub mod reduce;
pub mod tensor;

pub mod collective;
pub mod plan;
pub mod transport;

pub mod backend;

mod communicator;

pub use collective::{Collective, Order};
pub use communicator::{AbortHandle, Check, Communicator, Options, Tensors, With};
pub use error::{Error, ErrorKind, Result};
pub use plan::Algorithm;
pub use reduce::ReduceOp;
pub use tensor::{DType, Element};
