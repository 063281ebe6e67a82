//! The one MPI of a process: who begins it, who ends it, and the lock around it.
//!
//! MPI is a global of the process, begun and ended once; so this is one too.

use super::call::{Comm, Request, check};
use super::collective::Made;
use super::flight::Flight;
use super::holding::Holding;
use crate::config::{Config, Launcher};
use crate::error::{Error, ErrorKind, Result};
use mpi_sys as raw;
use nix::libc;
use std::ffi::{c_char, c_int};
use std::ops::{Deref, DerefMut, Range};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// How long a process that exits waits for the others: as an operation does that has no deadline of its own.
const LINGER: Duration = Duration::from_secs(30 * 60);

/// The same after a failure, which not everybody may have outlived; and how long it waits for its own threads that are in MPI.
const LINGER_SPOILT: Duration = Duration::from_secs(5);

static LIBRARY: Mutex<Library> = Mutex::new(Library::new());

/// What this process knows of its MPI.
pub(crate) struct Library {
    /// The process that has begun it here, which is to end it; one that was forked off is nobody to MPI.
    owner: Option<u32>,
    /// Whether its thread level has been looked at.
    checked: bool,
    /// The duplicate of the world, once there is one.
    pub(super) world: Option<Comm>,
    /// All duplicates.
    pub(super) duplicates: Vec<Comm>,
    /// The next number of a group.
    pub(super) next_group: usize,
    /// Buffers whose users are gone.
    pub(super) kept: Vec<Flight>,
    /// Peers in groups that this process has left.
    pub(super) awaited: Vec<Awaited>,
    /// What collectives have that will not end, as far as is known.
    pub(super) held: Vec<Holding>,
    /// Reductions that were made.
    pub(super) made: Made,
    /// Whether the thread level allows calls at the same time.
    pub(super) multiple: bool,
    /// Whether a group has failed.
    pub(super) spoilt: bool,
    /// Whether somebody has given up waiting for all ranks in MPI, which has no way to take that back.
    pub(super) torn: bool,
}

impl Library {
    const fn new() -> Library {
        Library {
            owner: None,
            checked: false,
            world: None,
            duplicates: Vec::new(),
            next_group: 0,
            kept: Vec::new(),
            awaited: Vec::new(),
            held: Vec::new(),
            made: Made::new(),
            multiple: false,
            spoilt: false,
            torn: false,
        }
    }
}

/// A peer in a group that this process has left, from which something may still come.
#[derive(Clone)]
pub(super) struct Awaited {
    pub(super) comm: Comm,
    pub(super) peer: usize,
    /// The group's tags, of which the last is that of farewells.
    pub(super) tags: Range<usize>,
    /// Whether it has said farewell already, so that nothing new will come.
    pub(super) has_left: bool,
}

/// How many threads may be in calls of MPI's without the lock. It grows behind the lock, or else where [`ENDING`] is not set afterwards.
static INSIDE: AtomicUsize = AtomicUsize::new(0);

/// Whether this process ends MPI, for which it holds the lock: whoever comes without the lock has to ask for it.
static ENDING: AtomicBool = AtomicBool::new(false);

/// The right to call MPI, which runs: the lock, or else, where MPI allows calls at the same time, that MPI is not ended meanwhile.
pub(crate) struct Turn {
    library: Option<MutexGuard<'static, Library>>,
    /// Whether it is counted among those inside.
    counted: bool,
}

const HELD: &str = "whoever may come without the lock asks for it before it looks at the library";

impl Deref for Turn {
    type Target = Library;

    #[inline]
    fn deref(&self) -> &Library {
        self.library.as_deref().expect(HELD)
    }
}

impl DerefMut for Turn {
    #[inline]
    fn deref_mut(&mut self) -> &mut Library {
        self.library.as_deref_mut().expect(HELD)
    }
}

impl Drop for Turn {
    #[inline]
    fn drop(&mut self) {
        if self.counted {
            INSIDE.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Turn {
    fn of(library: MutexGuard<'static, Library>) -> Turn {
        Turn { library: Some(library), counted: false }
    }

    /// What this process knows of its MPI, for which it takes the lock where it has not got it.
    #[inline]
    pub(super) fn library(&mut self) -> &mut Library {
        self.library.get_or_insert_with(lock)
    }

    /// Calls MPI while others have their turns, for as long as the call takes. MPI allows calls at the same time, and is not ended by this
    /// process meanwhile.
    #[inline]
    pub(super) fn aside<R>(&mut self, call: impl FnOnce() -> R) -> R {
        if self.library.is_none() {
            return call();
        }
        INSIDE.fetch_add(1, Ordering::SeqCst);
        self.library = None;
        let result = call();
        self.library = Some(lock());
        INSIDE.fetch_sub(1, Ordering::SeqCst);
        result
    }

    /// Takes note that a group has failed: when the process exits, not all may come.
    pub(crate) fn spoil(&mut self) {
        self.spoilt = true;
    }

    /// Takes what has come for groups that this process has left, and sees which kept buffers MPI has given back.
    pub(crate) fn sweep(&mut self) {
        let mut awaited = std::mem::take(&mut self.awaited);
        awaited.retain(|Awaited { comm, peer, tags, has_left }| {
            let mut farewell = *has_left;
            for tag in tags.clone() {
                while let Ok(Some(found)) = comm.find(Some(*peer), Some(tag), self) {
                    farewell |= tag + 1 == tags.end;
                    let taken = Flight::receive(found, Vec::new(), self);
                    self.kept.extend(taken.ok());
                }
            }
            !farewell
        });
        self.awaited = awaited;
        let mut kept = std::mem::take(&mut self.kept);
        kept.retain_mut(|flight| !flight.is_over(self));
        self.kept = kept;
        let mut held = std::mem::take(&mut self.held);
        held.retain_mut(|holding| !holding.is_over(self));
        self.held = held;
    }
}

fn is_begun() -> bool {
    let mut begun = 0;
    // SAFETY: MPI allows this at any time.
    unsafe { raw::MPI_Initialized(&mut begun) };
    begun != 0
}

fn is_ended() -> bool {
    let mut ended = 0;
    // SAFETY: MPI allows this at any time.
    unsafe { raw::MPI_Finalized(&mut ended) };
    ended != 0
}

fn lock() -> MutexGuard<'static, Library> {
    LIBRARY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A turn, where MPI runs.
pub(crate) fn turn() -> Result<Turn> {
    let library = lock();
    if !library.checked && !is_begun() {
        return Err(Error::new(ErrorKind::Configuration, "MPI has not been begun"));
    }
    if is_ended() {
        return Err(ended());
    }
    Ok(Turn::of(library))
}

/// A turn of somebody who has a communicator, without the lock where it need not wait for it. MPI allows calls at the same time.
#[inline]
pub(crate) fn free_turn() -> Result<Turn> {
    INSIDE.fetch_add(1, Ordering::SeqCst);
    let free = Turn { library: None, counted: true };
    // Either this sees that MPI is being ended, or whoever ends it sees this.
    if ENDING.load(Ordering::SeqCst) {
        drop(free);
        return turn();
    }
    if is_ended() { Err(ended()) } else { Ok(free) }
}

#[cold]
fn ended() -> Error {
    Error::new(ErrorKind::Configuration, "MPI has been finalised, and a process cannot begin it again")
        .remedy("drop every communicator before MPI_Finalize, and make none after it")
}

/// A turn on MPI, which is begun where nobody has done so.
pub(super) fn begin() -> Result<Turn> {
    let mut library = lock();
    if is_ended() {
        return Err(ended());
    }
    let mut level = 0;
    if is_begun() {
        // SAFETY: MPI runs.
        check("MPI_Query_thread", unsafe { raw::MPI_Query_thread(&mut level) })?;
    } else {
        let none = std::ptr::null_mut();
        // SAFETY: MPI does not run yet and has not run before, and both pointers may be null.
        let code = unsafe { raw::MPI_Init_thread(none, none.cast(), raw::RSMPI_THREAD_MULTIPLE, &mut level) };
        check("MPI_Init_thread", code)?;
        library.owner = Some(std::process::id());
        // SAFETY: the function is one of C's that takes nothing and does not unwind.
        unsafe { libc::atexit(at_exit) };
    }
    let own = library.owner.is_some();
    let mut turn = Turn::of(library);
    if !turn.checked {
        check_level(level, own)?;
        // SAFETY: a constant of the C shim.
        turn.multiple = level >= unsafe { raw::RSMPI_THREAD_MULTIPLE };
        if own {
            // Errors of no communicator are told on this one.
            Comm::world().return_errors(&turn)?;
        }
        turn.checked = true;
    }
    Ok(turn)
}

fn check_level(level: c_int, own: bool) -> Result<()> {
    // SAFETY: constants of the C shim, which has them from MPI's header.
    let [single, funneled, serialized] =
        unsafe { [raw::RSMPI_THREAD_SINGLE, raw::RSMPI_THREAD_FUNNELED, raw::RSMPI_THREAD_SERIALIZED] };
    if level >= serialized {
        return Ok(());
    }
    let word = match level {
        level if level == single => "MPI_THREAD_SINGLE",
        level if level == funneled => "MPI_THREAD_FUNNELED",
        _ => "none that is known",
    };
    let needs = "and a communicator needs MPI_THREAD_SERIALIZED at least";
    let (who, remedy) = if own {
        ("this MPI offers", "use an MPI that was built with support for threads")
    } else {
        ("the program has begun MPI with", "begin it by MPI_Init_thread with MPI_THREAD_MULTIPLE")
    };
    Err(Error::unsupported(format!("{who} the thread level {word}, {needs}")).remedy(remedy))
}

/// What the MPI that this program is linked with calls itself: its name and version, in one line.
pub fn version() -> String {
    let mut text = [0u8; raw::MPI_MAX_LIBRARY_VERSION_STRING as usize];
    let mut length = 0;
    // SAFETY: the text is as long as MPI may write, and MPI allows this at any time.
    unsafe { raw::MPI_Get_library_version(text.as_mut_ptr().cast::<c_char>(), &mut length) };
    let text = String::from_utf8_lossy(&text[..(length.max(0) as usize).min(text.len())]);
    let words: Vec<_> = text.lines().next().unwrap_or_default().split_whitespace().collect();
    words.join(" ").trim_matches(['\0', ' ', ',']).to_owned()
}

/// Fails where the launcher has started several processes, each of which is MPI's only one: then it is another MPI's.
pub(super) fn check_launcher(size: usize) -> Result<()> {
    // Whatever else is wrong with the environment is told where that is asked for.
    let Ok(config) = Config::from_env() else { return Ok(()) };
    let Some(world) = config.world_size.filter(|&world| world > 1 && size == 1) else { return Ok(()) };
    let version = version();
    let launcher = match config.launcher {
        Launcher::OpenMpi => "Open MPI's mpirun".to_owned(),
        Launcher::Mpich => "MPICH's mpirun, or another of its family,".to_owned(),
        other => other.to_string(),
    };
    let (name, start) = if version.contains("Open MPI") {
        ("Open MPI", "mpirun.openmpi on Debian")
    } else if version.contains("MPICH") {
        ("MPICH", "mpirun.mpich on Debian")
    } else if version.contains("Intel") {
        ("Intel MPI", "mpiexec.hydra")
    } else {
        ("that library", "the mpirun beside it")
    };
    let text = format!(
        "{launcher} has started {world} processes, and to MPI each of them is the only one: this program is linked with \
         another MPI, {version}"
    );
    Err(Error::new(ErrorKind::Configuration, text).remedy(format!(
        "start it by the mpirun of {name} ({start}), or build it with the other MPI's compiler in MPICC"
    )))
}

extern "C" fn at_exit() {
    // Nothing here panics by design; should it nevertheless, the process still exits.
    let _ = std::panic::catch_unwind(end);
}

/// Ends MPI, where it was begun here, once all ranks have come to this point.
fn end() {
    let patience = Instant::now() + LINGER_SPOILT;
    let library = loop {
        let library = lock();
        if library.owner != Some(std::process::id()) || library.torn || !is_begun() || is_ended() {
            return;
        }
        ENDING.store(true, Ordering::SeqCst);
        if INSIDE.load(Ordering::SeqCst) == 0 {
            break library;
        }
        // A thread is in MPI. It needs the lock to come back, which it may never do.
        ENDING.store(false, Ordering::SeqCst);
        drop(library);
        if Instant::now() >= patience {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    };
    let limit = if library.spoilt { LINGER_SPOILT } else { LINGER };
    let mut turn = Turn::of(library);
    if !meet(&mut turn, Instant::now() + limit) {
        return;
    }
    let finalize = || {
        // SAFETY: MPI runs, was begun by this process and is ended by nobody else; the turn keeps all others out, who find it
        // ended afterwards.
        unsafe { raw::MPI_Finalize() };
    };
    if turn.held.is_empty() {
        return finalize();
    }
    // A collective has not ended, and all ranks are past caring. The standard does not say what MPI's end is like then; so that is given some
    // time and not waited for longer. To leave MPI as it is would be no better: launchers hang on it, or end others for it.
    let (tell, told) = mpsc::channel();
    let begun = thread::Builder::new().name("ringfold-mpi".into()).spawn(move || {
        finalize();
        let _ = tell.send(());
    });
    if begun.is_ok() {
        let _ = told.recv_timeout(LINGER_SPOILT);
    }
    // What MPI may still have is left as it is.
    std::mem::forget(std::mem::take(&mut turn.held));
}

/// Waits until all ranks have come and nothing is on its way any more, while it takes what still arrives for nobody.
/// Whether that has come to pass.
///
/// A rank comes to the barrier when all that it has sent was asked for; so when all have come nobody has anything to take any more,
/// but perhaps farewells.
fn meet(turn: &mut Turn, until: Instant) -> bool {
    let mut barrier: Option<Request> = None;
    loop {
        let arrived = take_all(turn);
        turn.sweep();
        match &mut barrier {
            None if turn.kept.is_empty() && !arrived => match Comm::world().barrier(turn) {
                Ok(begun) => barrier = Some(begun),
                Err(_) => return false,
            },
            None => {}
            Some(request) => match request.is_done(turn) {
                Ok(false) => {}
                Ok(true) => {
                    take_all(turn);
                    return true;
                }
                Err(_) => return false,
            },
        }
        if Instant::now() >= until {
            return false;
        }
        if !arrived {
            thread::sleep(Duration::from_micros(100));
        }
    }
}

/// Takes what has arrived on any duplicate. Whether anything has.
fn take_all(turn: &mut Turn) -> bool {
    let mut arrived = false;
    for comm in turn.duplicates.clone() {
        while let Ok(Some(found)) = comm.find(None, None, turn) {
            arrived = true;
            if let Ok(flight) = Flight::receive(found, Vec::new(), turn) {
                turn.kept.push(flight);
            }
        }
    }
    arrived
}
