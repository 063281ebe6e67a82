#![doc = include_str!("keys.md")]

use super::environment::{self as names, bad, check_store, duration, world_id};
use super::{Config, configuration};
use crate::error::Result;
use std::fmt::Write as _;
use std::time::Duration;

/// Something that can be configured: the one place that says how, from which the reader of files, the reader of the
/// environment and the documentation are made.
pub struct Key {
    /// The name in a configuration file; in the environment it is in capitals behind `RINGFOLD_`.
    pub name: &'static str,
    /// The name in the environment.
    pub environment: &'static str,
    /// The method of [`Config`] that sets it.
    pub builder: &'static str,
    /// The method of [`Options`](crate::Options) that sets it for one call, where it is about calls.
    pub call: Option<&'static str>,
    /// What holds where nobody says anything, in words.
    pub default: &'static str,
    /// What it is, and what may be given.
    pub meaning: &'static str,
    set: fn(&mut Config, &str, &str) -> Result<()>,
    show: fn(&Config) -> Option<String>,
}

impl Key {
    /// The key with this name in a file.
    pub fn named(name: &str) -> Option<&'static Key> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// Sets it to what a text says. An error calls it `called`.
    pub(super) fn set(&self, config: &mut Config, called: &str, text: &str) -> Result<()> {
        let text = text.trim();
        if text.is_empty() {
            return Err(bad(called, text, "something, or leave it out"));
        }
        (self.set)(config, called, text)
    }

    /// Its value in a configuration, as it could be written down; `None` where nothing is set.
    pub fn show(&self, config: &Config) -> Option<String> {
        (self.show)(config)
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("name", &self.name).finish_non_exhaustive()
    }
}

fn number<T: std::str::FromStr>(name: &str, text: &str, allowed: &str) -> Result<T> {
    text.parse().map_err(|_| bad(name, text, allowed))
}

fn time(of: Duration) -> Option<String> {
    Some(if of.subsec_nanos() == 0 { format!("{}s", of.as_secs()) } else { format!("{}ms", of.as_millis()) })
}

fn yes_or_no(name: &str, text: &str) -> Result<bool> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err(bad(name, text, "yes or no")),
    }
}

fn word(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}

const WHOLE: &str = "a whole number from 0";

/// All of them.
pub const KEYS: &[Key] = &[
    Key {
        name: "rank",
        environment: names::RANK,
        builder: "with_rank",
        call: None,
        default: "what the launcher says, else 0",
        meaning: "Which rank this process is. Together with world_size, from one source.",
        set: |c, name, text| {
            c.rank = Some(number(name, text, WHOLE)?);
            Ok(())
        },
        show: |c| c.rank.map(|rank| rank.to_string()),
    },
    Key {
        name: "world_size",
        environment: names::WORLD_SIZE,
        builder: "with_world_size",
        call: None,
        default: "what the launcher says, else 1",
        meaning: "The number of ranks.",
        set: |c, name, text| {
            c.world_size = Some(number(name, text, WHOLE)?);
            Ok(())
        },
        show: |c| c.world_size.map(|size| size.to_string()),
    },
    Key {
        name: "local_rank",
        environment: names::LOCAL_RANK,
        builder: "with_local",
        call: None,
        default: "what the launcher says",
        meaning: "The place of this rank among those of its host.",
        set: |c, name, text| {
            c.local_rank = Some(number(name, text, WHOLE)?);
            Ok(())
        },
        show: |c| c.local_rank.map(|rank| rank.to_string()),
    },
    Key {
        name: "local_world_size",
        environment: names::LOCAL_WORLD_SIZE,
        builder: "with_local",
        call: None,
        default: "what the launcher says",
        meaning: "The number of ranks on this host.",
        set: |c, name, text| {
            c.local_size = Some(number(name, text, WHOLE)?);
            Ok(())
        },
        show: |c| c.local_size.map(|size| size.to_string()),
    },
    Key {
        name: "store",
        environment: names::STORE,
        builder: "with_store",
        call: None,
        default: "what the launcher says; ranks of one host find each other without",
        meaning: "Where the group meets: host:port, where rank 0 listens unless the launcher does; or file:///path, a directory that all ranks share.",
        set: |c, name, text| {
            check_store(name, text)?;
            c.store = Some(text.to_owned());
            Ok(())
        },
        show: |c| c.store.clone(),
    },
    Key {
        name: "store_host",
        environment: names::STORE_HOST,
        builder: "with_launcher_hosts_store",
        call: None,
        default: "rank0",
        meaning: "Who listens at the store's address: launcher or rank0.",
        set: |c, name, text| {
            c.launcher_hosts_store = match text {
                names::STORE_HOST_LAUNCHER => true,
                names::STORE_HOST_RANK0 => false,
                _ => return Err(bad(name, text, "launcher or rank0")),
            };
            Ok(())
        },
        show: |c| {
            let hosts = c.launcher_hosts_store;
            Some(if hosts { names::STORE_HOST_LAUNCHER } else { names::STORE_HOST_RANK0 }.to_owned())
        },
    },
    Key {
        name: "port",
        environment: names::PORT,
        builder: "with_port",
        call: None,
        default: "MASTER_PORT + 1; under Slurm one that follows from the job",
        meaning: "The port of rank 0's store, under torchrun and Slurm.",
        set: |c, name, text| match number(name, text, "a port from 1 to 65535")? {
            0 => Err(bad(name, text, "a port from 1 to 65535")),
            port => {
                c.port = Some(port);
                Ok(())
            }
        },
        show: |c| c.port.map(|port| port.to_string()),
    },
    Key {
        name: "interface",
        environment: names::INTERFACE,
        builder: "with_interface",
        call: None,
        default: "the one that routes to the store",
        meaning: "What this rank listens on: a name such as eth0, or an address of this host.",
        set: |c, _, text| {
            c.interface = Some(text.to_owned());
            Ok(())
        },
        show: |c| c.interface.clone(),
    },
    Key {
        name: "generation",
        environment: names::GENERATION,
        builder: "with_generation",
        call: None,
        default: "0; under torchrun on one host, its restarts",
        meaning: "How often the group has been formed anew: 0 to 4294967295. Ranks of others are refused.",
        set: |c, name, text| {
            c.generation = number(name, text, "0 to 4294967295")?;
            Ok(())
        },
        show: |c| Some(c.generation.to_string()),
    },
    Key {
        name: "attempt_id",
        environment: names::ATTEMPT_ID,
        builder: "with_attempt_id",
        call: None,
        default: "none",
        meaning: "The number of this attempt at a task, which an engine gives to no other (Spark: taskAttemptId). Where ranks meet by an exchange and all have one, the generation is the highest of them.",
        set: |c, name, text| {
            c.attempt_id = Some(number(name, text, WHOLE)?);
            Ok(())
        },
        show: |c| c.attempt_id.map(|id| id.to_string()),
    },
    Key {
        name: "task",
        environment: names::TASK,
        builder: "with_task",
        call: None,
        default: "what `ringfold run` and task groups say",
        meaning: "What a launcher tells a task: attempt number, resources, properties, as JSON.",
        set: |c, _, text| {
            c.task = Some(text.to_owned());
            Ok(())
        },
        show: |c| c.task.clone(),
    },
    Key {
        name: "world_id",
        environment: names::WORLD_ID,
        builder: "with_world_id",
        call: None,
        default: "0, which is any; under torchrun that of its run",
        meaning: "The launch, 64 bits, decimal or hexadecimal after 0x. Ranks of another one are refused.",
        set: |c, name, text| {
            c.world_id = world_id(name, text)?;
            Ok(())
        },
        show: |c| Some(format!("{:#x}", c.world_id)),
    },
    Key {
        name: "deadline",
        environment: names::DEADLINE,
        builder: "with_deadline",
        call: Some("deadline"),
        default: "30min",
        meaning: "How long an operation may take: seconds, or with a unit, such as 1.5, 500ms, 30min.",
        set: |c, name, text| {
            c.deadline = duration(name, text)?;
            Ok(())
        },
        show: |c| time(c.deadline),
    },
    Key {
        name: "init_deadline",
        environment: names::INIT_DEADLINE,
        builder: "with_init_deadline",
        call: None,
        default: "120s",
        meaning: "How long the forming of the group may take.",
        set: |c, name, text| {
            c.init_deadline = duration(name, text)?;
            Ok(())
        },
        show: |c| time(c.init_deadline),
    },
    Key {
        name: "heartbeat",
        environment: names::HEARTBEAT,
        builder: "with_heartbeat_deadline",
        call: None,
        default: "2s",
        meaning: "How long a rank may be silent before it counts as unresponsive.",
        set: |c, name, text| {
            c.heartbeat_deadline = duration(name, text)?;
            Ok(())
        },
        show: |c| time(c.heartbeat_deadline),
    },
    Key {
        name: "algorithm",
        environment: names::ALGORITHM,
        builder: "with_algorithm",
        call: Some("algorithm"),
        default: "the table's choice",
        meaning: "The algorithm: a name that `ringfold info` lists. Collectives that it does not do take their own.",
        set: |c, _, text| {
            c.algorithm = Some(text.to_owned());
            Ok(())
        },
        show: |c| c.algorithm.clone(),
    },
    Key {
        name: "backend",
        environment: names::BACKEND,
        builder: "with_backend",
        call: None,
        default: "auto",
        meaning: "By what bytes go between ranks: auto (shared memory where all are on one host and it can be had, within hosts and TCP between them where there are several, else TCP), shm, hierarchical (the second of these), tcp, mpi-p2p (MPI between two) or mpi (its own collectives), both in builds with the feature mpi, or nccl. What a rank cannot have is an error on all.",
        set: |c, name, text| {
            c.backend = text
                .parse()
                .map_err(|_| bad(name, text, "auto, shm, hierarchical, tcp, mpi-p2p, mpi or nccl"))?;
            Ok(())
        },
        show: |c| Some(c.backend.to_string()),
    },
    Key {
        name: "mpi_direct",
        environment: names::MPI_DIRECT,
        builder: "with_mpi_direct",
        call: None,
        default: "no",
        meaning: "Whether the backend mpi gives memory that calls have borrowed to MPI itself, yes or no. Yes saves a copy each way, and means: after an error that keeps memory (a deadline or an abort that came while MPI was at work) MPI may write there for as long as the process lives, and the program must not use that memory any more.",
        set: |c, name, text| {
            c.mpi_direct = yes_or_no(name, text)?;
            Ok(())
        },
        show: |c| Some(word(c.mpi_direct)),
    },
    Key {
        name: "mpi_blocking",
        environment: names::MPI_BLOCKING,
        builder: "with_mpi_blocking",
        call: None,
        default: "no",
        meaning: "Whether the backend mpi carries out verbs that block by MPI's blocking collectives, straight on the caller's memory, yes or no; the same on every rank. Yes is as quick as MPI itself, and means: such a call returns when MPI does, whatever its deadline, aborts and failures of others; the log says who has not come. Needs MPI_THREAD_MULTIPLE.",
        set: |c, name, text| {
            c.mpi_blocking = yes_or_no(name, text)?;
            Ok(())
        },
        show: |c| Some(word(c.mpi_blocking)),
    },
    Key {
        name: "check",
        environment: names::CHECK,
        builder: "with_check",
        call: Some("check"),
        default: "auto",
        meaning: "When ranks compare what they ask for: auto, normal or strict.",
        set: |c, _, text| {
            c.check = Some(text.to_owned());
            Ok(())
        },
        show: |c| c.check.clone(),
    },
    Key {
        name: "table",
        environment: names::TABLE,
        builder: "with_table",
        call: None,
        default: "the table that `ringfold plan table` prints",
        meaning: "Which algorithm for how many bytes, or a part of it: all_reduce: ..32K recursive_doubling, .. ring. The same on every rank.",
        set: |c, _, text| {
            c.table = Some(text.to_owned());
            Ok(())
        },
        show: |c| c.table.clone(),
    },
    Key {
        name: "trace",
        environment: names::TRACE,
        builder: "with_trace",
        call: None,
        default: "none is written",
        meaning: "A directory for traces, one file a rank; made where it is missing.",
        set: |c, _, text| {
            c.trace = Some(text.into());
            Ok(())
        },
        show: |c| c.trace.as_ref().map(|path| path.display().to_string()),
    },
    Key {
        name: "devices",
        environment: names::DEVICES,
        builder: "with_devices",
        call: None,
        default: "auto",
        meaning: "Where devices are looked for: auto (the NVIDIA driver, else AMD's), none, nvml, amd, script:/path as Spark has them, file:/path of a described machine, or a list such as 0,1 or GPU-8932f937.",
        set: |c, _, text| {
            c.devices = Some(text.to_owned());
            Ok(())
        },
        show: |c| c.devices.clone(),
    },
    Key {
        name: "device_claims",
        environment: names::DEVICE_CLAIMS,
        builder: "with_device_claims",
        call: None,
        default: "/tmp/ringfold-devices, for all users of the machine",
        meaning: "The directory where task groups hold their devices against other groups: the same for all that are to respect each other.",
        set: |c, _, text| {
            c.device_claims = Some(text.into());
            Ok(())
        },
        show: |c| c.device_claims.as_ref().map(|path| path.display().to_string()),
    },
    Key {
        name: "nccl",
        environment: names::NCCL,
        builder: "with_nccl",
        call: None,
        default: "libnccl.so.2, by the system's loader",
        meaning: "The file of NVIDIA's NCCL that the backend nccl is to use.",
        set: |c, _, text| {
            c.nccl = Some(text.into());
            Ok(())
        },
        show: |c| c.nccl.as_ref().map(|path| path.display().to_string()),
    },
    Key {
        name: "cuda",
        environment: names::CUDA,
        builder: "with_cuda",
        call: None,
        default: "libcuda.so.1, by the system's loader",
        meaning: "The file of the CUDA driver's library that is to be used.",
        set: |c, _, text| {
            c.cuda = Some(text.into());
            Ok(())
        },
        show: |c| c.cuda.as_ref().map(|path| path.display().to_string()),
    },
    Key {
        name: "cuda_device",
        environment: names::CUDA_DEVICE,
        builder: "with_cuda_device",
        call: None,
        default: "where this process sees several, that of its local rank; else 0",
        meaning: "The ordinal of the CUDA device that this rank works on, among those that its process sees.",
        set: |c, name, text| {
            c.cuda_device = Some(number(name, text, WHOLE)?);
            Ok(())
        },
        show: |c| c.cuda_device.map(|ordinal| ordinal.to_string()),
    },
    Key {
        name: "log",
        environment: names::LOG,
        builder: "with_log",
        call: None,
        default: "warn",
        meaning: "What the command logs, as a filter such as info,ringfold::transport=debug. Programs ask for it by `observe::log`.",
        set: |c, _, text| {
            c.log = Some(text.to_owned());
            Ok(())
        },
        show: |c| c.log.clone(),
    },
];

/// The table of all keys in Markdown, as the documentation shows it.
pub fn markdown() -> String {
    let mut table = String::from(
        "| in a file | in the environment | in a program | default | meaning |\n| --- | --- | --- | --- | --- |\n",
    );
    for key in KEYS {
        let call = key.call.map_or(String::new(), |call| format!("; a call: `Options::{call}`"));
        let Key { name, environment, builder, default, meaning, .. } = key;
        let _ = writeln!(
            table,
            "| `{name}` | `{environment}` | `Config::{builder}`{call} | {default} | {meaning} |"
        );
    }
    table
}

/// Who has said what a key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody.
    Default,
    /// The configuration file.
    File,
    /// The key's own name in the environment.
    Environment,
    /// What the launcher has put into the environment under its own names.
    Launcher,
}

/// A key with the value that holds in this process.
#[derive(Debug)]
pub struct Setting {
    /// Which.
    pub key: &'static Key,
    /// What is set, if anything is.
    pub value: Option<String>,
    /// By whom.
    pub origin: Origin,
}

/// What holds in this process, key by key: file and environment, as [`Config::from_env`] reads them.
///
/// # Errors
/// As [`Config::from_env`].
pub fn settings() -> Result<Vec<Setting>> {
    names::explain_process()
}

/// The error of a key that there is not.
pub(super) fn unknown(name: &str, file: &str) -> crate::error::Error {
    let all: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
    configuration(format!("{file}: there is no key {name:?}"))
        .remedy(format!("use one of {}", all.join(", ")))
}
