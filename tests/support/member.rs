//! A rank as a process of its own: this test's binary, run again.

use super::process::{HANG, MARK as TOLD, Process, again, tell};
use nix::sys::signal::Signal;
use ringfold::bootstrap::join;
use ringfold::config::{Config, environment};
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const MARK: &str = "RINGFOLD_TEST_MEMBER";
/// The mark's value by which a member leaves without being told.
const SOON: &str = "soon";

/// A child process that joins a group, says `joined`, and then either its poison or, once told to leave, `left`.
pub(crate) struct Member(Process);

impl Member {
    pub(crate) fn start(rank: usize, world: usize, store: &str, heartbeat: Duration) -> Member {
        Member::start_with(rank, world, store, heartbeat, super::LONG)
    }

    pub(crate) fn start_with(
        rank: usize,
        world: usize,
        store: &str,
        heartbeat: Duration,
        init: Duration,
    ) -> Member {
        let mut command = again("member");
        command
            .env(MARK, "1")
            .env(environment::RANK, rank.to_string())
            .env(environment::WORLD_SIZE, world.to_string())
            .env(environment::STORE, store)
            .env(environment::INIT_DEADLINE, format!("{}ms", init.as_millis()))
            .env(environment::HEARTBEAT, format!("{}ms", heartbeat.as_millis()));
        Member(Process::start(&mut command))
    }

    /// The next thing it says.
    pub(crate) fn line(&self) -> String {
        self.0.line()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.0.signal(signal);
    }

    /// Lets it leave, and waits until it has.
    pub(crate) fn leave(&mut self) {
        self.0.hang_up();
        assert_eq!(self.line(), "left");
        assert!(self.0.wait().success());
    }
}

/// Runs members that leave soon under a launcher. What they said.
pub(crate) fn under_mpirun(command: &str, options: &[&str], through_a_shell: bool) -> String {
    let exe = std::env::current_exe().unwrap();
    let mut launcher = Command::new(command);
    launcher.args(options).env(MARK, SOON).env(environment::INIT_DEADLINE, "20s");
    // Open MPI asks to be asked before it runs as root, which tests in a container do.
    launcher.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    if through_a_shell {
        let line = format!("'{}' --exact member --nocapture; exit $?", exe.display());
        launcher.args(["sh", "-c", &line]);
    } else {
        launcher.arg(exe).args(["--exact", "member", "--nocapture"]);
    }
    match launcher.stdin(Stdio::null()).output() {
        Ok(output) => {
            let both = [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said));
            both.iter().flat_map(|said| said.lines()).filter(|line| line.contains(TOLD)).collect()
        }
        Err(error) => panic!("{command}: {error}; `bash tests/all.sh` installs what the tests need"),
    }
}

/// What the child does.
pub(crate) fn run() {
    let Some(mark) = std::env::var_os(MARK) else { return };
    let joined = match join(&Config::from_env().unwrap()) {
        Ok(joined) => joined,
        Err(error) => return tell(error.to_string()),
    };
    tell("joined");
    let (told, leave) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        if mark == SOON {
            std::thread::sleep(Duration::from_millis(50));
        } else {
            let _ = std::io::stdin().read(&mut [0]);
        }
        let _ = told.send(());
    });
    let start = Instant::now();
    while leave.recv_timeout(Duration::from_millis(1)).is_err() && start.elapsed() < HANG {
        if let Some(cause) = joined.poison.cause() {
            return tell(format!("{:?} {}", cause.kind, cause.culprit));
        }
    }
    drop(joined);
    tell("left");
}
