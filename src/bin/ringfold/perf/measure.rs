//! How time is taken.

use super::case::Case;
use super::operands::Value;
use ringfold::{Collective, Communicator, Options, ReduceOp, Result};
use std::time::{Duration, Instant};

/// How samples are taken.
#[derive(Debug, Clone)]
pub(super) struct Method {
    pub(super) fresh: bool,
    /// A fixed number of operations instead of a time.
    pub(super) iterations: Option<usize>,
    pub(super) seconds: f64,
    pub(super) options: Options,
}

/// What was measured of one size, in one placement.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    /// The median over samples of the slowest rank's time, in microseconds.
    pub(super) microseconds: f64,
    /// Wrong elements, of all ranks.
    pub(super) wrong: u64,
}

const WARM_UPS: usize = 3;
const FEWEST: usize = 7;
const MOST: usize = 4000;
/// Below this size, with fresh operands, a sample is many operations back to back.
const SMALL: usize = 4 << 10;
const BACK_TO_BACK: usize = 200;

/// Measures one case. Every rank calls it alike.
pub(super) fn measure<T: Value>(
    comm: &Communicator,
    method: &Method,
    case: &mut Case<T>,
    bytes: usize,
    in_place: bool,
) -> Result<Measured> {
    let (with, beside) = (comm.with(method.options.clone()), comm.with(staged(comm, Options::new())));
    let mut wrong = check(comm, method, case, in_place, 1)?;
    let back_to_back = if method.fresh && bytes < SMALL { BACK_TO_BACK } else { 1 };
    let mut sample = 2;
    let mut take = |case: &mut Case<T>| -> Result<f64> {
        sample += 1;
        if method.fresh {
            case.fill(in_place, sample);
            comm.barrier()?;
            comm.barrier()?;
        }
        let begin = Instant::now();
        for _ in 0..back_to_back {
            case.run(&with, in_place)?;
        }
        Ok(begin.elapsed().as_secs_f64() * 1e6 / back_to_back as f64)
    };
    let mut warm = f64::MAX;
    for _ in 0..WARM_UPS {
        warm = warm.min(take(case)?);
    }
    let mut times = Vec::new();
    let end = Instant::now() + Duration::from_secs_f64(method.seconds);
    loop {
        // Rank 0 says how many samples come next, off the clock; 0 ends it.
        let next = match method.iterations {
            Some(wanted) => wanted.saturating_sub(times.len()),
            None if times.len() >= MOST || (times.len() >= FEWEST && Instant::now() >= end) => 0,
            None => ((50_000.0 / (warm * back_to_back as f64)) as usize)
                .clamp(FEWEST, 500)
                .min(MOST - times.len()),
        };
        let mut agreed = [next as u64];
        beside.broadcast(&mut agreed, 0)?;
        if agreed[0] == 0 {
            break;
        }
        for _ in 0..agreed[0] {
            times.push(take(case)?);
        }
    }
    // The slowest rank of each sample counts.
    beside.all_reduce(&mut times, ReduceOp::Max)?;
    wrong += check(comm, method, case, in_place, 2)?;
    times.sort_by(f64::total_cmp);
    let middle = times.len() / 2;
    let median = match times.len() {
        0 => 0.0,
        len if len % 2 == 1 => times[middle],
        _ => (times[middle - 1] + times[middle]) / 2.0,
    };
    Ok(Measured { microseconds: median, wrong })
}

/// One operation off the clock, whose result is checked everywhere.
fn check<T: Value>(
    comm: &Communicator,
    method: &Method,
    case: &mut Case<T>,
    in_place: bool,
    sample: usize,
) -> Result<u64> {
    case.spoil_output();
    case.fill(in_place, sample);
    case.run(&comm.with(method.options.clone()), in_place)?;
    let mut wrong = [case.wrong(in_place, sample)];
    comm.with(staged(comm, Options::new())).all_reduce(&mut wrong, ReduceOp::Sum)?;
    Ok(wrong[0])
}

/// Operands are in the host's memory, which a backend of devices reaches by copies.
pub(super) fn staged(comm: &Communicator, options: Options) -> Options {
    if comm.backend() == "nccl" { options.staging(true) } else { options }
}

/// The bytes that cross the busiest link, over the bytes of the message: what makes bandwidths of different
/// collectives comparable. As in nccl-tests.
pub(super) fn bus_factor(collective: Collective, world: usize) -> f64 {
    let n = world as f64;
    match collective {
        Collective::AllReduce => 2.0 * (n - 1.0) / n,
        Collective::ReduceScatter
        | Collective::AllGather
        | Collective::Gather
        | Collective::Scatter
        | Collective::AllToAll => (n - 1.0) / n,
        _ => 1.0,
    }
}
