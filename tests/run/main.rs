//! `ringfold run`, and the launching of processes below it, with real processes.
//!
//! Times are limits against hanging: nothing is asserted to be quick, since the machine may be busy.

mod colours;
mod ending;
mod gang;
mod group;
mod kills;
mod library;
mod output;
mod scene;
mod signals;
mod tasks;

use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::Pid;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

pub(crate) const RINGFOLD: &str = env!("CARGO_BIN_EXE_ringfold");

/// Longer than anything takes when all is well.
pub(crate) const LONG: Duration = Duration::from_secs(100);

/// What a command has said, and how it has ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

impl Said {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    /// Its lines in order of their text: among ranks there is no other.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.text().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }
}

/// `ringfold run` with these arguments, then a shell as every rank.
pub(crate) fn run(arguments: &[&str], script: &str) -> Command {
    let mut command = Command::new(RINGFOLD);
    command.arg("run").args(arguments).args(["--", "sh", "-c", script]).stdin(Stdio::null());
    command
}

/// Starts a command as a shell with job control would, whatever the state of the one that runs the tests.
pub(crate) fn start(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    // SAFETY: the closure makes system calls only, which neither allocate nor lock.
    unsafe {
        command.pre_exec(|| {
            for number in [Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
                signal(number, SigHandler::SigDfl)?;
            }
            Ok(())
        });
    }
    command.spawn().unwrap()
}

/// Waits for a command's end, which is a matter of [`LONG`].
pub(crate) fn finish(child: Child) -> Said {
    let pid = Pid::from_raw(child.id() as i32);
    let (done, said) = mpsc::channel();
    std::thread::spawn(move || done.send(child.wait_with_output()));
    let Ok(output) = said.recv_timeout(LONG) else {
        let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
        panic!("it hangs");
    };
    let output = output.unwrap();
    Said {
        code: output.status.code(),
        signal: output.status.signal(),
        out: output.stdout,
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

pub(crate) fn said(command: &mut Command) -> Said {
    finish(start(command))
}

/// Reads lines until this many have begun with something after the rank: then all ranks are where they say.
pub(crate) fn await_lines(child: &mut Child, count: usize, with: &str) -> BufReader<ChildStdout> {
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut seen = 0;
    while seen < count {
        let mut line = String::new();
        assert!(reader.read_line(&mut line).unwrap() > 0, "it ended after {seen} of {count} lines");
        seen += usize::from(line.contains(with));
    }
    reader
}

pub(crate) fn send(child: &Child, number: Signal) {
    nix::sys::signal::kill(Pid::from_raw(child.id() as i32), number).unwrap();
}

/// Waits until something holds.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < LONG, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A variable for the environment by which [`marked`] knows the processes of one test.
pub(crate) fn mark(name: &str) -> String {
    format!("RUN_TEST_MARK={name}-{}", std::process::id())
}

/// The processes that are alive and have this in their environment. The launcher has not.
pub(crate) fn marked(mark: &str) -> Vec<u32> {
    let alive = |pid: &u32| state(*pid).is_some_and(|state| state != 'Z');
    let has = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|variable| variable == mark.as_bytes())
    };
    processes().filter(has).filter(alive).collect()
}

/// The processes that a process has started and that are still its children.
pub(crate) fn children(parent: u32) -> Vec<u32> {
    processes().filter(|&pid| field(pid, 1).and_then(|field| field.parse().ok()) == Some(parent)).collect()
}

fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// `R`, `S`, `T`, `Z`, and so on; `None` where there is no such process.
pub(crate) fn state(pid: u32) -> Option<char> {
    field(pid, 0)?.chars().next()
}

/// A field of `/proc/PID/stat`, counted from the state on.
fn field(pid: u32, index: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(index).map(str::to_owned)
}

/// Not a test: what ranks of other tests do. See [`group`].
#[test]
fn rank() {
    group::rank();
}

/// Not a test: what processes do that launch something in other tests. See [`scene`].
#[test]
fn launcher() {
    scene::launcher();
}
