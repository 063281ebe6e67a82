//! A wall clock that jumps does no harm: row 31 of the catalogue of failures.
//!
//! Each rank is a process with a library before the C library by which every look at the time of day is an hour ahead of the last one, or
//! an hour behind; monotonic clocks stay true. The store is in rank 0's process, so that its clock jumps, too.

mod support;

use nix::libc;
use ringfold::config::environment;
use ringfold::{Communicator, ReduceOp, Result};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};
use support::process::{self, Group, HANG, Process, tell_end};
use support::unused_address;

const SCENE: &str = "RINGFOLD_TEST_SCENE";
const WORLD: usize = 3;

/// Half of a jump: what no clock moves between two calls by itself.
const FAR: i64 = 1800;

/// The library, as the compiler makes it. Tests run at the same time, so each has its own.
fn library(test: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clock/jump.c");
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("jump-{test}.so"));
    let mut command = Command::new("cc");
    command.args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"]);
    let status = command.arg(&library).arg(source).status();
    assert!(status.expect("a C compiler is needed").success());
    library
}

/// Runs a group over a backend.
fn run_over(backend: &str) {
    let (library, store) = (library(backend), unused_address());
    let mut group = Group::without_store();
    for rank in 0..WORLD {
        let mut command = process::rank(rank, WORLD, &store);
        command
            .env(SCENE, backend)
            .env("LD_PRELOAD", &library)
            .env(environment::BACKEND, backend)
            .env(environment::HEARTBEAT, "1s")
            .env(environment::DEADLINE, "10s")
            .stderr(Stdio::inherit());
        group.ranks.push(Process::start(&mut command));
    }
    group.all_fine();
}

#[test]
fn jumps_of_the_wall_clock_do_no_harm_over_shared_memory() {
    run_over("shm");
}

#[test]
fn jumps_of_the_wall_clock_do_no_harm_over_tcp() {
    run_over("tcp");
}

/// A rank's part; a test of its own name, which does nothing unless it is started as a rank.
#[test]
fn rank() {
    let Ok(backend) = std::env::var(SCENE) else { return };
    assert_that_the_clock_jumps();
    tell_end(Communicator::from_env().and_then(|comm| {
        assert_eq!(comm.backend(), backend);
        work(&comm)
    }));
    assert_that_the_clock_jumps();
}

/// Without this the group would work with true clocks, and the test would tell nothing.
fn assert_that_the_clock_jumps() {
    let start = Instant::now();
    let of_day = || {
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        time.as_secs().cast_signed()
    };
    let of_c = || {
        let mut time = libc::timeval { tv_sec: 0, tv_usec: 0 };
        // SAFETY: the time is written where one lies, and a zone is not asked for.
        assert_eq!(unsafe { libc::gettimeofday(&raw mut time, std::ptr::null_mut()) }, 0);
        time.tv_sec
    };
    // SAFETY: the time is to be written nowhere.
    let in_seconds = || unsafe { libc::time(std::ptr::null_mut()) };
    let clocks: [(&str, &dyn Fn() -> i64); 3] =
        [("SystemTime", &of_day), ("gettimeofday", &of_c), ("time", &in_seconds)];
    for (name, look) in clocks {
        let looks = [look(), look(), look()];
        let jumps = [looks[1] - looks[0], looks[2] - looks[1]];
        assert!(jumps.iter().all(|jump| jump.abs() > FAR), "{name} does not jump: {looks:?}");
        assert!((looks[2] - looks[0]).abs() < FAR, "{name} does not jump back: {looks:?}");
    }
    assert!(start.elapsed() < Duration::from_secs(FAR as u64), "monotonic clocks have to stay true");
}

/// Some two seconds of calls with ranks that come late in turn, a started one that is waited for, and a pause of more than two heartbeats.
fn work(comm: &Communicator) -> Result<()> {
    const LATE: Duration = Duration::from_millis(300);
    for turn in 0..6 {
        if comm.rank() == turn % WORLD {
            std::thread::sleep(LATE);
        }
        for round in 0..20 {
            for len in [1, 1000, 100_000] {
                reduce(comm, len, round)?;
            }
        }
    }
    if comm.rank() == 1 {
        std::thread::sleep(LATE);
    }
    let pending = comm.start_all_reduce(vec![comm.rank() as u64; 1000], ReduceOp::Sum)?;
    assert!(pending.wait_timeout(HANG), "it took the whole of a minute, or a jump for one");
    assert_eq!(pending.wait()?, [3; 1000]);
    std::thread::sleep(Duration::from_millis(1200));
    comm.barrier()
}

fn reduce(comm: &Communicator, len: u64, round: u64) -> Result<()> {
    let mut data: Vec<u64> = (0..len).map(|i| i + round + comm.rank() as u64).collect();
    comm.all_reduce(&mut data, ReduceOp::Sum)?;
    assert!(
        data.iter().zip(0..).all(|(&sum, i)| sum == 3 * (i + round) + 3),
        "round {round}, {len} elements"
    );
    Ok(())
}
