//! Real processes under the `mpirun` of the MPI that this is linked with: its own binary, started again once for each rank.
//!
//! `bash tests/mpi.sh` builds and runs it with Open MPI and with MPICH. A launch plays several scenes, one after another, each with a group
//! of its own.

#[path = "../calls/mod.rs"]
mod calls;
#[path = "../transport/program.rs"]
#[expect(dead_code, reason = "each suite uses a part of it")]
mod program;

mod blocking;
mod collectives;
mod command;
mod contract;
mod failures;
mod groups;
mod meeting;
mod mpirun;
mod suites;

use mpirun::{Run, SCENE, mpirun, mpirun_blocking, other_mpirun, tell};
use ringfold::config::BackendChoice;

/// The body of a process that `mpirun` starts; nothing when it is run as a test.
#[test]
fn rank() {
    let Ok(scenes) = std::env::var(SCENE) else { return };
    for scene in scenes.split(',') {
        let (scene, backend) = scene.split_once(' ').unwrap_or((scene, "mpi-p2p"));
        let backend: BackendChoice = backend.parse().unwrap();
        let start = std::time::Instant::now();
        match scene {
            "abort" => failures::abort(backend),
            "behind" => blocking::behind(),
            "bits" => collectives::bits(),
            "calls" => suites::calls(backend),
            "contract" => contract::contract(),
            "deadline" => failures::deadline(backend),
            "death" => failures::death(backend),
            "departure" => failures::departure(backend),
            "exchange" => meeting::exchange(),
            "groups" => groups::groups(backend),
            "large" => collectives::large(),
            "late" => meeting::late(),
            "leaving" => blocking::leaving(),
            "limits" => collectives::limits(),
            "listening" => meeting::listening(),
            "matrix" => failures::matrix(),
            "messages" => suites::messages(backend),
            "mixed" => blocking::mixed(),
            "mismatch" => failures::mismatch(backend),
            "order" => suites::order(),
            "overdue" => blocking::overdue(),
            "own" => meeting::own(),
            "overlapping" => blocking::overlapping(),
            "packed" => suites::packed(backend),
            "panics" => suites::panics(backend),
            "quarantine" => failures::quarantine(),
            "reductions" => suites::reductions(backend),
            "refusals" => suites::refusals(backend),
            "reused" => failures::reused(),
            "serialized" => blocking::serialized(),
            "single" => meeting::single(),
            "spoilt" => blocking::spoilt(),
            "started" => suites::started(backend),
            "store" => meeting::store(),
            "unlike" => meeting::unlike(),
            "unlike_blocking" => blocking::unlike(),
            "unlike_mpis" => meeting::unlike_mpis(),
            "unsupported" => collectives::unsupported(),
            "wrong" => meeting::wrong(),
            other => panic!("no scene is called {other}"),
        }
        println!("{scene} over {backend}: {:.1?}", start.elapsed());
    }
    tell("fine");
}

/// Every rank of this world plays the scenes to their ends.
fn all_fine(scenes: &[&str], world: usize) {
    let run = mpirun(world, &scenes.join(","), &[]);
    assert!(run.success && run.count("fine") == world, "{world} ranks: {run}");
    if std::env::var_os("RINGFOLD_TEST_VERBOSE").is_some() {
        println!("{run}");
    }
}

/// The same of scenes after which something stays in MPI for ever: the processes cannot end it, and `mpirun` says so.
fn all_told(scenes: &[&str], world: usize) {
    let run = mpirun(world, &scenes.join(","), &[]);
    assert!(!run.timed_out && run.count("fine") == world, "{world} ranks: {run}");
    if std::env::var_os("RINGFOLD_TEST_VERBOSE").is_some() {
        println!("{run}");
    }
}

/// What goes well, over both backends.
const WELL: [&str; 22] = [
    "exchange",
    "contract",
    "calls mpi-p2p",
    "calls mpi",
    "order",
    "bits",
    "limits",
    "messages mpi-p2p",
    "messages mpi",
    "packed mpi-p2p",
    "packed mpi",
    "started mpi-p2p",
    "started mpi",
    "reductions mpi-p2p",
    "reductions mpi",
    "refusals mpi-p2p",
    "refusals mpi",
    "unsupported",
    "groups mpi-p2p",
    "groups mpi",
    "store",
    "own",
];

/// All but the last, before which nobody may have begun MPI.
fn well(world: usize) {
    all_fine(&WELL[..WELL.len() - 1], world);
    all_fine(&WELL[WELL.len() - 1..], world);
}

#[test]
fn a_rank_alone() {
    well(1);
}

#[test]
fn two_ranks() {
    well(2);
}

#[test]
fn three_ranks() {
    well(3);
}

#[test]
fn four_ranks() {
    well(4);
}

/// What goes well where verbs that block are MPI's blocking collectives.
const WELL_BLOCKING: [&str; 13] = [
    "calls mpi",
    "bits",
    "limits",
    "messages mpi",
    "packed mpi",
    "started mpi",
    "reductions mpi",
    "refusals mpi",
    "unsupported",
    "groups mpi",
    "behind",
    "overlapping",
    "store",
];

#[test]
fn blocking_calls_conform_on_one_to_four_ranks() {
    for world in 1..=4 {
        let run = mpirun_blocking(world, &WELL_BLOCKING.join(","));
        assert!(run.success && run.count("fine") == world, "{world} ranks: {run}");
    }
}

#[test]
fn a_deadline_that_a_blocking_call_outlives_is_told_with_who_is_missing() {
    let run = mpirun_blocking(3, "overdue");
    assert!(run.success && run.count("fine") == 3, "{run}");
    for rank in 0..2 {
        let says = format!("warned: rank {rank} has waited 300ms within a library's all_reduce");
        assert_eq!(run.count_with(&[&says, "rank 2 has not come to it"]), 2, "{run}");
    }
    assert_eq!(run.count_with(&["warned: "]), 4, "{run}");
}

#[test]
fn who_starts_what_others_wait_for_is_told_and_so_is_their_log() {
    let run = mpirun_blocking(3, "mixed");
    assert!(!run.success && !run.timed_out, "{run}");
    assert_eq!(run.count_with(&["mismatch: way of calling differs", "on rank 0"]), 1, "{run}");
    for rank in 1..3 {
        let says = format!("warned: the group has failed while rank {rank} is within a library's all_reduce");
        assert_eq!(run.count_with(&[&says, "way of calling differs"]), 1, "{run}");
    }
    assert_eq!(run.count_with(&["returned"]), 0, "{run}");
}

#[test]
fn a_group_that_fails_during_a_blocking_call_fails_it_when_mpi_is_done() {
    for scene in ["spoilt", "panics mpi"] {
        let run = mpirun_blocking(2, scene);
        assert!(!run.timed_out && run.count("fine") == 2, "{run}");
    }
}

#[test]
fn a_thread_that_comes_back_late_does_not_keep_mpi_from_being_ended() {
    let run = mpirun_blocking(3, "leaving");
    assert!(run.success && run.count("fine") == 3 && run.count("ending") == 3, "{run}");
}

#[test]
fn ranks_listen_at_one_interface_only() {
    all_fine(&["listening"], 2);
}

#[test]
fn blocking_calls_are_refused_where_ranks_differ_or_threads_must_take_turns() {
    all_fine(&["unlike_blocking"], 3);
    all_fine(&["serialized"], 2);
}

#[test]
fn memory_of_the_librarys_own_never_stays_with_mpi() {
    all_told(&["reused"], 2);
}

#[test]
fn a_deadline_that_passes_within_mpi_is_told() {
    let run = mpirun(2, "late", &[]);
    assert!(!run.timed_out && run.count("passed") == 1, "{run}");
}

#[test]
fn a_thread_level_that_is_too_low_is_refused() {
    all_fine(&["single"], 2);
}

#[test]
fn ranks_that_ask_for_different_backends_have_one_error() {
    all_fine(&["unlike", "unlike_mpis"], 3);
}

#[test]
fn a_mismatch_names_field_and_rank_before_memory_changes() {
    [2, 3, 4].into_iter().for_each(|world| all_fine(&["mismatch mpi-p2p"], world));
}

#[test]
fn a_mismatch_within_mpi_is_told_to_all() {
    [2, 3, 4].into_iter().for_each(|world| all_told(&["mismatch mpi", "matrix"], world));
}

#[test]
fn an_abort_returns_on_every_rank() {
    for world in [2, 4] {
        all_fine(&["abort mpi-p2p"], world);
        all_told(&["abort mpi"], world);
    }
}

#[test]
fn a_deadline_passes_and_names_who_is_waited_for() {
    for world in [2, 3] {
        all_fine(&["deadline mpi-p2p"], world);
        all_told(&["deadline mpi"], world);
    }
}

#[test]
fn whoever_leaves_is_named_by_those_who_wait() {
    for world in [2, 3] {
        all_fine(&["departure mpi-p2p"], world);
        all_told(&["departure mpi"], world);
    }
}

#[test]
fn a_panic_in_a_users_reduction_is_told_to_every_rank() {
    for world in [2, 3] {
        all_fine(&["panics mpi-p2p"], world);
        all_told(&["panics mpi"], world);
    }
}

#[test]
fn what_stays_with_mpi_is_never_given_back() {
    all_told(&["quarantine"], 2);
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
    for scene in ["death mpi-p2p", "death mpi"] {
        let run = mpirun(3, scene, &[]);
        assert!(!run.success && !run.timed_out && run.count(TOLD) == run.count_all(), "{run}");
        if Run::is_open_mpi() {
            let run = mpirun(3, scene, &["--enable-recovery"]);
            assert!(!run.timed_out && run.will_count(TOLD, 2), "{run}");
        }
    }
}

/// More than MPI's `int` counts: 2.2 GiB a rank, for which few machines have room.
#[test]
#[ignore = "takes 10 GiB of memory"]
fn counts_beyond_two_to_the_31st() {
    all_fine(&["large"], 2);
}
