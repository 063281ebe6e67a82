//! A communicator of MPI's that is ringfold's own.

use super::call::{Comm, Request, check};
use super::collective::{InPlace, in_place};
use super::library::{self, Turn};
use crate::error::{Error, ErrorKind, Result};
use crate::observe;
use crate::transport::control::after;
use mpi_sys as raw;
use std::ffi::c_int;
use std::fmt;
use std::mem::MaybeUninit;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// A communicator as MPI's C interface has it, and the crates that are made of it: `AsRaw::as_raw` of rsmpi.
pub use mpi_sys::MPI_Comm as RawComm;

/// A duplicate of a communicator of MPI's, on which nobody else sends, and errors are returned.
///
/// Copies stand for the same one. It stays until MPI ends, since to free it takes all ranks; so it is to be made once for a
/// communicator. `Send` and `Sync`: calls take turns.
#[derive(Clone, Copy)]
pub struct Mpi {
    pub(super) comm: Comm,
    rank: usize,
    size: usize,
    pub(super) highest_tag: usize,
    /// What this MPI takes for an input that lies where the output does, where that is known.
    in_place: Option<InPlace>,
}

impl Mpi {
    /// The duplicate of `MPI_COMM_WORLD`, made in the first call, which all its processes must make; `timeout` is for that.
    /// MPI is begun where the program has not done so, which blocks until all processes of the launch are there and
    /// has no deadline.
    ///
    /// # Errors
    /// [`Configuration`](ErrorKind::Configuration) under a launcher of another MPI, where each process would be alone, and after
    /// MPI's end; [`Unsupported`](ErrorKind::Unsupported) for a thread level below `MPI_THREAD_SERIALIZED`;
    /// [`Bootstrap`](ErrorKind::Bootstrap) where time is up; [`Io`](ErrorKind::Io) with MPI's own words.
    ///
    /// ```no_run
    /// use ringfold::transport::mpi::Mpi;
    /// use std::time::Duration;
    /// let mpi = Mpi::world(Duration::from_secs(60))?;
    /// println!("process {} of {}", mpi.rank(), mpi.size());
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    pub fn world(timeout: Duration) -> Result<Mpi> {
        let turn = library::begin()?;
        let world = Comm::world();
        library::check_launcher(world.size(&turn)?)?;
        if let Some(own) = turn.world {
            return Mpi::new(own, &turn);
        }
        drop(turn);
        let own = duplicate(world, timeout)?;
        let mut turn = library::turn()?;
        turn.world = Some(own);
        Mpi::new(own, &turn)
    }

    /// A duplicate of a communicator of the program's, all of whose processes must call this; it is done when they have.
    ///
    /// # Errors
    /// As [`world`](Mpi::world), but that MPI must run already.
    ///
    /// # Safety
    /// `comm` must be a handle of a communicator within one MPI world (no inter-communicator), which is not freed meanwhile.
    pub unsafe fn of(comm: RawComm, timeout: Duration) -> Result<Mpi> {
        drop(library::turn()?);
        let turn = library::begin()?;
        // SAFETY: a constant of the C shim, which has it from MPI's header.
        if comm == unsafe { raw::RSMPI_COMM_NULL } {
            return Err(Error::invalid("MPI_COMM_NULL has no processes"));
        }
        drop(turn);
        let own = duplicate(Comm(comm), timeout)?;
        Mpi::new(own, &library::turn()?)
    }

    fn new(comm: Comm, turn: &Turn) -> Result<Mpi> {
        Ok(Mpi {
            comm,
            rank: comm.rank(turn)?,
            size: comm.size(turn)?,
            highest_tag: comm.highest_tag(turn)?,
            in_place: in_place(&library::version()),
        })
    }

    /// This process's number in it.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The number of its processes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Begins MPI if need be, and says which process this is of how many in `MPI_COMM_WORLD`.
    pub(crate) fn look() -> Result<(usize, usize)> {
        let turn = library::begin()?;
        let world = Comm::world();
        let size = world.size(&turn)?;
        library::check_launcher(size)?;
        Ok((world.rank(&turn)?, size))
    }

    /// Another duplicate, for something that is not to meet with what goes over this one. All its processes call it.
    ///
    /// # Errors
    /// As [`world`](Mpi::world).
    pub fn duplicate(&self, timeout: Duration) -> Result<Mpi> {
        let own = duplicate(self.comm, timeout)?;
        Mpi::new(own, &library::turn()?)
    }

    /// A communicator of its own for these processes of this one, numbered in this order, among which this one is. All of them call it,
    /// with a `key` that other groups that are made at the same time do not have.
    ///
    /// Where they are all processes in the same order that is begun and waited for. MPI has no such call for a part of them: there a
    /// thread of its own waits where the thread level allows calls at the same time, and else this one.
    pub(crate) fn subgroup(&self, members: &[usize], key: usize, timeout: Duration) -> Result<Mpi> {
        if members.iter().copied().eq(0..self.size) {
            return self.duplicate(timeout);
        }
        let numbers: Vec<c_int> = members.iter().map(|&member| member as c_int).collect();
        let tag = (key % self.highest_tag.min(LEAST_HIGHEST_TAG)) as c_int;
        let turn = library::turn()?;
        let own = if turn.multiple {
            drop(turn);
            let (comm, (tell, told)) = (self.comm, mpsc::channel());
            observe::thread::spawn("ringfold-mpi", move || {
                let _ = tell.send(create(comm, &numbers, tag));
            })
            .map_err(|error| Error::io("starting a thread to make a communicator of MPI's", error))?;
            told.recv_timeout(timeout).map_err(|_| {
                if let Ok(mut turn) = library::turn() {
                    turn.torn = true;
                }
                let text = format!("making a communicator of MPI's: {timeout:?} passed");
                Error::new(ErrorKind::Bootstrap, text)
                    .remedy("see what became of the other ranks; it cannot be tried again")
            })?
        } else {
            let made = create(self.comm, &numbers, tag);
            drop(turn);
            made
        };
        let mut turn = library::turn()?;
        let own = own?;
        turn.duplicates.push(own);
        Mpi::new(own, &turn)
    }

    /// Gives the communicator back, of which no copy may be used any more and nothing is under way. All its processes do, or else none is
    /// harmed: it stays with MPI then.
    pub(crate) fn free(self, turn: &mut Turn) {
        // What nobody has asked for would come to whoever gets the number of this communicator next.
        if !matches!(self.comm.find(None, None, turn), Ok(None)) {
            return;
        }
        turn.duplicates.retain(|known| *known != self.comm);
        let Comm(mut handle) = self.comm;
        // SAFETY: it was made here and is not used any more, says the caller.
        unsafe { raw::MPI_Comm_free(&mut handle) };
    }

    /// What this MPI takes for an input that lies where the output does, where that is known.
    pub(crate) fn in_place(&self) -> Option<InPlace> {
        self.in_place
    }

    /// The communicator.
    pub(crate) fn comm(&self) -> Comm {
        self.comm
    }

    /// Whether its thread level allows calls at the same time.
    pub(crate) fn allows_calls_at_once() -> Result<bool> {
        Ok(library::begin()?.multiple)
    }

    /// A number that this process gives to no other group.
    pub(crate) fn next_group() -> Result<usize> {
        let mut turn = library::turn()?;
        turn.next_group += 1;
        Ok(turn.next_group - 1)
    }
}

impl fmt::Debug for Mpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mpi").field("rank", &self.rank).field("size", &self.size).finish_non_exhaustive()
    }
}

/// What a tag may be at most in every MPI.
const LEAST_HIGHEST_TAG: usize = 32767;

/// Makes a communicator for these processes of another. Blocks until all of them have come.
fn create(comm: Comm, numbers: &[c_int], tag: c_int) -> Result<Comm> {
    let (mut all, mut part) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    let mut own = MaybeUninit::uninit();
    // SAFETY: MPI runs, since the communicator is there; each place is read only where the call that writes it has succeeded, and what is
    // made is given back once. Whoever calls this has a turn, or MPI allows calls at the same time.
    unsafe {
        check("MPI_Comm_group", raw::MPI_Comm_group(comm.0, all.as_mut_ptr()))?;
        let mut all = all.assume_init();
        let code = raw::MPI_Group_incl(all, numbers.len() as c_int, numbers.as_ptr(), part.as_mut_ptr());
        check("MPI_Group_incl", code)?;
        let mut part = part.assume_init();
        let code = raw::MPI_Comm_create_group(comm.0, part, tag, own.as_mut_ptr());
        raw::MPI_Group_free(&mut part);
        raw::MPI_Group_free(&mut all);
        check("MPI_Comm_create_group", code)?;
        let own = own.assume_init();
        check("MPI_Comm_set_errhandler", raw::MPI_Comm_set_errhandler(own, raw::RSMPI_ERRORS_RETURN))?;
        Ok(Comm(own))
    }
}

/// Duplicates a communicator, with all of its processes.
fn duplicate(comm: Comm, timeout: Duration) -> Result<Comm> {
    let turn = library::turn()?;
    // Where time passes MPI still writes there: then it is never freed.
    let place = Box::leak(Box::new(comm.0));
    let before = comm.return_errors(&turn)?;
    // SAFETY: the place is there for ever, unless it is taken back below when MPI has written.
    let begun = unsafe { comm.duplicate(place, &turn) };
    let restored = comm.restore(before, &turn);
    let request = begun?;
    restored?;
    drop(turn);
    wait(request, after(timeout), timeout, "waiting for all processes to duplicate a communicator")?;
    // SAFETY: it was leaked above, and MPI has written and let go of it.
    let own = Comm(*unsafe { Box::from_raw(place) });
    let mut turn = library::turn()?;
    own.return_errors(&turn)?;
    turn.duplicates.push(own);
    Ok(own)
}

/// Waits for a request, and looks at MPI ever less often. The whole of what it belongs to may take `timeout`.
pub(super) fn wait(mut request: Request, until: Instant, timeout: Duration, doing: &str) -> Result<()> {
    let mut looks = 0u32;
    loop {
        if request.is_done(&library::turn()?)? {
            return Ok(());
        }
        if Instant::now() >= until {
            library::turn()?.torn = true;
            let text =
                format!("{doing}: {timeout:?} passed; what MPI has of it is kept for it until it ends");
            return Err(Error::new(ErrorKind::Bootstrap, text)
                .remedy("see that every process of the launch comes here; it cannot be tried again"));
        }
        rest(&mut looks);
    }
}

/// The pause between two looks at MPI, which wakes nobody: others first, then ever longer.
pub(super) fn rest(looks: &mut u32) {
    const OFFERS: u32 = 64;
    const SHORTEST: Duration = Duration::from_micros(10);
    const LONGEST: Duration = Duration::from_micros(500);
    if *looks < OFFERS {
        thread::yield_now();
    } else {
        thread::sleep((SHORTEST * (1 + (*looks - OFFERS) / 8)).min(LONGEST));
    }
    *looks = looks.saturating_add(1);
}
