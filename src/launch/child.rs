//! One rank as a process.

use super::group::Group;
use super::{Input, Launch, Output, StartError, Status};
use crate::config::environment as names;
use crate::error::{Error, ErrorKind};
use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, getpid, getppid};
use std::io::{self, IsTerminal};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// What the ranks of a launch have in common.
pub(super) struct World<'a> {
    pub(super) launch: &'a Launch,
    pub(super) id: u64,
    pub(super) store: SocketAddr,
    /// The port that programs which expect torchrun listen on: not the store's.
    pub(super) torch_port: u16,
}

/// A rank's process.
pub(super) struct Rank {
    pub(super) child: Child,
    pub(super) group: Group,
    /// Readable when the process has ended. `None` where the system has no such thing.
    pub(super) end: Option<OwnedFd>,
    pub(super) status: Option<Status>,
}

impl World<'_> {
    /// Starts one rank.
    ///
    /// The process dies with the thread that calls this, which therefore has to live as long as the launch.
    pub(super) fn start(&self, rank: usize) -> Result<Rank, StartError> {
        let launch = self.launch;
        let mut command = Command::new(&launch.program);
        command.args(&launch.arguments).process_group(0);
        self.describe(rank, &mut command);
        command.stdin(match launch.input {
            Input::FirstRank if rank == 0 && !io::stdin().is_terminal() => Stdio::inherit(),
            _ => Stdio::null(),
        });
        let output = || match launch.output {
            Output::Prefixed => Stdio::piped(),
            Output::Inherit => Stdio::inherit(),
            Output::Null => Stdio::null(),
        };
        command.stdout(output()).stderr(output());
        let launcher = getpid();
        // SAFETY: the closure makes system calls that are safe after fork, and neither allocates nor locks.
        unsafe { command.pre_exec(move || prepare(launcher)) };
        let child = command.spawn().map_err(|error| self.cannot_start(&error))?;
        let (group, end) = (Group::led_by(child.id()), open_end(child.id()));
        Ok(Rank { child, group, end, status: None })
    }

    fn describe(&self, rank: usize, command: &mut Command) {
        let launch = self.launch;
        let (rank, size) = (rank.to_string(), launch.ranks.to_string());
        command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", self.torch_port.to_string());
        command.envs(launch.environment.iter().map(|(name, value)| (name, value)));
        for name in [names::RANK, names::LOCAL_RANK, "RANK", "LOCAL_RANK"] {
            command.env(name, &rank);
        }
        for name in [names::WORLD_SIZE, names::LOCAL_WORLD_SIZE, "WORLD_SIZE", "LOCAL_WORLD_SIZE"] {
            command.env(name, &size);
        }
        command
            .env(names::STORE, self.store.to_string())
            .env(names::STORE_HOST, names::STORE_HOST_LAUNCHER)
            .env(names::WORLD_ID, format!("{:#x}", self.id))
            .env(names::GENERATION, launch.generation.to_string());
        if let Some(heartbeat) = launch.heartbeat {
            command.env(names::HEARTBEAT, format!("{}ms", heartbeat.as_millis().max(1)));
        }
    }

    fn cannot_start(&self, error: &io::Error) -> StartError {
        let program = self.launch.program.to_string_lossy();
        let told = Error::io(format!("starting {program}"), error);
        let (reason, told) = match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOENT) if program.contains('/') => {
                let remedy = "check the path, and that the interpreter in its first line is there";
                (Some(io::ErrorKind::NotFound), told.remedy(remedy))
            }
            Some(Errno::ENOENT) => {
                let remedy = format!("give its path (./{program}), or add its directory to PATH");
                (Some(io::ErrorKind::NotFound), told.remedy(remedy))
            }
            Some(Errno::EACCES) => {
                (Some(io::ErrorKind::PermissionDenied), told.remedy(format!("chmod +x {program}")))
            }
            Some(Errno::ENOEXEC) => {
                let remedy =
                    "give a program of this machine, or a script whose first line names its interpreter";
                (Some(io::ErrorKind::PermissionDenied), told.remedy(remedy))
            }
            Some(Errno::EMFILE | Errno::ENFILE) => {
                (None, told.remedy("start fewer ranks, or raise the limit of open files (ulimit -n)"))
            }
            Some(Errno::EAGAIN | Errno::ENOMEM) => {
                (None, told.remedy("start fewer ranks, or raise the limit of processes (ulimit -u)"))
            }
            _ => (None, told),
        };
        StartError { error: told, reason }
    }
}

/// What the child does between fork and exec.
fn prepare(launcher: Pid) -> io::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    if getppid() != launcher {
        // The launcher died before the line above: nobody will tell this process.
        return Err(Errno::ESRCH.into());
    }
    // In the background of a terminal, let reading fail instead of stopping the rank, and let writing be.
    for background in [Signal::SIGTTIN, Signal::SIGTTOU] {
        // SAFETY: ignoring a signal runs no handler.
        unsafe { signal(background, SigHandler::SigIgn) }?;
    }
    Ok(())
}

fn open_end(pid: u32) -> Option<OwnedFd> {
    // SAFETY: the call takes two integers. The descriptor it returns is new, and closed on exec.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
    // SAFETY: the descriptor is open and nobody else's.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

impl Rank {
    /// Looks whether the process has ended, and leaves it as it is: its number, and its group's, stay taken.
    pub(super) fn look(&mut self) -> Option<Status> {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let status = match waitid(Id::Pid(self.group.leader()), flags) {
            Ok(WaitStatus::Exited(_, code)) => Status::Exited(code),
            Ok(WaitStatus::Signaled(_, signal, _)) => Status::Killed(signal as i32),
            Ok(_) | Err(Errno::EINTR) => return None,
            // Somebody else has reaped it, or children are reaped without being asked.
            Err(_) => Status::Unknown,
        };
        self.status = Some(status);
        Some(status)
    }

    /// Lets the number go.
    pub(super) fn reap(&mut self) {
        let _ = self.child.try_wait();
    }
}

/// A port on loopback that nobody listens on. Not one of those that the system hands out to clients, so that it is
/// still free when a rank gets round to it.
pub(super) fn free_port() -> crate::error::Result<u16> {
    let bind = |port| TcpListener::bind(("127.0.0.1", port)).and_then(|listener| listener.local_addr());
    (0..64)
        .find_map(|_| bind(fastrand::u16(20_000..32_000)).ok())
        .map_or_else(|| bind(0), Ok)
        .map(|address| address.port())
        .map_err(|error| Error::new(ErrorKind::Io, format!("finding a free port: {error}")))
}
