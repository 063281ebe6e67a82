//! Row 30: shared memory that a control group does not have is refused before any of it is taken, and nobody is killed for it.
//!
//! The test makes a control group with a memory limit within its own, and starts ranks there. Where that is not allowed (it takes root,
//! or a group that was delegated) it says so; how limits are read is tested everywhere, over files in a directory, beside
//! `src/memory/available.rs`.

mod support;

use ringfold::config::environment;
use ringfold::{Communicator, ReduceOp};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use support::process::{Group, HANG, hear, tell_end};

/// How many bytes a rank is to ask for.
const ASKS: &str = "RINGFOLD_TEST_ASKS";

/// For all ranks together.
const LIMIT: u64 = 96 << 20;
/// Less than the smallest part of shared memory that is taken at a time, ranks included.
const UNTOUCHED: u64 = 64 << 20;

/// A control group with a memory limit, within that of this process. It is removed when this is dropped.
struct Limited {
    directory: PathBuf,
    names: &'static Names,
}

/// How a version of control groups calls things.
struct Names {
    limit: &'static str,
    peak: &'static str,
    kills: &'static str,
}

const FIRST: Names =
    Names { limit: "memory.limit_in_bytes", peak: "memory.max_usage_in_bytes", kills: "memory.oom_control" };
const SECOND: Names = Names { limit: "memory.max", peak: "memory.peak", kills: "memory.events" };

impl Limited {
    fn new() -> Result<Limited, String> {
        let groups = fs::read_to_string("/proc/self/cgroup").map_err(|error| error.to_string())?;
        let of = |wanted: &str| {
            groups.lines().find_map(|line| {
                let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
                controllers.split(',').any(|one| one == wanted).then(|| path.trim_start_matches('/'))
            })
        };
        let (within, names) = match (of("memory"), of("")) {
            (Some(path), _) => (PathBuf::from("/sys/fs/cgroup/memory").join(path), &FIRST),
            (None, Some(path)) => (PathBuf::from("/sys/fs/cgroup").join(path), &SECOND),
            _ => return Err("this process is in no control group".to_owned()),
        };
        let why = |doing: &str, error| format!("{doing} {}: {error}", within.display());
        if names.limit == SECOND.limit {
            // It fails where processes are in that group itself, which is then not this test's to move.
            let controllers = within.join("cgroup.subtree_control");
            fs::write(controllers, "+memory").map_err(|error| why("handing on memory limits in", error))?;
        }
        let directory = within.join(format!("ringfold-test-{}", std::process::id()));
        fs::create_dir(&directory).map_err(|error| why("making a group in", error))?;
        let limited = Limited { directory, names };
        let limit = limited.directory.join(names.limit);
        fs::write(limit, LIMIT.to_string()).map_err(|error| why("setting a limit in", error))?;
        Ok(limited)
    }

    /// What a process writes into to be in the group.
    fn door(&self) -> File {
        File::options().write(true).open(self.directory.join("cgroup.procs")).unwrap()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.directory.join(name)).unwrap()
    }

    /// The most memory that it ever had.
    fn peak(&self) -> u64 {
        self.read(self.names.peak).trim().parse().unwrap()
    }

    /// How many of its processes were killed for want of memory.
    fn kills(&self) -> u64 {
        let text = self.read(self.names.kills);
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap()
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        // The last processes in it may not be gone quite yet.
        let until = Instant::now() + Duration::from_secs(5);
        while fs::remove_dir(&self.directory).is_err() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A rank's part; a test of its own name, which does nothing unless it is started as a rank.
#[test]
fn rank() {
    let Ok(asks) = std::env::var(ASKS) else { return };
    let play = || {
        let comm = Communicator::from_env()?;
        assert_eq!(comm.backend(), "shm");
        comm.barrier()?;
        let refused = comm.allocate::<u8>(asks.parse().unwrap()).map(drop);
        tell_end(refused);
        // Until all have been refused, and the test has looked.
        hear();
        let mut tensor = comm.allocate::<u32>(1 << 20)?;
        assert!(tensor.is_shared());
        tensor.fill(1);
        comm.all_reduce(&mut tensor, ReduceOp::Sum)?;
        assert!(tensor.iter().all(|&value| value == comm.world_size() as u32));
        // And it can be asked for again.
        assert!(comm.allocate::<u8>(asks.parse().unwrap()).is_err());
        comm.barrier()
    };
    tell_end(play());
}

#[test]
fn what_a_control_group_does_not_have_is_refused_and_nobody_is_killed() {
    let limited = match Limited::new() {
        Ok(limited) => limited,
        Err(why) => {
            eprintln!("NOT TRIED: no control group with a memory limit can be made here: {why}");
            return;
        }
    };
    for asks in [LIMIT, 200 << 20, 900 << 20] {
        let mut group = Group::start(2, HANG, |command| {
            let mut door = limited.door();
            command.env(ASKS, asks.to_string()).env(environment::BACKEND, "shm");
            command.env(environment::HEARTBEAT, "30s");
            // SAFETY: between fork and exec it makes one system call, and allocates nothing.
            unsafe { command.pre_exec(move || door.write_all(b"0")) };
        });
        for (rank, process) in group.ranks.iter().enumerate() {
            let told = process.end();
            assert_eq!(told.kind, "input/output", "rank {rank}: {told:?}");
            assert!(told.text.contains(&format!("taking {asks} bytes of shared memory")), "{}", told.text);
            assert!(told.text.contains("memory limit of the control group"), "{}", told.text);
        }
        assert!(limited.peak() < UNTOUCHED, "{} bytes were taken", limited.peak());
        for process in &mut group.ranks {
            process.say("go on");
        }
        group.all_fine();
        for process in &mut group.ranks {
            assert!(process.wait().success());
        }
    }
    assert_eq!(limited.kills(), 0);
    println!("at most {} of {LIMIT} bytes were taken", limited.peak());
}
