//! What became of a group, in words and as an exit status.

use crate::conduct::say;
use ringfold::ErrorKind;
use ringfold::error::CauseKind;
use ringfold::launch::{Outcome, StartError, Status};
use ringfold::task::{GroupError, TaskFailure};
use std::io;

/// A failure, of a rank as this command calls it.
pub(crate) fn told(failure: &TaskFailure) -> String {
    let TaskFailure { partition, process, kind, message, .. } = failure;
    let words = if message.is_empty() { String::new() } else { format!(": {message}") };
    format!("rank {partition} (pid {process}) {kind}{words}")
}

/// Says why there is no result, where `asked` is the signal by which this process has been asked to end. The exit status that tells
/// the same.
pub(crate) fn account(error: &GroupError, asked: i32) -> u8 {
    if let Some(start) = error.start_error() {
        say(start);
        return refusal(start);
    }
    let Some(outcome) = error.outcome() else {
        if error.is_cancelled() && asked != 0 {
            return 128u8.saturating_add(u8::try_from(asked).unwrap_or(127));
        }
        say(error);
        return 1;
    };
    if error.failures().len() > 1 && !error.is_cancelled() {
        say(format_args!("no attempt is left after {}", error.failures().len()));
    }
    tell(outcome, error.failures().last().filter(|_| !error.is_cancelled()), asked);
    outcome.code()
}

/// The exit status of a shell for a program that it cannot start.
fn refusal(error: &StartError) -> u8 {
    match error.program() {
        Some(io::ErrorKind::NotFound) => 127,
        Some(_) => 126,
        None => 1,
    }
}

/// Says what became of the ranks, unless there is nothing to say.
fn tell(outcome: &Outcome, cause: Option<&TaskFailure>, asked: i32) {
    if outcome.timed_out {
        say("the ranks were ended: the time of --timeout was up");
    }
    let Some(failure) = &outcome.first_failure else { return };
    if outcome.timed_out && outcome.ended.contains(&failure.rank) {
        return;
    }
    if asked != 0 && (failure.status == Status::Killed(asked) || outcome.ended.contains(&failure.rank)) {
        return; // what was asked for
    }
    // Who is behind it comes first, whoever has ended first.
    let behind = cause.filter(|cause| cause.partition != failure.rank);
    if let Some(behind) = behind {
        say(told(behind));
    }
    say(failure);
    if let Some(cause) = &failure.cause
        && behind.is_none()
        && (cause.kind, cause.culprit) != (CauseKind::PeerDead, failure.rank)
    {
        let kind: ErrorKind = cause.kind.error_kind();
        say(format_args!("the group failed: {kind}: {}", cause.detail));
    }
    if let Some(others) = outcome.others() {
        say(others);
    }
}
