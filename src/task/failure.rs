//! What goes wrong with tasks and groups.

use crate::error::{Error, ErrorKind};
use crate::launch::{Outcome, StartError};
use nix::sys::signal::Signal;
use std::fmt;

/// In which way a task has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureKind {
    /// It returned an error; or it did something else than the other tasks, whose errors name it.
    Error,
    /// It panicked.
    Panic,
    /// Its process ended by itself with this status, which is not 0.
    Exit(i32),
    /// Its process was killed by the signal with this number.
    Signal(i32),
    /// The time for the attempt was up before it had ended.
    Timeout,
    /// It is not known what became of its process: it no longer answers, or its status could not be had.
    Lost,
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FailureKind::Error => f.write_str("failed"),
            FailureKind::Panic => f.write_str("panicked"),
            FailureKind::Exit(status) => write!(f, "exited with status {status}"),
            FailureKind::Signal(number) => match Signal::try_from(*number) {
                Ok(signal) => write!(f, "was killed by signal {number} ({signal})"),
                Err(_) => write!(f, "was killed by signal {number}"),
            },
            FailureKind::Timeout => f.write_str("was not done in time"),
            FailureKind::Lost => f.write_str("was lost"),
        }
    }
}

/// How a task has failed, in few words.
pub(super) fn words(kind: FailureKind, message: &str) -> String {
    match kind {
        FailureKind::Error if !message.is_empty() => message.to_owned(),
        _ if message.is_empty() => kind.to_string(),
        _ => format!("{kind}: {message}"),
    }
}

/// The first cause of an attempt's failure: which task, how, and its own words.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TaskFailure {
    /// The task.
    pub partition: usize,
    /// The attempt, counted from 0.
    pub attempt: u32,
    /// How it failed.
    pub kind: FailureKind,
    /// Its process.
    pub process: u32,
    /// What is known besides, in words; empty where nothing is.
    pub message: String,
}

impl fmt::Display for TaskFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TaskFailure { partition, attempt, kind, process, message } = self;
        write!(f, "task {partition} (attempt {attempt}, pid {process}) {kind}")?;
        if message.is_empty() { Ok(()) } else { write!(f, ": {message}") }
    }
}

/// Why a group has no results.
#[derive(Clone, thiserror::Error)]
#[error("{}", self.text())]
pub struct GroupError {
    reason: Reason,
    failures: Vec<TaskFailure>,
    outcome: Option<Box<Outcome>>,
}

#[derive(Debug, Clone)]
enum Reason {
    /// It did not start: what was asked for cannot be, or the system refuses something.
    Refused(Error),
    /// It did not start: there is no such program.
    Program(StartError),
    /// Its last attempt failed.
    Failed,
    /// Somebody has cancelled it.
    Cancelled(String),
}

impl GroupError {
    pub(super) fn refused(error: Error, failures: Vec<TaskFailure>) -> Self {
        GroupError { reason: Reason::Refused(error), failures, outcome: None }
    }

    pub(super) fn program(error: StartError, failures: Vec<TaskFailure>) -> Self {
        GroupError { reason: Reason::Program(error), failures, outcome: None }
    }

    pub(super) fn failed(failures: Vec<TaskFailure>) -> Self {
        GroupError { reason: Reason::Failed, failures, outcome: None }
    }

    pub(super) fn cancelled(reason: String, failures: Vec<TaskFailure>) -> Self {
        GroupError { reason: Reason::Cancelled(reason), failures, outcome: None }
    }

    /// The first cause of each attempt that has failed, in their order. Empty where the group did not start, or was
    /// cancelled before anything had failed.
    pub fn failures(&self) -> &[TaskFailure] {
        &self.failures
    }

    pub(super) fn with_outcome(self, outcome: Option<Box<Outcome>>) -> Self {
        GroupError { outcome, ..self }
    }

    /// What became of the processes of the last attempt, where tasks are processes and there was one.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_deref()
    }

    /// What kept the group from starting, with what to do about it; `None` where it has started.
    pub fn refusal(&self) -> Option<Error> {
        match &self.reason {
            Reason::Refused(error) => Some(error.clone()),
            Reason::Program(error) => Some(error.clone().into()),
            Reason::Failed | Reason::Cancelled(_) => None,
        }
    }

    /// Why the program could not be started, where that is what is wrong.
    pub fn start_error(&self) -> Option<&StartError> {
        match &self.reason {
            Reason::Program(error) => Some(error),
            _ => None,
        }
    }

    /// Whether somebody has cancelled the group.
    pub fn is_cancelled(&self) -> bool {
        matches!(self.reason, Reason::Cancelled(_))
    }

    /// What kind of error this is: [`TaskFailed`](ErrorKind::TaskFailed), [`Aborted`](ErrorKind::Aborted) where the group was
    /// cancelled, else that of what kept it from starting.
    pub fn kind(&self) -> ErrorKind {
        match &self.reason {
            Reason::Refused(error) => error.kind(),
            Reason::Program(error) => Error::from(error.clone()).kind(),
            Reason::Failed => ErrorKind::TaskFailed,
            Reason::Cancelled(_) => ErrorKind::Aborted,
        }
    }

    fn text(&self) -> String {
        let mut text = match (&self.reason, &self.failures[..]) {
            (Reason::Refused(error), _) => format!("the group did not start: {error}"),
            (Reason::Program(error), _) => format!("the group did not start: {error}"),
            (Reason::Cancelled(reason), _) => format!("the group was cancelled: {reason}"),
            (Reason::Failed, [only]) => return only.to_string(),
            (Reason::Failed, all) => format!("the group failed {} times", all.len()),
        };
        for failure in &self.failures {
            text.push_str("; ");
            text.push_str(&failure.to_string());
        }
        text
    }
}

/// As [`Display`](fmt::Display): `fn main() -> Result<(), GroupError>` prints errors in this form.
impl fmt::Debug for GroupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl From<GroupError> for Error {
    fn from(error: GroupError) -> Error {
        let told = Error::new(error.kind(), error.text());
        match error.failures.last() {
            Some(failure) => told.blame(failure.partition),
            None => told,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(attempt: u32, kind: FailureKind, message: &str) -> TaskFailure {
        TaskFailure { partition: 2, attempt, kind, process: 7, message: message.into() }
    }

    #[test]
    fn every_attempt_is_told_of() {
        let first = failure(0, FailureKind::Signal(9), "");
        let second = failure(1, FailureKind::Panic, "no such key");
        let error = GroupError::failed(vec![first.clone(), second]);
        assert_eq!(
            error.to_string(),
            "the group failed 2 times; task 2 (attempt 0, pid 7) was killed by signal 9 (SIGKILL); \
             task 2 (attempt 1, pid 7) panicked: no such key"
        );
        let core = Error::from(error);
        assert_eq!((core.kind(), core.culprit()), (ErrorKind::TaskFailed, Some(2)));
        assert_eq!(GroupError::failed(vec![first.clone()]).to_string(), first.to_string());
        let cancelled = GroupError::cancelled("enough".into(), vec![first]);
        assert_eq!(cancelled.kind(), ErrorKind::Aborted);
        assert!(cancelled.to_string().starts_with("the group was cancelled: enough; task 2"));
    }
}
