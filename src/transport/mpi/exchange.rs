//! An exchange over MPI.

use super::group::{Mpi, wait};
use super::library;
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::transport::Exchange;
use crate::transport::control::after;
use std::time::{Duration, Instant};

/// The longest message, as [`Exchange`] allows it.
const LONGEST: usize = 64 << 10;

/// MPI's all-gather as an [`Exchange`]: by it a group forms under any launcher of MPI.
///
/// ```no_run
/// use ringfold::transport::mpi::MpiExchange;
/// use ringfold::{Communicator, Config};
/// let comm = Communicator::with_exchange(&mut MpiExchange::world()?, &Config::from_env()?)?;
/// # Ok::<(), ringfold::Error>(())
/// ```
///
/// Where the ranks are on several hosts, [`Config::interface`] has to say where they listen.
#[derive(Debug)]
pub struct MpiExchange {
    mpi: Mpi,
}

impl MpiExchange {
    /// The exchange of all processes of the launch. Blocks until all of them have called it, at most for
    /// [`Config::init_deadline`] of the environment.
    ///
    /// # Errors
    /// As [`Mpi::world`], and [`Configuration`](ErrorKind::Configuration) for an environment that makes no sense.
    pub fn world() -> Result<MpiExchange> {
        Ok(MpiExchange::over(Mpi::world(Config::from_env()?.init_deadline)?))
    }

    /// The exchange of the processes of a communicator.
    pub fn over(mpi: Mpi) -> MpiExchange {
        MpiExchange { mpi }
    }

    /// Gathers `own` of all ranks, each as long as this one's.
    fn gather(&self, own: Vec<u8>, until: Instant, timeout: Duration) -> Result<Vec<u8>> {
        let length = own.len();
        // Where time passes MPI still has both: then they are never freed.
        let own = Box::leak(own.into_boxed_slice());
        let all = Box::leak(vec![0; length * self.mpi.size()].into_boxed_slice());
        let (own, all) = (&raw mut *own, &raw mut *all);
        let turn = library::turn()?;
        // SAFETY: both are there for ever, unless they are taken back below when MPI is done with them.
        let request = unsafe { self.mpi.comm.all_gather(own.cast::<u8>(), all.cast::<u8>(), length, &turn) }?;
        drop(turn);
        wait(request, until, timeout, "waiting for all ranks in an all-gather of MPI")?;
        // SAFETY: they were leaked above, and MPI is done with them.
        unsafe {
            drop(Box::from_raw(own));
            Ok(Box::from_raw(all).into_vec())
        }
    }
}

impl Exchange for MpiExchange {
    fn rank(&self) -> usize {
        self.mpi.rank()
    }

    fn world(&self) -> usize {
        self.mpi.size()
    }

    fn all_gather(&mut self, message: &[u8], timeout: Duration) -> Result<Vec<Vec<u8>>> {
        let at_rank = |error: Error| error.at_rank(self.mpi.rank());
        // A rank that cannot take part still does, so that nobody waits for it.
        let said = if message.len() <= LONGEST { message.len() as u64 } else { u64::MAX };
        let until = after(timeout);
        let lengths = self.gather(said.to_le_bytes().to_vec(), until, timeout).map_err(at_rank)?;
        let lengths =
            lengths.chunks_exact(8).map(|bytes| u64::from_le_bytes(std::array::from_fn(|i| bytes[i])));
        let lengths: Vec<u64> = lengths.collect();
        if let Some(rank) = lengths.iter().position(|&length| length > LONGEST as u64) {
            let text = format!("rank {rank} has a message for an exchange of more than {LONGEST} bytes");
            return Err(at_rank(Error::new(ErrorKind::InvalidArgument, text).blame(rank)));
        }
        let longest = lengths.iter().max().map_or(0, |&length| length as usize);
        if longest == 0 {
            return Ok(vec![Vec::new(); lengths.len()]);
        }
        let mut own = message.to_vec();
        own.resize(longest, 0);
        let all = self.gather(own, until, timeout).map_err(at_rank)?;
        let cut = |(bytes, &length): (&[u8], &u64)| bytes[..length as usize].to_vec();
        Ok(all.chunks_exact(longest).zip(&lengths).map(cut).collect())
    }
}
