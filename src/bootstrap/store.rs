//! The store as an exchange, and where it listens.

use super::interface;
use crate::error::{Error, ErrorKind, Result};
use crate::transport::Exchange;
use crate::transport::control::{ControlLink, Ear, Server, ServerConfig};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::time::{Duration, Instant};

/// How long to wait for a port that is taken: an attempt before this one may be about to let go of it.
const PORT_PATIENCE: Duration = Duration::from_secs(2);

/// The all-gather that a store offers.
#[derive(Debug)]
pub struct StoreExchange<'a>(&'a ControlLink);

impl<'a> StoreExchange<'a> {
    /// The exchange over this link.
    pub fn new(link: &'a ControlLink) -> Self {
        StoreExchange(link)
    }
}

impl Exchange for StoreExchange<'_> {
    fn rank(&self) -> usize {
        self.0.rank()
    }

    fn world(&self) -> usize {
        self.0.world()
    }

    fn all_gather(&mut self, message: &[u8], timeout: Duration) -> Result<Vec<Vec<u8>>> {
        self.0.all_gather(message, timeout)
    }
}

/// Starts a store for a launcher whose ranks are all on this host, on a free port of loopback. The launcher gives
/// its address to them as [`STORE`](crate::config::environment::STORE), and says with
/// [`STORE_HOST`](crate::config::environment::STORE_HOST) that it hosts it.
///
/// # Errors
/// As [`Server::start`].
pub fn host_for_launch(
    world: usize,
    world_id: u64,
    generation: u32,
    heartbeat_deadline: Duration,
) -> Result<Server> {
    host_and_hear(world, world_id, generation, heartbeat_deadline, None)
}

/// The same for a launcher that wants to hear what ranks tell of their work.
///
/// # Errors
/// As [`Server::start`].
pub fn host_and_hear(
    world: usize,
    world_id: u64,
    generation: u32,
    heartbeat_deadline: Duration,
    hear: Option<Ear>,
) -> Result<Server> {
    let listener = super::bind(Ipv4Addr::LOCALHOST.into())?;
    let host_rank = None;
    Server::start(listener, ServerConfig { world, world_id, generation, heartbeat_deadline, host_rank, hear })
}

/// Listens where rank 0's store has to: at the address given, or at its port on the interface given.
pub(super) fn bind(store: &str, interface: Option<&str>, until: Instant) -> Result<TcpListener> {
    let port = store.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    let addresses: Vec<SocketAddr> = match (interface, port) {
        // The name is for the others: this host may not know its own yet.
        (Some(name), Some(port)) => vec![SocketAddr::new(interface::find(name)?, port)],
        _ => store
            .to_socket_addrs()
            .map_err(|error| at_fault(store, &error, "give the name or address of rank 0's host"))?
            .collect(),
    };
    let until = until.min(Instant::now() + PORT_PATIENCE);
    loop {
        let error = match TcpListener::bind(addresses.as_slice()) {
            Ok(listener) => return Ok(listener),
            Err(error) => error,
        };
        match error.kind() {
            io::ErrorKind::AddrInUse if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(20))
            }
            io::ErrorKind::AddrInUse => {
                return Err(at_fault(store, &error, "choose a free port on the host of rank 0"));
            }
            io::ErrorKind::AddrNotAvailable => {
                let remedy =
                    "give an address of rank 0's host, or set RINGFOLD_INTERFACE on rank 0 to its interface";
                return Err(at_fault(store, &error, remedy));
            }
            _ => return Err(at_fault(store, &error, "choose another address or port")),
        }
    }
}

fn at_fault(store: &str, error: &io::Error, remedy: &str) -> Error {
    Error::new(ErrorKind::Configuration, format!("rank 0 cannot host the store at {store}: {error}"))
        .remedy(remedy)
}
