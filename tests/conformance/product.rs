//! The full product, nothing sampled: every collective x element type x reduction x size x placement x world size
//! over every backend, by the algorithm that the table chooses.

use crate::calls::call::{Call, Placement};
use crate::calls::group::{SHM, TCP, THREADS, Way};
use crate::{Seeded, run_all};
use ringfold::{Collective, DType, ReduceOp};

fn every_call(way: &Way) {
    for world in 1..=8 {
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

#[test]
fn every_call_over_threads() {
    every_call(&THREADS);
}

#[test]
fn every_call_over_sockets() {
    every_call(&TCP);
}

#[test]
fn every_call_over_shared_memory() {
    every_call(&SHM);
}
