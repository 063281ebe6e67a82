//! From many causes to the one that all ranks name.

use crate::error::{Cause, CauseKind};
use std::collections::{BTreeMap, BTreeSet};

/// The one cause that counts, whatever the order in which they came.
///
/// A rank that differs from all others is seen in mismatches with each of its neighbours: the culprit of several
/// mismatches of one operation is the rank that occurs in most pairs of (culprit, reporter).
///
/// What a rank says of itself before it dies (an abort, a panic) is why it has: that counts, and not its death.
///
/// A rank whose deadline has passed blames one it waited for, which may itself be waiting for somebody. The culprit is
/// one that is blamed and has not complained: it has not come at all, or later than the others.
pub(crate) fn judge(causes: &[Cause]) -> Option<Cause> {
    let first = causes.iter().cloned().reduce(Cause::merge)?;
    match first.kind {
        CauseKind::Mismatch => Some(odd_one_out(causes, first)),
        CauseKind::Deadline => Some(absentee(causes, first)),
        CauseKind::PeerDead => Some(last_words(causes, first)),
        _ => Some(first),
    }
}

fn last_words(causes: &[Cause], death: Cause) -> Cause {
    let said = |cause: &&Cause| {
        matches!(cause.kind, CauseKind::Abort | CauseKind::UserPanic | CauseKind::Internal)
            && cause.culprit == death.culprit
    };
    causes.iter().filter(said).cloned().reduce(Cause::merge).unwrap_or(death)
}

fn absentee(causes: &[Cause], first: Cause) -> Cause {
    let passed = || causes.iter().filter(|cause| cause.kind == CauseKind::Deadline);
    let complained = |rank: usize| passed().any(|cause| cause.reporter == rank);
    passed().filter(|cause| !complained(cause.culprit)).cloned().reduce(Cause::merge).unwrap_or(first)
}

/// Whether ranks of a group of this size differ, and what was said of it leaves open which of them is the odd one.
pub(crate) fn is_in_doubt(causes: &[Cause], world: usize) -> bool {
    let first = causes.iter().cloned().reduce(Cause::merge);
    first.is_some_and(|first| {
        first.kind == CauseKind::Mismatch && world > 2 && most_seen(causes, first.sequence).is_none()
    })
}

/// The rank that occurs in most mismatches of an operation, if there is one.
fn most_seen(causes: &[Cause], sequence: u64) -> Option<usize> {
    let alike = |c: &&Cause| c.kind == CauseKind::Mismatch && c.sequence == sequence;
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
    let culprit = leaders.next()?;
    leaders.next().is_none().then_some(culprit)
}

fn odd_one_out(causes: &[Cause], first: Cause) -> Cause {
    let Some(culprit) = most_seen(causes, first.sequence) else { return first };
    let alike = |c: &&Cause| c.kind == CauseKind::Mismatch && c.sequence == first.sequence;
    let named = causes.iter().filter(alike).filter(|c| c.culprit == culprit).cloned().reduce(Cause::merge);
    let told = causes.iter().filter(alike).filter(|c| c.reporter == culprit).cloned().reduce(Cause::merge);
    named.or(told.map(|c| Cause { culprit, reporter: c.culprit, ..c })).unwrap_or(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(sequence: u64, kind: CauseKind, culprit: usize, reporter: usize) -> Cause {
        Cause { generation: 0, sequence, kind, culprit, reporter, detail: format!("{reporter} of {culprit}") }
    }

    #[test]
    fn the_absentee_is_blamed_and_not_those_who_wait_for_those_who_wait() {
        // In a ring, 3 waits for 2, which is not there; 0 waits for 3, and 1 for 0.
        let causes = [
            cause(4, CauseKind::Deadline, 0, 1),
            cause(4, CauseKind::Deadline, 3, 0),
            cause(4, CauseKind::Deadline, 2, 3),
        ];
        assert_eq!(judge(&causes).unwrap().culprit, 2);
        assert_eq!(judge(&causes[..1]).unwrap().culprit, 0);
        let circle = [cause(4, CauseKind::Deadline, 1, 0), cause(4, CauseKind::Deadline, 0, 1)];
        assert_eq!(judge(&circle).unwrap().culprit, 0);
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
    fn last_words_count_more_than_the_death_that_follows() {
        let death = cause(Cause::NO_SEQUENCE, CauseKind::PeerDead, 2, 0);
        let words = cause(Cause::NO_SEQUENCE, CauseKind::UserPanic, 2, 2);
        assert_eq!(judge(&[death.clone(), words.clone()]), Some(words.clone()));
        assert_eq!(judge(&[words, cause(Cause::NO_SEQUENCE, CauseKind::PeerDead, 1, 0)]).unwrap().culprit, 1);
        let hearsay = cause(3, CauseKind::Mismatch, 2, 1);
        assert_eq!(judge(&[hearsay, death.clone()]), Some(death));
    }

    #[test]
    fn a_tie_and_other_operations_do_not_change_what_merging_says() {
        let pair = [cause(7, CauseKind::Mismatch, 1, 0), cause(7, CauseKind::Mismatch, 0, 1)];
        assert_eq!(judge(&pair).unwrap().culprit, 0);
        let earlier = cause(6, CauseKind::Mismatch, 3, 0);
        let verdict = judge(&[pair[0].clone(), earlier.clone(), pair[1].clone()]).unwrap();
        assert_eq!(verdict, earlier);
    }
}
