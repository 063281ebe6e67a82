//! The suites of conformance: every process makes all calls, as one rank.

use crate::calls::call::Job;
use crate::calls::call::{Call, prepare};
use crate::calls::group::{Done, Group, Member, TCP, Way, run_one};
use crate::calls::packed::Packing;
use crate::calls::started::Starting;
use crate::calls::suite::{FLOATS, ROUGH, each_algorithm_and_world, every_call, fixed_order, run_all};
use crate::calls::value::Draw;
use crate::calls::{messages as scripts, packed as strided, refusals as wrong};
use crate::failures::fails_soon;
use ringfold::config::BackendChoice;
use ringfold::plan::Reach;
use ringfold::transport::Exchange;
use ringfold::transport::mpi::{Mpi, MpiExchange};
use ringfold::{Collective, Communicator, Config, ErrorKind, Order, ReduceOp};
use std::time::Duration;

pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A group of which this process is one rank; the others' results are with them.
pub(crate) struct Own<M> {
    pub(crate) rank: usize,
    pub(crate) member: M,
}

impl<M: Member> Group for Own<M> {
    fn run(&mut self, jobs: Vec<Vec<Job>>) -> Vec<Vec<Done>> {
        let each = |(rank, jobs): (usize, Vec<Job>)| {
            let mine = if rank == self.rank { jobs } else { Vec::new() };
            mine.into_iter()
                .map(|mut job| {
                    let result = self.member.call(&mut job);
                    (job, result)
                })
                .collect()
        };
        jobs.into_iter().enumerate().map(each).collect()
    }
}

pub(crate) fn form(backend: BackendChoice) -> Communicator {
    let config =
        Config::from_env().unwrap().with_backend(backend).with_heartbeat_deadline(Duration::from_secs(20));
    let comm = Communicator::with_mpi(Mpi::world(LONG).unwrap(), &config).unwrap();
    assert_eq!(comm.backend(), backend.as_str());
    comm
}

fn own(backend: BackendChoice, world: usize) -> Box<dyn Group> {
    let member = form(backend);
    assert_eq!(member.world_size(), world);
    Box::new(Own { rank: member.rank(), member })
}

fn own_started(backend: BackendChoice) -> Box<dyn Group> {
    let comm = form(backend);
    let rank = comm.rank();
    Box::new(Own { rank, member: if blocking() { Starting::alike(comm) } else { Starting::new(comm) } })
}

fn way(backend: BackendChoice) -> Way {
    match backend {
        BackendChoice::Mpi => Way {
            name: "mpi",
            reach: Reach::Messages,
            of_library: true,
            form: |world| own(BackendChoice::Mpi, world),
        },
        _ => Way {
            name: "mpi-p2p",
            reach: Reach::Messages,
            of_library: false,
            form: |world| own(BackendChoice::MpiP2p, world),
        },
    }
}

fn way_started(backend: BackendChoice) -> Way {
    let form: fn(usize) -> Box<dyn Group> = match backend {
        BackendChoice::Mpi => |_| own_started(BackendChoice::Mpi),
        _ => |_| own_started(BackendChoice::MpiP2p),
    };
    Way { name: "started", form, ..way(backend) }
}

/// Whether verbs that block are MPI's blocking collectives, which do not match what another rank has started.
fn blocking() -> bool {
    Config::from_env().unwrap().mpi_blocking
}

pub(crate) fn world() -> usize {
    Mpi::world(LONG).unwrap().size()
}

pub(crate) fn calls(backend: BackendChoice) {
    // The largest goes in several messages of MPI's.
    each_algorithm_and_world(&way(backend), &[world()], [1021, 70_001]);
    every_call(&way(backend), &[world()]);
}

pub(crate) fn started(backend: BackendChoice) {
    each_algorithm_and_world(&way_started(backend), &[world()], [1021, 4099]);
}

pub(crate) fn messages(backend: BackendChoice) {
    let world = world();
    // Who has more messages than others would take other turns.
    let ways = if blocking() { vec![way(backend)] } else { vec![way(backend), way_started(backend)] };
    for way in ways {
        scripts::of_every_type(&way, world);
        if world > 1 {
            scripts::among_collectives(&way, world);
        }
        if world == 3 {
            scripts::in_order(&way);
        }
    }
}

pub(crate) fn packed(backend: BackendChoice) {
    let (comm, world) = (form(backend), world());
    let calls = strided::calls(world);
    let mut group = Own { rank: comm.rank(), member: Packing::new(comm) };
    if let Err(fault) = run_all(&mut group, world, &calls) {
        panic!("{world} ranks: {fault}");
    }
    assert!(group.member.strided > calls.len() / 3);
}

pub(crate) fn refusals(backend: BackendChoice) {
    if world() == wrong::WORLD {
        wrong::refuse(&form(backend));
    }
}

/// Users' reductions, batches and scopes.
pub(crate) fn reductions(backend: BackendChoice) {
    let comm = form(backend);
    let (rank, world) = (comm.rank() as u64, comm.world_size() as u64);
    let all = (0..world).sum::<u64>();
    let largest =
        ReduceOp::custom("largest remainder", true, |a: u64, b: u64| if a % 97 >= b % 97 { a } else { b });
    let mut data: Vec<u64> = (0..1000).map(|i| i * 31 + rank * 17).collect();
    comm.all_reduce(&mut data, &largest).unwrap();
    for (i, value) in data.iter().enumerate() {
        let of_ranks = (0..world).map(|rank| i as u64 * 31 + rank * 17);
        assert_eq!(value % 97, of_ranks.map(|value| value % 97).max().unwrap());
    }
    // Values that are wider than any element, in one tensor and in pieces.
    let sums = ReduceOp::custom_bytes("sums of pairs", 16, true, |a, b, into| {
        for ((a, b), into) in a.chunks(8).zip(b.chunks(8)).zip(into.chunks_mut(8)) {
            let value = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().unwrap());
            into.copy_from_slice(&(value(a) + value(b)).to_ne_bytes());
        }
    })
    .unwrap();
    let pairs = |value: u64, count: usize| value.to_ne_bytes().repeat(2 * count);
    let mut data = pairs(rank, 2049);
    comm.all_reduce(&mut data, &sums).unwrap();
    assert_eq!(data, pairs(all, 2049));
    let mut block = pairs(0, 3);
    comm.reduce_scatter(&pairs(rank, 3 * world as usize), &mut block, &sums).unwrap();
    assert_eq!(block, pairs(all, 3));
    let (mut a, mut b, mut c) = (vec![rank; 10], vec![rank as f32; 3], vec![rank; 7]);
    comm.scope(|scope| {
        scope.all_reduce(&mut a[..], ReduceOp::Sum);
        scope.all_reduce(&mut b[..], ReduceOp::Max);
        scope.all_reduce(&mut c[..], ReduceOp::Sum);
    })
    .unwrap();
    assert_eq!((a, b, c), (vec![all; 10], vec![(world - 1) as f32; 3], vec![all; 7]));
    let many =
        comm.start_all_reduce_batch(vec![vec![rank; 5], vec![], vec![rank; 9000]], ReduceOp::Sum).unwrap();
    assert_eq!(many.wait().unwrap(), [vec![all; 5], vec![], vec![all; 9000]]);
    let mut step = comm.prepare_all_reduce(vec![0.0f32; 5000], ReduceOp::Mean).unwrap();
    for round in 0..20 {
        step.buffer_mut().unwrap().fill((rank + round) as f32);
        if round % 2 == 0 {
            step.run().unwrap()
        } else {
            step.start().and_then(|()| step.wait()).unwrap()
        }
        let mean = round as f32 + all as f32 / world as f32;
        assert_eq!(step.buffer().unwrap()[4999], mean);
    }
}

/// A user's function that panics.
pub(crate) fn panics(backend: BackendChoice) {
    let comm = form(backend);
    // Which ranks combine anything is MPI's affair; each of them panics.
    let angry = ReduceOp::custom("angry", true, |_: u64, _: u64| -> u64 { panic!("on purpose") });
    // Who needs nothing of it may be through before it is known.
    let error = comm.all_reduce(&mut [1u64; 3], &angry).err().unwrap_or_else(|| fails_soon(&comm));
    assert_eq!(error.kind(), ErrorKind::UserPanic, "{error}");
    assert!(error.culprit().is_some() && error.to_string().contains("on purpose"), "{error}");
}

/// The tree of the oracle, and the same bits as over TCP.
pub(crate) fn order() {
    let mpi = Mpi::world(LONG).unwrap();
    let world = mpi.size();
    let (made, telling) = fixed_order_here(world);
    assert!(
        made > 10 && (world < 4 || telling > made / 4),
        "{telling} of {made} calls can tell the orders apart"
    );
    let mut over_tcp = (TCP.form)(world);
    let member = form(BackendChoice::MpiP2p);
    let mut by_mpi = Own { rank: member.rank(), member };
    for (dtype, op) in FLOATS.into_iter().zip(ROUGH.into_iter().cycle()) {
        let call = Call::new(Collective::AllReduce, dtype, 5003).op(op).order(Order::Fixed);
        let jobs = || prepare(&call, world, Draw::Rough, 7).0;
        let expected: Vec<_> = run_one(&mut *over_tcp, jobs()).into_iter().map(|(job, _)| job).collect();
        let done = by_mpi.run(jobs().into_iter().map(|job| vec![job]).collect());
        let (job, result) = &done[mpi.rank()][0];
        result.clone().unwrap();
        assert_eq!(job.output(), expected[mpi.rank()].output(), "{call:?}");
    }
    drop(by_mpi);
    MpiExchange::over(mpi).all_gather(&[], LONG).unwrap();
}

fn fixed_order_here(world: usize) -> (usize, usize) {
    let way = way(BackendChoice::MpiP2p);
    let mut group = (way.form)(world);
    fixed_order(&way, &mut *group, world)
}
