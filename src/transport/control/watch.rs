//! The watch thread of a rank: heartbeats, the verdict, and the loss of the store.

use super::buffer::{FrameBuffer, Outbox};
use super::frame::{self, Frame};
use super::hello::Hello;
use super::ledger::{self, Ledger, Stuck};
use super::link::Shared;
use super::notice::{readiness, unacknowledged, wait};
use super::tell::Teller;
use crate::error::{Cause, CauseKind};
use nix::poll::{PollFd, PollFlags};
use std::io::ErrorKind;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the store may take to hear a goodbye.
const LEAVE: Duration = Duration::from_millis(150);

pub(super) struct Watch {
    shared: Arc<Shared>,
    /// `None` once there is no connection.
    stream: Option<TcpStream>,
    inbox: FrameBuffer,
    outbox: Outbox,
    teller: Teller,
    /// When to look at the ledgers, where there are any.
    next_audit: Option<Instant>,
    rank: usize,
    generation: u32,
    host_rank: Option<usize>,
    beat: Duration,
    deadline: Duration,
    heard: Instant,
    next_beat: Instant,
    host_left: bool,
    /// When to give up on the goodbye that has been said.
    leave_by: Option<Instant>,
}

impl Watch {
    pub(super) fn new(
        stream: TcpStream,
        inbox: FrameBuffer,
        shared: Arc<Shared>,
        hello: &Hello,
        own_deadline: Duration,
        store_deadline: Duration,
        host_rank: Option<usize>,
    ) -> Self {
        let now = Instant::now();
        let beat = (own_deadline.min(store_deadline) / 4).max(Duration::from_millis(1));
        Watch {
            shared,
            stream: Some(stream),
            inbox,
            outbox: Outbox::default(),
            teller: Teller::new(now),
            next_audit: None,
            rank: hello.rank,
            generation: hello.generation,
            host_rank,
            beat,
            deadline: own_deadline.max(store_deadline),
            heard: now,
            next_beat: now + beat,
            host_left: false,
            leave_by: None,
        }
    }

    pub(super) fn run(mut self) {
        // What came together with the welcome.
        self.take_frames();
        loop {
            self.take_orders();
            self.flush();
            if self.leave_by.is_some_and(|by| self.stream.is_none() || Instant::now() >= by) {
                break;
            }
            let until = self.next_event();
            let (readable, rung) = self.poll(until);
            if rung {
                self.shared.bell.silence();
            }
            let now = Instant::now();
            let slack = (self.deadline / 4).max(Duration::from_millis(50));
            if until.is_some_and(|until| now > until + slack) {
                // This thread itself stood still: that is not the store's silence.
                self.heard = now;
            }
            if readable {
                self.read(now);
            }
            self.mourn(now);
            self.tick(now);
        }
        let mut state = self.shared.lock();
        (state.ended, state.cut) = (true, true);
        drop(state);
        self.shared.changed.notify_all();
    }

    fn next_event(&self) -> Option<Instant> {
        self.stream.as_ref()?;
        Some(match self.leave_by {
            Some(by) => by,
            None => {
                // While something else waits to be sent, what is told waits for that.
                let tell = self.teller.due().filter(|_| self.outbox.is_empty());
                let next = self.next_beat.min(self.heard + self.deadline);
                let audit = self.next_audit.filter(|_| self.outbox.is_empty());
                tell.into_iter().chain(audit).fold(next, Instant::min)
            }
        })
    }

    fn poll(&self, until: Option<Instant>) -> (bool, bool) {
        let bell = PollFd::new(self.shared.bell.as_fd(), PollFlags::POLLIN);
        let Some(stream) = &self.stream else {
            let mut fds = [bell];
            wait(&mut fds, until);
            return (false, readiness(&fds[0]).0);
        };
        let mut events = PollFlags::POLLIN;
        events.set(PollFlags::POLLOUT, !self.outbox.is_empty());
        let mut fds = [bell, PollFd::new(stream.as_fd(), events)];
        wait(&mut fds, until);
        (readiness(&fds[1]).0, readiness(&fds[0]).0)
    }

    /// Takes over what callers want done.
    fn take_orders(&mut self) {
        let mut state = self.shared.lock();
        let outgoing = std::mem::take(&mut state.outgoing);
        let reports = std::mem::take(&mut state.reports);
        let leaving = state.leaving;
        drop(state);
        // Callers look at the poison when they wake: it may be what rang the bell.
        self.shared.changed.notify_all();
        if self.stream.is_none() {
            if let Some(cause) = reports.into_iter().next() {
                self.shared.poison.set(cause);
            }
        } else if self.leave_by.is_none() {
            for frame in outgoing {
                self.outbox.push(frame.into());
            }
            for cause in reports {
                self.push(&Frame::Report(cause));
            }
            if self.shared.tells && (leaving || self.outbox.is_empty()) {
                for message in self.teller.take(&self.shared, Instant::now(), leaving) {
                    self.push(&Frame::Tell { message });
                }
            }
            self.audit(leaving);
            if leaving {
                self.push(&Frame::Goodbye);
            }
        }
        if leaving && self.leave_by.is_none() {
            self.leave_by = Some(Instant::now() + LEAVE);
        }
    }

    /// Tells what is new in the ledgers, where it is time or one is in a hurry.
    fn audit(&mut self, leaving: bool) {
        if !self.shared.audits || !(leaving || self.outbox.is_empty()) {
            return;
        }
        let now = Instant::now();
        let due = leaving || self.next_audit.is_none_or(|next| now >= next);
        let (mut messages, mut stuck) = (Vec::new(), Vec::new());
        let mut state = self.shared.lock();
        state.ledgers.retain(|ledger| {
            if due {
                stuck.extend(ledger.look_inside(now));
            }
            if !due && !ledger.is_in_a_hurry() {
                return true;
            }
            let Some((message, last)) = ledger.take(!self.shared.names_the_late) else { return true };
            messages.push(message);
            !last
        });
        let any = !state.ledgers.is_empty();
        drop(state);
        if due || !any {
            self.next_audit = any.then_some(now + ledger::PERIOD);
        }
        for message in messages {
            self.push(&Frame::Ledger { message });
        }
        // Behind what the store is to know of it.
        for stuck in stuck {
            let Stuck { communicator, sequence, .. } = stuck;
            match self.shared.names_the_late {
                true => self.push(&Frame::WhoIsLate { communicator, sequence }),
                false => self.warn_of(stuck, None),
            }
        }
    }

    /// Tells the log of a call that its deadline does not end.
    fn warn_of(&self, stuck: Stuck, late: Option<&[u32]>) {
        let Stuck { communicator, sequence, timeout, .. } = stuck;
        let (rank, call) = (self.rank, stuck.name());
        let who = match late {
            None => "the store does not say who has not come".to_owned(),
            Some([]) => "all ranks have come to it".to_owned(),
            Some([one]) => format!("rank {one} has not come to it"),
            Some(many) => {
                let many: Vec<String> = many.iter().map(u32::to_string).collect();
                format!("ranks {} have not come to it", many.join(", "))
            }
        };
        tracing::warn!(
            rank,
            communicator,
            sequence,
            "rank {rank} has waited {timeout:?} within a library's {call}, whose deadline cannot end it; {who}"
        );
    }

    /// Tells the log of calls that the group's failure does not end.
    fn warn_of_the_stuck(&self, ledgers: &[Arc<Ledger>], cause: &Cause) {
        for stuck in ledgers.iter().filter_map(|ledger| ledger.inside()) {
            let (rank, call, Stuck { communicator, sequence, .. }) = (self.rank, stuck.name(), stuck);
            let Cause { kind, culprit, detail, .. } = cause;
            tracing::warn!(
                rank,
                communicator,
                sequence,
                ?kind,
                culprit,
                "the group has failed while rank {rank} is within a library's {call}, which that cannot end: {detail}"
            );
        }
    }

    fn push(&mut self, frame: &Frame) {
        self.outbox.push(frame::encode(frame).into());
    }

    fn flush(&mut self) {
        let Some(stream) = &self.stream else { return };
        match self.outbox.flush(&mut &*stream) {
            Ok(true) if self.leave_by.is_some() => {
                let _ = stream.shutdown(Shutdown::Write);
            }
            Ok(_) => {}
            // What the store said before is still to be read; the end comes after it.
            Err(_) => self.outbox = Outbox::default(),
        }
    }

    fn read(&mut self, now: Instant) {
        // A bounded number at a time: heartbeats go on while a large round comes in.
        for _ in 0..64 {
            let Some(stream) = &self.stream else { return };
            match self.inbox.fill(&mut &*stream) {
                Ok(0) => {
                    return self.lost(CauseKind::PeerDead, "the store closed the link without a goodbye");
                }
                Ok(_) => self.heard = now,
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return,
                    ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => {
                        return self
                            .lost(CauseKind::PeerDead, &format!("the link to the store broke: {error}"));
                    }
                    _ => {
                        return self
                            .lost(CauseKind::Unreachable, &format!("the link to the store failed: {error}"));
                    }
                },
            }
            self.take_frames();
        }
    }

    fn take_frames(&mut self) {
        loop {
            match self.inbox.next_frame() {
                Ok(None) => return,
                Ok(Some(frame)) => self.handle(frame),
                Err(error) => {
                    self.lost(
                        CauseKind::Unreachable,
                        &format!("the link to the store makes no sense: {error}"),
                    );
                    return;
                }
            }
        }
    }

    fn handle(&mut self, frame: Frame) {
        match frame {
            Frame::Part { round, rank, message } => {
                let mut state = self.shared.lock();
                if let Some(gather) = state.gather.as_mut().filter(|g| g.round == round)
                    && let Some(part @ None) = gather.parts.get_mut(rank as usize)
                {
                    *part = Some(message);
                    gather.wanted -= 1;
                    if gather.wanted == 0 {
                        self.shared.changed.notify_all();
                    }
                }
            }
            Frame::Missing { round, absent, silent } => {
                self.shared.lock().missing = Some((round, absent, silent));
                self.shared.changed.notify_all();
            }
            Frame::Verdict(cause) => {
                self.shared.poison.set(cause.clone());
                self.wake_callers();
                let ledgers = self.shared.lock().ledgers.clone();
                self.warn_of_the_stuck(&ledgers, &cause);
            }
            Frame::Late { communicator, sequence, ranks } => {
                let find = |ledger: &Arc<Ledger>| ledger.inside_of(communicator, sequence);
                let stuck = self.shared.lock().ledgers.iter().find_map(find);
                if let Some(stuck) = stuck {
                    self.warn_of(stuck, Some(&ranks));
                }
            }
            Frame::HostLeft => self.host_left = true,
            // A heartbeat has done its work by arriving; a store says nothing else.
            _ => {}
        }
    }

    /// Wakes those who wait for a round. Taking the lock first makes sure that they wait already, or look again.
    fn wake_callers(&self) {
        drop(self.shared.lock());
        self.shared.changed.notify_all();
    }

    fn lost(&mut self, kind: CauseKind, why: &str) {
        if self.stream.take().is_none() {
            return;
        }
        let mut state = self.shared.lock();
        state.cut = true;
        state.told = None;
        let source = state.source.take();
        let ledgers = std::mem::take(&mut state.ledgers);
        let leaving = state.leaving;
        let reports = std::mem::take(&mut state.reports);
        drop(state);
        drop(source);
        if leaving || self.leave_by.is_some() {
            // The end was wanted.
        } else if self.host_left {
            if let Some(cause) = reports.into_iter().next() {
                self.shared.poison.set(cause);
            }
        } else {
            let cause = self.cause(kind, why);
            self.shared.poison.set(cause.clone());
            self.warn_of_the_stuck(&ledgers, &cause);
        }
        self.wake_callers();
    }

    /// Leaves a store that is silent. Should it wake up again, it reads why, and does not take this rank for dead.
    fn give_up(&mut self, kind: CauseKind, why: &str) {
        if !self.host_left {
            self.push(&Frame::Report(self.cause(kind, why)));
        }
        self.push(&Frame::Goodbye);
        self.flush();
        self.lost(kind, why);
    }

    /// Where the host of the store is known to have died: hears what it said before, and then says so.
    fn mourn(&mut self, now: Instant) {
        let Some(cause) = self.shared.lock().host_died.take() else { return };
        self.read(now);
        self.shared.poison.set(cause);
        self.wake_callers();
    }

    fn cause(&self, kind: CauseKind, why: &str) -> Cause {
        let detail = match self.host_rank {
            Some(host) => format!("rank {host}, which hosts the store, is lost: {why}"),
            None => format!("the launcher, which hosts the store, is lost: {why}"),
        };
        Cause {
            generation: self.generation,
            sequence: Cause::NO_SEQUENCE,
            kind,
            culprit: self.host_rank.unwrap_or(Cause::STORE),
            reporter: self.rank,
            detail,
        }
    }

    fn tick(&mut self, now: Instant) {
        let Some(stream) = &self.stream else { return };
        if self.leave_by.is_some() {
            return;
        }
        if now.saturating_duration_since(self.heard) >= self.deadline {
            let unreachable = unacknowledged(stream) > frame::HEADER;
            let (kind, why) = if unreachable {
                (CauseKind::Unreachable, "its host acknowledges nothing")
            } else {
                (CauseKind::Unresponsive, "its host answers and the process does not")
            };
            let why = format!("no sign of life for {:?}: {why}", self.deadline);
            return self.give_up(kind, &why);
        }
        if now >= self.next_beat {
            self.next_beat = now + self.beat;
            if self.outbox.is_empty() {
                self.push(&Frame::Heartbeat);
            }
        }
    }
}
