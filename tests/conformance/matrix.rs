//! What each collective gives, over every backend: by every algorithm, at every world size, in every type.

use crate::calls::call::{Call, Placement};
use crate::calls::group::{SHM, SHM_STARTED, SMALL_TCP, STARTED, TCP, THREADS, TINY};
use crate::calls::suite::each_algorithm_and_world;
use crate::{Seeded, algorithms, run_all};
use ringfold::{Check, Collective, DType, ReduceOp};

/// The sizes of groups.
const WORLDS: &[usize] = &[1, 2, 3, 4, 5, 6, 7, 8];

#[test]
fn every_collective_over_threads() {
    each_algorithm_and_world(&THREADS, WORLDS, [1021, 4099]);
}

#[test]
fn every_collective_through_tiny_queues() {
    each_algorithm_and_world(&TINY, WORLDS, [127, 401]);
}

#[test]
fn every_collective_over_shared_memory() {
    each_algorithm_and_world(&SHM, WORLDS, [1021, 70_001]);
}

#[test]
fn every_collective_over_sockets() {
    each_algorithm_and_world(&TCP, WORLDS, [1021, 4099]);
}

#[test]
fn every_collective_over_sockets_in_small_portions() {
    each_algorithm_and_world(&SMALL_TCP, &[2, 3, 5, 8], [1021, 4099]);
}

#[test]
fn every_collective_started() {
    each_algorithm_and_world(&STARTED, &[2, 3, 5, 8], [1021, 4099]);
}

#[test]
fn every_collective_started_over_shared_memory() {
    each_algorithm_and_world(&SHM_STARTED, &[2, 3, 5], [1021, 4099]);
}

/// One element more than a slice, and several times the staging buffer, of the sizes that users have.
#[test]
fn messages_above_slice_and_staging_size() {
    let slice = (1 << 20) / DType::F32.size();
    for (way, collective) in [THREADS, SHM].iter().flat_map(|way| Collective::ALL.map(|c| (way, c))) {
        for algorithm in algorithms(way.reach, collective) {
            let mut group = (way.form)(3);
            let call = Call::new(collective, DType::F32, slice + 1).algorithm(algorithm).check(Check::Auto);
            let calls = [call.clone(), call.placement(Placement::Mixed).op(ReduceOp::Mean).root(2)];
            let seeded: Vec<Seeded> = calls.into_iter().zip([1, 2]).collect();
            run_all(&mut *group, 3, &seeded).unwrap();
        }
    }
}
