//! Ranks that ask for different things, on one host and on several, of which some go by levels and others do not.

use crate::calls::call::{Call, Job, prepare};
use crate::calls::group::{DEALT, HOSTS, Way};
use crate::calls::odd::{ALWAYS, FIELDS, Field, SOON, base, check_told_to_all, meet, other};
use crate::calls::suite::algorithms;
use fastrand::Rng;
use ringfold::{Check, Collective, DType, ErrorKind};
use std::time::Duration;

fn told_to_all(way: &Way, collectives: &[Collective], check: Check, worlds: &[usize]) {
    let (mut random, mut cases, mut faults) = (Rng::with_seed(7), 0, Vec::new());
    for &collective in collectives {
        for algorithm in algorithms(way.reach, collective) {
            for &world in worlds {
                for (field, name) in FIELDS {
                    let common =
                        base(collective, field, world, &mut random).algorithm(algorithm).check(check);
                    let Some(odd_call) = other(&common, field, world) else { continue };
                    if field == Field::Check && !ALWAYS.contains(&collective) {
                        continue;
                    }
                    let odd = random.usize(..world);
                    let done = meet(way, world, odd, &common, &odd_call);
                    cases += 1;
                    if let Err(fault) = check_told_to_all(&done, odd, name) {
                        faults.push(format!("{fault}\n  odd rank {odd} of {world}, {field:?}: {common:?}"));
                    }
                }
            }
        }
    }
    let shown = faults.iter().take(5).cloned().collect::<Vec<_>>().join("\n");
    assert!(faults.is_empty(), "{}: {} of {cases} fail:\n{shown}", way.name, faults.len());
    assert!(cases > 10);
}

#[test]
fn reductions_and_barriers_tell_everyone() {
    told_to_all(&HOSTS, &ALWAYS, Check::Normal, &[4]);
    told_to_all(&DEALT, &ALWAYS, Check::Normal, &[3]);
}

#[test]
fn strict_checks_tell_everyone() {
    told_to_all(&HOSTS, &Collective::ALL, Check::Strict, &[3]);
    told_to_all(&DEALT, &Collective::ALL, Check::Strict, &[4]);
}

#[test]
fn one_who_does_not_come_is_named_at_the_deadline() {
    for way in [&HOSTS, &DEALT] {
        for absent in 0..4 {
            let call = Call::new(Collective::AllReduce, DType::F32, 9).deadline(Duration::from_millis(400));
            let mut jobs: Vec<Vec<Job>> = vec![Vec::new(); 4];
            for _ in 0..2 {
                let of_ranks = prepare(&call, 4, call.draw(), 3).0;
                of_ranks.into_iter().zip(&mut jobs).for_each(|(job, jobs)| jobs.push(job));
            }
            jobs[absent].pop();
            for (rank, done) in (way.form)(4).run(jobs).iter().enumerate().filter(|(rank, _)| *rank != absent)
            {
                let error = done[1].1.as_ref().unwrap_err();
                assert_eq!(
                    (error.kind(), error.culprit()),
                    (ErrorKind::Deadline, Some(absent)),
                    "{rank}: {error}"
                );
            }
        }
    }
}

#[test]
fn a_skipped_call_is_a_mismatch() {
    for odd in 0..4 {
        let mut jobs: Vec<Vec<Job>> = vec![Vec::new(); 4];
        for index in 0..6 {
            let collective = [Collective::AllReduce, Collective::AllToAll, Collective::Barrier][index % 3];
            let call = Call::new(collective, DType::F32, 5 + index).deadline(SOON);
            let of_ranks = prepare(&call, 4, call.draw(), index as u64).0;
            of_ranks.into_iter().zip(&mut jobs).for_each(|(job, jobs)| jobs.push(job));
        }
        jobs[odd].remove(odd);
        for (rank, done) in (HOSTS.form)(4).run(jobs).iter().enumerate() {
            let error = done.last().unwrap().1.as_ref().expect_err("nobody gets through");
            assert_eq!(error.kind(), ErrorKind::Mismatch, "odd {odd}, rank {rank}: {error}");
        }
    }
}
