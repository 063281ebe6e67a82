//! The calls that every backend is put through, and the comparison of what comes of them.

use super::call::{Call, Job, Placement, Shape, prepare};
use super::group::{Group, Way};
use super::pairwise;
use super::value::Draw;
use fastrand::Rng;
use ringfold::plan::select::Table;
use ringfold::plan::{Algorithm, Reach};
use ringfold::{Check, Collective, DType, ErrorKind, Order, ReduceOp};

/// How many calls a group makes before their results are looked at.
const BATCH: usize = 48;

/// A call with the seed of its inputs.
pub type Seeded = (Call, u64);

/// Runs these calls, in this order, on one group; `Err` tells the first wrong results.
pub fn run_all(group: &mut dyn Group, world: usize, calls: &[Seeded]) -> Result<(), String> {
    for batch in calls.chunks(BATCH) {
        let mut jobs: Vec<Vec<Job>> = vec![Vec::new(); world];
        let mut expected = Vec::new();
        for (call, seed) in batch {
            let (of_ranks, outputs) = prepare(call, world, call.draw(), *seed);
            of_ranks.into_iter().zip(&mut jobs).for_each(|(job, jobs)| jobs.push(job));
            expected.push(outputs);
        }
        let mut faults = Vec::new();
        for (rank, done) in group.run(jobs).iter().enumerate() {
            for (index, (job, result)) in done.iter().enumerate() {
                let fault = match result {
                    Ok(()) => job.check(&expected[index][rank]).err(),
                    Err(error) => Some(error.to_string()),
                };
                faults.extend(fault.map(|fault| (index, format!("rank {rank} of {world}: {fault}"))));
            }
        }
        if let Some((index, fault)) = faults.into_iter().min_by_key(|(index, _)| *index) {
            let (call, seed) = &batch[index];
            return Err(format!("{fault}\nin {call:?}, seed {seed}"));
        }
    }
    Ok(())
}

/// The algorithms for a collective, and the table's choice.
pub fn algorithms(reach: Reach, collective: Collective) -> Vec<Option<Algorithm>> {
    let able = Algorithm::within(reach).filter(|algorithm| algorithm.collectives().contains(&collective));
    std::iter::once(None).chain(able.map(Some)).collect()
}

/// The same over a backend: the table's choice alone where a library owns the schedules.
pub fn algorithms_of(way: &Way, collective: Collective) -> Vec<Option<Algorithm>> {
    if way.of_library { vec![None] } else { algorithms(way.reach, collective) }
}

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
pub fn each_algorithm_and_world(way: &Way, worlds: &[usize], large: [usize; 2]) {
    for collective in Collective::ALL {
        let rows = rows(collective, collective as u64);
        for &world in worlds {
            let mut random = Rng::with_seed(world as u64 * 100 + collective as u64);
            let mut group = (way.form)(world);
            for algorithm in algorithms_of(way, collective) {
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

/// The full product, nothing sampled, by the algorithm that the table chooses.
pub fn every_call(way: &Way, worlds: &[usize]) {
    for &world in worlds {
        let mut group = (way.form)(world);
        let mut calls: Vec<Seeded> = Vec::new();
        for collective in Collective::ALL.into_iter().filter(|collective| *collective != Collective::Barrier)
        {
            for dtype in DType::ALL {
                let ops: Vec<ReduceOp> = if collective.reduces() {
                    ReduceOp::ALL.into_iter().filter(|op| op.supports(dtype)).collect()
                } else {
                    vec![ReduceOp::Sum]
                };
                for op in ops {
                    for size in [0, 1, world + 1, 257] {
                        for placement in [Placement::Out, Placement::In] {
                            let call = Call::new(collective, dtype, size);
                            calls
                                .push((call.op(op).placement(placement).root(world / 2), calls.len() as u64));
                        }
                    }
                }
            }
        }
        // Three collectives reduce, by 5 or 7 operations; five move.
        assert_eq!(calls.len(), (3 * (4 * 5 + 8 * 7) + 5 * 12) * 4 * 2);
        if let Err(fault) = run_all(&mut *group, world, &calls) {
            panic!("{}: {fault}", way.name);
        }
    }
}

pub const FLOATS: [DType; 4] = [DType::F16, DType::BF16, DType::F32, DType::F64];
pub const ROUGH: [ReduceOp; 3] = [ReduceOp::Sum, ReduceOp::Mean, ReduceOp::Prod];

/// The fixed order by every algorithm that has it. How many calls there were, and how many would have had other bits in rank
/// order.
pub fn fixed_order(way: &Way, group: &mut dyn Group, world: usize) -> (usize, usize) {
    let (mut calls, mut telling) = (0, 0);
    for collective in [Collective::AllReduce, Collective::Reduce, Collective::ReduceScatter] {
        for algorithm in algorithms(way.reach, collective) {
            for (index, dtype) in FLOATS.into_iter().enumerate() {
                let shape = match collective {
                    Collective::ReduceScatter => Shape::Blocks((0..world).map(|r| r * 7 % 19).collect()),
                    _ => Shape::Same(67),
                };
                let call = Call::new(collective, dtype, 0)
                    .shape(shape)
                    .op(ROUGH[index % 3])
                    .root((world - 1) / 2)
                    .placement(Placement::Mixed)
                    .order(Order::Fixed)
                    .algorithm(algorithm);
                let request = call.request(world, 0);
                let can = match algorithm {
                    Some(algorithm) => algorithm.check(&request),
                    None => Table::default().select_within(way.reach, &request).map(drop),
                };
                if let Err(error) = can {
                    assert_eq!(error.kind(), ErrorKind::Unsupported);
                    continue;
                }
                let (jobs, expected) = prepare(&call, world, Draw::Rough, index as u64);
                let (_, in_rank_order) =
                    prepare(&call.clone().order(Order::Default), world, Draw::Rough, index as u64);
                calls += 1;
                telling += usize::from(expected != in_rank_order);
                let done = group.run(jobs.into_iter().map(|job| vec![job]).collect());
                let of_ranks = done.into_iter().enumerate();
                for (rank, (job, result)) in
                    of_ranks.flat_map(|(rank, done)| done.into_iter().map(move |d| (rank, d)))
                {
                    result.unwrap();
                    if let Err(fault) = job.check(&expected[rank]) {
                        panic!("{}: rank {rank} of {world}: {fault} in {call:?}", way.name);
                    }
                }
            }
        }
    }
    (calls, telling)
}
