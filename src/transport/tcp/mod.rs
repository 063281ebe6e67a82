//! Ranks that are reached by TCP.
//!
//! A link is a connection that carries payload one way: from the rank that made it, when it first had something to
//! send to that peer on that channel, to the rank that accepted it. Two ranks that begin at once thus make two
//! links, and there is no race to settle. The other way of the connection carries control frames only: causes,
//! goodbyes and refusals.
//!
//! Everything happens in calls of the one thread that owns the [`TcpTransport`], on non-blocking sockets. It
//! sleeps in one place, [`wait`](Transport::wait), from which the group's [`Poison`] wakes it through an eventfd.
//!
//! | file | subject |
//! |---|---|
//! | `hello`, `frame` | the wire: pure, and tried with random bytes |
//! | `outgoing`, `incoming` | a link, seen from either end |
//! | `door` | the listener and whoever has not said a hello |
//! | `wait` | poll |
//! | `fault` | what an error of the system means |

mod door;
mod fault;
#[doc(hidden)]
pub mod frame;
#[doc(hidden)]
pub mod hello;
mod incoming;
mod outgoing;
mod wait;

use super::{Channel, Direction, Interest, LinkFault, Transport};
use crate::error::{Cause, CauseKind, Error, Result};
use crate::observe::{Poison, Time};
use door::{Caller, Door};
use fault::{End, NO_DESCRIPTOR};
use frame::{CONTROL_LIMIT, Kind, Refusal, encode_cause};
use hello::{Hello, VERSION};
use incoming::Incoming;
use nix::sys::eventfd::{EfdFlags, EventFd};
use outgoing::Outgoing;
use std::fmt;
use std::io::IoSlice;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wait::{Role, Sleeper};

/// How long a cause that came by a link waits for the group's verdict before it counts as one: longer than the store
/// collects reports, deadlines included.
const HEARSAY: Duration = Duration::from_millis(400);

/// How long a link of a peer that has left may still be on its way.
const STRAGGLER: Duration = Duration::from_secs(1);

/// What a [`TcpTransport`] is made of.
pub struct TcpSetup {
    /// This rank.
    pub rank: usize,
    /// The number of ranks.
    pub world: usize,
    /// The generation of the group: links of another one are refused.
    pub generation: u32,
    /// A number drawn when the world was formed: links of another one are refused.
    pub world_id: u64,
    /// The communicator within the world: links of another one are refused.
    pub communicator: u32,
    /// Where this rank's peers connect to; its address is already known to them.
    pub listener: TcpListener,
    /// Where the listeners of all ranks are, by rank. All of them are bound already.
    pub peers: Vec<SocketAddr>,
    /// The failure of the group, set by the control plane or an abort; wakes a rank from its wait.
    pub poison: Arc<Poison>,
    /// Tells the control plane of a cause. Must not block.
    pub report: Box<dyn Fn(&Cause) + Send>,
    /// What [`spins`](Transport::spins) answers.
    pub spins: u32,
}

impl fmt::Debug for TcpSetup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpSetup")
            .field("rank", &self.rank)
            .field("world", &self.world)
            .field("generation", &self.generation)
            .field("communicator", &self.communicator)
            .field("listener", &self.listener)
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}

/// One rank's end of a world over TCP. Send; all its work is done in its owner's calls, none of which but
/// [`wait`](Transport::wait) blocks.
///
/// Dropping it says goodbye on its links and closes them. What [`try_send`](Transport::try_send) has taken still
/// reaches a peer that is there to read it.
pub struct TcpTransport {
    /// What this rank says of itself; `from` and `to` are both its own rank.
    own: Hello,
    peers: Vec<SocketAddr>,
    origin: Instant,
    poison: Arc<Poison>,
    report: Box<dyn Fn(&Cause) + Send>,
    spins: u32,
    /// Links by peer; few channels, so a list each.
    outgoing: Vec<Vec<Outgoing>>,
    incoming: Vec<Vec<Incoming>>,
    door: Door,
    wake: Arc<EventFd>,
    sleeper: Sleeper,
    /// How many bytes were given to the kernel, on whatever link; wraps.
    place: usize,
    /// What links have told of a failure, and when the first did.
    heard: Option<(Cause, Instant)>,
    /// When a link of that peer first ended.
    ended: Vec<Option<Instant>>,
}

impl TcpTransport {
    /// A transport without links yet.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where the rank, the world and the addresses do not
    /// fit each other, [`Io`](crate::ErrorKind::Io) where the operating system refuses an eventfd or the listener.
    pub fn new(setup: TcpSetup) -> Result<TcpTransport> {
        let TcpSetup { rank, world, generation, world_id, communicator, listener, peers, .. } = setup;
        if rank >= world || peers.len() != world {
            let addresses = peers.len();
            return Err(Error::invalid(format!("rank {rank} of {world} with {addresses} addresses")));
        }
        let number = u32::try_from(world).map_err(|_| Error::invalid(format!("a world of {world}")))?;
        listener.set_nonblocking(true).map_err(|e| Error::io("making the listener non-blocking", e))?;
        let wake = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)
            .map_err(|e| Error::io("making an eventfd", e))?;
        let wake = Arc::new(wake);
        let sleeper = Arc::downgrade(&wake);
        setup.poison.on_set(move || {
            if let Some(wake) = sleeper.upgrade() {
                // It can only fail where it is full of wakes already.
                let _ = wake.write(1);
            }
        });
        Ok(TcpTransport {
            own: Hello {
                oldest: VERSION,
                newest: VERSION,
                channel: Channel(0),
                world_id,
                generation,
                communicator,
                from: rank as u32,
                to: rank as u32,
                world: number,
            },
            peers,
            origin: Instant::now(),
            poison: setup.poison,
            report: setup.report,
            spins: setup.spins,
            outgoing: (0..world).map(|_| Vec::new()).collect(),
            incoming: (0..world).map(|_| Vec::new()).collect(),
            door: Door::new(listener.into(), world),
            wake,
            sleeper: Sleeper::default(),
            place: 0,
            heard: None,
            ended: vec![None; world],
        })
    }

    fn end(&self, peer: usize) -> End {
        End { peer, address: self.peers[peer] }
    }

    fn known(&self, peer: usize) -> std::result::Result<(), LinkFault> {
        if peer < self.peers.len() {
            return Ok(());
        }
        let detail = format!("there is no rank {peer} in a world of {}", self.peers.len());
        Err(LinkFault { peer, kind: CauseKind::Unreachable, detail })
    }

    /// Lets in who is at the door.
    fn answer(&mut self) {
        let TcpTransport { door, incoming, own, .. } = self;
        door.answer(|caller: Caller| {
            let links = match caller.hello.check(own) {
                Ok(()) => &mut incoming[caller.hello.from as usize],
                Err(why) => return caller.refuse(why),
            };
            if links.iter().any(|link| link.channel == caller.hello.channel) {
                return caller.refuse(Refusal::Duplicate);
            }
            let end = End { peer: caller.hello.from as usize, address: caller.address };
            links.push(Incoming::new(end, &caller.hello, caller.socket));
        });
    }

    /// What a link without a connection means.
    #[cold]
    fn missing(&self, from: usize) -> std::result::Result<usize, LinkFault> {
        if self.door.starves() {
            return Err(self.end(from).fault(CauseKind::Unreachable, format_args!("waits: {NO_DESCRIPTOR}")));
        }
        match self.ended[from] {
            Some(since) if since.elapsed() > STRAGGLER => Err(self.end(from).left()),
            _ => Ok(0),
        }
    }

    /// Passes on what a link has told.
    #[cold]
    fn hear(&mut self, peer: usize, told: Option<Cause>, ended: bool) {
        if ended {
            self.ended[peer].get_or_insert_with(Instant::now);
        }
        let Some(cause) = told else { return };
        if self.heard.as_ref().is_some_and(|(known, _)| *known == cause) {
            return;
        }
        (self.report)(&cause);
        self.heard = Some(match self.heard.take() {
            Some((known, since)) => (known.merge(cause), since),
            None => (cause, Instant::now()),
        });
    }

    /// Whether there is something to do for it without sleeping.
    fn ready(&self, interest: &Interest) -> bool {
        let Interest { peer, channel, direction } = *interest;
        if peer >= self.peers.len() {
            return true;
        }
        match direction {
            Direction::Send => match self.outgoing[peer].iter().find(|link| link.channel == channel) {
                Some(link) => link.failed(),
                None => true,
            },
            Direction::Receive => match self.incoming[peer].iter().find(|link| link.channel == channel) {
                Some(link) => link.ready(),
                None => false,
            },
        }
    }

    /// How long to sleep at most: until `until`, or until something is due here.
    fn limit(&self, interests: &[Interest], until: Time) -> Option<Duration> {
        let caller = match until {
            Time::NEVER => None,
            _ => Some(until.since(self.now())),
        };
        let heard = self.heard.as_ref().map(|(_, since)| *since + HEARSAY);
        let stragglers = interests.iter().filter(|interest| {
            let links = &self.incoming[interest.peer];
            interest.direction == Direction::Receive
                && !links.iter().any(|link| link.channel == interest.channel)
        });
        let stragglers = stragglers.filter_map(|interest| Some(self.ended[interest.peer]? + STRAGGLER));
        let due = stragglers.chain(self.door.until()).chain(heard).min();
        let own = due.map(|due| due.saturating_duration_since(Instant::now()));
        match (caller, own) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }
}

impl Transport for TcpTransport {
    fn rank(&self) -> usize {
        self.own.from as usize
    }

    fn world(&self) -> usize {
        self.peers.len()
    }

    fn try_send(
        &mut self,
        to: usize,
        channel: Channel,
        data: &[IoSlice<'_>],
    ) -> std::result::Result<usize, LinkFault> {
        self.known(to)?;
        let links = &mut self.outgoing[to];
        let index = match links.iter().position(|link| link.channel == channel) {
            Some(index) => index,
            None => {
                let hello = Hello { to: to as u32, channel, ..self.own };
                links.push(Outgoing::connect(End { peer: to, address: self.peers[to] }, &hello)?);
                links.len() - 1
            }
        };
        let link = &mut links[index];
        let sent = link.send(data, &mut self.place);
        if sent.is_err() {
            let (told, ended) = (link.told.take(), link.failed());
            self.hear(to, told, ended);
        }
        sent
    }

    fn try_recv(
        &mut self,
        from: usize,
        channel: Channel,
        into: &mut [u8],
    ) -> std::result::Result<usize, LinkFault> {
        self.known(from)?;
        let find = |links: &[Incoming]| links.iter().position(|link| link.channel == channel);
        let mut index = find(&self.incoming[from]);
        if index.is_none() {
            self.answer();
            index = find(&self.incoming[from]);
        }
        let Some(index) = index else { return self.missing(from) };
        let link = &mut self.incoming[from][index];
        let received = link.recv(into);
        if received.is_err() || link.told.is_some() {
            let (told, ended) = (link.told.take(), received.is_err());
            self.hear(from, told, ended);
        }
        received
    }

    fn wait(&mut self, interests: &[Interest], until: Time) {
        if self.poison.is_set() || interests.iter().any(|interest| self.ready(interest)) {
            return;
        }
        let limit = self.limit(interests, until);
        let mut watch = self.sleeper.watch();
        watch.add(self.wake.as_fd(), false, Role::Plain);
        self.door.watched(|descriptor| watch.add(descriptor, false, Role::Door));
        for interest in interests {
            let sends = interest.direction == Direction::Send;
            let incoming = self.incoming[interest.peer].iter().find(|link| link.channel == interest.channel);
            match incoming {
                Some(link) if !sends => watch.add(link.fd(), false, Role::Plain),
                _ => {
                    // A receiver without a link looks at what comes back on those the other way.
                    for (index, link) in self.outgoing[interest.peer].iter().enumerate() {
                        if !link.failed() && (!sends || link.channel == interest.channel) {
                            watch.add(link.fd(), sends, Role::Back { peer: interest.peer, index });
                        }
                    }
                }
            }
        }
        self.sleeper.sleep(watch, limit);
        let mut knocked = self.door.until().is_some();
        while let Some(role) = self.sleeper.awake() {
            match role {
                Role::Door => knocked = true,
                Role::Back { peer, index } => {
                    let link = &mut self.outgoing[peer][index];
                    link.listen();
                    let (told, ended) = (link.told.take(), link.failed());
                    self.hear(peer, told, ended);
                }
                Role::Plain => {}
            }
        }
        if knocked {
            self.answer();
        }
    }

    fn now(&self) -> Time {
        Time::default().after(self.origin.elapsed())
    }

    fn spins(&self) -> u32 {
        self.spins
    }

    fn report(&mut self, cause: &Cause) {
        (self.report)(cause);
        let mut payload = [0; CONTROL_LIMIT];
        let length = encode_cause(cause, &mut payload);
        let payload = &payload[..length];
        self.outgoing.iter_mut().flatten().for_each(|link| link.tell(Kind::Cause, payload));
        self.incoming.iter_mut().flatten().for_each(|link| link.tell(Kind::Cause, payload));
    }

    fn verdict(&self) -> Option<Cause> {
        if let Some(cause) = self.poison.cause() {
            return Some(cause.clone());
        }
        let (cause, since) = self.heard.as_ref()?;
        (since.elapsed() >= HEARSAY).then(|| cause.clone())
    }
}

impl Drop for TcpTransport {
    fn drop(&mut self) {
        // A panic is no good order: peers see the bare end.
        let goodbye = !std::thread::panicking();
        if goodbye {
            // Whoever has connected and not been needed shall hear it too.
            self.answer();
        }
        self.outgoing.drain(..).flatten().for_each(|link| link.close(goodbye));
        self.incoming.drain(..).flatten().for_each(|link| link.close(goodbye));
    }
}

impl fmt::Debug for TcpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpTransport")
            .field("rank", &self.own.from)
            .field("world", &self.own.world)
            .field("generation", &self.own.generation)
            .field("communicator", &self.own.communicator)
            .finish_non_exhaustive()
    }
}

/// Keeps the one that counts.
fn remember(told: &mut Option<Cause>, cause: Cause) {
    *told = Some(match told.take() {
        Some(known) => known.merge(cause),
        None => cause,
    });
}
