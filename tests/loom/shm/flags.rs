//! Operations of two ranks in each other's sight, several in a row, with nothing between them: through slots that flags
//! tell of, and through slots in line; and boards.
//!
//! The words are the library's. When what is written twice may be written again is said by the executor, which needs more
//! than there is here: [`Play::go`] keeps to the same rule.

use super::flag::{self, Seen, Stamp};
use super::sync::{self, AtomicU64, Ordering};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use std::sync::atomic::{AtomicUsize, Ordering as Std};

/// Who shows something in an operation; whoever does not takes what the other shows, and where both do both take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Both,
    Only(usize),
}

/// How it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Slots,
    Lines,
}

/// A rank's part of the memory.
struct Seat {
    done: AtomicU64,
    flag: AtomicU64,
    /// loom's cells fail where one thread writes while another reads, or where nothing orders the two.
    slots: [UnsafeCell<u64>; MOST],
    stamps: [AtomicU64; MOST],
}

/// The most slots of a rank in a play. What the library has more of them takes longer rows, and no other rule.
const MOST: usize = 3;

impl Seat {
    fn new() -> Seat {
        Seat {
            done: AtomicU64::new(0),
            flag: AtomicU64::new(0),
            slots: std::array::from_fn(|_| UnsafeCell::new(0)),
            stamps: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

/// A row of operations, and which rules are kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Play {
    pub(super) form: Form,
    pub(super) operations: &'static [Op],
    /// Ranks wait until what they write over is not looked at any more.
    pub(super) guarded: bool,
    /// After how many epochs what was shown is written over, as ranks believe.
    pub(super) depth: u64,
    /// How many slots there are in fact.
    pub(super) slots: usize,
    /// The flag comes after what it tells of.
    pub(super) data_first: bool,
    /// How that an epoch has ended is told.
    pub(super) ending: Ordering,
    /// How often a rank looks for something before it gives up; none where it never does.
    pub(super) looks: Option<usize>,
    /// Rank 1 vanishes after so many stores.
    pub(super) stores: Option<usize>,
    pub(super) preemptions: usize,
}

impl Play {
    pub(super) const fn new(form: Form, operations: &'static [Op]) -> Play {
        Play {
            form,
            operations,
            guarded: true,
            depth: 2,
            slots: 2,
            data_first: true,
            ending: Ordering::Release,
            looks: None,
            stores: None,
            preemptions: 2,
        }
    }

    /// Goes through all of it. How often both ranks came to the end.
    pub(super) fn check(self) -> usize {
        let complete = std::sync::Arc::new(AtomicUsize::new(0));
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(self.preemptions);
        let count = std::sync::Arc::clone(&complete);
        model.check(move || {
            let seats = Arc::new([Seat::new(), Seat::new()]);
            let theirs = Arc::clone(&seats);
            let other = thread::spawn(move || {
                if let Some(stores) = self.stores {
                    sync::vanish_after(stores);
                }
                self.go(1, &theirs)
            });
            let ended = [self.go(0, &seats), other.join().unwrap()];
            if ended == [self.operations.len(); 2] {
                count.fetch_add(1, Std::Relaxed);
            }
        });
        complete.load(Std::Relaxed)
    }

    /// A rank's part; how many operations it has ended.
    fn go(&self, own: usize, seats: &[Seat; 2]) -> usize {
        let (mine, theirs) = (&seats[own], &seats[1 - own]);
        let mut heard = 0;
        for (ended, op) in self.operations.iter().enumerate() {
            let epoch = ended as u64 + 1;
            let stamp = Stamp { epoch, hash: 0x0700_0000 };
            let shows = *op == Op::Both || *op == Op::Only(own);
            // Who was heard in an epoch had begun it, and ended the one before. Who shows nothing writes over nothing.
            let known = epoch <= self.depth || heard + self.depth > epoch || !self.guarded || !shows;
            if !known && !self.wait(|| theirs.done.load(Ordering::Acquire) >= epoch - self.depth) {
                return ended;
            }
            if shows {
                self.show(mine, stamp, shown(own, epoch));
            }
            if *op == Op::Both || *op == Op::Only(1 - own) {
                let Some(seen) = self.take(theirs, stamp) else { return ended };
                assert_eq!(seen, shown(1 - own, epoch), "what rank {own} reads is not of epoch {epoch}");
            }
            mine.done.store(epoch, self.ending);
            if *op == Op::Both {
                heard = epoch;
            }
        }
        self.operations.len()
    }

    /// Looks again and again; whether it was there before this rank gave up.
    fn wait(&self, mut there: impl FnMut() -> bool) -> bool {
        let mut looks = 0;
        while !there() {
            looks += 1;
            if Some(looks) == self.looks {
                return false;
            }
            thread::yield_now();
        }
        true
    }

    fn place(&self, stamp: Stamp) -> usize {
        stamp.epoch as usize % self.slots
    }

    fn show(&self, seat: &Seat, stamp: Stamp, value: u64) {
        let place = self.place(stamp);
        // SAFETY: nobody looks at it any more, by the guard; loom checks that.
        let write = || seat.slots[place].with_mut(|slot| unsafe { *slot = value });
        if self.data_first {
            write();
        }
        match self.form {
            Form::Slots => seat.flag.store(flag::raised(stamp, 1), Ordering::Release),
            Form::Lines => flag::show(&seat.stamps[place], stamp),
        }
        if !self.data_first {
            write();
        }
    }

    fn take(&self, seat: &Seat, stamp: Stamp) -> Option<u64> {
        let place = self.place(stamp);
        let there = self.wait(|| {
            let seen = match self.form {
                Form::Slots => flag::seen(&seat.flag, stamp, 1),
                Form::Lines => flag::shown(&seat.stamps[place], stamp),
            };
            assert_ne!(seen, Seen::Other, "the ranks agree");
            seen == Seen::There
        });
        // SAFETY: it was told of; loom checks that nobody writes it.
        there.then(|| seat.slots[place].with(|slot| unsafe { *slot }))
    }
}

/// What a rank shows in an epoch.
fn shown(rank: usize, epoch: u64) -> u64 {
    epoch * 10 + rank as u64
}

use Op::{Both, Only};

#[test]
fn what_both_show_in_a_row_is_of_its_epoch() {
    for form in [Form::Slots, Form::Lines] {
        assert!(Play::new(form, &[Both; 4]).check() > 0);
    }
}

/// Only what the others have ended tells the root that it may go on.
#[test]
fn what_only_a_root_shows_is_of_its_epoch() {
    for form in [Form::Slots, Form::Lines] {
        assert!(Play::new(form, &[Only(0); 4]).check() > 0);
    }
}

#[test]
fn operations_of_both_kinds_may_follow_each_other() {
    const ROWS: [&[Op]; 4] = [
        &[Both, Only(0), Only(1), Both],
        &[Only(0), Both, Only(0), Only(0)],
        &[Only(0), Only(1), Only(0), Only(1)],
        &[Only(1), Only(1), Both, Both],
    ];
    for row in ROWS {
        for form in [Form::Slots, Form::Lines] {
            assert!(Play::new(form, row).check() > 0, "{row:?}");
        }
    }
}

/// The more slots there are, the later a root has to look.
#[test]
fn slots_may_be_more_than_two() {
    const ROWS: [&[Op]; 3] =
        [&[Only(0); 5], &[Both, Both, Both, Both], &[Only(0), Both, Only(0), Only(1), Only(0)]];
    for row in ROWS {
        for form in [Form::Slots, Form::Lines] {
            assert!(Play { depth: 3, slots: 3, ..Play::new(form, row) }.check() > 0, "{row:?}");
        }
    }
}

/// Wherever rank 1 stops, rank 0 reads nothing wrong: it looks until it gives up.
#[test]
fn who_vanishes_leaves_nothing_wrong_to_read() {
    const ROWS: [&[Op]; 2] = [&[Both, Both], &[Only(1), Only(1), Only(1)]];
    for operations in ROWS {
        for form in [Form::Slots, Form::Lines] {
            let play = Play { looks: Some(2), ..Play::new(form, operations) };
            assert!(play.check() > 0, "nobody has to give up");
            for stores in 0..12 {
                Play { stores: Some(stores), ..play }.check();
            }
        }
    }
}

/// One rank posts again while another looks. How often it saw nothing, the first, and the second.
pub(super) fn board() -> [usize; 3] {
    let outcomes = std::sync::Arc::new([0; 3].map(AtomicUsize::new));
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    let count = std::sync::Arc::clone(&outcomes);
    model.check(move || {
        let board = Arc::new((AtomicU64::new(0), std::array::from_fn(|_| AtomicU64::new(0))));
        assert_eq!(flag::posted(&board.0, &board.1), None);
        flag::post(&board.0, &board.1, &[1; 8]);
        let theirs = Arc::clone(&board);
        let count = std::sync::Arc::clone(&count);
        let reader = thread::spawn(move || {
            let words = flag::posted(&theirs.0, &theirs.1);
            if let Some(words) = words {
                assert!(words.iter().all(|word| *word == words[0] && *word != 0), "torn: {words:?}");
            }
            count[words.map_or(0, |words| words[0] as usize)].fetch_add(1, Std::Relaxed);
        });
        flag::post(&board.0, &board.1, &[2; 8]);
        reader.join().unwrap();
        assert_eq!(flag::posted(&board.0, &board.1), Some([2; 8]));
    });
    outcomes.each_ref().map(|count| count.load(Std::Relaxed))
}

#[test]
fn what_is_posted_is_read_whole_or_not_at_all() {
    let outcomes = board();
    assert!(outcomes.iter().all(|count| *count > 0), "{outcomes:?}");
}
