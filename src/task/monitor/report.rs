//! What one task tells of itself, and its form on the wire.

use super::number;
use super::totals::Totals;
use crate::error::{Error, ErrorKind, Result};
use crate::transport::control::TELL_LIMIT;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The version of the form on the wire. A report of a newer one is not understood; fields that are not known are passed over.
const VERSION: u32 = 1;

/// How much a task may tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// How many metrics.
    pub metrics: usize,
    /// How many bytes a metric's name may have.
    pub name: usize,
    /// How many bytes of a message are kept.
    pub message: usize,
    /// How many bytes of a unit are kept.
    pub unit: usize,
    /// How many bytes a result may have, as JSON writes it.
    pub result: usize,
}

/// How much a task may tell: 64 metrics, names of 64 bytes, a message of 256 bytes, a unit of 16, a result of 4 KiB.
pub const LIMITS: Limits = Limits { metrics: 64, name: 64, message: 256, unit: 16, result: 4096 };

/// How far a task is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Progress {
    /// What is done, in units.
    pub done: u64,
    /// What there is to do; 0 where nobody knows.
    pub total: u64,
    /// What is counted: `rows`, `steps`. Empty where nobody has said it.
    pub unit: String,
}

impl Progress {
    /// From 0 to 1; `None` where the total is not known.
    pub fn fraction(&self) -> Option<f64> {
        (self.total > 0).then(|| (self.done as f64 / self.total as f64).min(1.0))
    }
}

/// What one task tells of itself: the whole of its state, of which the newest counts. Send and Sync.
///
/// ```
/// use ringfold::task::monitor::Report;
/// let mut report = Report::new();
/// report.set_progress(3, 10);
/// report.set_metric("loss", 0.5)?;
/// assert!(report.set_metric("loss of today", 0.5).is_err());
/// assert_eq!(Report::decode(&report.encode())?, report);
/// # Ok::<(), ringfold::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report {
    progress: Option<Progress>,
    message: String,
    metrics: BTreeMap<String, f64>,
    counters: Option<Totals>,
    result: Option<String>,
}

/// As it goes over the wire.
#[derive(Serialize, Deserialize)]
struct Wire {
    v: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    progress: Option<Progress>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    message: String,
    #[serde(default, with = "number::map", skip_serializing_if = "BTreeMap::is_empty")]
    metrics: BTreeMap<String, f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    counters: Option<Totals>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    result: Option<String>,
}

/// What says at least which version it is.
#[derive(Deserialize)]
struct Versioned {
    v: u32,
}

impl Report {
    /// A report of nothing.
    pub fn new() -> Self {
        Report::default()
    }

    /// How far the task is, if it has said so.
    pub fn progress(&self) -> Option<&Progress> {
        self.progress.as_ref()
    }

    /// Says how far the task is: so much of so much; a total of 0 is one that nobody knows.
    pub fn set_progress(&mut self, done: u64, total: u64) {
        let progress = self.progress.get_or_insert_default();
        (progress.done, progress.total) = (done, total);
    }

    /// Says what progress counts. Cut at 16 bytes; control characters become `?`.
    pub fn set_unit(&mut self, unit: &str) {
        self.progress.get_or_insert_default().unit = shown(unit, LIMITS.unit);
    }

    /// What the task does now, in words; empty where it has not said it.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Says what the task does now. Cut at 256 bytes; control characters, which terminals would act on, become `?`.
    pub fn set_message(&mut self, message: &str) {
        self.message = shown(message, LIMITS.message);
    }

    /// The task's own numbers, by name.
    pub fn metrics(&self) -> &BTreeMap<String, f64> {
        &self.metrics
    }

    /// Says what one of the task's numbers is now. Any number is allowed, NaN and the infinities included.
    ///
    /// # Errors
    /// [`InvalidArgument`](ErrorKind::InvalidArgument) for a name that is not a letter or `_` with letters, digits and `_`
    /// behind it, 64 bytes at most; and for the 65th name. The report is as it was then.
    pub fn set_metric(&mut self, name: &str, value: f64) -> Result<()> {
        if let Some(metric) = self.metrics.get_mut(name) {
            *metric = value;
            return Ok(());
        }
        if let Some(what) = wrong_name(name) {
            return Err(Error::invalid(format!("a metric is called {name:.80?}, which {what}"))
                .remedy("use letters, digits and underscores, a digit not first, 64 in all at most"));
        }
        if self.metrics.len() >= LIMITS.metrics {
            let text = format!("{name} would be one metric more than the {} of a task", LIMITS.metrics);
            return Err(
                Error::invalid(text).remedy("tell fewer numbers: the names must not grow with the work")
            );
        }
        self.metrics.insert(name.to_owned(), value);
        Ok(())
    }

    /// What has come out of the task, if it has said so.
    pub fn result(&self) -> Option<&str> {
        self.result.as_deref()
    }

    /// Says what has come out of the task.
    ///
    /// # Errors
    /// [`InvalidArgument`](ErrorKind::InvalidArgument) for a text of more than 4 KiB, in the form in which JSON writes it.
    pub fn set_result(&mut self, result: &str) -> Result<()> {
        let length = serde_json::to_string(result).map_or(usize::MAX, |json| json.len());
        if length > LIMITS.result {
            let text = format!("a result of {length} bytes, and at most {} are told", LIMITS.result);
            return Err(Error::invalid(text).remedy("write it to a file and tell where it is"));
        }
        self.result = Some(result.to_owned());
        Ok(())
    }

    /// What the task's collectives have counted, if it has said so.
    pub fn counters(&self) -> Option<&Totals> {
        self.counters.as_ref()
    }

    /// Says what the task's collectives have counted.
    pub fn set_counters(&mut self, counters: impl Into<Totals>) {
        self.counters = Some(counters.into());
    }

    /// The bytes that go to whoever monitors the task, at most 16 KiB.
    pub fn encode(&self) -> Vec<u8> {
        let wire = Wire {
            v: VERSION,
            progress: self.progress.clone(),
            message: self.message.clone(),
            metrics: self.metrics.clone(),
            counters: self.counters.clone(),
            result: self.result.clone(),
        };
        serde_json::to_vec(&wire).unwrap_or_default()
    }

    /// Reads what [`encode`](Report::encode) has written. Never panics, whatever the bytes are.
    ///
    /// # Errors
    /// [`Protocol`](ErrorKind::Protocol) for bytes that are no report, for a report of a newer version, and for one that says
    /// more than a task may.
    pub fn decode(bytes: &[u8]) -> Result<Report> {
        let protocol = |text: String| Error::new(ErrorKind::Protocol, text);
        if bytes.len() > TELL_LIMIT {
            return Err(protocol(format!(
                "a report of {} bytes, and at most {TELL_LIMIT} are read",
                bytes.len()
            )));
        }
        let malformed = |error: serde_json::Error| protocol(format!("these bytes are no report: {error}"));
        let version = serde_json::from_slice::<Versioned>(bytes).map_err(malformed)?.v;
        if version != VERSION {
            return Err(protocol(format!("a report of version {version}, and only {VERSION} is understood"))
                .remedy("run the same version of ringfold everywhere"));
        }
        let wire: Wire = serde_json::from_slice(bytes).map_err(malformed)?;
        let mut report = Report { progress: wire.progress, ..Report::new() };
        if let Some(progress) = &mut report.progress {
            progress.unit = shown(&progress.unit, LIMITS.unit);
        }
        report.set_message(&wire.message);
        for (name, value) in wire.metrics {
            report.set_metric(&name, value).map_err(|error| protocol(error.message().to_owned()))?;
        }
        if let Some(result) = &wire.result {
            report.set_result(result).map_err(|error| protocol(error.message().to_owned()))?;
        }
        report.counters = wire.counters.map(Totals::sane);
        Ok(report)
    }
}

/// What is wrong with a metric's name, if anything.
fn wrong_name(name: &str) -> Option<&'static str> {
    let first = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    match name.as_bytes() {
        [] => Some("is empty"),
        bytes if bytes.len() > LIMITS.name => Some("is too long"),
        [head, ..] if !first(*head) => Some("does not begin with a letter or an underscore"),
        bytes if !bytes.iter().all(|&byte| first(byte) || byte.is_ascii_digit()) => {
            Some("has other characters than letters, digits and underscores")
        }
        _ => None,
    }
}

/// Text that a terminal shows and does nothing else with, of so many bytes at most.
fn shown(text: &str, limit: usize) -> String {
    let mut shown = String::new();
    for character in text.chars().map(|c| if c.is_control() { '?' } else { c }) {
        if shown.len() + character.len_utf8() > limit {
            break;
        }
        shown.push(character);
    }
    shown
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
