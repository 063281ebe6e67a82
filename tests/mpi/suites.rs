//! The suites of conformance: every process makes all calls, as one rank.

use crate::calls::call::Job;
use crate::calls::call::{Call, prepare};
use crate::calls::group::{Done, Group, Member, TCP, Way, run_one};
use crate::calls::suite::{FLOATS, ROUGH, each_algorithm_and_world, every_call, fixed_order};
use crate::calls::value::Draw;
use ringfold::config::BackendChoice;
use ringfold::plan::Reach;
use ringfold::transport::Exchange;
use ringfold::transport::mpi::{Mpi, MpiExchange};
use ringfold::{Collective, Communicator, Config, Order};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);

/// A group of which this process is one rank; the others' results are with them.
struct Own(Communicator);

impl Group for Own {
    fn run(&mut self, jobs: Vec<Vec<Job>>) -> Vec<Vec<Done>> {
        let own = self.0.rank();
        let each = |(rank, jobs): (usize, Vec<Job>)| {
            let mine = if rank == own { jobs } else { Vec::new() };
            mine.into_iter()
                .map(|mut job| {
                    let result = Member::call(&mut self.0, &mut job);
                    (job, result)
                })
                .collect()
        };
        jobs.into_iter().enumerate().map(each).collect()
    }
}

fn form(backend: BackendChoice) -> Communicator {
    let config =
        Config::from_env().unwrap().with_backend(backend).with_heartbeat_deadline(Duration::from_secs(20));
    Communicator::with_mpi(Mpi::world(LONG).unwrap(), &config).unwrap()
}

const MPI: Way = Way {
    name: "mpi-p2p",
    reach: Reach::Messages,
    form: |world| {
        let comm = form(BackendChoice::MpiP2p);
        assert_eq!((comm.backend(), comm.world_size()), ("mpi-p2p", world));
        Box::new(Own(comm))
    },
};

pub(crate) fn calls() {
    let world = Mpi::world(LONG).unwrap().size();
    // The largest goes in several messages of MPI's.
    each_algorithm_and_world(&MPI, &[world], [1021, 70_001]);
    every_call(&MPI, &[world]);
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
    let mut by_mpi = Own(form(BackendChoice::MpiP2p));
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
    let mut group = (MPI.form)(world);
    fixed_order(&MPI, &mut *group, world)
}
