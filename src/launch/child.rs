//! One rank as a process.

use super::Status;
use super::group::Group;
use nix::errno::Errno;
use nix::libc;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

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
            Err(_) => self.end.as_ref().map_or(Some(Status::Unknown), kept)?,
        };
        self.status = Some(status);
        Some(status)
    }

    /// Lets the number go.
    pub(super) fn reap(&mut self) {
        let _ = waitpid(self.group.leader(), Some(WaitPidFlag::WNOHANG));
    }
}

/// How a process has ended that has been reaped, as the descriptor that tells of its end remembers it from Linux 6.15 on; older systems
/// cannot tell. `None` where it is just being reaped.
fn kept(end: &OwnedFd) -> Option<Status> {
    // SAFETY: a structure of integers, which may be 0.
    let mut info: libc::pidfd_info = unsafe { std::mem::zeroed() };
    info.mask = u64::from(libc::PIDFD_INFO_EXIT);
    // SAFETY: the descriptor is open, and the system writes no more than the structure, whose size is part of the request.
    let told = unsafe { libc::ioctl(end.as_raw_fd(), libc::PIDFD_GET_INFO, &raw mut info) } == 0;
    if told && info.mask & u64::from(libc::PIDFD_INFO_EXIT) == 0 {
        return None;
    }
    let code = info.exit_code;
    Some(match told {
        true if libc::WIFEXITED(code) => Status::Exited(libc::WEXITSTATUS(code)),
        true if libc::WIFSIGNALED(code) => Status::Killed(libc::WTERMSIG(code)),
        _ => Status::Unknown,
    })
}

/// Has the system keep how this process's children end until that is asked for, as it does by default: a process inherits it
/// from whoever started it that `SIGCHLD` is ignored, and its children are then forgotten as they end. Handlers stay as they are.
///
/// A program that launches calls it as it begins, before it has children. The library never does so by itself: what signals do is
/// the program's own affair. Does not block; may be called from any thread.
///
/// ```
/// ringfold::launch::restore_sigchld();
/// ```
pub fn restore_sigchld() {
    // SAFETY: a structure of integers and pointers, which may be 0.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: it only asks, and writes where there is room.
    if unsafe { libc::sigaction(libc::SIGCHLD, std::ptr::null(), &raw mut action) } != 0 {
        return;
    }
    if action.sa_sigaction == libc::SIG_IGN {
        action.sa_sigaction = libc::SIG_DFL;
    }
    action.sa_flags &= !libc::SA_NOCLDWAIT;
    // SAFETY: the default, or the handler that was there.
    unsafe { libc::sigaction(libc::SIGCHLD, &raw const action, std::ptr::null_mut()) };
}

/// A descriptor that is readable when a process has ended, where the system has such a thing.
pub(super) fn open_end(process: Pid) -> Option<OwnedFd> {
    // SAFETY: the call takes two integers. The descriptor it returns is new, and closed on exec.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, process.as_raw(), 0) };
    // SAFETY: the descriptor is open and nobody else's.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
