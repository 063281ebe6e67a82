//! Memory that the ranks of one host share.
//!
//! A [`Segment`] is an anonymous file that every rank of a host maps once: sparse, sealed against resizing, without a
//! name. Each rank has a part of it to itself, its [`Arena`], from which it takes [`Block`]s; where a block lies in the
//! segment says everything about it, so ranks tell each other offsets and hand over one descriptor, once.
//!
//! What lies in a segment can change at any time, since others map it too: it is touched by raw pointers and atomics, and
//! no Rust reference to it is ever made but to an atomic, and to shared tensors, which others leave alone while their owner
//! has them.
//!
//! [`device_memory`] is the seam to memory of devices. [`Pages`] are memory of this process alone, whole pages of it, which can take the place of shared ones; a [`Recycler`] keeps them
//! for results.
//!
//! The layout and the protocols: the README beside [`transport::shm`](crate::transport::shm).

mod arena;
mod available;
pub mod barrier;
pub mod device_memory;
pub(crate) mod futex;
#[cfg(ringfold_tsan)]
mod one_mapping;
mod origin;
pub(crate) mod pages;
mod recycler;
#[cfg_attr(miri, path = "heap_segment.rs")]
mod segment;
pub(crate) mod stream;

pub use arena::{Arena, Block};
pub(crate) use available::available;
pub use origin::Origin;
pub use pages::Pages;
pub use recycler::{Recycled, Recycler};
pub use segment::Segment;

/// The size of a page, which is what memory is taken and given back by.
pub const PAGE: usize = 4096;

/// The size of a large page, on x86 and on Arm with pages of [`PAGE`] bytes.
pub const LARGE_PAGE: usize = 2 << 20;

/// Cache lines that are written by different ranks lie this many bytes apart: two lines, because they are fetched in pairs.
pub const APART: usize = 128;
