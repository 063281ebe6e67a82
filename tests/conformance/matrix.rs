//! What each collective gives, over every backend: by every algorithm, at every world size, in every type.

use crate::calls::call::{Call, Placement, Shape};
use crate::calls::group::{SHM, SHM_STARTED, SMALL_TCP, STARTED, TCP, THREADS, TINY, Way};
use crate::calls::pairwise;
use crate::{Seeded, algorithms, run_all};
use fastrand::Rng;
use ringfold::{Check, Collective, DType, ReduceOp};

/// The sizes of groups.
const WORLDS: &[usize] = &[1, 2, 3, 4, 5, 6, 7, 8];

/// The parameters of a call, each with a number of values.
#[derive(Clone, Copy)]
enum Parameter {
    DType,
    Op,
    Size,
    Placement,
    Check,
    Root,
    Offset,
    Counts,
}

const PARAMETERS: usize = Parameter::Counts as usize + 1;

/// Numbers of values that cover every pair of values of a collective's parameters.
fn rows(collective: Collective, seed: u64) -> Vec<Vec<usize>> {
    let mut values = [1; PARAMETERS];
    let mut has = |parameter: Parameter, count: usize| values[parameter as usize] = count;
    if collective != Collective::Barrier {
        has(Parameter::DType, DType::ALL.len());
        has(Parameter::Size, 12);
        has(Parameter::Placement, 3);
        has(Parameter::Offset, 3);
        if collective.reduces() {
            has(Parameter::Op, ReduceOp::ALL.len());
        }
        if collective.is_rooted() {
            has(Parameter::Root, 4);
        }
        if collective.has_blocks() || collective == Collective::AllToAll {
            has(Parameter::Counts, 2);
        }
    }
    has(Parameter::Check, 2);
    let supported = |p: usize, a: usize, q: usize, b: usize| {
        !collective.reduces()
            || collective == Collective::Barrier
            || (p, q) != (Parameter::DType as usize, Parameter::Op as usize)
            || ReduceOp::ALL[b].supports(DType::ALL[a])
    };
    pairwise::rows(&values, supported, seed)
}

/// The call that a row stands for in a group of this size.
fn call_of(collective: Collective, world: usize, row: &[usize], large: [usize; 2], random: &mut Rng) -> Call {
    let value = |parameter: Parameter| row[parameter as usize];
    let per_rank = collective.has_blocks() || collective == Collective::AllToAll;
    let [larger, largest] = large;
    let sizes = [0, 1, 2, 3, 7, world - 1, world, world + 1, 2 * world + 1, 64, larger, largest];
    let size = sizes[value(Parameter::Size)];
    if collective == Collective::Barrier {
        let check = [Check::Normal, Check::Strict][value(Parameter::Check)];
        return Call::new(collective, DType::U8, 1).check(check);
    }
    let size = if per_rank && size > 64 { size / world + 1 } else { size };
    let shape = match (value(Parameter::Counts), collective) {
        (0, _) => Shape::Same(size),
        (_, Collective::AllToAll) => {
            let mut count = || if random.u8(..3) == 0 { 0 } else { random.usize(..=2 * size) };
            Shape::Pairs((0..world).map(|_| (0..world).map(|_| count()).collect()).collect())
        }
        _ => {
            let mut count = || if random.u8(..3) == 0 { 0 } else { random.usize(..=2 * size) };
            Shape::Blocks((0..world).map(|_| count()).collect())
        }
    };
    Call::new(collective, DType::ALL[value(Parameter::DType)], 0)
        .shape(shape)
        .op(if collective.reduces() { ReduceOp::ALL[value(Parameter::Op)] } else { ReduceOp::Sum })
        .root([0, world - 1, world / 2, random.usize(..world)][value(Parameter::Root)])
        .placement([Placement::Out, Placement::In, Placement::Mixed][value(Parameter::Placement)])
        .check([Check::Normal, Check::Strict][value(Parameter::Check)])
        .offset([0, 1, 3][value(Parameter::Offset)])
}

/// Every collective by every algorithm at every world size: all pairs of values of the other parameters each.
///
/// `large` are the largest sizes; other sizes are around nothing, one and the number of ranks.
fn each_algorithm_and_world(way: &Way, worlds: &[usize], large: [usize; 2]) {
    for collective in Collective::ALL {
        let rows = rows(collective, collective as u64);
        for &world in worlds {
            let mut random = Rng::with_seed(world as u64 * 100 + collective as u64);
            let mut group = (way.form)(world);
            for algorithm in algorithms(way.reach, collective) {
                let call = |row: &Vec<usize>| {
                    let call = call_of(collective, world, row, large, &mut random).algorithm(algorithm);
                    (call, random.u64(..))
                };
                let can = |(call, _): &Seeded| {
                    let request = call.request(world, 0);
                    algorithm.is_none_or(|algorithm| algorithm.check(&request).is_ok())
                };
                let calls: Vec<Seeded> = rows.iter().map(call).filter(can).collect();
                assert!(calls.len() * 3 > rows.len(), "{collective} by {algorithm:?}: {} calls", calls.len());
                if let Err(fault) = run_all(&mut *group, world, &calls) {
                    panic!("{}: {fault}", way.name);
                }
            }
        }
    }
}

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
