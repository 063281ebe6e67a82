//! From many causes to one verdict.

use super::SETTLE;
use crate::error::{Cause, CauseKind};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// Collects causes for [`SETTLE`] after the first, then decides once and for all.
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
        self.heard.push(cause);
        self.due.get_or_insert(now + SETTLE);
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

/// The one cause that counts, whatever the order in which they came.
///
/// A rank that differs from all others is seen in mismatches with each of its neighbours: the culprit of several
/// mismatches of one operation is the rank that occurs in most pairs of (culprit, reporter).
fn judge(causes: &[Cause]) -> Option<Cause> {
    let first = causes.iter().cloned().reduce(Cause::merge)?;
    if first.kind != CauseKind::Mismatch {
        return Some(first);
    }
    let alike = |c: &&Cause| c.kind == CauseKind::Mismatch && c.sequence == first.sequence;
    let pairs: BTreeSet<(usize, usize)> = causes
        .iter()
        .filter(alike)
        .map(|c| (c.culprit.min(c.reporter), c.culprit.max(c.reporter)))
        .filter(|(a, b)| a != b)
        .collect();
    let mut seen: BTreeMap<usize, usize> = BTreeMap::new();
    for (a, b) in pairs {
        *seen.entry(a).or_default() += 1;
        *seen.entry(b).or_default() += 1;
    }
    let most = seen.values().copied().max().unwrap_or(0);
    let mut leaders = seen.iter().filter(|&(_, &count)| count == most).map(|(&rank, _)| rank);
    let (Some(culprit), None) = (leaders.next(), leaders.next()) else { return Some(first) };
    let named = causes.iter().filter(alike).filter(|c| c.culprit == culprit).cloned().reduce(Cause::merge);
    let told = causes.iter().filter(alike).filter(|c| c.reporter == culprit).cloned().reduce(Cause::merge);
    named.or(told.map(|c| Cause { culprit, reporter: c.culprit, ..c }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn cause(sequence: u64, kind: CauseKind, culprit: usize, reporter: usize) -> Cause {
        Cause { generation: 0, sequence, kind, culprit, reporter, detail: format!("{reporter} of {culprit}") }
    }

    #[test]
    fn the_first_cause_opens_the_hearing_and_death_wins() {
        let start = Instant::now();
        let mut judge = Judge::new(4);
        assert_eq!(judge.due(), None);
        judge.hear(cause(5, CauseKind::Closed, 1, 2), start);
        judge.hear(cause(Cause::NO_SEQUENCE, CauseKind::PeerDead, 3, 0), start + Duration::from_millis(5));
        assert_eq!(judge.due(), Some(start + SETTLE));
        assert!(judge.decide(start + Duration::from_millis(19)).is_none());
        let verdict = judge.decide(start + SETTLE).unwrap().clone();
        assert_eq!((verdict.kind, verdict.culprit), (CauseKind::PeerDead, 3));
        judge.hear(cause(0, CauseKind::PeerDead, 0, 1), start + SETTLE);
        assert_eq!(judge.due(), None, "the verdict stands");
        assert_eq!(judge.verdict(), Some(&verdict));
    }

    #[test]
    fn the_odd_one_out_of_many_mismatches_is_the_culprit() {
        // Rank 2 differs from both neighbours; each side of a link may report the other.
        let causes = [
            cause(7, CauseKind::Mismatch, 1, 2),
            cause(7, CauseKind::Mismatch, 2, 1),
            cause(7, CauseKind::Mismatch, 3, 2),
        ];
        let verdict = judge(&causes).unwrap();
        assert_eq!((verdict.culprit, verdict.reporter), (2, 1));
        let told_by_itself = [causes[0].clone(), causes[2].clone()];
        let verdict = judge(&told_by_itself).unwrap();
        assert_eq!((verdict.culprit, verdict.reporter), (2, 1), "even if only the odd one has spoken");
        let mut backwards = causes.to_vec();
        backwards.reverse();
        assert_eq!(judge(&backwards), judge(&causes));
    }

    #[test]
    fn a_tie_and_other_operations_do_not_change_what_merging_says() {
        let pair = [cause(7, CauseKind::Mismatch, 1, 0), cause(7, CauseKind::Mismatch, 0, 1)];
        assert_eq!(judge(&pair).unwrap().culprit, 0);
        let earlier = cause(6, CauseKind::Mismatch, 3, 0);
        let verdict = judge(&[pair[0].clone(), earlier.clone(), pair[1].clone()]).unwrap();
        assert_eq!(verdict, earlier);
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
