//! What starting and ending the ranks of a launch costs, and how soon a launch is over when a rank is killed.
//!
//! `cargo bench --bench launch` prints the figures. Groups are of `true`, so that what is measured is the launch; ranks that
//! are killed are this program started again, in a loop of barriers, and the time is that from just before the kill to the
//! moment when [`Running::wait`](ringfold::launch::Running::wait) returns: then nothing is left of the group.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringfold::launch::{Launch, Output, Running, Status};
use ringfold::{Communicator, ErrorKind};
use std::time::{Duration, Instant};

const SCENE: &str = "RINGFOLD_TEST_SCENE";
/// A file that each rank makes when it is at work, with its number behind.
const READY: &str = "RINGFOLD_TEST_READY";
const VICTIM: usize = 1;

/// Barriers until one fails.
fn rank() {
    let comm = Communicator::from_env().unwrap();
    comm.barrier().unwrap();
    std::fs::write(format!("{}{}", std::env::var(READY).unwrap(), comm.rank()), "").unwrap();
    let error = loop {
        if let Err(error) = comm.barrier() {
            break error;
        }
    };
    std::process::exit(if error.kind() == ErrorKind::PeerDead { 3 } else { 4 });
}

fn program(ranks: usize) -> Launch {
    Launch::new(ranks).program("true").output(Output::Null)
}

/// Milliseconds until the launch returns, and until it is over.
fn start_and_end(launch: Launch) -> (f64, f64) {
    let begun = Instant::now();
    let running = launch.start().unwrap();
    let started = begun.elapsed();
    assert!(running.wait().success());
    (millis(started), millis(begun.elapsed()))
}

/// Milliseconds from the kill to the outcome.
fn kill_one(ranks: usize, backend: &str) -> f64 {
    let ready = std::env::temp_dir().join(format!("ringfold-bench-{}-", std::process::id()));
    let ready_of = |rank: usize| format!("{}{rank}", ready.display());
    let running: Running = Launch::new(ranks)
        .program(std::env::current_exe().unwrap())
        .env(SCENE, "barriers")
        .env(READY, &ready)
        .env("RINGFOLD_BACKEND", backend)
        .output(Output::Null)
        .start()
        .unwrap();
    while !(0..ranks).all(|rank| std::fs::exists(ready_of(rank)).unwrap()) {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_millis(5));
    let begun = Instant::now();
    kill(Pid::from_raw(running.pids()[VICTIM] as i32), Signal::SIGKILL).unwrap();
    let outcome = running.wait();
    let took = millis(begun.elapsed());
    let failure = outcome.first_failure.unwrap();
    assert_eq!((failure.rank, failure.status), (VICTIM, Status::Killed(9)));
    assert!(outcome.ended.is_empty(), "{:?}", outcome.ended);
    (0..ranks).for_each(|rank| std::fs::remove_file(ready_of(rank)).unwrap());
    took
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn line(what: &str, ranks: usize, mut all: Vec<f64>) {
    all.sort_by(f64::total_cmp);
    let times = all.len();
    let (median, p99) = (all[times / 2], all[(times * 99).div_ceil(100) - 1]);
    println!("{what:>24} {ranks:>6} {times:>6} {median:>9.2} {p99:>9.2} {:>9.2}", all[times - 1]);
}

fn main() {
    if std::env::var_os(SCENE).is_some() {
        return rank();
    }
    // `cargo test --benches` only wants to know that it builds.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    println!("Milliseconds");
    println!("{:>24} {:>6} {:>6} {:>9} {:>9} {:>9}", "what", "ranks", "times", "median", "p99", "longest");
    for (ranks, times) in [(1, 300), (4, 1000), (64, 50)] {
        let (started, over) = (0..times).map(|_| start_and_end(program(ranks))).unzip();
        line("started", ranks, started);
        line("started and over", ranks, over);
    }
    for (ranks, times) in [(4, 100), (64, 20)] {
        let prefixed = || start_and_end(program(ranks).output(Output::Prefixed));
        line("the same, prefixed", ranks, (0..times).map(|_| prefixed().1).collect());
    }
    for backend in ["shm", "tcp"] {
        line(&format!("killed to over, {backend}"), 4, (0..60).map(|_| kill_one(4, backend)).collect());
    }
}
