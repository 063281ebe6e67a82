//! Groups whose bytes go by MPI: between two, or by its collectives.

use super::Communicator;
use super::kin::{Founding, Kind, OFFER, World};
use super::start::{Terms, formed};
use crate::backend::mpi::{MpiCollectives, MpiSetup as CollectivesSetup};
use crate::backend::{Backend, Planned, STAGING};
use crate::bootstrap::{self, Joined};
use crate::config::{BackendChoice, Config};
use crate::error::{Error, ErrorKind, Result};
use crate::transport::control::{ControlLink, Reporter, after};
use crate::transport::mpi::{Mpi, MpiExchange, MpiSetup, MpiTransport};
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

impl Communicator {
    /// The group of the processes of a communicator of MPI's, with its numbers as ranks: they meet by it, and where
    /// [`Config::backend`] is `mpi` or `mpi-p2p` their bytes go by it too. Blocks until all of them are there.
    ///
    /// # Errors
    /// As [`with_exchange`](Communicator::with_exchange).
    ///
    /// ```no_run
    /// use ringfold::config::BackendChoice;
    /// use ringfold::transport::mpi::Mpi;
    /// use ringfold::{Communicator, Config, ReduceOp};
    /// let config = Config::from_env()?.with_backend(BackendChoice::MpiP2p);
    /// let comm = Communicator::with_mpi(Mpi::world(config.init_deadline)?, &config)?;
    /// let mut data = [1.0f32; 4];
    /// comm.all_reduce(&mut data, ReduceOp::Sum)?;
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    pub fn with_mpi(mpi: Mpi, config: &Config) -> Result<Communicator> {
        let mut terms = Terms::of(config)?;
        terms.mpi = Some(mpi);
        formed(bootstrap::join_with(&mut MpiExchange::over(mpi), config)?, terms)
    }
}

/// Joins the group of a configuration that wants MPI: by what it says, else by MPI.
pub(super) fn join(config: &Config) -> Result<Joined> {
    if config.has_meeting() {
        return bootstrap::join(config);
    }
    bootstrap::join_with(&mut MpiExchange::over(Mpi::world(config.init_deadline)?), config)
}

/// What a rank finds of its MPI, and tells the others.
#[derive(Debug, Serialize, Deserialize)]
struct Found {
    rank: usize,
    size: usize,
    /// A number that this process gives to no other group.
    group: usize,
    /// Whether collectives are to be MPI's.
    #[serde(default)]
    collectives: bool,
    /// Whether those are to be MPI's blocking ones, where callers wait.
    #[serde(default)]
    blocking: bool,
}

type Said = std::result::Result<Found, String>;

/// What this rank finds.
fn look(given: Option<Mpi>, config: &Config) -> Result<Found> {
    let (rank, size) = match given {
        Some(mpi) => (mpi.rank(), mpi.size()),
        None => Mpi::look()?,
    };
    let collectives = config.backend == BackendChoice::Mpi;
    let blocking = collectives && config.mpi_blocking;
    if blocking && !Mpi::allows_calls_at_once()? {
        // Else whoever is in a call would keep all other groups of its process from theirs, which others may wait for.
        let text = "mpi_blocking with an MPI whose thread level is below MPI_THREAD_MULTIPLE";
        return Err(Error::unsupported(text).remedy(
            "begin MPI by MPI_Init_thread with MPI_THREAD_MULTIPLE, or leave RINGFOLD_MPI_BLOCKING out",
        ));
    }
    Ok(Found { rank, size, group: Mpi::next_group()?, collectives, blocking })
}

/// The ranks' numbers in MPI, in rank order, and the number of their group, from what all have said.
fn agree(said: &[Said]) -> Result<(Arc<[usize]>, usize)> {
    let wrong = |rank: usize, text: String, remedy: &str| {
        Err(Error::new(ErrorKind::Configuration, text).blame(rank).remedy(remedy))
    };
    let mut numbers = Vec::with_capacity(said.len());
    for (rank, said_by_one) in said.iter().enumerate() {
        let found = match said_by_one {
            Ok(found) => found,
            Err(why) => {
                return wrong(rank, format!("rank {rank} cannot use MPI: {why}"), "mend that on its side");
            }
        };
        if let Some(Ok(first)) = said.first()
            && first.collectives != found.collectives
        {
            let word =
                |collectives: bool| if collectives { BackendChoice::Mpi } else { BackendChoice::MpiP2p };
            let text = format!(
                "rank 0 asks for the backend {}, and rank {rank} for {}",
                word(first.collectives),
                word(found.collectives)
            );
            return wrong(rank, text, "set the same RINGFOLD_BACKEND on every rank");
        }
        if let Some(Ok(first)) = said.first()
            && first.blocking != found.blocking
        {
            let word = |blocking: bool| if blocking { "yes" } else { "no" };
            let text = format!(
                "rank 0 has mpi_blocking {}, and rank {rank} {}",
                word(first.blocking),
                word(found.blocking)
            );
            return wrong(rank, text, "set the same RINGFOLD_MPI_BLOCKING on every rank");
        }
        if found.size != said.len() {
            let text = format!(
                "rank {rank} is one of {} processes of MPI, in a group of {}",
                found.size,
                said.len()
            );
            return wrong(
                rank,
                text,
                "start all ranks by one mpirun of that MPI, or make the group of a part by Communicator::with_mpi",
            );
        }
        if let Some(other) = numbers.iter().position(|&number| number == found.rank) {
            let text = format!("ranks {other} and {rank} are both process {} of MPI", found.rank);
            return wrong(rank, text, "start all ranks by one mpirun");
        }
        numbers.push(found.rank);
    }
    let Some(Ok(first)) = said.first() else { return Err(Error::invalid("a group of 0 ranks")) };
    Ok((numbers.into(), number_of_group(first.group, said.len(), first.rank)))
}

/// The number of a group, from the number that its first rank has given it: that process gives it once, and no other process can
/// make the same of its own.
fn number_of_group(given: usize, size: usize, process: usize) -> usize {
    given.saturating_mul(size).saturating_add(process)
}

/// The first group of a world over MPI: its backend, and what makes others.
pub(super) fn meet(
    world: World,
    link: &ControlLink,
    given: Option<Mpi>,
    config: &Config,
) -> Result<(Box<dyn Backend>, Arc<dyn Kind>)> {
    let collectives = config.backend == BackendChoice::Mpi;
    let Met { mpi, numbers, group } = agree_on_mpi(link, given, config)?;
    let (rank, topology, tracer) = (link.rank(), world.topology.clone(), world.tracer.clone());
    if collectives {
        let mpi = mpi.subgroup(&numbers, group, config.init_deadline)?;
        let (direct, blocking) = (config.mpi_direct, config.mpi_blocking);
        let kind = Callers { world, mpi, timeout: config.init_deadline, direct, blocking };
        let backend = kind.backend(mpi, 0, (0..numbers.len()).collect())?;
        return Ok((Box::new(backend), Arc::new(kind)));
    }
    let generation = world.generation;
    let messengers = Messengers { world, mpi, numbers };
    let transport = messengers.transport(rank, messengers.numbers.to_vec(), group)?;
    let backend = Planned::new("mpi-p2p", transport, generation, 0, STAGING).on(topology).traced(tracer);
    Ok((Box::new(backend), Arc::new(messengers)))
}

/// What ranks have agreed on.
struct Met {
    mpi: Mpi,
    /// The processes of MPI, by rank.
    numbers: Arc<[usize]>,
    /// The number of their group.
    group: usize,
}

/// The MPI of a world that has met. Each says what it finds before any waits for another in MPI, so that all have an error where one
/// cannot.
fn agree_on_mpi(link: &ControlLink, given: Option<Mpi>, config: &Config) -> Result<Met> {
    let until = after(config.init_deadline);
    let left = || until.saturating_duration_since(Instant::now());
    let found = look(given, config);
    let mine: Said = found.as_ref().map(|found| Found { ..*found }).map_err(Error::to_string);
    // Numbers and text: nothing that JSON could refuse.
    let messages = link.all_gather(&serde_json::to_vec(&mine).unwrap_or_default(), left())?;
    found?;
    let read = |(rank, message): (usize, &Vec<u8>)| {
        serde_json::from_slice::<Said>(message).map_err(|error| {
            let text =
                format!("rank {rank} speaks of MPI in a form that this version does not know: {error}");
            Error::new(ErrorKind::Bootstrap, text).blame(rank).remedy("run the same version on every rank")
        })
    };
    let said: Vec<Said> = messages.iter().enumerate().map(read).collect::<Result<_>>()?;
    let (numbers, group) = agree(&said)?;
    let mpi = match given {
        Some(mpi) => mpi,
        None => Mpi::world(left())?,
    };
    Ok(Met { mpi, numbers, group })
}

/// What the ranks of a world have in common that send each other messages of MPI's.
#[derive(Clone)]
pub(super) struct Messengers {
    world: World,
    mpi: Mpi,
    /// The processes of MPI, by rank of the world.
    numbers: Arc<[usize]>,
}

impl Messengers {
    fn transport(&self, rank: usize, numbers: Vec<usize>, group: usize) -> Result<MpiTransport> {
        MpiTransport::new(MpiSetup {
            mpi: self.mpi,
            rank,
            numbers,
            group,
            poison: Arc::clone(&self.world.poison),
            report: Box::new(self.world.report()),
            spins: self.world.spins,
            shares_cpus: self.world.spins == 0,
        })
    }
}

impl Kind for Messengers {
    fn offer(&self, _: usize) -> Result<(Box<dyn Any>, [u8; OFFER])> {
        let mut offer = [0; OFFER];
        offer[..8].copy_from_slice(&(Mpi::next_group()? as u64).to_le_bytes());
        Ok((Box::new(()), offer))
    }

    fn found(&self, _: Box<dyn Any>, founding: &Founding<'_>) -> Result<(Box<dyn Backend>, Arc<dyn Kind>)> {
        let numbers: Vec<usize> = founding.numbers.iter().map(|&number| self.numbers[number]).collect();
        let given = u64::from_le_bytes(std::array::from_fn(|i| founding.offers[0][i])) as usize;
        let group = number_of_group(given, self.mpi.size(), numbers[0]);
        let transport = self.transport(founding.rank, numbers, group)?;
        Ok((self.world.backend("mpi-p2p", transport, founding), Arc::new(self.clone())))
    }

    fn host(&self, number: usize) -> usize {
        self.world.topology.host(number)
    }

    fn reporter(&self) -> Option<&Reporter> {
        Some(&self.world.reporter)
    }
}

/// What the ranks of a group have in common that call MPI's collectives: each group has a communicator of MPI's own.
struct Callers {
    world: World,
    /// That of the group, by which others within it are made.
    mpi: Mpi,
    /// How long it may take to make one.
    timeout: Duration,
    direct: bool,
    blocking: bool,
}

impl Callers {
    fn backend(&self, mpi: Mpi, communicator: u32, numbers: Arc<[usize]>) -> Result<MpiCollectives> {
        MpiCollectives::new(CollectivesSetup {
            mpi,
            generation: self.world.generation,
            communicator,
            numbers,
            poison: Arc::clone(&self.world.poison),
            reporter: self.world.reporter.clone(),
            shares_cpus: self.world.spins == 0,
            spins: self.world.spins,
            direct: self.direct,
            blocking: self.blocking,
            limit: CollectivesSetup::LIMIT,
            tracer: self.world.tracer.clone(),
        })
    }
}

impl Kind for Callers {
    fn offer(&self, _: usize) -> Result<(Box<dyn Any>, [u8; OFFER])> {
        Ok((Box::new(()), [0; OFFER]))
    }

    /// Blocks until all members are here, which have all come so far when it is called: at most for the time in which groups form.
    fn found(&self, _: Box<dyn Any>, founding: &Founding<'_>) -> Result<(Box<dyn Backend>, Arc<dyn Kind>)> {
        let mpi = self.mpi.subgroup(founding.members, founding.key as usize, self.timeout)?;
        let kind = Callers { world: self.world.clone(), mpi, ..*self };
        let backend = kind.backend(mpi, founding.communicator, Arc::clone(founding.numbers))?;
        Ok((Box::new(backend), Arc::new(kind)))
    }

    fn host(&self, number: usize) -> usize {
        self.world.topology.host(number)
    }

    fn reporter(&self) -> Option<&Reporter> {
        Some(&self.world.reporter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ranks_say_of_mpi_is_compared() {
        let found = |rank, size, group| Ok(Found { rank, size, group, collectives: false, blocking: false });
        let (numbers, group) = agree(&[found(2, 3, 5), found(0, 3, 9), found(1, 3, 0)]).unwrap();
        assert_eq!((&numbers[..], group), (&[2, 0, 1][..], 17));
        let wrong = |said: &[Said]| {
            let error = agree(said).unwrap_err();
            (error.culprit(), error.to_string())
        };
        let (culprit, text) = wrong(&[found(0, 2, 0), Err("it is away".into())]);
        assert!(culprit == Some(1) && text.contains("it is away"), "{text}");
        let (culprit, text) = wrong(&[found(0, 1, 0), found(0, 1, 0)]);
        assert!(culprit == Some(0) && text.contains("one of 1 processes"), "{text}");
        let other = |collectives, blocking| Ok(Found { rank: 1, size: 2, group: 0, collectives, blocking });
        let (culprit, text) = wrong(&[found(0, 2, 0), other(true, false)]);
        assert!(culprit == Some(1) && text.contains("mpi-p2p, and rank 1 for mpi"), "{text}");
        let (culprit, text) = wrong(&[other(true, false), other(true, true)]);
        assert!(culprit == Some(1) && text.contains("mpi_blocking no, and rank 1 yes"), "{text}");
        let (culprit, text) = wrong(&[found(0, 2, 0), found(0, 2, 0)]);
        assert!(culprit == Some(1) && text.contains("both process 0"), "{text}");
    }
}
