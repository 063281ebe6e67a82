//! Who this process is in its group, how the group finds itself, and how patient it is.
//!
//! A [`Config`] is plain data. [`Config::from_env`] fills it from a configuration file, where one is named, and from
//! whatever launched the process; what is set on it afterwards wins, and so does what a call says of itself. All that
//! can be said, with its defaults, is listed at [`keys`]. Only `environment.rs` reads the process environment.

mod backend;
pub mod environment;
mod file;
mod hostlist;
pub mod keys;
mod slurm;

pub use backend::BackendChoice;
pub use environment::Launcher;

use crate::error::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Everything that has to be known before a group can form. Plain data: Send, Sync, cheap to clone.
///
/// ```
/// use ringfold::config::Config;
/// let config = Config::default().with_rank(1).with_world_size(4).with_store("10.0.0.7:29500");
/// assert_eq!(config.place().unwrap(), (1, 4));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// This rank.
    pub rank: Option<usize>,
    /// The number of ranks.
    pub world_size: Option<usize>,
    /// The place of this rank among those on its host.
    pub local_rank: Option<usize>,
    /// The number of ranks on this host.
    pub local_size: Option<usize>,
    /// Where the store listens, as `host:port`; or, as `file:///path`, a directory that all ranks share, in which
    /// rank 0 says where. What a launcher tells is here until something else is set; [`port`](Config::port) applies to
    /// that alone.
    pub store: Option<String>,
    /// Whether the launcher hosts the store; else rank 0 does.
    pub launcher_hosts_store: bool,
    /// The interface that this rank listens on: a name such as `eth0`, or one of this host's addresses.
    pub interface: Option<String>,
    /// The generation of the group: an older one is refused.
    pub generation: u32,
    /// The number that an engine gave this attempt at a task, unlike any before it: Spark's `taskAttemptId`. Where all ranks
    /// that meet by an exchange have one, the generation follows from them.
    pub attempt_id: Option<u64>,
    /// What a launcher tells this process of its task, as JSON: see [`task::TaskDescription`](crate::task::TaskDescription).
    pub task: Option<String>,
    /// The launch: ranks of another one are refused.
    pub world_id: u64,
    /// How long an operation may take.
    pub deadline: Duration,
    /// How long the forming of the group may take.
    pub init_deadline: Duration,
    /// How long a rank may be silent.
    pub heartbeat_deadline: Duration,
    /// The port that rank 0's store listens on under torchrun and Slurm, unless a store is set.
    pub port: Option<u16>,
    /// The algorithm to use where one is asked for.
    pub algorithm: Option<String>,
    /// By what bytes go between ranks. Every rank must say the same, or nothing.
    pub backend: BackendChoice,
    /// Whether the backend `mpi` gives memory that calls have borrowed to MPI itself.
    pub mpi_direct: bool,
    /// Whether the backend `mpi` calls MPI's blocking collectives where a caller waits. The same on every rank.
    pub mpi_blocking: bool,
    /// How strictly ranks agree before an operation.
    pub check: Option<String>,
    /// The directory for traces, where some are wanted: see [`observe::trace`](crate::observe::trace).
    pub trace: Option<PathBuf>,
    /// Where devices are looked for: see [`Discovery::parse`](crate::device::Discovery::parse), which reads it.
    pub devices: Option<String>,
    /// Where claims on devices are kept, if not in [`default_directory`](crate::device::default_directory).
    pub device_claims: Option<PathBuf>,
    /// The file of NVIDIA's NCCL; where none is named, the system's loader looks for it.
    pub nccl: Option<PathBuf>,
    /// The file of the CUDA driver's library; where none is named, the system's loader looks for it.
    pub cuda: Option<PathBuf>,
    /// The ordinal of the CUDA device that this rank works on.
    pub cuda_device: Option<u32>,
    /// What to log, as a filter: see `observe::log`. The library itself does not look at it.
    pub log: Option<String>,
    /// The table by which algorithms are chosen, or a part of it, as [`Table`](crate::plan::select::Table) is written.
    /// Every rank must have the same.
    pub table: Option<String>,
    /// What launched the process.
    pub launcher: Launcher,
    /// What the ranks of one launch have in common, by which those on one host find each other without a store.
    pub job: Option<Job>,
    /// What a launcher says of the store.
    told: Option<Told>,
}

/// The host of rank 0, and the store that follows from it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    host: String,
    store: Option<String>,
}

/// Something that all local ranks of one launch share and no other launch has.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Job {
    /// A name that the launcher gave.
    Name(String),
    /// Descriptors inherited from MPICH's process manager: its own end of the first is one process for all local
    /// ranks, and the second is one socket for all of them.
    Inherited {
        /// The number in `PMI_FD`.
        pmi: Option<i32>,
        /// The number in `HYDI_CONTROL_FD`.
        control: Option<i32>,
    },
}

impl Default for Config {
    fn default() -> Self {
        Config {
            rank: None,
            world_size: None,
            local_rank: None,
            local_size: None,
            store: None,
            launcher_hosts_store: false,
            interface: None,
            generation: 0,
            attempt_id: None,
            task: None,
            world_id: 0,
            deadline: Duration::from_secs(30 * 60),
            init_deadline: Duration::from_secs(120),
            heartbeat_deadline: Duration::from_secs(2),
            port: None,
            algorithm: None,
            backend: BackendChoice::Auto,
            mpi_direct: false,
            mpi_blocking: false,
            check: None,
            trace: None,
            devices: None,
            device_claims: None,
            nccl: None,
            cuda: None,
            cuda_device: None,
            log: None,
            table: None,
            launcher: Launcher::None,
            job: None,
            told: None,
        }
    }
}

impl Config {
    /// The configuration that the process environment gives, and a file where `RINGFOLD_CONFIG` names one; see
    /// [`environment`] for the names. Without any, this process is rank 0 of 1.
    ///
    /// # Errors
    /// [`Configuration`](ErrorKind::Configuration), naming the variable or the key in the file, its value and what is
    /// allowed.
    pub fn from_env() -> Result<Config> {
        environment::read_process()
    }

    /// The configuration that a file alone gives, in TOML, with the keys that [`keys`] lists.
    ///
    /// # Errors
    /// As [`from_env`](Config::from_env).
    ///
    /// ```
    /// # let path = std::env::temp_dir().join(format!("ringfold-doc-{}.toml", std::process::id()));
    /// std::fs::write(&path, "deadline = \"90s\"\nalgorithm = \"ring\"\n").unwrap();
    /// let config = ringfold::Config::from_file(&path)?;
    /// assert_eq!(config.deadline.as_secs(), 90);
    /// # std::fs::remove_file(&path).unwrap();
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    pub fn from_file(path: impl AsRef<Path>) -> Result<Config> {
        let mut config = Config::default();
        file::read(path.as_ref(), &mut config)?;
        Ok(config)
    }

    /// Sets what a [key](keys) is to be, as it would stand in a file.
    ///
    /// ```
    /// let mut config = ringfold::Config::default();
    /// config.set("deadline", "90s")?;
    /// assert_eq!(config.deadline.as_secs(), 90);
    /// assert!(config.set("dead_line", "90s").is_err());
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Configuration`](ErrorKind::Configuration), naming the key, the value and what is allowed.
    pub fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let known = keys::Key::named(key).ok_or_else(|| keys::unknown(key, "the configuration"))?;
        known.set(self, key, value)
    }

    /// The rank and the number of ranks.
    ///
    /// # Errors
    /// [`Configuration`](ErrorKind::Configuration) where one of them is missing, or they contradict each other.
    pub fn place(&self) -> Result<(usize, usize)> {
        let (rank, world) = match (self.rank, self.world_size) {
            (Some(rank), Some(world)) => (rank, world),
            (None, None) | (None, Some(1)) => (0, 1),
            (Some(rank), None) => {
                return Err(configuration(format!("rank {rank} does not know the number of ranks"))
                    .remedy(format!("set {}", environment::WORLD_SIZE)));
            }
            (None, Some(world)) => {
                return Err(configuration(format!("which of {world} ranks this process is, is not known"))
                    .remedy(format!("set {}", environment::RANK)));
            }
        };
        check_range("rank", rank, "world size", world)?;
        if let (Some(local), Some(size)) = (self.local_rank, self.local_size) {
            check_range("local rank", local, "local size", size)?;
        }
        if self.local_size.is_some_and(|size| size > world) {
            return Err(configuration(format!("a local size beyond the world size of {world}")));
        }
        Ok((rank, world))
    }

    /// Where the group meets: the store, at [`port`](Config::port) where a launcher tells only the host.
    pub(crate) fn meeting_place(&self) -> Option<String> {
        match (&self.told, self.port) {
            (Some(told), Some(port)) if told.store == self.store => Some(at(&told.host, port)),
            _ => self.store.clone(),
        }
    }

    /// Whether its ranks can meet by what it says alone.
    #[cfg(feature = "mpi")]
    pub(crate) fn has_meeting(&self) -> bool {
        let on_one_host =
            self.job.is_some() && self.local_size.is_some() && self.local_size == self.world_size;
        self.meeting_place().is_some() || on_one_host || matches!(self.place(), Ok((_, 1)))
    }

    /// Takes note of the host of rank 0 that a launcher tells, and of the port there that follows, if one does.
    fn meet_at(&mut self, host: String, port: Option<u16>) {
        let store = port.map(|port| at(&host, port));
        if store.is_some() {
            self.store.clone_from(&store);
        }
        self.told = Some(Told { host, store });
    }

    /// Sets the rank.
    pub fn with_rank(mut self, rank: usize) -> Self {
        self.rank = Some(rank);
        self
    }

    /// Sets the number of ranks.
    pub fn with_world_size(mut self, world: usize) -> Self {
        self.world_size = Some(world);
        self
    }

    /// Sets the place among the ranks of this host, and their number.
    pub fn with_local(mut self, rank: usize, size: usize) -> Self {
        (self.local_rank, self.local_size) = (Some(rank), Some(size));
        self
    }

    /// Sets where the store listens, as `host:port`; or a directory that all ranks share, as `file:///path`.
    pub fn with_store(mut self, store: impl Into<String>) -> Self {
        self.store = Some(store.into());
        self.told = None;
        self
    }

    /// Says whether the launcher hosts the store.
    pub fn with_launcher_hosts_store(mut self, hosts: bool) -> Self {
        self.launcher_hosts_store = hosts;
        self
    }

    /// Sets the interface to listen on, by name or address.
    pub fn with_interface(mut self, interface: impl Into<String>) -> Self {
        self.interface = Some(interface.into());
        self
    }

    /// Sets the generation.
    pub fn with_generation(mut self, generation: u32) -> Self {
        self.generation = generation;
        self
    }

    /// Sets the number of this attempt at a task, as an engine counts them over all tasks and attempts.
    pub fn with_attempt_id(mut self, attempt_id: u64) -> Self {
        self.attempt_id = Some(attempt_id);
        self
    }

    /// Sets what a launcher tells of this task, as JSON.
    pub fn with_task(mut self, task: impl Into<String>) -> Self {
        self.task = Some(task.into());
        self
    }

    /// Sets the launch's identity.
    pub fn with_world_id(mut self, world_id: u64) -> Self {
        self.world_id = world_id;
        self
    }

    /// Sets how long an operation may take.
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets how long the forming of the group may take.
    pub fn with_init_deadline(mut self, deadline: Duration) -> Self {
        self.init_deadline = deadline;
        self
    }

    /// Sets the table by which algorithms are chosen, or a part of it: `all_reduce: ..32K recursive_doubling, .. ring`.
    pub fn with_table(mut self, table: impl Into<String>) -> Self {
        self.table = Some(table.into());
        self
    }

    /// Sets how long a rank may be silent.
    pub fn with_heartbeat_deadline(mut self, deadline: Duration) -> Self {
        self.heartbeat_deadline = deadline;
        self
    }

    /// Sets the port of rank 0's store under torchrun and Slurm, which tell its host; every rank sets the same. Elsewhere,
    /// and where a store is set, it means nothing.
    pub fn with_port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Sets the algorithm to use where it can do what is asked, by its name.
    pub fn with_algorithm(mut self, name: impl Into<String>) -> Self {
        self.algorithm = Some(name.into());
        self
    }

    /// Sets by what bytes go between ranks.
    pub fn with_backend(mut self, backend: BackendChoice) -> Self {
        self.backend = backend;
        self
    }

    /// Sets whether the backend `mpi` gives memory that calls have borrowed to MPI itself, instead of passing it through memory of its own:
    /// a copy less each way.
    ///
    /// Whoever sets it promises something. MPI cannot be stopped: where a call returns an error that
    /// [keeps memory](crate::Error::keeps_memory), because its deadline passed or the group failed within MPI, MPI may write to
    /// that memory for as long as the process lives. So the program must not use, free or lend it after that; the best that it can do is to
    /// end.
    pub fn with_mpi_direct(mut self, direct: bool) -> Self {
        self.mpi_direct = direct;
        self
    }

    /// Sets whether the backend `mpi` carries out verbs that block by MPI's blocking collectives (`MPI_Allreduce`), straight on the caller's
    /// memory: as quick as MPI itself. The same on every rank, which is compared when the group forms. It needs an MPI with the thread level
    /// `MPI_THREAD_MULTIPLE`.
    ///
    /// What is given up is that such a call comes back from a deadline or an abort, or when others have failed: it does when MPI does, which
    /// may be never. What goes on is told by the log instead: a warning says whose deadline has passed within MPI and who has not come, or
    /// that the group has failed while this rank is there. A call that is late returns `Ok`, since its result is there; where the group has
    /// failed meanwhile, that error. Where MPI itself fails in such a call, the error [keeps memory](crate::Error::keeps_memory), and what
    /// [`with_mpi_direct`](Config::with_mpi_direct) demands holds for the call's memory.
    ///
    /// Messages, started, gathered and batched operations, counts between pairs and calls with strict checks are as without; that a rank waits for
    /// what others have started is a mismatch then, even where it is the same collective.
    pub fn with_mpi_blocking(mut self, blocking: bool) -> Self {
        self.mpi_blocking = blocking;
        self
    }

    /// Sets when ranks compare what they ask for: `auto`, `normal` or `strict`.
    pub fn with_check(mut self, check: impl Into<String>) -> Self {
        self.check = Some(check.into());
        self
    }

    /// Sets the directory for traces.
    pub fn with_trace(mut self, directory: impl Into<PathBuf>) -> Self {
        self.trace = Some(directory.into());
        self
    }

    /// Sets where devices are looked for: `auto`, `none`, `nvml`, `amd`, `script:/path`, `file:/path`, or a list such as `0,1`.
    pub fn with_devices(mut self, devices: impl Into<String>) -> Self {
        self.devices = Some(devices.into());
        self
    }

    /// Sets the directory where claims on devices are kept.
    pub fn with_device_claims(mut self, directory: impl Into<PathBuf>) -> Self {
        self.device_claims = Some(directory.into());
        self
    }

    /// Sets the file of NVIDIA's NCCL.
    pub fn with_nccl(mut self, file: impl Into<PathBuf>) -> Self {
        self.nccl = Some(file.into());
        self
    }

    /// Sets the file of the CUDA driver's library.
    pub fn with_cuda(mut self, file: impl Into<PathBuf>) -> Self {
        self.cuda = Some(file.into());
        self
    }

    /// Sets which CUDA device this rank works on, by its ordinal among those that its process sees.
    pub fn with_cuda_device(mut self, ordinal: u32) -> Self {
        self.cuda_device = Some(ordinal);
        self
    }

    /// Sets what to log.
    pub fn with_log(mut self, filter: impl Into<String>) -> Self {
        self.log = Some(filter.into());
        self
    }
}

fn at(host: &str, port: u16) -> String {
    let v6 = host.contains(':') && !host.starts_with('[');
    if v6 { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn configuration(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Configuration, message)
}

fn check_range(what: &str, rank: usize, of: &str, size: usize) -> Result<()> {
    if rank < size {
        return Ok(());
    }
    let remedy =
        if size == 0 { format!("set a {of} of at least 1") } else { format!("choose 0 to {}", size - 1) };
    Err(configuration(format!("{what} {rank} and {of} {size}: a {what} is below its {of}")).remedy(remedy))
}

#[cfg(test)]
#[path = "precedence_tests.rs"]
mod precedence;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_process_is_rank_0_of_1() {
        assert_eq!(Config::default().place().unwrap(), (0, 1));
        assert_eq!(Config::default().with_world_size(1).place().unwrap(), (0, 1));
    }

    #[test]
    fn half_a_place_and_impossible_places_are_refused() {
        for (config, says) in [
            (Config::default().with_rank(2), "RINGFOLD_WORLD_SIZE"),
            (Config::default().with_world_size(2), "RINGFOLD_RANK"),
            (Config::default().with_rank(2).with_world_size(2), "rank 2 and world size 2"),
            (Config::default().with_rank(0).with_world_size(0), "at least 1"),
            (Config::default().with_rank(0).with_world_size(2).with_local(3, 2), "local rank 3"),
            (Config::default().with_rank(0).with_world_size(2).with_local(0, 3), "local size"),
        ] {
            let error = config.place().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Configuration);
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}
