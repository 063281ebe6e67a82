//! The one reader of the process environment.
//!
//! First found wins: `RINGFOLD_*`, then torchrun's names, Open MPI's, PMI's as MPICH sets them, Slurm's, and those of
//! Kubernetes' indexed jobs. Rank, world size and their local kin are taken from one source together: a rank of one
//! launcher and a size of another make no group.
//!
//! [`CONFIG`] names a file that is read first, and that all of these outdo. What each name means, and its place in a
//! file, is listed at [`keys`](super::keys). Durations are seconds, or have a unit: `1.5`, `500ms`, `30min`.
//!
//! A `RINGFOLD_` name that is none of these is likely a slip: [`Config::from_env`] warns of it through `tracing` and
//! goes on, since another version may know it; `ringfold info` lists such names ([`unknown`]).
//!
//! # Launchers
//! - **torchrun**: `RANK`, `WORLD_SIZE` and their local kin, the store at `MASTER_ADDR`. A restart is a new generation
//!   (`TORCHELASTIC_RESTART_COUNT`) where all ranks are on one host. Agents of several hosts count their restarts
//!   apart, but all of them end their old ranks before new ones start.
//! - **Slurm**: the tasks of an `srun` step, by `SLURM_PROCID` and `SLURM_STEP_NUM_TASKS` (else `SLURM_NTASKS`). On
//!   one node ranks find each other. On several the store is on the first node of `SLURM_STEP_NODELIST`, at a port
//!   from 20000 to 31999 that follows from job and step. Where tasks are placed so that the first node has not rank 0
//!   (`--distribution=arbitrary`, heterogeneous jobs), set [`STORE`].
//! - **Kubernetes**: `JOB_COMPLETION_INDEX` of an indexed job is the rank; [`WORLD_SIZE`] and [`STORE`] are given in
//!   the manifest, see `examples/kubernetes.yaml`.

use super::keys::{KEYS, Key, Origin, Setting};
use super::{Config, Job, check_range, configuration, file};
use crate::error::{Error, Result};
use std::ffi::OsString;
use std::fmt;
use std::path::Path;
use std::time::Duration;

/// This rank.
pub const RANK: &str = "RINGFOLD_RANK";
/// The number of ranks.
pub const WORLD_SIZE: &str = "RINGFOLD_WORLD_SIZE";
/// The place of this rank among those on its host.
pub const LOCAL_RANK: &str = "RINGFOLD_LOCAL_RANK";
/// The number of ranks on this host.
pub const LOCAL_WORLD_SIZE: &str = "RINGFOLD_LOCAL_WORLD_SIZE";
/// Where the store listens.
pub const STORE: &str = "RINGFOLD_STORE";
/// Who hosts the store: [`STORE_HOST_LAUNCHER`] or [`STORE_HOST_RANK0`].
pub const STORE_HOST: &str = "RINGFOLD_STORE_HOST";
/// The interface to listen on.
pub const INTERFACE: &str = "RINGFOLD_INTERFACE";
/// The generation of the group.
pub const GENERATION: &str = "RINGFOLD_GENERATION";
/// The number that an engine gave this attempt at a task.
pub const ATTEMPT_ID: &str = "RINGFOLD_ATTEMPT_ID";
/// What a launcher tells a task of itself, as [`task::TaskDescription`](crate::task::TaskDescription) is written.
pub const TASK: &str = "RINGFOLD_TASK";
/// The identity of the launch; decimal, or hexadecimal after `0x`.
pub const WORLD_ID: &str = "RINGFOLD_WORLD_ID";
/// How long an operation may take.
pub const DEADLINE: &str = "RINGFOLD_DEADLINE";
/// How long the forming of the group may take.
pub const INIT_DEADLINE: &str = "RINGFOLD_INIT_DEADLINE";
/// How long a rank may be silent.
pub const HEARTBEAT: &str = "RINGFOLD_HEARTBEAT";
/// The port of rank 0's store under torchrun and Slurm.
pub const PORT: &str = "RINGFOLD_PORT";
/// The algorithm to use.
pub const ALGORITHM: &str = "RINGFOLD_ALGORITHM";
/// By what bytes go between ranks.
pub const BACKEND: &str = "RINGFOLD_BACKEND";
/// Whether MPI gets memory that calls have borrowed.
pub const MPI_DIRECT: &str = "RINGFOLD_MPI_DIRECT";
/// Whether verbs that block call MPI's blocking collectives.
pub const MPI_BLOCKING: &str = "RINGFOLD_MPI_BLOCKING";
/// How strictly ranks agree before an operation.
pub const CHECK: &str = "RINGFOLD_CHECK";
/// The directory for claims on devices.
pub const DEVICE_CLAIMS: &str = "RINGFOLD_DEVICE_CLAIMS";
/// The directory for traces.
pub const TRACE: &str = "RINGFOLD_TRACE";
/// Where devices are looked for.
pub const DEVICES: &str = "RINGFOLD_DEVICES";
/// The file of NVIDIA's NCCL.
pub const NCCL: &str = "RINGFOLD_NCCL";
/// The file of the CUDA driver's library.
pub const CUDA: &str = "RINGFOLD_CUDA";
/// The CUDA device of this rank.
pub const CUDA_DEVICE: &str = "RINGFOLD_CUDA_DEVICE";
/// What is logged.
pub const LOG: &str = "RINGFOLD_LOG";
/// The list of NVIDIA devices that a process sees.
pub const CUDA_VISIBLE_DEVICES: &str = "CUDA_VISIBLE_DEVICES";
/// The configuration file; no other is looked for.
pub const CONFIG: &str = "RINGFOLD_CONFIG";

/// What a [`STORE`] begins with that is a directory.
pub const DIRECTORY: &str = "file://";
/// The table by which algorithms are chosen.
pub const TABLE: &str = "RINGFOLD_TABLE";

/// The value of [`STORE_HOST`] by which a launcher says that it hosts the store.
pub const STORE_HOST_LAUNCHER: &str = "launcher";
/// The value of [`STORE_HOST`] that says what is the default: rank 0 hosts it.
pub const STORE_HOST_RANK0: &str = "rank0";

/// What launched this process, as far as the environment tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Launcher {
    /// `ringfold run`, or anybody who sets the same names.
    Ringfold,
    /// torchrun.
    Torchrun,
    /// Open MPI's mpirun.
    OpenMpi,
    /// MPICH's mpiexec, or another that speaks its PMI.
    Mpich,
    /// Slurm's srun.
    Slurm,
    /// An indexed job of Kubernetes.
    Kubernetes,
    /// Nothing known.
    #[default]
    None,
}

impl fmt::Display for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Launcher::Ringfold => "ringfold",
            Launcher::Torchrun => "torchrun",
            Launcher::OpenMpi => "Open MPI",
            Launcher::Mpich => "MPICH",
            Launcher::Slurm => "Slurm",
            Launcher::Kubernetes => "Kubernetes",
            Launcher::None => "none",
        })
    }
}

/// The names by which one launcher tells rank, world size, local rank and local size.
struct Names {
    launcher: Launcher,
    rank: &'static str,
    world: &'static str,
    local_rank: &'static str,
    local_size: &'static str,
}

/// Where a launcher has no variable for something: no variable has this name.
const UNTOLD: &str = "";

const SOURCES: [Names; 7] = [
    Names {
        launcher: Launcher::Ringfold,
        rank: RANK,
        world: WORLD_SIZE,
        local_rank: LOCAL_RANK,
        local_size: LOCAL_WORLD_SIZE,
    },
    Names {
        launcher: Launcher::Torchrun,
        rank: "RANK",
        world: "WORLD_SIZE",
        local_rank: "LOCAL_RANK",
        local_size: "LOCAL_WORLD_SIZE",
    },
    Names {
        launcher: Launcher::OpenMpi,
        rank: "OMPI_COMM_WORLD_RANK",
        world: "OMPI_COMM_WORLD_SIZE",
        local_rank: "OMPI_COMM_WORLD_LOCAL_RANK",
        local_size: "OMPI_COMM_WORLD_LOCAL_SIZE",
    },
    Names {
        launcher: Launcher::Mpich,
        rank: "PMI_RANK",
        world: "PMI_SIZE",
        local_rank: "MPI_LOCALRANKID",
        local_size: "MPI_LOCALNRANKS",
    },
    Names {
        launcher: Launcher::Slurm,
        rank: "SLURM_PROCID",
        world: "SLURM_STEP_NUM_TASKS",
        local_rank: "SLURM_LOCALID",
        local_size: UNTOLD,
    },
    Names {
        launcher: Launcher::Slurm,
        rank: "SLURM_PROCID",
        world: "SLURM_NTASKS",
        local_rank: "SLURM_LOCALID",
        local_size: UNTOLD,
    },
    Names {
        launcher: Launcher::Kubernetes,
        rank: "JOB_COMPLETION_INDEX",
        world: WORLD_SIZE,
        local_rank: UNTOLD,
        local_size: UNTOLD,
    },
];

pub(super) fn read_process() -> Result<Config> {
    for name in unknown() {
        tracing::warn!("{name}: no such variable is known, so it is ignored");
    }
    read(|name| std::env::var_os(name))
}

/// All variables of this process, as processes that it starts inherit them.
pub(crate) fn inherited() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os()
}

/// The variables of this process that begin with `RINGFOLD_` and mean nothing to this version, in order.
pub fn unknown() -> Vec<String> {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let mut unknown: Vec<String> = names.filter(|name| is_unknown(name)).collect();
    unknown.sort();
    unknown
}

/// The value of `CUDA_VISIBLE_DEVICES`, where it is set. An empty one makes no device visible, so it is not the same as none.
pub fn visible_devices() -> Option<String> {
    std::env::var_os(CUDA_VISIBLE_DEVICES).map(|value| value.to_string_lossy().into_owned())
}

/// Names of the test suite are nobody's slip.
fn is_unknown(name: &str) -> bool {
    name.starts_with("RINGFOLD_")
        && name != CONFIG
        && !KEYS.iter().any(|key| key.environment == name)
        && !["RINGFOLD_TEST_", "RINGFOLD_FUZZ_"].iter().any(|own| name.starts_with(own))
}

/// Reads a configuration through a function that looks names up.
pub(crate) fn read(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Config> {
    let env = Env(&lookup);
    let mut config = Config::default();
    env.file(&mut config)?;
    env.names(&mut config)?;
    Ok(config)
}

pub(super) fn explain_process() -> Result<Vec<Setting>> {
    explain(|name| std::env::var_os(name))
}

/// The same as [`read`], told key by key.
fn explain(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Vec<Setting>> {
    let env = Env(&lookup);
    let mut config = Config::default();
    env.file(&mut config)?;
    let of_nobody = read(|_| None)?;
    let of_file: Vec<_> = KEYS.iter().map(|key| key.show(&config)).collect();
    env.names(&mut config)?;
    let settings = KEYS.iter().zip(of_file).map(|(key, of_file)| {
        let value = key.show(&config);
        let origin = if env.is_set(key.environment) {
            Origin::Environment
        } else if value == key.show(&of_nobody) {
            Origin::Default
        } else if value == of_file {
            Origin::File
        } else {
            Origin::Launcher
        };
        Setting { key, value, origin }
    });
    Ok(settings.collect())
}

pub(super) struct Env<'a>(&'a dyn Fn(&str) -> Option<OsString>);

impl Env<'_> {
    /// What the file says, where one is named.
    fn file(&self, config: &mut Config) -> Result<()> {
        match self.text(CONFIG)? {
            Some(path) => file::read(Path::new(&path), config),
            None => Ok(()),
        }
    }

    /// What the names of the environment say, over what is there.
    fn names(&self, config: &mut Config) -> Result<()> {
        self.place(config)?;
        self.store(config)?;
        // Those above belong to each other, or may come under a launcher's names.
        const PLACED: [&str; 7] = [RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, STORE, STORE_HOST, PORT];
        for key in KEYS.iter().filter(|key| !PLACED.contains(&key.environment)) {
            self.key(key, config)?;
        }
        if config.launcher != Launcher::Torchrun {
            return Ok(());
        }
        // Agents of several hosts count their own restarts only, and would disagree.
        if !self.is_set(GENERATION)
            && config.local_size == config.world_size
            && let Some(restarts) = self.number("TORCHELASTIC_RESTART_COUNT", "0 to 4294967295")?
        {
            config.generation = restarts;
        }
        if !self.is_set(WORLD_ID)
            && let Some(run) = self.text("TORCHELASTIC_RUN_ID")?
        {
            config.world_id = fnv1a(run.as_bytes());
        }
        Ok(())
    }

    /// Sets a key where its name is there. Tells whether it is.
    fn key(&self, key: &Key, config: &mut Config) -> Result<bool> {
        match self.text(key.environment)? {
            Some(text) => key.set(config, key.environment, &text).map(|()| true),
            None => Ok(false),
        }
    }

    /// The same by its name.
    fn named(&self, name: &str, config: &mut Config) -> Result<bool> {
        KEYS.iter().find(|key| key.environment == name).map_or(Ok(false), |key| self.key(key, config))
    }

    /// A variable that is not there, or a text with something in it.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>> {
        let Some(value) = (self.0)(name) else { return Ok(None) };
        let text = value.into_string().map_err(|value| {
            configuration(format!("{name} is {value:?}, which is not UTF-8"))
                .remedy(format!("mend or unset {name}"))
        })?;
        if text.trim().is_empty() {
            return Err(bad(name, &text, "something, or no such variable"));
        }
        Ok(Some(text.trim().to_string()))
    }

    pub(super) fn number<T: std::str::FromStr>(&self, name: &str, allowed: &str) -> Result<Option<T>> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        text.parse().map(Some).map_err(|_| bad(name, &text, allowed))
    }

    pub(super) fn is_set(&self, name: &str) -> bool {
        (self.0)(name).is_some()
    }

    fn place(&self, config: &mut Config) -> Result<()> {
        let (rank, world) = (self.is_set(RANK), self.is_set(WORLD_SIZE));
        let indexed = self.is_set("JOB_COMPLETION_INDEX");
        if rank != world && !(world && indexed) {
            let (there, missing) = if rank { (RANK, WORLD_SIZE) } else { (WORLD_SIZE, RANK) };
            return Err(
                configuration(format!("{there} is set and {missing} is not")).remedy("set both, or neither")
            );
        }
        let mut sources = SOURCES.iter();
        let found = loop {
            match sources.next() {
                Some(names) if !self.applies(names)? => {}
                found => break found,
            }
        };
        let Some(names) = found else {
            if indexed {
                return Err(configuration(format!("JOB_COMPLETION_INDEX is set and {WORLD_SIZE} is not"))
                    .remedy(format!(
                        "set {WORLD_SIZE} to the job's completions, or to 1 for pods on their own"
                    )));
            }
            if config.rank.is_none() && config.world_size.is_none() {
                (config.rank, config.world_size) = (Some(0), Some(1));
                config.local_rank.get_or_insert(0);
                config.local_size.get_or_insert(1);
            }
            return Ok(());
        };
        const WHOLE: &str = "a whole number from 0";
        config.launcher = names.launcher;
        config.rank = self.number(names.rank, WHOLE)?;
        config.world_size = self.number(names.world, WHOLE)?;
        config.local_rank = self.number(names.local_rank, WHOLE)?;
        config.local_size = self.number(names.local_size, WHOLE)?;
        if let (Some(rank), Some(world)) = (config.rank, config.world_size) {
            check_range(names.rank, rank, names.world, world)?;
        }
        if let (Some(rank), Some(size)) = (config.local_rank, config.local_size) {
            check_range(names.local_rank, rank, names.local_size, size)?;
        }
        if let (Some(local), Some(world)) = (config.local_size, config.world_size)
            && local > world
        {
            return Err(bad(
                names.local_size,
                &local.to_string(),
                &format!("at most {} = {world}", names.world),
            ));
        }
        config.job = match names.launcher {
            Launcher::OpenMpi => self.open_mpi_job()?,
            Launcher::Mpich => Some(Job::Inherited {
                pmi: self.number("PMI_FD", "the number of a descriptor")?,
                control: self.number("HYDI_CONTROL_FD", "the number of a descriptor")?,
            }),
            _ => None,
        };
        Ok(())
    }

    fn applies(&self, names: &Names) -> Result<bool> {
        let told = self.is_set(names.rank) && self.is_set(names.world);
        Ok(match names.launcher {
            Launcher::Mpich if told => !self.is_pmi_of_slurm()?,
            Launcher::Slurm if told => self.is_slurm_task()?,
            _ => told,
        })
    }

    fn open_mpi_job(&self) -> Result<Option<Job>> {
        let daemon = self.text("OMPI_MCA_orte_hnp_uri")?;
        let name = match self.text("PMIX_NAMESPACE")? {
            Some(name) => Some(name),
            None => self.text("OMPI_MCA_ess_base_jobid")?.filter(|_| daemon.is_some()),
        };
        Ok(name.map(|name| Job::Name(format!("{name} {}", daemon.unwrap_or_default()))))
    }

    fn store(&self, config: &mut Config) -> Result<()> {
        self.named(PORT, config)?;
        if config.launcher == Launcher::Slurm {
            self.slurm(config)?;
        }
        if self.named(STORE, config)? {
            config.told = None;
        } else if config.launcher == Launcher::Torchrun
            && let Some(host) = self.text("MASTER_ADDR")?
        {
            let port = match (config.port, self.number::<u16>("MASTER_PORT", "a port from 1 to 65534")?) {
                (Some(port), _) => Some(port),
                (None, Some(port @ (0 | u16::MAX))) => {
                    let allowed =
                        format!("a port from 1 to 65534, since rank 0 listens on the next; or set {PORT}");
                    return Err(bad("MASTER_PORT", &port.to_string(), &allowed));
                }
                (None, Some(port)) => Some(port + 1),
                (None, None) => None,
            };
            config.meet_at(host, port);
        }
        self.named(STORE_HOST, config)?;
        if config.launcher_hosts_store && config.store.as_ref().is_some_and(|s| s.starts_with(DIRECTORY)) {
            let text = format!("{STORE} is a directory and {STORE_HOST} is {STORE_HOST_LAUNCHER}");
            return Err(configuration(text).remedy(format!("unset {STORE_HOST}: rank 0 hosts it")));
        }
        Ok(())
    }
}

pub(super) fn bad(name: &str, value: &str, allowed: &str) -> Error {
    configuration(format!("{name} is {value:?}")).remedy(format!("give {name} {allowed}"))
}

pub(super) fn check_store(name: &str, store: &str) -> Result<()> {
    if let Some(path) = store.strip_prefix(DIRECTORY) {
        let allowed = "a path that begins at the root, such as file:///shared/job";
        return if path.starts_with('/') { Ok(()) } else { Err(bad(name, store, allowed)) };
    }
    let good = store.rsplit_once(':').is_some_and(|(host, port)| {
        let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
        !host.is_empty() && !bare_v6 && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if good { Ok(()) } else { Err(bad(name, store, "host:port, such as 10.0.0.7:29500 or [fe80::7]:29500")) }
}

pub(super) fn world_id(name: &str, text: &str) -> Result<u64> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| bad(name, text, "64 bits, decimal or hexadecimal after 0x"))
}

/// What a duration may be, in words.
const DURATION: &str = "a time above zero, in seconds or with a unit: 1.5, 500ms, 2s, 30min; at most a year";

/// Reads a duration as users write it: in seconds, or with one of the units ms, s and min. Above zero, at most a
/// year.
///
/// # Errors
/// What may be written, in words.
pub fn parse_duration(text: &str) -> std::result::Result<Duration, &'static str> {
    let (number, scale) = match text {
        _ if text.ends_with("ms") => (&text[..text.len() - 2], 1e-3),
        _ if text.ends_with("min") => (&text[..text.len() - 3], 60.0),
        _ if text.ends_with('s') => (&text[..text.len() - 1], 1.0),
        _ => (text, 1.0),
    };
    let seconds = number.trim().parse::<f64>().map_err(|_| DURATION)? * scale;
    if !(seconds > 0.0 && seconds <= 365.0 * 86_400.0) {
        return Err(DURATION);
    }
    Ok(Duration::from_secs_f64(seconds).max(Duration::from_millis(1)))
}

pub(super) fn duration(name: &str, text: &str) -> Result<Duration> {
    parse_duration(text).map_err(|allowed| bad(name, text, allowed))
}

/// A hash that every build computes alike.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
#[path = "environment_tests.rs"]
mod tests;
