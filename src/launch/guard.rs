//! What ends the ranks' process groups when the launching process is killed and cannot do it.

use super::child::open_end;
use super::group::Group;
use crate::transport::control::{after, wait};
use nix::poll::{PollFd, PollFlags};
use nix::unistd::Pid;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Reads process groups, one a line, until `done` or the end. At an end without `done` it kills them.
const SCRIPT: &str = r#"trap '' HUP INT QUIT TERM
groups=
while read -r group; do
    test "$group" = done && exit 0
    groups="$groups -$group"
done
for group in $groups; do kill -9 "$group" 2>/dev/null; done
exit 0"#;

/// How long it may take to end.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often to look where the system cannot tell.
const LOOK: Duration = Duration::from_millis(1);

/// A shell that holds the other end of a connection: it reads the end of it when this process is gone, however that
/// happened. The kernel's own means (a signal at the parent's death) reach the ranks, but not their children.
#[derive(Debug)]
pub(super) struct Guard(Option<(Child, UnixStream)>);

impl Guard {
    /// Starts it. On a system without a shell there is none, which is no failure.
    pub(super) fn start() -> Guard {
        let started = start();
        if let Err(error) = &started {
            tracing::warn!(%error, "no guard over the ranks' process groups");
        }
        Guard(started.ok())
    }

    /// Gives process groups into its care.
    pub(super) fn watch(&mut self, groups: &[Group]) {
        if let Some((_, link)) = &mut self.0 {
            let lines: String = groups.iter().map(|group| format!("{}\n", group.leader())).collect();
            // This fails where somebody has ended the guard: then there is none.
            let _ = link.write_all(lines.as_bytes());
        }
    }

    /// Lets it go: all process groups have ended.
    pub(super) fn done(mut self) {
        let Some((mut child, mut link)) = self.0.take() else { return };
        let _ = link.write_all(b"done\n");
        drop(link);
        let until = after(PATIENCE);
        let end = open_end(Pid::from_raw(child.id() as i32));
        while matches!(child.try_wait(), Ok(None)) {
            if Instant::now() >= until {
                let _ = child.kill();
                let _ = child.wait();
                return;
            }
            match &end {
                Some(end) => wait(&mut [PollFd::new(end.as_fd(), PollFlags::POLLIN)], Some(until)),
                None => std::thread::sleep(LOOK),
            }
        }
    }
}

fn start() -> io::Result<(Child, UnixStream)> {
    // Not a pipe: writing to a pipe that nobody reads would raise SIGPIPE in a process that is not ours.
    let (link, input) = UnixStream::pair()?;
    let mut command = Command::new("/bin/sh");
    command.arg0("ringfold-guard").args(["-c", SCRIPT]).process_group(0).current_dir("/").env_clear();
    command.stdin(OwnedFd::from(input)).stdout(Stdio::null()).stderr(Stdio::null());
    Ok((command.spawn()?, link))
}
