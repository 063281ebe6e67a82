//! Process groups: one a rank, led by the rank's process.

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use std::fs;

/// The process group of a rank, whose leader has not been reaped: its number is nobody else's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Group(Pid);

impl Group {
    /// The group that this process leads.
    pub(super) fn led_by(pid: u32) -> Group {
        Group(Pid::from_raw(pid as i32))
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

/// Whether any process of these groups is alive. A leader that has ended and waits to be reaped is not.
pub(super) fn any_alive(groups: &[Group]) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else { return false };
    processes.flatten().any(|entry| {
        let name = entry.file_name();
        let is_process = name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
        is_process
            && fs::read(entry.path().join("stat"))
                .ok()
                .and_then(|stat| alive_in(&stat))
                .is_some_and(|group| groups.contains(&Group(Pid::from_raw(group))))
    })
}

/// From `/proc/PID/stat`: the process group of a process that is no zombie.
fn alive_in(stat: &[u8]) -> Option<i32> {
    // The name, in parentheses, is the process's own choice and may hold anything.
    let after_name = stat.iter().rposition(|&byte| byte == b')')? + 1;
    let mut fields = std::str::from_utf8(&stat[after_name..]).ok()?.split_ascii_whitespace();
    let (state, _parent, group) = (fields.next()?, fields.next()?, fields.next()?);
    if matches!(state, "Z" | "X") { None } else { group.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_is_read_whatever_the_name_is() {
        assert_eq!(alive_in(b"12 (a) Z 7) (b) S 1 345 345 0 -1"), Some(345));
        assert_eq!(alive_in(b"12 (sh) Z 1 345 345 0 -1"), None);
        assert_eq!(alive_in(b"12 (\xff\xfe) R 1 9 9"), Some(9));
        assert_eq!(alive_in(b""), None);
        let own = nix::unistd::getpgrp();
        assert!(any_alive(&[Group(own)]));
        assert!(!any_alive(&[]));
    }
}
