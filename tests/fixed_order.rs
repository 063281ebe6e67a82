//! `Order::Fixed`: the bits are those of the balanced tree over rank order, whatever the algorithm, the transport, the size of
//! slices and staging buffers, and the hosts of the ranks.

mod calls;

use calls::call::{Call, Job, Placement, Shape, prepare};
use calls::group::{Done, Group, PlannedRank, SHM, SMALL_TCP, TCP, THREADS, TINY, Way, run_one};
use calls::value::Draw;
use ringfold::backend::{Backend, Progress};
use ringfold::observe::Time;
use ringfold::plan::select::Table;
use ringfold::plan::{Algorithm, Reach, Topology};
use ringfold::transport::sim::{Sim, SimConfig, SimTransport};
use ringfold::{Collective, DType, ErrorKind, Order, ReduceOp};
use std::time::Duration;

const WORLDS: [usize; 10] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 16];
const FLOATS: [DType; 4] = [DType::F32, DType::F64, DType::F16, DType::BF16];
const COLLECTIVES: [Collective; 3] = [Collective::AllReduce, Collective::Reduce, Collective::ReduceScatter];

/// A network in virtual time that cuts messages anywhere; the first rank has a host of its own.
fn simulated(world: usize) -> Box<dyn Group> {
    let config = SimConfig { short_io: true, capacity: 900, ..SimConfig::new(world, world as u64) };
    let sim = Sim::new(SimConfig { max_delay: Duration::from_micros(50), ..config });
    let hosts = Topology::of_hosts((0..world).map(|rank| rank > 0));
    let table = Table { slice_bytes: 160, ..Table::default() };
    let rank = |rank| PlannedRank::new("sim", sim.transport(rank), 64, table.clone()).on(hosts.clone());
    let ranks = (0..world).map(rank).collect();
    Box::new(Simulated { sim, ranks })
}

struct Simulated {
    sim: Sim,
    ranks: Vec<PlannedRank<SimTransport>>,
}

impl Group for Simulated {
    fn run(&mut self, jobs: Vec<Vec<Job>>) -> Vec<Vec<Done>> {
        let mut waiting: Vec<_> = jobs.into_iter().map(Vec::into_iter).collect();
        let mut running: Vec<Option<Job>> = vec![None; self.ranks.len()];
        let mut done: Vec<Vec<Done>> = self.ranks.iter().map(|_| Vec::new()).collect();
        loop {
            let (mut moved, mut over) = (false, true);
            for (rank, member) in self.ranks.iter_mut().enumerate() {
                if running[rank].is_none() {
                    let Some(mut job) = waiting[rank].next() else { continue };
                    member.submit(&mut job).expect("every call here can be made");
                    running[rank] = Some(job);
                }
                over = false;
                match member.backend.progress() {
                    Progress::Advanced => moved = true,
                    Progress::Idle => member.backend.wait(Time::NEVER),
                    Progress::Done(_, result) => {
                        done[rank].push((running[rank].take().expect("it is running"), result));
                        moved = true;
                    }
                }
            }
            if over {
                return done;
            }
            assert!(moved || self.sim.advance(), "all ranks wait for ever");
        }
    }
}

/// The algorithms that make the tree for this call, and the table's choice.
fn able(reach: Reach, call: &Call, world: usize) -> Vec<Option<Algorithm>> {
    let request = call.request(world, 0);
    let able = Algorithm::within(reach).filter(|algorithm| algorithm.check(&request).is_ok());
    std::iter::once(None).chain(able.map(Some)).collect()
}

fn call(collective: Collective, dtype: DType, world: usize) -> Call {
    let shape = match collective {
        Collective::ReduceScatter => Shape::Blocks((0..world).map(|rank| 5 + rank * 29 % 41).collect()),
        _ => Shape::Same(131),
    };
    Call::new(collective, dtype, 0).shape(shape).root(world / 2).order(Order::Fixed)
}

fn every_form_has_the_bits_of_the_tree(Way { name, reach, form, .. }: &Way) {
    // How many calls there were, and how many would have had other bits in rank order.
    let (mut calls, mut telling) = (0, 0);
    for world in WORLDS {
        let mut group = form(world);
        for collective in COLLECTIVES {
            for (seed, dtype) in FLOATS.into_iter().enumerate() {
                let call = call(collective, dtype, world);
                for algorithm in able(*reach, &call, world) {
                    let op = if seed % 2 == 0 { ReduceOp::Sum } else { ReduceOp::Mean };
                    let call = call.clone().op(op).algorithm(algorithm);
                    let call = call.placement([Placement::Out, Placement::Mixed][calls % 2]);
                    let draw =
                        |order| prepare(&call.clone().order(order), world, Draw::Cancelling, seed as u64);
                    let (jobs, expected) = draw(Order::Fixed);
                    calls += 1;
                    telling += usize::from(world > 3 && expected != draw(Order::Default).1);
                    for (rank, (job, result)) in run_one(&mut *group, jobs).into_iter().enumerate() {
                        result.unwrap();
                        if let Err(fault) = job.check(&expected[rank]) {
                            panic!("{name}: rank {rank} of {world}: {fault} in {call:?}");
                        }
                    }
                }
            }
        }
    }
    assert!(telling * 2 > calls, "{telling} of {calls} calls can tell the orders apart");
}

#[test]
fn over_threads() {
    every_form_has_the_bits_of_the_tree(&THREADS);
}

#[test]
fn through_tiny_queues_staging_and_slices_on_three_hosts() {
    every_form_has_the_bits_of_the_tree(&TINY);
}

#[test]
fn over_shared_memory() {
    every_form_has_the_bits_of_the_tree(&SHM);
}

#[test]
fn over_sockets() {
    every_form_has_the_bits_of_the_tree(&TCP);
}

#[test]
fn over_sockets_in_small_portions_on_hosts_of_two() {
    every_form_has_the_bits_of_the_tree(&SMALL_TCP);
}

#[test]
fn over_a_simulated_network_with_one_rank_apart() {
    let way = Way { name: "simulation", reach: Reach::Messages, of_library: false, form: simulated };
    every_form_has_the_bits_of_the_tree(&way);
}

#[test]
fn every_world_size_has_every_reduction_in_fixed_order() {
    for world in 1..=200 {
        for collective in COLLECTIVES {
            let request = call(collective, DType::F32, world).request(world, 0);
            let chosen = Table::default().select(&request).unwrap().algorithm;
            chosen.check(&request).unwrap();
            let halving = Algorithm::named("halving_doubling").unwrap();
            halving.check(&request).unwrap();
        }
    }
}

#[test]
fn algorithms_of_another_order_are_refused() {
    for name in ["ring", "pairwise", "pipeline", "double_binary_tree", "kary_tree", "hierarchical_ring"] {
        let algorithm = Algorithm::named(name).unwrap();
        for collective in COLLECTIVES.into_iter().filter(|c| algorithm.collectives().contains(c)) {
            let request = call(collective, DType::F32, 5).request(5, 0);
            assert_eq!(algorithm.check(&request).unwrap_err().kind(), ErrorKind::Unsupported, "{name}");
        }
    }
}
