//! What each rank is to execute, with what, and where: all that can be wrong with it is found before anything is started.

use super::newborn::Step;
use super::program::{cannot_start, find, is_transient};
use super::spawn::{Order, PATIENCE, Setback};
use super::{Launch, StartError};
use crate::config::environment as names;
use crate::error::{Error, ErrorKind, Result};
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// How long an argument or `NAME=VALUE` may be, with its last byte, which is 0: `MAX_ARG_STRLEN` of Linux.
const MAX_BYTES: usize = 128 << 10;

/// What says of this process alone, where an outer launch or an engine has started it, who it is there. What else does is set for
/// every rank. With torchrun's agent a program would look for the agent's store where its own is to be.
const OF_THIS_PROCESS: [&str; 7] = [
    names::TASK,
    names::ATTEMPT_ID,
    "TORCHELASTIC_USE_AGENT_STORE",
    "TORCHELASTIC_RESTART_COUNT",
    "TORCHELASTIC_MAX_RESTARTS",
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_ERROR_FILE",
];

/// What the ranks of a launch have in common.
pub(super) struct World<'a> {
    pub(super) launch: &'a Launch,
    pub(super) id: u64,
    pub(super) store: SocketAddr,
    /// The port that programs which expect torchrun listen on: not the store's.
    pub(super) torch_port: u16,
}

/// Looks for what is wrong with a launch by itself.
pub(super) fn check(launch: &Launch) -> Result<()> {
    if launch.ranks == 0 || u32::try_from(launch.ranks).is_err() {
        return Err(Error::invalid(format!("a launch of {} ranks", launch.ranks)).remedy("start 1 or more"));
    }
    if launch.program.is_empty() {
        return Err(Error::invalid("a launch without a program").remedy("say which program to start"));
    }
    let of_one = launch.environment_of.iter().map(|(rank, ..)| rank).chain(launch.cpus.keys());
    if let Some(rank) = of_one.filter(|&&rank| rank >= launch.ranks).max() {
        return Err(Error::invalid(format!("something for rank {rank} alone, of {} ranks", launch.ranks))
            .remedy("ranks are numbered from 0"));
    }
    let variables = launch.environment.iter().map(|(name, value)| (name, value));
    let variables = variables.chain(launch.environment_of.iter().map(|(_, name, value)| (name, value)));
    for (name, value) in variables.clone() {
        if name.is_empty() || name.as_bytes().contains(&b'=') {
            return Err(Error::invalid(format!("a variable with the name {name:?}"))
                .remedy("give a name without '=', and the value beside it"));
        }
        no_nul(name)?;
        no_nul(value)?;
    }
    launch.arguments.iter().chain([&launch.program]).try_for_each(|text| no_nul(text))
}

fn no_nul(text: &OsStr) -> Result<()> {
    if text.as_bytes().contains(&0) {
        return Err(Error::invalid(format!("{text:?} has a byte 0 in it, which no process can be given")));
    }
    Ok(())
}

/// Looks whether this process may use the CPUs that ranks are to be bound to, by doing so for a moment with the thread that
/// calls this.
pub(super) fn check_cpus(launch: &Launch) -> Result<()> {
    if let Some((rank, _)) = launch.cpus.iter().find(|(_, cpus)| cpus.is_empty()) {
        return Err(Error::invalid(format!("rank {rank} is bound to no CPU at all")).remedy("name one"));
    }
    if launch.cpus.is_empty() {
        return Ok(());
    }
    let (own, failed) = (Pid::from_raw(0), |errno| Error::io("asking for this process's CPUs", errno));
    let before = sched_getaffinity(own).map_err(failed)?;
    let mut wanted = CpuSet::new();
    for &cpu in launch.cpus.values().flatten() {
        wanted.set(cpu).map_err(|_| no_such_cpu(cpu))?;
    }
    // Of those that are asked for the system gives those that may be used, and refuses where none is left.
    let given = sched_setaffinity(own, &wanted).and_then(|()| sched_getaffinity(own));
    let restored = sched_setaffinity(own, &before);
    let given = match given {
        Err(Errno::EINVAL) => CpuSet::new(),
        given => given.map_err(failed)?,
    };
    restored.map_err(failed)?;
    let has = |cpu: usize| given.is_set(cpu).unwrap_or(false);
    match launch.cpus.values().flatten().find(|&&cpu| !has(cpu)) {
        Some(&cpu) => Err(no_such_cpu(cpu)),
        None => Ok(()),
    }
}

fn no_such_cpu(cpu: usize) -> Error {
    Error::invalid(format!("this process may not use CPU {cpu}"))
        .remedy("choose among those of its control group; `nproc --all` and `lscpu` say what there is")
}

/// Where each rank's program is: by its own `PATH`.
pub(super) fn programs(launch: &Launch) -> std::result::Result<Vec<CString>, StartError> {
    let is_path = |name: &OsString| name == "PATH";
    let given = launch.environment.iter().rev().find(|(name, _)| is_path(name)).map(|(_, path)| path.clone());
    let common = given.or_else(|| names::inherited().find(|(name, _)| is_path(name)).map(|(_, path)| path));
    let find = |path: Option<&OsString>| {
        let found = find(&launch.program, path.map(OsString::as_os_str)).map_err(|errno| {
            let doing = format!("starting {}", launch.program.to_string_lossy());
            cannot_start(&launch.program, doing, errno)
        })?;
        string(found.into_os_string()).map_err(StartError::from)
    };
    let mut of_all: Option<CString> = None;
    let one = |rank| {
        let own = launch.environment_of.iter().rev().find(|(of, name, _)| *of == rank && is_path(name));
        if let Some((_, _, path)) = own {
            return find(Some(path));
        }
        let program = match of_all.take() {
            Some(program) => program,
            None => find(common.as_ref())?,
        };
        of_all = Some(program.clone());
        Ok(program)
    };
    (0..launch.ranks).map(one).collect()
}

impl World<'_> {
    /// What to execute, rank by rank.
    pub(super) fn orders(&self, programs: Vec<CString>) -> Result<Vec<Order>> {
        let launch = self.launch;
        let arguments = [&launch.program].into_iter().chain(&launch.arguments);
        let arguments: Vec<CString> = arguments.cloned().map(string).collect::<Result<_>>()?;
        // The program's name is the argument 0.
        arguments.iter().enumerate().try_for_each(|(number, argument)| {
            not_too_long(argument, || {
                format!("the argument {number} of {}", launch.program.to_string_lossy())
            })
        })?;
        let common = self.common();
        let order = |(rank, program)| {
            let environment = self.environment(rank, common.clone()).into_iter().map(|(name, value)| {
                let mut whole = name.clone();
                whole.push("=");
                whole.push(value);
                let whole = string(whole)?;
                not_too_long(&whole, || format!("the variable {} of rank {rank}", name.to_string_lossy()))?;
                Ok(whole)
            });
            Ok(Order {
                program,
                arguments: arguments.clone(),
                environment: environment.collect::<Result<_>>()?,
                cpus: self.cpus(rank)?,
            })
        };
        programs.into_iter().enumerate().map(order).collect()
    }

    fn cpus(&self, rank: usize) -> Result<Option<CpuSet>> {
        let Some(cpus) = self.launch.cpus.get(&rank) else { return Ok(None) };
        let mut set = CpuSet::new();
        for &cpu in cpus {
            set.set(cpu).map_err(|_| no_such_cpu(cpu))?;
        }
        Ok(Some(set))
    }

    /// The variables that ranks have in common, unless one is given others.
    fn common(&self) -> BTreeMap<OsString, OsString> {
        let inherited = names::inherited().filter(|(name, _)| OF_THIS_PROCESS.iter().all(|own| name != own));
        let mut variables: BTreeMap<OsString, OsString> = inherited.collect();
        variables.insert("MASTER_ADDR".into(), "127.0.0.1".into());
        variables.insert("MASTER_PORT".into(), self.torch_port.to_string().into());
        variables.extend(self.launch.environment.iter().cloned());
        variables
    }

    fn environment(
        &self,
        rank: usize,
        mut variables: BTreeMap<OsString, OsString>,
    ) -> BTreeMap<OsString, OsString> {
        let launch = self.launch;
        let own = launch.environment_of.iter().filter(|(of, ..)| *of == rank);
        variables.extend(own.map(|(_, name, value)| (name.clone(), value.clone())));
        let mut set = |name: &str, value: String| variables.insert(name.into(), value.into());
        for name in [names::RANK, names::LOCAL_RANK, "RANK", "LOCAL_RANK"] {
            set(name, rank.to_string());
        }
        for name in [names::WORLD_SIZE, names::LOCAL_WORLD_SIZE, "WORLD_SIZE", "LOCAL_WORLD_SIZE"] {
            set(name, launch.ranks.to_string());
        }
        set(names::STORE, self.store.to_string());
        set(names::STORE_HOST, names::STORE_HOST_LAUNCHER.into());
        set(names::WORLD_ID, format!("{:#x}", self.id));
        set(names::GENERATION, launch.generation.to_string());
        if let Some(heartbeat) = launch.heartbeat {
            set(names::HEARTBEAT, format!("{}ms", heartbeat.as_millis().max(1)));
        }
        variables
    }

    /// What to say of a rank that does not execute.
    pub(super) fn cannot_start(&self, setback: Setback) -> StartError {
        let program = self.launch.program.to_string_lossy();
        match setback {
            Setback::Refused { rank, step: Step::Execute | Step::Fork, errno } => {
                let doing = format!("starting {program} as rank {rank}");
                cannot_start(&self.launch.program, doing, errno)
            }
            Setback::Refused { rank, step, errno } => {
                let doing = match step {
                    Step::Group => "making it the leader of a process group",
                    Step::Cpus => "binding it to its CPUs",
                    Step::Streams => "giving it its standard streams",
                    Step::ParentDeath => "letting it die with its launcher",
                    Step::Signals => "setting what signals do to it",
                    Step::Fork | Step::Gate | Step::Execute => "letting it begin",
                };
                let doing = format!("preparing rank {rank} ({program}): {doing}");
                let error = Error::io(doing, std::io::Error::from(errno));
                StartError { error, reason: None, transient: is_transient(errno) }
            }
            Setback::Ended { rank, status } => {
                let text = format!("rank {rank} {status} before it could execute {program}");
                let remedy = "find out who kills processes: memory may be short";
                transient(Error::new(ErrorKind::Io, text).remedy(remedy))
            }
            Setback::Late { rank, step } => {
                let what = if step == Step::Execute { "executed" } else { "prepared to execute" };
                let text = format!("rank {rank} has not {what} {program} within {PATIENCE:?}");
                let remedy = "look whether the machine stands still, or the file system of the program";
                transient(Error::new(ErrorKind::Deadline, text).remedy(remedy))
            }
        }
    }
}

/// An error that may not come again.
fn transient(error: Error) -> StartError {
    StartError { error, reason: None, transient: true }
}

/// Looks whether the system lets a program have a text. Else only its execution would tell, when other ranks are at work.
fn not_too_long(text: &CStr, what: impl Fn() -> String) -> Result<()> {
    let bytes = text.to_bytes_with_nul().len();
    if bytes <= MAX_BYTES {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{} has {bytes} bytes, and a program can be given {MAX_BYTES} at once",
        what()
    ))
    .remedy("put what is long into a file, and give its path"))
}

fn string(text: OsString) -> Result<CString> {
    CString::new(text.into_vec()).map_err(|error| Error::invalid(format!("a text for a process: {error}")))
}

/// A port on loopback that nobody listens on. Not one of those that the system hands out to clients, so that it is
/// still free when a rank gets round to it.
pub(super) fn free_port() -> Result<u16> {
    let bind = |port| TcpListener::bind(("127.0.0.1", port)).and_then(|listener| listener.local_addr());
    (0..64)
        .find_map(|_| bind(fastrand::u16(20_000..32_000)).ok())
        .map_or_else(|| bind(0), Ok)
        .map(|address| address.port())
        .map_err(|error| Error::new(ErrorKind::Io, format!("finding a free port: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::Status;

    #[test]
    fn what_may_not_come_again_is_told_apart() {
        let launch = Launch::new(4).program("train");
        let store = SocketAddr::from(([127, 0, 0, 1], 1));
        let world = World { launch: &launch, id: 1, store, torch_port: 2 };
        let refused = |step, errno| Setback::Refused { rank: 2, step, errno };
        for setback in [
            Setback::Ended { rank: 3, status: Status::Killed(9) },
            Setback::Late { rank: 3, step: Step::Gate },
            Setback::Late { rank: 3, step: Step::Execute },
            refused(Step::Fork, Errno::EAGAIN),
            refused(Step::Fork, Errno::ENOMEM),
            refused(Step::Fork, Errno::EMFILE),
            refused(Step::Execute, Errno::ETXTBSY),
        ] {
            assert!(world.cannot_start(setback).is_transient(), "{setback:?}");
        }
        for setback in [
            refused(Step::Execute, Errno::ENOENT),
            refused(Step::Execute, Errno::E2BIG),
            refused(Step::Cpus, Errno::EPERM),
        ] {
            assert!(!world.cannot_start(setback).is_transient(), "{setback:?}");
        }
    }
}
