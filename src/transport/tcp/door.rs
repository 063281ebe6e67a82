//! The listener, and connections that have not said who they are.
//!
//! Anybody can connect. A connection becomes a link only by a whole and right hello within [`PATIENCE`]; at most
//! four for each rank may be unfinished, and the oldest makes room for the next. None of it disturbs the links.

use super::fault::starved;
use super::frame::{CONTROL_LIMIT, HEADER, Kind, Refusal};
use super::hello::{HELLO, Hello};
use super::incoming::drain;
use super::outgoing::{retry, send_control};
use socket2::Socket;
use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// How long a connection may take to say its hello.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long nobody is accepted after descriptors ran out.
const PAUSE: Duration = Duration::from_millis(20);

/// How long descriptors may be missing before that is a failure.
const STARVATION: Duration = Duration::from_millis(500);

/// Connections accepted in one go.
const BATCH: usize = 64;

/// See the module's documentation.
pub(super) struct Door {
    listener: Socket,
    limit: usize,
    unfinished: Vec<Unfinished>,
    /// When descriptors ran out, and when to try again.
    starved: Option<(Instant, Instant)>,
}

struct Unfinished {
    socket: Socket,
    address: SocketAddr,
    bytes: [u8; HELLO],
    filled: usize,
    until: Instant,
}

/// A connection that has said a hello.
pub(super) struct Caller {
    pub(super) hello: Hello,
    pub(super) socket: Socket,
    pub(super) address: SocketAddr,
}

impl Door {
    pub(super) fn new(listener: Socket, world: usize) -> Self {
        Door { listener, limit: 4 * world, unfinished: Vec::new(), starved: None }
    }

    /// Accepts who is waiting and listens to who has been accepted; whoever has said a hello goes to `admit`.
    pub(super) fn answer(&mut self, mut admit: impl FnMut(Caller)) {
        self.accept(&mut admit);
        if self.unfinished.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut index = 0;
        while index < self.unfinished.len() {
            match self.unfinished[index].listen() {
                Ok(Some(hello)) => {
                    let Unfinished { socket, address, .. } = self.unfinished.remove(index);
                    admit(Caller { hello, socket, address });
                }
                Ok(None) if now < self.unfinished[index].until => index += 1,
                Ok(None) => self.dismiss(index, "it said no hello in time"),
                Err(why) => self.dismiss(index, why),
            }
        }
    }

    fn accept(&mut self, admit: &mut impl FnMut(Caller)) {
        if self.starved.is_some_and(|(_, again)| Instant::now() < again) {
            return;
        }
        for _ in 0..BATCH {
            match self.listener.accept() {
                Ok((socket, address)) => {
                    self.starved = None;
                    self.greet(socket, address.as_socket(), admit);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.starved = None;
                    return;
                }
                Err(error) if starved(&error) => {
                    let now = Instant::now();
                    let since = self.starved.map_or(now, |(since, _)| since);
                    self.starved = Some((since, now + PAUSE));
                    return;
                }
                // The network's errors of a connection that is gone already, or a signal.
                Err(error) => tracing::debug!(%error, "a connection could not be accepted"),
            }
        }
    }

    fn greet(&mut self, socket: Socket, address: Option<SocketAddr>, admit: &mut impl FnMut(Caller)) {
        let Some(address) = address else { return };
        if let Err(error) = socket.set_nonblocking(true) {
            tracing::debug!(%address, %error, "a connection cannot be used");
            return;
        }
        let until = Instant::now() + PATIENCE;
        let mut new = Unfinished { socket, address, bytes: [0; HELLO], filled: 0, until };
        match new.listen() {
            Ok(Some(hello)) => admit(Caller { hello, socket: new.socket, address }),
            Ok(None) => {
                if self.unfinished.len() >= self.limit {
                    self.dismiss(0, "too many connections have said no hello");
                }
                self.unfinished.push(new);
            }
            Err(why) => tracing::debug!(%address, why, "a connection was closed"),
        }
    }

    fn dismiss(&mut self, index: usize, why: &str) {
        let Unfinished { address, .. } = self.unfinished.remove(index);
        tracing::debug!(%address, why, "a connection was closed");
    }

    /// Whether connections have been refused by the operating system for so long that it is a failure.
    pub(super) fn starves(&self) -> bool {
        self.starved.is_some_and(|(since, _)| since.elapsed() > STARVATION)
    }

    /// Calls `watch` for what should be watched for reading.
    pub(super) fn watched<'a>(&'a self, mut watch: impl FnMut(BorrowedFd<'a>)) {
        if self.starved.is_none() {
            watch(self.listener.as_fd());
        }
        self.unfinished.iter().for_each(|one| watch(one.socket.as_fd()));
    }

    /// When to answer again although nothing that is watched has moved.
    pub(super) fn until(&self) -> Option<Instant> {
        let patience = self.unfinished.first().map(|one| one.until);
        let again = self.starved.map(|(_, again)| again);
        patience.into_iter().chain(again).min()
    }
}

impl Unfinished {
    /// The hello once it is whole. Takes no byte behind it.
    fn listen(&mut self) -> Result<Option<Hello>, &'static str> {
        while self.filled < HELLO {
            match retry(|| (&self.socket).read(&mut self.bytes[self.filled..])) {
                Ok(0) => return Err("it ended before its hello"),
                Ok(read) => self.filled += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return Err("it broke before its hello"),
            }
        }
        Hello::decode(&self.bytes[..self.filled]).map_err(|_| "its first bytes are no hello")
    }
}

impl Caller {
    /// Tells the caller why it is not accepted, and closes.
    pub(super) fn refuse(self, why: Refusal) {
        tracing::debug!(address = %self.address, why = why.as_str(), "a link was refused");
        let (_, mut back) = self.hello.keys();
        send_control(&self.socket, &mut back, Kind::Refused, &[why as u8]);
        let _ = self.socket.shutdown(Shutdown::Write);
        drain(&self.socket, &mut [0; HEADER + CONTROL_LIMIT]);
    }
}
