//! In which order contributions are combined, where that shows: in the last bits of floats.

use crate::algorithms;
use crate::calls::call::{Call, Job, Placement, prepare};
use crate::calls::group::{Group, WAYS, run_one};
use crate::calls::suite::{FLOATS, ROUGH, fixed_order};
use crate::calls::value::Draw;
use ringfold::Collective;

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
            let (made, could_tell) = fixed_order(way, &mut *group, world);
            calls += made;
            telling += could_tell;
        }
    }
    assert!(telling > calls / 4, "{telling} of {calls} calls can tell the orders apart");
}
