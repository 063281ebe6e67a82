//! Groups of processes of this host.

use crate::programs::{HANG, Place};
use ringfold::launch::{Launch, Status};
use ringfold::task::{Completed, FailureKind, GroupError, TaskFailure, TaskGroup};
use ringfold::{Error, ErrorKind};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a group of four becomes that may fail twice, and what its attempts failed of.
fn run(name: &str, part: &str) -> (Place, Result<Completed, GroupError>, Vec<TaskFailure>) {
    let place = Place::new(name);
    let failures = Arc::new(Mutex::new(Vec::new()));
    let of_group = Arc::clone(&failures);
    let group = TaskGroup::new(4)
        .max_attempts(2)
        .property("user", "ann")
        .backoff(Duration::ZERO, Duration::ZERO)
        .on_retry(move |failure, _| of_group.lock().unwrap().push(failure.clone()));
    let program = place.program(4, part).heartbeat(Duration::from_millis(500));
    let result = group.run_program(&program);
    let failures = failures.lock().unwrap().clone();
    (place, result, failures)
}

#[test]
fn tasks_know_each_other() {
    let (place, result, _) = run("introduce", "introduce");
    let completed = result.unwrap();
    assert_eq!((completed.attempts, &completed.statuses[..]), (1, &[Status::Exited(0); 4][..]));
    let results: Vec<_> = (0..4).map(|task| Some(format!("result of {task}"))).collect();
    assert_eq!(completed.results, results);
    let expected: Vec<String> =
        (0..4).map(|task| format!("{task} of 4: 4 processes, sum 10, ann, true")).collect();
    assert_eq!(place.notes(), expected);
}

/// The second attempt succeeds. The first one's failure.
fn recovers(name: &str) -> TaskFailure {
    let (place, result, failures) = run(name, name);
    let completed = result.unwrap_or_else(|error| panic!("{error}; {:?}", place.notes()));
    assert_eq!(completed.attempts, 2);
    let done: Vec<String> = place.notes().into_iter().filter(|note| note.contains("is done in")).collect();
    let expected: Vec<String> =
        (0..4).map(|task| format!("{task} is done in attempt 1, generation 1")).collect();
    assert_eq!(done, expected, "{:?}", place.notes());
    assert_eq!(failures.len(), 1);
    let failure = failures[0].clone();
    assert_eq!((failure.attempt, failure.partition), (0, 2), "{failure}");
    assert!(failure.process > 0);
    failure
}

#[test]
fn a_task_that_is_killed_is_told_by_its_signal() {
    assert_eq!(recovers("killed").kind, FailureKind::Signal(9));
}

#[test]
fn a_task_that_panics_is_told_by_that() {
    let failure = recovers("panic");
    assert_eq!(failure.kind, FailureKind::Panic, "{failure}");
    assert!(failure.message.contains("task 2 panicked: no such key"), "{failure}");
}

#[test]
fn a_task_that_exits_is_told_by_its_status() {
    assert_eq!(recovers("exit").kind, FailureKind::Exit(3));
}

#[test]
fn a_task_that_returns_an_error_is_told_by_its_words() {
    let failure = recovers("error");
    assert_eq!(failure.kind, FailureKind::Error);
    assert!(failure.message.contains("the disk is full"), "{failure}");
}

#[test]
fn a_failure_that_is_told_counts_though_the_task_returns_well() {
    let place = Place::new("told");
    let error = TaskGroup::new(2).run_program(&place.program(2, "fails and returns well")).unwrap_err();
    let failure = &error.failures()[0];
    assert_eq!((failure.partition, failure.kind), (1, FailureKind::Error), "{failure}");
    assert!(failure.message.contains("the disk is full"), "{failure}");
}

#[test]
fn a_task_that_hangs_is_lost() {
    assert_eq!(recovers("stopped").kind, FailureKind::Lost);
}

#[test]
fn a_task_that_ends_without_calling_is_told_of() {
    let failure = recovers("leaves");
    assert_eq!(failure.kind, FailureKind::Error, "{failure}");
}

#[test]
fn a_task_that_ends_well_without_joining_is_told_of_at_once() {
    let place = Place::new("absent");
    // Its deadline for joining is a minute: nobody waits for that.
    let error = TaskGroup::new(3).run_program(&place.program(3, "does not come")).unwrap_err();
    let failure = &error.failures()[0];
    assert_eq!((failure.partition, failure.kind), (1, FailureKind::Error), "{failure}");
    assert!(failure.message.contains("has ended well without joining"), "{failure}");
}

#[test]
fn a_task_that_calls_something_else_is_told_of() {
    let failure = recovers("mismatch");
    assert_eq!(failure.kind, FailureKind::Error, "{failure}");
}

#[test]
fn the_last_attempt_of_a_group_has_its_error() {
    let place = Place::new("once");
    let error = TaskGroup::new(4).run_program(&place.program(4, "exit")).unwrap_err();
    assert_eq!((error.kind(), error.failures().len()), (ErrorKind::TaskFailed, 1));
    assert_eq!(error.outcome().unwrap().code(), 3);
    assert_eq!(Error::from(error).culprit(), Some(2));
}

#[test]
fn time_that_is_up_is_told_of() {
    let place = Place::new("late");
    let group = TaskGroup::new(2).timeout(Duration::from_millis(300));
    let error = group.run_program(&place.program(2, "sleep")).unwrap_err();
    assert_eq!(error.failures()[0].kind, FailureKind::Timeout, "{error}");
    assert!(error.outcome().unwrap().timed_out);
}

#[test]
fn a_group_is_cancelled_from_outside() {
    let place = Place::new("cancelled");
    let group = TaskGroup::new(2).max_attempts(5);
    let handle = group.handle();
    let error = std::thread::scope(|scope| {
        scope.spawn(|| {
            while place.notes().len() < 2 {
                std::thread::sleep(Duration::from_millis(2));
            }
            handle.cancel("the user pressed stop");
        });
        group.run_program(&place.program(2, "sleep")).unwrap_err()
    });
    assert!(error.is_cancelled() && error.failures().is_empty(), "{error}");
    assert!(error.to_string().contains("the user pressed stop"));
    let killed = error.outcome().unwrap().statuses.iter().all(|status| *status == Status::Killed(15));
    assert!(killed, "{:?}", error.outcome());
}

#[test]
fn a_program_that_is_not_there_is_not_tried_again() {
    let group = TaskGroup::new(3).max_attempts(5).on_retry(|failure, _| panic!("{failure}"));
    let error = group.run_program(&Launch::new(3).program("/nowhere/train")).unwrap_err();
    assert_eq!(error.start_error().unwrap().program(), Some(io::ErrorKind::NotFound));
    assert!(error.failures().is_empty());
    let other = group.run_program(&Launch::new(2).program("true")).unwrap_err();
    assert_eq!(other.kind(), ErrorKind::InvalidArgument);
}

#[test]
fn who_is_left_of_an_older_attempt_is_refused() {
    let (place, result, failures) = run("stale", "leave somebody behind");
    let completed = result.unwrap_or_else(|error| panic!("{error}; {:?}", place.notes()));
    assert_eq!((completed.attempts, failures.len()), (2, 1));
    let notes = place.notes();
    let refused = notes.iter().find(|note| note.starts_with("stale: ")).unwrap();
    assert!(refused.contains("refuses (Generation)"), "{refused}");
    assert_eq!(notes.iter().filter(|note| note.ends_with("is well")).count(), 4, "{notes:?}");
}

/// The children of this process, and whatever has these in its environment.
fn left_of(place: &Place) -> Vec<String> {
    let own = std::process::id().to_string();
    let mark = place.path().to_string_lossy().into_owned();
    let mut left = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let after_name = stat.rfind(')').map_or("", |at| &stat[at + 1..]);
        let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        let is_marked = environment.windows(mark.len()).any(|window| window == mark.as_bytes());
        if is_marked || fields.get(1) == Some(&own.as_str()) {
            left.push(stat);
        }
    }
    left
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// How often to do what is done many times: 1,000 in the long set.
fn many() -> usize {
    std::env::var("RINGFOLD_TEST_GROUPS").ok().map_or(40, |count| count.parse().unwrap())
}

#[test]
fn many_groups_in_a_row_leave_nothing_behind() {
    // Alone: other tests have children and descriptors too.
    if !crate::support::process::alone("processes::many_groups_in_a_row_leave_nothing_behind") {
        return;
    }
    let place = Place::new("many");
    let program = place.program(4, "introduce").env("RINGFOLD_TEST_ALONE", "1");
    TaskGroup::new(4).run_program(&program).unwrap();
    let before = descriptors();
    for round in 0..many() {
        let completed =
            TaskGroup::new(4).run_program(&program).unwrap_or_else(|error| panic!("group {round}: {error}"));
        assert!(completed.results.iter().all(Option::is_some), "group {round}: {:?}", completed.results);
    }
    assert_eq!(left_of(&place), [""; 0]);
    assert_eq!(descriptors(), before);
}

#[test]
fn groups_whose_tasks_are_killed_recover_and_leave_nothing_behind() {
    if !crate::support::process::alone(
        "processes::groups_whose_tasks_are_killed_recover_and_leave_nothing_behind",
    ) {
        return;
    }
    let place = Place::new("deaths");
    let program = place.program(4, "anyone is killed");
    let group = TaskGroup::new(4).max_attempts(4).backoff(Duration::ZERO, Duration::ZERO);
    for _ in 0..many().div_ceil(8) {
        let completed = group.run_program(&program).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(completed.attempts, 4, "a task is killed in each of the first three");
    }
    assert_eq!(left_of(&place), [""; 0]);
    assert!(HANG > Duration::ZERO);
}

#[test]
fn a_group_that_heeds_nothing_is_ended_when_it_is_cancelled() {
    let program = Launch::new(2).program("sh").args(["-c", "trap '' TERM; while :; do sleep 1; done"]);
    let group = TaskGroup::new(2);
    let handle = group.handle();
    let error = std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            handle.cancel("enough");
        });
        group.run_program(&program.output(ringfold::launch::Output::Null)).unwrap_err()
    });
    assert!(error.is_cancelled(), "{error}");
    assert_eq!(error.outcome().unwrap().statuses, [Status::Killed(9); 2]);
}

#[test]
fn whoever_listens_to_a_launch_still_does() {
    let ends = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&ends);
    let beside =
        ringfold::launch::Beside::default().ended(Arc::new(move |rank, _| told.lock().unwrap().push(rank)));
    let program = Launch::new(3).program("true").output(ringfold::launch::Output::Null).beside(beside);
    TaskGroup::new(3).run_program(&program).unwrap();
    ends.lock().unwrap().sort_unstable();
    assert_eq!(*ends.lock().unwrap(), [0, 1, 2]);
}
