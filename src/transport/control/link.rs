//! A rank's end of the control plane.

use super::MESSAGE_LIMIT;
use super::buffer::FrameBuffer;
use super::frame::{self, Frame};
use super::hello::Hello;
use super::ledger::Ledger;
use super::notice::{Bell, after};
use super::server::check_heartbeat;
use super::tell::Source;
use super::watch::Watch;
use crate::error::{Cause, Error, ErrorKind, Result};
use crate::observe::{self, Poison};
use crate::transport::prompt;
use std::collections::VecDeque;
use std::fmt::{self, Display};
use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a rank waits for the store to say who is missing.
const QUERY_PATIENCE: Duration = Duration::from_millis(500);

/// How long a goodbye may take before the caller is let go.
const GOODBYE_PATIENCE: Duration = Duration::from_millis(200);

/// How many causes may wait to be sent; more say nothing new.
const REPORT_LIMIT: usize = 16;

/// The times that a [`ControlLink`] goes by.
#[derive(Debug, Clone)]
pub struct LinkConfig {
    /// A store that sends nothing for this long, or for its own heartbeat deadline where that is longer, is
    /// unresponsive.
    pub heartbeat_deadline: Duration,
    /// How long to try to reach the store and to be welcomed.
    pub timeout: Duration,
}

/// One round of the all-gather, as far as it has come.
#[derive(Debug)]
pub(super) struct Gather {
    pub(super) round: u64,
    pub(super) parts: Vec<Option<Vec<u8>>>,
    pub(super) wanted: usize,
}

/// What callers and the watch thread share.
#[derive(Default)]
pub(super) struct State {
    pub(super) outgoing: Vec<Vec<u8>>,
    pub(super) reports: VecDeque<Cause>,
    /// What this rank tells, until it is sent.
    pub(super) told: Option<Vec<u8>>,
    /// Who makes what this rank tells.
    pub(super) source: Option<Source>,
    /// What this rank has begun in its groups.
    pub(super) ledgers: Vec<Arc<Ledger>>,
    pub(super) gather: Option<Gather>,
    /// The answer to a query: the round, who never came, who has not contributed.
    pub(super) missing: Option<(u64, Vec<u32>, Vec<u32>)>,
    pub(super) leaving: bool,
    /// The process that hosts the store has died, as this rank knows by other ways.
    pub(super) host_died: Option<Cause>,
    /// There is no connection any more.
    pub(super) cut: bool,
    /// The watch thread has ended.
    pub(super) ended: bool,
}

pub(super) struct Shared {
    pub(super) bell: Bell,
    /// Whether the store understands what ranks tell.
    pub(super) tells: bool,
    /// Whether it understands ledgers.
    pub(super) audits: bool,
    /// Whether it says who is late.
    pub(super) names_the_late: bool,
    /// The source has something new.
    pub(super) news: AtomicBool,
    pub(super) state: Mutex<State>,
    pub(super) changed: Condvar,
    pub(super) poison: Arc<Poison>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("tells", &self.tells).finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_until<'a>(&self, state: MutexGuard<'a, State>, until: Instant) -> MutexGuard<'a, State> {
        let left = until.saturating_duration_since(Instant::now());
        self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
    }
}

/// A rank's connection to the store, and the thread that watches over it. Send and Sync.
///
/// The thread sends heartbeats, takes in the verdict and notices the loss of the store; either becomes the world's
/// [`Poison`]. Dropping says goodbye, quietly, and takes 200 ms at most.
#[derive(Debug)]
pub struct ControlLink {
    shared: Arc<Shared>,
    hello: Hello,
    /// The process that made it; a fork's copy must not say goodbye.
    pid: u32,
    local: SocketAddr,
    host_rank: Option<usize>,
    /// The next round; held for as long as a round takes, so that rounds follow each other.
    round: Mutex<u64>,
}

/// Tells the store of failures, and its host of this rank's work. Cheap to clone; Send and Sync; outlives the link without
/// effect.
#[derive(Debug, Clone)]
pub struct Reporter(Arc<Shared>);

impl Reporter {
    pub(super) fn shared(&self) -> &Shared {
        &self.0
    }

    /// Hands a cause to the watch thread, which sends it. Does not wait for anything but a short lock.
    ///
    /// The answer is the group's verdict, which need not be this cause, as poison. Where the store has left in good
    /// order before, this cause is the answer.
    pub fn report(&self, cause: &Cause) {
        let mut state = self.0.lock();
        if state.cut {
            drop(state);
            self.0.poison.set(cause.clone());
            return;
        }
        if state.reports.len() < REPORT_LIMIT {
            state.reports.push_back(cause.clone());
        }
        drop(state);
        self.0.bell.ring();
    }
}

impl Reporter {
    /// A ledger of a group, which the store compares with those of the other ranks: its fingerprints name this communicator, and its ranks
    /// have these numbers in the world. It is told until its owner [leaves](Ledger::leave) the group.
    pub fn ledger(&self, communicator: u32, members: &[usize]) -> Arc<Ledger> {
        let shared = Arc::downgrade(&self.0);
        let ring = move || {
            if let Some(shared) = shared.upgrade() {
                shared.bell.ring();
            }
        };
        let ledger = Ledger::new(communicator, members, ring);
        let mut state = self.0.lock();
        if self.0.audits && !state.cut {
            state.ledgers.push(Arc::clone(&ledger));
        }
        drop(state);
        // The watch thread sleeps until something else is due.
        self.0.bell.ring();
        ledger
    }

    /// Says that the process that hosts the store has died. What the store has said before still counts: this does where
    /// that was no verdict. Does not wait for anything but a short lock.
    pub fn host_died(&self, cause: Cause) {
        let mut state = self.0.lock();
        if state.cut {
            drop(state);
            self.0.poison.set(cause);
            return;
        }
        state.host_died = Some(cause);
        drop(state);
        self.0.bell.ring();
    }
}

impl ControlLink {
    /// Connects to the store, says hello and starts the watch thread. Blocks until the store says welcome, which
    /// may not be up yet: trying again goes on for `config.timeout`.
    ///
    /// # Errors
    /// [`Bootstrap`](ErrorKind::Bootstrap) where the store cannot be reached in time, where something else answers,
    /// or where the store refuses; [`InvalidArgument`](ErrorKind::InvalidArgument) for an impossible heartbeat.
    pub fn connect(
        address: impl ToSocketAddrs + Display,
        hello: Hello,
        config: LinkConfig,
        poison: Arc<Poison>,
    ) -> Result<ControlLink> {
        check_heartbeat(config.heartbeat_deadline)?;
        let until = after(config.timeout);
        let mut inbox = FrameBuffer::default();
        let mut pause = Duration::from_millis(2);
        let (stream, (version, heartbeat, host_rank)) = loop {
            let fault = match attempt(&address, &hello, until, &mut inbox) {
                Ok(Attempt::Welcomed(stream, welcome)) => break (stream, welcome),
                Ok(Attempt::Refused(_, error)) => {
                    return Err(error.at_rank(hello.rank).in_generation(hello.generation));
                }
                Err(fault) => fault,
            };
            let now = Instant::now();
            if now >= until {
                let text = format!(
                    "rank {} of {} found no store at {address} within {:.1?}: {fault}",
                    hello.rank, hello.world, config.timeout
                );
                return Err(Error::new(ErrorKind::Bootstrap, text).at_rank(hello.rank).remedy(
                    "see whether rank 0, or the launcher, runs and listens there, and whether this host reaches it",
                ));
            }
            std::thread::sleep(pause.min(until - now));
            pause = (pause * 2).min(Duration::from_millis(100));
            inbox = FrameBuffer::default();
        };
        let local = stream.local_addr().map_err(|e| Error::io("asking for the control link's address", e))?;
        stream.set_nonblocking(true).map_err(|e| Error::io("preparing the control link", e))?;
        let shared = Arc::new(Shared {
            bell: Bell::new()?,
            tells: version >= 2,
            audits: version >= 3,
            names_the_late: version >= 4,
            news: AtomicBool::new(false),
            state: Mutex::default(),
            changed: Condvar::new(),
            poison,
        });
        let waker = Arc::downgrade(&shared);
        shared.poison.on_set(move || {
            let shared = waker.upgrade();
            shared.map(|shared| shared.bell.ring()).is_some()
        });
        let watch = Watch::new(
            stream,
            inbox,
            Arc::clone(&shared),
            &hello,
            config.heartbeat_deadline,
            heartbeat,
            host_rank,
        );
        let run = move || {
            prompt::ask();
            watch.run();
        };
        observe::thread::spawn("ringfold-watch", run)
            .map_err(|e| Error::io("starting the watch thread", e))?;
        Ok(ControlLink { shared, hello, pid: std::process::id(), local, host_rank, round: Mutex::new(0) })
    }

    /// This rank.
    pub fn rank(&self) -> usize {
        self.hello.rank
    }

    /// The number of ranks.
    pub fn world(&self) -> usize {
        self.hello.world
    }

    /// The generation of the group.
    pub fn generation(&self) -> u32 {
        self.hello.generation
    }

    /// The rank in whose process the store lives; `None` for a launcher's.
    pub fn host_rank(&self) -> Option<usize> {
        self.host_rank
    }

    /// This host's address on the way to the store: the interface that routes to it.
    pub fn local_address(&self) -> IpAddr {
        self.local.ip()
    }

    /// The poison that the verdict goes to.
    pub fn poison(&self) -> &Arc<Poison> {
        &self.shared.poison
    }

    /// A handle for telling the store of failures, and its host of this rank's work.
    pub fn reporter(&self) -> Reporter {
        Reporter(Arc::clone(&self.shared))
    }

    /// Gives every rank the messages of all, in rank order. Blocks until all have called it, at most `timeout`
    /// and another half second. Threads of one rank take turns.
    ///
    /// # Errors
    /// [`InvalidArgument`](ErrorKind::InvalidArgument) for a message beyond 64 KiB;
    /// [`Bootstrap`](ErrorKind::Bootstrap) naming the missing ranks when the time is up; the group's first failure
    /// as soon as there is one. After a timeout this rank's message stays given.
    pub fn all_gather(&self, message: &[u8], timeout: Duration) -> Result<Vec<Vec<u8>>> {
        if message.len() > MESSAGE_LIMIT {
            let text =
                format!("a message of {} bytes, and at most {MESSAGE_LIMIT} are gathered", message.len());
            return Err(Error::invalid(text).at_rank(self.hello.rank));
        }
        let until = after(timeout);
        let mut next_round = self.round.lock().unwrap_or_else(PoisonError::into_inner);
        let round = *next_round;
        self.still_good(&self.shared.lock(), round)?;
        *next_round += 1;
        let world = self.hello.world;
        let mut state = self.shared.lock();
        state.gather = Some(Gather { round, parts: vec![None; world], wanted: world });
        state.outgoing.push(frame::encode(&Frame::Contribute { round, message: message.to_vec() }));
        self.shared.bell.ring();
        state.missing = None;
        loop {
            if state.gather.as_ref().is_some_and(|g| g.wanted == 0) {
                let parts = state.gather.take().map(|g| g.parts).unwrap_or_default();
                return Ok(parts.into_iter().flatten().collect());
            }
            if let Err(error) = self.still_good(&state, round) {
                state.gather = None;
                // A host that gives up says before it leaves whom it has waited for.
                let told = state.missing.take().filter(|_| error.kind() == ErrorKind::Closed);
                return Err(told.map_or(error, |(_, absent, silent)| {
                    self.not_all_came("before rank 0, which hosts the store, gave up", Some((absent, silent)))
                }));
            }
            if Instant::now() >= until {
                state.gather = None;
                let known = self.ask_who_is_missing(state, round);
                return Err(self.not_all_came(&format!("within {timeout:.1?}"), known));
            }
            state = self.shared.wait_until(state, until);
        }
    }

    fn still_good(&self, state: &State, round: u64) -> Result<()> {
        if let Some(cause) = self.shared.poison.cause() {
            return Err(cause.to_error(self.hello.rank, "all_gather", round));
        }
        if state.cut || state.leaving {
            let text = if state.leaving { "this rank has said goodbye" } else { "the store has left" };
            return Err(Error::new(ErrorKind::Closed, text)
                .at_rank(self.hello.rank)
                .in_generation(self.hello.generation));
        }
        Ok(())
    }

    fn ask_who_is_missing(
        &self,
        mut state: MutexGuard<'_, State>,
        round: u64,
    ) -> Option<(Vec<u32>, Vec<u32>)> {
        let until = Instant::now() + QUERY_PATIENCE;
        state.outgoing.push(frame::encode(&Frame::Query { round }));
        self.shared.bell.ring();
        loop {
            if let Some((answered, absent, silent)) = state.missing.take()
                && answered == round
            {
                return Some((absent, silent));
            }
            if Instant::now() >= until || self.still_good(&state, round).is_err() {
                return None;
            }
            state = self.shared.wait_until(state, until);
        }
    }

    /// The error that names those who never connected and those who have not contributed.
    fn not_all_came(&self, when: &str, known: Option<(Vec<u32>, Vec<u32>)>) -> Error {
        let mut story = Vec::new();
        let mut first = None;
        if let Some((absent, silent)) = known {
            first = absent.iter().chain(&silent).min().copied();
            for (ranks, what) in
                [(absent, "never connected"), (silent, "connected and did not come to the exchange")]
            {
                if !ranks.is_empty() {
                    story.push(format!("{} {what}", list(&ranks)));
                }
            }
            if story.is_empty() {
                story.push("the last one came just now".into());
            }
        } else {
            story.push("the store does not say who is missing".into());
        }
        let text = format!("not all of the {} ranks came {when}: {}", self.hello.world, story.join("; "));
        let error = Error::new(ErrorKind::Bootstrap, text)
            .at_rank(self.hello.rank)
            .in_generation(self.hello.generation)
            .remedy("see what became of the ranks named, or raise RINGFOLD_INIT_DEADLINE");
        match first {
            Some(rank) => error.blame(rank as usize),
            None => error,
        }
    }

    /// Says goodbye: from here on the end of this process is no failure. Blocks until the store has heard it, at
    /// most 200 ms. Saying it again does nothing.
    pub fn goodbye(&self) {
        if self.pid != std::process::id() {
            return;
        }
        let until = Instant::now() + GOODBYE_PATIENCE;
        let mut state = self.shared.lock();
        state.leaving = true;
        self.shared.bell.ring();
        while !state.ended && Instant::now() < until {
            state = self.shared.wait_until(state, until);
        }
    }
}

impl Drop for ControlLink {
    fn drop(&mut self) {
        self.goodbye();
    }
}

/// "rank 3", "ranks 1, 2 and 5", and so on, at most some twenty of them.
fn list(ranks: &[u32]) -> String {
    const SHOWN: usize = 20;
    match ranks {
        [] => "no rank".into(),
        [only] => format!("rank {only}"),
        [many @ .., last] if ranks.len() <= SHOWN => {
            let many: Vec<String> = many.iter().map(u32::to_string).collect();
            format!("ranks {} and {last}", many.join(", "))
        }
        _ => {
            let shown: Vec<String> = ranks[..SHOWN].iter().map(u32::to_string).collect();
            format!("ranks {} and {} more", shown.join(", "), ranks.len() - SHOWN)
        }
    }
}

/// Whether the store of this very group listens there. It is asked by one who counts the ranks differently, whom it
/// refuses for that and takes no note of.
pub(crate) fn lives_at(address: SocketAddr, world_id: u64, generation: u32, patience: Duration) -> bool {
    let stranger = Hello::new(0, u32::MAX as usize, world_id, generation);
    matches!(
        attempt(&address, &stranger, after(patience), &mut FrameBuffer::default()),
        Ok(Attempt::Refused(super::Refusal::WorldSize, _))
    )
}

enum Attempt {
    /// The stream, the version that is spoken, the store's heartbeat deadline and its host's rank.
    Welcomed(TcpStream, (u16, Duration, Option<usize>)),
    Refused(super::Refusal, Error),
}

/// One attempt at being welcomed. An error, in words, is worth another attempt.
fn attempt(
    address: &(impl ToSocketAddrs + Display),
    hello: &Hello,
    until: Instant,
    inbox: &mut FrameBuffer,
) -> std::result::Result<Attempt, String> {
    let left = || until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let addresses = address.to_socket_addrs().map_err(|e| format!("the name cannot be resolved: {e}"))?;
    let mut fault = "the name has no address".to_string();
    let mut connected = None;
    for candidate in addresses {
        match TcpStream::connect_timeout(&candidate, left().min(Duration::from_secs(5))) {
            // A connection to itself, which a port that nobody listens on may give when it is ephemeral.
            Ok(stream) if stream.local_addr().ok() == Some(candidate) => {
                fault = "nobody listens there".into()
            }
            Ok(stream) => {
                connected = Some(stream);
                break;
            }
            Err(error) => fault = error.to_string(),
        }
    }
    let Some(stream) = connected else { return Err(fault) };
    let io = |error: std::io::Error| error.to_string();
    stream.set_nodelay(true).map_err(io)?;
    stream.set_write_timeout(Some(left())).map_err(io)?;
    (&stream).write_all(&hello.encode()).map_err(io)?;
    loop {
        match inbox.next_frame() {
            Ok(None) => {}
            Ok(Some(Frame::Welcome { version, heartbeat, host_rank })) => {
                if version < hello.versions.0 || version > hello.versions.1 {
                    return Err(format!("the store speaks version {version} of the protocol"));
                }
                let heartbeat = Duration::from_millis(heartbeat.into());
                return Ok(Attempt::Welcomed(
                    stream,
                    (version, heartbeat, host_rank.map(|host| host as usize)),
                ));
            }
            Ok(Some(Frame::Refuse { reason, text })) => {
                return Ok(Attempt::Refused(reason, refused(address, reason, &text)));
            }
            Ok(Some(_)) => return Err("what listens there is no store: it does not say welcome".into()),
            Err(error) => return Err(format!("what listens there is no store: {error}")),
        }
        stream.set_read_timeout(Some(left())).map_err(io)?;
        match inbox.fill(&mut &stream) {
            Ok(0) => return Err("the connection was closed before a welcome".into()),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                return Err("what listens there says nothing".into());
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

fn refused(address: &impl Display, reason: super::Refusal, text: &str) -> Error {
    use super::Refusal;
    let remedy = match reason {
        Refusal::Magic | Refusal::Version => "run the same version of ringfold on every rank",
        Refusal::WorldId => {
            "see whether another launch uses the same store, or set the same RINGFOLD_WORLD_ID"
        }
        Refusal::Generation => "let the older attempt end; it is fenced off",
        Refusal::WorldSize | Refusal::Rank => {
            "give every rank the same RINGFOLD_WORLD_SIZE and ranks below it"
        }
        Refusal::Connected => "start every rank once",
        Refusal::Gone => "a rank cannot come back: start a new group, or a new generation",
    };
    Error::new(ErrorKind::Bootstrap, format!("the store at {address} refuses ({reason:?}): {text}"))
        .remedy(remedy)
}
