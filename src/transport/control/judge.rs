//! From many causes to one verdict.

use super::{SETTLE, SETTLE_DEADLINE, SETTLE_DEATH};
use crate::error::{Cause, CauseKind};
use crate::transport::verdict::judge;
use std::time::Instant;

/// Collects causes for [`SETTLE`] after the first ([`SETTLE_DEATH`] after a death, [`SETTLE_DEADLINE`] while only deadlines have passed, which
/// they do on one rank after another), then decides once and for all.
#[derive(Debug, Default)]
pub(super) struct Judge {
    heard: Vec<Cause>,
    due: Option<Instant>,
    verdict: Option<Cause>,
    limit: usize,
}

impl Judge {
    pub(super) fn new(world: usize) -> Self {
        Judge { limit: world.saturating_mul(4).max(16), ..Judge::default() }
    }

    /// Notes a cause, unless the verdict is in.
    pub(super) fn hear(&mut self, cause: Cause, now: Instant) {
        if self.verdict.is_some() || self.heard.len() >= self.limit {
            return;
        }
        tracing::debug!(?cause, "cause");
        let settle = match cause.kind {
            CauseKind::PeerDead => SETTLE_DEATH,
            CauseKind::Deadline => SETTLE_DEADLINE,
            _ => SETTLE,
        };
        self.heard.push(cause);
        self.due = Some(self.due.map_or(now + settle, |due| due.min(now + settle)));
    }

    /// When to call [`decide`](Judge::decide).
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The verdict, the first time that it can be given.
    pub(super) fn decide(&mut self, now: Instant) -> Option<&Cause> {
        if self.due.is_none_or(|due| now < due) {
            return None;
        }
        self.due = None;
        self.verdict = judge(&std::mem::take(&mut self.heard));
        self.verdict.as_ref()
    }

    /// The verdict, once it has been given.
    pub(super) fn verdict(&self) -> Option<&Cause> {
        self.verdict.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn deadlines_are_given_time_to_pass_on_all_ranks_unless_something_worse_is_heard() {
        let start = Instant::now();
        let mut judge = Judge::new(4);
        judge.hear(cause(5, CauseKind::Deadline, 1, 2), start);
        assert_eq!(judge.due(), Some(start + SETTLE_DEADLINE));
        judge.hear(cause(5, CauseKind::Closed, 1, 2), start + SETTLE);
        assert_eq!(judge.due(), Some(start + SETTLE + SETTLE));
    }

    fn cause(sequence: u64, kind: CauseKind, culprit: usize, reporter: usize) -> Cause {
        Cause { generation: 0, sequence, kind, culprit, reporter, detail: format!("{reporter} of {culprit}") }
    }

    #[test]
    fn the_first_cause_opens_the_hearing_and_death_wins() {
        let start = Instant::now();
        let mut judge = Judge::new(4);
        assert_eq!(judge.due(), None);
        judge.hear(cause(5, CauseKind::Closed, 1, 2), start);
        assert_eq!(judge.due(), Some(start + SETTLE));
        let death = start + Duration::from_millis(5);
        judge.hear(cause(Cause::NO_SEQUENCE, CauseKind::PeerDead, 3, 0), death);
        assert_eq!(judge.due(), Some(death + SETTLE_DEATH));
        assert!(judge.decide(death).is_none());
        let verdict = judge.decide(death + SETTLE_DEATH).unwrap().clone();
        assert_eq!((verdict.kind, verdict.culprit), (CauseKind::PeerDead, 3));
        judge.hear(cause(0, CauseKind::PeerDead, 0, 1), death + SETTLE);
        assert_eq!(judge.due(), None, "the verdict stands");
        assert_eq!(judge.verdict(), Some(&verdict));
    }

    #[test]
    fn the_hearing_is_bounded() {
        let mut judge = Judge::new(1);
        for reporter in 0..1_000 {
            judge.hear(cause(1, CauseKind::Abort, 0, reporter), Instant::now());
        }
        assert_eq!(judge.heard.len(), 16);
    }
}
