//! Barrier task groups: tasks that start together or not at all, meet in microseconds, fail and are tried again as one.
//!
//! - [`TaskGroup`] says how many tasks there are, what each needs, how long an attempt may take and how often to try; it
//!   [runs](TaskGroup::run) a function in threads, or [a program](TaskGroup::run_program) as processes of this host;
//! - [`TaskContext`] is a task as its own code sees it: who it is, `barrier`, `all_gather`, a communicator for collectives;
//! - [`monitor`] shows what tasks tell while they run;
//! - [`GroupError`] holds the first cause of every attempt that failed.
//!
//! The words are those of Spark's barrier stages, and so is what they mean: a task has a *partition* (here also its rank), a group
//! is tried again as a whole, and each *attempt* is numbered from 0. On several machines the tasks are started by the engine that runs
//! there (Spark, Slurm, Kubernetes, mpirun, torchrun), and join: [`TaskContext::from_env`], [`TaskContext::with_exchange`].
//!
//! # Gang start
//! What the group asks for is compared with what there is before anything starts ([`Inventory`](crate::device::Inventory)); a group
//! that does not fit fails at once and says what would. A group that asks for nothing is never refused. All threads, or all
//! processes, exist before the first of them does anything.
//!
//! # When a task fails
//! It returns an error, panics, exits with another status than 0, is killed, or is not done in time. The others are told: their
//! collectives return an error that names it, their [`CancellationToken`] is set, and processes that do not end are sent
//! `SIGTERM` and then `SIGKILL` ([`launch`](crate::launch)). A thread cannot be ended from outside: the group waits until each
//! has returned. Then the whole group is tried again, in a new generation that nobody of an older one can reach, as often as
//! [`max_attempts`](TaskGroup::max_attempts) says.
//!
//! ```
//! use ringfold::task::TaskGroup;
//! let results = TaskGroup::new(4).max_attempts(2).run(|task| {
//!     task.barrier()?;
//!     if task.attempt_number() == 0 && task.partition_id() == 2 {
//!         return Err("out of luck".into()); // the others learn of it in what they call next
//!     }
//!     task.barrier()?;
//!     Ok::<_, Box<dyn std::error::Error + Send + Sync>>(task.partition_id() * 10)
//! })?;
//! assert_eq!(results, [0, 10, 20, 30]); // by partition
//! # Ok::<(), ringfold::task::GroupError>(())
//! ```

mod attempt;
mod cancel;
mod claims;
mod context;
mod control;
mod failure;
mod gathering;
mod group;
mod info;
mod main;
pub mod monitor;
mod placement;
mod processes;
mod threads;

pub use cancel::CancellationToken;
pub use context::TaskContext;
pub use control::GroupHandle;
pub use failure::{FailureKind, GroupError, TaskFailure};
pub use group::{Completed, TaskGroup};
pub use info::{TaskDescription, TaskInfo};
pub use main::main;
