//! Launching from a program of one's own.

use crate::scene::Place;
use crate::{LONG, eventually, mark, marked, state};
use ringfold::launch::{Beside, Launch, Output, Signal, Status};
use ringfold::task::TaskGroup;
use ringfold::task::monitor::{Monitor, State};
use std::io;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn shell(ranks: usize, script: &str) -> Launch {
    Launch::new(ranks).program("sh").args(["-c", script]).output(Output::Null)
}

#[test]
fn an_outcome_tells_of_every_rank() {
    let running = shell(3, "exit $((RANK * 2 % 4))").start().unwrap();
    let pids = running.pids().to_vec();
    let outcome = running.wait_timeout(LONG).unwrap();
    assert_eq!(outcome.statuses, [Status::Exited(0), Status::Exited(2), Status::Exited(0)]);
    let failure = outcome.first_failure.clone().unwrap();
    assert_eq!((failure.rank, failure.pid, failure.status), (1, pids[1], Status::Exited(2)));
    assert_eq!((outcome.code(), outcome.success()), (2, false));
    assert_eq!(running.wait(), outcome, "it stays known");
    assert!(pids.iter().all(|&pid| state(pid).is_none()), "no zombie is left");
}

#[test]
fn waiting_has_a_limit_and_signals_reach_all() {
    let running = shell(2, "sleep 300").start().unwrap();
    assert_eq!(running.wait_timeout(Duration::from_millis(50)), None);
    running.signaller().signal(Signal::SIGTERM);
    let outcome = running.wait();
    assert_eq!(outcome.statuses, [Status::Killed(15); 2]);
    assert_eq!(outcome.code(), 143);
    running.signal(Signal::SIGKILL);
}

/// Ranks of which the first ends when it is asked, the second does not, and the third is stopped.
const HEEDLESS: &str = r#"case $RANK in
    0) trap 'exit 5' TERM;;
    1) trap '' TERM;;
    2) trap 'exit 6' TERM;;
esac
: > "$PLACE/$RANK"
[ $RANK = 2 ] && kill -STOP $$
while :; do sleep 0.02; done"#;

#[test]
fn an_end_is_the_end_also_of_what_does_not_heed_it() {
    let place = Place::new("end");
    let running = shell(3, HEEDLESS).env("PLACE", place.path()).start().unwrap();
    let stopped = running.pids()[2];
    eventually("all are there", || place.files() == 3 && state(stopped) == Some('T'));
    running.signaller().end();
    running.signaller().end();
    let outcome = running.wait_timeout(LONG).expect("it ends");
    assert_eq!(outcome.statuses, [Status::Exited(5), Status::Killed(9), Status::Exited(6)]);
    assert_eq!((outcome.ended.as_slice(), outcome.timed_out), (&[0, 1, 2][..], false));
}

#[test]
fn a_signal_kills_nobody_and_an_end_after_it_does() {
    let place = Place::new("end-asked");
    let script = "trap '' TERM; : > \"$PLACE/$RANK\"; while :; do sleep 0.02; done";
    let running = shell(2, script).env("PLACE", place.path()).start().unwrap();
    eventually("all are there", || place.files() == 2);
    running.signal(Signal::SIGTERM);
    assert_eq!(running.wait_timeout(Duration::from_millis(200)), None, "they may be saving something");
    running.signaller().end();
    let outcome = running.wait_timeout(LONG).expect("it ends");
    assert_eq!(
        (outcome.statuses.as_slice(), outcome.ended.as_slice()),
        (&[Status::Killed(9); 2][..], &[0, 1][..])
    );
}

#[test]
fn what_is_dropped_ends() {
    let mark = mark("drop");
    let (name, value) = mark.split_once('=').unwrap();
    let script = "trap '' TERM INT; sleep 300 & wait";
    let running = shell(2, script).env(name, value).start().unwrap();
    eventually("all have started", || marked(&mark).len() == 4);
    drop(running);
    assert!(marked(&mark).is_empty());
}

#[test]
fn who_stands_beside_is_told_also_where_a_group_has_a_monitor() {
    let ends = Arc::new(Mutex::new(Vec::new()));
    let of_launch = Arc::clone(&ends);
    let ended = Arc::new(move |rank, status: Status| of_launch.lock().unwrap().push((rank, status.code())));
    let launch = shell(2, "exit 0").beside(Beside::default().ended(ended));
    let monitor = Monitor::new(2);
    TaskGroup::new(2).monitor(&monitor).run_program(&launch).unwrap();
    ends.lock().unwrap().sort_unstable();
    assert_eq!(*ends.lock().unwrap(), [(0, 0), (1, 0)]);
    assert!(monitor.snapshot().tasks.iter().all(|task| task.state == State::Succeeded));
}

#[test]
fn other_children_are_not_touched() {
    let mut own = Command::new("sh").args(["-c", "exit 9"]).spawn().unwrap();
    assert!(shell(2, "exit 0").start().unwrap().wait().success());
    assert_eq!(own.wait().unwrap().code(), Some(9));
}

#[test]
fn launches_do_not_disturb_each_other() {
    let launches: Vec<_> = (0..4).map(|code| shell(2, &format!("exit {code}")).start().unwrap()).collect();
    for (code, running) in launches.iter().enumerate() {
        assert_eq!(usize::from(running.wait().code()), code);
    }
}

#[test]
fn the_attempt_and_the_heartbeat_are_told() {
    let script =
        "[ $RINGFOLD_GENERATION = 3 ] && [ $RINGFOLD_HEARTBEAT = 500ms ] && [ $RINGFOLD_RANK = $RANK ]";
    let launch = shell(2, script).generation(3).heartbeat(Duration::from_millis(500));
    assert!(launch.env("RINGFOLD_RANK", "7").start().unwrap().wait().success(), "ranks are not overridden");
}

#[test]
fn what_cannot_be_started_is_refused() {
    let missing = Launch::new(3).program("/no/such/program").start().unwrap_err();
    assert_eq!(missing.program(), Some(io::ErrorKind::NotFound));
    assert!(missing.to_string().contains("/no/such/program"), "{missing}");
    for launch in [Launch::new(0).program("true"), Launch::new(1)] {
        let error = ringfold::Error::from(launch.start().unwrap_err());
        assert_eq!(error.kind(), ringfold::ErrorKind::InvalidArgument);
    }
}
