//! In which order contributions are combined, where that shows: in the last bits of floats.

use crate::algorithms;
use crate::calls::call::{Call, Job, Placement, Shape, prepare};
use crate::calls::group::{Group, WAYS, run_one};
use crate::calls::value::Draw;
use ringfold::plan::select::Table;
use ringfold::{Collective, DType, ErrorKind, Order, ReduceOp};

const FLOATS: [DType; 4] = [DType::F16, DType::BF16, DType::F32, DType::F64];
const ROUGH: [ReduceOp; 3] = [ReduceOp::Sum, ReduceOp::Mean, ReduceOp::Prod];

fn outputs(group: &mut dyn Group, jobs: Vec<Job>) -> Vec<Vec<u8>> {
    let output = |(job, result): (Job, ringfold::Result<()>)| {
        result.unwrap();
        job.output().to_vec()
    };
    run_one(group, jobs).into_iter().map(output).collect()
}

#[test]
fn every_rank_and_every_run_gets_the_same_bits() {
    for way in WAYS {
        for world in [2, 3, 5, 8] {
            let mut groups: Vec<_> = (0..2).map(|_| (way.form)(world)).collect();
            for algorithm in algorithms(way.reach, Collective::AllReduce) {
                for (dtype, op) in FLOATS.into_iter().zip(ROUGH.into_iter().cycle()) {
                    let call = Call::new(Collective::AllReduce, dtype, 203).op(op).algorithm(algorithm);
                    let mut bits = Vec::new();
                    for (group, placement) in
                        [(0, Placement::Out), (1, Placement::Out), (1, Placement::Mixed)]
                    {
                        let call = call.clone().placement(placement);
                        let (jobs, _) = prepare(&call, world, Draw::Rough, 99);
                        bits.extend(outputs(&mut *groups[group], jobs));
                    }
                    let same = bits.iter().all(|other| *other == bits[0]);
                    assert!(same, "{}: the bits of {call:?} differ among {world} ranks", way.name);
                }
            }
        }
    }
}

#[test]
fn fixed_order_is_the_balanced_tree_whatever_the_algorithm() {
    // How many calls there were, and how many would have had other bits in rank order.
    let (mut calls, mut telling) = (0, 0);
    for way in WAYS {
        for world in 1..=8 {
            let mut group = (way.form)(world);
            for collective in [Collective::AllReduce, Collective::Reduce, Collective::ReduceScatter] {
                for algorithm in algorithms(way.reach, collective) {
                    for (index, dtype) in FLOATS.into_iter().enumerate() {
                        let shape = match collective {
                            Collective::ReduceScatter => {
                                Shape::Blocks((0..world).map(|r| r * 7 % 19).collect())
                            }
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
                        for (rank, (job, result)) in run_one(&mut *group, jobs).into_iter().enumerate() {
                            result.unwrap();
                            if let Err(fault) = job.check(&expected[rank]) {
                                panic!("{}: rank {rank} of {world}: {fault} in {call:?}", way.name);
                            }
                        }
                    }
                }
            }
        }
    }
    assert!(telling > calls / 4, "{telling} of {calls} calls can tell the orders apart");
}
