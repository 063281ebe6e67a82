//! How ranks that came to run on one CPU part, though each could have one of its own.

use super::layout::Seat;
use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;
use std::sync::atomic::Ordering;

/// Tells the others on which CPU this rank runs; and where a rank before it, awake, was last seen on the same, goes to one of those
/// where it may run and nobody was seen. Whether it went. Who wakes from sleep is not always put on an idle CPU, and who never sleeps is not
/// moved for long; so the thread is kept from this one for a moment.
pub(super) fn step(seats: &[Seat], own: usize) -> bool {
    // Miri knows no CPUs.
    if cfg!(miri) {
        return false;
    }
    let Ok(here) = sched_getcpu() else { return false };
    let told = seats[own].cpu();
    let word = here as u32 + 1;
    if told.load(Ordering::Relaxed) != word {
        told.store(word, Ordering::Relaxed);
    }
    let is_here = |seat: &Seat| {
        seat.cpu().load(Ordering::Relaxed) == word && seat.bell().asleep.load(Ordering::Relaxed) == 0
    };
    seats[..own].iter().any(is_here) && leave(seats).is_some()
}

/// Makes the thread go on on a CPU where no rank was seen.
fn leave(seats: &[Seat]) -> Option<()> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).ok()?;
    let mut free = allowed;
    for seat in seats {
        if let Some(cpu) = seat.cpu().load(Ordering::Relaxed).checked_sub(1) {
            // A number beyond all CPUs, which a peer may have written, is no CPU.
            let _ = free.unset(cpu as usize);
        }
    }
    let any = (0..CpuSet::count()).any(|cpu| free.is_set(cpu).unwrap_or(false));
    if !any {
        return None;
    }
    sched_setaffinity(this, &free).ok()?;
    sched_setaffinity(this, &allowed).ok()
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use crate::memory::Segment;
    use std::sync::Arc;

    /// The CPUs of this thread.
    fn allowed() -> (CpuSet, Vec<usize>) {
        let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
        (allowed, (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap()).collect())
    }

    fn seats(count: usize) -> Vec<Seat> {
        let room = Seat::len(count).next_multiple_of(4096);
        let segment = Arc::new(Segment::create(count * room).unwrap());
        (0..count).map(|rank| Seat::at(&segment, rank * room, count).unwrap()).collect()
    }

    #[test]
    fn the_later_one_of_two_goes_where_nobody_is_and_may_run_where_it_could() {
        let ((before, cpus), seats) = (allowed(), seats(2));
        // The system may have moved it between two of these lines; mostly it has not.
        let went = (0..1000).any(|_| {
            let here = sched_getcpu().unwrap();
            seats[0].cpu().store(here as u32 + 1, Ordering::Relaxed);
            step(&seats, 1) && sched_getcpu().unwrap() != here
        });
        assert_eq!(went, cpus.len() > 1);
        assert_eq!(allowed().0, before);
    }

    #[test]
    fn who_is_first_stays_and_so_does_who_meets_a_sleeper_or_has_nowhere_to_go() {
        let ((_, cpus), seats) = (allowed(), seats(2));
        let stays = |own: usize| {
            (0..100).all(|_| {
                seats[1 - own].cpu().store(sched_getcpu().unwrap() as u32 + 1, Ordering::Relaxed);
                !step(&seats, own)
            })
        };
        assert!(stays(0), "the first of two stays");
        seats[0].bell().asleep.store(1, Ordering::Relaxed);
        assert!(stays(1), "a sleeper needs no CPU");
        // More ranks than CPUs.
        let seats = self::seats(cpus.len() + 1);
        for (seat, cpu) in seats.iter().zip(&cpus) {
            seat.cpu().store(*cpu as u32 + 1, Ordering::Relaxed);
        }
        assert!(!step(&seats, cpus.len()));
        seats[0].cpu().store(u32::MAX, Ordering::Relaxed);
        step(&seats, cpus.len());
    }
}
