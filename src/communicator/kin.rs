//! How a communicator makes others of its kind, within its world.

use super::abort::AbortHandle;
use crate::backend::{Backend, Planned, STAGING};
use crate::error::{Cause, Error, Result};
use crate::observe::Poison;
use crate::observe::trace::Tracer;
use crate::plan::Topology;
use crate::transport::Transport;
use crate::transport::channel::Family;
use crate::transport::control::Reporter;
use crate::transport::shm::{self, Ground, ShmSeat, ShmSetup, ShmTransport};
use crate::transport::tcp::{Seat, TcpSetup, TcpTransport};
use std::any::Any;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

/// What one rank brings to a new group, and tells the others of in so many bytes.
pub(super) const OFFER: usize = 40;

/// A group to be made, as its members agree on it.
pub(super) struct Founding<'a> {
    /// This rank's number in it.
    pub(super) rank: usize,
    /// The members' numbers in the group that they come from, in rank order.
    pub(super) members: &'a [usize],
    /// The members' numbers in the world, in rank order.
    pub(super) numbers: &'a Arc<[usize]>,
    /// The same for all members, and another for any other group of the same origin.
    pub(super) key: u64,
    /// Tells the groups of a world apart, as far as 32 bits can.
    pub(super) communicator: u32,
    /// What each member offers, in rank order.
    pub(super) offers: Vec<[u8; OFFER]>,
}

/// The kind of a communicator.
pub(super) trait Kind: Send + Sync {
    /// Makes what this rank brings to a new group of at most `world` ranks: everything that the system may refuse.
    fn offer(&self, world: usize) -> Result<(Box<dyn Any>, [u8; OFFER])>;

    /// Makes this rank's part of the group from what it has brought. Does not block.
    fn found(
        &self,
        brought: Box<dyn Any>,
        founding: &Founding<'_>,
    ) -> Result<(Box<dyn Backend>, Arc<dyn Kind>)>;

    /// What a rank does for the new groups of others where it joins none itself: some kinds need every rank of the old group.
    fn stand_aside(&self) -> Result<()> {
        Ok(())
    }

    /// The host of a rank by its number in the world, as schedules know it: the same number for ranks that share one.
    fn host(&self, number: usize) -> usize;

    /// Where memory is taken that the ranks share; `None` where they share none.
    fn ground(&self) -> Option<&Arc<Ground>> {
        None
    }

    /// What tells the store; `None` where there is none.
    fn reporter(&self) -> Option<&Reporter> {
        None
    }
}

/// What communicators of one world share in a process: dropped with the last of them.
pub(super) type Held = Arc<Mutex<Box<dyn Any + Send>>>;

/// Ranks that are threads.
pub(super) struct Threads {
    pub(super) family: Family,
    pub(super) generation: u32,
}

impl Kind for Threads {
    fn offer(&self, _: usize) -> Result<(Box<dyn Any>, [u8; OFFER])> {
        Ok((Box::new(()), [0; OFFER]))
    }

    fn found(&self, _: Box<dyn Any>, founding: &Founding<'_>) -> Result<(Box<dyn Backend>, Arc<dyn Kind>)> {
        let transport = self.family.child(founding.key, founding.members, founding.rank);
        let generation = self.generation;
        let kind = Threads { family: transport.family(), generation };
        let backend = Planned::new("channel", transport, generation, founding.communicator, STAGING);
        Ok((Box::new(backend.among(Arc::clone(founding.numbers))), Arc::new(kind)))
    }

    fn host(&self, _: usize) -> usize {
        0
    }
}

/// What all groups of a world have in common, where its ranks are processes.
#[derive(Clone)]
pub(super) struct World {
    pub(super) generation: u32,
    pub(super) poison: Arc<Poison>,
    pub(super) reporter: Reporter,
    pub(super) spins: u32,
    /// Which ranks of the world share a host.
    pub(super) topology: Topology,
    /// Where this rank writes its operations down, if it does.
    pub(super) tracer: Option<Arc<Tracer>>,
}

impl World {
    /// Tells the group of a failure.
    pub(super) fn report(&self) -> impl Fn(&Cause) + Send + Sync + use<> {
        let reporter = self.reporter.clone();
        move |cause: &Cause| reporter.report(cause)
    }

    /// A handle that aborts this world.
    pub(super) fn abort_handle(&self, number: usize) -> AbortHandle {
        AbortHandle::new(number, self.generation, Arc::clone(&self.poison), Arc::new(self.report()))
    }

    /// A backend for a group within this world.
    pub(super) fn backend<T: Transport + 'static>(
        &self,
        name: &'static str,
        transport: T,
        founding: &Founding<'_>,
    ) -> Box<dyn Backend> {
        let hosts = founding.numbers.iter().map(|&rank| self.topology.host(rank));
        let backend = Planned::new(name, transport, self.generation, founding.communicator, STAGING)
            .on(Topology::of_hosts(hosts))
            .traced(self.tracer.clone());
        Box::new(backend.among(Arc::clone(founding.numbers)))
    }
}

/// Ranks that are reached by TCP.
#[derive(Clone)]
pub(super) struct Sockets {
    pub(super) world: World,
    pub(super) world_id: u64,
    /// Where this rank listens.
    pub(super) interface: IpAddr,
}

impl Sockets {
    pub(super) fn transport(
        &self,
        rank: usize,
        communicator: u32,
        seat: Seat,
        peers: Vec<SocketAddr>,
    ) -> Result<TcpTransport> {
        TcpTransport::new(TcpSetup {
            rank,
            world: peers.len(),
            generation: self.world.generation,
            world_id: self.world_id,
            communicator,
            seat,
            peers,
            poison: Arc::clone(&self.world.poison),
            report: Box::new(self.world.report()),
            spins: self.world.spins,
        })
    }
}

impl Sockets {
    /// Listens for a new group: where.
    pub(super) fn listen(&self) -> Result<(Seat, SocketAddr)> {
        let doing = "listening for a new group";
        let listener = TcpListener::bind((self.interface, 0)).map_err(|error| Error::io(doing, error))?;
        let address = listener.local_addr().map_err(|error| Error::io(doing, error))?;
        Ok((Seat::new(listener)?, address))
    }
}

impl Kind for Sockets {
    fn offer(&self, _: usize) -> Result<(Box<dyn Any>, [u8; OFFER])> {
        let (seat, address) = self.listen()?;
        Ok((Box::new(seat), encode(address)))
    }

    fn found(
        &self,
        brought: Box<dyn Any>,
        founding: &Founding<'_>,
    ) -> Result<(Box<dyn Backend>, Arc<dyn Kind>)> {
        let seat = brought.downcast::<Seat>().expect("a seat is what was offered");
        let peers = founding.offers.iter().map(decode).collect();
        let transport = self.transport(founding.rank, founding.communicator, *seat, peers)?;
        Ok((self.world.backend("tcp", transport, founding), Arc::new(self.clone())))
    }

    fn host(&self, number: usize) -> usize {
        self.world.topology.host(number)
    }

    fn reporter(&self) -> Option<&Reporter> {
        Some(&self.world.reporter)
    }
}

/// How often a rank that shares memory looks again before it sleeps, whether or not it has a CPU of its own: after the
/// first few it offers its CPU to others each time, which is quicker than to sleep and be woken.
const SHM_SPINS: u32 = 220;

/// Ranks that share memory.
#[derive(Clone)]
pub(super) struct Sharers {
    pub(super) world: World,
    pub(super) ground: Arc<Ground>,
    /// The processes of the world's ranks, where each may read the memory of all.
    pub(super) processes: Option<Arc<[i32]>>,
}

impl Sharers {
    /// The transport of a group whose ranks have these numbers in the world.
    pub(super) fn transport(
        &self,
        rank: usize,
        numbers: &[usize],
        seat: ShmSeat,
        seats: Vec<u64>,
    ) -> Result<ShmTransport> {
        let of_numbers = |all: &Arc<[i32]>| numbers.iter().map(|&number| all[number]).collect();
        ShmTransport::new(ShmSetup {
            rank,
            seat,
            seats,
            poison: Arc::clone(&self.world.poison),
            report: Box::new(self.world.report()),
            spins: SHM_SPINS,
            // What waits for a socket does not spin then.
            shares_cpus: self.world.spins == 0,
            capacity: shm::CAPACITY,
            processes: self.processes.as_ref().map(of_numbers),
        })
    }
}

impl Kind for Sharers {
    fn offer(&self, world: usize) -> Result<(Box<dyn Any>, [u8; OFFER])> {
        let seat = ShmSeat::new(&self.ground, world)?;
        let mut offer = [0; OFFER];
        offer[..8].copy_from_slice(&seat.offset().to_le_bytes());
        Ok((Box::new(seat), offer))
    }

    fn found(
        &self,
        brought: Box<dyn Any>,
        founding: &Founding<'_>,
    ) -> Result<(Box<dyn Backend>, Arc<dyn Kind>)> {
        let seat = brought.downcast::<ShmSeat>().expect("a seat is what was offered");
        let offset = |offer: &[u8; OFFER]| u64::from_le_bytes(std::array::from_fn(|i| offer[i]));
        let seats = founding.offers.iter().map(offset).collect();
        let transport = self.transport(founding.rank, founding.numbers, *seat, seats)?;
        Ok((self.world.backend("shm", transport, founding), Arc::new(self.clone())))
    }

    fn host(&self, number: usize) -> usize {
        self.world.topology.host(number)
    }

    fn reporter(&self) -> Option<&Reporter> {
        Some(&self.world.reporter)
    }

    fn ground(&self) -> Option<&Arc<Ground>> {
        Some(&self.ground)
    }
}

pub(super) fn encode(address: SocketAddr) -> [u8; OFFER] {
    let mut bytes = [0; OFFER];
    bytes[0] = u8::from(address.is_ipv4());
    let (ip, scope) = match address {
        SocketAddr::V4(address) => (address.ip().to_ipv6_mapped(), 0),
        SocketAddr::V6(address) => (*address.ip(), address.scope_id()),
    };
    bytes[1..17].copy_from_slice(&ip.octets());
    bytes[17..19].copy_from_slice(&address.port().to_le_bytes());
    bytes[19..23].copy_from_slice(&scope.to_le_bytes());
    bytes
}

pub(super) fn decode(bytes: &[u8; OFFER]) -> SocketAddr {
    let array = |from: usize| -> [u8; 4] { std::array::from_fn(|i| bytes[from + i]) };
    let ip = Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(|i| bytes[1 + i]));
    let port = u16::from_le_bytes([bytes[17], bytes[18]]);
    match ip.to_ipv4_mapped() {
        Some(ip) if bytes[0] == 1 => SocketAddr::new(ip.into(), port),
        _ => std::net::SocketAddrV6::new(ip, port, 0, u32::from_le_bytes(array(19))).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip() {
        for text in ["127.0.0.1:80", "10.1.2.3:65535", "[::1]:1", "[fe80::1%3]:9", "[::ffff:1.2.3.4]:5"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(decode(&encode(address)), address);
        }
    }
}
