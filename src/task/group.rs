//! What a group is to be, and how it is run.

use super::attempt::retry;
use super::context::TaskContext;
use super::control::{Control, GroupHandle};
use super::failure::{GroupError, TaskFailure};
use super::info::TaskDescription;
use super::monitor::Monitor;
use super::placement::{Placed, place};
use super::threads::Boxed;
use super::{processes, threads};
use crate::config::Config;
use crate::device::{Discovery, Policy, TaskRequest};
use crate::error::Error;
use crate::launch::{Launch, Status};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// How long to wait before the first retry, and how long at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(10));

type OnRetry = Arc<dyn Fn(&TaskFailure, Duration) + Send + Sync>;

/// A barrier task group: so many tasks, that run all at once, and are tried again as one.
///
/// Plain data until it is run, which may be done several times and from several threads. What is cancelled stays so; a clone is
/// another group, which has not been.
#[must_use]
pub struct TaskGroup {
    pub(super) tasks: usize,
    pub(super) request: TaskRequest,
    pub(super) discovery: Discovery,
    pub(super) policy: Policy,
    pub(super) max_attempts: u32,
    pub(super) timeout: Option<Duration>,
    pub(super) config: Config,
    pub(super) on_retry: Option<OnRetry>,
    pub(super) monitor: Option<Monitor>,
    pub(super) control: Arc<Control>,
    backoff: (Duration, Duration),
    properties: BTreeMap<String, String>,
}

impl Clone for TaskGroup {
    fn clone(&self) -> Self {
        let TaskGroup { tasks, request, discovery, policy, max_attempts, timeout, config, .. } = self;
        TaskGroup {
            tasks: *tasks,
            request: request.clone(),
            discovery: discovery.clone(),
            policy: *policy,
            max_attempts: *max_attempts,
            timeout: *timeout,
            config: config.clone(),
            on_retry: self.on_retry.clone(),
            monitor: self.monitor.clone(),
            control: Arc::default(),
            backoff: self.backoff,
            properties: self.properties.clone(),
        }
    }
}

/// What became of a program whose tasks have all succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Completed {
    /// How each task's process ended, by partition: all with status 0.
    pub statuses: Vec<Status>,
    /// What each task has [said](TaskContext::set_result) that has come out of it, by partition; `None` where it has not, or has
    /// ended without dropping its [`TaskContext`] after it had.
    pub results: Vec<Option<String>>,
    /// How many attempts it took.
    pub attempts: u32,
}

impl TaskGroup {
    /// A group of this many tasks, each of which asks for nothing, and that is tried once.
    pub fn new(tasks: usize) -> Self {
        TaskGroup {
            tasks,
            request: TaskRequest::default(),
            discovery: Discovery::default(),
            policy: Policy::default(),
            max_attempts: 1,
            timeout: None,
            config: Config::default(),
            on_retry: None,
            monitor: None,
            control: Arc::default(),
            backoff: BACKOFF,
            properties: BTreeMap::new(),
        }
    }

    /// How many CPUs each task needs; 0 or none: it does not matter. They are counted, not reserved, unless the policy pins tasks.
    pub fn cpus_per_task(mut self, cpus: f64) -> Self {
        self.request = self.request.cpus(cpus);
        self
    }

    /// How many bytes of memory each task needs. They are counted against what is to be had now, and not reserved.
    pub fn memory_per_task(mut self, bytes: u64) -> Self {
        self.request = self.request.memory(bytes);
        self
    }

    /// How many GPUs each task needs; 0.5 lets two tasks share one. As
    /// [`resource_per_task`](TaskGroup::resource_per_task) of `gpu`.
    pub fn gpus_per_task(self, amount: f64) -> Self {
        self.resource_per_task("gpu", amount)
    }

    /// How much of a resource each task needs, by Spark's rule: a whole number of devices, or a fraction of one that as many
    /// tasks share as it goes into 1.
    pub fn resource_per_task(mut self, resource: impl Into<String>, amount: f64) -> Self {
        self.request = self.request.amount(resource, amount);
        self
    }

    /// Where to look for devices. Default: [`Discovery::default`]. It is looked only where a task asks for something. A group that does not
    /// fit is refused within a second, and where scripts are run their time comes on top: five seconds each at most.
    pub fn discovery(mut self, discovery: Discovery) -> Self {
        self.discovery = discovery;
        self
    }

    /// How tasks are placed on devices.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// How often to try at most. Default: 1. As 1 where it is 0.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// How long an attempt may take; when that has passed, its tasks are told to end. Default: no limit.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// How long to wait before the first retry, and at most; each wait is twice the one before. Default: 50 ms, and 10 s.
    pub fn backoff(mut self, first: Duration, most: Duration) -> Self {
        self.backoff = (first, most);
        self
    }

    /// Something that is said to all tasks: see [`TaskContext::local_property`].
    pub fn property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.properties.insert(name.into(), value.into());
        self
    }

    /// Deadline, table, algorithm and check of the communicators among threads, and the generation of the first attempt. (Processes
    /// read their own environment.)
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// A function to call when an attempt has failed and another will be made, after so long a wait. On the thread that runs the group.
    pub fn on_retry(mut self, tell: impl Fn(&TaskFailure, Duration) + Send + Sync + 'static) -> Self {
        self.on_retry = Some(Arc::new(tell));
        self
    }

    /// What is told of the group while it runs: the state of each task, and what it reports. One of as many tasks.
    pub fn monitor(mut self, monitor: &Monitor) -> Self {
        self.monitor = Some(monitor.clone());
        self
    }

    /// What ends the group from other threads.
    pub fn handle(&self) -> GroupHandle {
        GroupHandle(Arc::clone(&self.control))
    }

    /// Runs a function as every task, each in a thread of its own. Returns their results by partition. Blocks until all have
    /// returned, in the last attempt.
    ///
    /// A task that fails makes the collectives of the others fail and sets their
    /// [`CancellationToken`](super::CancellationToken); whoever heeds neither keeps the group waiting, since a thread cannot be ended.
    ///
    /// # Errors
    /// Where the group does not fit ([`Unavailable`](crate::ErrorKind::Unavailable)), or a thread is refused; the failures of all attempts;
    /// that it has been cancelled.
    ///
    /// ```
    /// use ringfold::task::TaskGroup;
    /// let sizes = TaskGroup::new(3).run(|task| Ok::<_, ringfold::Error>(task.num_tasks() + task.partition_id()))?;
    /// assert_eq!(sizes, [3, 4, 5]);
    /// # Ok::<(), ringfold::task::GroupError>(())
    /// ```
    pub fn run<T, E, F>(&self, body: F) -> Result<Vec<T>, GroupError>
    where
        T: Send,
        E: Into<Boxed>,
        F: Fn(&TaskContext) -> Result<T, E> + Sync,
    {
        let placed = self.place(None)?;
        retry(self, |attempt| threads::attempt(self, attempt, &placed, &body))
    }

    /// Runs a program as every task, each as a process of this host. Blocks until all have ended and nothing is left of them, in the
    /// last attempt. The program joins by [`TaskContext::from_env`], or by [`Communicator::from_env`](crate::Communicator::from_env).
    ///
    /// The launch's generation is the group's, and so is its timeout where the group has one. It is for as many ranks as there are tasks.
    ///
    /// # Errors
    /// As [`run`](TaskGroup::run); [`start_error`](GroupError::start_error) where the program cannot be started.
    ///
    /// ```no_run
    /// use ringfold::launch::Launch;
    /// use ringfold::task::TaskGroup;
    /// let group = TaskGroup::new(4).gpus_per_task(1.0).max_attempts(3);
    /// group.run_program(&Launch::new(4).program("./train"))?;
    /// # Ok::<(), ringfold::task::GroupError>(())
    /// ```
    pub fn run_program(&self, program: &Launch) -> Result<Completed, GroupError> {
        if program.ranks() != self.tasks {
            let text = format!("a launch of {} ranks for a group of {} tasks", program.ranks(), self.tasks);
            return Err(GroupError::refused(Error::invalid(text), Vec::new()));
        }
        let placed = self.place(Some(program))?;
        retry(self, |attempt| processes::attempt(self, attempt, &placed, program))
    }

    fn place(&self, program: Option<&Launch>) -> Result<Placed, GroupError> {
        place(self, program).map_err(|error| GroupError::refused(error, Vec::new()))
    }

    /// What a task is told of an attempt.
    pub(super) fn description(&self, attempt: u32, placed: &Placed, task: usize) -> TaskDescription {
        TaskDescription {
            attempt,
            max_attempts: self.max_attempts.max(1),
            properties: self.properties.clone(),
            resources: placed.tasks[task].clone(),
            ring: placed.ring.clone(),
        }
    }

    /// How long to wait after this attempt.
    pub(super) fn pause_after(&self, attempt: u32) -> Duration {
        let (first, most) = self.backoff;
        first.saturating_mul(1u32.checked_shl(attempt).unwrap_or(u32::MAX)).min(most)
    }
}

impl fmt::Debug for TaskGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskGroup")
            .field("tasks", &self.tasks)
            .field("request", &self.request)
            .field("max_attempts", &self.max_attempts)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_most() {
        let group = TaskGroup::new(1).backoff(Duration::from_millis(10), Duration::from_millis(55));
        let waits: Vec<u128> = (0..5).map(|attempt| group.pause_after(attempt).as_millis()).collect();
        assert_eq!(waits, [10, 20, 40, 55, 55]);
        assert_eq!(group.pause_after(99).as_millis(), 55);
    }
}
