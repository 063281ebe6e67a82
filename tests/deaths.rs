//! Deaths of real processes that share memory: whoever survives is told by rank, whenever it happens and however much
//! memory the dead one had, and nothing is left behind.
//!
//! Each test starts this binary again, once a rank. Nothing here asserts how fast anybody is told: `benches/deaths.rs`
//! measures that.

mod support;

use nix::libc;
use nix::sys::signal::Signal;
use ringfold::config::environment;
use ringfold::{Communicator, ReduceOp};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use support::process::{Group, Told, tell, tell_end};

const SCENE: &str = "RINGFOLD_TEST_SCENE";
/// How many random deaths: `.ci/nightly` sets more.
const KILLS: &str = "RINGFOLD_TEST_KILLS";

/// Nothing here depends on how soon silence is noticed; the end of a wait only detects a hang.
const PATIENT: Duration = Duration::from_secs(30);

/// Descriptors are counted: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A group that plays a scene, with a time for joining.
fn group(scene: &str, world: usize, joining: &str) -> Group {
    Group::start(world, PATIENT, |command| {
        command
            .env(SCENE, scene)
            .env(environment::BACKEND, "shm")
            .env(environment::HEARTBEAT, "30s")
            .env(environment::INIT_DEADLINE, joining)
            .env(environment::DEADLINE, "60s");
    })
}

/// What every rank but the one that died tells of its end, and that all processes have ended.
fn survivors_tell(mut group: Group, dead: usize) -> Vec<Told> {
    let of = |(rank, process): (usize, &support::process::Process)| {
        let mut last = process.next_line();
        if last.as_deref() == Some("at work") {
            last = process.next_line();
        }
        Told::read(&last.unwrap_or_else(|| panic!("rank {rank} has ended without a word")))
    };
    let told = group.ranks.iter().enumerate().filter(|(rank, _)| *rank != dead).map(of).collect();
    for process in &mut group.ranks {
        process.wait();
    }
    told
}

/// All of them name it.
fn all_blame(told: &[Told], survivors: usize, dead: usize) {
    assert!(told.len() == survivors && told.iter().all(|told| told.blames("peer dead", dead)), "{told:?}");
}

/// A rank's part; a test of its own name, which does nothing unless it is started as a rank.
#[test]
fn rank() {
    let Ok(scene) = std::env::var(SCENE) else { return };
    let work = || -> ringfold::Result<()> {
        let comm = Communicator::from_env()?;
        assert_eq!(comm.backend(), "shm");
        let mut memory: Vec<u8> = Vec::new();
        if comm.rank() == 1 {
            match scene.as_str() {
                "one holds a GiB" => memory = vec![1; 1 << 30],
                "one dumps core" => dump_cores(),
                _ => {}
            }
        }
        comm.barrier()?;
        tell("at work");
        let mut data = vec![1.0f32; 60_000];
        // The end only detects a hang.
        let begun = Instant::now();
        let mut rounds = (0usize..).take_while(|_| begun.elapsed() < 2 * PATIENT);
        let result = rounds.try_for_each(|round| match round % 4 {
            0 => comm.all_reduce(&mut data, ReduceOp::Max),
            1 => comm.broadcast(&mut data[..100], round / 4 % comm.world_size()),
            2 => comm.all_reduce(&mut data[..2], ReduceOp::Max),
            _ => comm.barrier(),
        });
        drop(memory);
        result
    };
    tell_end(work());
}

/// Lets this process leave a core file where it dies; the file goes nowhere that matters.
fn dump_cores() {
    let directory = std::env::temp_dir().join(format!("ringfold-core-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    std::env::set_current_dir(&directory).unwrap();
    nix::sys::resource::setrlimit(
        nix::sys::resource::Resource::RLIMIT_CORE,
        libc::RLIM_INFINITY,
        libc::RLIM_INFINITY,
    )
    .unwrap();
}

/// Descriptors of this process, and shared memory of the machine in MiB.
fn left_behind() -> (usize, u64) {
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap();
    let line = memory.lines().find_map(|line| line.strip_prefix("Shmem:")).unwrap();
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().unwrap();
    (descriptors, kib >> 10)
}

/// Row 1 and row 28: at any moment, from the start of the process on.
#[test]
fn random_deaths_are_told_by_rank_and_leave_nothing() {
    let _alone = alone();
    let kills: usize = std::env::var(KILLS).map_or(1000, |text| text.parse().unwrap());
    let mut random = fastrand::Rng::with_seed(28);
    drop(group("work", 2, "30s"));
    let before = left_behind();
    let mut while_working = 0;
    for _ in 0..kills {
        let world = random.usize(2..4);
        let dead = random.usize(..world);
        let early = random.u8(..16) == 0;
        // Who dies before the store has heard of it is missed when the time for joining is over.
        let group = group("work", world, if early { "1s" } else { "30s" });
        if early {
            std::thread::sleep(Duration::from_micros(random.u64(..20_000)));
        } else {
            while_working += 1;
            assert_eq!(group.ranks[dead].line(), "at work");
            std::thread::sleep(Duration::from_micros(random.u64(..1500)));
        }
        group.ranks[dead].signal(Signal::SIGKILL);
        for told in survivors_tell(group, dead) {
            // Who has not yet been heard of is missed while the group forms.
            let fine = told.blames("peer dead", dead) || (early && told.kind == "bootstrap");
            assert!(fine, "{told:?} where rank {dead} of {world} was killed, early: {early}");
        }
    }
    assert!(while_working > kills / 2);
    let after = left_behind();
    assert_eq!(after.0, before.0, "descriptors");
    assert!(after.1 <= before.1 + 64, "{before:?} MiB of shared memory before, {after:?} after");
}

/// Row 2.
#[test]
fn a_death_with_much_memory_is_told() {
    let _alone = alone();
    let group = group("one holds a GiB", 4, "30s");
    group.all_at_work();
    group.ranks[1].signal(Signal::SIGKILL);
    all_blame(&survivors_tell(group, 1), 3, 1);
}

/// Row 3: the core is written first; who dies so is told all the same.
#[test]
fn a_death_with_a_core_file_is_told() {
    let _alone = alone();
    let group = group("one dumps core", 3, "30s");
    group.all_at_work();
    let pid = group.ranks[1].id();
    // Runtimes have handlers for SIGSEGV; this one makes the same file, and nobody starts processes that ignore it.
    group.ranks[1].signal(Signal::SIGABRT);
    all_blame(&survivors_tell(group, 1), 2, 1);
    let _ = std::fs::remove_dir_all(std::env::temp_dir().join(format!("ringfold-core-{pid}")));
}

/// A rank that has left in good order is not dead, even where the others go on for a while.
#[test]
fn leaving_is_not_dying() {
    let _alone = alone();
    let begun = Instant::now();
    let ranks = support::communicators(3);
    std::thread::scope(|scope| {
        for comm in ranks {
            scope.spawn(move || {
                comm.barrier().unwrap();
                if comm.rank() != 2 {
                    std::thread::sleep(Duration::from_millis(300));
                    assert!(comm.failure().is_none(), "{:?}", comm.failure());
                }
            });
        }
    });
    assert!(begun.elapsed() < PATIENT);
}
