//! Real processes under the `mpirun` of the MPI that this is linked with: its own binary, started again once for each rank.
//!
//! `bash tests/mpi.sh` builds and runs it with Open MPI and with MPICH.

#[path = "../calls/mod.rs"]
mod calls;
#[path = "../transport/program.rs"]
#[expect(dead_code, reason = "each suite uses a part of it")]
mod program;

mod contract;
mod failures;
mod groups;
mod meeting;
mod mpirun;
mod suites;

use mpirun::{Run, SCENE, mpirun, other_mpirun, tell};

/// The body of a process that `mpirun` starts; nothing when it is run as a test.
#[test]
fn rank() {
    let Ok(scene) = std::env::var(SCENE) else { return };
    let play: fn() = match scene.as_str() {
        "abort" => failures::abort,
        "calls" => suites::calls,
        "contract" => contract::contract,
        "deadline" => failures::deadline,
        "death" => failures::death,
        "exchange" => meeting::exchange,
        "groups" => groups::groups,
        "late" => meeting::late,
        "mismatch" => failures::mismatch,
        "order" => suites::order,
        "own" => meeting::own,
        "single" => meeting::single,
        "store" => meeting::store,
        "unlike" => meeting::unlike,
        "wrong" => meeting::wrong,
        other => panic!("no scene is called {other}"),
    };
    play();
    tell("fine");
}

/// Every rank of these worlds plays the scene to its end.
fn all_fine(scene: &str, worlds: &[usize]) {
    for &world in worlds {
        let run = mpirun(world, scene, &[]);
        assert!(run.success && run.count("fine") == world, "{scene} with {world} ranks: {run}");
    }
}

const WORLDS: [usize; 4] = [1, 2, 3, 4];

#[test]
fn the_transport_keeps_the_contract() {
    all_fine("contract", &WORLDS);
}

#[test]
fn every_collective_by_every_algorithm() {
    all_fine("calls", &WORLDS);
}

#[test]
fn fixed_order_has_the_bits_that_it_has_over_tcp() {
    all_fine("order", &WORLDS);
}

#[test]
fn groups_within_groups_and_many_at_once() {
    all_fine("groups", &WORLDS);
}

#[test]
fn ranks_meet_by_mpi_whatever_their_bytes_go_by() {
    all_fine("exchange", &WORLDS);
}

#[test]
fn a_deadline_that_passes_within_mpi_is_told() {
    let run = mpirun(2, "late", &[]);
    assert!(!run.timed_out && run.count("passed") == 1, "{run}");
}

#[test]
fn ranks_meet_as_ever_and_their_bytes_go_by_mpi() {
    all_fine("store", &WORLDS);
}

#[test]
fn a_program_that_has_mpi_of_its_own_keeps_it() {
    all_fine("own", &WORLDS);
}

#[test]
fn a_thread_level_that_is_too_low_is_refused() {
    all_fine("single", &[2]);
}

#[test]
fn ranks_that_ask_for_different_backends_have_one_error() {
    all_fine("unlike", &[3]);
}

#[test]
fn a_mismatch_names_field_and_rank_before_memory_changes() {
    all_fine("mismatch", &[2, 3, 4]);
}

#[test]
fn an_abort_returns_on_every_rank() {
    all_fine("abort", &[2, 4]);
}

#[test]
fn a_deadline_passes_and_names_who_is_waited_for() {
    all_fine("deadline", &[2, 3]);
}

#[test]
fn the_wrong_mpirun_is_told_and_refused() {
    let run = other_mpirun(2, "wrong");
    assert!(run.success && run.count("fine") == 2, "{run}");
}

/// By default both `mpirun`s end all processes when one has died, some before they can say who it was. Open MPI's can be told to
/// leave them alone.
#[test]
fn whoever_outlives_a_death_names_the_dead() {
    const TOLD: &str = "peer dead 1";
    let run = mpirun(3, "death", &[]);
    assert!(!run.success && !run.timed_out && run.count(TOLD) == run.count_all(), "{run}");
    if Run::is_open_mpi() {
        let run = mpirun(3, "death", &["--enable-recovery"]);
        assert!(!run.timed_out && run.will_count(TOLD, 2), "{run}");
    }
}
