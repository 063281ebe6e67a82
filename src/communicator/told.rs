//! What a communicator tells of itself: a span for each call, its counters.

use super::Communicator;
use crate::backend::{Counters, Operation};
use crate::collective::Counts;
use std::fmt;
use tracing::field::Empty;
use tracing::level_filters::LevelFilter;
use tracing::{Level, Span};

impl Communicator {
    /// What this communicator has counted so far on this rank: operations, bytes, waits, plans, connections. Does not
    /// block, and may be called while operations are under way. Counting costs one look at the clock for each operation
    /// and two for each wait.
    ///
    /// ```
    /// use ringfold::{Collective, Communicator};
    /// let comm = Communicator::local(1).remove(0);
    /// comm.barrier()?;
    /// assert_eq!(comm.counters().of(Collective::Barrier).completed, 1);
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    pub fn counters(&self) -> Counters {
        self.line.meter.snapshot()
    }

    /// Gives an operation its span, whose parent is the caller's.
    #[inline]
    pub(super) fn tell(&self, operation: &mut Operation) {
        // Mostly nobody listens, and this is all that it costs.
        if Level::DEBUG <= LevelFilter::current() {
            let span = self.span(operation);
            if !span.is_disabled() {
                operation.tell(span);
            }
        }
    }

    fn span(&self, operation: &Operation) -> Span {
        let request = operation.request();
        tracing::debug_span!(
            target: "ringfold",
            "collective",
            collective = request.collective.as_str(),
            rank = self.rank,
            world = self.world,
            communicator = self.id,
            sequence = operation.sequence(),
            bytes = request.bytes(self.rank),
            dtype = request.dtype.as_str(),
            op = operation.op_name(),
            algorithm = operation.algorithm_name(),
            order = request.order.as_str(),
            backend = self.backend(),
            peer = Peers::of(&request.counts).map(tracing::field::display),
            error = Empty,
        )
    }
}

/// Whom a message goes to and whom one comes from: `to 1`, `from 2`, `to 1, from 2`.
struct Peers {
    to: Option<usize>,
    from: Option<usize>,
}

impl Peers {
    fn of(counts: &Counts) -> Option<Self> {
        match counts {
            Counts::Messages { send, receive, .. } => {
                Some(Peers { to: send.map(|(to, _)| to), from: receive.map(|(from, _)| from) })
            }
            _ => None,
        }
    }
}

impl fmt::Display for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.to, self.from) {
            (Some(to), Some(from)) => write!(f, "to {to}, from {from}"),
            (Some(to), None) => write!(f, "to {to}"),
            (None, Some(from)) => write!(f, "from {from}"),
            (None, None) => f.write_str("none"),
        }
    }
}
