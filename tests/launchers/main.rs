//! Groups whose ranks are started as launchers start them: real processes that find a launcher's variables.

mod directory;
mod schedulers;
mod torchrun;

use serde_json::Value;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

pub(crate) const RINGFOLD: &str = env!("CARGO_BIN_EXE_ringfold");

/// What each rank runs: it prints on rank 0 and checks every result.
pub(crate) const PERF: [&str; 9] = ["perf", "all_reduce", "-b", "8", "-e", "64K", "--iters", "3", "--json"];

/// The rows of [`PERF`].
const ROWS: usize = 14;

/// Longer than anything takes when all is well.
pub(crate) const LONG: Duration = Duration::from_secs(100);

pub(crate) type Variables = Vec<(&'static str, String)>;

/// A process that finds these variables and no other launcher's; killed when it is dropped.
pub(crate) struct Rank(Option<Child>);

impl Rank {
    pub(crate) fn start(arguments: &[&str], variables: &Variables) -> Rank {
        let mut command = Command::new(RINGFOLD);
        command.args(arguments).env_clear().envs(variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Rank(Some(command.spawn().unwrap()))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.as_ref().unwrap().id()
    }

    pub(crate) fn kill(mut self) {
        let mut child = self.0.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub(crate) fn finish(mut self) -> Output {
        finish(self.0.take().unwrap())
    }

    /// What it says when it fails, as it has to.
    pub(crate) fn error(self) -> String {
        let output = self.finish();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "it has not failed: {error}");
        assert!(!error.contains("panicked"), "{error}");
        error
    }
}

impl Drop for Rank {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub(crate) fn finish(child: Child) -> Output {
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    let (done, said) = mpsc::channel();
    std::thread::spawn(move || done.send(child.wait_with_output()));
    let Ok(output) = said.recv_timeout(LONG) else {
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        panic!("it hangs");
    };
    output.unwrap()
}

/// Starts all ranks, which then reduce together.
pub(crate) fn start_all(world: usize, of_rank: impl Fn(usize) -> Variables) -> Vec<Rank> {
    (0..world).map(|rank| Rank::start(&PERF, &of_rank(rank))).collect()
}

/// All have to succeed, and rank 0 to find every result right.
pub(crate) fn all_is_well(ranks: Vec<Rank>) {
    let world = ranks.len();
    let outputs: Vec<Output> = ranks.into_iter().map(Rank::finish).collect();
    for (rank, output) in outputs.iter().enumerate() {
        assert!(output.status.success(), "rank {rank}: {}", String::from_utf8_lossy(&output.stderr));
    }
    check_rows(&String::from_utf8_lossy(&outputs[0].stdout), world);
}

pub(crate) fn check_rows(text: &str, world: usize) {
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), ROWS, "{text}");
    assert!(rows.iter().all(|row| row["ranks"] == world && row["wrong"] == 0), "{text}");
}

pub(crate) fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < LONG, "{what}: never");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A port that nobody listens on, nor on the next one; not one of those that systems hand out to clients.
pub(crate) fn free_port() -> u16 {
    let is_free = |port| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
    (0..1000)
        .map(|_| fastrand::u16(10_000..20_000))
        .find(|&port| is_free(port) && is_free(port + 1))
        .expect("there is a free port")
}

#[test]
fn a_slip_in_a_name_is_shown() {
    let output = Rank::start(&["info"], &vec![("RINGFOLD_DEADLNE", "5s".to_owned())]).finish();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("RINGFOLD_DEADLNE: no such variable is read"), "{text}");
}
