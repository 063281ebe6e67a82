//! Collective communication for tasks that must agree: ring allreduce and its relatives, from proved plans, over
//! shared memory, TCP and threads, with failures that name the culprit.
//!
//! ```
//! use ringfold::{Communicator, ReduceOp};
//!
//! // Under `ringfold run`, mpirun or torchrun this joins the group; alone it is a group of one.
//! let comm = Communicator::from_env()?;
//! let mut gradients = vec![1.0f32; 1000];
//! comm.all_reduce(&mut gradients, ReduceOp::Mean)?;
//! # Ok::<(), ringfold::Error>(())
//! ```
//!
//! Start with [`Communicator`]. The modules below it are public for those who bring an algorithm, a transport, a
//! backend or a bootstrap of their own: each is one file behind a small seam ([`plan::Algorithm`],
//! [`transport::Transport`], [`backend::Backend`], [`transport::Exchange`]). A module uses only what stands above
//! it in this list.
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod config;
pub mod error;
pub mod observe;

pub mod cuda;
pub mod device;
pub mod memory;
pub mod reduce;
pub mod tensor;

pub mod collective;

pub mod plan;

pub mod transport;

pub mod backend;

pub mod bootstrap;
pub mod launch;

mod communicator;

#[cfg(feature = "arrow")]
pub mod arrow;
pub mod task;

pub use backend::Counters;
pub use collective::{Collective, Order};
pub use communicator::{
    AbortHandle, Bucket, Buffer, Call, Check, Communicator, Incoming, Lent, LentMany, Many, Nothing, Options,
    Outgoing, Owner, Pending, Prepared, Registered, Scope, SharedTensor, Tensors, With,
};
pub use config::Config;
pub use error::{Error, ErrorKind, Result};
pub use plan::Algorithm;
pub use reduce::{CustomOp, NullPolicy, ReduceOp};
pub use tensor::{DType, Element};

/// The examples of the README run as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
