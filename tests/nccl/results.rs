//! What comes of every call that NCCL has, held against the oracle.

use super::calls::call::{Call, Placement, prepare};
use super::calls::group::Group;
use super::rank::{Place, ranks};
use super::stand_in::{Age, StandIn};
use super::sweep::{self, run};
use ringfold::{Collective, DType, ErrorKind, Order, ReduceOp};

fn every_call(world: usize, place: Place, portion: usize, age: Age) {
    let stand_in = StandIn::of(age);
    stand_in.set("quiet", 1);
    let mut group = ranks(&stand_in, world, place, portion);
    sweep::every_call(&mut group, place);
    drop(group);
    assert_eq!(stand_in.left(), 0, "something of the driver's is left");
}

#[test]
fn memory_on_devices() {
    for world in [1, 2, 3] {
        every_call(world, Place::OnDevice, 64, Age::New);
    }
}

#[test]
fn memory_of_the_host_in_portions() {
    for world in [1, 2, 4] {
        every_call(world, Place::Host, 48, Age::New);
    }
}

#[test]
fn memory_on_devices_in_portions() {
    every_call(3, Place::StagedOnDevice, 64, Age::New);
}

/// What may be staged may lie anywhere, on each rank.
#[test]
fn memory_of_the_host_and_of_devices_in_one_group() {
    every_call(3, Place::Mixed, 64, Age::New);
}

#[test]
fn a_version_without_an_all_to_all() {
    every_call(3, Place::OnDevice, 64, Age::Middle);
    every_call(3, Place::Host, 64, Age::Middle);
}

/// Portions as they are, of a message that takes several rounds of them.
#[test]
fn a_long_message_of_the_host() {
    let stand_in = StandIn::new();
    let mut group = ranks(&stand_in, 2, Place::Host, ringfold::backend::nccl::PORTION);
    for collective in [Collective::AllReduce, Collective::AllGather, Collective::ReduceScatter] {
        run(&mut group, &Call::new(collective, DType::F32, 1_500_001), 7);
    }
}

#[test]
fn messages_between_two() {
    for place in [Place::Host, Place::OnDevice] {
        let stand_in = StandIn::new();
        let mut group = ranks(&stand_in, 2, place, 64);
        let inputs = |rank: usize| {
            let (to, from) = ((1 - rank, 100 + rank), (1 - rank, 101 - rank));
            Call::message(DType::U16, Some(to), Some(from))
        };
        let jobs = (0..2).map(|rank| {
            let call = inputs(rank);
            let content: Vec<u8> = (0..2 * (100 + rank)).map(|i| (i * 3 + rank) as u8).collect();
            vec![super::calls::call::Job::new(&call, 2, rank, &content)]
        });
        let done = group.run(jobs.collect());
        for (rank, done) in done.into_iter().enumerate() {
            let (job, result) = &done[0];
            result.clone().unwrap();
            let other: Vec<u8> = (0..2 * (101 - rank)).map(|i| (i * 3 + 1 - rank) as u8).collect();
            assert_eq!(job.output(), other, "{place:?}");
        }
    }
}

#[test]
fn what_nccl_does_not_do_is_refused_with_a_remedy_and_the_group_goes_on() {
    let stand_in = StandIn::new();
    for place in [Place::Host, Place::OnDevice] {
        let mut group = ranks(&stand_in, 2, place, 64);
        let sum = |dtype| Call::new(Collective::AllReduce, dtype, 5);
        let mut refused = vec![
            sum(DType::I16),
            sum(DType::U16),
            sum(DType::I32).op(ReduceOp::BitXor),
            sum(DType::F32).order(Order::Fixed),
        ];
        if place == Place::OnDevice {
            refused.push(Call::new(Collective::AllToAll, DType::F32, 5).placement(Placement::In));
        }
        for call in refused {
            let (jobs, _) = prepare(&call, 2, call.draw(), 1);
            for done in group.run(jobs.into_iter().map(|job| vec![job]).collect()) {
                let (job, result) = &done[0];
                let error = result.clone().unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Unsupported, "{call:?}: {error}");
                assert!(error.what_to_do().is_some(), "{error}");
                job.unchanged().unwrap();
            }
        }
        run(&mut group, &sum(DType::F32), 2);
    }
    // One rank has every order.
    let mut alone = ranks(&stand_in, 1, Place::Host, 64);
    run(&mut alone, &Call::new(Collective::AllReduce, DType::F32, 5).order(Order::Fixed), 3);
}
