//! Groups of several hosts, each with ranks that share memory: the suite of all backends over them, and what they alone can do.

#[path = "../calls/mod.rs"]
mod calls;

mod groups;
mod told;

use calls::call::{Call, Placement, Shape, prepare};
use calls::group::{DEALT, Group, HOSTS, HOSTS_STARTED, Way, on_hosts, run_one};
use calls::messages;
use calls::suite::{each_algorithm_and_world, fixed_order, run_all};
use calls::value::Draw;
use ringfold::{Check, Collective, DType, Order, ReduceOp};

#[test]
fn every_collective_on_hosts_of_two() {
    each_algorithm_and_world(&HOSTS, &[3, 4, 6], [1021, 4099]);
}

#[test]
fn every_collective_dealt_to_two_hosts() {
    each_algorithm_and_world(&DEALT, &[4, 5], [1021, 4099]);
}

#[test]
fn every_collective_started() {
    each_algorithm_and_world(&HOSTS_STARTED, &[6, 7], [1021, 4099]);
}

/// Hosts of other numbers of ranks, in other orders.
const PLACEMENTS: [fn(usize) -> usize; 4] =
    [|rank| [0, 1, 1, 2, 2, 2][rank], |rank| [2, 2, 0, 1, 0, 2][rank], |rank| rank % 3, |rank| rank / 3];

#[test]
fn messages_of_several_slices_are_right_wherever_ranks_are() {
    // Three slices, of which the last is shorter, and two.
    let lengths = [(9 << 20) / 4 + 1, (5 << 20) / 4 + 7];
    for placement in PLACEMENTS {
        let mut group = on_hosts(6, placement);
        for (seed, len) in lengths.into_iter().enumerate() {
            for collective in
                [Collective::AllReduce, Collective::Reduce, Collective::Broadcast, Collective::AllReduce]
            {
                let call = Call::new(collective, DType::F32, len).op(ReduceOp::Mean).root(seed + 2);
                let call = call.placement([Placement::Out, Placement::Mixed][seed]).check(Check::Auto);
                run_all(&mut group, 6, &[(call, seed as u64)]).unwrap();
            }
        }
    }
}

#[test]
fn messages_between_two_go_the_shortest_way_and_keep_their_order() {
    for way in [&HOSTS, &DEALT] {
        [3, 4].into_iter().for_each(|world| messages::of_every_type(way, world));
        messages::in_order(way);
        messages::among_collectives(way, 5);
        messages::unlike(way);
    }
}

#[test]
fn the_fixed_order_is_that_of_every_backend() {
    let (mut calls, mut telling) = (0, 0);
    type Form = fn(usize) -> Box<dyn Group>;
    let placed: [(&str, Form); 4] = [
        ("hosts of two", |world| Box::new(on_hosts(world, |rank| rank / 2))),
        ("hosts of four", |world| Box::new(on_hosts(world, |rank| rank / 4))),
        ("hosts of three", |world| Box::new(on_hosts(world, |rank| rank / 3))),
        ("dealt", |world| Box::new(on_hosts(world, |rank| rank % 2))),
    ];
    for (name, form) in placed {
        for world in [4, 6, 8] {
            let mut group = form(world);
            let (made, could_tell) = fixed_order(&Way { name, form, ..HOSTS }, &mut *group, world);
            calls += made;
            telling += could_tell;
            // Blocks of one length, and enough bytes for shares, which hosts of two and four take.
            for (collective, len) in [
                (Collective::AllReduce, 90_001),
                (Collective::ReduceScatter, 501),
                (Collective::Reduce, 5000),
            ] {
                for (dtype, op) in [(DType::F32, ReduceOp::Sum), (DType::BF16, ReduceOp::Mean)] {
                    let call = Call::new(collective, dtype, 0).shape(Shape::Same(len)).op(op);
                    let call = call.order(Order::Fixed).placement(Placement::Mixed).root(world / 2);
                    let (jobs, expected) = prepare(&call, world, Draw::Cancelling, 5);
                    for (rank, (job, result)) in run_one(&mut *group, jobs).into_iter().enumerate() {
                        result.unwrap();
                        job.check(&expected[rank])
                            .unwrap_or_else(|fault| panic!("{name}: {fault} in {call:?}"));
                    }
                }
            }
        }
    }
    assert!(telling > calls / 4, "{telling} of {calls} calls can tell the orders apart");
}

#[test]
fn every_rank_has_the_same_bits() {
    for placement in PLACEMENTS {
        let mut group = on_hosts(6, placement);
        for len in [3, 203, 100_003] {
            let call = Call::new(Collective::AllReduce, DType::F32, len);
            let (jobs, _) = prepare(&call, 6, Draw::Rough, 9);
            let outputs: Vec<Vec<u8>> =
                run_one(&mut group, jobs).into_iter().map(|(job, _)| job.output().to_vec()).collect();
            assert!(outputs.iter().all(|output| *output == outputs[0]), "{len}");
        }
    }
}
