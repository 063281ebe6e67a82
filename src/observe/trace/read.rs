//! Reading the traces of ranks.

use super::{Header, VERSION};
use crate::error::{Error, ErrorKind, Result};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// The trace of one rank, as a file has it.
#[derive(Debug, Clone)]
pub struct Trace {
    /// Whose it is.
    pub header: Header,
    /// Its events, in the trace format.
    pub events: Vec<Map<String, Value>>,
    /// The operations among them.
    pub(super) operations: Vec<Operation>,
}

/// What is asked about an operation of a trace. Times in ns.
#[derive(Debug, Clone)]
pub(super) struct Operation {
    pub(super) collective: String,
    pub(super) communicator: u64,
    pub(super) sequence: u64,
    pub(super) bytes: u64,
    pub(super) begun: f64,
    pub(super) ended: f64,
    pub(super) failed: bool,
}

impl Trace {
    /// Adds so many nanoseconds to all its times.
    pub fn shift(&mut self, nanos: f64) {
        self.shift_by(|_| nanos);
    }

    /// Adds what a function of the time says. A slice keeps its length, which was measured by one clock.
    pub(super) fn shift_by(&mut self, nanos: impl Fn(f64) -> f64) {
        for operation in &mut self.operations {
            let by = nanos(operation.begun);
            operation.begun += by;
            operation.ended += by;
        }
        for event in &mut self.events {
            if let Some(at) = event.get("ts").and_then(Value::as_f64) {
                event.insert("ts".into(), (at + nanos(at * 1e3) / 1e3).into());
            }
        }
    }
}

#[derive(Deserialize)]
struct Whole {
    ringfold: Header,
    #[serde(rename = "traceEvents")]
    events: Vec<Map<String, Value>>,
}

/// Reads the trace of one rank.
///
/// # Errors
/// [`Io`](ErrorKind::Io) where the file cannot be read, [`InvalidArgument`](ErrorKind::InvalidArgument) where it is no
/// trace of one rank, or of another version; both name it.
pub fn read(path: &Path) -> Result<Trace> {
    let called = path.display();
    let text = std::fs::read(path).map_err(|error| Error::io(format!("reading {called}"), error))?;
    let no_trace = |why: &dyn std::fmt::Display| {
        Error::invalid(format!("{called} is no trace of a rank: {why}"))
            .remedy("name files that RINGFOLD_TRACE has made, or their directory")
    };
    let whole: Whole = serde_json::from_slice(&text).map_err(|error| no_trace(&error))?;
    let Header { version, rank, world, .. } = whole.ringfold;
    if version != VERSION {
        return Err(no_trace(&format_args!("its version is {version}, this command reads {VERSION}")));
    }
    if rank >= world {
        return Err(no_trace(&format_args!("it says rank {rank} of {world}")));
    }
    let mut operations = Vec::new();
    for (index, event) in whole.events.iter().enumerate() {
        if event.get("cat").and_then(Value::as_str) == Some("collective") {
            let operation = operation(event);
            operations.push(operation.ok_or_else(|| no_trace(&format_args!("event {index} is incomplete")))?);
        }
    }
    Ok(Trace { header: whole.ringfold, events: whole.events, operations })
}

fn operation(event: &Map<String, Value>) -> Option<Operation> {
    let args = event.get("args")?;
    let begun = event.get("ts")?.as_f64()? * 1e3;
    Some(Operation {
        collective: event.get("name")?.as_str()?.to_owned(),
        communicator: event.get("tid")?.as_u64()?,
        sequence: args.get("sequence")?.as_u64()?,
        bytes: args.get("bytes")?.as_u64()?,
        begun,
        ended: begun + event.get("dur")?.as_f64()? * 1e3,
        failed: args.get("error").is_some(),
    })
}

/// The traces of ranks in a directory, in the order of their names.
///
/// # Errors
/// [`Io`](ErrorKind::Io) where it cannot be read, [`InvalidArgument`](ErrorKind::InvalidArgument) where there are none.
pub fn in_directory(directory: &Path) -> Result<Vec<PathBuf>> {
    let failed = |error| Error::io(format!("reading the directory {}", directory.display()), error);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let text = name.to_string_lossy();
        if text.starts_with("ringfold-") && text.contains("-rank") && text.ends_with(".json") {
            found.push(directory.join(&name));
        }
    }
    found.sort();
    if found.is_empty() {
        let text = format!("{} has no traces: no file called ringfold-...-rank....json", directory.display());
        return Err(Error::new(ErrorKind::InvalidArgument, text).remedy("run with RINGFOLD_TRACE set to it"));
    }
    Ok(found)
}
