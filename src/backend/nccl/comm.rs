//! A communicator of NCCL's, with each call checked.
//!
//! It is made, divided and ended without blocking: a call that is not done is asked about again, for as long as its caller
//! wants to wait. One thread at a time calls it; who ends it takes it away from all others first.

use super::Bell;
use super::library::{Configuration, IN_PROGRESS, Library, NO_COLOR, Raw, Refusal, SUCCESS, UniqueId};
use crate::cuda::{Context, OwnStream};
use crate::error::{Error, ErrorKind, Result};
use crate::observe;
use crate::tensor::Stream;
use std::ffi::c_int;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub(super) type Checked<T> = std::result::Result<T, Refusal>;

/// How long the ways between two looks become.
const LONGEST_NAP: Duration = Duration::from_millis(2);

/// What made a wait end before what was waited for.
#[derive(Debug)]
pub(super) enum Trouble {
    /// NCCL says so.
    Refused(Refusal),
    /// Time is up.
    Late,
    /// The group has failed meanwhile.
    Spoilt,
}

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Trouble {
        Trouble::Refused(refusal)
    }
}

/// A handle of NCCL's; null until NCCL has made it.
#[derive(Debug, Clone, Copy)]
struct Handle(Raw);

// SAFETY: NCCL's communicators may be used from any thread, by one at a time; the lock around it sees to that.
unsafe impl Send for Handle {}

/// One rank's communicator of NCCL's. Send and Sync.
pub(super) struct Comm {
    library: Library,
    context: Arc<Context>,
    /// None once it is ended.
    raw: Mutex<Option<Handle>>,
}

impl fmt::Debug for Comm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Comm").field("library", &self.library).finish_non_exhaustive()
    }
}

/// The communicator for the time of some calls.
pub(super) struct Turn<'a> {
    library: &'a Library,
    raw: Raw,
    _lock: MutexGuard<'a, Option<Handle>>,
}

impl Comm {
    /// Joins the group of this name. Blocks until all ranks have.
    #[cold]
    pub(super) fn new(
        library: &Library,
        context: &Arc<Context>,
        (rank, world): (usize, usize),
        id: UniqueId,
        until: Instant,
        is_spoilt: &dyn Fn() -> bool,
    ) -> std::result::Result<Comm, Trouble> {
        let Some(init) = library.raw().comm_init_rank_config else { return Err(too_old(library).into()) };
        let mut configuration = Configuration::non_blocking();
        let mut raw: Raw = std::ptr::null_mut();
        let _entered = context.enter().map_err(Refusal::from)?;
        // SAFETY: the device's context is current; handle and configuration are this function's, and NCCL copies the latter.
        let code = unsafe { init(&mut raw, world as c_int, id, rank as c_int, &mut configuration) };
        let comm = Comm::of(library, context, raw);
        comm.settle("ncclCommInitRankConfig", code, until, is_spoilt)?;
        Ok(comm)
    }

    fn of(library: &Library, context: &Arc<Context>, raw: Raw) -> Comm {
        let raw = Mutex::new((!raw.is_null()).then_some(Handle(raw)));
        Comm { library: library.clone(), context: Arc::clone(context), raw }
    }

    /// Divides the group, as each rank of it does at once. `None` joins nothing.
    #[cold]
    pub(super) fn split(
        &self,
        part: Option<(usize, usize)>,
        until: Instant,
        is_spoilt: &dyn Fn() -> bool,
    ) -> std::result::Result<Option<Comm>, Trouble> {
        let name = "ncclCommSplit";
        let Some(split) = self.library.raw().comm_split else { return Err(too_old(&self.library).into()) };
        let mut configuration = Configuration::non_blocking();
        let (color, key) = part.map_or((NO_COLOR, 0), |(color, key)| (color as c_int, key as c_int));
        // Where NCCL writes the handle, perhaps later than the call returns.
        let mut made: Box<Raw> = Box::new(std::ptr::null_mut());
        let _entered = self.context.enter().map_err(Refusal::from)?;
        let code = {
            let turn = self.turn()?;
            // SAFETY: the communicator lives and nobody else calls it; NCCL copies the configuration.
            unsafe { split(turn.raw, color, key, &mut *made, &mut configuration) }
        };
        let settled = self.settle(name, code, until, is_spoilt);
        if settled.is_err() {
            // NCCL may still write to it.
            Box::leak(made);
            return settled.map(|()| None);
        }
        // SAFETY: NCCL may have written it from a thread of its own, before it said that it is done.
        let raw = unsafe { std::ptr::read_volatile(&*made) };
        if part.is_none() || raw.is_null() {
            return Ok(None);
        }
        let child = Comm::of(&self.library, &self.context, raw);
        child.settle(name, SUCCESS, until, is_spoilt)?;
        Ok(Some(child))
    }

    /// Gathers bytes of all ranks, each at its place of memory on the device. Blocks until they are there.
    #[cold]
    pub(super) fn gather_in_place(
        &self,
        memory: u64,
        (rank, bytes): (usize, usize),
        stream: &OwnStream,
        (until, is_spoilt): (Instant, &dyn Fn() -> bool),
    ) -> std::result::Result<(), Trouble> {
        const BYTE: c_int = 1;
        let name = "ncclAllGather";
        {
            let _entered = self.context.enter().map_err(Refusal::from)?;
            let on = Queue { dtype: BYTE, stream: stream.stream() };
            // SAFETY: the caller has room for the bytes of all ranks there, and leaves it alone until the stream has come so far.
            unsafe { self.turn()?.all_gather(memory + (rank * bytes) as u64, memory, bytes, on) }?;
        }
        self.settle(name, IN_PROGRESS, until, is_spoilt)?;
        let failed = |error: Error| Refusal { code: 1, text: error.message().to_owned() };
        while !stream.is_done().map_err(failed)? {
            self.turn()?.is_settled(name)?;
            if is_spoilt() {
                return Err(Trouble::Spoilt);
            }
            if Instant::now() >= until {
                return Err(Trouble::Late);
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        Ok(())
    }

    /// Asks until what was begun is done.
    #[cold]
    fn settle(
        &self,
        name: &'static str,
        code: c_int,
        until: Instant,
        is_spoilt: &dyn Fn() -> bool,
    ) -> std::result::Result<(), Trouble> {
        if code != SUCCESS && code != IN_PROGRESS {
            let raw = self.lock().map_or(std::ptr::null_mut(), |handle| handle.0);
            return Err(self.library.refusal(name, code, raw).into());
        }
        let mut nap = Duration::from_micros(10);
        loop {
            if self.turn()?.is_settled(name)? {
                return Ok(());
            }
            if is_spoilt() {
                return Err(Trouble::Spoilt);
            }
            if Instant::now() >= until {
                return Err(Trouble::Late);
            }
            std::thread::sleep(nap);
            nap = (nap * 2).min(LONGEST_NAP);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Handle>> {
        self.raw.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to call it, unless it has been ended.
    #[inline]
    pub(super) fn turn(&self) -> Checked<Turn<'_>> {
        let lock = self.lock();
        match *lock {
            Some(Handle(raw)) => Ok(Turn { library: &self.library, raw, _lock: lock }),
            None => Err(Refusal { code: SUCCESS, text: "NCCL's communicator has been ended".into() }),
        }
    }

    /// Aborts it: what it has queued on streams ends. Blocks until NCCL says that it has, or for so long; tells which.
    #[cold]
    pub(super) fn abort(&self, patience: Duration) -> bool {
        self.end(patience, self.library.raw().comm_abort)
    }

    /// Ends it in good order, once what it has queued is done; aborts it where that takes longer than this.
    #[cold]
    pub(super) fn leave(&self, patience: Duration) {
        let until = Instant::now() + patience;
        let code = match (self.turn(), self.library.raw().comm_finalize) {
            (Err(_), _) => return,
            // SAFETY: the communicator lives and nobody else calls it.
            (Ok(turn), Some(finalize)) => unsafe { finalize(turn.raw) },
            (Ok(_), None) => SUCCESS,
        };
        if self.settle("ncclCommFinalize", code, until, &|| false).is_err() {
            self.abort(patience);
            return;
        }
        self.end(patience, self.library.raw().comm_destroy);
    }

    /// Takes it away from everybody and ends it, on a thread of its own: NCCL may take its time over that.
    #[cold]
    fn end(&self, patience: Duration, end: unsafe extern "C" fn(Raw) -> c_int) -> bool {
        let Some(handle) = self.lock().take() else { return true };
        let done = Arc::new(Bell::default());
        let (is_done, context) = (Arc::clone(&done), Arc::clone(&self.context));
        let spawned = observe::thread::spawn("ringfold-nccl-end", move || {
            let handle = handle;
            let entered = context.enter();
            // SAFETY: nobody else has the communicator any more, and it is ended once.
            unsafe { end(handle.0) };
            drop(entered);
            // Whoever waits for the end finds nothing held any more.
            drop(context);
            done.ring();
        });
        match spawned {
            Ok(_) => is_done.sleep(patience),
            Err(error) => {
                tracing::warn!(%error, "no thread to end NCCL's communicator on: it stays");
                false
            }
        }
    }
}

impl Drop for Comm {
    fn drop(&mut self) {
        self.abort(Duration::from_secs(2));
    }
}

/// What to do where a version lacks what is needed.
fn too_old(library: &Library) -> Refusal {
    let text = format!("NCCL {} cannot make groups without blocking, which 2.14 can", library.version());
    Refusal { code: SUCCESS, text }
}

/// As [`too_old`], as an error.
pub(super) fn check_age(library: &Library) -> Result<()> {
    if library.is_non_blocking() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unavailable, too_old(library).text).remedy("install a newer NCCL"))
}

/// Whether a call is done, or goes on in NCCL's own time.
pub(super) type Launched = Checked<bool>;

impl Turn<'_> {
    #[inline]
    fn check(&self, name: &'static str, code: c_int) -> Launched {
        match code {
            SUCCESS => Ok(true),
            IN_PROGRESS => Ok(false),
            _ => Err(self.library.refusal(name, code, self.raw)),
        }
    }

    /// Whether what was begun last is done, and nothing has failed since.
    #[inline]
    pub(super) fn is_settled(&self, name: &'static str) -> Launched {
        let mut code = SUCCESS;
        // SAFETY: the communicator lives; the code is this function's.
        let asked = unsafe { (self.library.raw().comm_get_async_error)(self.raw, &mut code) };
        self.check("ncclCommGetAsyncError", asked)?;
        self.check(name, code)
    }

    /// Queues as one what `each` queues.
    pub(super) fn group(&self, each: impl FnOnce() -> Launched) -> Launched {
        // SAFETY: a group is this thread's, and is ended below.
        self.check("ncclGroupStart", unsafe { (self.library.raw().group_start)() })?;
        let inside = each();
        // SAFETY: it was begun above.
        let ended = self.check("ncclGroupEnd", unsafe { (self.library.raw().group_end)() });
        inside.and(ended)
    }

    pub(super) fn has_all_to_all(&self) -> bool {
        self.library.has_all_to_all()
    }
}

/// Memory on the device that a call works on, its element type and the stream it is queued on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Queue {
    /// NCCL's number.
    pub(super) dtype: c_int,
    pub(super) stream: Stream,
}

/// NCCL's calls. Each is queued on a stream.
///
/// # Safety
/// Of all: until the stream has come so far, so many elements must be readable where it sends from, and writable where it
/// receives, on the communicator's device, and be touched by nobody else; the stream must be one of that device's that lives.
impl Turn<'_> {
    #[inline]
    pub(super) unsafe fn all_reduce(
        &self,
        from: u64,
        to: u64,
        count: usize,
        op: c_int,
        on: Queue,
    ) -> Launched {
        let call = self.library.raw().all_reduce;
        // SAFETY: the caller's promise.
        let code = unsafe { call(from, to, count, on.dtype, op, self.raw, on.stream.as_raw()) };
        self.check("ncclAllReduce", code)
    }

    pub(super) unsafe fn reduce(
        &self,
        (from, to): (u64, u64),
        count: usize,
        op: c_int,
        root: usize,
        on: Queue,
    ) -> Launched {
        let call = self.library.raw().reduce;
        // SAFETY: the caller's promise.
        let code =
            unsafe { call(from, to, count, on.dtype, op, root as c_int, self.raw, on.stream.as_raw()) };
        self.check("ncclReduce", code)
    }

    pub(super) unsafe fn broadcast(
        &self,
        from: u64,
        to: u64,
        count: usize,
        root: usize,
        on: Queue,
    ) -> Launched {
        let call = self.library.raw().broadcast;
        // SAFETY: the caller's promise.
        let code = unsafe { call(from, to, count, on.dtype, root as c_int, self.raw, on.stream.as_raw()) };
        self.check("ncclBroadcast", code)
    }

    pub(super) unsafe fn all_gather(&self, from: u64, to: u64, count: usize, on: Queue) -> Launched {
        let call = self.library.raw().all_gather;
        // SAFETY: the caller's promise.
        let code = unsafe { call(from, to, count, on.dtype, self.raw, on.stream.as_raw()) };
        self.check("ncclAllGather", code)
    }

    pub(super) unsafe fn reduce_scatter(
        &self,
        from: u64,
        to: u64,
        count: usize,
        op: c_int,
        on: Queue,
    ) -> Launched {
        let call = self.library.raw().reduce_scatter;
        // SAFETY: the caller's promise.
        let code = unsafe { call(from, to, count, on.dtype, op, self.raw, on.stream.as_raw()) };
        self.check("ncclReduceScatter", code)
    }

    pub(super) unsafe fn all_to_all(&self, from: u64, to: u64, count: usize, on: Queue) -> Launched {
        let Some(call) = self.library.raw().all_to_all else { return Ok(true) };
        // SAFETY: the caller's promise.
        let code = unsafe { call(from, to, count, on.dtype, self.raw, on.stream.as_raw()) };
        self.check("ncclAlltoAll", code)
    }

    pub(super) unsafe fn send(&self, from: u64, count: usize, to: usize, on: Queue) -> Launched {
        let call = self.library.raw().send;
        // SAFETY: the caller's promise.
        let code = unsafe { call(from, count, on.dtype, to as c_int, self.raw, on.stream.as_raw()) };
        self.check("ncclSend", code)
    }

    pub(super) unsafe fn recv(&self, to: u64, count: usize, from: usize, on: Queue) -> Launched {
        let call = self.library.raw().recv;
        // SAFETY: the caller's promise.
        let code = unsafe { call(to, count, on.dtype, from as c_int, self.raw, on.stream.as_raw()) };
        self.check("ncclRecv", code)
    }
}
