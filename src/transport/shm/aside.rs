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
    let cpus = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false));
    let seen: Vec<Option<usize>> = seats.iter().map(seen).collect();
    let mut better = CpuSet::new();
    let mut any = false;
    for cpu in emptier(cpus, &seen, own, here) {
        any |= better.set(cpu).is_ok();
    }
    if any && sched_setaffinity(this, &better).is_ok() {
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
fn emptier(cpus: impl Iterator<Item = usize>, seen: &[Option<usize>], own: usize, here: usize) -> Vec<usize> {
    let before = seen[..own].iter().filter(|seen| **seen == Some(here)).count();
    let mut fewest = before;
    let mut emptier = Vec::new();
    for cpu in cpus.filter(|&cpu| cpu != here) {
        let there = seen.iter().filter(|seen| **seen == Some(cpu)).count();
        if there < fewest {
            fewest = there;
            emptier.clear();
        }
        if there < before && there == fewest {
            emptier.push(cpu);
        }
    }
    emptier
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use crate::memory::Segment;
    use std::sync::Arc;

    #[test]
    fn ranks_spread_evenly_whatever_they_began_with() {
        for (cpus, ranks) in [(1, 3), (2, 2), (2, 4), (2, 8), (3, 4), (4, 3), (8, 3)] {
            for begun in 0..cpus {
                let mut seen = vec![Some(begun); ranks];
                // Each looks several times, one after another.
                for own in (0..ranks).cycle().take(5 * ranks) {
                    let here = seen[own].unwrap();
                    if let Some(&cpu) = emptier(0..cpus, &seen, own, here).first() {
                        seen[own] = Some(cpu);
                    }
                }
                for cpu in 0..cpus {
                    let there = seen.iter().filter(|seen| **seen == Some(cpu)).count();
                    assert!(there <= ranks.div_ceil(cpus), "{ranks} ranks on {cpus} CPUs: {seen:?}");
                }
                let stay = (0..ranks).all(|own| emptier(0..cpus, &seen, own, seen[own].unwrap()).is_empty());
                assert!(stay, "{seen:?}");
            }
        }
    }

    #[test]
    fn the_emptiest_cpus_are_chosen_among_those_where_a_rank_may_run() {
        let seen = [Some(0), Some(0), Some(0), Some(1), None, Some(usize::MAX)];
        assert_eq!(emptier(0..4, &seen, 2, 0), [2, 3]);
        assert_eq!(emptier(0..2, &seen, 2, 0), [1]);
        assert_eq!(emptier(0..2, &seen, 1, 0), [0; 0], "one there and one here is as good");
        assert_eq!(emptier(0..4, &seen, 0, 0), [0; 0], "the first one stays");
        assert_eq!(emptier([0, 3].into_iter(), &seen, 1, 0), [3]);
    }

    #[test]
    fn the_later_one_of_two_goes_where_nobody_is_and_may_run_where_it_could() {
        let room = Seat::len(2).next_multiple_of(4096);
        let segment = Arc::new(Segment::create(2 * room).unwrap());
        let seats: Vec<Seat> = (0..2).map(|rank| Seat::at(&segment, rank * room, 2).unwrap()).collect();
        let allowed = || sched_getaffinity(Pid::from_raw(0)).unwrap();
        let before = allowed();
        let cpus = (0..CpuSet::count()).filter(|&cpu| before.is_set(cpu).unwrap()).count();
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
