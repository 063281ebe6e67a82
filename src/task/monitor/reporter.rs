//! A task's side of the monitor.

use super::report::Report;
use crate::backend::Meter;
use crate::communicator::Communicator;
use crate::error::Result;
use crate::transport::control;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Tells whoever has launched the group how far this task is. Send, Sync and Clone; clones tell of the same task.
///
/// A call takes a short lock and looks at one word: some ten nanoseconds. What is sent is the newest state, ten times a
/// second at most, by the thread that watches over the rank; the last one is sent ahead of the rank's goodbye, whether or not
/// the reporter is still there. What the communicator has counted goes with it, and is told once a second even where nothing else
/// has changed. Where nobody hears it (threads, a store of an older version) nothing is sent.
///
/// A rank has one reporter: a second one takes the place of the first.
///
/// ```
/// use ringfold::Communicator;
/// use ringfold::task::monitor::Reporter;
/// let comm = Communicator::from_env()?;
/// let reporter = Reporter::of(&comm);
/// reporter.unit("steps");
/// for step in 0..1000 {
///     reporter.progress(step + 1, 1000);
///     reporter.metric("loss", 1.0 / (step + 1) as f64)?;
/// }
/// assert_eq!(reporter.report().progress().unwrap().done, 1000);
/// # Ok::<(), ringfold::Error>(())
/// ```
#[derive(Clone)]
pub struct Reporter {
    state: Arc<State>,
    link: Option<control::Reporter>,
}

struct State {
    report: Mutex<Report>,
    meter: Arc<Meter>,
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self) -> Report {
        let mut report = self.lock().clone();
        report.set_counters(&self.meter.snapshot());
        report
    }
}

impl Reporter {
    /// The reporter of this rank, with the counters of this communicator. Its number as a task is its rank in the world.
    pub fn of(communicator: &Communicator) -> Reporter {
        let state = Arc::new(State { report: Mutex::default(), meter: communicator.meter() });
        let link = communicator.reporter();
        if let Some(link) = &link {
            let source = Arc::clone(&state);
            link.tell_by(Arc::new(move || Some(source.report().encode())));
        }
        Reporter { state, link }
    }

    /// Says how far the task is: so much of so much; a total of 0 is one that nobody knows. Does not block.
    #[inline]
    pub fn progress(&self, done: u64, total: u64) {
        self.state.lock().set_progress(done, total);
        self.news();
    }

    /// Says what progress counts: `rows`, `steps`. Cut at 16 bytes.
    pub fn unit(&self, unit: &str) {
        self.state.lock().set_unit(unit);
        self.news();
    }

    /// Says what one of the task's numbers is now. Does not block.
    ///
    /// # Errors
    /// As [`Report::set_metric`].
    pub fn metric(&self, name: &str, value: f64) -> Result<()> {
        self.state.lock().set_metric(name, value)?;
        self.news();
        Ok(())
    }

    /// Says what the task does now, in words. Cut at 256 bytes. Does not block.
    pub fn message(&self, message: &str) {
        self.state.lock().set_message(message);
        self.news();
    }

    /// What is told now.
    pub fn report(&self) -> Report {
        self.state.report()
    }

    /// Whether there is somebody to whom it can be sent. Whether they listen is not known.
    pub fn is_heard(&self) -> bool {
        self.link.as_ref().is_some_and(control::Reporter::tells)
    }

    #[inline]
    fn news(&self) {
        if let Some(link) = &self.link {
            link.news();
        }
    }
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reporter").field("report", &*self.state.lock()).finish_non_exhaustive()
    }
}
