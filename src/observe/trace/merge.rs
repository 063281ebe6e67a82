//! One trace of many ranks, on one clock.
//!
//! The clock is that of rank 0, or of the lowest rank that is there. Ranks on the same host have it already. For others,
//! every all_reduce and barrier of the world bounds the difference of two clocks from both sides: nobody ends before the
//! last has begun. The tightest bounds among all of them are what exchanging timestamps as often would have given; the
//! middle is taken, and half the width told as the [error](Alignment::error). Clocks drift apart, so this is done for each stretch of [`STRETCH`] operations, and
//! in between differences are interpolated. Where there is no such operation the wall clocks are trusted, and no error is
//! known.

use super::read::{Operation, Trace};
use super::summary::{Line, summary};
use super::write::replace;
use crate::error::{Error, ErrorKind, Result};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// How many common operations one estimate of the difference of two clocks is made from.
pub const STRETCH: usize = 256;

/// Collectives whose ends need all beginnings, whatever the counts.
const SYNCHRONIZING: [&str; 2] = ["all_reduce", "barrier"];

/// How a rank's times were brought to the common clock.
#[derive(Debug, Clone, PartialEq)]
pub struct Alignment {
    /// The rank.
    pub rank: usize,
    /// What was added to its times, in ns; where clocks drift, on average.
    pub offset: f64,
    /// How far from the truth that may be, in ns: 0 on the same host; `None` where only wall clocks were there.
    pub error: Option<f64>,
}

/// The traces of several ranks as one.
#[derive(Debug)]
pub struct Merged {
    /// The number of ranks in the world.
    pub world: usize,
    /// The ranks whose traces are not there.
    pub missing: Vec<usize>,
    /// One for each rank that is there, in rank order.
    pub alignment: Vec<Alignment>,
    /// The table of what was done.
    pub summary: Vec<Line>,
    /// All events, in the trace format.
    pub events: Vec<Map<String, Value>>,
}

impl Merged {
    /// Writes the file that Perfetto and `chrome://tracing` open.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io).
    pub fn write(&self, path: &Path) -> Result<()> {
        let alignment = self.alignment.iter().map(|alignment| {
            let (offset, error) = (alignment.offset / 1e3, alignment.error.map(|error| error / 1e3));
            json!({ "rank": alignment.rank, "offset_us": offset, "error_us": error })
        });
        replace(
            path,
            &json!({
                "displayTimeUnit": "ns",
                "otherData": { "alignment": alignment.collect::<Vec<_>>(), "missing": self.missing },
                "traceEvents": self.events,
            }),
        )
    }
}

/// Makes one trace of those of several ranks.
///
/// # Errors
/// [`InvalidArgument`](ErrorKind::InvalidArgument) for no traces, for two of one rank, and for those of different
/// launches.
pub fn merge(mut traces: Vec<Trace>) -> Result<Merged> {
    traces.sort_by_key(|trace| trace.header.rank);
    let Some(first) = traces.first() else {
        return Err(
            Error::invalid("no traces to merge").remedy("name one file for each rank, or a directory")
        );
    };
    let head = first.header.clone();
    for pair in traces.windows(2) {
        let (a, b) = (&pair[0].header, &pair[1].header);
        let launch = |of: &super::Header| (of.world_id.clone(), of.generation, of.world);
        if launch(a) != launch(b) {
            let called = |of: &super::Header| {
                format!(
                    "rank {} of {} in launch {}, generation {}",
                    of.rank, of.world, of.world_id, of.generation
                )
            };
            let text = format!("traces of different launches: {}; {}", called(a), called(b));
            return Err(Error::new(ErrorKind::InvalidArgument, text).remedy("name the files of one launch"));
        }
        if a.rank == b.rank {
            return Err(
                Error::invalid(format!("two traces of rank {}", a.rank)).remedy("name each file once")
            );
        }
    }
    let clocks = Clocks::of(&traces);
    let mut alignment = Vec::new();
    for trace in &mut traces {
        let shifts = clocks.shifts(&trace.header.clock);
        trace.shift_by(|time| shifts.at(time));
        alignment.push(Alignment { rank: trace.header.rank, offset: shifts.mean(), error: shifts.error });
    }
    let known = alignment.iter().map(|alignment| alignment.error.unwrap_or(f64::INFINITY));
    let error = known.fold(0.0, f64::max);
    Ok(Merged {
        world: head.world,
        missing: (0..head.world).filter(|rank| traces.iter().all(|t| t.header.rank != *rank)).collect(),
        // Of two ranks, both may be wrong.
        summary: summary(&traces, 2.0 * error),
        alignment,
        events: traces.into_iter().flat_map(|trace| trace.events).collect(),
    })
}

/// What is to be added to the times of one clock: points (time by that clock, difference), in order.
#[derive(Debug, Clone)]
struct Shifts {
    points: Vec<(f64, f64)>,
    error: Option<f64>,
}

impl Shifts {
    fn none() -> Self {
        Shifts { points: vec![(0.0, 0.0)], error: Some(0.0) }
    }

    fn mean(&self) -> f64 {
        self.points.iter().map(|point| point.1).sum::<f64>() / self.points.len() as f64
    }

    /// The difference at a time: on the line between the points around it.
    fn at(&self, time: f64) -> f64 {
        let after = self.points.partition_point(|point| point.0 <= time);
        match (self.points[..after].last(), self.points.get(after)) {
            (Some(a), Some(b)) => a.1 + (b.1 - a.1) * (time - a.0) / (b.0 - a.0),
            (Some(only), None) | (None, Some(only)) => only.1,
            (None, None) => 0.0,
        }
    }
}

/// When the ranks of one clock were in an operation: the first and the last that began, and that ended.
#[derive(Debug, Clone, Copy)]
struct Within {
    begun: (f64, f64),
    ended: (f64, f64),
}

/// What all traces tell of the clocks.
struct Clocks {
    /// That of the reference.
    common: String,
    wall: BTreeMap<String, i64>,
    /// By clock, then by sequence number, of operations of the whole world that synchronize.
    seen: BTreeMap<String, BTreeMap<u64, Within>>,
}

impl Clocks {
    fn of(traces: &[Trace]) -> Clocks {
        let mut wall = BTreeMap::new();
        let mut seen: BTreeMap<String, BTreeMap<u64, Within>> = BTreeMap::new();
        for trace in traces {
            wall.entry(trace.header.clock.clone()).or_insert(trace.header.wall_origin);
            let clock = seen.entry(trace.header.clock.clone()).or_default();
            for Operation { sequence, begun, ended, .. } in
                trace.operations.iter().filter(|o| synchronizes(o))
            {
                let within = Within { begun: (*begun, *begun), ended: (*ended, *ended) };
                let known = clock.entry(*sequence).or_insert(within);
                known.begun = (known.begun.0.min(*begun), known.begun.1.max(*begun));
                known.ended = (known.ended.0.min(*ended), known.ended.1.max(*ended));
            }
        }
        Clocks { common: traces[0].header.clock.clone(), wall, seen }
    }

    fn shifts(&self, clock: &str) -> Shifts {
        if clock == self.common {
            return Shifts::none();
        }
        let (theirs, ours) = (&self.seen[clock], &self.seen[&self.common]);
        let both: Vec<(Within, Within)> =
            theirs.iter().filter_map(|(sequence, a)| Some((*a, *ours.get(sequence)?))).collect();
        if both.is_empty() {
            let difference = (self.wall[clock] - self.wall[&self.common]) as f64;
            return Shifts { points: vec![(0.0, difference)], error: None };
        }
        let mut points = Vec::new();
        let mut error = 0.0f64;
        for stretch in both.chunks(STRETCH.max(both.len().div_ceil(64))) {
            // t (ours) = t (theirs) + d: our first end is after their last beginning, and the other way round.
            let most = stretch.iter().map(|(a, b)| b.ended.0 - a.begun.1).fold(f64::INFINITY, f64::min);
            let least = stretch.iter().map(|(a, b)| b.begun.1 - a.ended.0).fold(f64::NEG_INFINITY, f64::max);
            let middle = stretch[stretch.len() / 2].0.begun.0;
            points.push((middle, (most + least) / 2.0));
            // Where the clocks have drifted further apart than the bounds are wide, these cross.
            error = error.max((most - least).abs() / 2.0);
        }
        points.dedup_by(|b, a| b.0 <= a.0);
        Shifts { points, error: Some(error) }
    }
}

/// Whether no rank of the world can have ended it before all had begun.
fn synchronizes(operation: &Operation) -> bool {
    operation.communicator == 0
        && !operation.failed
        && SYNCHRONIZING.contains(&operation.collective.as_str())
        && operation.bytes > 0
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
