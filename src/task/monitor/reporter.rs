//! A task's side of the monitor.

use super::board::Monitor;
use super::report::Report;
use super::totals::Totals;
use crate::backend::Meter;
use crate::communicator::Communicator;
use crate::error::Result;
use crate::transport::control;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Tells whoever has started the group how far this task is. Send, Sync and Clone; clones tell of the same task.
///
/// A call takes a short lock and looks at one word: some ten nanoseconds. What is sent is the newest state, ten times a
/// second at most, by the thread that watches over the rank; the last one is sent ahead of the rank's goodbye, whether or not
/// the reporter is still there. What the communicators have counted goes with it, and is told once a second even where nothing else
/// has changed. A task that is a thread tells its group's [`Monitor`] by itself, as often and when it ends. Where nobody hears it (threads
/// without a group, a store of an older version) nothing is sent.
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
    listener: Listener,
}

struct State {
    report: Mutex<Report>,
    meters: Mutex<Meters>,
}

/// Who hears what is told.
#[derive(Clone)]
enum Listener {
    Nobody,
    /// The host of the group's store.
    Store(control::Reporter),
    /// The monitor of this process's group, of which it is this task in this attempt; and when it was told last.
    Monitor(Monitor, (usize, u32), Arc<Mutex<Option<Instant>>>),
}

/// What communicators count, and what those have counted that are gone.
#[derive(Default)]
struct Meters {
    gone: Totals,
    live: Vec<Arc<Meter>>,
}

impl Meters {
    /// The sums of all of them.
    fn totals(&mut self) -> Totals {
        let mut totals = std::mem::take(&mut self.gone);
        // Nobody else has the meter of a communicator that is gone.
        for meter in self.live.extract_if(.., |meter| Arc::strong_count(meter) == 1) {
            totals += Totals::from(&meter.snapshot());
        }
        self.gone = totals.clone();
        for meter in &self.live {
            totals += Totals::from(&meter.snapshot());
        }
        totals
    }
}

/// How often a monitor in the same process is told.
const PAUSE: Duration = Duration::from_millis(100);

impl State {
    fn of(communicator: &Communicator) -> Arc<State> {
        let meters = Meters { live: vec![communicator.meter()], ..Meters::default() };
        Arc::new(State { report: Mutex::default(), meters: Mutex::new(meters) })
    }

    fn lock(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self) -> Report {
        let mut report = self.lock().clone();
        report.set_counters(self.meters.lock().unwrap_or_else(PoisonError::into_inner).totals());
        report
    }
}

impl Reporter {
    /// The reporter of this rank, with the counters of this communicator. Its number as a task is its rank in the world.
    pub fn of(communicator: &Communicator) -> Reporter {
        let state = State::of(communicator);
        let listener = match communicator.reporter() {
            Some(link) => {
                let source = Arc::clone(&state);
                link.tell_by(Arc::new(move || Some(source.report().encode())));
                Listener::Store(link)
            }
            None => Listener::Nobody,
        };
        Reporter { state, listener }
    }

    /// The reporter of a task that is a thread of the process that has the monitor.
    pub(crate) fn to(monitor: &Monitor, task: (usize, u32), communicator: &Communicator) -> Reporter {
        let listener = Listener::Monitor(monitor.clone(), task, Arc::default());
        Reporter { state: State::of(communicator), listener }
    }

    /// Tells what this communicator counts, too.
    pub fn include(&self, communicator: &Communicator) {
        let mut meters = self.state.meters.lock().unwrap_or_else(PoisonError::into_inner);
        meters.live.push(communicator.meter());
    }

    /// Tells the newest state now, where it is told within this process.
    pub(crate) fn flush(&self) {
        if let Listener::Monitor(monitor, (task, attempt), told) = &self.listener {
            *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            monitor.report_of(*task, *attempt, self.state.report());
        }
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

    /// Says what has come out of the task: see [`Completed::results`](crate::task::Completed::results). Does not block.
    ///
    /// # Errors
    /// As [`Report::set_result`].
    pub fn result(&self, result: &str) -> Result<()> {
        self.state.lock().set_result(result)?;
        self.news();
        Ok(())
    }

    /// What is told now.
    pub fn report(&self) -> Report {
        self.state.report()
    }

    /// Whether there is somebody to whom it can be sent. Whether they listen is not known.
    pub fn is_heard(&self) -> bool {
        match &self.listener {
            Listener::Nobody => false,
            Listener::Store(link) => link.tells(),
            Listener::Monitor(..) => true,
        }
    }

    #[inline]
    fn news(&self) {
        match &self.listener {
            Listener::Nobody => {}
            Listener::Store(link) => link.news(),
            Listener::Monitor(_, _, told) => {
                let told = *told.lock().unwrap_or_else(PoisonError::into_inner);
                if told.is_none_or(|told| told.elapsed() >= PAUSE) {
                    self.flush();
                }
            }
        }
    }
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reporter").field("report", &*self.state.lock()).finish_non_exhaustive()
    }
}
