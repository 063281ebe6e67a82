//! Time, the poison word, traces and logs: what every floor above looks at, or tells, while it works.
//!
//! # What is told by `tracing`
//! Each call makes one span `collective` with the target `ringfold`, at level DEBUG, with the fields rank, world,
//! communicator, collective, sequence, bytes, dtype, op, algorithm, order and backend, and `error` where it fails. It is
//! entered wherever the call is driven: on the caller's thread, or on the progress thread. Events have the targets of
//! their modules:
//!
//! | level | what |
//! | --- | --- |
//! | WARN | a group has failed, once on each rank, with the verdict; something that the caller is not told of |
//! | INFO | a group has formed |
//! | DEBUG | connections made and lost, with peer and address; failures as they are noticed; schedules that were selected |
//!
//! Where nobody listens, a call pays for looking at one number. The library installs no subscriber: programs bring their
//! own, or call [`log::install`](https://docs.rs/ringfold/latest/ringfold/observe/log/) with the feature `log`.

#[cfg(feature = "log")]
pub mod log;
mod poison;
pub(crate) mod thread;
mod time;
pub mod trace;

pub use poison::Poison;
pub use time::Time;

/// Makes a sleeping rank look again. Quick, never blocks, may be called by any thread at any time.
pub type Waker = std::sync::Arc<dyn Fn() + Send + Sync>;
