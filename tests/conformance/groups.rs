//! Several groups in one process, used at once and by turns.

use crate::calls::call::{Call, prepare};
use crate::calls::group::{connected, run_one};
use crate::run_all;
use ringfold::config::BackendChoice;
use ringfold::{Collective, Communicator, DType, ReduceOp};

fn form(index: usize, world: usize) -> Vec<Communicator> {
    match index % 4 {
        0 => connected(world, BackendChoice::Tcp),
        1 => connected(world, BackendChoice::Shm),
        _ => Communicator::local(world),
    }
}

#[test]
fn groups_used_at_once_do_not_disturb_each_other() {
    std::thread::scope(|scope| {
        for index in 0..6u64 {
            scope.spawn(move || {
                let world = 2 + index as usize % 3;
                let mut group = form(index as usize, world);
                let calls: Vec<_> = (0..200)
                    .map(|call| {
                        let collective = Collective::ALL[call % Collective::ALL.len()];
                        let dtype = DType::ALL[(call + index as usize) % 12];
                        (Call::new(collective, dtype, call).root(call % world), index * 1000 + call as u64)
                    })
                    .collect();
                run_all(&mut group, world, &calls).unwrap();
            });
        }
    });
}

#[test]
fn a_rank_may_be_in_several_groups_and_take_turns() {
    let world = 3;
    // The ranks of the second group are numbered the other way round.
    let (first, mut second, third) = (form(0, world), form(1, world), form(2, world));
    second.reverse();
    std::thread::scope(|scope| {
        for ((a, b), c) in first.into_iter().zip(second).zip(third) {
            scope.spawn(move || {
                for turn in 0..100u64 {
                    let mut sums = [a.rank() as u64 + turn, b.rank() as u64, c.rank() as u64 * turn];
                    let (one, rest) = sums.split_at_mut(1);
                    let (two, three) = rest.split_at_mut(1);
                    a.all_reduce(one, ReduceOp::Sum).unwrap();
                    if turn % 2 == 0 {
                        c.all_reduce(three, ReduceOp::Max).unwrap();
                        b.broadcast(two, 2).unwrap();
                    } else {
                        b.broadcast(two, 2).unwrap();
                        c.all_reduce(three, ReduceOp::Max).unwrap();
                    }
                    assert_eq!(sums, [3 + 3 * turn, 2, 2 * turn]);
                }
            });
        }
    });
}

#[test]
fn a_communicator_can_go_from_thread_to_thread() {
    let mut group = Communicator::local(3);
    for round in 0..5 {
        // Each run drives every rank by a new thread.
        let call = Call::new(Collective::AllReduce, DType::F32, 100).op(ReduceOp::Sum);
        let (jobs, expected) = prepare(&call, 3, call.draw(), round);
        for ((job, result), expected) in run_one(&mut group, jobs).into_iter().zip(&expected) {
            result.unwrap();
            job.check(expected).unwrap();
        }
    }
}
