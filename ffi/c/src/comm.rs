//! Groups: joining, asking, dividing, stopping, leaving.

use crate::config::rf_config;
use crate::error::{Fault, RF_CONCURRENT, Result, rf_error, rf_status};
use crate::exchange::rf_exchange;
use crate::guard::{guarded, quietly};
use crate::handle::{Handle, Place, missing};
use crate::log::Log;
use crate::turn::{Taken, Turn};
use core::{AbortHandle, Communicator};
use std::ffi::{CStr, CString, c_char};
use std::ops::Deref;
use std::sync::Arc;

/// One rank's membership in a group. Used by one thread at a time: a call that finds another thread in one returns
/// RF_CONCURRENT and has not happened. Only rf_comm_abort, rf_comm_failure, rf_comm_counters and the functions that ask for
/// numbers and names may be called at any time, by any thread.
pub struct rf_comm {
    group: Arc<Group>,
    backend: CString,
    table: CString,
    hosts: Vec<Option<CString>>,
}

impl Handle for rf_comm {
    const NAME: &'static str = "the communicator";
}

/// A communicator that several handles may need: its own, and those of prepared operations.
pub(crate) struct Group {
    communicator: Communicator,
    turn: Turn,
    abort: AbortHandle,
    pub(crate) log: Option<Log>,
}

// SAFETY: the communicator may go from thread to thread, and is reached by one at a time: by whoever has the turn, and
// otherwise by what any thread may ask: plain numbers and names, which nobody writes after it is made, and its counters, its failure
// and its process, which are atomics, what stands behind locks, and what never changes.
unsafe impl Sync for Group {}

impl Group {
    /// The communicator for this thread alone.
    ///
    /// # Errors
    /// RF_CONCURRENT where another thread has it.
    #[inline]
    pub(crate) fn enter(&self) -> Result<Entered<'_>> {
        match self.turn.take() {
            Some(taken) => Ok(Entered { communicator: &self.communicator, _taken: taken }),
            None => Err(self.taken()),
        }
    }

    /// Runs a call of the communicator, whose log goes where its caller wants it.
    #[inline]
    pub(crate) fn call<T>(&self, body: impl FnOnce(&Communicator) -> Result<T>) -> Result<T> {
        let entered = self.enter()?;
        // Dropped by a panic only.
        let broken = Broken(self);
        let result = match &self.log {
            None => body(&entered),
            Some(log) => log.hear(|| body(&entered)),
        };
        std::mem::forget(broken);
        result
    }

    #[cold]
    fn taken(&self) -> Fault {
        // Whoever had it when the process was forked has it there for ever.
        self.communicator.check_process().map_or_else(Fault::from, |()| concurrent())
    }

    /// What never changes: rank, world size, generation.
    pub(crate) fn fixed(&self) -> (usize, usize) {
        (self.communicator.rank(), self.communicator.world_size())
    }
}

/// Tells a group, as it is dropped, that this library has a fault. Nothing of a caller's unwinds through a call.
struct Broken<'a>(&'a Group);

impl Drop for Broken<'_> {
    #[cold]
    fn drop(&mut self) {
        self.0.abort.broke();
    }
}

#[cold]
fn concurrent() -> Fault {
    Fault::told(
        RF_CONCURRENT,
        "concurrent use: another thread is in a call of this communicator; to do: give each thread one of its own by \
         rf_comm_duplicate",
    )
}

/// The communicator, until this is dropped.
pub(crate) struct Entered<'a> {
    communicator: &'a Communicator,
    _taken: Taken<'a>,
}

impl Deref for Entered<'_> {
    type Target = Communicator;

    #[inline]
    fn deref(&self) -> &Communicator {
        self.communicator
    }
}

impl rf_comm {
    fn new(communicator: Communicator, log: Option<Log>) -> Self {
        let c = |name: &str| CString::new(name).unwrap_or_default();
        let backend = c(communicator.backend());
        let hosts = (0..communicator.world_size()).map(|rank| communicator.host_of(rank).map(c)).collect();
        let table = c(&communicator.table().to_string());
        let abort = communicator.abort_handle();
        rf_comm {
            group: Arc::new(Group { communicator, turn: Turn::new(), abort, log }),
            backend,
            table,
            hosts,
        }
    }

    #[inline]
    pub(crate) fn group(&self) -> &Arc<Group> {
        &self.group
    }

    fn sibling(&self, made: Option<Communicator>) -> *mut rf_comm {
        made.map_or(std::ptr::null_mut(), |made| rf_comm::new(made, self.group.log.clone()).give())
    }
}

/// Joins the group that the configuration describes; NULL is what the environment says (`ringfold run`, mpirun, torchrun,
/// Slurm, or the names RINGFOLD_*). Blocks until all ranks are there, at most for `init_deadline`. `*out` is written on success
/// only, and released by rf_comm_release.
///
/// # Safety
/// `config` is NULL or an initialised rf_config; `out` can be written; `error` is NULL or an initialised rf_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_comm_create(
    config: *const rf_config,
    out: *mut *mut rf_comm,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        // SAFETY: the caller's promises.
        let (settings, out) =
            unsafe { (rf_config::read(config), Place::new("the place of the communicator", out)) };
        let (settings, out) = (settings?, out?);
        let join = || Communicator::connect(&settings.config);
        let made = settings.log.as_ref().map_or_else(join, |log| log.hear(join))?;
        out.put(rf_comm::new(made, settings.log).give());
        Ok(())
    })
}

/// Joins a group by an all-gather of the caller's: Spark's barrier context, MPI, or anything else. As rf_comm_create
/// otherwise; rank and number of ranks are the exchange's. The exchange is used on this thread and only until this returns, and
/// its `destroy` is called once, whatever comes of it.
///
/// # Safety
/// As rf_comm_create; `exchange` is an initialised rf_exchange.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_comm_create_by(
    exchange: *const rf_exchange,
    config: *const rf_config,
    out: *mut *mut rf_comm,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        // SAFETY: the caller's promises. First all of this, so that contexts are given back whatever comes.
        let (exchange, settings, out) = unsafe {
            (
                rf_exchange::take(exchange),
                rf_config::read(config),
                Place::new("the place of the communicator", out),
            )
        };
        let (mut exchange, settings, out) = (exchange?, settings?, out?);
        let mut join = || Communicator::with_exchange(&mut exchange, &settings.config);
        let made = match &settings.log {
            None => join(),
            Some(log) => log.hear(join),
        }?;
        out.put(rf_comm::new(made, settings.log).give());
        Ok(())
    })
}

/// A group whose ranks are threads of this process: one communicator for each, in rank order, in `out[0]` to
/// `out[world_size - 1]`, each for a thread of its own.
///
/// # Safety
/// `out` has room for `world_size` pointers; `error` is NULL or an initialised rf_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_comm_local(
    world_size: u64,
    out: *mut *mut rf_comm,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        if out.is_null() {
            return Err(missing("the place of the communicators"));
        }
        if !(1..=MOST_THREADS).contains(&world_size) {
            return Err(Fault::invalid(format!(
                "a group of {world_size} threads; to do: 1 to {MOST_THREADS}"
            )));
        }
        for (rank, communicator) in Communicator::local(world_size as usize).into_iter().enumerate() {
            // SAFETY: there is room for as many.
            unsafe { out.add(rank).write(rf_comm::new(communicator, None).give()) };
        }
        Ok(())
    })
}

/// The largest group of threads.
const MOST_THREADS: u64 = 4096;

/// Leaves the group. Does not block; peers that still need this rank are told. Operations that are under way go on to their
/// ends, and their memory must stay as it is for so long. Where prepared operations have not been released, the group is left
/// when the last of them is. NULL is ignored. In a process that was forked off it only frees memory.
///
/// # Safety
/// `comm` is NULL or a communicator that nobody uses any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_comm_release(comm: *mut rf_comm) {
    quietly((), || {
        // SAFETY: the caller's promise.
        drop(unsafe { rf_comm::take(comm) });
    });
}

/// This rank, from 0; -1 for NULL.
///
/// # Safety
/// `comm` is NULL or a communicator.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_comm_rank(comm: *const rf_comm) -> i64 {
    // SAFETY: the caller's promise.
    unsafe { rf_comm::get(comm) }.map_or(-1, |comm| comm.group.fixed().0 as i64)
}

/// The number of ranks; -1 for NULL.
///
/// # Safety
/// `comm` is NULL or a communicator.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_comm_size(comm: *const rf_comm) -> i64 {
    // SAFETY: the caller's promise.
    unsafe { rf_comm::get(comm) }.map_or(-1, |comm| comm.group.fixed().1 as i64)
}

/// The generation of the group: how often it has been formed anew; -1 for NULL.
///
/// # Safety
/// `comm` is NULL or a communicator.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_comm_generation(comm: *const rf_comm) -> i64 {
    // SAFETY: the caller's promise.
    unsafe { rf_comm::get(comm) }.map_or(-1, |comm| i64::from(comm.group.communicator.generation()))
}

/// The number in the world of a rank of this communicator, by which errors name ranks; -1 where there is no such rank.
///
/// # Safety
/// `comm` is NULL or a communicator.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_comm_world_rank(comm: *const rf_comm, rank: i64) -> i64 {
    // SAFETY: the caller's promise.
    let Ok(comm) = (unsafe { rf_comm::get(comm) }) else { return -1 };
    match usize::try_from(rank) {
        Ok(rank) if rank < comm.group.fixed().1 => comm.group.communicator.world_rank_of(rank) as i64,
        _ => -1,
    }
}

/// By what bytes go between the ranks: "shm", "hierarchical" or "tcp"; NULL for NULL. Lives as long as the communicator.
///
/// # Safety
/// `comm` is NULL or a communicator.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_comm_backend(comm: *const rf_comm) -> *const c_char {
    // SAFETY: the caller's promise.
    unsafe { rf_comm::get(comm) }.map_or(std::ptr::null(), |comm| comm.backend.as_ptr())
}

/// The name of the host that a rank is on; NULL where there is no such rank. Lives as long as the communicator.
///
/// # Safety
/// `comm` is NULL or a communicator.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_comm_host(comm: *const rf_comm, rank: i64) -> *const c_char {
    // SAFETY: the caller's promise.
    let Ok(comm) = (unsafe { rf_comm::get(comm) }) else { return std::ptr::null() };
    let host = usize::try_from(rank).ok().and_then(|rank| comm.hosts.get(rank)?.as_ref());
    host.map_or(std::ptr::null(), |host| host.as_ptr())
}

/// Divides the group: ranks that pass one `color` become a group of their own, numbered by `key` and, where keys are equal, by
/// their number here. A rank that passes a negative color becomes member of none, and gets NULL in `*out`. All ranks call it.
/// The new group has its own order of calls, and can be used by another thread; all groups of a world fail together.
///
/// # Safety
/// `comm` is a communicator; `out` can be written; `error` is NULL or an initialised rf_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_comm_split(
    comm: *mut rf_comm,
    color: i64,
    key: i64,
    out: *mut *mut rf_comm,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        // SAFETY: the caller's promises.
        let (comm, out) = unsafe { (rf_comm::get(comm)?, Place::new("the place of the communicator", out)?) };
        let color = match color {
            ..0 => None,
            _ => Some(
                u32::try_from(color)
                    .map_err(|_| Fault::invalid(format!("color {color} is above 4294967295")))?,
            ),
        };
        out.put(comm.sibling(comm.group.call(|c| Ok(c.split(color, key)?))?));
        Ok(())
    })
}

/// The same group again, with an order of calls of its own: for another thread, or for calls that overlap. All ranks call it.
///
/// # Safety
/// As rf_comm_split.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_comm_duplicate(
    comm: *mut rf_comm,
    out: *mut *mut rf_comm,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        // SAFETY: the caller's promises.
        let (comm, out) = unsafe { (rf_comm::get(comm)?, Place::new("the place of the communicator", out)?) };
        out.put(comm.sibling(Some(comm.group.call(|c| Ok(c.duplicate()?))?)));
        Ok(())
    })
}

/// A group of these ranks in this order; NULL in `*out` on ranks that are not among them. All ranks of the communicator call it
/// with the same list.
///
/// # Safety
/// As rf_comm_split; `ranks` has `count` numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_comm_group(
    comm: *mut rf_comm,
    ranks: *const u64,
    count: u64,
    out: *mut *mut rf_comm,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        // SAFETY: the caller's promises.
        let (comm, out) = unsafe { (rf_comm::get(comm)?, Place::new("the place of the communicator", out)?) };
        if ranks.is_null() && count > 0 {
            return Err(Fault::invalid("the list of ranks is NULL"));
        }
        if count > comm.group.fixed().1 as u64 {
            return Err(Fault::invalid(format!("a group of {count} of {} ranks", comm.group.fixed().1)));
        }
        let ranks: &[usize] = match count {
            0 => &[],
            // SAFETY: there are so many, and a count of 64 bits is a usize here.
            _ => unsafe { std::slice::from_raw_parts(ranks.cast(), count as usize) },
        };
        out.put(comm.sibling(comm.group.call(|c| Ok(c.group(ranks)?))?));
        Ok(())
    })
}

/// Stops the group, from any thread: every rank's call in progress and every later one returns RF_ABORTED with this reason,
/// which may be NULL. Does not block.
///
/// # Safety
/// `comm` is a communicator that is not released meanwhile; `reason` is NULL or ends with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_comm_abort(comm: *const rf_comm, reason: *const c_char) -> rf_status {
    guarded(std::ptr::null_mut(), || {
        // SAFETY: the caller's promises.
        let comm = unsafe { rf_comm::get(comm) }?;
        // SAFETY: as above. It stops, whatever the text is made of.
        let reason = (!reason.is_null()).then(|| unsafe { CStr::from_ptr(reason) }.to_string_lossy());
        let reason = reason.as_deref().unwrap_or("no reason given");
        comm.group.abort.abort(reason);
        Ok(())
    })
}

/// The first cause of the group's failure, from any thread: RF_OK where there is none that this rank knows of, else the status that
/// calls return from now on, and why. Does not block.
///
/// # Safety
/// `comm` is a communicator that is not released meanwhile; `error` is NULL or an initialised rf_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_comm_failure(comm: *const rf_comm, error: *mut rf_error) -> rf_status {
    guarded(error, || {
        // SAFETY: the caller's promise.
        let comm = unsafe { rf_comm::get(comm) }?;
        comm.group.communicator.failure_error().map_or(Ok(()), |error| Err(error.into()))
    })
}

/// The table by which algorithms are chosen, as text; NULL for NULL. Lives as long as the communicator.
///
/// # Safety
/// `comm` is NULL or a communicator.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_comm_table(comm: *const rf_comm) -> *const c_char {
    // SAFETY: the caller's promise.
    unsafe { rf_comm::get(comm) }.map_or(std::ptr::null(), |comm| comm.table.as_ptr())
}

/// What a communicator has counted since it was made.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct rf_counters {
    /// sizeof(rf_counters), set by the caller (RF_COUNTERS_INIT) and left.
    pub size: u32,
    /// 0.
    pub reserved: u32,
    /// Operations that have ended well.
    pub completed: u64,
    /// Operations that have ended with an error after they had begun.
    pub failed: u64,
    /// Bytes of those that ended well: of each, this rank's input or output, whichever is larger.
    pub bytes: u64,
    /// Nanoseconds from submission to end, of all of them.
    pub time_ns: u64,
    /// Bytes sent to other ranks, or written to their memory.
    pub bytes_sent: u64,
    /// Bytes received from other ranks, or read from their memory.
    pub bytes_received: u64,
    /// How often the system was asked to wait.
    pub waits: u64,
    /// Nanoseconds in these waits.
    pub waiting_ns: u64,
    /// Plans that had to be made.
    pub plans_made: u64,
    /// Operations whose plan was there.
    pub plans_found: u64,
    /// Bytes of memory held for partial results and for what arrives.
    pub scratch_bytes: u64,
}

/// Fills in what the communicator has counted.
///
/// # Safety
/// `comm` is a communicator; `counters` can be written and has its size set; `error` is NULL or an initialised rf_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_comm_counters(
    comm: *mut rf_comm,
    counters: *mut rf_counters,
    error: *mut rf_error,
) -> rf_status {
    guarded(error, || {
        // SAFETY: the caller's promises.
        let comm = unsafe { rf_comm::get(comm) }?;
        let told = comm.group.communicator.counters();
        let sum = |of: fn(&core::backend::OperationCounters) -> u64| told.operations.iter().map(of).sum();
        let ns = |time: std::time::Duration| time.as_nanos() as u64;
        let filled = rf_counters {
            size: size_of::<rf_counters>() as u32,
            reserved: 0,
            completed: sum(|of| of.completed),
            failed: sum(|of| of.failed),
            bytes: sum(|of| of.bytes),
            time_ns: sum(|of| of.time.as_nanos() as u64),
            bytes_sent: told.bytes_sent(),
            bytes_received: told.bytes_received(),
            waits: told.waits,
            waiting_ns: ns(told.waiting),
            plans_made: told.plans_made,
            plans_found: told.plans_found,
            scratch_bytes: told.scratch_bytes,
        };
        // SAFETY: as above.
        unsafe { crate::sized::fill(counters, &filled) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::rf_barrier;
    use crate::error::{RF_INTERNAL, RF_KIND_INTERNAL, RF_OK};
    use std::ptr::{null, null_mut};

    #[test]
    fn a_panic_ends_here_and_all_ranks_are_told() {
        let mut comms = [null_mut(); 2];
        let mut error = rf_error::new();
        // SAFETY: there is room for two communicators, which are released below; the error is initialised.
        unsafe {
            assert_eq!(rf_comm_local(2, comms.as_mut_ptr(), &raw mut error), RF_OK);
            let first = rf_comm::get(comms[0]).unwrap();
            let status = guarded(&raw mut error, || first.group().call(|_| panic!("seeded")));
            let text = CStr::from_ptr(error.text.as_ptr()).to_str().unwrap();
            assert_eq!((status, error.kind, text), (RF_INTERNAL, RF_KIND_INTERNAL, "internal: seeded"));
            for comm in comms {
                assert_eq!(rf_barrier(comm, null(), &raw mut error), RF_INTERNAL);
                assert_eq!((error.kind, error.peer), (RF_KIND_INTERNAL, 0));
                assert_eq!(rf_comm_failure(comm, null_mut()), RF_INTERNAL);
                rf_comm_release(comm);
            }
        }
    }
}
