//! A group of ranks, and what they can do together.
//!
//! Ways to call, each with its own file: [`verbs`] that block, [`started`] ones with their [`pending`] handles,
//! [`prepared`] ones, a [`scope`] of borrowed ones, a [`batch`], a [`bucket`]. Their memory may be [`shared`].
//!
//! Below them, in the order in which a call goes through: [`call`] makes a request of a verb and its [`tensors`],
//! [`execute`] checks it (unless it repeats a [`recent`] one) and has strided tensors [`packed`] and tensors of devices
//! [`staged`] where that is asked for (a [`site`] is where they are), [`sequencer`] gives it its place and schedule, and [`line`] drives the backend: on the caller's
//! thread, or handed to the one of [`progress`], which reports to a [`completion`]. [`options`] is what can be said of
//! one call, [`abort`] stops a group from outside, [`told`] is what can be seen of it, [`start`] makes communicators, and [`split`] makes groups within a group
//! of the same [kind](kin). [`above`](self) and [`above_arrow`](self) are what rooms above may know.

mod abort;
mod above;
#[cfg(feature = "arrow")]
mod above_arrow;
mod batch;
mod bucket;
mod buffer;
mod by_hosts;
#[cfg(feature = "mpi")]
mod by_mpi;
mod by_nccl;
mod call;
mod completion;
mod execute;
mod kin;
mod line;
mod options;
mod packed;
mod pending;
mod prepared;
mod probe;
mod progress;
mod recent;
mod scope;
mod sequencer;
mod shared;
mod site;
mod split;
mod staged;
mod start;
mod started;
mod tensors;
mod told;
mod verbs;

pub use abort::AbortHandle;
pub use bucket::Bucket;
pub use buffer::{Buffer, Incoming, Lent, LentMany, Many, Nothing, Outgoing, Owner};
pub use call::Call;
pub use options::{Check, Options};
pub use pending::Pending;
pub use prepared::Prepared;
pub use scope::Scope;
pub use shared::{Registered, SharedTensor};
pub use tensors::Tensors;

use crate::backend::choose::PassedOver;
use crate::collective::Request;
use crate::error::{Cause, Error, Result};
use crate::plan::Schedule;
use crate::plan::select::Table;
use completion::Completions;
use kin::Kind;
use line::Line;
use progress::ProgressThread;
use sequencer::Sequencer;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::sync::Arc;

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
    /// The ranks' numbers in the world.
    numbers: Arc<[usize]>,
    /// Tells this communicator from the others of its world; 0 is the first.
    id: u32,
    kind: Arc<dyn Kind>,
    /// How many times it has been split.
    splits: Cell<u32>,
    line: Arc<Line>,
    progress: Arc<ProgressThread>,
    sequencer: RefCell<Sequencer>,
    completions: RefCell<Completions>,
    abort: AbortHandle,
    /// The backends that the world does not use.
    passed_over: Arc<[PassedOver]>,
    /// For calls whose tensors are on devices, and whose backend works on the host's memory.
    staging: RefCell<staged::Means>,
    /// Gives memory for results, where a call makes its own.
    #[cfg(feature = "arrow")]
    recycler: crate::memory::Recycler,
}

/// How many bytes of results that nobody has any more are kept for the next.
#[cfg(feature = "arrow")]
const KEPT: usize = 256 << 20;

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
        self.line.hosts.get(*self.numbers.get(rank)?).map(String::as_str)
    }

    /// The table by which algorithms are chosen where a call asks for none: the same on every rank.
    ///
    /// ```
    /// let comm = ringfold::Communicator::local(1).remove(0);
    /// assert!(comm.table().to_string().contains("all_reduce: "));
    /// ```
    pub fn table(&self) -> Table {
        self.sequencer.borrow().table().clone()
    }

    /// The schedule by which this communicator carries out a request, where nobody asks for another: what its table says of
    /// what its ranks reach of each other. The same on every rank. Where all ranks' operands are shared tensors another
    /// may be taken.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) where no algorithm does it.
    ///
    /// ```
    /// use ringfold::collective::{Collective, Request};
    /// use ringfold::{Communicator, DType};
    /// let comm = Communicator::local(2).remove(0);
    /// let request = Request::new(Collective::AllReduce, 2, DType::F32, 100);
    /// assert_eq!(comm.schedule(&request)?.algorithm.name(), "recursive_doubling");
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    pub fn schedule(&self, request: &Request) -> Result<Schedule> {
        self.sequencer.borrow().select(request)
    }

    /// The word for the backend, as on the command line: `shm`, `tcp`, `channel`.
    pub fn backend(&self) -> &'static str {
        self.line.backend
    }

    /// The other backends that there are between processes, in the order of preference, and why the group does not use them: the
    /// same on every rank. Empty among threads, who had no choice.
    ///
    /// ```
    /// let comm = ringfold::Communicator::from_env()?;
    /// for other in comm.passed_over() {
    ///     println!("not {other}"); // not shm: rank 3 is on b and rank 0 on a
    /// }
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    pub fn passed_over(&self) -> &[PassedOver] {
        &self.passed_over
    }

    /// A handle by which any thread can stop the group. See [`AbortHandle`].
    pub fn abort_handle(&self) -> AbortHandle {
        self.abort.clone()
    }

    /// The first cause of the group's failure, if it has failed as far as this rank knows. Does not block.
    pub fn failure(&self) -> Option<Cause> {
        self.abort.failure().or_else(|| self.line.failure())
    }

    /// [`failure`](Communicator::failure) as an error, with this rank and the culprit's host.
    pub fn failure_error(&self) -> Option<Error> {
        self.failure().map(|cause| self.line.complete(cause.error(self.line.rank)))
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
}

impl Communicator {
    /// Fails in a process that was forked off the one that is a rank of the group. Every call that needs the group does.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported).
    pub fn check_process(&self) -> Result<()> {
        self.check_origin()
    }

    #[inline]
    fn check_origin(&self) -> Result<()> {
        self.progress.check_origin().map_err(|error| self.line.complete(error))
    }

    fn make_progress_thread(&self) -> Result<()> {
        self.progress.make().map_err(|error| self.line.complete(error))
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
        if self.check_origin().is_err() {
            return; // a fork's copy: the rank is the parent's
        }
        if std::thread::panicking() {
            self.abort.panicked();
        }
        // The progress thread may hold the line a little longer, and the process may not wait for that.
        if let Some(tracer) = &self.line.meter.tracer {
            tracer.save();
        }
        self.line.close();
    }
}

/// A communicator with options for its calls: made by [`Communicator::with`].
#[derive(Debug, Clone)]
pub struct With<'a> {
    communicator: &'a Communicator,
    options: Options,
}
