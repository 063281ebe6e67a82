//! A group of ranks, and what they can do together.
//!
//! - [`verbs`]: every collective, typed and untyped, each a request and its buffers;
//! - [`engine`]: the order of operations, and the one place that drives the backend;
//! - [`options`]: what can be said of one call;
//! - [`abort`]: stopping a group from outside.

mod abort;
mod engine;
mod options;
mod start;
mod verbs;

pub use abort::AbortHandle;
pub use options::{Check, Options};
pub use verbs::Tensors;

use crate::error::{Cause, Error, ErrorKind, Result};
use engine::Engine;
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One rank's membership in a group.
///
/// Every rank calls the same collectives in the same order; each call blocks until this rank's part is done, at most
/// for its deadline. Where ranks call different things, every rank gets an error that names the rank and the
/// argument, not a hang. After a failure the group is spoilt: every later call returns the first cause.
///
/// A communicator can be sent to another thread but not shared: the order of calls is the user's to give. Several
/// communicators in a process do not disturb each other.
///
/// ```
/// use ringfold::{Communicator, ReduceOp};
/// std::thread::scope(|scope| {
///     for comm in Communicator::local(4) {
///         scope.spawn(move || -> ringfold::Result<()> {
///             let mut gradients = vec![comm.rank() as f32; 1000];
///             comm.all_reduce(&mut gradients, ReduceOp::Mean)?;
///             assert!(gradients.iter().all(|&g| g == 1.5));
///             comm.barrier()
///         });
///     }
/// });
/// ```
pub struct Communicator {
    rank: usize,
    world: usize,
    generation: u32,
    hosts: Vec<String>,
    engine: Mutex<Engine>,
    abort: AbortHandle,
    not_sync: PhantomData<Cell<()>>,
}

impl Communicator {
    /// This rank, from 0 to [`world_size`](Communicator::world_size) - 1.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The number of ranks.
    pub fn world_size(&self) -> usize {
        self.world
    }

    /// The generation of the group: how often it has been formed anew.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The name of the host that a rank is on, where there are hosts: `None` among threads.
    pub fn host_of(&self, rank: usize) -> Option<&str> {
        self.hosts.get(rank).map(String::as_str)
    }

    /// The word for the backend, as on the command line: `tcp`, `channel`.
    pub fn backend(&self) -> &'static str {
        self.engine().backend_name()
    }

    /// A handle by which any thread can stop the group. See [`AbortHandle`].
    pub fn abort_handle(&self) -> AbortHandle {
        self.abort.clone()
    }

    /// The first cause of the group's failure, if it has failed as far as this rank knows. Does not block.
    pub fn failure(&self) -> Option<Cause> {
        self.engine().failure()
    }

    /// The same verbs with options that hold for the calls made through it.
    ///
    /// ```
    /// use ringfold::{Communicator, Options, ReduceOp};
    /// use std::time::Duration;
    /// let comm = Communicator::local(1).remove(0);
    /// let mut data = [1i64, 2, 3];
    /// comm.with(Options::new().deadline(Duration::from_secs(5))).all_reduce(&mut data, ReduceOp::Sum)?;
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    pub fn with(&self, options: Options) -> With<'_> {
        With { communicator: self, options }
    }

    fn engine(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The engine, unless a call has panicked inside of it: an operation may then still hold on to memory that was
    /// borrowed for that call only.
    fn engine_for_call(&self) -> Result<MutexGuard<'_, Engine>> {
        self.engine.lock().map_err(|_| {
            Error::new(ErrorKind::UserPanic, "an earlier call panicked inside the library")
                .remedy("drop this communicator and report what the panic said")
        })
    }

    /// Adds what an error of this rank's engine does not know: the culprit's host.
    fn complete(&self, error: Error) -> Error {
        match error.culprit().and_then(|culprit| self.host_of(culprit)) {
            Some(host) => {
                let host = host.to_owned();
                error.on_host(host)
            }
            None => error,
        }
    }
}

impl fmt::Debug for Communicator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Communicator")
            .field("rank", &self.rank)
            .field("world", &self.world)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

impl Drop for Communicator {
    /// Leaves the group, without blocking: peers that still need this rank are told. A rank that leaves because it
    /// panics says so.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.abort.panicked(self.rank);
        }
    }
}

/// A communicator with options for its calls: made by [`Communicator::with`].
#[derive(Debug, Clone)]
pub struct With<'a> {
    communicator: &'a Communicator,
    options: Options,
}
