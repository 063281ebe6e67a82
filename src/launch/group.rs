//! Process groups: one a rank, led by the rank's process.

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getpgid};
use std::fs;

/// The process group of a rank, whose leader has not been reaped: its number is nobody else's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Group(Pid);

impl Group {
    /// The group that this process leads.
    pub(super) fn led_by(pid: Pid) -> Group {
        Group(pid)
    }

    pub(super) fn leader(self) -> Pid {
        self.0
    }

    /// Sends a signal as a terminal would: what ends or stops a job goes to the whole group, other signals go to the
    /// leader, since a helper of its own that expects none would die of them.
    pub(super) fn signal(self, signal: Signal) {
        use Signal::{SIGCONT, SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGSTOP, SIGTERM, SIGTSTP};
        let result = match signal {
            SIGHUP | SIGINT | SIGQUIT | SIGTERM | SIGKILL | SIGTSTP | SIGSTOP | SIGCONT => {
                killpg(self.0, signal)
            }
            _ => kill(self.0, signal),
        };
        match result {
            // It has ended, and so has all that it started.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => tracing::warn!(%error, %signal, group = self.0.as_raw(), "cannot signal a rank"),
        }
    }
}

/// The processes of these groups that are alive. A leader that has ended and waits to be reaped is not.
pub(super) fn alive(groups: &[Group]) -> Vec<Pid> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // Asking for the group is a hundred times cheaper than reading what a file says of it.
    pids.map(Pid::from_raw)
        .filter(|&pid| getpgid(Some(pid)).is_ok_and(|group| groups.contains(&Group(group))))
        .filter(|&pid| stat(pid).is_some_and(|stat| stat.alive))
        .collect()
}

/// Whether a process is no longer the copy of its parent that a fork makes: it has executed something, or has ended.
/// Where the system does not tell, it has.
pub(super) fn has_executed(pid: Pid) -> bool {
    stat(pid).is_none_or(|stat| !stat.alive || stat.executed)
}

/// What `/proc/PID/stat` says of a process.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    /// It is no zombie.
    alive: bool,
    /// It has executed something since it was forked.
    executed: bool,
}

fn stat(pid: Pid) -> Option<Stat> {
    stat_in(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

fn stat_in(stat: &[u8]) -> Option<Stat> {
    /// `PF_FORKNOEXEC` of Linux.
    const FORKED: u32 = 0x40;
    // The name, in parentheses, is the process's own choice and may hold anything.
    let after_name = stat.iter().rposition(|&byte| byte == b')')? + 1;
    let mut fields = std::str::from_utf8(&stat[after_name..]).ok()?.split_ascii_whitespace();
    let state = fields.next()?;
    // Then parent, group, session, terminal and its foreground group.
    let flags: u32 = fields.nth(5)?.parse().ok()?;
    Some(Stat { alive: !matches!(state, "Z" | "X"), executed: flags & FORKED == 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::wait::waitpid;
    use nix::unistd::{ForkResult, fork, getpgrp, getpid, pause};

    #[test]
    fn processes_are_read_whatever_their_names_are() {
        let read = |text: &[u8]| stat_in(text).map(|stat| (stat.alive, stat.executed));
        assert_eq!(read(b"12 (a) Z 7) (b) S 1 345 345 0 -1 4194304 9"), Some((true, true)));
        assert_eq!(read(b"12 (sh) Z 1 345 345 0 -1 4194304"), Some((false, true)));
        assert_eq!(read(b"12 (\xff\xfe) R 1 9 9 0 -1 64"), Some((true, false)));
        assert_eq!((read(b"12 (sh) R 1 9"), read(b"")), (None, None));
    }

    #[test]
    fn this_process_is_alive_in_its_group() {
        assert!(alive(&[Group(getpgrp())]).contains(&getpid()));
        assert_eq!(alive(&[]), []);
        assert!(has_executed(getpid()));
    }

    #[test]
    fn a_process_that_was_only_forked_has_executed_nothing_until_it_ends() {
        // SAFETY: the child only waits to be killed.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => loop {
                pause();
            },
            ForkResult::Parent { child } => {
                assert!(!has_executed(child));
                kill(child, Signal::SIGKILL).unwrap();
                waitpid(child, None).unwrap();
                assert!(has_executed(child));
            }
        }
    }
}
