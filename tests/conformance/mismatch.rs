//! Ranks that ask for different things: everyone is told who differs in what, nobody hangs, and where it is promised
//! nobody's memory changes.

use crate::algorithms;
use crate::calls::call::{Call, Job, Shape, prepare};
use crate::calls::group::{PlannedRank, SHM, TCP, THREADS, TINY, Way, run_one};
use crate::calls::odd::{ALWAYS, FIELDS, Field, SOON, base, meet, other, told_to_all};
use fastrand::Rng;
use ringfold::plan::select::Table;
use ringfold::plan::{Reach, Topology};
use ringfold::transport::Transport;
use ringfold::transport::channel::{ChannelTransport, channel_with};
use ringfold::{Check, Collective, DType, ErrorKind};
use std::time::Duration;

/// Where nobody may be left to tell, since everybody waits for somebody else.
const IN_A_CIRCLE: Duration = Duration::from_millis(500);

#[test]
fn reductions_and_barriers_tell_everyone_over_threads() {
    told_to_all(&THREADS, &ALWAYS, Check::Normal, &[2, 3, 4, 5, 8]);
}

#[test]
fn reductions_and_barriers_tell_everyone_through_tiny_queues() {
    told_to_all(&TINY, &ALWAYS, Check::Normal, &[2, 3, 6, 7]);
}

#[test]
fn reductions_and_barriers_tell_everyone_over_shared_memory() {
    told_to_all(&SHM, &ALWAYS, Check::Normal, &[2, 3, 5]);
}

#[test]
fn reductions_and_barriers_tell_everyone_over_sockets() {
    told_to_all(&TCP, &ALWAYS, Check::Normal, &[3, 4]);
}

#[test]
fn strict_checks_tell_everyone_over_threads() {
    told_to_all(&THREADS, &Collective::ALL, Check::Strict, &[2, 5]);
}

#[test]
fn strict_checks_tell_everyone_over_shared_memory() {
    told_to_all(&SHM, &Collective::ALL, Check::Strict, &[2, 3]);
}

#[test]
fn strict_checks_tell_everyone_over_sockets() {
    told_to_all(&TCP, &Collective::ALL, Check::Strict, &[3]);
}

/// Without strict checks a rank may be through its part before another notices. It learns of it at its next call.
///
/// Ranks that disagree on the root, or on the collective, may all wait for each other without a byte having been sent:
/// then the deadline ends it.
fn told_at_the_next_call(way: &Way, worlds: &[usize], collective: Collective) {
    let mut random = Rng::with_seed(8 + collective as u64);
    for algorithm in algorithms(way.reach, collective) {
        for &world in worlds {
            for (field, _) in FIELDS {
                let common = base(collective, field, world, &mut random).algorithm(algorithm);
                let circle =
                    matches!(field, Field::Root | Field::Collective) && !ALWAYS.contains(&collective);
                // Where it need not come to the deadline, that only detects a hang.
                let ends_by_deadline = circle && way.reach == Reach::Messages;
                let common = common.deadline(if ends_by_deadline { IN_A_CIRCLE } else { SOON });
                let Some(odd_call) = other(&common, field, world) else { continue };
                let odd = random.usize(..world);
                let done = meet(way, world, odd, &common, &odd_call);
                for (rank, done) in done.iter().enumerate() {
                    let last = done[1].1.as_ref().err();
                    let as_expected = last.is_some_and(|error| match error.kind() {
                        ErrorKind::Mismatch => true,
                        ErrorKind::Deadline => ends_by_deadline,
                        _ => false,
                    });
                    assert!(
                        as_expected,
                        "{}: rank {rank} is told {last:?}; odd rank {odd} of {world}, {field:?}: {common:?}",
                        way.name
                    );
                }
            }
        }
    }
}

#[test]
fn without_strict_checks_everyone_is_told_at_the_next_call() {
    std::thread::scope(|scope| {
        for collective in Collective::ALL {
            scope.spawn(move || told_at_the_next_call(&THREADS, &[2, 3, 6], collective));
        }
    });
}

#[test]
fn without_strict_checks_everyone_is_told_at_the_next_call_over_shared_memory() {
    std::thread::scope(|scope| {
        for collective in Collective::ALL {
            scope.spawn(move || told_at_the_next_call(&SHM, &[2, 3], collective));
        }
    });
}

#[test]
fn without_strict_checks_everyone_is_told_at_the_next_call_over_sockets() {
    std::thread::scope(|scope| {
        for collective in Collective::ALL {
            scope.spawn(move || told_at_the_next_call(&TCP, &[3], collective));
        }
    });
}

#[test]
fn counts_between_a_pair_are_compared_by_the_pair() {
    for way in [&THREADS, &TINY, &SHM, &TCP] {
        for algorithm in algorithms(way.reach, Collective::AllToAll) {
            for (check, count) in [(Check::Normal, 2), (Check::Strict, 2), (Check::Normal, 0)] {
                let (world, odd) = (4, 2);
                let counts = |more: usize| {
                    let mut counts = vec![vec![count; world]; world];
                    counts[odd][1] += more;
                    Shape::Pairs(counts)
                };
                let common = Call::new(Collective::AllToAll, DType::I16, 0).algorithm(algorithm).check(check);
                let common = common.deadline(SOON).shape(counts(0));
                // Some need blocks of one length.
                let request = common.request(world, 0);
                if algorithm.is_some_and(|algorithm| algorithm.check(&request).is_err()) {
                    continue;
                }
                let done = meet(way, world, odd, &common, &common.clone().shape(counts(1)));
                for (rank, done) in done.iter().enumerate() {
                    let error = done[1].1.as_ref().expect_err("everybody is told at the next call");
                    assert_eq!(error.kind(), ErrorKind::Mismatch, "{}: rank {rank}: {error}", way.name);
                }
                let error = done[1][0].1.as_ref().expect_err("who receives too much notices");
                let text = error.message();
                let (here, there) = (count, count + 1);
                let told = format!("count between the pair differs: {here} on rank 1, {there} on rank 2");
                assert!(text.starts_with(&told), "{text}");
            }
        }
    }
}

/// One rank leaves out a call. No rank may get a wrong result for it, and none may hang.
#[test]
fn a_skipped_call_is_a_mismatch() {
    for way in [&THREADS, &TINY, &SHM, &TCP] {
        for (world, odd, skipped) in [(2, 1, 0), (3, 0, 2), (4, 3, 3), (5, 2, 4)] {
            let mut jobs: Vec<Vec<Job>> = vec![Vec::new(); world];
            let mut expected = Vec::new();
            for index in 0..6 {
                let collective =
                    [Collective::AllReduce, Collective::AllGather, Collective::Barrier][index % 3];
                let call = Call::new(collective, DType::F32, 5 + index).deadline(SOON);
                let (of_ranks, outputs) = prepare(&call, world, call.draw(), index as u64);
                of_ranks.into_iter().zip(&mut jobs).for_each(|(job, jobs)| jobs.push(job));
                expected.push(outputs);
            }
            jobs[odd].remove(skipped);
            for (rank, done) in (way.form)(world).run(jobs).iter().enumerate() {
                for (index, (job, result)) in done.iter().enumerate() {
                    let call = index + usize::from(rank == odd && index >= skipped);
                    match result {
                        Ok(()) => job.check(&expected[call][rank]).unwrap(),
                        Err(error) => assert_eq!(error.kind(), ErrorKind::Mismatch, "{}: {error}", way.name),
                    }
                    assert!(result.is_ok() || call >= skipped, "{}", way.name);
                }
                assert!(done.last().is_some_and(|(_, result)| result.is_err()), "{}: rank {rank}", way.name);
            }
        }
    }
}

/// Where all calls are alike nothing tells that one was left out, until the last, which one rank does not make.
#[test]
fn the_last_call_that_a_rank_does_not_make_passes_its_deadline() {
    for way in [&THREADS, &TINY, &SHM, &TCP] {
        let world = 3;
        let call = Call::new(Collective::AllReduce, DType::F32, 9).deadline(Duration::from_millis(300));
        let mut jobs: Vec<Vec<Job>> = vec![Vec::new(); world];
        for _ in 0..4 {
            let of_ranks = prepare(&call, world, call.draw(), 3).0;
            of_ranks.into_iter().zip(&mut jobs).for_each(|(job, jobs)| jobs.push(job));
        }
        jobs[1].pop();
        for (rank, done) in (way.form)(world).run(jobs).iter().enumerate() {
            let (_, last) = done.last().expect("there are calls");
            match last {
                Ok(()) => assert_eq!(rank, 1, "{}", way.name),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Deadline, "{}: {error}", way.name);
                    assert_eq!(error.culprit(), Some(1), "{}: {error}", way.name);
                }
            }
        }
    }
}

/// Ranks that plan for other hosts would plan other messages.
#[test]
fn another_topology_is_a_mismatch() {
    let ends = channel_with(3, 1 << 10).into_iter();
    let hosts = |rank| Topology::of_hosts(if rank == 1 { [0, 0, 1] } else { [0, 1, 0] });
    let rank = |end: ChannelTransport| {
        let hosts = hosts(end.rank());
        PlannedRank::new("channel", end, 1 << 10, Table::default()).on(hosts)
    };
    let mut group: Vec<_> = ends.map(rank).collect();
    let call = Call::new(Collective::AllReduce, DType::F32, 50).deadline(SOON);
    for (job, result) in run_one(&mut group, prepare(&call, 3, call.draw(), 1).0) {
        let error = result.expect_err("the ranks differ");
        assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
        assert!(error.message().contains("topology"), "{error}");
        job.unchanged().unwrap();
    }
}
