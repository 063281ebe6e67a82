//! Ranks that ask for different things, on one host and on several, of which some go by levels and others do not.

use crate::calls::call::{Call, Job, prepare};
use crate::calls::group::{DEALT, HOSTS};
use crate::calls::odd::{ALWAYS, SOON, told_to_all};
use ringfold::{Check, Collective, DType, ErrorKind};
use std::time::Duration;

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
