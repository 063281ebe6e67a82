//! What ends the ranks' process groups when the launching process is killed and cannot do it.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
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

    /// Gives one more process group into its care.
    pub(super) fn watch(&mut self, group: i32) {
        if let Some((_, link)) = &mut self.0 {
            // This fails where somebody has ended the guard: then there is none.
            let _ = link.write_all(format!("{group}\n").as_bytes());
        }
    }

    /// Lets it go: all process groups have ended.
    pub(super) fn done(mut self) {
        let Some((mut child, mut link)) = self.0.take() else { return };
        let _ = link.write_all(b"done\n");
        drop(link);
        let until = Instant::now() + PATIENCE;
        while matches!(child.try_wait(), Ok(None)) {
            if Instant::now() >= until {
                let _ = child.kill();
                let _ = child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
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
