//! From a [`Config`] to a group whose ranks know each other.
//!
//! [`join`] finds the store (given, hosted here, noted in a shared directory, or discovered on this host under
//! `mpirun`), [`join_with`] brings its own all-gather. Either way the group then has a store that watches over it,
//! every rank has a listener for data, and everybody knows everybody's address. Every wait ends with
//! [`Config::init_deadline`].

mod callback;
mod cpus;
mod directory;
mod host;
mod interface;
mod reading;
mod record;
mod rendezvous;
mod store;

pub use callback::{CallbackExchange, Gathered};
pub use cpus::CpuSet;
pub use host::{Hosts, Shared};
pub use reading::{Landmark, Sight};
pub use record::Peer;
pub use store::{StoreExchange, host_and_hear, host_for_launch};

pub(crate) use cpus::{quota, suffice};

use crate::backend::choose::{Agreed, Ask};
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::observe::Poison;
use crate::plan::select::Table;
use crate::transport::Exchange;
use crate::transport::control::{ControlLink, Hello, LinkConfig, Server, ServerConfig, after};
use directory::{Note, Place};
use host::Sharing;
use record::Record;
use rendezvous::Announcement;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A group that has formed, as one rank holds it.
#[derive(Debug)]
pub struct Joined {
    /// This rank.
    pub rank: usize,
    /// The number of ranks.
    pub world: usize,
    /// The generation of the group.
    pub generation: u32,
    /// The launch.
    pub world_id: u64,
    /// The memory that the ranks of this host share, or why there is none. Declared before the connection to the store, and so
    /// dropped before it: who leaves in good order has left when it says goodbye.
    pub shared: std::result::Result<Shared, String>,
    /// The hosts, where there are several of which one shares memory at least; or why the group does not go by them.
    pub hosts: std::result::Result<Hosts, String>,
    /// What the ranks have agreed on.
    pub agreed: Agreed,
    /// The connection to the store. Declared before the store, and so dropped before it: its goodbye is heard.
    pub link: ControlLink,
    /// The store, where this rank hosts it.
    pub server: Option<Server>,
    /// All ranks, this one included, in rank order.
    pub peers: Vec<Peer>,
    /// Where this rank listens for data; its address is in `peers`.
    pub listener: TcpListener,
    /// The group's failure, which the link's watch thread sets.
    pub poison: Arc<Poison>,
    /// The table by which every rank chooses algorithms.
    pub table: Table,
}

/// Joins the group that the configuration describes. Blocks until all ranks are there, at most
/// [`Config::init_deadline`].
///
/// With a store given, rank 0 hosts it unless the launcher does; where that is a directory, rank 0 listens on
/// [`Config::interface`], without one on loopback, and says there where. Without a store, ranks that `mpirun` or
/// `srun` started on one host find each other by themselves, and a world of one needs nobody.
///
/// # Errors
/// [`Configuration`](ErrorKind::Configuration) where the group cannot be found with what is set;
/// [`Bootstrap`](ErrorKind::Bootstrap), naming the missing ranks, when time is up, or where the store refuses.
pub fn join(config: &Config) -> Result<Joined> {
    let (rank, world) = config.place()?;
    let until = after(config.init_deadline);
    join_place(config, rank, world, until).map_err(|e| e.at_rank(rank))
}

fn join_place(config: &Config, rank: usize, world: usize, until: Instant) -> Result<Joined> {
    let form = Form::new(config, rank, world, until)?;
    let own_id = || if config.world_id == 0 { fastrand::u64(1..) } else { config.world_id };
    if let Some(store) = &config.meeting_place() {
        if let Some(place) = Place::of(store, config.world_id, config.generation) {
            return form.meet(&place, own_id());
        }
        let server = match rank {
            0 if !config.launcher_hosts_store => {
                let listener = store::bind(store, config.interface.as_deref(), until)?;
                Some(form.serve(listener, config.world_id)?)
            }
            _ => None,
        };
        let link = match &server {
            Some(server) => form.connect(server.address(), config.world_id)?,
            None => form.connect(store, config.world_id)?,
        };
        return form.exchange_peers(link, server, config.world_id);
    }
    if world > 1 && (config.local_size != Some(world) || config.job.is_none()) {
        let known = match config.local_size {
            Some(size) if size == world => {
                "and nothing tells which of the launches on this host they belong to"
            }
            Some(_) => "not all of them on this host",
            None => "on hosts that are not known",
        };
        let text = format!("no store is given for {world} ranks, {known}");
        return Err(Error::new(ErrorKind::Configuration, text)
            .remedy("set RINGFOLD_STORE=host:port on every rank: a free port on the host of rank 0"));
    }
    if world == 1 || rank == 0 {
        let world_id = own_id();
        let server = form.serve(bind(IpAddr::V4(Ipv4Addr::LOCALHOST))?, world_id)?;
        let announcement = match &config.job {
            Some(job) if world > 1 => {
                Some(Announcement::start(job, config.generation, world, server.address(), world_id, until)?)
            }
            _ => None,
        };
        let link = form.connect(server.address(), world_id)?;
        let joined = form.exchange_peers(link, Some(server), world_id);
        drop(announcement);
        return joined;
    }
    let Some(job) = &config.job else { return Err(Error::new(ErrorKind::Configuration, "no job")) };
    let found = rendezvous::find(job, config.generation, rank, until)?;
    let link = form.connect(found.address, found.world_id)?;
    form.exchange_peers(link, None, found.world_id)
}

/// Joins by somebody else's all-gather, which is used once. Blocks as [`join`] does.
///
/// Where every rank has a [number of its attempt](Config::attempt_id), the generation is the highest of them: an engine counts
/// upwards, so that whoever is left of an attempt before belongs to an older one.
///
/// Rank 0 hosts the store, on [`Config::interface`]; without one on loopback, which serves ranks on one host.
///
/// # Errors
/// As [`join`], and whatever the exchange fails with.
pub fn join_with(exchange: &mut dyn Exchange, config: &Config) -> Result<Joined> {
    let (rank, world) = (exchange.rank(), exchange.world());
    join_by(exchange, config).map_err(|e| if rank < world { e.at_rank(rank) } else { e })
}

fn join_by(exchange: &mut dyn Exchange, config: &Config) -> Result<Joined> {
    let (rank, world) = (exchange.rank(), exchange.world());
    if rank >= world {
        return Err(Error::invalid(format!("an exchange of {world} ranks whose own rank is {rank}")));
    }
    for (what, asked, given) in [("rank", config.rank, rank), ("world size", config.world_size, world)] {
        // A process that nothing launched is rank 0 of 1 by default: that is no contradiction.
        let by_default = config.launcher == crate::config::Launcher::None && config.world_size == Some(1);
        if let Some(asked) = asked.filter(|&asked| asked != given && !by_default) {
            let text = format!("the configuration says {what} {asked}, and the exchange says {given}");
            return Err(Error::new(ErrorKind::Configuration, text));
        }
    }
    let until = after(config.init_deadline);
    let mut form = Form::new(config, rank, world, until)?;
    let ip = form.own_ip();
    let listener = ip.clone().and_then(bind);
    let own_id = if config.world_id == 0 { fastrand::u64(1..) } else { config.world_id };
    // The store is bound now and serves later: which generation it is of may follow from the exchange.
    let meeting = match ip {
        Ok(ip) if rank == 0 => Some(bind(ip)?),
        _ => None,
    };
    let mut record = form.record(&listener, own_id)?;
    record.attempt = config.attempt_id;
    record.store = meeting.as_ref().map(address_of).transpose()?;
    let messages = exchange.all_gather(&record.encode(), form.left())?;
    let expected = (config.world_id != 0).then_some(config.world_id);
    let (peers, agreed) = form.peers(&messages, expected)?;
    let listener = listener?;
    let first = messages.first().map(|m| Record::decode(m, 0)).transpose()?;
    let (Some(store), world_id) = first.map_or((None, 0), |r| (r.store, r.world_id)) else {
        return Err(Error::new(ErrorKind::Bootstrap, "rank 0 does not say where its store is"));
    };
    if let Some(generation) = record::generation(&messages)? {
        form.generation = generation;
    }
    let server = meeting.map(|listener| form.serve(listener, own_id)).transpose()?;
    let link = form.connect(store, world_id)?;
    // Nobody goes on before the store knows everybody: whoever dies from here on is noticed.
    link.all_gather(&[], form.left())?;
    form.joined(link, server, (peers, agreed), listener, world_id)
}

/// The table of a configuration.
pub(crate) fn table(config: &Config) -> Result<Table> {
    let Some(text) = &config.table else { return Ok(Table::default()) };
    text.parse().map_err(|error: Error| {
        Error::new(ErrorKind::Configuration, error.message()).remedy(error.what_to_do().unwrap_or_default())
    })
}

/// What the steps of forming a group have in common.
struct Form<'a> {
    config: &'a Config,
    rank: usize,
    world: usize,
    generation: u32,
    until: Instant,
    table: Table,
}

impl<'a> Form<'a> {
    fn new(config: &'a Config, rank: usize, world: usize, until: Instant) -> Result<Self> {
        let table = table(config)?;
        Ok(Form { config, rank, world, generation: config.generation, until, table })
    }

    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    #[inline(never)]
    fn serve(&self, listener: TcpListener, world_id: u64) -> Result<Server> {
        Server::start(
            listener,
            ServerConfig {
                world: self.world,
                world_id,
                generation: self.generation,
                heartbeat_deadline: self.config.heartbeat_deadline,
                host_rank: Some(0),
                hear: None,
            },
        )
    }

    #[inline(never)]
    fn connect(
        &self,
        address: impl std::net::ToSocketAddrs + std::fmt::Display,
        world_id: u64,
    ) -> Result<ControlLink> {
        let hello = Hello::new(self.rank, self.world, world_id, self.generation);
        let times = LinkConfig { heartbeat_deadline: self.config.heartbeat_deadline, timeout: self.left() };
        ControlLink::connect(address, hello, times, Arc::new(Poison::new()))
    }

    /// Meets the others in a directory that all ranks share.
    fn meet(&self, place: &Place, world_id: u64) -> Result<Joined> {
        if self.rank > 0 {
            let note = place.find(self.rank, self.until)?;
            return self.exchange_peers(self.connect(note.address, note.world_id)?, None, note.world_id);
        }
        let server = self.serve(bind(self.own_ip()?)?, world_id)?;
        let note = Note::here(server.address(), world_id, self.config.generation);
        let announcement = place.announce(&note, self.until)?;
        let link = self.connect(server.address(), world_id)?;
        let joined = self.exchange_peers(link, Some(server), world_id);
        drop(announcement);
        joined
    }

    /// Where to listen with no store that tells: on the interface that is asked for, else on loopback.
    fn own_ip(&self) -> Result<IpAddr> {
        self.config.interface.as_deref().map_or(Ok(Ipv4Addr::LOCALHOST.into()), interface::find)
    }

    /// What this rank tells of itself. Where it cannot listen that is told, too: so all of them have an error that says why.
    #[inline(never)]
    fn record(&self, listener: &Result<TcpListener>, world_id: u64) -> Result<Record> {
        const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        let address = listener.as_ref().map_or(Ok(NOWHERE), address_of)?;
        let (generation, ask) = (self.config.generation, Ask::of(self.config.backend, self.config));
        let record = Record::here(self.rank, self.world, generation, world_id, address, &self.table, ask);
        Ok(match listener {
            Ok(_) => record,
            Err(why) => record.deaf(why),
        })
    }

    /// Listens for data, and tells everybody where.
    #[inline(never)]
    fn exchange_peers(&self, link: ControlLink, server: Option<Server>, world_id: u64) -> Result<Joined> {
        let ip = match self.config.interface.as_deref() {
            Some(name) => interface::find(name),
            None => Ok(link.local_address()),
        };
        let listener = ip.and_then(bind);
        let record = self.record(&listener, world_id)?;
        let mut exchange = StoreExchange::new(&link);
        let messages = exchange.all_gather(&record.encode(), self.left())?;
        let known = self.peers(&messages, Some(world_id))?;
        self.joined(link, server, known, listener?, world_id)
    }

    fn peers(&self, messages: &[Vec<u8>], world_id: Option<u64>) -> Result<(Vec<Peer>, Agreed)> {
        let (peers, agreed) = record::peers(messages, self.world, self.config.generation, world_id)?;
        let several = peers.iter().any(|p| p.host_id != peers[0].host_id);
        if let Some(loopback) = peers.iter().find(|p| several && p.address.ip().is_loopback()) {
            let text = format!(
                "the ranks are on several hosts, and rank {} on {} listens on {}, which only its own host reaches",
                loopback.rank,
                loopback.host,
                loopback.address.ip()
            );
            return Err(Error::new(ErrorKind::Configuration, text).blame(loopback.rank).remedy(
                "set RINGFOLD_INTERFACE on every rank to the interface, or the address, that the others reach",
            ));
        }
        Ok((peers, agreed))
    }

    #[inline(never)]
    fn joined(
        &self,
        link: ControlLink,
        server: Option<Server>,
        (peers, agreed): (Vec<Peer>, Agreed),
        listener: TcpListener,
        world_id: u64,
    ) -> Result<Joined> {
        let Sharing { shared, hosts } = host::share(&link, self.rank, &peers, agreed, self.until)?;
        tracing::info!(rank = self.rank, world = self.world, "the group has formed");
        let poison = Arc::clone(link.poison());
        Ok(Joined {
            rank: self.rank,
            world: self.world,
            generation: self.generation,
            world_id,
            link,
            server,
            peers,
            listener,
            poison,
            table: self.table.clone(),
            shared,
            hosts,
            agreed,
        })
    }
}

fn bind(ip: IpAddr) -> Result<TcpListener> {
    TcpListener::bind((ip, 0)).map_err(|error| Error::io(format!("listening on {ip}"), error))
}

fn address_of(listener: &TcpListener) -> Result<SocketAddr> {
    listener.local_addr().map_err(|error| Error::io("asking for the listener's address", error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::environment;
    use std::thread;

    #[test]
    fn ranks_join_at_the_port_that_is_set() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server_of = |rank: &'static str| {
            let told =
                [("RANK", rank), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "29500")];
            let lookup = |name: &str| told.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into());
            let joined = join(&environment::read(lookup).unwrap().with_port(port)).unwrap();
            (joined.server.as_ref().map(|server| server.address().port()), joined)
        };
        thread::scope(|scope| {
            let other = scope.spawn(|| server_of("1"));
            assert_eq!(server_of("0").0, Some(port));
            assert_eq!(other.join().unwrap().0, None);
        });
    }
}
