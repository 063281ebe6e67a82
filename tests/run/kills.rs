//! Launchers that are killed at random moments, and many launches in a row: nothing is left of any.

use crate::scene::{LEAVE_A_FILE, Place, nothing_is_left, reap_all, say, told, too_much_for};
use crate::{RINGFOLD, children, mark};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringfold::launch::{Launch, Output};
use std::process::{Command, Stdio};
use std::time::Duration;

/// How many launchers are killed, and how many groups are launched: `.ci/nightly` sets more.
const KILLS: &str = "RINGFOLD_TEST_LAUNCH_KILLS";
const GROUPS: &str = "RINGFOLD_TEST_GROUPS";

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[test]
fn launchers_that_are_killed_as_they_start_leave_nothing() {
    let (place, mark) = (Place::new("kills"), mark("kills"));
    println!("{}", told("kills", &place, &mark));
    nothing_is_left(&mark);
}

/// Kills launchers. What they leave is this process's: it has to end by itself, ranks, what they started, and guards.
pub(crate) fn kill_launchers() {
    set_child_subreaper(true).unwrap();
    let mut random = fastrand::Rng::with_seed(2026);
    let (kills, mut while_starting) = (number(KILLS, 200), 0);
    let place = std::env::temp_dir().join(format!("ringfold-killed-{}", std::process::id()));
    for round in 0..kills {
        let _ = std::fs::remove_dir_all(&place);
        std::fs::create_dir(&place).unwrap();
        let ranks = random.usize(1..12);
        let mut command = Command::new(RINGFOLD);
        command.args(["run", "-n", &ranks.to_string(), "--env", &format!("PLACE={}", place.display())]);
        command.args(["--", "sh", "-c", LEAVE_A_FILE]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let pid = Pid::from_raw(child.id() as i32);
        std::thread::sleep(Duration::from_micros(random.u64(..25_000)));
        if random.u8(..4) == 0 {
            kill(pid, Signal::SIGSTOP).unwrap();
            std::thread::sleep(Duration::from_micros(random.u64(..2000)));
        }
        while_starting += usize::from(std::fs::read_dir(&place).unwrap().count() < ranks);
        kill(pid, Signal::SIGKILL).unwrap();
        // All of them: the handle is not asked again.
        drop(child);
        reap_all(&format!("after the kill number {round}"));
    }
    std::fs::remove_dir_all(&place).unwrap();
    say(format_args!("{kills} launchers were killed, {while_starting} before all ranks had begun"));
}

#[test]
fn many_groups_in_a_row_leave_nothing() {
    let (place, mark) = (Place::new("groups"), mark("groups"));
    println!("{}", told("groups", &place, &mark));
    nothing_is_left(&mark);
}

/// Launches groups, of which some fail and some cannot be started, and compares what this process has before and after.
pub(crate) fn launch_groups() {
    let has = || {
        let count = |what: &str| std::fs::read_dir(format!("/proc/self/{what}")).unwrap().count();
        (count("fd"), count("task"), children(std::process::id()))
    };
    let program = |name: &str| Launch::new(4).program(name).output(Output::Null);
    assert!(program("true").start().unwrap().wait().success());
    let before = has();
    let groups = number(GROUPS, 100);
    for round in 0..groups {
        match round % 10 {
            3 => drop(too_much_for(1, program("true")).start().unwrap_err()),
            5 => assert_eq!(program("false").start().unwrap().wait().code(), 1),
            7 => assert!(program("true").output(Output::Prefixed).start().unwrap().wait().success()),
            9 => drop(program("sleep").arg("300").start().unwrap()),
            _ => assert!(program("true").start().unwrap().wait().success()),
        }
    }
    assert_eq!(has(), before, "descriptors, threads and children after {groups} groups");
    say(format_args!("{groups} groups have left nothing"));
}
