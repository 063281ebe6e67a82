//! From many causes to one verdict.

use super::{SETTLE, SETTLE_DEADLINE, SETTLE_DEATH, SETTLE_DOUBT};
use crate::error::{Cause, CauseKind};
use crate::transport::verdict::{is_in_doubt, judge};
use std::time::Instant;

/// Collects causes for [`SETTLE`] after the first ([`SETTLE_DEATH`] after a death, [`SETTLE_DEADLINE`] while only deadlines have passed, which
/// they do on one rank after another), then decides once and for all. Where mismatches leave in doubt who differs from most it goes on
/// collecting, until they do not or [`SETTLE_DOUBT`] has passed: under load a report may be that late.
#[derive(Debug, Default)]
pub(super) struct Judge {
    world: usize,
    heard: Vec<Cause>,
    /// When the first was heard.
    opened: Option<Instant>,
    due: Option<Instant>,
    verdict: Option<Cause>,
    limit: usize,
}

impl Judge {
    pub(super) fn new(world: usize) -> Self {
        Judge { world, limit: world.saturating_mul(4).max(16), ..Judge::default() }
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
        self.opened.get_or_insert(now);
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
        let last = self.opened.map_or(now, |opened| opened + SETTLE_DOUBT);
        if now < last && is_in_doubt(&self.heard, self.world) {
            self.due = Some(last.min(now + SETTLE));
            return None;
        }
        self.conclude()
    }

    /// The verdict on what has been heard so far, where there is none yet: nothing more will be.
    pub(super) fn conclude(&mut self) -> Option<&Cause> {
        self.due.take()?;
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
    fn who_differs_is_waited_for_while_it_is_in_doubt() {
        let start = Instant::now();
        let mismatch = |culprit, reporter| cause(5, CauseKind::Mismatch, culprit, reporter);
        // The odd one is rank 2, which is the first to say that it and another differ.
        let mut judge = Judge::new(4);
        judge.hear(mismatch(0, 2), start);
        assert!(judge.decide(start + SETTLE).is_none());
        assert_eq!(judge.due(), Some(start + SETTLE * 2));
        judge.hear(mismatch(2, 3), start + SETTLE * 2);
        assert_eq!(judge.decide(start + SETTLE * 2).unwrap().culprit, 2);
        // Two who differ are all that is ever heard of.
        let mut judge = Judge::new(4);
        judge.hear(mismatch(0, 2), start);
        assert!(judge.decide(start + SETTLE_DOUBT - SETTLE / 2).is_none());
        assert_eq!(judge.due(), Some(start + SETTLE_DOUBT));
        assert_eq!(judge.decide(start + SETTLE_DOUBT).unwrap().culprit, 0);
        // Of two ranks nobody will ever know more.
        let mut judge = Judge::new(2);
        judge.hear(mismatch(0, 1), start);
        assert_eq!(judge.decide(start + SETTLE).unwrap().culprit, 0);
        // Nor where nothing more will be heard, or something worse has been.
        let mut judge = Judge::new(4);
        judge.hear(mismatch(0, 2), start);
        assert_eq!(judge.conclude().unwrap().culprit, 0);
        let mut judge = Judge::new(4);
        judge.hear(mismatch(0, 2), start);
        judge.hear(cause(Cause::NO_SEQUENCE, CauseKind::PeerDead, 3, 0), start);
        assert_eq!(judge.decide(start + SETTLE_DEATH).unwrap().culprit, 3);
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
