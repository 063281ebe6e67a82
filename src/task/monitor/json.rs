//! What changes, one JSON object a line.

use super::board::{Changes, Monitor, TaskView};
use super::number::Number;
use super::totals::Totals;
use crate::error::{Error, Result};
use crate::observe;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, UNIX_EPOCH};

/// How long changes gather before they are written.
const GATHER: Duration = Duration::from_millis(100);

/// How long the last lines may take where their reader is slow.
const LAST: Duration = Duration::from_secs(2);

/// A thread that writes what changes, until this is dropped: everything that has changed by then is written first, for which
/// the drop waits, at most 2 s.
///
/// Each line is one object about one task, with these fields:
///
/// | field | what |
/// |---|---|
/// | `time` | when it changed, in seconds since 1970; never less than in a line above of the same task |
/// | `attempt` | which attempt of the group, from 0 |
/// | `task` | the task's number |
/// | `state` | `waiting`, `running`, `succeeded`, `failed` |
/// | `error` | how it has failed; null otherwise |
/// | `done`, `total` | how far it is; null where it has not said so, `total` null where nobody knows |
/// | `unit` | what is counted; empty where it has not said so |
/// | `message` | what it does now, in words; empty where it has not said so |
/// | `metrics` | its own numbers by name; `"NaN"`, `"+Inf"`, `"-Inf"` for what JSON has no number for |
/// | `counters` | what its collectives have counted, as [`Totals`]; null where it has not said so |
///
/// The first lines tell of all tasks as they are then. Later ones tell of each state of each attempt, and of reports ten times a
/// second at most: the newest. Fields may be added.
#[derive(Debug)]
pub struct JsonLines {
    changes: Changes,
    done: Receiver<()>,
}

#[derive(Serialize)]
struct Line<'a> {
    time: f64,
    attempt: u32,
    task: usize,
    state: &'a str,
    error: Option<&'a str>,
    done: Option<u64>,
    total: Option<u64>,
    unit: &'a str,
    message: &'a str,
    metrics: BTreeMap<&'a str, Number>,
    counters: Option<&'a Totals>,
}

impl<'a> Line<'a> {
    fn of(view: &'a TaskView) -> Self {
        let progress = view.report.progress();
        let millis = view.changed.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        Line {
            time: millis as f64 / 1000.0,
            attempt: view.attempt,
            task: view.task,
            state: view.state.as_str(),
            error: match &view.state {
                super::State::Failed(reason) => Some(reason),
                _ => None,
            },
            done: progress.map(|progress| progress.done),
            total: progress.map(|progress| progress.total).filter(|&total| total > 0),
            unit: progress.map_or("", |progress| &progress.unit),
            message: view.report.message(),
            metrics: view
                .report
                .metrics()
                .iter()
                .map(|(name, &value)| (name.as_str(), Number(value)))
                .collect(),
            counters: view.report.counters(),
        }
    }
}

impl JsonLines {
    /// Starts the thread. Where a write fails, it says so in the log and ends.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) where the system has no thread to give.
    ///
    /// ```
    /// use ringfold::task::monitor::{JsonLines, Monitor};
    /// let file = std::env::temp_dir().join(format!("ringfold-lines-{}", std::process::id()));
    /// let monitor = Monitor::new(1);
    /// let lines = JsonLines::start(&monitor, std::fs::File::create(&file).unwrap())?;
    /// monitor.started();
    /// drop(lines);
    /// let text = std::fs::read_to_string(&file).unwrap();
    /// assert!(text.lines().last().unwrap().contains(r#""task":0,"state":"running""#));
    /// # std::fs::remove_file(&file).unwrap();
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    pub fn start(monitor: &Monitor, out: impl Write + Send + 'static) -> Result<JsonLines> {
        let changes = monitor.changes();
        let (end, done) = channel();
        let of_thread = changes.clone();
        observe::thread::spawn("ringfold-lines", move || {
            if let Err(error) = write(&of_thread, out) {
                tracing::warn!(%error, "the lines of progress cannot be written, and end here");
                of_thread.close();
            }
            drop(end);
        })
        .map_err(|error| Error::io("starting the thread for lines of progress", error))?;
        Ok(JsonLines { changes, done })
    }
}

impl Drop for JsonLines {
    fn drop(&mut self) {
        self.changes.close();
        if self.done.recv_timeout(LAST) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the reader of the lines of progress is slow: the last ones may be missing");
        }
    }
}

fn write(changes: &Changes, mut out: impl Write) -> io::Result<()> {
    let mut text = Vec::new();
    while let Some(views) = changes.wait(Duration::from_secs(60)) {
        for view in &views {
            serde_json::to_writer(&mut text, &Line::of(view))?;
            text.push(b'\n');
        }
        // Whole lines at once, so that a reader who looks in between finds no half of one.
        out.write_all(&text)?;
        out.flush()?;
        text.clear();
        changes.pause(GATHER);
    }
    Ok(())
}
