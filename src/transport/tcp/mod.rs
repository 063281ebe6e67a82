//! Ranks that are reached by TCP.
//!
//! A link is a connection that a rank makes when it first has something to send to a peer on a channel. The peer answers
//! on the same link, unless it has begun at the same time: then there are two, until one of the ranks moves over to
//! the other's. Beside payload, links carry control frames: causes, goodbyes and refusals.
//!
//! Everything happens in calls of the one thread that owns the [`TcpTransport`], on non-blocking sockets. It
//! sleeps in one place, [`wait`](Transport::wait), from which the group's [`Poison`] wakes it through an eventfd.
//!
//! | file | subject |
//! |---|---|
//! | `hello`, `frame` | the wire: pure, and tried with random bytes |
//! | `line` | which link carries what, between two ranks on one channel |
//! | `link` | a connection, seen from either end; its halves are `outgoing` and `incoming` |
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
mod line;
mod link;
mod outgoing;
mod wait;

use super::{Channel, Direction, Interest, LinkFault, Links, Transport};
use crate::error::{Cause, CauseKind, Error, Result};
use crate::observe::{Poison, Time, Waker};
use door::{Caller, Door};
use fault::{End, NO_DESCRIPTOR};
use frame::{CONTROL_LIMIT, Kind, Refusal, encode_cause};
use hello::{Hello, VERSION};
use line::Line;
use nix::sys::eventfd::{EfdFlags, EventFd};
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

/// What a rank of a group listens with and is woken by: all that the system may refuse to a [`TcpTransport`], to be had
/// before anybody counts on it.
#[derive(Debug)]
pub struct Seat {
    listener: TcpListener,
    wake: EventFd,
}

impl Seat {
    /// The seat of a rank that listens there.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) where the operating system refuses an eventfd or the listener.
    pub fn new(listener: TcpListener) -> Result<Seat> {
        listener.set_nonblocking(true).map_err(|e| Error::io("making the listener non-blocking", e))?;
        let wake = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)
            .map_err(|e| Error::io("making an eventfd", e))?;
        Ok(Seat { listener, wake })
    }
}

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
    pub seat: Seat,
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
            .field("seat", &self.seat)
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
    pid: u32,
    origin: Instant,
    poison: Arc<Poison>,
    report: Box<dyn Fn(&Cause) + Send>,
    spins: u32,
    /// By peer; few channels, so a list each.
    lines: Vec<Vec<Line>>,
    door: Door,
    wake: Arc<EventFd>,
    sleeper: Sleeper,
    /// How many bytes were given to the kernel, on whatever link; wraps.
    place: usize,
    /// What links have told of a failure, and when the first did.
    heard: Option<(Cause, Instant)>,
    /// When a link of that peer first ended.
    ended: Vec<Option<Instant>>,
    links: Links,
}

impl TcpTransport {
    /// A transport without links yet.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where the rank, the world and the addresses do not
    /// fit each other.
    pub fn new(setup: TcpSetup) -> Result<TcpTransport> {
        let TcpSetup { rank, world, generation, world_id, communicator, seat, peers, .. } = setup;
        if rank >= world || peers.len() != world {
            let addresses = peers.len();
            return Err(Error::invalid(format!("rank {rank} of {world} with {addresses} addresses")));
        }
        let number = u32::try_from(world).map_err(|_| Error::invalid(format!("a world of {world}")))?;
        let wake = Arc::new(seat.wake);
        let sleeper = Arc::downgrade(&wake);
        setup.poison.on_set(move || {
            let Some(wake) = sleeper.upgrade() else { return false };
            // It can only fail where it is full of wakes already.
            let _ = wake.write(1);
            true
        });
        Ok(TcpTransport {
            pid: std::process::id(),
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
            lines: (0..world).map(|_| Vec::new()).collect(),
            door: Door::new(seat.listener.into(), world),
            wake,
            sleeper: Sleeper::default(),
            place: 0,
            heard: None,
            ended: vec![None; world],
            links: Links::default(),
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
        let TcpTransport { door, lines, own, peers, links, .. } = self;
        door.answer(|caller: Caller| {
            if let Err(why) = caller.hello.check(own) {
                return caller.refuse(why);
            }
            let peer = caller.hello.from as usize;
            let end = End { peer, address: peers[peer] };
            let line = line(&mut lines[peer], caller.hello.channel, end, own.from as usize);
            if !line.takes() {
                return caller.refuse(Refusal::Duplicate);
            }
            line.take(End { peer, address: caller.address }, &caller.hello, caller.socket);
            if !line.takes() {
                tracing::debug!(rank = own.from, peer, address = %caller.address, "a peer has connected");
                links.made += 1;
            }
        });
    }

    /// The line to a peer, made where there is none.
    fn line(&mut self, peer: usize, channel: Channel) -> &mut Line {
        let end = self.end(peer);
        line(&mut self.lines[peer], channel, end, self.own.from as usize)
    }

    fn find(&mut self, peer: usize, channel: Channel) -> Option<&mut Line> {
        self.lines[peer].iter_mut().find(|line| line.channel == channel)
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
        if ended && self.ended[peer].is_none() {
            self.links.lost += 1;
            let (rank, address) = (self.own.from, self.peers[peer]);
            tracing::debug!(rank, peer, %address, "a connection has ended");
            self.ended[peer] = Some(Instant::now());
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
        let line = self.lines[peer].iter().find(|line| line.channel == channel);
        match direction {
            Direction::Send => line.and_then(Line::sending).is_none_or(|link| link.failed()),
            Direction::Receive => line.is_some_and(Line::ready),
        }
    }

    /// Notes on which lines payload is waited for.
    fn want(&mut self, interests: &[Interest], wanted: bool) {
        for interest in interests.iter().filter(|interest| interest.direction == Direction::Receive) {
            if let Some(line) = self.find(interest.peer, interest.channel) {
                line.wanted = wanted;
            }
        }
    }

    /// Whether it is settled on which link this peer sends on this channel.
    fn joined(&self, peer: usize, channel: Channel) -> bool {
        self.lines[peer].iter().any(|line| line.channel == channel && !line.expects())
    }

    /// How long to sleep at most: until `until`, or until something is due here.
    fn limit(&self, interests: &[Interest], until: Time) -> Option<Duration> {
        let caller = match until {
            Time::NEVER => None,
            _ => Some(until.since(self.now())),
        };
        let heard = self.heard.as_ref().map(|(_, since)| *since + HEARSAY);
        let stragglers = interests.iter().filter(|interest| {
            interest.direction == Direction::Receive && !self.joined(interest.peer, interest.channel)
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
        if self.find(to, channel).is_none() {
            // Perhaps the peer has called already.
            self.answer();
            self.line(to, channel);
        }
        let TcpTransport { lines, own, place, links, peers, .. } = self;
        let line = lines[to].iter_mut().find(|line| line.channel == channel).expect("made above");
        let had = line.has_made();
        let sent = line.send(&Hello { to: to as u32, ..*own }, data, place);
        if !had && line.has_made() {
            tracing::debug!(rank = own.from, peer = to, address = %peers[to], "connects to a peer");
            links.made += 1;
        }
        if sent.is_err() {
            let (told, ended) = line.told();
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
        let mut failed = None;
        if let Some(line) = self.find(from, channel) {
            let received = line.recv(into);
            let expects = line.expects();
            if received.is_err() || line.has_told() {
                let patient = line.awaits_a_straggler();
                let (told, ended) = line.told();
                self.hear(from, told, ended);
                match received {
                    // What it had to say may be on a link of its own, which is at the door or on its way.
                    Err(fault) if expects => failed = (!patient).then_some(fault),
                    received => return received,
                }
            } else if received != Ok(0) || !expects {
                return received;
            }
        }
        self.answer();
        match (self.find(from, channel), failed) {
            (Some(line), _) if !line.expects() => line.recv(into),
            (_, Some(fault)) => Err(fault),
            _ => self.missing(from),
        }
    }

    fn wait(&mut self, interests: &[Interest], until: Time) {
        if self.poison.is_set() || interests.iter().any(|interest| self.ready(interest)) {
            return;
        }
        let limit = self.limit(interests, until);
        self.want(interests, true);
        let mut watch = self.sleeper.watch();
        watch.add(self.wake.as_fd(), true, false, Role::Wake);
        self.door.watched(|descriptor| watch.add(descriptor, true, false, Role::Door));
        for &Interest { peer, channel, direction } in interests {
            for (index, line) in self.lines[peer].iter().enumerate() {
                let role = Role::Line { peer, index };
                match (direction, line.channel == channel) {
                    (Direction::Send, true) => {
                        // Where payload is waited for too, its receiver looks at the socket.
                        let listens = !line.wanted;
                        line.sending()
                            .inspect(|link| watch.add(link.fd(), listens && link.listens(), true, role));
                    }
                    (Direction::Receive, true) => {
                        line.receiving().inspect(|link| watch.add(link.fd(), true, false, Role::Plain));
                    }
                    // That the peer has left may be heard on other channels only.
                    (Direction::Receive, false) if !self.joined(peer, channel) => {
                        let live = line.links().filter(|link| !link.failed());
                        live.for_each(|link| watch.add(link.fd(), link.listens(), false, role));
                    }
                    _ => {}
                }
            }
        }
        self.sleeper.sleep(watch, limit);
        let mut knocked = self.door.until().is_some();
        while let Some(role) = self.sleeper.awake() {
            match role {
                Role::Door => knocked = true,
                // A group that has failed is awake for ever; any other has been woken for once.
                Role::Wake if !self.poison.is_set() => drop(self.wake.read()),
                Role::Line { peer, index } => {
                    let line = &mut self.lines[peer][index];
                    line.listen();
                    let (told, ended) = line.told();
                    self.hear(peer, told, ended);
                }
                Role::Plain | Role::Wake => {}
            }
        }
        self.want(interests, false);
        if knocked {
            self.answer();
        }
    }

    fn waker(&self) -> Waker {
        let wake = Arc::clone(&self.wake);
        Arc::new(move || {
            // It can only fail where it is full of wakes already.
            let _ = wake.write(1);
        })
    }

    fn now(&self) -> Time {
        Time::default().after(self.origin.elapsed())
    }

    fn spins(&self) -> u32 {
        self.spins
    }

    fn links(&self) -> Links {
        self.links
    }

    fn report(&mut self, cause: &Cause) {
        (self.report)(cause);
        let mut payload = [0; CONTROL_LIMIT];
        let length = encode_cause(cause, &mut payload);
        let payload = &payload[..length];
        let links = self.lines.iter_mut().flatten().flat_map(Line::links_mut);
        links.for_each(|link| link.tell(Kind::Cause, payload));
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
        // A process that was forked off only closes its copies.
        if self.pid != std::process::id() {
            return;
        }
        // A panic is no good order: peers see the bare end.
        let goodbye = !std::thread::panicking();
        if goodbye {
            // Whoever has connected and not been needed shall hear it too.
            self.answer();
        }
        self.lines.drain(..).flatten().for_each(|line| line.close(goodbye));
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

/// The line on a channel, made where there is none.
fn line(lines: &mut Vec<Line>, channel: Channel, end: End, own: usize) -> &mut Line {
    let index = lines.iter().position(|line| line.channel == channel).unwrap_or_else(|| {
        lines.push(Line::new(channel, end, own));
        lines.len() - 1
    });
    &mut lines[index]
}

/// Keeps the one that counts.
fn remember(told: &mut Option<Cause>, cause: Cause) {
    *told = Some(match told.take() {
        Some(known) => known.merge(cause),
        None => cause,
    });
}
