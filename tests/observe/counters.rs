//! Counters, held to what is known of an exchange.

use crate::support::{self, communicators, on_ranks};
use ringfold::collective::Fingerprint;
use ringfold::{Algorithm, Collective, Communicator, Counters, ErrorKind, Options, ReduceOp};
use std::time::Duration;

const WORLD: usize = 4;
/// Elements: a multiple of the ranks.
const COUNT: usize = 4096;
const RUNS: u64 = 3;

/// Runs this on every rank of a group of threads, of one over shared memory and of one over sockets.
fn everywhere(body: impl Fn(&Communicator, bool) + Sync) {
    for (over_sockets, group) in [
        (false, Communicator::local(WORLD)),
        (false, communicators(WORLD)),
        (true, support::over_sockets(WORLD)),
    ] {
        std::thread::scope(|scope| {
            for comm in group {
                let body = &body;
                scope.spawn(move || body(&comm, over_sockets));
            }
        });
    }
}

#[test]
fn a_ring_sends_what_a_ring_sends() {
    everywhere(|comm, over_sockets| {
        assert!(comm.counters().operations.is_empty());
        let ring = comm.with(Options::new().algorithm(Algorithm::named("ring").unwrap()));
        for _ in 0..RUNS {
            ring.all_reduce(&mut vec![1.0f32; COUNT], ReduceOp::Sum).unwrap();
        }
        let counters = comm.counters();
        // Each element goes around once to be reduced and once to be told of, but for the last step of each.
        let payload = 2 * (WORLD - 1) * (COUNT / WORLD) * size_of::<f32>();
        let bytes = RUNS * (payload + Fingerprint::SIZE) as u64;
        let (next, before) = ((comm.rank() + 1) % WORLD, (comm.rank() + WORLD - 1) % WORLD);
        for (rank, peer) in counters.peers.iter().enumerate() {
            assert_eq!(peer.sent, if rank == next { bytes } else { 0 }, "to {rank}");
            assert_eq!(peer.received, if rank == before { bytes } else { 0 }, "from {rank}");
        }
        assert_eq!((counters.bytes_sent(), counters.bytes_received()), (bytes, bytes));
        assert_eq!((counters.messages_sent, counters.messages_received), (RUNS, RUNS));
        let all_reduce = counters.of(Collective::AllReduce);
        assert_eq!((all_reduce.completed, all_reduce.failed), (RUNS, 0));
        assert_eq!(all_reduce.bytes, RUNS * (COUNT * size_of::<f32>()) as u64);
        assert_eq!((counters.plans_made, counters.plans_found), (1, RUNS - 1));
        // One to the next rank, one from the one before.
        assert_eq!(counters.connections_made, if over_sockets { 2 } else { 0 });
        assert_eq!(counters.connections_lost, 0);
        assert!(counters.scratch_bytes > 0);
        assert!(all_reduce.time > Duration::ZERO && counters.waiting <= all_reduce.time, "{counters:?}");
        assert_eq!(counters.operations.len(), 1);
        assert_eq!(counters.of(Collective::Barrier).completed, 0);
    });
}

#[test]
fn every_way_to_call_is_counted_once() {
    everywhere(|comm, _| {
        comm.all_reduce(&mut [1i32], ReduceOp::Sum).unwrap();
        comm.start_all_reduce(vec![1i32; 10], ReduceOp::Sum).unwrap().wait().unwrap();
        let mut prepared = comm.prepare_all_reduce(vec![1i32; 100], ReduceOp::Sum).unwrap();
        prepared.run().unwrap();
        prepared.start().unwrap();
        prepared.wait().unwrap();
        drop(prepared);
        let refused = comm.broadcast(&mut [0u8], WORLD);
        assert!(refused.is_err());
        let counters = comm.counters();
        assert_eq!(counters.of(Collective::AllReduce).completed, 4);
        assert_eq!(counters.of(Collective::Broadcast).failed, 0, "a call that is refused has not happened");
    });
}

/// Where nobody else is and nothing changes, calls are over with their checks: they are counted, refused and aborted like all others.
#[test]
fn calls_of_a_group_of_one_are_calls() {
    for group in [Communicator::local(1), communicators(1), support::over_sockets(1)] {
        let comm = &group[0];
        for _ in 0..40 {
            let mut data = [3.5f32, -1.0];
            comm.all_reduce(&mut data, ReduceOp::Sum).unwrap();
            comm.all_reduce(&mut data, ReduceOp::Mean).unwrap();
            comm.broadcast(&mut data, 0).unwrap();
            comm.barrier().unwrap();
            let mut copy = [0.0; 2];
            comm.all_reduce_into(&data, &mut copy, ReduceOp::Max).unwrap();
            assert_eq!((data, copy), ([3.5, -1.0], [3.5, -1.0]));
        }
        comm.broadcast(&mut [0u8], 1).unwrap_err();
        // Behind what is under way, too.
        let started = comm.start_all_reduce(vec![1u8; 100], ReduceOp::Sum).unwrap();
        comm.barrier().unwrap();
        assert_eq!(started.wait().unwrap(), [1; 100]);
        let counters = comm.counters();
        for (collective, calls, bytes) in [
            (Collective::AllReduce, 121, 120 * 8 + 100),
            (Collective::Broadcast, 40, 320),
            (Collective::Barrier, 41, 41),
        ] {
            let counted = counters.of(collective);
            assert_eq!((counted.completed, counted.failed, counted.bytes), (calls, 0, bytes), "{collective}");
            assert!(counted.time > Duration::ZERO, "{collective}");
        }
        assert_eq!(counters.plans_made + counters.plans_found, 202);
        comm.abort_handle().abort("enough");
        let failed = [comm.barrier(), comm.broadcast(&mut [1.0f32, 2.0], 0), comm.barrier()];
        for failed in failed {
            assert_eq!(failed.unwrap_err().kind(), ErrorKind::Aborted);
        }
        assert_eq!(comm.counters().of(Collective::Barrier).failed, 2);
    }
}

#[test]
fn a_group_within_counts_for_itself() {
    everywhere(|comm, _| {
        let half = comm.split(Some(comm.rank() as u32 % 2), 0).unwrap().unwrap();
        let before = comm.counters();
        half.barrier().unwrap();
        assert_eq!(half.counters().of(Collective::Barrier).completed, 1);
        assert_eq!(half.counters().peers.len(), WORLD / 2);
        assert_eq!(comm.counters(), before);
    });
}

#[test]
fn what_fails_is_counted_as_failed() {
    let counters: Vec<Counters> = {
        let group = std::sync::Mutex::new(communicators(3).into_iter().map(Some).collect::<Vec<_>>());
        on_ranks(3, |rank| {
            let comm = group.lock().unwrap()[rank].take().unwrap();
            comm.barrier().unwrap();
            let count = if rank == 1 { 9 } else { 8 };
            comm.all_reduce(&mut vec![0.0f64; count], ReduceOp::Sum).unwrap_err();
            comm.barrier().unwrap_err();
            comm.counters()
        })
    };
    for counters in counters {
        let all_reduce = counters.of(Collective::AllReduce);
        assert_eq!((all_reduce.completed, all_reduce.failed, all_reduce.bytes), (0, 1, 0));
        let barrier = counters.of(Collective::Barrier);
        assert_eq!((barrier.completed, barrier.failed), (1, 1));
    }
}
