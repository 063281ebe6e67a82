//! The file of one rank: trace events as JSON.

use super::{Header, Kept, Record};
use crate::error::{Error, Result};
use serde::Serialize;
use serde::ser::{SerializeSeq, Serializer};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Everything in a file.
#[derive(Serialize)]
struct Whole<'a> {
    ringfold: &'a Header,
    #[serde(rename = "displayTimeUnit")]
    unit: &'static str,
    #[serde(rename = "traceEvents")]
    events: Events<'a>,
}

struct Events<'a>(&'a Header, &'a Kept);

/// An event of the trace format.
#[derive(Serialize)]
struct Event<'a, A: Serialize> {
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    cat: &'static str,
    /// X: a slice; i: a mark; M: a name.
    ph: &'static str,
    /// In microseconds, like `dur`.
    #[serde(skip_serializing_if = "Option::is_none")]
    ts: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<f64>,
    /// Of a mark: t for a thread's, p for a process's.
    #[serde(skip_serializing_if = "str::is_empty")]
    s: &'static str,
    pid: usize,
    tid: u32,
    args: A,
}

#[derive(Serialize)]
struct Called {
    name: String,
}

#[derive(Serialize)]
struct Sorted {
    sort_index: usize,
}

/// The arguments of a collective's slice.
#[derive(Serialize)]
struct Asked {
    sequence: u64,
    bytes: u64,
    dtype: &'static str,
    op: &'static str,
    algorithm: &'static str,
    order: &'static str,
    queued_us: f64,
    sent: u64,
    received: u64,
    waits: u32,
    waited_us: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
}

#[derive(Serialize)]
struct Waited {
    #[serde(skip_serializing_if = "Option::is_none")]
    for_rank: Option<usize>,
}

#[derive(Serialize)]
struct Failed<'a> {
    culprit: usize,
    reporter: usize,
    detail: &'a str,
}

#[derive(Serialize)]
struct Nothing {}

impl<'a, A: Serialize> Event<'a, A> {
    /// A name for what has this number.
    fn name(name: &'a str, pid: usize, tid: u32, args: A) -> Self {
        Event { name, cat: "", ph: "M", ts: None, dur: None, s: "", pid, tid, args }
    }

    fn slice(
        name: &'a str,
        cat: &'static str,
        (from, to): (u64, u64),
        pid: usize,
        tid: u32,
        args: A,
    ) -> Self {
        let (ts, dur) = (Some(micros(from)), Some(micros(to.saturating_sub(from))));
        Event { name, cat, ph: "X", ts, dur, s: "", pid, tid, args }
    }

    fn mark(name: &'a str, cat: &'static str, at: u64, pid: usize, tid: u32, args: A) -> Self {
        Event { name, cat, ph: "i", ts: Some(micros(at)), dur: None, s: "t", pid, tid, args }
    }
}

fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}

impl Serialize for Events<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let Events(header, kept) = self;
        let mut list = serializer.serialize_seq(None)?;
        let pid = header.rank;
        let name = format!("rank {pid} on {} (pid {})", header.host, header.pid);
        list.serialize_element(&Event::name("process_name", pid, 0, Called { name }))?;
        let place = Sorted { sort_index: pid };
        list.serialize_element(&Event::name("process_sort_index", pid, 0, place))?;
        for &(id, rank, world) in &kept.communicators {
            let name = match id {
                0 => "world".to_owned(),
                _ => format!("communicator {id:x}: rank {rank} of {world}"),
            };
            list.serialize_element(&Event::name("thread_name", pid, id, Called { name }))?;
        }
        for record in &kept.records {
            operation(record, pid, &mut list)?;
        }
        if let Some((at, cause)) = &kept.failure {
            let args = Failed { culprit: cause.culprit, reporter: cause.reporter, detail: &cause.detail };
            let name = format!("failed: {}", cause.kind.error_kind());
            let mark = Event::mark(&name, "failure", *at, pid, 0, args);
            list.serialize_element(&Event { s: "p", ..mark })?;
        }
        list.end()
    }
}

fn operation<S: SerializeSeq>(
    record: &Record,
    pid: usize,
    list: &mut S,
) -> std::result::Result<(), S::Error> {
    let tid = record.communicator;
    let args = Asked {
        sequence: record.sequence,
        bytes: record.bytes,
        dtype: record.dtype,
        op: record.op,
        algorithm: record.algorithm,
        order: record.order,
        queued_us: micros(record.begun.saturating_sub(record.submitted)),
        sent: record.sent,
        received: record.received,
        waits: record.waits,
        waited_us: micros(record.waited),
        error: record.error.map(|kind| kind.as_str()),
    };
    let all = (record.begun, record.ended);
    list.serialize_element(&Event::slice(record.collective, "collective", all, pid, tid, args))?;
    if let Some((from, to, for_rank)) = record.longest_wait {
        list.serialize_element(&Event::slice("wait", "wait", (from, to), pid, tid, Waited { for_rank }))?;
    }
    for (name, at) in [("first byte sent", record.first_sent), ("first byte received", record.first_received)]
    {
        if let Some(at) = at {
            list.serialize_element(&Event::mark(name, "bytes", at, pid, tid, Nothing {}))?;
        }
    }
    Ok(())
}

/// Writes a file beside its place and puts it there: whoever reads it finds a whole one.
pub(super) fn file(path: &Path, header: &Header, kept: &Kept) -> Result<()> {
    let whole = Whole { ringfold: header, unit: "ns", events: Events(header, kept) };
    replace(path, &whole)
}

pub(super) fn replace(path: &Path, whole: &impl Serialize) -> Result<()> {
    let beside = path.with_extension(format!("json.{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut into = BufWriter::with_capacity(1 << 18, File::create(&beside)?);
        serde_json::to_writer(&mut into, whole)?;
        into.write_all(b"\n")?;
        into.into_inner().map_err(|error| error.into_error())?;
        std::fs::rename(&beside, path)
    };
    write().map_err(|error| {
        let _ = std::fs::remove_file(&beside);
        Error::io(format!("writing {}", path.display()), error)
    })
}
