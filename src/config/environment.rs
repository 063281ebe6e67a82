//! The one reader of the process environment.
//!
//! First found wins: `RINGFOLD_*`, then torchrun's names, Open MPI's, and PMI's as MPICH sets them. Rank, world size
//! and their local kin are taken from one source together: a rank of one launcher and a size of another make no group.
//!
//! | name | value |
//! | --- | --- |
//! | [`RANK`], [`WORLD_SIZE`] | which rank of how many; both or neither |
//! | [`LOCAL_RANK`], [`LOCAL_WORLD_SIZE`] | the same among the ranks of this host |
//! | [`STORE`] | `host:port`; rank 0 listens there |
//! | [`STORE_HOST`] | `launcher` where the launcher listens there instead, else `rank0` |
//! | [`INTERFACE`] | a name such as `eth0`, or an address of this host |
//! | [`GENERATION`], [`WORLD_ID`] | numbers that all ranks share and older attempts do not |
//! | [`DEADLINE`], [`INIT_DEADLINE`], [`HEARTBEAT`] | seconds, or with a unit: `1.5`, `500ms`, `30min` |
//! | [`PORT`] | under torchrun, the port of rank 0's store; its default is `MASTER_PORT` + 1 |
//! | [`ALGORITHM`], [`CHECK`] | names |

use super::{Config, Job, check_range, configuration};
use crate::error::{Error, Result};
use std::ffi::OsString;
use std::fmt;
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
/// The identity of the launch; decimal, or hexadecimal after `0x`.
pub const WORLD_ID: &str = "RINGFOLD_WORLD_ID";
/// How long an operation may take.
pub const DEADLINE: &str = "RINGFOLD_DEADLINE";
/// How long the forming of the group may take.
pub const INIT_DEADLINE: &str = "RINGFOLD_INIT_DEADLINE";
/// How long a rank may be silent.
pub const HEARTBEAT: &str = "RINGFOLD_HEARTBEAT";
/// The port of rank 0's store under torchrun.
pub const PORT: &str = "RINGFOLD_PORT";
/// The algorithm to use.
pub const ALGORITHM: &str = "RINGFOLD_ALGORITHM";
/// How strictly ranks agree before an operation.
pub const CHECK: &str = "RINGFOLD_CHECK";

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

const SOURCES: [Names; 4] = [
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
];

pub(super) fn read_process() -> Result<Config> {
    read(|name| std::env::var_os(name))
}

/// Reads a configuration through a function that looks names up.
fn read(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Config> {
    let env = Env(&lookup);
    let mut config = Config::default();
    env.place(&mut config)?;
    env.store(&mut config)?;
    config.interface = env.text(INTERFACE)?;
    config.algorithm = env.text(ALGORITHM)?;
    config.check = env.text(CHECK)?;
    if let Some(generation) = env.number(GENERATION, "0 to 4294967295")? {
        config.generation = generation;
    } else if config.launcher == Launcher::Torchrun {
        let restarts = env.number("TORCHELASTIC_RESTART_COUNT", "0 to 4294967295")?;
        config.generation = restarts.unwrap_or(0);
    }
    if let Some(text) = env.text(WORLD_ID)? {
        config.world_id = world_id(&text)?;
    } else if config.launcher == Launcher::Torchrun
        && let Some(run) = env.text("TORCHELASTIC_RUN_ID")?
    {
        config.world_id = fnv1a(run.as_bytes());
    }
    for (name, into) in [
        (DEADLINE, &mut config.deadline),
        (INIT_DEADLINE, &mut config.init_deadline),
        (HEARTBEAT, &mut config.heartbeat_deadline),
    ] {
        if let Some(text) = env.text(name)? {
            *into = duration(name, &text)?;
        }
    }
    Ok(config)
}

struct Env<'a>(&'a dyn Fn(&str) -> Option<OsString>);

impl Env<'_> {
    /// A variable that is not there, or a text with something in it.
    fn text(&self, name: &str) -> Result<Option<String>> {
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

    fn number<T: std::str::FromStr>(&self, name: &str, allowed: &str) -> Result<Option<T>> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        text.parse().map(Some).map_err(|_| bad(name, &text, allowed))
    }

    fn is_set(&self, name: &str) -> bool {
        (self.0)(name).is_some()
    }

    fn place(&self, config: &mut Config) -> Result<()> {
        let (rank, world) = (self.is_set(RANK), self.is_set(WORLD_SIZE));
        if rank != world {
            let (there, missing) = if rank { (RANK, WORLD_SIZE) } else { (WORLD_SIZE, RANK) };
            return Err(
                configuration(format!("{there} is set and {missing} is not")).remedy("set both, or neither")
            );
        }
        let Some(names) = SOURCES.iter().find(|n| self.is_set(n.rank) && self.is_set(n.world)) else {
            (config.rank, config.world_size) = (Some(0), Some(1));
            (config.local_rank, config.local_size) = (Some(0), Some(1));
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

    fn open_mpi_job(&self) -> Result<Option<Job>> {
        let daemon = self.text("OMPI_MCA_orte_hnp_uri")?;
        let name = match self.text("PMIX_NAMESPACE")? {
            Some(name) => Some(name),
            None => self.text("OMPI_MCA_ess_base_jobid")?.filter(|_| daemon.is_some()),
        };
        Ok(name.map(|name| Job::Name(format!("{name} {}", daemon.unwrap_or_default()))))
    }

    fn store(&self, config: &mut Config) -> Result<()> {
        config.port = self.number(PORT, "a port from 1 to 65535")?;
        if config.port == Some(0) {
            return Err(bad(PORT, "0", "a port from 1 to 65535"));
        }
        if let Some(store) = self.text(STORE)? {
            check_store(STORE, &store)?;
            config.store = Some(store);
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
            config.store = port.map(|port| {
                if host.contains(':') && !host.starts_with('[') {
                    format!("[{host}]:{port}")
                } else {
                    format!("{host}:{port}")
                }
            });
        }
        if let Some(host) = self.text(STORE_HOST)? {
            config.launcher_hosts_store = match host.as_str() {
                STORE_HOST_LAUNCHER => true,
                STORE_HOST_RANK0 => false,
                _ => {
                    let allowed = format!("{STORE_HOST_LAUNCHER} or {STORE_HOST_RANK0}");
                    return Err(bad(STORE_HOST, &host, &allowed));
                }
            };
        }
        Ok(())
    }
}

fn bad(name: &str, value: &str, allowed: &str) -> Error {
    configuration(format!("{name} is {value:?}")).remedy(format!("give {name} {allowed}"))
}

fn check_store(name: &str, store: &str) -> Result<()> {
    let good = store.rsplit_once(':').is_some_and(|(host, port)| {
        let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
        !host.is_empty() && !bare_v6 && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if good { Ok(()) } else { Err(bad(name, store, "host:port, such as 10.0.0.7:29500 or [fe80::7]:29500")) }
}

fn world_id(text: &str) -> Result<u64> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| bad(WORLD_ID, text, "64 bits, decimal or hexadecimal after 0x"))
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

fn duration(name: &str, text: &str) -> Result<Duration> {
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
