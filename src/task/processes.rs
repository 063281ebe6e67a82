//! One attempt as processes of this host.

use super::attempt::Ended;
use super::control::Current;
use super::failure::{FailureKind, TaskFailure, words};
use super::group::{Completed, TaskGroup};
use super::monitor::Monitor;
use super::placement::Placed;
use crate::config::environment as names;
use crate::error::{Cause, CauseKind};
use crate::launch::{Launch, Outcome, Status};

/// Starts the processes, and waits until nothing of them is left.
pub(super) fn attempt(
    group: &TaskGroup,
    number: u32,
    placed: &Placed,
    program: &Launch,
) -> Result<Completed, Ended> {
    let mut launch = program.clone().generation(group.config.generation.wrapping_add(number));
    if let Some(timeout) = group.timeout {
        launch = launch.timeout(timeout);
    }
    for (task, resources) in placed.tasks.iter().enumerate() {
        if let Some(list) = resources.try_visible(placed.visible.as_deref()).map_err(Ended::Refused)? {
            launch = launch.env_of(task, names::CUDA_VISIBLE_DEVICES, list);
        }
        if !resources.cpus.is_empty() {
            launch = launch.pin(task, resources.cpus.iter().copied());
        }
        launch = launch.env_of(task, names::TASK, group.description(number, placed, task).to_json());
    }
    // Results come as reports, so that somebody has to hear them.
    let monitor = group.monitor.clone().unwrap_or_else(|| Monitor::new(group.tasks));
    launch = monitor.watch(launch);
    let running = launch.start().map_err(|error| match error.program() {
        Some(_) => Ended::Program(error),
        // A rank that was killed before it began, a system that has no process to give now.
        None if error.is_transient() => {
            let told = crate::error::Error::from(error);
            let partition = told.culprit().unwrap_or(0);
            let (kind, message) = (FailureKind::Lost, format!("it could not be started: {}", told.message()));
            Ended::Failed(TaskFailure { partition, attempt: number, kind, process: 0, message }, None)
        }
        None => Ended::Refused(error.into()),
    })?;
    monitor.started();
    let entered = group.control.enter(Current::Processes(running.signaller()));
    let outcome = running.wait();
    drop(entered);
    if outcome.success() {
        let views = monitor.snapshot().tasks;
        let results = views.iter().map(|view| view.report.result().map(str::to_owned)).collect();
        return Ok(Completed { statuses: outcome.statuses, results, attempts: number + 1 });
    }
    let failure = first_cause(&outcome, number, running.pids());
    monitor.ended(failure.partition, Err(words(failure.kind, &failure.message)));
    Err(Ended::Failed(failure, Some(Box::new(outcome))))
}

/// The failure that counts: of the processes, or what their group says of itself.
fn first_cause(outcome: &Outcome, attempt: u32, pids: &[u32]) -> TaskFailure {
    let of = |partition: usize, kind: FailureKind, message: String| {
        let process = pids.get(partition).copied().unwrap_or(0);
        TaskFailure { partition, attempt, kind, process, message }
    };
    let first = outcome.first_failure.as_ref();
    if outcome.timed_out {
        let unfinished = outcome.ended.first().copied().or(first.map(|failure| failure.rank));
        let late = match outcome.ended.len() {
            0 | 1 => String::new(),
            2 => "nor was another".to_owned(),
            several => format!("nor were {} others", several - 1),
        };
        return of(unfinished.unwrap_or(0), FailureKind::Timeout, late);
    }
    let Some(first) = first else {
        return of(0, FailureKind::Lost, "its group ended without a failure that is known".into());
    };
    match &first.cause {
        // The group's own verdict names another: one that hangs, left early or does something else than the rest.
        Some(cause) if cause.culprit != first.rank && cause.culprit < pids.len() => {
            let kind = match cause.kind {
                CauseKind::Unresponsive | CauseKind::Unreachable => FailureKind::Lost,
                CauseKind::PeerDead => of_status(outcome.statuses[cause.culprit]),
                CauseKind::UserPanic => FailureKind::Panic,
                _ => FailureKind::Error,
            };
            of(cause.culprit, kind, cause.detail.clone())
        }
        Some(cause) => of(first.rank, of_own(first.status, cause), beyond(cause, first.status)),
        None => of(first.rank, of_status(first.status), String::new()),
    }
}

/// The failure of a task that the group blames.
fn of_own(status: Status, cause: &Cause) -> FailureKind {
    match (cause.kind, status) {
        (CauseKind::UserPanic, _) => FailureKind::Panic,
        (CauseKind::Unresponsive | CauseKind::Unreachable, _) => FailureKind::Lost,
        // By its own words.
        (
            CauseKind::Abort | CauseKind::Mismatch | CauseKind::Closed | CauseKind::Deadline,
            Status::Exited(_),
        ) => FailureKind::Error,
        _ => of_status(status),
    }
}

fn of_status(status: Status) -> FailureKind {
    match status {
        // It has ended as if all were well, and the others still needed it.
        Status::Exited(0) => FailureKind::Error,
        Status::Exited(code) => FailureKind::Exit(code),
        Status::Killed(signal) => FailureKind::Signal(signal),
        Status::Unknown => FailureKind::Lost,
    }
}

/// What a cause says beyond what a status says.
fn beyond(cause: &Cause, status: Status) -> String {
    match cause.kind {
        CauseKind::PeerDead if !status.success() => String::new(),
        _ => cause.detail.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::Failure;

    fn outcome(statuses: &[Status], first: usize, cause: Option<(CauseKind, usize)>) -> Outcome {
        let cause = cause.map(|(kind, culprit)| Cause {
            generation: 0,
            sequence: Cause::NO_SEQUENCE,
            kind,
            culprit,
            reporter: culprit,
            detail: "the detail".into(),
        });
        Outcome {
            first_failure: Some(Failure { rank: first, pid: 10, status: statuses[first], cause }),
            statuses: statuses.to_vec(),
            ended: Vec::new(),
            timed_out: false,
        }
    }

    #[test]
    fn kinds_of_failures_are_told_apart() {
        use Status::{Exited, Killed, Unknown};
        let told = |outcome: &Outcome| {
            let failure = first_cause(outcome, 3, &[10, 11, 12]);
            assert_eq!((failure.attempt, failure.process), (3, 10 + failure.partition as u32));
            (failure.partition, failure.kind, failure.message)
        };
        let words = "the detail".to_owned();
        let none = String::new();
        let all = [Exited(1), Killed(9), Exited(0)];
        assert_eq!(told(&outcome(&all, 1, None)), (1, FailureKind::Signal(9), none.clone()));
        let dead = Some((CauseKind::PeerDead, 1));
        assert_eq!(told(&outcome(&all, 1, dead)), (1, FailureKind::Signal(9), none.clone()));
        assert_eq!(told(&outcome(&all, 0, dead)), (1, FailureKind::Signal(9), words.clone()));
        assert_eq!(told(&outcome(&all, 0, None)), (0, FailureKind::Exit(1), none.clone()));
        let own = |kind| told(&outcome(&all, 0, Some((kind, 0))));
        assert_eq!(own(CauseKind::Abort), (0, FailureKind::Error, words.clone()));
        assert_eq!(own(CauseKind::UserPanic), (0, FailureKind::Panic, words.clone()));
        let other = |kind| told(&outcome(&all, 0, Some((kind, 2))));
        assert_eq!(other(CauseKind::Unresponsive), (2, FailureKind::Lost, words.clone()));
        assert_eq!(other(CauseKind::Mismatch), (2, FailureKind::Error, words.clone()));
        assert_eq!(other(CauseKind::Closed), (2, FailureKind::Error, words));
        assert_eq!(told(&outcome(&[Unknown], 0, None)), (0, FailureKind::Lost, none.clone()));
        let late = Outcome { timed_out: true, ended: vec![2], ..outcome(&all, 1, None) };
        assert_eq!(told(&late), (2, FailureKind::Timeout, none));
    }
}
