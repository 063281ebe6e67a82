//! Groups whose collectives are NCCL's.

use super::kin::{Founding, Kind, OFFER, World};
use crate::backend::Backend;
use crate::backend::nccl::{Library, NcclBackend, NcclSetup, PORTION, UniqueId};
use crate::config::Config;
use crate::cuda::{Context, Driver};
use crate::error::{Error, ErrorKind, Result};
use crate::plan::Topology;
use crate::transport::control::{ControlLink, Reporter, after};
use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a rank finds of its NCCL and its device, and tells the others.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    version: String,
    /// The device's UUID.
    device: String,
    /// Its PCI address.
    pci: String,
}

type Said = std::result::Result<Found, String>;

/// What a rank says, in three lines after a word, or why it has nothing to say.
fn encode(said: &Said) -> String {
    match said {
        Ok(Found { version, device, pci }) => format!("{HERE}{version}\n{device}\n{pci}"),
        Err(why) => why.clone(),
    }
}

fn decode(message: &[u8]) -> Said {
    let text = String::from_utf8_lossy(message);
    let mut lines = text.strip_prefix(HERE).ok_or(&*text)?.split('\n').map(str::to_owned);
    let mut next = || lines.next().unwrap_or_default();
    Ok(Found { version: next(), device: next(), pci: next() })
}

const HERE: &str = "nccl\n";

/// What this rank finds.
fn look(config: &Config) -> Result<(Library, Arc<Context>)> {
    let driver = Driver::find(config.cuda.as_deref())?;
    let library = Library::find(config.nccl.as_deref())?;
    let context = Context::new(&driver, ordinal(config, driver.count()?))?;
    Ok((library, context))
}

/// Which of the devices that this process sees: what is said, else that of the local rank where there are several.
fn ordinal(config: &Config, count: u32) -> u32 {
    let local = config.local_rank.and_then(|rank| u32::try_from(rank).ok()).unwrap_or(0);
    config.cuda_device.unwrap_or(if count > 1 { local % count } else { 0 })
}

/// Fails, on all ranks alike, where one cannot, versions differ, or two would share a device.
fn agree(said: &[Said], hosts: &Topology) -> Result<()> {
    let wrong = |kind, rank: usize, text: String, remedy: &str| {
        Err(Error::new(kind, text).blame(rank).remedy(remedy))
    };
    let mut all: Vec<&Found> = Vec::with_capacity(said.len());
    for (rank, said_by_one) in said.iter().enumerate() {
        let found = match said_by_one {
            Ok(found) => found,
            Err(why) => {
                let text = format!("rank {rank} cannot use NCCL: {why}");
                return wrong(ErrorKind::Unavailable, rank, text, "mend that on its side");
            }
        };
        if let Some(first) = all.first().filter(|first| first.version != found.version) {
            let text = format!("rank 0 has NCCL {}, and rank {rank} has {}", first.version, found.version);
            return wrong(ErrorKind::Configuration, rank, text, "use one version on every rank");
        }
        let is_same = |(other, theirs): (usize, &&Found)| {
            theirs.device == found.device
                || (theirs.pci == found.pci && hosts.host(other) == hosts.host(rank))
        };
        if let Some(other) = all.iter().enumerate().position(is_same) {
            let text = format!(
                "ranks {other} and {rank} are on one GPU, {} at {}, and NCCL takes one rank a GPU",
                found.device, found.pci
            );
            return wrong(
                ErrorKind::Configuration,
                rank,
                text,
                "give each rank a GPU of its own: ringfold run --gpus-per-task 1, CUDA_VISIBLE_DEVICES or \
                 RINGFOLD_CUDA_DEVICE",
            );
        }
        all.push(found);
    }
    Ok(())
}

/// What the ranks of a world over NCCL have in common.
#[derive(Clone)]
pub(super) struct Accelerated {
    world: World,
    library: Library,
    context: Arc<Context>,
    /// How long the making of a group may take.
    timeout: Duration,
    /// What divides the group that this is of.
    divider: crate::backend::nccl::Divider,
}

impl Accelerated {
    /// The NCCL of a world that has met, and this rank's part of its first group. Each says what it finds before any waits for
    /// another in NCCL, so that all have an error where one cannot.
    pub(super) fn meet(
        world: World,
        link: &ControlLink,
        config: &Config,
    ) -> Result<(Accelerated, NcclBackend)> {
        let until = after(config.init_deadline);
        let left = || until.saturating_duration_since(Instant::now());
        let found = look(config);
        let mine: Said = match &found {
            Ok((library, context)) => {
                let device = context.device();
                let version = library.version().to_string();
                Ok(Found { version, device: device.uuid.clone(), pci: device.pci.clone() })
            }
            Err(error) => Err(error.to_string()),
        };
        let messages = link.all_gather(encode(&mine).as_bytes(), left())?;
        let (library, context) = found?;
        let said: Vec<Said> = messages.iter().map(|message| decode(message)).collect();
        agree(&said, &world.topology)?;
        let id = if link.rank() == 0 { Some(library.unique_id()) } else { None };
        let id = id.map(|id| id.map_err(|error| error.to_string())).transpose();
        let message = match &id {
            Ok(id) => id.map_or(Vec::new(), |id| [&[1][..], &id.to_bytes()].concat()),
            Err(why) => [&[0], why.as_bytes()].concat(),
        };
        let messages = link.all_gather(&message, left())?;
        let first = messages.first().map_or(&[][..], Vec::as_slice);
        let named = first.strip_prefix(&[1]).and_then(|id| <[u8; UniqueId::BYTES]>::try_from(id).ok());
        let id = named.map(UniqueId::from_bytes).ok_or_else(|| {
            let why = String::from_utf8_lossy(first.get(1..).unwrap_or_default());
            let text = format!("rank 0 has no name for the group: {why}");
            Error::new(ErrorKind::Bootstrap, text).blame(0).remedy("set NCCL_DEBUG=WARN on rank 0")
        })?;
        let numbers = (0..link.world()).collect();
        let setup = setup(&world, &library, &context, link.rank(), numbers, 0);
        let backend = NcclBackend::new(setup, id, left())?;
        let divider = backend.divider();
        let timeout = config.init_deadline;
        Ok((Accelerated { world, library, context, timeout, divider }, backend))
    }
}

fn setup(
    world: &World,
    library: &Library,
    context: &Arc<Context>,
    rank: usize,
    numbers: Arc<[usize]>,
    communicator: u32,
) -> NcclSetup {
    NcclSetup {
        rank,
        ledger: (numbers.len() > 1).then(|| world.reporter.ledger(communicator, &numbers)),
        numbers,
        generation: world.generation,
        communicator,
        library: library.clone(),
        context: Arc::clone(context),
        poison: Arc::clone(&world.poison),
        report: Arc::new(world.report()),
        spins: world.spins,
        portion: PORTION,
        tracer: world.tracer.clone(),
    }
}

impl Kind for Accelerated {
    fn offer(&self, _: usize) -> Result<(Box<dyn Any>, [u8; OFFER])> {
        Ok((Box::new(()), [0; OFFER]))
    }

    fn found(&self, _: Box<dyn Any>, founding: &Founding<'_>) -> Result<(Box<dyn Backend>, Arc<dyn Kind>)> {
        let Accelerated { world, library, context, timeout, divider } = self;
        let numbers = Arc::clone(founding.numbers);
        let setup = setup(world, library, context, founding.rank, numbers, founding.communicator);
        let backend = divider.found(setup, founding.members[0], *timeout)?;
        let divider = backend.divider();
        Ok((Box::new(backend), Arc::new(Accelerated { divider, ..self.clone() })))
    }

    fn stand_aside(&self) -> Result<()> {
        self.divider.stand_aside(&self.world.poison, self.timeout)
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

    fn found(version: &str, device: &str, pci: &str) -> Said {
        Ok(Found { version: version.into(), device: device.into(), pci: pci.into() })
    }

    #[test]
    fn what_ranks_say_round_trips() {
        for said in [found("2.18.5", "GPU-a", "0000:01:00.0"), Err("it is\naway".into())] {
            assert_eq!(decode(encode(&said).as_bytes()), said);
        }
    }

    #[test]
    fn what_ranks_say_is_compared() {
        let one_host = Topology::of_hosts([0, 0].iter());
        let two_hosts = Topology::of_hosts([0, 1].iter());
        agree(&[found("2.18.5", "GPU-a", "1"), found("2.18.5", "GPU-b", "2")], &one_host).unwrap();
        // One address on two hosts is two devices.
        agree(&[found("2.18.5", "GPU-a", "1"), found("2.18.5", "GPU-b", "1")], &two_hosts).unwrap();
        let wrong = |said: &[Said], hosts: &Topology| {
            let error = agree(said, hosts).unwrap_err();
            (error.kind(), error.culprit(), error.to_string())
        };
        let (kind, culprit, text) =
            wrong(&[found("2.18.5", "GPU-a", "1"), found("2.18.5", "GPU-a", "1")], &one_host);
        assert_eq!((kind, culprit), (ErrorKind::Configuration, Some(1)));
        assert!(text.contains("ranks 0 and 1 are on one GPU, GPU-a at 1"), "{text}");
        // Two slices of one device.
        let slices = [found("2.18.5", "MIG-a", "1"), found("2.18.5", "MIG-b", "1")];
        assert!(wrong(&slices, &one_host).2.contains("ranks 0 and 1"));
        let (_, culprit, text) =
            wrong(&[found("2.18.5", "GPU-a", "1"), found("2.19.0", "GPU-b", "2")], &one_host);
        assert!(culprit == Some(1) && text.contains("2.18.5, and rank 1 has 2.19.0"), "{text}");
        let (kind, culprit, text) = wrong(&[found("1", "a", "1"), Err("it is away".into())], &one_host);
        assert_eq!((kind, culprit), (ErrorKind::Unavailable, Some(1)));
        assert!(text.contains("it is away"), "{text}");
    }

    #[test]
    fn a_rank_takes_the_device_of_its_local_number_where_it_sees_several() {
        let config = Config::default();
        assert_eq!((ordinal(&config, 8), ordinal(&config, 1)), (0, 0));
        let third = config.with_local(3, 8);
        assert_eq!((ordinal(&third, 8), ordinal(&third, 1), ordinal(&third, 2)), (3, 0, 1));
        assert_eq!(ordinal(&third.with_cuda_device(5), 8), 5);
    }
}
