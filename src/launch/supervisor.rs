//! The thread that starts the ranks, watches over them and ends them.

use super::beside::Beside;
use super::child::{Rank, open_end};
use super::group::{Group, alive};
use super::guard::Guard;
use super::lines::Look;
use super::newborn::Step;
use super::order::{World, check_cpus, free_port};
use super::pump::{Pump, Streams, To};
use super::running::Shared;
use super::spawn::{Gang, Order, Setback};
use super::{Failure, Launch, Outcome, Output, Signal, StartError, Status};
use crate::bootstrap::host_and_hear;
use crate::config::Config;
use crate::error::{Cause, CauseKind};
use crate::transport::control::{SETTLE, Server, after, readiness, wait};
use nix::poll::{PollFd, PollFlags};
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the others have to end by themselves after the first failure.
const GRACE: Duration = Duration::from_millis(250);

/// The same after somebody has asked all ranks to end: they may have something to save.
const GRACE_WHEN_ASKED: Duration = Duration::from_secs(10);

/// How long after `SIGTERM` to send `SIGKILL`.
const TERM_PATIENCE: Duration = Duration::from_secs(2);

/// How long after `SIGKILL` to believe that a process cannot end.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// How long what the ranks have started may outlive the last of them.
const AFTERGLOW: Duration = Duration::from_secs(1);

/// How long a rank that has exited is given for what it said before to be heard. One that was killed said nothing.
const LAST_WORDS: Duration = Duration::from_millis(50);

/// How often to look where the system cannot tell.
const LOOK: Duration = Duration::from_millis(10);

/// How far the end has come, and when the next step is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running,
    /// A rank has failed.
    Grace(Instant),
    /// `SIGTERM` has been sent.
    Terminated(Instant),
    /// `SIGKILL` has been sent.
    Killed(Instant),
}

pub(super) struct Supervisor {
    shared: Arc<Shared>,
    server: Server,
    guard: Guard,
    ranks: Vec<Rank>,
    pump: Option<Pump>,
    generation: u32,
    beside: Beside,
    /// When the whole has to be over.
    limit: Option<Instant>,
    stage: Stage,
    timed_out: bool,
    /// The ranks that have failed without being told to end, in the order in which that was seen.
    failed: Vec<usize>,
    /// The ranks that were told to end.
    ended: Vec<usize>,
    /// What the store is still to be told, and when.
    reports: Vec<(Instant, Cause)>,
}

impl Supervisor {
    /// Starts all ranks, and tells their processes; or none, and tells why.
    pub(super) fn start(
        launch: Launch,
        programs: Vec<CString>,
        shared: Arc<Shared>,
    ) -> Result<(Supervisor, Vec<u32>), StartError> {
        check_cpus(&launch)?;
        let id = fastrand::u64(1..);
        let heartbeat = launch.heartbeat.unwrap_or(Config::default().heartbeat_deadline);
        let server = host_and_hear(launch.ranks, id, launch.generation, heartbeat, launch.hear.clone())?;
        let world = World { launch: &launch, id, store: server.address(), torch_port: free_port()? };
        let orders = world.orders(programs)?;
        let mut supervisor = Supervisor {
            shared,
            guard: Guard::start(),
            ranks: Vec::with_capacity(launch.ranks),
            pump: None,
            generation: launch.generation,
            beside: launch.beside.clone(),
            limit: launch.timeout.map(after),
            stage: Stage::Running,
            timed_out: false,
            failed: Vec::new(),
            ended: Vec::new(),
            reports: Vec::new(),
            server,
        };
        match supervisor.start_all(&world, &orders) {
            Ok(()) => {
                let pids = supervisor.ranks.iter().map(Rank::pid).collect();
                Ok((supervisor, pids))
            }
            Err(error) => {
                supervisor.cancel();
                Err(error)
            }
        }
    }

    fn start_all(&mut self, world: &World<'_>, orders: &[Order]) -> Result<(), StartError> {
        let cannot_start = |setback| world.cannot_start(setback);
        let refused = |rank| move |errno| Setback::Refused { rank, step: Step::Fork, errno };
        let mut gang = Gang::new().map_err(refused(0)).map_err(cannot_start)?;
        let mut streams = Streams::default();
        for (number, order) in orders.iter().enumerate() {
            let io = (world.launch.input, world.launch.output);
            let rank = gang.fork(number, order, io).map_err(refused(number)).map_err(cannot_start)?;
            self.ranks.push(rank);
            let rank = &mut self.ranks[number];
            gang.place(number, rank, order).map_err(cannot_start)?;
            add_streams(&mut streams, rank, number, world.launch)?;
        }
        gang.gather(&mut self.ranks).map_err(cannot_start)?;
        // Whatever they start from here on is in the guard's care, and hears signals.
        let groups: Vec<Group> = self.ranks.iter().map(|rank| rank.group).collect();
        self.guard.watch(&groups);
        self.shared.lock().groups = groups;
        if world.launch.output == Output::Prefixed {
            self.pump = Some(Pump::start(streams, self.beside.clone())?);
        }
        let reports = gang.open().map_err(cannot_start)?;
        reports.await_execution(&self.ranks).map_err(cannot_start)
    }

    /// Takes back what has been started.
    fn cancel(mut self) {
        self.shared.lock().kill = true;
        self.watch();
        self.clear(false);
        if let Some(pump) = self.pump.take() {
            pump.finish();
        }
        self.guard.done();
    }

    /// Watches until all is over, and says what became of it.
    pub(super) fn run(mut self) {
        // Whoever waits is told something, whatever happens here.
        let settle = Settle { shared: Arc::clone(&self.shared), outcome: Some(self.outcome()) };
        self.watch();
        let silent = self.await_afterglow();
        self.clear(silent);
        if let Some(pump) = self.pump.take() {
            if self.shared.lock().dropped { pump.abandon() } else { pump.finish() }
        }
        self.await_verdict();
        let outcome = self.outcome();
        self.guard.done();
        drop(self.server);
        settle.with(outcome);
    }

    /// Where a rank has failed as the last of all, what it said just before is still being heard.
    fn await_verdict(&self) {
        let until = Instant::now() + SETTLE + SETTLE / 2;
        while !self.failed.is_empty() && self.server.verdict().is_none() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Until the last rank has ended.
    fn watch(&mut self) {
        self.look(&vec![true; self.ranks.len()]);
        while self.ranks.iter().any(|rank| rank.status.is_none()) {
            let now = Instant::now();
            if self.give_up(now) {
                break;
            }
            self.report(now);
            self.advance(now);
            let ended = self.poll();
            self.shared.bell.silence();
            self.look(&ended);
        }
    }

    /// Waits for something to happen. For each rank, whether to look at it.
    fn poll(&self) -> Vec<bool> {
        let due = match self.stage {
            Stage::Running => None,
            Stage::Grace(at) | Stage::Terminated(at) | Stage::Killed(at) => Some(at),
        };
        let limit = self.limit.filter(|_| matches!(self.stage, Stage::Running | Stage::Grace(_)));
        let alive = |rank: &&Rank| rank.status.is_none();
        let blind = self.ranks.iter().filter(alive).any(|rank| rank.end.is_none());
        let look = blind.then(|| Instant::now() + LOOK);
        let reports = self.reports.iter().map(|&(due, _)| due);
        let until = due.into_iter().chain(limit).chain(look).chain(reports).min();
        let mut fds = vec![PollFd::new(self.shared.bell.as_fd(), PollFlags::POLLIN)];
        let ends = self.ranks.iter().filter(alive).filter_map(|rank| rank.end.as_ref());
        fds.extend(ends.map(|end| PollFd::new(end.as_fd(), PollFlags::POLLIN)));
        wait(&mut fds, until);
        let mut ready = fds[1..].iter().map(|fd| readiness(fd).0);
        let look_at = |rank: &Rank| match (&rank.status, &rank.end) {
            (Some(_), _) => false,
            (None, None) => true,
            (None, Some(_)) => ready.next().unwrap_or(true),
        };
        self.ranks.iter().map(look_at).collect()
    }

    /// Notes which ranks have ended, and what to tell the group of those that have failed.
    fn look(&mut self, at: &[bool]) {
        let mut failed = Vec::new();
        for (number, (rank, look)) in self.ranks.iter_mut().zip(at).enumerate() {
            if !look || rank.status.is_some() {
                continue;
            }
            let Some(status) = rank.look() else { continue };
            tracing::debug!(rank = number, %status, "a rank has ended");
            self.beside.tell_end(number, status);
            if status.success() {
                self.server.ended(number);
            }
            if !status.success() && !self.ended.contains(&number) {
                // Among those seen at once, a signal tells of the cause rather than of its consequences.
                failed.push((!matches!(status, Status::Killed(_)), number));
            }
        }
        failed.sort_unstable();
        for (_, number) in failed {
            self.failed.push(number);
            let rank = &self.ranks[number];
            let Some(status) = rank.status else { continue };
            let delay = if matches!(status, Status::Killed(_)) { Duration::ZERO } else { LAST_WORDS };
            let cause = Cause {
                generation: self.generation,
                sequence: Cause::NO_SEQUENCE,
                kind: CauseKind::PeerDead,
                culprit: number,
                // Its status is the rank's own word. It counts for more than what the store makes of a closed link.
                reporter: number,
                detail: format!("rank {number} (pid {}) {status}", rank.pid()),
            };
            self.reports.push((Instant::now() + delay, cause));
        }
    }

    /// Tells the store of failures, as far as it is time.
    fn report(&mut self, now: Instant) {
        for (_, cause) in self.reports.extract_if(.., |(due, _)| *due <= now) {
            self.server.report(cause);
        }
    }

    /// Takes the next step towards the end, if it is due.
    fn advance(&mut self, now: Instant) {
        let (asked, end, kill) = {
            let state = self.shared.lock();
            (state.asked, state.end, state.kill)
        };
        if let (Stage::Running, false) = (self.stage, self.failed.is_empty()) {
            self.stage = Stage::Grace(now + if asked { GRACE_WHEN_ASKED } else { GRACE });
        }
        let late = self.limit.is_some_and(|limit| now >= limit);
        let next = match self.stage {
            Stage::Killed(_) => return,
            _ if kill => Signal::SIGKILL,
            Stage::Running | Stage::Grace(_) if late => {
                self.timed_out = true;
                Signal::SIGTERM
            }
            Stage::Running | Stage::Grace(_) if end => Signal::SIGTERM,
            Stage::Grace(until) if now >= until => Signal::SIGTERM,
            Stage::Terminated(until) if now >= until => Signal::SIGKILL,
            _ => return,
        };
        for (number, rank) in self.ranks.iter().enumerate().filter(|(_, rank)| rank.status.is_none()) {
            rank.group.signal(next);
            if next == Signal::SIGTERM {
                // Who is stopped cannot end.
                rank.group.signal(Signal::SIGCONT);
            }
            if !self.ended.contains(&number) {
                self.ended.push(number);
            }
        }
        self.stage = match next {
            Signal::SIGTERM => Stage::Terminated(now + TERM_PATIENCE),
            _ => Stage::Killed(now + KILL_PATIENCE),
        };
    }

    /// Whether a process does not even end when it is killed.
    fn give_up(&mut self, now: Instant) -> bool {
        let Stage::Killed(until) = self.stage else { return false };
        if now < until {
            return false;
        }
        for (number, rank) in self.ranks.iter_mut().enumerate().filter(|(_, rank)| rank.status.is_none()) {
            tracing::error!(rank = number, pid = rank.pid(), "a rank does not end when it is killed");
            rank.status = Some(Status::Unknown);
            self.beside.tell_end(number, Status::Unknown);
        }
        true
    }

    /// What the ranks have started may end by itself: it may have something to write down. Whether it has.
    fn await_afterglow(&self) -> bool {
        self.await_silence(AFTERGLOW, |kill| !kill)
    }

    /// Ends what is left of the groups, if anything is, and lets their numbers go.
    fn clear(&mut self, silent: bool) {
        if !silent {
            self.shared.lock().groups.iter().for_each(|group| group.signal(Signal::SIGKILL));
            self.await_silence(AFTERGLOW, |_| true);
        }
        self.shared.lock().groups.clear();
        self.ranks.iter_mut().for_each(Rank::reap);
    }

    /// Waits until nothing of the groups is alive, for as long as that is of use. Whether nothing is.
    fn await_silence(&self, patience: Duration, of_use: impl Fn(bool) -> bool) -> bool {
        let until = after(patience);
        let still_of_use = || of_use(self.shared.lock().kill) && Instant::now() < until;
        while still_of_use() {
            let groups = self.shared.lock().groups.clone();
            let mut left: Vec<Option<OwnedFd>> = alive(&groups).into_iter().map(open_end).collect();
            if left.is_empty() {
                return true;
            }
            // Those that were found, and then whatever they have started meanwhile.
            while !left.is_empty() && still_of_use() {
                self.await_any(&mut left, until);
            }
        }
        false
    }

    /// Waits until one of these processes has ended, and leaves it out; or until somebody rings.
    fn await_any(&self, ends: &mut Vec<Option<OwnedFd>>, until: Instant) {
        if ends.iter().any(Option::is_none) {
            // The system cannot tell: look again in a while.
            wait(
                &mut [PollFd::new(self.shared.bell.as_fd(), PollFlags::POLLIN)],
                Some(until.min(after(LOOK))),
            );
            ends.clear();
        } else {
            let mut fds = vec![PollFd::new(self.shared.bell.as_fd(), PollFlags::POLLIN)];
            fds.extend(ends.iter().flatten().map(|end| PollFd::new(end.as_fd(), PollFlags::POLLIN)));
            wait(&mut fds, Some(until));
            let ended: Vec<bool> = fds[1..].iter().map(|fd| readiness(fd).0).collect();
            let mut ended = ended.into_iter();
            ends.retain(|_| !ended.next().unwrap_or(false));
        }
        self.shared.bell.silence();
    }

    fn outcome(&self) -> Outcome {
        let status = |rank: &Rank| rank.status.unwrap_or(Status::Unknown);
        let verdict = self.server.verdict();
        let blamed = verdict.map(|cause| cause.culprit).filter(|culprit| self.failed.contains(culprit));
        let told = || self.ranks.iter().position(|rank| !status(rank).success());
        let first = blamed.or(self.failed.first().copied()).or_else(told);
        let first_failure = first.map(|rank| Failure {
            rank,
            pid: self.ranks[rank].pid(),
            status: status(&self.ranks[rank]),
            cause: verdict.cloned(),
        });
        let mut ended = self.ended.clone();
        ended.sort_unstable();
        let statuses = self.ranks.iter().map(status).collect();
        Outcome { first_failure, statuses, ended, timed_out: self.timed_out }
    }
}

/// Takes a rank's output, where it has been given pipes.
fn add_streams(
    streams: &mut Streams,
    rank: &mut Rank,
    number: usize,
    launch: &Launch,
) -> crate::error::Result<()> {
    let (on_stdout, on_stderr) = launch.colours;
    let look = |colours, look| if colours { look } else { Look::Plain };
    if let Some(pipe) = rank.stdout.take() {
        streams.add(pipe, To::Stdout, number, launch.ranks, look(on_stdout, Look::Colour))?;
    }
    if let Some(pipe) = rank.stderr.take() {
        streams.add(pipe, To::Stderr, number, launch.ranks, look(on_stderr, Look::Reversed))?;
    }
    Ok(())
}

/// Settles the outcome, if only by being dropped.
struct Settle {
    shared: Arc<Shared>,
    outcome: Option<Outcome>,
}

impl Settle {
    fn with(mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
    }
}

impl Drop for Settle {
    fn drop(&mut self) {
        if let Some(outcome) = self.outcome.take() {
            self.shared.settle(outcome);
        }
    }
}
