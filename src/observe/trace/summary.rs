//! What a merged trace shows at a glance: how long collectives took, and who came late.

use super::read::{Operation, Trace};
use std::collections::BTreeMap;

/// One collective in all operations of it. Times in ns.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Line {
    /// Its name.
    pub collective: String,
    /// How many operations: of the group, not of each rank; messages are counted on each end.
    pub count: usize,
    /// How many of them failed on some rank.
    pub failed: usize,
    /// The bytes of all operations on all ranks.
    pub bytes: u64,
    /// Half of the operations took at most this long on their slowest rank.
    pub median: f64,
    /// The longest.
    pub max: f64,
    /// The rank that began last most often, and how often it did: later than the clocks may err.
    pub latest: Option<(usize, usize)>,
    /// By how much that rank was the last, later than the one before it: the median of those times.
    pub late_by: f64,
}

/// One operation, as the ranks saw it that took part.
type Shares<'a> = Vec<(usize, &'a Operation)>;

/// The table, by collective.
pub(super) fn summary(traces: &[Trace], error: f64) -> Vec<Line> {
    let mut groups: BTreeMap<(String, u64, u64, usize), Shares<'_>> = BTreeMap::new();
    for trace in traces {
        for (index, operation) in trace.operations.iter().enumerate() {
            let Operation { collective, communicator, sequence, .. } = operation;
            // Messages have a place in their pair only: each is by itself.
            let (rank, alone) = (trace.header.rank, collective == "send_recv");
            let apart = if alone { 1 + index * traces.len() + rank } else { 0 };
            let key = (collective.clone(), *communicator, *sequence, apart);
            groups.entry(key).or_default().push((rank, operation));
        }
    }
    let mut lines: BTreeMap<String, Vec<Shares<'_>>> = BTreeMap::new();
    for ((collective, ..), operations) in groups {
        lines.entry(collective).or_default().push(operations);
    }
    lines.into_iter().map(|(collective, operations)| line(collective, &operations, error)).collect()
}

fn line(collective: String, operations: &[Shares<'_>], error: f64) -> Line {
    let slowest = |ranks: &Vec<(usize, &Operation)>| {
        ranks.iter().map(|(_, operation)| operation.ended - operation.begun).fold(0.0, f64::max)
    };
    let mut times: Vec<f64> = operations.iter().map(slowest).collect();
    let mut late: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for ranks in operations {
        let mut begun: Vec<(f64, usize)> = ranks.iter().map(|(rank, o)| (o.begun, *rank)).collect();
        begun.sort_by(|a, b| a.0.total_cmp(&b.0));
        if let [.., before, last] = &begun[..]
            && last.0 - before.0 > error
        {
            late.entry(last.1).or_default().push(last.0 - before.0);
        }
    }
    let latest = late.iter_mut().max_by_key(|(rank, times)| (times.len(), usize::MAX - **rank));
    let (latest, late_by) = match latest {
        Some((rank, by)) => (Some((*rank, by.len())), median(by)),
        None => (None, 0.0),
    };
    Line {
        collective,
        count: operations.len(),
        failed: operations.iter().filter(|ranks| ranks.iter().any(|(_, o)| o.failed)).count(),
        bytes: operations.iter().flatten().map(|(_, operation)| operation.bytes).sum(),
        max: times.iter().copied().fold(0.0, f64::max),
        median: median(&mut times),
        latest,
        late_by,
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
