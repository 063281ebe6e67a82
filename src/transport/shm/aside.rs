//! How ranks part that came to run on one CPU while another has fewer of them.

use super::layout::Seat;
use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;
use std::sync::atomic::Ordering;

/// Tells the others on which CPU this rank runs; and where ranks before it were last seen on the same, and fewer on another where it may run,
/// goes there. Whether any were seen. Who wakes from sleep is not always put on an idle CPU, and who never sleeps is not moved for long;
/// so the thread is kept from this one for a moment.
pub(super) fn step(seats: &[Seat], own: usize) -> bool {
    // Miri knows no CPUs.
    if cfg!(miri) {
        return false;
    }
    let Ok(here) = sched_getcpu() else { return false };
    tell(&seats[own], here);
    if !seats[..own].iter().any(|seat| seen(seat) == Some(here)) {
        return false;
    }
    let this = Pid::from_raw(0);
    let Ok(allowed) = sched_getaffinity(this) else { return true };
    if let Some(better) = emptier(&allowed, seats.iter().map(seen), own, here)
        && sched_setaffinity(this, &better).is_ok()
    {
        if let Err(error) = sched_setaffinity(this, &allowed) {
            tracing::warn!(%error, "a thread that went to another CPU has to stay there");
        }
        if let Ok(there) = sched_getcpu() {
            tell(&seats[own], there);
        }
    }
    true
}

fn tell(seat: &Seat, cpu: usize) {
    let word = cpu as u32 + 1;
    if seat.cpu().load(Ordering::Relaxed) != word {
        seat.cpu().store(word, Ordering::Relaxed);
    }
}

/// Where a rank was last seen, if it was.
fn seen(seat: &Seat) -> Option<usize> {
    seat.cpu().load(Ordering::Relaxed).checked_sub(1).map(|cpu| cpu as usize)
}

/// Those of these CPUs on which the fewest ranks were seen, where with this rank they would still have no more than are here before it: so
/// ranks that all look at the same spread evenly, and then none has anywhere to go.
fn emptier(
    cpus: &CpuSet,
    seen: impl Iterator<Item = Option<usize>> + Clone,
    own: usize,
    here: usize,
) -> Option<CpuSet> {
    let before = seen.clone().take(own).filter(|seen| *seen == Some(here)).count();
    let there = |cpu| seen.clone().filter(|seen| *seen == Some(cpu)).count();
    let others = || numbers(cpus).filter(|&cpu| cpu != here);
    let fewest = others().map(there).min().filter(|&fewest| fewest < before)?;
    let mut emptier = CpuSet::new();
    others().filter(|&cpu| there(cpu) == fewest).try_for_each(|cpu| emptier.set(cpu)).ok()?;
    Some(emptier)
}

fn numbers(cpus: &CpuSet) -> impl Iterator<Item = usize> {
    (0..CpuSet::count()).filter(|&cpu| cpus.is_set(cpu).unwrap_or(false))
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use crate::memory::Segment;
    use std::sync::Arc;

    fn set(cpus: impl IntoIterator<Item = usize>) -> CpuSet {
        let mut set = CpuSet::new();
        cpus.into_iter().for_each(|cpu| set.set(cpu).unwrap());
        set
    }

    #[test]
    fn ranks_spread_evenly_whatever_they_began_with() {
        for (cpus, ranks) in [(1, 3), (2, 2), (2, 4), (2, 8), (3, 4), (4, 3), (8, 3)] {
            let all = set(0..cpus);
            for begun in 0..cpus {
                let mut seen = vec![Some(begun); ranks];
                // Each looks several times, one after another.
                for own in (0..ranks).cycle().take(5 * ranks) {
                    let here = seen[own].unwrap();
                    if let Some(better) = emptier(&all, seen.iter().copied(), own, here) {
                        seen[own] = numbers(&better).next();
                    }
                }
                for cpu in 0..cpus {
                    let there = seen.iter().filter(|seen| **seen == Some(cpu)).count();
                    assert!(there <= ranks.div_ceil(cpus), "{ranks} ranks on {cpus} CPUs: {seen:?}");
                }
                let better = |own: usize| emptier(&all, seen.iter().copied(), own, seen[own].unwrap());
                assert!((0..ranks).all(|own| better(own).is_none()), "{seen:?}");
            }
        }
    }

    #[test]
    fn the_emptiest_cpus_are_chosen_among_those_where_a_rank_may_run() {
        let seen = [Some(0), Some(0), Some(0), Some(1), None, Some(usize::MAX)];
        let better = |cpus: CpuSet, own| emptier(&cpus, seen.iter().copied(), own, 0);
        assert_eq!(better(set(0..4), 2), Some(set([2, 3])));
        assert_eq!(better(set(0..2), 2), Some(set([1])));
        assert_eq!(better(set(0..2), 1), None, "one there and one here is as good");
        assert_eq!(better(set(0..4), 0), None, "the first one stays");
        assert_eq!(better(set([0, 3]), 1), Some(set([3])));
        assert_eq!(better(set([0]), 2), None);
    }

    #[test]
    fn the_later_one_of_two_goes_where_nobody_is_and_may_run_where_it_could() {
        let room = Seat::len(2).next_multiple_of(4096);
        let segment = Arc::new(Segment::create(2 * room).unwrap());
        let seats: Vec<Seat> = (0..2).map(|rank| Seat::at(&segment, rank * room, 2).unwrap()).collect();
        let allowed = || sched_getaffinity(Pid::from_raw(0)).unwrap();
        let before = allowed();
        let cpus = numbers(&before).count();
        // The system may move it at any time; mostly it does not.
        let went = (0..1000).any(|_| {
            let here = sched_getcpu().unwrap();
            tell(&seats[0], here);
            step(&seats, 1) && sched_getcpu().unwrap() != here
        });
        assert_eq!(went, cpus > 1);
        assert_eq!(allowed(), before);
        tell(&seats[1], sched_getcpu().unwrap());
        assert!(!step(&seats, 0), "the first of two does not care");
    }
}
