//! Threads that sleep nearly always, and are to run as soon as they are woken.
//!
//! Where ranks have more threads than CPUs, whoever is woken waits until one that computes has used up its slice, some
//! milliseconds; and a failure passes through several such threads before all ranks know of it. Linux lets a thread ask for
//! shorter slices since 6.12: it gets no more of a CPU than before, but gets it sooner.
//!
//! Source: the slice of a task of `SCHED_OTHER` in `sched_setattr(2)`; I. Stoica, H. Abdel-Wahab, "Earliest eligible virtual
//! deadline first", 1995.

use nix::libc::{SCHED_OTHER, SYS_sched_getattr, SYS_sched_setattr, sched_attr, syscall};

/// The shortest slice that there is, in nanoseconds.
const SLICE: u64 = 100_000;

/// Asks that the calling thread runs soon after it is woken. Where the system knows nothing of that, or does not allow it,
/// nothing changes; nor for a thread of another scheduling class, or one that has a shorter slice. What the thread starts
/// afterwards inherits it.
pub(crate) fn ask() {
    let Some(attributes) = attributes() else { return };
    let asked = sched_attr { sched_runtime: SLICE, ..attributes };
    if attributes.sched_policy == SCHED_OTHER as u32 && !(1..=SLICE).contains(&attributes.sched_runtime) {
        // SAFETY: the structure is as long as it says, and is only read.
        let _ = unsafe { syscall(SYS_sched_setattr, 0, &raw const asked, 0) };
    }
}

/// What the system knows of how the calling thread is scheduled.
fn attributes() -> Option<sched_attr> {
    const SIZE: u32 = size_of::<sched_attr>() as u32;
    let mut attributes = sched_attr {
        size: SIZE,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the system writes so many bytes at most, all of them numbers.
    let result = unsafe { syscall(SYS_sched_getattr, 0, &raw mut attributes, SIZE, 0) };
    (result == 0).then_some(attributes)
}

#[cfg(test)]
mod tests {
    use super::{SLICE, ask, attributes};

    #[test]
    fn only_the_slice_changes() {
        // On a thread of its own: what is asked for stays.
        let [before, after] = std::thread::spawn(|| {
            let before = attributes().unwrap();
            ask();
            [before, attributes().unwrap()]
        })
        .join()
        .unwrap();
        let rest = |attributes: &nix::libc::sched_attr| {
            let nix::libc::sched_attr { sched_policy, sched_flags, sched_nice, sched_priority, .. } =
                *attributes;
            (sched_policy, sched_flags, sched_nice, sched_priority)
        };
        assert_eq!(rest(&before), rest(&after));
        // A system that tells of slices lets them be shortened.
        let expected = if before.sched_runtime == 0 { 0 } else { before.sched_runtime.min(SLICE) };
        assert_eq!(after.sched_runtime, expected);
    }
}
