//! Attempt after attempt.

use super::failure::{GroupError, TaskFailure};
use super::group::TaskGroup;
use crate::error::Error;
use crate::launch::{Outcome, StartError};

/// How an attempt has ended without results.
pub(super) enum Ended {
    /// A task has failed; what became of the processes, where tasks are.
    Failed(TaskFailure, Option<Box<Outcome>>),
    /// It cannot begin, and no later one could.
    Refused(Error),
    /// The same for the sake of the program.
    Program(StartError),
}

/// Tries until an attempt succeeds, or there are no more, or the group is cancelled.
pub(super) fn retry<T>(
    group: &TaskGroup,
    mut attempt: impl FnMut(u32) -> Result<T, Ended>,
) -> Result<T, GroupError> {
    let mut failures = Vec::new();
    let mut last = None;
    for number in 0.. {
        if let Some(reason) = group.control.ended() {
            // Nothing ran when it was ended: there is no outcome of that.
            return Err(GroupError::cancelled(reason, failures));
        }
        if let Some(monitor) = &group.monitor {
            monitor.attempt(number);
        }
        let (failure, outcome) = match attempt(number) {
            Ok(result) => {
                return match group.control.cancelled() {
                    // Tasks that heed it may well return something, and that is not all of it.
                    Some(reason) => Err(GroupError::cancelled(reason, failures)),
                    None => Ok(result),
                };
            }
            Err(Ended::Refused(error)) => return Err(GroupError::refused(error, failures)),
            Err(Ended::Program(error)) => return Err(GroupError::program(error, failures)),
            Err(Ended::Failed(failure, outcome)) => (failure, outcome),
        };
        last = outcome;
        if let Some(reason) = group.control.ended() {
            // What fails after it has been told to end is no cause of anything.
            return Err(GroupError::cancelled(reason, failures).with_outcome(last));
        }
        tracing::debug!(%failure, "an attempt has failed");
        failures.push(failure);
        if number + 1 >= group.max_attempts {
            break;
        }
        let pause = group.pause_after(number);
        if let (Some(tell), Some(failure)) = (&group.on_retry, failures.last()) {
            tell(failure, pause);
        }
        group.control.sleep(pause);
    }
    Err(GroupError::failed(failures).with_outcome(last))
}
