//! A communicator of MPI's that is ringfold's own.

use super::call::{Comm, Request};
use super::library::{self, Turn};
use crate::error::{Error, ErrorKind, Result};
use crate::transport::control::after;
use mpi_sys as raw;
use std::fmt;
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
        Ok(Mpi { comm, rank: comm.rank(turn)?, size: comm.size(turn)?, highest_tag: comm.highest_tag(turn)? })
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
