//! A snapshot in the words of Prometheus.

use super::board::{Snapshot, TaskView};
use super::totals::{OperationTotals, Totals};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, prometheus_text, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::collections::BTreeSet;
use std::fmt;
use std::time::UNIX_EPOCH;

/// The form of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Prometheus' own, version 0.0.4, which everybody reads.
    Plain,
    /// OpenMetrics, version 1.0.0, for those who ask for it.
    OpenMetrics,
}

impl Form {
    /// The content type of the text.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Form::Plain => prometheus_text::CONTENT_TYPE,
            Form::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// All metrics of a group.
pub(super) fn exposition(snapshot: Snapshot, form: Form) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Collected(snapshot)));
    let mut out = String::new();
    let written = match form {
        Form::Plain => prometheus_text::encode(&mut out, &registry),
        Form::OpenMetrics => text::encode(&mut out, &registry),
    };
    if written.is_err() {
        tracing::warn!("the metrics cannot be written");
        out.clear();
    }
    out
}

#[derive(Debug)]
struct Collected(Snapshot);

type Labels = Vec<(&'static str, String)>;

/// Writes one family of metrics, unless it is empty.
fn family(
    encoder: &mut DescriptorEncoder<'_>,
    (kind, name, help): (MetricType, &str, &str),
    samples: impl Iterator<Item = (Labels, f64)>,
) -> fmt::Result {
    let mut samples = samples.peekable();
    if samples.peek().is_none() {
        return Ok(());
    }
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, value) in samples {
        match kind {
            _ if labels.is_empty() => family.encode_gauge(&value)?,
            MetricType::Counter => {
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
            }
            _ => family.encode_family(&labels)?.encode_gauge(&value)?,
        }
    }
    Ok(())
}

/// What is read of a task's totals: a kind, a name, words and the number.
type Reading = (MetricType, &'static str, &'static str, fn(&Totals) -> f64);

/// What is read of a task's totals for each collective: a name, words, more labels and the number.
type OperationReading = (&'static str, &'static str, fn(&OperationTotals) -> f64);

const C: MetricType = MetricType::Counter;
const G: MetricType = MetricType::Gauge;

const TOTALS: [Reading; 11] = [
    (C, "ringfold_sent_bytes", "Bytes sent to other tasks", |t| t.bytes_sent as f64),
    (C, "ringfold_received_bytes", "Bytes received from other tasks", |t| t.bytes_received as f64),
    (C, "ringfold_sent_messages", "Parts of operations sent to other tasks", |t| t.messages_sent as f64),
    (C, "ringfold_received_messages", "Parts of operations received from other tasks", |t| {
        t.messages_received as f64
    }),
    (C, "ringfold_waits", "How often the task had nothing to move and waited", |t| t.waits as f64),
    (C, "ringfold_waiting_seconds", "Time spent in these waits", |t| t.waiting_seconds),
    (C, "ringfold_made_plans", "Plans that had to be made", |t| t.plans_made as f64),
    (C, "ringfold_found_plans", "Operations whose plan was there", |t| t.plans_found as f64),
    (C, "ringfold_made_connections", "Connections that carry or carried payload", |t| {
        t.connections_made as f64
    }),
    (C, "ringfold_lost_connections", "Tasks to whom a connection has ended", |t| t.connections_lost as f64),
    (G, "ringfold_scratch_bytes", "Bytes of memory held for partial results and what arrives", |t| {
        t.scratch_bytes as f64
    }),
];

const OPERATIONS: [OperationReading; 4] = [
    ("ringfold_collective_operations", "Operations that have ended well", |o| o.completed as f64),
    ("ringfold_collective_failures", "Operations that have ended with an error", |o| o.failed as f64),
    ("ringfold_collective_bytes", "Bytes of operations that ended well", |o| o.bytes as f64),
    ("ringfold_collective_seconds", "Time from submission to end of all operations", |o| o.seconds),
];

const STATES: [&str; 4] = ["waiting", "running", "succeeded", "failed"];

fn of(view: &TaskView) -> Labels {
    vec![("task", view.task.to_string())]
}

impl Collector for Collected {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        let tasks = || self.0.tasks.iter();
        let attempt = [(Labels::new(), f64::from(self.0.attempt))];
        family(
            encoder,
            (G, "ringfold_attempt", "Which attempt of the group this is, from 0"),
            attempt.into_iter(),
        )?;
        let counts = STATES.map(|state| (vec![("state", state.to_owned())], self.0.count(state) as f64));
        family(encoder, (G, "ringfold_tasks", "How many tasks are in a state"), counts.into_iter())?;
        let states = tasks().flat_map(|view| STATES.map(|state| (view, state))).map(|(view, state)| {
            let mut labels = of(view);
            labels.push(("state", state.to_owned()));
            (labels, f64::from(u8::from(view.state.as_str() == state)))
        });
        family(encoder, (G, "ringfold_task_state", "1 for the state that a task is in"), states)?;
        let progress = || tasks().filter_map(|view| Some((view, view.report.progress()?)));
        let done = progress().map(|(view, progress)| (of(view), progress.done as f64));
        family(encoder, (G, "ringfold_task_progress_done", "How much a task has done, in its units"), done)?;
        let total = progress().filter(|(_, progress)| progress.total > 0);
        let total = total.map(|(view, progress)| (of(view), progress.total as f64));
        family(
            encoder,
            (G, "ringfold_task_progress_goal", "How much a task has to do, in its units"),
            total,
        )?;
        let reported = tasks().filter_map(|view| {
            let since = view.reported?.duration_since(UNIX_EPOCH).ok()?;
            Some((of(view), since.as_millis() as f64 / 1000.0))
        });
        let what = "When a task has reported last, in seconds since 1970";
        family(encoder, (G, "ringfold_task_report_timestamp_seconds", what), reported)?;
        let names: BTreeSet<&String> = tasks().flat_map(|view| view.report.metrics().keys()).collect();
        for name in names {
            let values = tasks().filter_map(|view| Some((of(view), *view.report.metrics().get(name)?)));
            let what = (G, &*format!("ringfold_metric_{name}"), "A number of the tasks' own");
            family(encoder, what, values)?;
        }
        let totals = || tasks().filter_map(|view| Some((view, view.report.counters()?)));
        for (name, what, number) in OPERATIONS {
            let operations = totals().flat_map(|(view, totals)| {
                totals.operations.iter().map(move |(collective, operation)| {
                    let mut labels = of(view);
                    labels.push(("collective", collective.clone()));
                    (labels, number(operation))
                })
            });
            family(encoder, (C, name, what), operations)?;
        }
        for (kind, name, what, number) in TOTALS {
            family(encoder, (kind, name, what), totals().map(|(view, totals)| (of(view), number(totals))))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::monitor::{Monitor, Report, State};

    #[test]
    fn every_state_has_its_word() {
        let states = [State::Waiting, State::Running, State::Succeeded, State::Failed(String::new())];
        assert_eq!(states.map(|state| state.as_str()), STATES);
    }

    fn report(total: u64) -> Report {
        let mut report = Report::new();
        report.set_progress(3, total);
        report.set_metric("loss", f64::NAN).unwrap();
        let mut totals = Totals { bytes_sent: 7, ..Totals::default() };
        totals.operations.insert("all_reduce".into(), OperationTotals { completed: 5, ..Default::default() });
        report.set_counters(totals);
        report
    }

    #[test]
    fn a_group_in_the_words_of_prometheus() {
        let monitor = Monitor::new(2);
        monitor.report(1, report(10));
        let goal = "ringfold_task_progress_goal{task=\"1\"} 10.0\n";
        assert!(exposition(monitor.snapshot(), Form::Plain).contains(goal));
        monitor.attempt(4);
        monitor.report(0, Report::new());
        monitor.report(1, report(0));
        let plain = exposition(monitor.snapshot(), Form::Plain);
        for line in [
            "# TYPE ringfold_attempt gauge",
            "ringfold_attempt 4.0",
            "ringfold_tasks{state=\"running\"} 2.0",
            "ringfold_task_state{task=\"1\",state=\"failed\"} 0.0",
            "ringfold_task_progress_done{task=\"1\"} 3.0",
            "ringfold_metric_loss{task=\"1\"} NaN",
            "# TYPE ringfold_collective_operations_total counter",
            "ringfold_collective_operations_total{task=\"1\",collective=\"all_reduce\"} 5.0",
            "ringfold_sent_bytes_total{task=\"1\"} 7.0",
        ] {
            assert!(plain.lines().any(|other| other == line), "no {line:?} in\n{plain}");
        }
        assert!(!plain.contains("progress_goal{"), "nobody knows the total: {plain}");
        let open = exposition(monitor.snapshot(), Form::OpenMetrics);
        assert!(open.ends_with("# EOF\n") && open.contains("# TYPE ringfold_sent_bytes counter\n"), "{open}");
    }
}
