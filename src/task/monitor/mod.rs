//! What long tasks tell while they run: how far they are, numbers of their own, and what their collectives have counted.
//!
//! - a task tells by a [`Reporter`]: [`progress`](Reporter::progress), [`metric`](Reporter::metric),
//!   [`message`](Reporter::message). That costs some ten nanoseconds; what is sent, at most ten times a second, is the
//!   newest [`Report`], and the last one goes ahead of the task's end;
//! - the group's [`Monitor`] knows the newest report of every task, and whether it waits, runs, or how it has ended. It tells
//!   whoever asks ([`Monitor::snapshot`]) or listens ([`Monitor::changes`]);
//! - [`JsonLines`] writes what changes, one JSON object a line;
//! - [`MetricsServer`] offers all of it to Prometheus over HTTP (feature `metrics`).
//!
//! `ringfold run --progress --metrics 127.0.0.1:9090 --metrics-json progress.jsonl` does all of this for any program that
//! joins the group, and what the collectives have counted is there even of a program whose tasks tell nothing else, once it
//! has made a [`Reporter`].
//!
//! ```
//! use ringfold::task::monitor::{Monitor, Report, State};
//! let monitor = Monitor::new(2);
//! monitor.started();
//! let mut report = Report::new();
//! report.set_progress(30, 100);
//! report.set_metric("loss", 0.25)?;
//! monitor.report(1, report);
//! monitor.ended(0, Ok(()));
//! let now = monitor.snapshot();
//! assert_eq!(now.tasks[0].state, State::Succeeded);
//! assert_eq!(now.tasks[1].report.progress().unwrap().fraction(), Some(0.3));
//! # Ok::<(), ringfold::Error>(())
//! ```

mod board;
mod json;
mod number;
#[cfg(feature = "metrics")]
mod prometheus;
mod report;
mod reporter;
#[cfg(feature = "metrics")]
mod server;
mod totals;

pub use board::{Changes, Monitor, Snapshot, State, TaskView};
pub use json::JsonLines;
pub use report::{LIMITS, Limits, Progress, Report};
pub use reporter::Reporter;
#[cfg(feature = "metrics")]
pub use server::{MetricsServer, Reach};
pub use totals::{OperationTotals, Totals};
