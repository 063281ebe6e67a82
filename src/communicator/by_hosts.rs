//! Groups of several hosts, of which one at least shares memory among its ranks.

use super::kin::{Founding, Kind, OFFER, Sharers, Sockets, World, decode, encode};
use crate::backend::hierarchical::{Hierarchical, HierarchicalSetup};
use crate::backend::{Backend, Planned, STAGING};
use crate::bootstrap::{Hosts, Shared};
use crate::error::Result;
use crate::plan::{Levels, Topology};
use crate::transport::Transport;
use crate::transport::control::Reporter;
use crate::transport::shm::{Ground, ShmSeat};
use crate::transport::tcp::Seat;
use std::any::Any;
use std::net::SocketAddr;
use std::sync::Arc;

/// What keeps watch over the processes of this host, where its ranks share memory.
pub(super) type Watch = Option<Box<dyn Any + Send>>;

/// Ranks of hosts, which share memory with those of their own.
#[derive(Clone)]
pub(super) struct Neighbours {
    sockets: Sockets,
    /// What this rank shares with others of its host, if it does.
    memory: Option<Sharers>,
    /// Which ranks of the world share memory.
    sharing: Topology,
}

/// What one rank has to begin with in a group.
struct Seats {
    inside: Option<ShmSeat>,
    across: Seat,
    whole: Seat,
}

/// What all ranks of a group have said of theirs, in rank order.
struct Places {
    /// In the memory of the host of each.
    inside: Vec<u64>,
    across: Vec<SocketAddr>,
    whole: Vec<SocketAddr>,
}

/// Where in an offer what lies: the address for all, the port for those across, the place in memory.
const PORT: std::ops::Range<usize> = 24..26;
const MEMORY: std::ops::Range<usize> = 32..40;

impl Neighbours {
    /// The first group of a world; also what keeps watch over the processes of this host.
    pub(super) fn meet(
        sockets: Sockets,
        founding: &Founding<'_>,
        (shared, hosts): (Option<Shared>, Hosts),
        (whole, addresses): (Seat, Vec<SocketAddr>),
    ) -> Result<(Box<dyn Backend>, Self, Watch)> {
        let Hosts { topology: sharing, listener, addresses: across } = hosts;
        let mut inside = vec![0; addresses.len()];
        let (mut memory, mut seat, mut sentinel): (_, _, Watch) = (None, None, None);
        if let Some(shared) = shared {
            shared.ranks.iter().zip(&shared.seats).for_each(|(&rank, &place)| inside[rank] = place);
            let world = sockets.world.clone();
            memory = Some(Sharers { world, ground: shared.ground, processes: shared.processes });
            seat = Some(shared.seat);
            sentinel = Some(Box::new(shared.sentinel));
        }
        let kind = Neighbours { sockets, memory, sharing };
        let seats = Seats { inside: seat, across: Seat::new(listener)?, whole };
        let backend = kind.form(founding, seats, Places { inside, across, whole: addresses })?;
        Ok((backend, kind, sentinel))
    }

    fn world(&self) -> &World {
        &self.sockets.world
    }

    /// The most ranks of the world that share one host's memory.
    fn together(&self) -> usize {
        let of_hosts = |world| self.sharing.hosts(world).iter().map(Vec::len).max();
        self.sharing.world().and_then(of_hosts).unwrap_or(usize::MAX)
    }

    /// A backend for some ranks of a group.
    fn part<T: Transport + 'static>(
        &self,
        name: &'static str,
        transport: T,
        communicator: u32,
        numbers: &Arc<[usize]>,
    ) -> Box<dyn Backend> {
        let world = self.world();
        let hosts = numbers.iter().map(|&number| world.topology.host(number));
        let backend = Planned::new(name, transport, world.generation, communicator, STAGING);
        Box::new(backend.on(Topology::of_hosts(hosts)).among(Arc::clone(numbers)))
    }

    /// The group of these members, by whatever they have in common.
    fn form(&self, founding: &Founding<'_>, seats: Seats, places: Places) -> Result<Box<dyn Backend>> {
        let Founding { rank, numbers, communicator, .. } = *founding;
        let sharing = Topology::of_hosts(numbers.iter().map(|&number| self.sharing.host(number)));
        let world = self.world();
        let Some(levels) = Levels::of(&sharing, numbers.len(), rank) else {
            return Ok(match &self.memory {
                Some(memory) if sharing.world().is_none() && numbers.len() > 1 => {
                    let seat = seats.inside.expect("who shares memory has a seat in it");
                    let transport = memory.transport(rank, numbers, seat, places.inside)?;
                    world.backend("shm", transport, founding)
                }
                _ => {
                    seats.inside.into_iter().for_each(ShmSeat::give_up);
                    let transport = self.sockets.transport(rank, communicator, seats.whole, places.whole)?;
                    world.backend("tcp", transport, founding)
                }
            });
        };
        let of = |ranks: &[usize]| -> Arc<[usize]> { ranks.iter().map(|&rank| numbers[rank]).collect() };
        let inside = match (&self.memory, seats.inside, levels.inside()) {
            (Some(memory), Some(seat), ranks @ [_, _, ..]) => {
                let names = of(ranks);
                let places = ranks.iter().map(|&rank| places.inside[rank]).collect();
                let transport = memory.transport(levels.place(), &names, seat, places)?;
                Some(self.part("shm", transport, communicator, &names))
            }
            (_, seat, _) => {
                seat.into_iter().for_each(ShmSeat::give_up);
                None
            }
        };
        let across = match levels.across() {
            Some(ranks) => {
                let addresses = ranks.iter().map(|&rank| places.across[rank]).collect();
                let transport =
                    self.sockets.transport(levels.host(), communicator, seats.across, addresses)?;
                Some(self.part("tcp", transport, communicator, &of(&ranks)))
            }
            None => None,
        };
        let transport = self.sockets.transport(rank, communicator, seats.whole, places.whole)?;
        let whole = self.part("tcp", transport, communicator, numbers);
        let hosts = Topology::of_hosts(numbers.iter().map(|&number| world.topology.host(number)));
        Ok(Box::new(Hierarchical::new(HierarchicalSetup {
            rank,
            numbers: Arc::clone(numbers),
            levels,
            topology: sharing.hash() ^ hosts.hash().rotate_left(16),
            generation: world.generation,
            communicator,
            poison: Arc::clone(&world.poison),
            report: Box::new(world.report()),
            tracer: world.tracer.clone(),
            inside,
            across,
            whole,
        })))
    }
}

impl Kind for Neighbours {
    fn offer(&self, world: usize) -> Result<(Box<dyn Any>, [u8; OFFER])> {
        let (whole, address) = self.sockets.listen()?;
        let (across, other) = self.sockets.listen()?;
        let inside =
            self.memory.as_ref().map(|memory| ShmSeat::new(&memory.ground, world.min(self.together())));
        let inside = inside.transpose()?;
        let mut offer = encode(address);
        offer[PORT].copy_from_slice(&other.port().to_le_bytes());
        offer[MEMORY].copy_from_slice(&inside.as_ref().map_or(0, ShmSeat::offset).to_le_bytes());
        Ok((Box::new(Seats { inside, across, whole }), offer))
    }

    fn found(
        &self,
        brought: Box<dyn Any>,
        founding: &Founding<'_>,
    ) -> Result<(Box<dyn Backend>, Arc<dyn Kind>)> {
        let seats = brought.downcast::<Seats>().expect("seats are what was offered");
        let port = |offer: &[u8; OFFER]| u16::from_le_bytes(std::array::from_fn(|i| offer[PORT.start + i]));
        let inside =
            |offer: &[u8; OFFER]| u64::from_le_bytes(std::array::from_fn(|i| offer[MEMORY.start + i]));
        let whole: Vec<SocketAddr> = founding.offers.iter().map(decode).collect();
        let across = founding.offers.iter().zip(&whole);
        let across = across.map(|(offer, address)| {
            let mut address = *address;
            address.set_port(port(offer));
            address
        });
        let places =
            Places { inside: founding.offers.iter().map(inside).collect(), across: across.collect(), whole };
        let backend = self.form(founding, *seats, places)?;
        let kind: Arc<dyn Kind> = match (backend.name(), &self.memory) {
            ("shm", Some(memory)) => Arc::new(memory.clone()),
            ("tcp", _) => Arc::new(self.sockets.clone()),
            _ => Arc::new(self.clone()),
        };
        Ok((backend, kind))
    }

    fn host(&self, number: usize) -> usize {
        self.world().topology.host(number)
    }

    fn reporter(&self) -> Option<&Reporter> {
        Some(&self.world().reporter)
    }

    fn ground(&self) -> Option<&Arc<Ground>> {
        self.memory.as_ref().map(|memory| &memory.ground)
    }
}
