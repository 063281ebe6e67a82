//! One suite over every backend: what each collective gives, what it leaves alone, and what it refuses.
//!
//! Results are compared bit for bit with an oracle written from the definitions (`calls/oracle.rs`). A new backend is
//! one line in `calls/group.rs`. Every wait has a deadline, so that a fault is an error and not a hang.

#[path = "../calls/mod.rs"]
mod calls;

mod groups;
mod matrix;
mod messages;
mod mismatch;
mod order;
mod refusals;

use calls::call::{Call, Job, prepare};
use calls::group::Group;
use ringfold::Collective;
use ringfold::plan::Algorithm;

/// How many calls a group makes before their results are looked at.
const BATCH: usize = 48;

/// A call with the seed of its inputs.
type Seeded = (Call, u64);

/// Runs these calls, in this order, on one group; `Err` tells the first wrong results.
fn run_all(group: &mut dyn Group, world: usize, calls: &[Seeded]) -> Result<(), String> {
    for batch in calls.chunks(BATCH) {
        let mut jobs: Vec<Vec<Job>> = vec![Vec::new(); world];
        let mut expected = Vec::new();
        for (call, seed) in batch {
            let (of_ranks, outputs) = prepare(call, world, call.draw(), *seed);
            of_ranks.into_iter().zip(&mut jobs).for_each(|(job, jobs)| jobs.push(job));
            expected.push(outputs);
        }
        let mut faults = Vec::new();
        for (rank, done) in group.run(jobs).iter().enumerate() {
            for (index, (job, result)) in done.iter().enumerate() {
                let fault = match result {
                    Ok(()) => job.check(&expected[index][rank]).err(),
                    Err(error) => Some(error.to_string()),
                };
                faults.extend(fault.map(|fault| (index, format!("rank {rank} of {world}: {fault}"))));
            }
        }
        if let Some((index, fault)) = faults.into_iter().min_by_key(|(index, _)| *index) {
            let (call, seed) = &batch[index];
            return Err(format!("{fault}\nin {call:?}, seed {seed}"));
        }
    }
    Ok(())
}

/// The algorithms for a collective, and the table's choice.
fn algorithms(collective: Collective) -> Vec<Option<Algorithm>> {
    let able = Algorithm::all().filter(|algorithm| algorithm.collectives().contains(&collective));
    std::iter::once(None).chain(able.map(Some)).collect()
}
