//! Sleepers and ringers.

use super::bell::Bell;
use super::sync::{AtomicU32, Ordering};
use loom::sync::Arc;
use loom::thread;

#[derive(Default)]
struct Seat {
    rings: AtomicU32,
    asleep: AtomicU32,
    done: [AtomicU32; 2],
}

impl Seat {
    fn bell(&self) -> Bell<'_> {
        Bell { rings: &self.rings, asleep: &self.asleep }
    }

    fn is_done(&self) -> bool {
        self.done.iter().all(|done| done.load(Ordering::Acquire) == 1)
    }
}

/// A wake-up that is lost is a deadlock, which loom reports.
#[test]
fn whatever_is_done_for_a_sleeper_wakes_it() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let seat = Arc::new(Seat::default());
        let ringers = [0, 1].map(|which| {
            let seat = Arc::clone(&seat);
            thread::spawn(move || {
                seat.done[which].store(1, Ordering::Release);
                seat.bell().ring();
            })
        });
        while !seat.is_done() {
            seat.bell().sleep(None, || seat.is_done());
        }
        for ringer in ringers {
            ringer.join().unwrap();
        }
    });
}
