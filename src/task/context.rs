//! A task, as its own code sees it.

use super::cancel::CancellationToken;
use super::gathering;
use super::info::{TaskDescription, TaskInfo};
use super::monitor::Reporter;
use crate::communicator::Communicator;
use crate::config::Config;
use crate::device::{Assigned, Device};
use crate::error::{CauseKind, Error, ErrorKind, Result};
use crate::transport::Exchange;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A task of a barrier group: who it is, who the others are, and how they meet. Spark's `BarrierTaskContext`, in microseconds.
///
/// [`TaskGroup::run`](super::TaskGroup::run) gives one to every thread. A process that was started as a task
/// [joins](TaskContext::from_env) its group. Its calls block until all tasks make them, at most for the configuration's
/// deadline; where one makes another call, ends without calling or dies, all others get an error that names it.
///
/// It can be sent to another thread but not shared: the order of calls is the task's to give.
pub struct TaskContext {
    /// For the calls of this page alone. Its ranks are partitions.
    lane: Communicator,
    description: TaskDescription,
    infos: Arc<[TaskInfo]>,
    cancellation: CancellationToken,
    reporter: Reporter,
}

impl TaskContext {
    /// Joins the group that this process was started into: by [`TaskGroup::run_program`](super::TaskGroup::run_program) or
    /// `ringfold run`, by mpirun, torchrun, Slurm or Kubernetes. Without any of them it is the only task of a group. Blocks
    /// until all tasks are there, at most for the configuration's `init_deadline`.
    ///
    /// # Errors
    /// As [`Communicator::from_env`]; [`Configuration`](ErrorKind::Configuration), in every task, where two tasks hold more of a
    /// device than there is of it.
    ///
    /// ```
    /// let task = ringfold::task::TaskContext::from_env()?;
    /// task.barrier()?;
    /// println!("task {} of {}, attempt {}", task.partition_id(), task.num_tasks(), task.attempt_number());
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    pub fn from_env() -> Result<TaskContext> {
        TaskContext::connect(&Config::from_env()?)
    }

    /// The same with a configuration of one's own.
    ///
    /// # Errors
    /// As [`from_env`](TaskContext::from_env).
    pub fn connect(config: &Config) -> Result<TaskContext> {
        let description = TaskDescription::of(config)?;
        TaskContext::of(Communicator::connect(config)?, description, config.attempt_id)
    }

    /// Joins a group that an engine has started, by the engine's own all-gather, which is used once: Spark's
    /// `BarrierTaskContext.allGather`, say. Where the configuration has an [attempt id](Config::attempt_id) on every rank, the
    /// group's generation follows from them, and whoever is left of an older attempt is refused.
    ///
    /// # Errors
    /// As [`from_env`](TaskContext::from_env), and whatever the exchange fails with.
    ///
    /// ```
    /// use ringfold::Config;
    /// use ringfold::bootstrap::CallbackExchange;
    /// use ringfold::task::{TaskContext, TaskDescription};
    /// let mut exchange = CallbackExchange::new(0, 1, |mine: &[u8]| Ok(vec![mine.to_vec()]));
    /// let config = Config::default().with_attempt_id(4711);
    /// let task = TaskContext::with_exchange(&mut exchange, &config, TaskDescription::new(2))?;
    /// assert_eq!((task.attempt_number(), task.generation()), (2, 4711));
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    pub fn with_exchange(
        exchange: &mut dyn Exchange,
        config: &Config,
        description: TaskDescription,
    ) -> Result<TaskContext> {
        TaskContext::of(Communicator::with_exchange(exchange, config)?, description, config.attempt_id)
    }

    /// A task in a process of its own, from its communicator: all tasks tell each other of themselves.
    fn of(lane: Communicator, description: TaskDescription, attempt_id: Option<u64>) -> Result<TaskContext> {
        let mine = TaskInfo::here(lane.rank(), attempt_id, description.resources.clone());
        // Numbers and strings: nothing that JSON could refuse.
        let message = serde_json::to_vec(&mine).unwrap_or_default();
        let infos: Result<Arc<[TaskInfo]>> = gathering::all_gather(&lane, &message)?
            .iter()
            .enumerate()
            .map(|(partition, message)| TaskInfo::decode(message, partition))
            .collect();
        let infos = infos.map_err(|error| error.at_rank(lane.rank()))?;
        super::claims::check(&infos).map_err(|error| error.at_rank(lane.rank()))?;
        let reporter = Reporter::of(&lane);
        Ok(TaskContext::among(lane, description, infos, reporter))
    }

    /// A task among others that are known already.
    pub(super) fn among(
        lane: Communicator,
        description: TaskDescription,
        infos: Arc<[TaskInfo]>,
        reporter: Reporter,
    ) -> Self {
        let cancellation = CancellationToken::new(lane.abort_handle());
        TaskContext { lane, description, infos, cancellation, reporter }
    }

    /// Which task this is, from 0 to [`num_tasks`](TaskContext::num_tasks) - 1: its rank in [`communicator`](TaskContext::communicator).
    pub fn partition_id(&self) -> usize {
        self.lane.rank()
    }

    /// How many tasks the group has.
    pub fn num_tasks(&self) -> usize {
        self.lane.world_size()
    }

    /// Which attempt of the group this is, counted from 0.
    pub fn attempt_number(&self) -> u32 {
        self.description.attempt
    }

    /// How many attempts there are at most; 0 where nobody says.
    pub fn max_attempts(&self) -> u32 {
        self.description.max_attempts
    }

    /// The generation of the group, which is another one in each attempt. Tasks of others cannot reach it.
    pub fn generation(&self) -> u32 {
        self.lane.generation()
    }

    /// Every task with its host, process and devices, by partition.
    pub fn task_infos(&self) -> &[TaskInfo] {
        &self.infos
    }

    /// What whoever started the group says to all tasks.
    pub fn local_property(&self, name: &str) -> Option<&str> {
        self.description.properties.get(name).map(String::as_str)
    }

    /// All of that.
    pub fn local_properties(&self) -> &BTreeMap<String, String> {
        &self.description.properties
    }

    /// What this task was given: devices with its share of each, and CPUs near them.
    pub fn resources(&self) -> &Assigned {
        &self.description.resources
    }

    /// The devices that are this task's, whole or shared.
    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        self.description.resources.devices.iter().map(|(device, _)| device)
    }

    /// All tasks in the order in which a ring follows the links of their devices; by partition where they have none. With
    /// [`Communicator::group`] it makes a communicator of that order.
    pub fn ring(&self) -> Vec<usize> {
        match self.description.ring.len() == self.num_tasks() {
            true => self.description.ring.clone(),
            false => (0..self.num_tasks()).collect(),
        }
    }

    /// What says when this task is to end early. It can be looked at in other threads too.
    pub fn cancellation(&self) -> &CancellationToken {
        &self.cancellation
    }

    /// Waits until all tasks are here.
    ///
    /// # Errors
    /// [`Mismatch`](ErrorKind::Mismatch) naming the task that calls something else; [`Closed`](ErrorKind::Closed) naming one that
    /// has ended without calling; [`PeerDead`](ErrorKind::PeerDead); [`Aborted`](ErrorKind::Aborted) where another task has failed;
    /// [`Deadline`](ErrorKind::Deadline).
    pub fn barrier(&self) -> Result<()> {
        self.lane.barrier()
    }

    /// Gives every task the messages of all, by partition. Messages may have any lengths, and come as they are in no more than two
    /// exchanges; short ones (up to 120 bytes) in one.
    ///
    /// # Errors
    /// As [`barrier`](TaskContext::barrier).
    ///
    /// ```
    /// let hosts = ringfold::task::TaskGroup::new(3)
    ///     .run(|task| task.all_gather(format!("host-{}", task.partition_id())))?;
    /// assert_eq!(hosts[1], ["host-0", "host-1", "host-2"]);
    /// # Ok::<(), ringfold::task::GroupError>(())
    /// ```
    pub fn all_gather(&self, message: impl AsRef<str>) -> Result<Vec<String>> {
        let messages = self.all_gather_bytes(message.as_ref())?;
        // A task that gathers bytes where others gather text makes the same exchange.
        let text = |(partition, message): (usize, Vec<u8>)| {
            String::from_utf8(message).map_err(|_| {
                let text = format!("what task {partition} gives is no text");
                Error::new(ErrorKind::Mismatch, text).blame(partition).at_rank(self.partition_id())
            })
        };
        messages.into_iter().enumerate().map(text).collect()
    }

    /// The same of bytes.
    ///
    /// # Errors
    /// As [`barrier`](TaskContext::barrier).
    pub fn all_gather_bytes(&self, message: impl AsRef<[u8]>) -> Result<Vec<Vec<u8>>> {
        gathering::all_gather(&self.lane, message.as_ref())
    }

    /// A communicator for collectives among the tasks, whose ranks are partitions. Ranks of one host are neighbours in its rings, in
    /// whatever order partitions are placed. Each has an order of its own and may go to a thread of its own; all tasks call this together.
    ///
    /// # Errors
    /// As [`barrier`](TaskContext::barrier).
    ///
    /// ```
    /// use ringfold::ReduceOp;
    /// let sums = ringfold::task::TaskGroup::new(4).run(|task| {
    ///     let comm = task.communicator()?;
    ///     let mut data = [task.partition_id() as f32; 3];
    ///     comm.all_reduce(&mut data, ReduceOp::Sum)?;
    ///     Ok::<_, ringfold::Error>(data[2])
    /// })?;
    /// assert_eq!(sums, [6.0; 4]);
    /// # Ok::<(), ringfold::task::GroupError>(())
    /// ```
    pub fn communicator(&self) -> Result<Communicator> {
        let communicator = self.lane.duplicate()?;
        self.reporter.include(&communicator);
        Ok(communicator)
    }

    /// Says how far this task is: so much of so much; a total of 0 is one that nobody knows. Whoever has started the group can see it
    /// while the task runs ([`monitor`](super::monitor)). Does not block, and may be called as often as is convenient.
    ///
    /// ```
    /// use ringfold::task::{TaskGroup, monitor::Monitor};
    /// let monitor = Monitor::new(2);
    /// TaskGroup::new(2).monitor(&monitor).run(|task| {
    ///     for row in 0..1000 {
    ///         task.progress(row + 1, 1000);
    ///     }
    ///     task.metric("loss", 0.25)
    /// })?;
    /// let seen = monitor.snapshot();
    /// assert_eq!((seen.fraction(), seen.count("succeeded")), (Some(1.0), 2));
    /// # Ok::<(), ringfold::task::GroupError>(())
    /// ```
    pub fn progress(&self, done: u64, total: u64) {
        self.reporter.progress(done, total);
    }

    /// Says what one of this task's numbers is now, as [`progress`](TaskContext::progress) does.
    ///
    /// # Errors
    /// [`InvalidArgument`](ErrorKind::InvalidArgument) for a name that is none, and beyond 64 of them.
    pub fn metric(&self, name: &str, value: f64) -> Result<()> {
        self.reporter.metric(name, value)
    }

    /// Says what has come out of this task, for whoever has started it as a process: the last result that is set before the context is
    /// dropped. (A task that is a thread returns its result.)
    ///
    /// # Errors
    /// [`InvalidArgument`](ErrorKind::InvalidArgument) beyond 4 KiB.
    pub fn set_result(&self, result: &str) -> Result<()> {
        self.reporter.result(result)
    }

    /// What tells of this task, for other threads, and for what else there is to be told.
    pub fn reporter(&self) -> &Reporter {
        &self.reporter
    }

    /// Whether the group has failed of this task.
    pub(super) fn has_failed(&self) -> bool {
        self.cancellation.reason().is_some_and(|cause| cause.culprit == self.partition_id())
    }

    /// Tells the others of this task's panic.
    pub(super) fn panicked(&self, message: &str) {
        let text = format!("task {} panicked: {message}", self.partition_id());
        self.lane.abort_handle().fail(CauseKind::UserPanic, text);
    }

    /// Ends the attempt for all tasks, as a failure of this one for this reason, which their errors tell. Where a group runs a task and
    /// knows its result ([`TaskGroup::run`](super::TaskGroup::run), [`main`](super::main)) an error is told by itself; a task that an engine has
    /// started calls this. A process that then ends with status 0, without [`main`](super::main), has succeeded as far as whoever started it
    /// can see.
    pub fn fail(&self, reason: &str) {
        let text = format!("task {} failed: {reason}", self.partition_id());
        self.lane.abort_handle().fail(CauseKind::Abort, text);
    }
}

impl fmt::Debug for TaskContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskContext")
            .field("partition_id", &self.partition_id())
            .field("num_tasks", &self.num_tasks())
            .field("attempt_number", &self.attempt_number())
            .finish_non_exhaustive()
    }
}
