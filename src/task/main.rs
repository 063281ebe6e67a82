//! The main function of a program whose processes are tasks.

use super::context::TaskContext;
use super::threads::{Boxed, panic_message};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::ExitCode;

/// Joins the group that this process was started into, does what a task does, and tells how that ended: the group by the task's
/// own words, so that the launcher and all other tasks have them, and whoever started the process by its status and a line on
/// standard error.
///
/// ```
/// use std::process::ExitCode;
/// fn main() -> ExitCode {
///     ringfold::task::main(|task| {
///         task.barrier()?;
///         println!("task {} of {}", task.partition_id(), task.num_tasks());
///         Ok::<(), ringfold::Error>(())
///     })
/// }
/// ```
pub fn main<E: Into<Boxed>>(body: impl FnOnce(&TaskContext) -> Result<(), E>) -> ExitCode {
    let task = match TaskContext::from_env() {
        Ok(task) => task,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let result = match catch_unwind(AssertUnwindSafe(|| body(&task))) {
        Ok(result) => result,
        Err(panic) => {
            task.panicked(panic_message(&*panic));
            resume_unwind(panic);
        }
    };
    match result {
        // It may have said so itself.
        Ok(()) if task.has_failed() => ExitCode::FAILURE,
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let error: Boxed = error.into();
            eprintln!("task {}: {error}", task.partition_id());
            task.fail(&error.to_string());
            ExitCode::FAILURE
        }
    }
}
