//! One attempt in threads of this process.

use super::attempt::Ended;
use super::context::TaskContext;
use super::control::Current;
use super::failure::{FailureKind, TaskFailure, words};
use super::group::TaskGroup;
use super::info::TaskInfo;
use super::monitor::Reporter;
use super::placement::Placed;
use crate::communicator::{AbortHandle, Communicator};
use crate::device::Assigned;
use crate::error::{Cause, CauseKind, Error, ErrorKind};
use crate::launch::name;
use crate::transport::control::after;
use std::any::Any;
use std::error::Error as StdError;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// After how long to say that a task does not heed that it is to end.
const HEEDLESS: Duration = Duration::from_secs(10);

/// An error of a task's own.
pub(super) type Boxed = Box<dyn StdError + Send + Sync>;

/// How a task has ended.
enum End<T> {
    Done(T),
    Failed(Fault),
}

impl<T> End<T> {
    fn outcome(&self) -> Result<(), String> {
        match self {
            End::Done(_) => Ok(()),
            End::Failed(fault) => Err(words(fault.kind, &fault.message)),
        }
    }
}

/// A failure, as its task tells it.
struct Fault {
    kind: FailureKind,
    message: String,
}

/// Where tasks wait until all of them exist.
#[derive(Default)]
struct Gate {
    /// Whether they may go; `None` until that is known.
    open: Mutex<Option<bool>>,
    changed: Condvar,
}

impl Gate {
    fn decide(&self, open: bool) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(open);
        self.changed.notify_all();
    }

    fn pass(&self) -> bool {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match *open {
                Some(open) => return open,
                None => open = self.changed.wait(open).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// A gate that is decided, whatever happens.
struct Keeper<'a>(&'a Gate);

impl Drop for Keeper<'_> {
    fn drop(&mut self) {
        self.0.decide(false);
    }
}

/// Runs a function in as many threads as there are tasks. Returns when all have.
pub(super) fn attempt<T, E, F>(
    group: &TaskGroup,
    number: u32,
    placed: &Placed,
    body: &F,
) -> Result<Vec<T>, Ended>
where
    T: Send,
    E: Into<Boxed>,
    F: Fn(&TaskContext) -> Result<T, E> + Sync,
{
    let config = group.config.clone().with_generation(group.config.generation.wrapping_add(number));
    let lanes = Communicator::local_with(group.tasks, &config).map_err(Ended::Refused)?;
    let groups: Vec<AbortHandle> = lanes.iter().map(Communicator::abort_handle).collect();
    let info = |(partition, assigned): (usize, &Assigned)| TaskInfo::here(partition, None, assigned.clone());
    let infos: Arc<[TaskInfo]> = placed.tasks.iter().enumerate().map(info).collect();
    let _entered = group.control.enter(Current::Threads(groups[0].clone()));
    let (tell, hear) = channel();
    let gate = Gate::default();
    thread::scope(|scope| {
        let keeper = Keeper(&gate);
        for (partition, lane) in lanes.into_iter().enumerate() {
            let (tell, gate, group_of_task) = (tell.clone(), &gate, groups[partition].clone());
            let infos = Arc::clone(&infos);
            let task = move || {
                if !gate.pass() {
                    return;
                }
                let description = group.description(number, placed, partition);
                let reporter = match &group.monitor {
                    Some(monitor) => Reporter::to(monitor, (partition, number), &lane),
                    None => Reporter::of(&lane),
                };
                let context = TaskContext::among(lane, description, infos, reporter);
                let end = work(&context, body);
                if let End::Failed(fault) = &end {
                    fault.tell(partition, &group_of_task);
                }
                context.reporter().flush();
                if let Some(monitor) = &group.monitor {
                    monitor.ended(partition, end.outcome());
                }
                // It leaves the group before anybody knows that it has ended: so nobody waits for it.
                drop(context);
                let _ = tell.send((partition, end));
            };
            let made = thread::Builder::new().name(format!("task-{partition}")).spawn_scoped(scope, task);
            if let Err(error) = made {
                drop(keeper);
                let text = format!("starting the thread of task {partition} of {}", group.tasks);
                let told = Error::io(text, error).remedy("start fewer tasks, or raise the limit of threads");
                return Err(Ended::Refused(told));
            }
        }
        if let Some(monitor) = &group.monitor {
            monitor.started();
        }
        gate.decide(true);
        drop(tell);
        collect(group, number, &hear, &groups)
    })
}

/// What a task does.
fn work<T, E: Into<Boxed>>(context: &TaskContext, body: &impl Fn(&TaskContext) -> Result<T, E>) -> End<T> {
    let failed = |kind, message| End::Failed(Fault { kind, message });
    if let Err(error) = context.resources().pin(0) {
        return failed(FailureKind::Error, error.to_string());
    }
    // What is a user's may panic, the words of errors included.
    let words = |error: E| -> String { error.into().to_string() };
    match catch_unwind(AssertUnwindSafe(|| body(context).map_err(words))) {
        Ok(Ok(result)) => End::Done(result),
        Ok(Err(message)) => failed(FailureKind::Error, message),
        Err(panic) => failed(FailureKind::Panic, panic_message(&*panic).to_owned()),
    }
}

/// The words of a panic.
pub(super) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    (panic.downcast_ref::<&str>().copied())
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message")
}

impl Fault {
    /// Tells the group, which knows already where this is the consequence of what another task did.
    fn tell(&self, partition: usize, group: &AbortHandle) {
        let Fault { kind, message } = self;
        let of = if *kind == FailureKind::Panic { CauseKind::UserPanic } else { CauseKind::Abort };
        group.fail(of, format!("task {partition} {kind}: {message}"));
    }
}

/// Hears how the tasks end. The first failure, or the end of the time, ends all.
fn collect<T>(
    group: &TaskGroup,
    number: u32,
    hear: &Receiver<(usize, End<T>)>,
    groups: &[AbortHandle],
) -> Result<Vec<T>, Ended> {
    let mut results: Vec<Option<T>> = (0..group.tasks).map(|_| None).collect();
    let mut failed: Vec<(usize, Fault)> = Vec::new();
    let mut running = vec![true; group.tasks];
    let mut limit = group.timeout.map(after);
    let mut late = Vec::new();
    let mut told_to_end: Option<Instant> = None;
    while running.contains(&true) {
        let complaint = told_to_end.map(|at| at + HEEDLESS);
        let until = limit.into_iter().chain(complaint).min();
        let heard = match until {
            None => hear.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(until) => hear.recv_timeout(until.saturating_duration_since(Instant::now())),
        };
        match heard {
            Ok((partition, end)) => {
                running[partition] = false;
                match end {
                    End::Done(result) => results[partition] = Some(result),
                    End::Failed(fault) => {
                        told_to_end.get_or_insert_with(Instant::now);
                        failed.push((partition, fault));
                    }
                }
            }
            Err(RecvTimeoutError::Timeout) if limit.is_some_and(|limit| Instant::now() >= limit) => {
                limit = None;
                if !failed.is_empty() {
                    // They have been told to end already, and why is known.
                    continue;
                }
                late = (0..group.tasks).filter(|&partition| running[partition]).collect();
                told_to_end.get_or_insert_with(Instant::now);
                let text = format!("the time for attempt {number} was up, and {} not done", are(&late));
                groups[late[0]].fail(CauseKind::Abort, text);
            }
            Err(RecvTimeoutError::Timeout) => {
                told_to_end = None;
                let heedless: Vec<usize> = (0..group.tasks).filter(|&partition| running[partition]).collect();
                tracing::warn!("{} told to end, and the group waits for that", are(&heedless));
            }
            // Every thread tells how it ends, even by a panic.
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let failure = |partition: usize, kind: FailureKind, message: String| {
        let process = std::process::id();
        Err(Ended::Failed(TaskFailure { partition, attempt: number, kind, process, message }, None))
    };
    if let Some(&first) = late.first() {
        let limit = group.timeout.unwrap_or_default();
        return failure(first, FailureKind::Timeout, format!("{} not done within {limit:?}", are(&late)));
    }
    // The group's own verdict knows who was first, whatever words the tasks' errors have.
    let verdict = groups.iter().filter_map(AbortHandle::failure).reduce(Cause::merge);
    if let Some(cause) = verdict.filter(|cause| cause.culprit < group.tasks) {
        if let Some(at) = failed.iter().position(|(partition, _)| *partition == cause.culprit) {
            let (partition, fault) = failed.swap_remove(at);
            return failure(partition, fault.kind, fault.message);
        }
        // Who is blamed has ended as if all were well. That is a failure where it has said so itself, or others have failed of it.
        let kind = match cause.kind {
            CauseKind::UserPanic => FailureKind::Panic,
            _ => FailureKind::Error,
        };
        if !failed.is_empty() || matches!(cause.kind, CauseKind::Abort | CauseKind::UserPanic) {
            return failure(cause.culprit, kind, cause.detail);
        }
    }
    if !failed.is_empty() {
        let (partition, fault) = failed.swap_remove(0);
        return failure(partition, fault.kind, fault.message);
    }
    let all: Option<Vec<T>> = results.into_iter().collect();
    all.ok_or_else(|| Ended::Refused(Error::new(ErrorKind::TaskFailed, "a task has ended without a word")))
}

/// "task 3 is", "tasks 1 and 2 are".
fn are(tasks: &[usize]) -> String {
    format!("{} {}", name("task", tasks), if tasks.len() == 1 { "is" } else { "are" })
}
