//! Sleepers and ringers.

use super::bell::Bell;
use super::flag::{self, Seen, Stamp};
use super::seeded::Fault;
use super::sync::{self, AtomicU32, AtomicU64, Ordering};
use loom::sync::Arc;
use loom::thread;

const STAMP: Stamp = Stamp { epoch: 5, hash: 0x0700_0000 };

#[derive(Default)]
struct Seat {
    rings: AtomicU32,
    asleep: AtomicU32,
    /// The flags of the two ringers.
    flags: [AtomicU64; 2],
}

impl Seat {
    fn bell(&self, quick: bool) -> Bell<'_> {
        Bell { rings: &self.rings, asleep: &self.asleep, quick }
    }

    fn is_done(&self) -> bool {
        self.flags.iter().all(|flag| flag::seen(flag, STAMP, 1) == Seen::There)
    }
}

/// Who takes part.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scene {
    /// The sleeper passes the fence for those who let it.
    pub(super) promised: bool,
    /// Which of the ringers pass none.
    pub(super) quick: [bool; 2],
}

/// Two ring for what they do, a third sleeps until both have done it.
pub(super) fn ringing(scene: Scene) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let seat = Arc::new(Seat::default());
        let ringers = [0, 1].map(|which| {
            let seat = Arc::clone(&seat);
            thread::spawn(move || {
                sync::point(which);
                seat.flags[which].store(flag::raised(STAMP, 1), Ordering::Release);
                seat.bell(scene.quick[which]).ring();
            })
        });
        let sleeper = thread::spawn(move || {
            while !seat.is_done() {
                let looks = !Fault::is(Fault::SecondLookLeftOut);
                seat.bell(scene.promised).sleep(None, || looks && seat.is_done());
            }
        });
        for ringer in ringers {
            ringer.join().unwrap();
        }
        sync::futex::over();
        sleeper.join().unwrap();
    });
}

#[test]
fn whatever_is_done_for_a_sleeper_wakes_it() {
    ringing(Scene { promised: false, quick: [false; 2] });
}

#[test]
fn the_sleepers_fence_for_all_serves_ringers_that_pass_none() {
    ringing(Scene { promised: true, quick: [true; 2] });
    // The second has not yet seen what the sleeper promises.
    ringing(Scene { promised: true, quick: [true, false] });
}
