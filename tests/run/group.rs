//! Ranks that form a group: the example of the README, and a death in the middle of a collective.

use crate::{RINGFOLD, Said, said};
use nix::sys::signal::{SigHandler, Signal, raise, signal};
use ringfold::{Communicator, ErrorKind, ReduceOp};
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

const TASK: &str = "RUN_TEST_TASK";

/// This binary as every rank of a group, with something to do.
fn ranks(count: usize, task: &str) -> Said {
    let own = std::env::current_exe().unwrap();
    let mut command = Command::new(RINGFOLD);
    command.args(["run", "-n", &count.to_string(), "--env", &format!("{TASK}={task}"), "--"]);
    said(command.arg(own).args(["--exact", "rank", "--nocapture"]))
}

/// What a rank does; nothing where no rank is asked for.
pub(crate) fn rank() {
    let Ok(task) = std::env::var(TASK) else { return };
    // So that a rank on a busy machine can say what it has to say.
    // SAFETY: ignoring a signal runs no handler.
    unsafe { signal(Signal::SIGTERM, SigHandler::SigIgn) }.unwrap();
    let comm = Communicator::from_env().unwrap();
    let mut data = vec![1.0f32; 10_000];
    for step in 0.. {
        if comm.rank() == 2 && step == 20 {
            println!("last words at {}", now());
            match task.as_str() {
                "die" => raise(Signal::SIGKILL).unwrap(),
                "exit" => std::process::exit(9),
                "panic" => panic!("on purpose"),
                "mismatch" => drop(comm.all_reduce(&mut data[1..], ReduceOp::Sum)),
                _ => panic!("no such task: {task}"),
            }
        }
        data.fill(1.0);
        if let Err(error) = comm.all_reduce(&mut data, ReduceOp::Sum) {
            println!("at {}: {:?} {:?}: {error}", now(), error.kind(), error.culprit());
            std::process::exit(if error.kind() == ErrorKind::PeerDead { 8 } else { 7 });
        }
        assert!(data.iter().all(|&sum| sum == comm.world_size() as f32));
    }
}

/// Milliseconds that processes have in common.
fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() % 1_000_000
}

/// What the survivors have said of rank 2.
fn survivors(said: &Said, kind: &str) {
    for rank in [0, 1, 3] {
        let prefix = format!("[{rank}] at ");
        let text = said.text();
        let line = text.lines().find(|line| line.starts_with(&prefix));
        let line = line.unwrap_or_else(|| panic!("rank {rank} says nothing: {said:?}"));
        assert!(line.contains(&format!(": {kind} Some(2): ")), "{line}");
        println!("{line}");
    }
}

#[test]
fn a_death_in_a_collective_is_told_to_all() {
    let said = ranks(4, "die");
    println!("{}", said.lines().iter().find(|line| line.contains("last words at")).unwrap());
    survivors(&said, "PeerDead");
    assert_eq!(said.code, Some(137), "{said:?}");
    assert!(said.err.contains("ringfold: rank 2 (pid "), "{}", said.err);
    assert!(said.err.contains("was killed by signal 9 (SIGKILL)"), "{}", said.err);
}

#[test]
fn an_exit_without_a_goodbye_is_a_death() {
    let said = ranks(4, "exit");
    survivors(&said, "PeerDead");
    assert_eq!(said.code, Some(9), "{said:?}");
    assert!(said.err.contains("exited with status 9"), "{}", said.err);
}

#[test]
fn a_panic_is_told_as_one() {
    let said = ranks(4, "panic");
    survivors(&said, "UserPanic");
    assert_eq!(said.code, Some(101), "{said:?}");
    assert!(said.err.contains("ringfold: the group failed: user panic"), "{}", said.err);
}

#[test]
fn a_mismatch_is_told_with_the_group_s_own_words() {
    let said = ranks(4, "mismatch");
    survivors(&said, "Mismatch");
    assert_eq!(said.code, Some(7), "{said:?}");
    assert!(said.err.contains("ringfold: rank 2 (pid "), "{}", said.err);
    assert!(said.err.contains("ringfold: the group failed: mismatch: "), "{}", said.err);
}

#[test]
fn digits_are_learned_by_four_ranks() {
    let said = said(Command::new(RINGFOLD).args(["run", "-n", "4", "--"]).arg(digits()));
    assert_eq!(said.code, Some(0), "{said:?}");
    let text = said.text();
    assert!(text.contains("1437 rows to train on with 4 ranks"), "{text}");
    assert!(text.contains("weights agree with a one-rank run within"), "{text}");
    let accuracy = text.lines().find_map(|line| line.split_once("test accuracy ")).unwrap().1;
    assert!(accuracy.parse::<f64>().unwrap() >= 0.9, "{text}");
    assert!(text.lines().all(|line| line.starts_with("[0] ")), "only rank 0 has something to say: {text}");
}

/// The example, which is built where not all of the tests are.
fn digits() -> std::path::PathBuf {
    let profile = Path::new(RINGFOLD).parent().unwrap();
    let path = profile.join("examples/digits");
    if !path.exists() {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--example", "digits", "--manifest-path"]);
        cargo.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
        cargo.arg("--target-dir").arg(profile.parent().unwrap());
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        assert!(cargo.status().unwrap().success());
    }
    path
}
