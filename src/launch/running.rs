//! A launch while it lives.

use super::group::Group;
use super::supervisor::Supervisor;
use super::{Launch, Outcome, Signal, StartError};
use crate::error::{Error, ErrorKind};
use crate::transport::control::Bell;
use std::ffi::CString;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What the handles and the supervising thread share.
pub(super) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    pub(super) bell: Bell,
}

#[derive(Default)]
pub(super) struct State {
    /// The ranks' process groups, in rank order, until they are reaped.
    pub(super) groups: Vec<Group>,
    /// The ranks have been told to end from outside.
    pub(super) asked: bool,
    /// They are to be ended: by `SIGTERM`, and soon by `SIGKILL`.
    pub(super) end: bool,
    /// They are to be killed.
    pub(super) kill: bool,
    /// Nobody waits for the outcome any more.
    pub(super) dropped: bool,
    pub(super) outcome: Option<Outcome>,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn settle(&self, outcome: Outcome) {
        self.lock().outcome.get_or_insert(outcome);
        self.changed.notify_all();
    }
}

/// A group of processes that has been started. Send and Sync.
///
/// Dropping it kills what still runs and waits until that is gone.
pub struct Running {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    pids: Vec<u32>,
    owner: u32,
}

impl Running {
    /// Starts the program that has been found for each rank.
    pub(super) fn start(launch: Launch, programs: Vec<CString>) -> Result<Running, StartError> {
        let shared =
            Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), bell: Bell::new()? });
        let (started, answer) = mpsc::channel();
        let of_thread = Arc::clone(&shared);
        // The processes die with the thread that has started them: it is the one that watches over them.
        let thread = std::thread::Builder::new()
            .name("ringfold-launch".into())
            .spawn(move || {
                let supervisor = match Supervisor::start(launch, programs, of_thread) {
                    Ok((supervisor, pids)) => {
                        let _ = started.send(Ok(pids));
                        supervisor
                    }
                    Err(error) => {
                        let _ = started.send(Err(error));
                        return;
                    }
                };
                supervisor.run();
            })
            .map_err(|error| Error::io("starting the launch's thread", error))?;
        match answer.recv() {
            Ok(Ok(pids)) => Ok(Running { shared, thread: Some(thread), pids, owner: std::process::id() }),
            Ok(Err(error)) => {
                let _ = thread.join();
                Err(error)
            }
            Err(_) => Err(Error::new(ErrorKind::Io, "the launch's thread has panicked").into()),
        }
    }

    /// The ranks' processes, in rank order.
    pub fn pids(&self) -> &[u32] {
        &self.pids
    }

    /// Waits until all ranks have ended, their output has been carried on and nothing of them is left.
    pub fn wait(&self) -> Outcome {
        self.wait_until(None).expect("without a limit it ends with an outcome")
    }

    /// As [`wait`](Running::wait), at most this long; `None` where ranks are still running then.
    pub fn wait_timeout(&self, timeout: Duration) -> Option<Outcome> {
        self.wait_until(Some(crate::transport::control::after(timeout)))
    }

    fn wait_until(&self, until: Option<Instant>) -> Option<Outcome> {
        let mut state = self.shared.lock();
        loop {
            if let Some(outcome) = &state.outcome {
                return Some(outcome.clone());
            }
            state = match until {
                None => self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Sends a signal to all ranks: see [`Signaller::signal`].
    pub fn signal(&self, signal: Signal) {
        self.signaller().signal(signal);
    }

    /// What sends signals to the ranks from other threads.
    pub fn signaller(&self) -> Signaller {
        Signaller(Arc::clone(&self.shared))
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("pids", &self.pids).finish_non_exhaustive()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.owner != std::process::id() {
            return; // a fork's copy: the ranks are the parent's
        }
        let mut state = self.shared.lock();
        (state.kill, state.dropped) = (true, true);
        drop(state);
        self.shared.bell.ring();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Sends signals to the ranks of a launch. Send, Sync and Clone; without effect once they have ended.
#[derive(Clone)]
pub struct Signaller(Arc<Shared>);

impl Signaller {
    /// Sends a signal to every rank, as a terminal would: `SIGINT`, `SIGTERM`, `SIGHUP`, `SIGQUIT`, `SIGTSTP`,
    /// `SIGCONT` and `SIGKILL` to the rank's whole process group, others to its process alone.
    ///
    /// After one that asks to end, the launch is more patient: once the first rank has ended, the others have 10 s
    /// instead of 250 ms before they are ended. Until one has ended they have all the time they take, since they may save what
    /// they have: ranks that heed no signal are ended by [`end`](Signaller::end), and killed by `SIGKILL`.
    pub fn signal(&self, signal: Signal) {
        let mut state = self.0.lock();
        match signal {
            Signal::SIGKILL => state.kill = true,
            Signal::SIGINT | Signal::SIGTERM | Signal::SIGHUP | Signal::SIGQUIT => state.asked = true,
            _ => {}
        }
        // Who is to be killed is killed by the supervisor, which remembers that it was.
        if signal != Signal::SIGKILL {
            // Under the lock: a group that is still in the list has not been reaped.
            state.groups.iter().for_each(|group| group.signal(signal));
        }
        drop(state);
        self.0.bell.ring();
    }

    /// Ends all ranks, whether they heed it or not: `SIGTERM` at once, and 2 s later `SIGKILL` to those that are left. Ranks that are
    /// stopped go on, so that they can end. Does not block, and never fails; asking twice is asking once.
    ///
    /// Ranks that are still there are among [`Outcome::ended`].
    ///
    /// ```
    /// use ringfold::launch::{Launch, Output};
    /// let heedless = Launch::new(2).program("sh").args(["-c", "trap '' TERM; sleep 60 & wait; wait"]);
    /// let running = heedless.output(Output::Null).start()?;
    /// running.signaller().end();
    /// assert_eq!(running.wait().ended, [0, 1]);
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    pub fn end(&self) {
        self.0.lock().end = true;
        self.0.bell.ring();
    }
}

impl fmt::Debug for Signaller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signaller").finish_non_exhaustive()
    }
}
