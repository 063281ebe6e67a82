//! How soon the survivors of one host are told: of a process that is killed, with little memory and with much, and of an
//! abort.
//!
//! `cargo bench --bench deaths` prints the figures, and those of one backend alone where it is named (`-- tcp`). Ranks are processes, this program started again, that reduce without a
//! pause; what is measured is the time from just before the kill, or the abort, to the moment when the last of the
//! survivors' calls has returned its error, by the clock that all processes of a machine share. Survivors stay until all of them
//! are told, as those do that go on with what is left; where each ends at once, its end takes a CPU that the others need to hear of theirs.

use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use ringfold::bootstrap::host_for_launch;
use ringfold::config::environment;
use ringfold::{Communicator, ErrorKind, ReduceOp};
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

const SCENE: &str = "RINGFOLD_TEST_SCENE";
const VICTIM: usize = 1;
/// A kill, after which the survivors end as soon as they are told.
const ENDS: &str = "kill, all end";

/// Microseconds of a clock that is the same in all processes.
fn now() -> f64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    time.tv_sec() as f64 * 1e6 + time.tv_nsec() as f64 / 1e3
}

fn rank(scene: &str) {
    let comm = Communicator::from_env().unwrap();
    let held = if scene == "much memory" && comm.rank() == VICTIM { vec![1u8; 1 << 30] } else { Vec::new() };
    let abort = comm.abort_handle();
    let mut data = vec![1.0f32; 100_000];
    // The first ones make what the others use.
    for _ in 0..20 {
        comm.all_reduce(&mut data, ReduceOp::Max).unwrap();
    }
    println!("at work");
    if scene == "abort" && comm.rank() == VICTIM {
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            println!("{}", now());
            abort.abort("as the bench says");
        });
    }
    let error = loop {
        if let Err(error) = comm.all_reduce(&mut data, ReduceOp::Max) {
            break error;
        }
    };
    println!("{}", now());
    // Until the other end is closed.
    std::io::stdin().read_line(&mut String::new()).unwrap();
    assert!([ErrorKind::PeerDead, ErrorKind::Aborted].contains(&error.kind()), "{error}");
    drop(held);
}

fn line(out: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    line.trim().to_owned()
}

/// Microseconds until the last survivor is told.
fn once(scene: &str, world: usize, backend: &str) -> f64 {
    let store = host_for_launch(world, 7, 0, Duration::from_secs(30)).unwrap();
    let start = |rank: usize| {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(SCENE, scene)
            .env(environment::BACKEND, backend)
            .env(environment::RANK, rank.to_string())
            .env(environment::WORLD_SIZE, world.to_string())
            .env(environment::STORE, store.address().to_string())
            .env(environment::STORE_HOST, "launcher")
            .env(environment::WORLD_ID, "7")
            .env(environment::HEARTBEAT, "30s")
            .stdin(if scene == ENDS { Stdio::null() } else { Stdio::piped() })
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        (child, out)
    };
    let mut ranks: Vec<(Child, BufReader<ChildStdout>)> = (0..world).map(start).collect();
    for (_, out) in &mut ranks {
        assert_eq!(line(out), "at work");
    }
    let begun = if scene == "abort" {
        line(&mut ranks[VICTIM].1).parse().unwrap()
    } else {
        let begun = now();
        kill(Pid::from_raw(ranks[VICTIM].0.id() as i32), Signal::SIGKILL).unwrap();
        begun
    };
    let survivors = ranks.iter_mut().enumerate().filter(|(rank, _)| *rank != VICTIM);
    let told = survivors.map(|(_, (_, out))| line(out).parse::<f64>().unwrap());
    let last = told.fold(begun, f64::max) - begun;
    for (child, _) in &mut ranks {
        drop(child.stdin.take());
        child.wait().unwrap();
    }
    last
}

fn main() {
    if let Ok(scene) = std::env::var(SCENE) {
        return rank(&scene);
    }
    // `cargo test --benches` only wants to know that it builds.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    println!("From the event to the last survivor's error, in milliseconds");
    println!(
        "{:>8} {:>6} {:>14} {:>6} {:>9} {:>9} {:>9}",
        "backend", "ranks", "event", "times", "median", "p99", "longest"
    );
    let named: Vec<String> = std::env::args().collect();
    let mut backends = vec!["shm", "tcp"];
    if backends.iter().any(|backend| named.iter().any(|name| name == backend)) {
        backends.retain(|backend| named.iter().any(|name| name == backend));
    }
    for backend in backends {
        for (scene, world, times) in
            [("kill", 2, 300), ("kill", 8, 300), (ENDS, 8, 300), ("much memory", 8, 20), ("abort", 8, 100)]
        {
            let mut all: Vec<f64> = (0..times).map(|_| once(scene, world, backend) / 1e3).collect();
            all.sort_by(f64::total_cmp);
            let (median, p99) = (all[times / 2], all[(times * 99).div_ceil(100) - 1]);
            println!(
                "{backend:>8} {world:>6} {scene:>14} {times:>6} {median:>9.2} {p99:>9.2} {:>9.2}",
                all[times - 1]
            );
        }
    }
}
