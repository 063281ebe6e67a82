//! One rank as a process.

use super::Status;
use super::group::Group;
use nix::errno::Errno;
use nix::libc;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use std::os::fd::{FromRawFd, OwnedFd};

/// A rank's process.
pub(super) struct Rank {
    /// Which it leads.
    pub(super) group: Group,
    /// Readable when the process has ended. `None` where the system has no such thing.
    pub(super) end: Option<OwnedFd>,
    pub(super) status: Option<Status>,
    /// What it writes, until somebody takes that; `None` where it goes elsewhere.
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
}

impl Rank {
    pub(super) fn pid(&self) -> u32 {
        self.group.leader().as_raw() as u32
    }

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
        let _ = waitpid(self.group.leader(), Some(WaitPidFlag::WNOHANG));
    }
}

/// A descriptor that is readable when a process has ended, where the system has such a thing.
pub(super) fn open_end(process: Pid) -> Option<OwnedFd> {
    // SAFETY: the call takes two integers. The descriptor it returns is new, and closed on exec.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, process.as_raw(), 0) };
    // SAFETY: the descriptor is open and nobody else's.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
