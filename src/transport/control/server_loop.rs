//! The store's thread: one poll over all sockets, nothing that blocks.

use super::VERSIONS;
use super::admission::{Pending, Step};
use super::audit::Auditor;
use super::buffer::{FrameBuffer, Outbox};
use super::frame::{self, Frame};
use super::hello::{Hello, Refusal};
use super::judge::Judge;
use super::notice::{readiness, unacknowledged, wait};
use super::rounds::Rounds;
use super::server::{ServerConfig, Shared};
use crate::error::{Cause, CauseKind};
use nix::poll::{PollFd, PollFlags};
use std::io::{self, ErrorKind};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// How often one link is read before the others have their turn.
const FAIR: usize = 16;

/// How long to let the listener be when the process has no descriptor left.
const NO_DESCRIPTORS: Duration = Duration::from_millis(100);

/// A rank that is connected.
struct Link {
    stream: TcpStream,
    inbox: FrameBuffer,
    outbox: Outbox,
    hello: Hello,
    /// What both ends speak.
    version: u16,
    heard: Instant,
    next_beat: Instant,
    /// Its silence has been told.
    blamed: bool,
    /// Why nothing more can be sent.
    failed: Option<io::Error>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Absent,
    Here,
    Left,
    Gone,
}

#[derive(Clone, Copy)]
enum Source {
    Bell,
    Listener,
    Pending(usize),
    Link(usize),
}

pub(super) struct Engine {
    listener: TcpListener,
    config: ServerConfig,
    shared: Arc<Shared>,
    pending: Vec<Pending>,
    links: Vec<Option<Link>>,
    standing: Vec<Standing>,
    rounds: Rounds,
    judge: Judge,
    auditor: Auditor,
    accept_after: Option<Instant>,
    /// The ranks whose processes have ended well.
    ended: Vec<usize>,
}

impl Engine {
    pub(super) fn new(listener: TcpListener, config: ServerConfig, shared: Arc<Shared>) -> Self {
        let world = config.world;
        Engine {
            listener,
            config,
            shared,
            pending: Vec::new(),
            links: (0..world).map(|_| None).collect(),
            standing: vec![Standing::Absent; world],
            rounds: Rounds::new(world),
            judge: Judge::new(world),
            auditor: Auditor::default(),
            accept_after: None,
            ended: Vec::new(),
        }
    }

    pub(super) fn run(mut self) {
        while !self.done() {
            let until = self.next_event();
            let ready = self.poll(until);
            let now = Instant::now();
            if until.is_some_and(|until| now > until + self.slack()) {
                // This thread itself stood still: nobody else is to blame for that.
                self.restart_clocks(now);
            }
            for (source, readable, writable) in ready {
                self.serve(source, readable, writable, now);
            }
            self.tick(now);
        }
        if self.shared.stop.load(Ordering::Acquire) {
            // What ranks had said before they ended is heard, though nobody answers.
            let now = Instant::now();
            (0..self.config.world).for_each(|rank| self.read(rank, now));
        }
        // Nobody is left to be told of what the last ranks have said, but for the host.
        if let Some(verdict) = self.judge.conclude() {
            let _ = self.shared.verdict.set(verdict.clone());
        }
        tracing::debug!("the store ends");
    }

    fn beat(&self) -> Duration {
        self.config.heartbeat_deadline / 4
    }

    /// How late the thread may be before it takes itself for having been stopped.
    fn slack(&self) -> Duration {
        self.beat().max(Duration::from_millis(50))
    }

    fn restart_clocks(&mut self, now: Instant) {
        for link in self.links.iter_mut().flatten() {
            link.heard = now;
        }
        for pending in &mut self.pending {
            pending.until = now + super::admission::PATIENCE;
        }
    }

    fn host_has_left(&self) -> bool {
        self.config
            .host_rank
            .is_some_and(|host| matches!(self.standing[host], Standing::Left | Standing::Gone))
    }

    fn done(&self) -> bool {
        if self.shared.stop.load(Ordering::Acquire) {
            return true;
        }
        let nobody = self.links.iter().all(Option::is_none);
        if nobody && self.standing.iter().all(|s| matches!(s, Standing::Left | Standing::Gone)) {
            return true;
        }
        let detached = self.shared.detached.load(Ordering::Acquire);
        let never_came = self.config.host_rank.is_some_and(|host| self.standing[host] == Standing::Absent);
        (nobody && (detached || self.host_has_left())) || (detached && never_came)
    }

    fn next_event(&self) -> Option<Instant> {
        let silence = |link: &Link| {
            (!link.blamed && self.judge.verdict().is_none())
                .then(|| link.heard + self.config.heartbeat_deadline)
        };
        let links =
            self.links.iter().flatten().flat_map(|link| [Some(link.next_beat), silence(link)]).flatten();
        let pending = self.pending.iter().map(|p| p.until);
        links.chain(pending).chain(self.judge.due()).chain(self.auditor.due()).chain(self.accept_after).min()
    }

    fn poll(&self, until: Option<Instant>) -> Vec<(Source, bool, bool)> {
        let mut sources = vec![Source::Bell];
        let mut fds = vec![PollFd::new(self.shared.bell.as_fd(), PollFlags::POLLIN)];
        if self.pending.len() < 4 * self.config.world && self.accept_after.is_none() {
            sources.push(Source::Listener);
            fds.push(PollFd::new(self.listener.as_fd(), PollFlags::POLLIN));
        }
        for (index, pending) in self.pending.iter().enumerate() {
            sources.push(Source::Pending(index));
            fds.push(PollFd::new(pending.stream.as_fd(), PollFlags::POLLIN));
        }
        let full = 4 * self.config.world + 64;
        for (rank, link) in self.links.iter().enumerate() {
            let Some(link) = link else { continue };
            let mut events = PollFlags::empty();
            // A rank that does not read is not read from: what waits for it stays bounded.
            events.set(PollFlags::POLLIN, link.outbox.len() <= full);
            events.set(PollFlags::POLLOUT, !link.outbox.is_empty());
            sources.push(Source::Link(rank));
            fds.push(PollFd::new(link.stream.as_fd(), events));
        }
        wait(&mut fds, until);
        let ready = sources.iter().zip(&fds).map(|(&source, fd)| {
            let (readable, writable) = readiness(fd);
            (source, readable, writable)
        });
        ready.filter(|&(_, readable, writable)| readable || writable).collect()
    }

    fn serve(&mut self, source: Source, readable: bool, writable: bool, now: Instant) {
        match source {
            Source::Bell => {
                self.shared.bell.silence();
                let mut reports = self.shared.reports.lock().unwrap_or_else(PoisonError::into_inner);
                for cause in reports.drain(..) {
                    self.judge.hear(cause, now);
                }
                drop(reports);
                let ended =
                    std::mem::take(&mut *self.shared.ended.lock().unwrap_or_else(PoisonError::into_inner));
                self.ended.extend(ended.into_iter().filter(|&rank| rank < self.config.world));
                self.blame_leavers(now);
            }
            Source::Listener => self.accept(now),
            Source::Pending(index) => self.admit(index, now),
            Source::Link(rank) => {
                if writable {
                    self.flush(rank);
                }
                if readable {
                    self.read(rank, now);
                }
            }
        }
    }

    fn accept(&mut self, now: Instant) {
        while self.pending.len() < 4 * self.config.world {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    if stream.set_nonblocking(true).is_ok() && stream.set_nodelay(true).is_ok() {
                        self.pending.push(Pending::new(stream, now));
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // A connection that was gone before it was accepted.
                Err(error)
                    if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                Err(error) => {
                    tracing::warn!(%error, "the store cannot accept connections now");
                    self.accept_after = Some(now + NO_DESCRIPTORS);
                    return;
                }
            }
        }
    }

    fn admit(&mut self, index: usize, now: Instant) {
        match self.pending[index].step() {
            Step::Wait => {}
            // Swept up by the next tick, so that the other indices stay as they are.
            Step::Drop => self.pending[index].until = now,
            Step::Stranger => {
                let text = "this is the store of a ringfold group, and these bytes are no hello".into();
                self.pending[index].refuse(Refusal::Magic, text, now);
            }
            Step::Hello(hello) => match self.check(&hello) {
                Err((reason, text)) => self.pending[index].refuse(reason, text, now),
                Ok(version) => match self.pending[index].stream.try_clone() {
                    Ok(stream) => {
                        self.pending[index].until = now;
                        self.welcome(hello, stream, version, now);
                    }
                    Err(_) => self.pending[index].until = now,
                },
            },
        }
    }

    fn check(&self, hello: &Hello) -> Result<u16, (Refusal, String)> {
        let config = &self.config;
        let Some(version) = hello.common_version() else {
            let text = format!(
                "{hello} speaks versions {} to {} of the control protocol, and this store {} to {}",
                hello.versions.0, hello.versions.1, VERSIONS.0, VERSIONS.1
            );
            return Err((Refusal::Version, text));
        };
        let differs = |what: &str, theirs: String, mine: String| {
            format!("{hello} belongs to {what} {theirs}, and this store to {what} {mine}")
        };
        if hello.world_id != config.world_id {
            let text = differs("world id", format!("{:x}", hello.world_id), format!("{:x}", config.world_id));
            return Err((Refusal::WorldId, text));
        }
        if hello.generation != config.generation {
            let text = differs("generation", hello.generation.to_string(), config.generation.to_string());
            return Err((Refusal::Generation, text));
        }
        if hello.world != config.world {
            let text = differs("world size", hello.world.to_string(), config.world.to_string());
            return Err((Refusal::WorldSize, text));
        }
        if hello.rank >= config.world {
            return Err((Refusal::Rank, format!("{hello} is no rank of a group of {}", config.world)));
        }
        match self.standing[hello.rank] {
            Standing::Absent => Ok(version),
            Standing::Here => {
                let other =
                    self.links[hello.rank].as_ref().map_or(String::new(), |l| format!(" as {}", l.hello));
                Err((Refusal::Connected, format!("{hello}: that rank is connected already{other}")))
            }
            Standing::Left | Standing::Gone => {
                Err((Refusal::Gone, format!("{hello}: that rank was here before and is gone")))
            }
        }
    }

    fn welcome(&mut self, hello: Hello, stream: TcpStream, version: u16, now: Instant) {
        let rank = hello.rank;
        tracing::debug!(%hello, "connected");
        let heartbeat = u32::try_from(self.config.heartbeat_deadline.as_millis()).unwrap_or(u32::MAX);
        let host_rank = self.config.host_rank.map(|host| host as u32);
        let link = Link {
            stream,
            inbox: FrameBuffer::default(),
            outbox: Outbox::default(),
            hello,
            version,
            heard: now,
            next_beat: now + self.beat(),
            blamed: false,
            failed: None,
        };
        self.links[rank] = Some(link);
        self.standing[rank] = Standing::Here;
        self.send(rank, &Frame::Welcome { version, heartbeat, host_rank });
        if self.host_has_left() {
            self.send(rank, &Frame::HostLeft);
        }
        if let Some(verdict) = self.judge.verdict().cloned() {
            self.send(rank, &Frame::Verdict(verdict));
        }
    }

    fn send(&mut self, rank: usize, frame: &Frame) {
        self.send_encoded(rank, &frame::encode(frame).into());
    }

    fn send_encoded(&mut self, rank: usize, frame: &Arc<[u8]>) {
        if let Some(link) = &mut self.links[rank] {
            link.outbox.push(Arc::clone(frame));
            self.flush(rank);
        }
    }

    fn broadcast(&mut self, frame: &Frame) {
        let frame: Arc<[u8]> = frame::encode(frame).into();
        for rank in 0..self.config.world {
            self.send_encoded(rank, &frame);
        }
    }

    fn flush(&mut self, rank: usize) {
        let Some(link) = &mut self.links[rank] else { return };
        match link.outbox.flush(&mut &link.stream) {
            Ok(_) => {}
            Err(error) => {
                // What the rank said before is still there to read (a goodbye, a report): the link ends when that
                // comes to its end, which the next poll says at once.
                link.outbox = Outbox::default();
                link.failed.get_or_insert(error);
            }
        }
    }

    fn read(&mut self, rank: usize, now: Instant) {
        for _ in 0..FAIR {
            let Some(link) = &mut self.links[rank] else { return };
            match link.inbox.fill(&mut &link.stream) {
                Ok(0) => match link.failed.take() {
                    Some(error) => return self.broken(rank, &error, now),
                    None => {
                        let why = "its control link closed without a goodbye";
                        return self.lost(rank, CauseKind::PeerDead, why, now);
                    }
                },
                Ok(_) => link.heard = now,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => return self.broken(rank, &error, now),
            }
            loop {
                let Some(link) = &mut self.links[rank] else { return };
                match link.inbox.next_frame() {
                    Ok(None) => break,
                    Ok(Some(frame)) => self.handle(rank, frame, now),
                    Err(error) => return self.garbage(rank, &error.to_string(), now),
                }
            }
        }
    }

    fn handle(&mut self, rank: usize, frame: Frame, now: Instant) {
        match frame {
            Frame::Heartbeat => {}
            Frame::Contribute { round, message } => match self.rounds.contribute(rank, round, message) {
                Err(text) => self.garbage(rank, &text, now),
                Ok(parts) => {
                    for part in parts {
                        for rank in 0..self.config.world {
                            self.send_encoded(rank, &part);
                        }
                    }
                    self.blame_leavers(now);
                }
            },
            Frame::Query { round } => {
                let missing = self.missing(round);
                self.send(rank, &missing);
            }
            Frame::Report(cause) => {
                if cause.culprit >= self.config.world && cause.culprit != Cause::STORE {
                    return self.garbage(rank, &format!("it blames rank {}", cause.culprit), now);
                }
                let cause = self.blame_the_late(cause);
                match self.judge.verdict().cloned() {
                    Some(verdict) => self.send(rank, &Frame::Verdict(verdict)),
                    // What a rank has heard from another over a link it passes on as that one's.
                    None if cause.reporter < self.config.world => self.judge.hear(cause, now),
                    None => self.judge.hear(Cause { reporter: rank, ..cause }, now),
                }
            }
            Frame::Tell { message } => {
                if self.links[rank].as_ref().is_some_and(|link| link.version < 2) {
                    return self.garbage(rank, "it tells, by a version of the protocol that does not", now);
                }
                if let Some(ear) = &self.config.hear
                    && !ear.hear(rank, &message)
                {
                    self.config.hear = None;
                }
            }
            Frame::Ledger { message } => {
                if self.links[rank].as_ref().is_some_and(|link| link.version < 3) {
                    return self.garbage(
                        rank,
                        "it has a ledger, by a version of the protocol that has none",
                        now,
                    );
                }
                match self.auditor.hear(rank, self.config.world, &message, now) {
                    Err(text) => self.garbage(rank, &text, now),
                    Ok(wrong) => {
                        for wrong in wrong {
                            self.judge.hear(wrong.cause(self.config.generation), now);
                        }
                    }
                }
            }
            Frame::WhoIsLate { communicator, sequence } => {
                if self.links[rank].as_ref().is_some_and(|link| link.version < 4) {
                    return self.garbage(rank, "it asks who is late, by a version that does not", now);
                }
                let ranks = self.auditor.all_late(rank, communicator, sequence);
                self.send(rank, &Frame::Late { communicator, sequence, ranks });
            }
            Frame::Goodbye => {
                tracing::debug!(rank, "goodbye");
                self.standing[rank] = Standing::Left;
                if self.config.host_rank == Some(rank) {
                    // Whoever still waits would not be told by a store that is no more.
                    if let Some(round) = self.rounds.waiting() {
                        let missing = self.missing(round);
                        self.broadcast(&missing);
                    }
                    self.broadcast(&Frame::HostLeft);
                }
                self.blame_leavers(now);
                // Closed last: the rank takes this for the sign that everything is said.
                self.links[rank] = None;
            }
            _ => self.garbage(rank, "it sent a frame that only a store sends", now),
        }
    }

    /// A rank whose deadline has passed inside of a library does not know whom it has waited for, and blames itself.
    fn blame_the_late(&self, cause: Cause) -> Cause {
        if cause.kind != CauseKind::Deadline || cause.culprit != cause.reporter {
            return cause;
        }
        match self.auditor.late(cause.reporter, cause.sequence) {
            Some(late) => {
                let detail = format!("{}; rank {late} has not come to it", cause.detail);
                Cause { culprit: late, detail, ..cause }
            }
            None => cause,
        }
    }

    fn missing(&self, round: u64) -> Frame {
        let missing = self.rounds.missing(round).into_iter();
        let (absent, silent): (Vec<u32>, Vec<u32>) =
            missing.map(|r| r as u32).partition(|&r| self.standing[r as usize] == Standing::Absent);
        Frame::Missing { round, absent, silent }
    }

    /// A rank that has left, or whose process has ended without ever coming, cannot contribute to a round that others wait in.
    fn blame_leavers(&mut self, now: Instant) {
        for at in 0..self.ended.len() {
            let rank = self.ended[at];
            if self.standing[rank] == Standing::Absent && self.rounds.owed_by(rank).is_some() {
                let text = format!("the process of rank {rank} has ended well without joining the group");
                self.blame(rank, CauseKind::Closed, text, now);
            }
        }
        for rank in 0..self.config.world {
            if self.standing[rank] == Standing::Left
                && let Some(round) = self.rounds.owed_by(rank)
            {
                let text = format!("rank {rank} left while others waited for its message of round {round}");
                self.blame(rank, CauseKind::Closed, text, now);
            }
        }
    }

    fn blame(&mut self, culprit: usize, kind: CauseKind, detail: String, now: Instant) {
        let reporter = self.config.host_rank.unwrap_or(Cause::STORE);
        let generation = self.config.generation;
        let sequence = Cause::NO_SEQUENCE;
        self.judge.hear(Cause { generation, sequence, kind, culprit, reporter, detail }, now);
    }

    fn garbage(&mut self, rank: usize, what: &str, now: Instant) {
        self.lost(rank, CauseKind::Unreachable, &format!("its control link makes no sense: {what}"), now);
    }

    fn broken(&mut self, rank: usize, error: &io::Error, now: Instant) {
        match error.kind() {
            ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => {
                self.lost(
                    rank,
                    CauseKind::PeerDead,
                    &format!("its control link broke without a goodbye: {error}"),
                    now,
                );
            }
            _ => self.lost(rank, CauseKind::Unreachable, &format!("its control link failed: {error}"), now),
        }
    }

    fn lost(&mut self, rank: usize, kind: CauseKind, why: &str, now: Instant) {
        let Some(link) = self.links[rank].take() else { return };
        self.standing[rank] = Standing::Gone;
        let what = if kind == CauseKind::PeerDead { "died" } else { "is lost" };
        self.blame(rank, kind, format!("{} {what}: {why}", link.hello), now);
    }

    fn tick(&mut self, now: Instant) {
        self.pending.retain(|p| now < p.until);
        if self.accept_after.is_some_and(|at| now >= at) {
            self.accept_after = None;
        }
        let (beat, deadline) = (self.beat(), self.config.heartbeat_deadline);
        let heartbeat: Arc<[u8]> = frame::encode(&Frame::Heartbeat).into();
        for rank in 0..self.config.world {
            let Some(link) = &mut self.links[rank] else { continue };
            let silent = now.saturating_duration_since(link.heard) >= deadline;
            if silent && !link.blamed && self.judge.verdict().is_none() {
                link.blamed = true;
                // One heartbeat may be on its way; more than that has not reached the other kernel.
                let unreachable = unacknowledged(&link.stream) > frame::HEADER;
                let (kind, why) = if unreachable {
                    (CauseKind::Unreachable, "its host acknowledges nothing")
                } else {
                    (CauseKind::Unresponsive, "its host answers and the process does not")
                };
                let text = format!("{} has given no sign of life for {deadline:?}: {why}", link.hello);
                self.blame(rank, kind, text, now);
            }
            let Some(link) = &mut self.links[rank] else { continue };
            if now >= link.next_beat {
                link.next_beat = now + beat;
                if link.outbox.is_empty() {
                    self.send_encoded(rank, &heartbeat);
                }
            }
        }
        for wrong in self.auditor.decide(now) {
            self.judge.hear(wrong.cause(self.config.generation), now);
        }
        if let Some(verdict) = self.judge.decide(now).cloned() {
            tracing::debug!(?verdict, "verdict");
            let _ = self.shared.verdict.set(verdict.clone());
            self.broadcast(&Frame::Verdict(verdict));
        }
    }
}
