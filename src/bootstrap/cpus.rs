//! Which CPUs of a host a rank may use, and which ranks have to share theirs.

use nix::sched::{CpuSet as Mask, sched_getaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::fs;
use std::ops::RangeInclusive;
use std::path::Path;

/// CPUs of one host, by their numbers, as ranges in ascending order.
///
/// ```
/// use ringfold::bootstrap::CpuSet;
/// let (some, other) = (CpuSet::from_iter([0, 1, 2]), CpuSet::from_iter([3]));
/// assert!(some.count() == 3 && !some.meets(&other));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CpuSet(Vec<(u32, u32)>);

impl CpuSet {
    /// Those that this thread may run on, of the first 1024; empty where the system does not tell.
    pub fn of_this_thread() -> CpuSet {
        let Ok(mask) = sched_getaffinity(Pid::from_raw(0)) else { return CpuSet::default() };
        (0..Mask::count()).filter(|&cpu| mask.is_set(cpu).unwrap_or(false)).map(|cpu| cpu as u32).collect()
    }

    /// Whether there is none in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many are in it.
    pub fn count(&self) -> usize {
        // What others tell may be anything.
        self.ranges()
            .map(|range| (range.end().saturating_sub(*range.start()) as usize).saturating_add(1))
            .sum()
    }

    /// Whether some are in both.
    pub fn meets(&self, other: &CpuSet) -> bool {
        let meet =
            |a: &RangeInclusive<u32>, b: &RangeInclusive<u32>| a.start() <= b.end() && b.start() <= a.end();
        self.ranges().any(|a| other.ranges().any(|b| meet(&a, &b)))
    }

    /// Whether all are in the other, too.
    fn is_within(&self, other: &CpuSet) -> bool {
        self.ranges().all(|a| other.ranges().any(|b| b.contains(a.start()) && b.contains(a.end())))
    }

    /// Adds those of another.
    fn add(&mut self, other: &CpuSet) {
        let mut all: Vec<(u32, u32)> = self.0.iter().chain(&other.0).copied().collect();
        all.sort_unstable();
        let mut joined: Vec<(u32, u32)> = Vec::with_capacity(all.len());
        for (first, last) in all {
            match joined.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => joined.push((first, last)),
            }
        }
        self.0 = joined;
    }

    fn ranges(&self) -> impl Iterator<Item = RangeInclusive<u32>> {
        self.0.iter().map(|&(first, last)| first..=last)
    }
}

impl FromIterator<u32> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> Self {
        let mut set = CpuSet::default();
        cpus.into_iter().for_each(|cpu| set.add(&CpuSet(vec![(cpu, cpu)])));
        set
    }
}

/// Whether each of the ranks of a host can have a CPU of its own, as far as it concerns this one: `own` are the CPUs that it may use, `others`
/// those of the others, `limit` is how many this rank can use at a time, and `quota` how many CPUs' time its control group has, if that is limited.
///
/// Ranks whose CPUs have nothing in common, as a launcher binds them, do not share any. Ranks whose CPUs meet share those of all of them, and
/// those that have no others share this rank's. Where somebody does not tell, or the limit is below what a rank could use by its CPUs, all
/// ranks of the host are taken to share what this one has; and they are taken to be in one control group.
pub(crate) fn suffice(own: &CpuSet, others: &[&CpuSet], limit: usize, quota: Option<usize>) -> bool {
    if quota.is_some_and(|quota| others.len() >= quota) {
        return false;
    }
    if own.is_empty() || others.iter().any(|other| other.is_empty()) || limit < own.count() {
        return others.len() < limit;
    }
    if others.iter().filter(|other| other.is_within(own)).count() >= own.count() {
        return false;
    }
    let (mut all, mut ranks) = (own.clone(), 1);
    let mut rest = others.to_vec();
    // Those that meet the ones that meet this rank's, and so on.
    loop {
        let (meeting, apart): (Vec<_>, Vec<_>) = rest.into_iter().partition(|other| other.meets(&all));
        if meeting.is_empty() {
            return ranks <= all.count();
        }
        ranks += meeting.len();
        meeting.into_iter().for_each(|other| all.add(other));
        rest = apart;
    }
}

/// How many CPUs' time the control groups of this process allow it, rounded down and at least one; `None` where they set no limit, or one
/// that is told otherwise than in version 2.
pub(crate) fn quota() -> Option<usize> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let mounts = Path::new("/sys/fs/cgroup");
    // In a container the path may be the host's, and its own group is at the root of what it sees.
    let inside = mounts.join(path);
    let lowest = if inside.is_dir() { &inside } else { mounts };
    let groups = lowest.ancestors().take_while(|group| group.starts_with(mounts));
    groups.filter_map(|group| of_group(&fs::read_to_string(group.join("cpu.max")).ok()?)).min()
}

/// What a group's `cpu.max` says: so many microseconds of every so many.
fn of_group(text: &str) -> Option<usize> {
    let (time, period) = text.trim().split_once(' ')?;
    let (time, period): (usize, usize) = (time.parse().ok()?, period.parse().ok()?);
    Some(time.checked_div(period)?.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(cpus: &[u32]) -> CpuSet {
        cpus.iter().copied().collect()
    }

    #[test]
    fn sets_are_joined_counted_and_compared() {
        let some = set(&[5, 0, 1, 2, 7]);
        assert_eq!((some.0.as_slice(), some.count()), (&[(0, 2), (5, 5), (7, 7)][..], 5));
        assert!(some.meets(&set(&[4, 7])) && !some.meets(&set(&[3, 6])) && !some.meets(&set(&[])));
        assert_eq!(serde_json::to_string(&some).unwrap(), "[[0,2],[5,5],[7,7]]");
        // Nonsense is no harm.
        let odd: CpuSet = serde_json::from_str("[[9,2],[0,4294967295]]").unwrap();
        assert!(odd.count() > 0 && suffice(&some, &[&odd], 5, None));
        let here = CpuSet::of_this_thread();
        assert!(here.count() >= std::thread::available_parallelism().unwrap().get());
    }

    #[test]
    fn ranks_that_are_bound_apart_share_nothing() {
        let (a, b, both, four) = (set(&[0]), set(&[1]), set(&[0, 1]), set(&[0, 1, 2, 3]));
        assert!(suffice(&a, &[&b], 1, None), "a CPU each");
        assert!(!suffice(&a, &[&a], 1, None) && !suffice(&a, &[&a, &b], 1, None), "two on one CPU");
        assert!(suffice(&both, &[&both], 2, None) && !suffice(&both, &[&both, &both], 2, None));
        // One that may use all, and one that is bound.
        assert!(suffice(&both, &[&a], 2, None) && !suffice(&both, &[&a, &b], 2, None));
        // Two pairs, each on CPUs of its own.
        let (low, high) = (set(&[0, 1]), set(&[2, 3]));
        assert!(suffice(&low, &[&low, &high, &high], 2, None));
        assert!(
            !suffice(&low, &[&low, &low, &high], 2, None) && suffice(&high, &[&low, &low, &low], 2, None)
        );
        // Three on two CPUs, whatever a fourth may use; and the fourth, which has CPUs enough.
        assert!(
            !suffice(&low, &[&low, &low, &four], 2, None) && suffice(&four, &[&low, &low, &low], 4, None)
        );
        // What joins them counts for all.
        assert!(
            suffice(&low, &[&low, &four], 2, None) && !suffice(&low, &[&low, &high, &high, &four], 2, None)
        );
    }

    #[test]
    fn where_it_is_not_known_all_share_what_a_rank_has() {
        let (one, two, unknown) = (set(&[0]), set(&[0, 1]), CpuSet::default());
        assert!(suffice(&two, &[&unknown], 2, None) && !suffice(&one, &[&unknown], 1, None));
        assert!(suffice(&unknown, &[&one], 2, None) && !suffice(&unknown, &[&one], 1, None));
        // Bound apart, and time for fewer of them; time for all is no limit.
        assert!(!suffice(&one, &[&set(&[4])], 1, Some(1)) && suffice(&one, &[&set(&[4])], 1, Some(2)));
        assert_eq!(
            ["max 100000\n", "200000 100000\n", "50000 100000", "odd"].map(of_group),
            [None, Some(2), Some(1), None]
        );
        // A quota of one CPU's time for all of them.
        assert!(!suffice(&two, &[&two], 1, None) && !suffice(&two, &[&set(&[4])], 1, None));
    }
}
