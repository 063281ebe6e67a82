//! The NCCL backend on machines without a GPU: over stand-ins for the driver and for NCCL that write down what they are asked for;
//! with NVIDIA's own library, as far as that goes without a driver, by `tests/nccl.sh`.

#![allow(clippy::duplicate_mod, reason = "what finds a free port is a part of both")]

#[path = "../calls/mod.rs"]
mod calls;
#[path = "../support/mod.rs"]
mod support;

mod absence;
mod failures;
mod groups;
mod order;
mod rank;
mod results;
mod stand_in;
mod sweep;
mod tensors;
