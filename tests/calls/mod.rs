//! What the suites share: a naive oracle, seeded inputs, guarded memory, calls as data, and groups to run them on.

// Each suite uses a part of it.
#![allow(dead_code, unreachable_pub)]

#[path = "../support/address.rs"]
mod address;
pub mod call;
pub mod group;
#[path = "../support/hosts.rs"]
pub mod hosts;
pub mod memory;
pub mod messages;
pub mod odd;
pub mod oracle;
pub mod packed;
pub mod pairwise;
pub mod refusals;
pub mod started;
pub mod suite;
pub mod value;
