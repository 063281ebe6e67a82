//! The state of a group of tasks, as far as it has been told.

use super::report::Report;
use crate::launch::Launch;
use crate::transport::control::Hear;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

/// How many changes wait for a listener that does not come for them, for each task. Older ones are given up.
const WAITING: usize = 16;

/// What becomes of a task.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum State {
    /// It has not started.
    #[default]
    Waiting,
    /// It runs.
    Running,
    /// It has ended well.
    Succeeded,
    /// It has failed, and how.
    Failed(String),
}

impl State {
    /// The lower-case word for it: `waiting`, `running`, `succeeded`, `failed`.
    pub const fn as_str(&self) -> &'static str {
        match self {
            State::Waiting => "waiting",
            State::Running => "running",
            State::Succeeded => "succeeded",
            State::Failed(_) => "failed",
        }
    }

    /// Whether the task has ended, well or not.
    pub const fn is_over(&self) -> bool {
        matches!(self, State::Succeeded | State::Failed(_))
    }
}

/// One task, as far as it is known.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TaskView {
    /// Its number in the group: its partition, its rank in the world.
    pub task: usize,
    /// Which attempt of the group this is, counted from 0.
    pub attempt: u32,
    /// What becomes of it.
    pub state: State,
    /// The newest report of this attempt.
    pub report: Report,
    /// When that came; `None` where none has.
    pub reported: Option<SystemTime>,
    /// When anything of this changed last.
    pub changed: SystemTime,
}

/// All tasks at one moment.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Snapshot {
    /// Which attempt of the group this is, counted from 0.
    pub attempt: u32,
    /// The tasks, by number.
    pub tasks: Vec<TaskView>,
}

impl Snapshot {
    /// How many tasks are in a state of this name.
    pub fn count(&self, state: &str) -> usize {
        self.tasks.iter().filter(|task| task.state.as_str() == state).count()
    }

    /// How far the group is, from 0 to 1: the mean of its tasks, where at least one has said how far it is. A task that has ended
    /// well is done.
    pub fn fraction(&self) -> Option<f64> {
        let known = |task: &TaskView| task.report.progress().and_then(super::Progress::fraction);
        self.tasks.iter().find_map(known)?;
        let of = |task: &TaskView| match task.state {
            State::Succeeded => 1.0,
            _ => known(task).unwrap_or(0.0),
        };
        Some(self.tasks.iter().map(of).sum::<f64>() / self.tasks.len() as f64)
    }
}

/// What a group's tasks have told. A handle: Send, Sync and Clone; clones are of the same group. No call blocks for anything but
/// a short lock.
#[derive(Debug, Clone)]
pub struct Monitor(Arc<Mutex<Board>>);

#[derive(Debug)]
struct Board {
    attempt: u32,
    tasks: Vec<TaskView>,
    /// Of which tasks a report has been refused: a second one says nothing new.
    warned: Vec<bool>,
    listeners: Vec<Weak<Queue>>,
}

impl Monitor {
    /// A group of so many tasks, all of which wait.
    pub fn new(tasks: usize) -> Self {
        let changed = SystemTime::now();
        let view = |task| TaskView {
            task,
            attempt: 0,
            state: State::Waiting,
            report: Report::new(),
            reported: None,
            changed,
        };
        let tasks: Vec<TaskView> = (0..tasks).map(view).collect();
        let warned = vec![false; tasks.len()];
        Monitor(Arc::new(Mutex::new(Board { attempt: 0, tasks, warned, listeners: Vec::new() })))
    }

    fn lock(&self) -> MutexGuard<'_, Board> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known now.
    pub fn snapshot(&self) -> Snapshot {
        let board = self.lock();
        Snapshot { attempt: board.attempt, tasks: board.tasks.clone() }
    }

    /// The number of tasks.
    pub fn tasks(&self) -> usize {
        self.lock().tasks.len()
    }

    /// The group begins anew: this is its attempt of that number, all tasks wait, and nothing has been reported.
    pub fn attempt(&self, attempt: u32) {
        let mut board = self.lock();
        board.attempt = attempt;
        board.warned.fill(false);
        for task in 0..board.tasks.len() {
            board.change(task, |view| {
                (view.attempt, view.state) = (attempt, State::Waiting);
                (view.report, view.reported) = (Report::new(), None);
            });
        }
    }

    /// All tasks that wait run now.
    pub fn started(&self) {
        let mut board = self.lock();
        for task in 0..board.tasks.len() {
            if board.tasks[task].state == State::Waiting {
                board.change(task, |view| view.state = State::Running);
            }
        }
    }

    /// A task has sent this: a report, as [`Report::encode`] writes it. What is no report is passed over, with a warning in the
    /// log, once a task and attempt.
    pub fn told(&self, task: usize, message: &[u8]) {
        match Report::decode(message) {
            Ok(report) => self.report(task, report),
            Err(error) => {
                let mut board = self.lock();
                if let Some(warned @ false) = board.warned.get_mut(task) {
                    *warned = true;
                    drop(board);
                    tracing::warn!(task, %error, "what a task reports is not understood, and passed over");
                }
            }
        }
    }

    /// A task has reported this. A task that waited runs; one that has ended may still be heard, and has ended all the same.
    /// Without effect where there is no such task.
    pub fn report(&self, task: usize, report: Report) {
        let attempt = self.lock().attempt;
        self.report_of(task, attempt, report);
    }

    /// The same of an attempt. What is left of an older one is not heard.
    pub(crate) fn report_of(&self, task: usize, attempt: u32, report: Report) {
        let mut board = self.lock();
        if task < board.tasks.len() && attempt == board.attempt {
            board.change(task, |view| {
                (view.report, view.reported) = (report, Some(SystemTime::now()));
                if view.state == State::Waiting {
                    view.state = State::Running;
                }
            });
        }
    }

    /// A task has ended, well or for the reason given. Without effect where there is no such task.
    pub fn ended(&self, task: usize, how: Result<(), String>) {
        let mut board = self.lock();
        if task < board.tasks.len() {
            board.change(task, |view| {
                view.state = match how {
                    Ok(()) => State::Succeeded,
                    Err(reason) => State::Failed(reason),
                };
            });
        }
    }

    /// What hears tasks that are ranks: for [`Launch::hear`].
    pub fn ear(&self) -> Arc<Hear> {
        let monitor = self.clone();
        Arc::new(move |task, message| monitor.told(task, message))
    }

    /// Has a launch tell this monitor, too, what its ranks tell and how each of them ends.
    pub fn watch(&self, launch: Launch) -> Launch {
        let monitor = self.clone();
        let ended = move |task, status: crate::launch::Status| {
            monitor.ended(task, if status.success() { Ok(()) } else { Err(status.to_string()) });
        };
        launch.also_hear(self.ear()).told_of_ends(Arc::new(ended))
    }

    /// A listener, which first hears of every task as it is now.
    pub fn changes(&self) -> Changes {
        let mut board = self.lock();
        let waiting = Waiting { views: board.tasks.iter().cloned().collect(), closed: false };
        let queue = Arc::new(Queue { waiting: Mutex::new(waiting), changed: Condvar::new() });
        board.listeners.push(Arc::downgrade(&queue));
        Changes(queue)
    }
}

impl Board {
    /// Changes a task and tells the listeners.
    fn change(&mut self, task: usize, change: impl FnOnce(&mut TaskView)) {
        let view = &mut self.tasks[task];
        change(view);
        // A clock that is set back does not make changes come in another order than they do.
        view.changed = view.changed.max(SystemTime::now());
        let (view, limit) = (&self.tasks[task], self.tasks.len() * WAITING);
        self.listeners.retain(|listener| {
            let listener = listener.upgrade();
            listener.map(|listener| listener.push(view.clone(), limit)).is_some()
        });
    }
}

#[derive(Debug)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug)]
struct Waiting {
    views: VecDeque<TaskView>,
    closed: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, view: TaskView, limit: usize) {
        let mut waiting = self.lock();
        if waiting.closed {
            return;
        }
        // A newer report takes the place of one that nobody has come for; no state and no attempt is lost.
        let last = waiting.views.iter().rposition(|other| other.task == view.task);
        if let Some(last) = last
            && (waiting.views[last].attempt, &waiting.views[last].state) == (view.attempt, &view.state)
        {
            waiting.views.remove(last);
        }
        waiting.views.push_back(view);
        if waiting.views.len() > limit {
            waiting.views.pop_front();
        }
        drop(waiting);
        self.changed.notify_all();
    }
}

/// Changes of a group's tasks, in the order in which they came: each state of each attempt, and of the reports between two of them the
/// newest that there is when somebody comes for it. Send, Sync and Clone; clones share what there is. When the last one is
/// dropped nothing is kept any more.
#[derive(Debug, Clone)]
pub struct Changes(Arc<Queue>);

impl Changes {
    /// Takes all changes that there are, and waits for the first, at most this long: none where none has come. `None` where
    /// [`close`](Changes::close) has been called and all are taken.
    pub fn wait(&self, timeout: Duration) -> Option<Vec<TaskView>> {
        let until = crate::transport::control::after(timeout);
        let mut waiting = self.0.lock();
        while waiting.views.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if waiting.closed {
                return None;
            }
            if left.is_zero() {
                break;
            }
            waiting = self.0.changed.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Some(waiting.views.drain(..).collect())
    }

    /// Lets changes gather for this long; less where there will be no more.
    pub fn pause(&self, pause: Duration) {
        let waiting = self.0.lock();
        let _ = self.0.changed.wait_timeout_while(waiting, pause, |waiting| !waiting.closed);
    }

    /// There will be no more changes: what is there can still be taken.
    pub fn close(&self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
#[path = "board_tests.rs"]
mod tests;
