//! What a task's collectives have counted, in the form in which it is told.

use crate::backend::Counters;
use crate::collective::Collective;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The sums of a communicator's [`Counters`]: what these say of each peer is added up. Times are in seconds, amounts in
/// bytes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
#[expect(missing_docs, reason = "they are those of Counters")]
pub struct Totals {
    /// By the collective's name in the API; those that were never called are left out.
    pub operations: BTreeMap<String, OperationTotals>,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub messages_sent: u64,
    pub messages_received: u64,
    pub waits: u64,
    pub waiting_seconds: f64,
    pub plans_made: u64,
    pub plans_found: u64,
    pub connections_made: u64,
    pub connections_lost: u64,
    pub scratch_bytes: u64,
}

/// The operations of one collective.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
#[expect(missing_docs, reason = "they are those of OperationCounters")]
pub struct OperationTotals {
    pub completed: u64,
    pub failed: u64,
    pub bytes: u64,
    pub seconds: f64,
}

impl std::ops::AddAssign for Totals {
    /// Those of one more communicator.
    fn add_assign(&mut self, other: Totals) {
        for (name, more) in other.operations {
            let of = self.operations.entry(name).or_default();
            of.completed += more.completed;
            of.failed += more.failed;
            of.bytes += more.bytes;
            of.seconds += more.seconds;
        }
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
        self.messages_sent += other.messages_sent;
        self.messages_received += other.messages_received;
        self.waits += other.waits;
        self.waiting_seconds += other.waiting_seconds;
        self.plans_made += other.plans_made;
        self.plans_found += other.plans_found;
        self.connections_made += other.connections_made;
        self.connections_lost += other.connections_lost;
        self.scratch_bytes += other.scratch_bytes;
    }
}

impl Totals {
    /// Leaves out what no communicator counts: a stranger may have written it.
    pub(super) fn sane(mut self) -> Self {
        let known = |name: &str| {
            Collective::ALL.into_iter().chain([Collective::SendRecv]).any(|known| known.as_str() == name)
        };
        self.operations.retain(|name, _| known(name));
        let seconds = self.operations.values_mut().map(|operation| &mut operation.seconds);
        seconds.chain([&mut self.waiting_seconds]).for_each(|seconds| *seconds = seconds.max(0.0));
        self
    }
}

impl From<&Counters> for Totals {
    fn from(counters: &Counters) -> Self {
        let operations = counters.operations.iter().map(|operation| {
            let totals = OperationTotals {
                completed: operation.completed,
                failed: operation.failed,
                bytes: operation.bytes,
                seconds: operation.time.as_secs_f64(),
            };
            (operation.collective.as_str().to_owned(), totals)
        });
        Totals {
            operations: operations.collect(),
            bytes_sent: counters.bytes_sent(),
            bytes_received: counters.bytes_received(),
            messages_sent: counters.messages_sent,
            messages_received: counters.messages_received,
            waits: counters.waits,
            waiting_seconds: counters.waiting.as_secs_f64(),
            plans_made: counters.plans_made,
            plans_found: counters.plans_found,
            connections_made: counters.connections_made,
            connections_lost: counters.connections_lost,
            scratch_bytes: counters.scratch_bytes,
        }
    }
}
