use super::*;

/// Only detects a hang.
const LONG: Duration = Duration::from_secs(60);

fn at(done: u64) -> Report {
    let mut report = Report::new();
    report.set_progress(done, 10);
    report
}

fn story(views: &[TaskView]) -> Vec<(usize, u32, &str, u64)> {
    let done = |view: &TaskView| view.report.progress().map_or(0, |progress| progress.done);
    views.iter().map(|view| (view.task, view.attempt, view.state.as_str(), done(view))).collect()
}

#[test]
fn a_listener_hears_each_state_and_the_newest_report_between_two() {
    let monitor = Monitor::new(2);
    let changes = monitor.changes();
    monitor.started();
    for done in 0..1000 {
        monitor.report(1, at(done));
    }
    monitor.ended(0, Err("exited with status 3".into()));
    monitor.attempt(1);
    monitor.report(0, at(5));
    let views = changes.wait(LONG).unwrap();
    assert_eq!(
        story(&views),
        [
            (0, 0, "waiting", 0),
            (1, 0, "waiting", 0),
            (0, 0, "running", 0),
            (1, 0, "running", 999),
            (0, 0, "failed", 0),
            (0, 1, "waiting", 0),
            (1, 1, "waiting", 0),
            (0, 1, "running", 5),
        ]
    );
    assert!(views.is_sorted_by_key(|view| view.changed));
    assert_eq!(views[4].state, State::Failed("exited with status 3".into()));
    assert_eq!(changes.wait(Duration::ZERO), Some(Vec::new()));
    changes.close();
    assert_eq!(changes.wait(LONG), None);
}

#[test]
fn a_listener_that_never_comes_costs_bounded_memory_and_one_that_is_gone_none() {
    let monitor = Monitor::new(2);
    let changes = monitor.changes();
    for attempt in 0..1000 {
        monitor.attempt(attempt);
        monitor.started();
    }
    let views = changes.wait(LONG).unwrap();
    assert_eq!(views.len(), 2 * WAITING);
    assert_eq!(story(&views).last(), Some(&(1, 999, "running", 0)));
    drop(changes);
    monitor.started();
    monitor.attempt(0);
    assert!(monitor.lock().listeners.is_empty());
}

#[test]
fn a_listener_is_woken_by_another_thread() {
    let monitor = Monitor::new(1);
    let changes = monitor.changes();
    changes.wait(LONG).unwrap();
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| changes.wait(LONG).unwrap());
        monitor.report(0, at(3));
        assert_eq!(story(&waits.join().unwrap()), [(0, 0, "running", 3)]);
        let waits = scope.spawn(|| changes.wait(LONG));
        changes.close();
        assert_eq!(waits.join().unwrap(), None);
    });
}

#[test]
fn the_end_stays_the_end_and_strangers_change_nothing() {
    let monitor = Monitor::new(1);
    monitor.ended(0, Ok(()));
    monitor.report(0, at(9));
    let now = monitor.snapshot();
    assert_eq!((story(&now.tasks), now.fraction()), (vec![(0, 0, "succeeded", 9)], Some(1.0)));
    monitor.told(0, b"no report");
    monitor.told(7, &at(1).encode());
    monitor.report(7, at(1));
    monitor.ended(7, Ok(()));
    assert_eq!(monitor.snapshot(), now);
    monitor.told(0, &at(10).encode());
    assert_eq!(monitor.snapshot().tasks[0].report, at(10));
    let ear = monitor.ear();
    ear(0, &at(4).encode());
    assert_eq!(monitor.snapshot().tasks[0].report, at(4));
}

#[test]
fn a_group_is_as_far_as_its_tasks_on_average() {
    let monitor = Monitor::new(4);
    assert_eq!(monitor.snapshot().fraction(), None);
    monitor.report(0, at(5));
    monitor.report(1, at(20));
    assert_eq!(monitor.snapshot().fraction(), Some(0.375));
    assert_eq!((monitor.snapshot().count("running"), monitor.snapshot().count("waiting")), (2, 2));
}
