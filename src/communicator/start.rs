//! How communicators come to be.

use super::abort::AbortHandle;
use super::by_hosts::{Neighbours, Watch};
use super::by_nccl::Accelerated;
use super::kin::{Founding, Kind, Sharers, Sockets, Threads, World};
use super::line::Line;
use super::sequencer::Sequencer;
use super::{Check, Communicator, Options};
use crate::backend::choose::{PassedOver, passed_over};
use crate::backend::{Backend, Planned, STAGING};
use crate::bootstrap::{self, Joined, Peer, Shared, quota, suffice};
use crate::config::{BackendChoice, Config};
use crate::cuda::Reach;
use crate::error::{Error, ErrorKind, Result};
use crate::observe::trace::Tracer;
use crate::plan::select::Table;
use crate::plan::{Algorithm, Topology};
use crate::transport::channel::channel;
use crate::transport::tcp::Seat;
use crate::transport::{Exchange, Transport};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::sync::{Arc, Mutex};

/// How often a rank that has a CPU of its own looks again before it sleeps: about as long as two ranks of one host
/// take to answer each other.
const SPINS: u32 = 200;

impl Communicator {
    /// Joins the group that this process was launched into: by `ringfold run`, Open MPI, MPICH or torchrun, or by
    /// whoever sets the names that [`config::environment`](crate::config::environment) lists. Without any of them
    /// it is a group of one. Blocks until all ranks are there.
    ///
    /// # Errors
    /// As [`connect`](Communicator::connect), and [`Configuration`](ErrorKind::Configuration) for an environment that
    /// makes no sense.
    ///
    /// ```
    /// let comm = ringfold::Communicator::from_env()?;
    /// assert!(comm.rank() < comm.world_size());
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    pub fn from_env() -> Result<Communicator> {
        Communicator::connect(&Config::from_env()?)
    }

    /// Joins the group that a configuration describes, over shared memory where all ranks are on one host and it can be
    /// had ([`Config::backend`]), over shared memory within hosts and TCP between them where there are several, else over TCP. Blocks until all ranks are there, at most for the
    /// configuration's `init_deadline`.
    ///
    /// # Errors
    /// [`Configuration`](ErrorKind::Configuration) where the group cannot be found with what is set;
    /// [`Bootstrap`](ErrorKind::Bootstrap), naming the ranks that are missing, when time is up.
    ///
    /// ```
    /// use ringfold::{Communicator, Config, ReduceOp};
    /// # let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    /// let config = Config::default().with_world_size(2).with_store(free.to_string());
    /// std::thread::scope(|scope| {
    ///     for rank in 0..2 {
    ///         let config = config.clone().with_rank(rank);
    ///         scope.spawn(move || {
    ///             let comm = Communicator::connect(&config).unwrap();
    ///             let mut data = [comm.rank() as i32 + 1];
    ///             comm.all_reduce(&mut data, ReduceOp::Sum).unwrap();
    ///             assert_eq!(data, [3]);
    ///         });
    ///     }
    /// });
    /// ```
    pub fn connect(config: &Config) -> Result<Communicator> {
        let terms = Terms::of(config)?;
        #[cfg(feature = "mpi")]
        if config.backend.is_mpi() {
            return formed(super::by_mpi::join(config)?, terms);
        }
        formed(bootstrap::join(config)?, terms)
    }

    /// Joins a group by somebody else's all-gather of small byte strings, used once: Spark's barrier context, MPI,
    /// or a function of the user's ([`CallbackExchange`](crate::bootstrap::CallbackExchange)). Blocks until all
    /// ranks are there.
    ///
    /// # Errors
    /// As [`connect`](Communicator::connect), and whatever the exchange fails with.
    pub fn with_exchange(exchange: &mut dyn Exchange, config: &Config) -> Result<Communicator> {
        let terms = Terms::of(config)?;
        formed(bootstrap::join_with(exchange, config)?, terms)
    }

    /// A group whose ranks are threads of this process: one communicator for each, in rank order.
    ///
    /// # Panics
    /// Where `world` is 0.
    pub fn local(world: usize) -> Vec<Communicator> {
        assert!(world > 0, "a group has one rank at least");
        threads(world, 0, &Sequencer::new(Table::default(), Options::new(), Config::default().deadline))
    }

    /// The same with the generation, deadline, table, algorithm and check of a configuration.
    ///
    /// # Errors
    /// [`InvalidArgument`](ErrorKind::InvalidArgument) for a group of 0; [`Configuration`](ErrorKind::Configuration) for a table,
    /// an algorithm or a check that there is not.
    ///
    /// ```
    /// use ringfold::{Communicator, Config};
    /// let comms = Communicator::local_with(2, &Config::default().with_generation(3))?;
    /// assert_eq!((comms.len(), comms[1].generation()), (2, 3));
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    pub fn local_with(world: usize, config: &Config) -> Result<Vec<Communicator>> {
        if world == 0 {
            return Err(Error::invalid("a group of 0 ranks"));
        }
        let table = bootstrap::table(config)?;
        Ok(threads(world, config.generation, &Sequencer::new(table, defaults(config)?, config.deadline)))
    }
}

/// A group of threads, in rank order.
fn threads(world: usize, generation: u32, sequencer: &Sequencer) -> Vec<Communicator> {
    channel(world)
        .into_iter()
        .map(|transport| {
            let rank = transport.rank();
            let abort =
                AbortHandle::new(rank, generation, transport.poison(), Arc::new(transport.reporter()));
            let kind = Arc::new(Threads { family: transport.family(), generation });
            let (hosts, passed_over) = (Arc::default(), Arc::default());
            let place = Place { rank, world, generation, hosts, kind, abort, passed_over };
            let backend = Planned::new("channel", transport, generation, 0, STAGING);
            place.assemble(Box::new(backend), sequencer.sibling(), Box::new(()))
        })
        .collect()
}

struct Place {
    rank: usize,
    world: usize,
    generation: u32,
    hosts: Arc<[String]>,
    kind: Arc<dyn Kind>,
    abort: AbortHandle,
    passed_over: Arc<[PassedOver]>,
}

impl Place {
    fn assemble(
        self,
        backend: Box<dyn Backend>,
        sequencer: Sequencer,
        held: Box<dyn Any + Send>,
    ) -> Communicator {
        let sequencer = sequencer
            .within(backend.reach())
            .of_library(backend.owns_schedules())
            .in_levels(backend.levels());
        let line = Line::new(self.rank, self.hosts, backend, Arc::new(Mutex::new(held)));
        Communicator {
            rank: self.rank,
            world: self.world,
            generation: self.generation,
            numbers: (0..self.world).collect(),
            id: 0,
            kind: self.kind,
            splits: Cell::new(0),
            line: Arc::new(line),
            progress: Arc::default(),
            sequencer: RefCell::new(sequencer),
            completions: RefCell::default(),
            #[cfg(feature = "arrow")]
            recycler: crate::memory::Recycler::new(super::KEPT),
            abort: self.abort,
            passed_over: self.passed_over,
            staging: RefCell::default(),
        }
    }
}

/// A group of one over this backend.
#[cfg(test)]
pub(super) fn alone(backend: Box<dyn Backend>) -> Communicator {
    let poison = Arc::new(crate::observe::Poison::new());
    let transport = channel(1).remove(0);
    let place = Place {
        rank: 0,
        world: 1,
        generation: 0,
        hosts: Arc::default(),
        kind: Arc::new(Threads { family: transport.family(), generation: 0 }),
        abort: AbortHandle::new(0, 0, poison, Arc::new(|_| ())),
        passed_over: Arc::default(),
    };
    let sequencer = Sequencer::new(Table::default(), Options::new(), Config::default().deadline);
    place.assemble(backend, sequencer, Box::new(()))
}

/// What is said of a group beside who its ranks are.
pub(super) struct Terms<'a> {
    config: &'a Config,
    defaults: Options,
    /// The communicator of MPI's that it is given, if any.
    #[cfg(feature = "mpi")]
    pub(super) mpi: Option<crate::transport::mpi::Mpi>,
}

impl<'a> Terms<'a> {
    pub(super) fn of(config: &'a Config) -> Result<Self> {
        Ok(Terms {
            config,
            defaults: defaults(config)?,
            #[cfg(feature = "mpi")]
            mpi: None,
        })
    }
}

/// A group that has formed: over MPI or NCCL where that is asked for, over shared memory where there is some, by hosts where some of several
/// share memory, else over TCP.
pub(super) fn formed(joined: Joined, terms: Terms<'_>) -> Result<Communicator> {
    let config = terms.config;
    let Joined {
        rank,
        world,
        generation,
        world_id,
        link,
        server,
        peers,
        listener,
        poison,
        table,
        shared,
        hosts,
        agreed,
    } = joined;
    let found = [
        (BackendChoice::Shm, shared.as_ref().err().cloned()),
        (BackendChoice::Hierarchical, hosts.as_ref().err().cloned()),
    ];
    let tracer = match &config.trace {
        Some(directory) => {
            let host = &peers[rank].host;
            Some(Arc::new(Tracer::create(directory, rank, world, world_id, generation, host)?))
        }
        None => None,
    };
    let facts = World {
        generation,
        poison,
        reporter: link.reporter(),
        spins: spins(rank, &peers),
        topology: Topology::of_hosts(peers.iter().map(|peer| &peer.host_id)),
        tracer: tracer.clone(),
    };
    let abort = facts.abort_handle(rank);
    let topology = facts.topology.clone();
    let sequencer = Sequencer::new(table, terms.defaults, config.deadline).on(&topology);
    let sockets = |facts: World| Sockets { world: facts, world_id, interface: peers[rank].address.ip() };
    let addresses = || peers.iter().map(|peer| peer.address).collect();
    let at_rank = |error: Error| error.at_rank(rank);
    let (backend, kind, sentinel): (Box<dyn Backend>, Arc<dyn Kind>, Watch) = match (shared, hosts) {
        #[cfg(feature = "mpi")]
        _ if agreed.choice.is_mpi() => {
            let met = super::by_mpi::meet(facts, &link, terms.mpi, config);
            let (backend, kind) = met.map_err(|error| error.at_rank(rank))?;
            (backend, kind, None)
        }
        _ if agreed.choice == BackendChoice::Nccl => {
            let (kind, backend) =
                Accelerated::meet(facts, &link, config).map_err(|error| error.at_rank(rank))?;
            (Box::new(backend), Arc::new(kind), None)
        }
        (shared, Ok(hosts)) => {
            let numbers: Arc<[usize]> = (0..world).collect();
            let (members, offers) = (&*numbers, Vec::new());
            let founding = Founding { rank, members, numbers: &numbers, key: 0, communicator: 0, offers };
            let seat = Seat::new(listener).map_err(at_rank)?;
            let met = Neighbours::meet(sockets(facts), &founding, (shared.ok(), hosts), (seat, addresses()));
            let (backend, kind, sentinel) = met.map_err(at_rank)?;
            (backend, Arc::new(kind), sentinel)
        }
        (Ok(Shared { ground, seat, seats, sentinel, processes, .. }), _) => {
            let kind = Sharers { world: facts, ground, processes };
            let numbers: Vec<usize> = (0..world).collect();
            let transport = kind.transport(rank, &numbers, seat, seats).map_err(at_rank)?;
            let backend = Planned::new("shm", transport, generation, 0, STAGING);
            (Box::new(backend.on(topology).traced(tracer)), Arc::new(kind), Some(Box::new(sentinel)))
        }
        (Err(_), _) => {
            let kind = sockets(facts);
            let transport = Seat::new(listener).and_then(|seat| kind.transport(rank, 0, seat, addresses()));
            let backend = Planned::new("tcp", transport.map_err(at_rank)?, generation, 0, STAGING);
            (Box::new(backend.on(topology).traced(tracer)), Arc::new(kind), None)
        }
    };
    let driver = config.cuda.clone();
    let hosts = peers.into_iter().map(|peer| peer.host).collect();
    let found: Vec<_> = found.iter().filter_map(|(choice, why)| Some((*choice, why.as_deref()?))).collect();
    let passed_over: Arc<[PassedOver]> = passed_over(agreed, backend.name(), &found).into();
    tracing::info!(rank, backend = backend.name(), ?passed_over, "the backend has been chosen");
    let place = Place { rank, world, generation, hosts, kind, abort, passed_over };
    let comm = place.assemble(backend, sequencer, Box::new((sentinel, link, server)));
    if driver.is_some() {
        comm.reach_devices_by(Arc::new(Reach::by(driver)));
    }
    Ok(comm)
}

/// Ranks that must share CPUs leave them to each other when they wait.
fn spins(rank: usize, peers: &[Peer]) -> u32 {
    let here = peers.iter().filter(|peer| peer.rank != rank && peer.host_id == peers[rank].host_id);
    let others: Vec<_> = here.map(|peer| &peer.cpus).collect();
    let limit = std::thread::available_parallelism().map_or(1, usize::from);
    if suffice(&peers[rank].cpus, &others, limit, quota()) { SPINS } else { 0 }
}

/// What the configuration says for all calls.
fn defaults(config: &Config) -> Result<Options> {
    let mut options = Options::new();
    if let Some(name) = &config.algorithm {
        let named = Algorithm::named(name);
        options.algorithm = Some(named.map_err(|error| misconfigured("algorithm", &error))?);
    }
    if let Some(name) = &config.check {
        options.check = Some(name.parse::<Check>().map_err(|error| misconfigured("check", &error))?);
    }
    Ok(options)
}

fn misconfigured(what: &str, error: &Error) -> Error {
    let configured = Error::new(ErrorKind::Configuration, format!("{what}: {}", error.message()));
    match error.what_to_do() {
        Some(remedy) => configured.remedy(remedy),
        None => configured,
    }
}
