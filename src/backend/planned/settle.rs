//! From a fault that one rank has noticed to the cause that all ranks name.
//!
//! The rank reports what it has seen and waits a moment for the group's verdict, which merges all reports and so
//! names the culprit and not the messenger. Where no verdict comes, its own report stands.

use crate::error::Cause;
use crate::observe::Time;
use crate::transport::Transport;
use std::time::Duration;

/// How long a rank waits for the group's verdict: the store collects reports for 20 ms, deadlines for 150 ms, and for 300 ms where it is in doubt
/// who differs.
const PATIENCE: Duration = Duration::from_millis(500);

/// A fault that has been reported and is being settled.
pub(super) struct Settling {
    cause: Cause,
    until: Time,
}

impl Settling {
    /// Reports the cause.
    pub(super) fn begin(cause: Cause, transport: &mut impl Transport) -> Self {
        let Cause { reporter: rank, culprit: peer, kind, sequence, detail, .. } = &cause;
        tracing::debug!(rank, peer, ?kind, sequence, %detail, "noticed a failure");
        transport.report(&cause);
        Settling { cause, until: transport.now().after(PATIENCE) }
    }

    /// When the patience ends.
    pub(super) fn until(&self) -> Time {
        self.until
    }

    /// The cause to go by where the verdict has not come in time.
    pub(super) fn give_up(&self, now: Time) -> Option<Cause> {
        (now >= self.until).then(|| self.cause.clone())
    }
}
