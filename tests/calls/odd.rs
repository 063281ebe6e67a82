//! Ranks of which one asks for something else.

use super::call::{Call, Job, Placement, Shape, prepare};
use super::group::{Done, Way};
use super::suite::algorithms;
use fastrand::Rng;
use ringfold::plan::{Algorithm, Reach};
use ringfold::{Check, Collective, DType, Error, ErrorKind, Order, ReduceOp};
use std::time::Duration;

/// Long against the time in which a mismatch is told, even on a machine under load.
pub const SOON: Duration = Duration::from_secs(10);

/// What one rank can say otherwise, and how the error calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    Count,
    Counts,
    DType,
    Op,
    Root,
    Collective,
    Algorithm,
    Check,
    Order,
}

pub const FIELDS: [(Field, &str); 9] = [
    (Field::Count, "count differs"),
    (Field::Counts, "list of counts (hash) differs"),
    (Field::DType, "element type differs"),
    (Field::Op, "reduction differs"),
    (Field::Root, "root differs"),
    (Field::Collective, "collective differs"),
    (Field::Algorithm, "algorithm (number) differs"),
    (Field::Check, "check differs"),
    (Field::Order, "order differs"),
];

/// The collectives in which a mismatch is told to everyone before anything changes, whatever the check.
pub const ALWAYS: [Collective; 3] = [Collective::AllReduce, Collective::ReduceScatter, Collective::Barrier];

/// The same call but for one field; `None` where it has no such field.
pub fn other(call: &Call, field: Field, world: usize) -> Option<Call> {
    let mut other = call.clone();
    let barrier = call.collective == Collective::Barrier;
    match field {
        Field::Count if !barrier => match &mut other.shape {
            Shape::Same(count) => *count += 1,
            _ => return None,
        },
        Field::Counts => match &mut other.shape {
            Shape::Blocks(counts) => counts.swap(0, 1),
            _ => return None,
        },
        Field::DType if !barrier => other.dtype = DType::I32,
        Field::Op if call.collective.reduces() && !barrier => other.op = ReduceOp::Max,
        Field::Root if call.collective.is_rooted() => other.root = (call.root + 1) % world,
        Field::Collective => {
            let place = ALWAYS.iter().position(|collective| *collective == call.collective);
            let collective = match place {
                Some(place) => ALWAYS[(place + 1) % 3],
                None if call.collective == Collective::Gather => Collective::Scatter,
                None => Collective::Gather,
            };
            other = Call { collective, algorithm: None, ..Call::new(collective, call.dtype, 37) };
            (other.check, other.placement, other.deadline) = (call.check, call.placement, call.deadline);
        }
        Field::Algorithm => {
            let able = |algorithm: &Algorithm| algorithm.collectives().contains(&call.collective);
            let mut others =
                Algorithm::within(Reach::Messages).filter(able).filter(|a| Some(*a) != call.algorithm);
            call.algorithm?;
            other.algorithm = Some(others.next()?);
        }
        Field::Check => {
            other.check = if call.check == Check::Strict { Check::Normal } else { Check::Strict };
        }
        Field::Order if call.collective.reduces() && !barrier => {
            other.order = Order::Fixed;
            let request = other.request(world, 0);
            if call.algorithm.is_none_or(|algorithm| algorithm.check(&request).is_err()) {
                return None;
            }
        }
        _ => return None,
    }
    Some(other)
}

/// The call that all but one rank make.
pub fn base(collective: Collective, field: Field, world: usize, random: &mut Rng) -> Call {
    let shape = match field {
        Field::Counts if collective.has_blocks() => {
            Shape::Blocks((0..world).map(|rank| 3 + 5 * rank).collect())
        }
        _ => Shape::Same(37),
    };
    let call = Call::new(collective, DType::F32, 0);
    let shape = if collective == Collective::Barrier { call.shape.clone() } else { shape };
    call.shape(shape)
        .root(random.usize(..world))
        .placement([Placement::Out, Placement::In, Placement::Mixed][random.usize(..3)])
        .deadline(SOON)
}

/// One rank makes another call than the others, then all meet in a barrier; what came of it.
pub fn meet(way: &Way, world: usize, odd: usize, common: &Call, odd_call: &Call) -> Vec<Vec<Done>> {
    let barrier = Call::new(Collective::Barrier, DType::U8, 1).deadline(common.deadline);
    let jobs_of = |call: &Call| prepare(call, world, call.draw(), 1).0;
    let (mut jobs, mut odd_jobs, after) = (jobs_of(common), jobs_of(odd_call), jobs_of(&barrier));
    jobs[odd] = odd_jobs.swap_remove(odd);
    let both: Vec<Vec<Job>> = jobs.into_iter().zip(after).map(|(job, after)| vec![job, after]).collect();
    (way.form)(world).run(both)
}

/// Every rank has the same mismatch, which names the field and the odd rank, and unchanged memory.
pub fn check_told_to_all(done: &[Vec<Done>], odd: usize, name: &str) -> Result<(), String> {
    let first = done[0][0].1.clone().err().ok_or("rank 0 succeeds")?;
    for (rank, done) in done.iter().enumerate() {
        for (job, result) in done {
            let error = result.clone().err().ok_or(format!("rank {rank} succeeds"))?;
            let told = |error: &Error| (error.kind(), error.culprit(), error.message().to_owned());
            if told(&error) != told(&first) {
                return Err(format!("rank {rank} is told {error}, rank 0 {first}"));
            }
            job.unchanged().map_err(|fault| format!("rank {rank}: {fault}, {error}"))?;
        }
    }
    let names_odd = first.message().contains(&format!("on rank {odd}"));
    if first.kind() != ErrorKind::Mismatch || !first.message().starts_with(name) || !names_odd {
        return Err(format!("{first}, which does not name {name:?} and rank {odd}"));
    }
    Ok(())
}

/// One rank asks for something else, in each field and by each algorithm: everybody is told what differs.
pub fn told_to_all(way: &Way, collectives: &[Collective], check: Check, worlds: &[usize]) {
    let mut random = Rng::with_seed(7);
    let (mut cases, mut faults) = (0, Vec::new());
    for &collective in collectives {
        for algorithm in algorithms(way.reach, collective) {
            for &world in worlds {
                for (field, name) in FIELDS {
                    let common =
                        base(collective, field, world, &mut random).algorithm(algorithm).check(check);
                    let Some(odd_call) = other(&common, field, world) else { continue };
                    // A rank that leaves out the strict round may be through before anyone can know.
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
