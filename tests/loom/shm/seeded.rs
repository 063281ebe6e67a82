//! Faults that are put in on purpose: each is found by a model that passes without it. What no model notices would be a model
//! that says nothing.

use super::bells::{Scene, ringing};
use super::flags::{Form, Op, Play, board};
use super::rings::exchange;
use super::sync::Ordering;
use std::cell::Cell;
use std::panic::{UnwindSafe, catch_unwind};

/// A fault in what the protocols are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// Release stores are relaxed.
    StoresRelaxed,
    /// Acquire loads are relaxed.
    LoadsRelaxed,
    FencesLeftOut,
    /// The sleeper promises a fence for all, and passes it for nobody.
    FenceForAllLeftOut,
    /// The sleeper does not look again before it sleeps.
    SecondLookLeftOut,
}

thread_local! {
    /// loom runs the threads of a model on the thread that asks for it.
    static FAULT: Cell<Fault> = const { Cell::new(Fault::None) };
}

impl Fault {
    /// Whether this is the fault under test.
    pub(super) fn is(fault: Fault) -> bool {
        FAULT.get() == fault
    }
}

/// The model finds the fault, and says so in these words.
#[track_caller]
fn found(fault: Fault, words: &str, model: impl FnOnce() + UnwindSafe) {
    FAULT.set(fault);
    let outcome = catch_unwind(model);
    FAULT.set(Fault::None);
    let panic = outcome.expect_err("the model passes with the fault in it");
    let message = panic.downcast_ref::<String>().map(String::as_str);
    let message = message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
    assert!(message.contains(words), "not {words:?}, but: {message}");
}

use Op::{Both, Only};

const RACE: &str = "Causality violation";
const ASLEEP: &str = "slept through";

const SLOTS: Play = Play { looks: Some(3), ..Play::new(Form::Slots, &[Both; 3]) };
const LINES: Play = Play { looks: Some(3), ..Play::new(Form::Lines, &[Both; 3]) };

/// The root shows again and again what nobody but its reader's ending holds it back from.
const ROOT_IN_SLOTS: Play = Play { operations: &[Only(0); 4], ..SLOTS };
const ROOT_IN_LINES: Play = Play { operations: &[Only(0); 4], ..LINES };

fn plays(play: Play) -> impl FnOnce() + UnwindSafe {
    move || {
        play.check();
    }
}

/// What is seeded below is the only thing that is wrong.
#[test]
fn without_a_fault_all_models_pass() {
    for play in [SLOTS, LINES, ROOT_IN_SLOTS, ROOT_IN_LINES] {
        assert!(play.check() > 0);
    }
}

#[test]
fn a_flag_without_release_or_acquire_is_found() {
    found(Fault::StoresRelaxed, RACE, plays(SLOTS));
    found(Fault::LoadsRelaxed, RACE, plays(SLOTS));
}

#[test]
fn a_stamp_without_release_or_acquire_is_found() {
    found(Fault::StoresRelaxed, RACE, plays(LINES));
    found(Fault::LoadsRelaxed, RACE, plays(LINES));
}

#[test]
fn a_flag_or_stamp_before_what_it_tells_of_is_found() {
    for play in [SLOTS, LINES] {
        found(Fault::None, RACE, plays(Play { data_first: false, ..play }));
    }
}

#[test]
fn a_guard_left_out_is_found() {
    found(Fault::None, RACE, plays(Play { guarded: false, ..ROOT_IN_SLOTS }));
    found(Fault::None, RACE, plays(Play { guarded: false, ..ROOT_IN_LINES }));
}

#[test]
fn an_ending_without_release_is_found() {
    for play in [ROOT_IN_SLOTS, ROOT_IN_LINES] {
        found(Fault::None, RACE, plays(Play { ending: Ordering::Relaxed, ..play }));
    }
}

#[test]
fn a_slot_too_few_is_found() {
    for play in [SLOTS, ROOT_IN_SLOTS, LINES, ROOT_IN_LINES] {
        found(Fault::None, RACE, plays(Play { slots: 1, ..play }));
    }
    // Three in a row at most are begun before all have ended the first.
    found(Fault::None, RACE, plays(Play { depth: 3, ..ROOT_IN_LINES }));
}

#[test]
fn a_board_without_its_fences_is_found() {
    let read = || {
        board();
    };
    found(Fault::FencesLeftOut, "torn", read);
    found(Fault::StoresRelaxed, "torn", read);
    found(Fault::LoadsRelaxed, "torn", read);
}

#[test]
fn a_bell_without_its_fences_is_found() {
    let fenced = Scene { promised: false, quick: [false; 2] };
    found(Fault::FencesLeftOut, ASLEEP, move || ringing(fenced));
    found(Fault::SecondLookLeftOut, ASLEEP, move || ringing(fenced));
    let quick = Scene { promised: true, quick: [true; 2] };
    found(Fault::FenceForAllLeftOut, ASLEEP, move || ringing(quick));
    found(Fault::SecondLookLeftOut, ASLEEP, move || ringing(quick));
    // Ringers that count on what the sleeper has not promised.
    let mistaken = Scene { promised: false, ..quick };
    found(Fault::None, ASLEEP, move || ringing(mistaken));
}

#[test]
fn a_ring_without_release_or_acquire_is_found() {
    found(Fault::StoresRelaxed, RACE, || exchange(3, false));
    found(Fault::LoadsRelaxed, RACE, || exchange(3, false));
}
