//! What ringfold costs over MPI: an all_reduce of f32 by the MPI library itself, blocking and not, and by ringfold's backends `mpi` (with
//! borrowed memory copied, direct, with memory of the operation's own, and by blocking calls) and `mpi-p2p`, in alternation.
//!
//! `bash benches/mpi.sh` builds it with Open MPI and with MPICH and runs it under their `mpirun`s with two ranks. By hand:
//! `mpirun -n 2 target/.../mpi-... [SMALLEST [LARGEST [FACTOR [SAMPLES]]]] [WAY...]`, sizes in bytes, ways by their names in the table, of
//! which `blocking` is always one. In every sample the slowest rank counts. The ways take turns, in an order that is drawn for one round and
//! turned round for the next, so that each comes as often before another as after it. The table has the median of the samples; in brackets the
//! median of what a sample adds to the library's blocking call of the same round, and where that median is with a probability of 95 %.

use mpi_sys as raw;
use ringfold::config::BackendChoice;
use ringfold::transport::mpi::{Mpi, version};
use ringfold::{Communicator, Config, ReduceOp};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Samples of each way and size, where nobody asks for more.
const SAMPLES: usize = 32;

/// How long one sample takes, about.
const SAMPLE: f64 = 4e-3;

const WAYS: [&str; 7] = ["blocking", "started", "mpi", "mpi direct", "mpi owned", "mpi blocking", "mpi-p2p"];

struct Ways {
    copied: Communicator,
    direct: Communicator,
    blocking: Communicator,
    between_two: Communicator,
}

/// One operation of a way.
fn one(ways: &Ways, way: usize, data: &mut [f32], into: &mut [f32]) {
    let count = data.len() as i32;
    match way {
        // SAFETY: both are of one length and apart, and nobody touches them until the call is over.
        0 => unsafe {
            raw::MPI_Allreduce(
                data.as_ptr().cast(),
                into.as_mut_ptr().cast(),
                count,
                raw::RSMPI_FLOAT,
                raw::RSMPI_SUM,
                raw::RSMPI_COMM_WORLD,
            );
        },
        // SAFETY: as above.
        1 => unsafe {
            let (mut request, mut done) = (raw::RSMPI_REQUEST_NULL, 0);
            raw::MPI_Iallreduce(
                data.as_ptr().cast(),
                into.as_mut_ptr().cast(),
                count,
                raw::RSMPI_FLOAT,
                raw::RSMPI_SUM,
                raw::RSMPI_COMM_WORLD,
                &mut request,
            );
            while done == 0 {
                raw::MPI_Test(&mut request, &mut done, raw::RSMPI_STATUS_IGNORE);
            }
        },
        2 => ways.copied.all_reduce_into(data, into, ReduceOp::Sum).unwrap(),
        3 => ways.direct.all_reduce_into(data, into, ReduceOp::Sum).unwrap(),
        5 => ways.blocking.all_reduce_into(data, into, ReduceOp::Sum).unwrap(),
        _ => ways.between_two.all_reduce_into(data, into, ReduceOp::Sum).unwrap(),
    }
    black_box(into);
}

fn barrier() {
    // SAFETY: MPI runs.
    unsafe { raw::MPI_Barrier(raw::RSMPI_COMM_WORLD) };
}

/// The time of one operation, in seconds, of so many in a row.
fn sample(ways: &Ways, way: usize, times: usize, data: &mut [f32], into: &mut [f32]) -> f64 {
    if way == 4 {
        // Prepared, with buffers of its own.
        let mut step = ways.copied.prepare_all_reduce((data.to_vec(), into.to_vec()), ReduceOp::Sum).unwrap();
        step.run().unwrap();
        barrier();
        let begin = Instant::now();
        (0..times).for_each(|_| step.run().unwrap());
        return begin.elapsed().as_secs_f64() / times as f64;
    }
    one(ways, way, data, into);
    barrier();
    let begin = Instant::now();
    (0..times).for_each(|_| one(ways, way, data, into));
    begin.elapsed().as_secs_f64() / times as f64
}

/// The middle of what is sorted, and the two values between which the middle of all is that these are drawn from, with a probability of 95 %.
fn middle(sorted: &[f64]) -> (f64, f64, f64) {
    let (half, away) = (sorted.len() as f64 / 2.0, 0.98 * (sorted.len() as f64).sqrt());
    let at = |place: f64| sorted[(place.max(0.0) as usize).min(sorted.len() - 1)];
    (at(half), at(half - away), at(half + away))
}

/// The samples of the ways that are asked for, round by round, of the slowest rank.
fn measure(ways: &Ways, asked: &[usize], samples: usize, bytes: usize) -> Vec<Vec<f64>> {
    let (mut data, mut into) = (vec![1.0f32; bytes / 4], vec![0.0f32; bytes / 4]);
    let once = asked.iter().map(|&way| sample(ways, way, 3, &mut data, &mut into)).fold(0.0, f64::max);
    let mut times = [((SAMPLE / once) as u64).clamp(3, 2000)];
    ways.copied.broadcast(&mut times, 0).unwrap();
    // The same order on every rank: what one way leaves in the caches is not always the same other's.
    let mut order: Vec<usize> = (0..asked.len()).collect();
    let mut random = fastrand::Rng::with_seed(bytes as u64);
    let mut taken = vec![Vec::new(); asked.len()];
    for round in 0..samples {
        match round % 2 {
            0 => random.shuffle(&mut order),
            _ => order.reverse(),
        }
        for &place in &order {
            taken[place].push(sample(ways, asked[place], times[0] as usize, &mut data, &mut into));
        }
    }
    taken.iter_mut().for_each(|times| ways.copied.all_reduce(times, ReduceOp::Max).unwrap());
    taken
}

fn main() {
    let long = Duration::from_secs(60);
    let config = Config::from_env().unwrap().with_backend(BackendChoice::Mpi);
    let words: Vec<String> = std::env::args().skip(1).collect();
    let mut numbers = words.iter().filter_map(|word| word.parse::<usize>().ok());
    let (smallest, largest) = (numbers.next().unwrap_or(8), numbers.next().unwrap_or(16 << 20));
    let factor = numbers.next().unwrap_or(8).max(2);
    let samples = numbers.next().unwrap_or(SAMPLES).max(2);
    let named: Vec<usize> =
        (1..WAYS.len()).filter(|&way| words.iter().any(|word| word == WAYS[way])).collect();
    let asked: Vec<usize> =
        if named.is_empty() { (0..WAYS.len()).collect() } else { std::iter::once(0).chain(named).collect() };
    let mpi = Mpi::world(long).unwrap();
    if mpi.size() < 2 {
        println!("nothing to measure with one rank: start it by mpirun -n 2");
        return;
    }
    let ways = Ways {
        copied: Communicator::with_mpi(mpi, &config).unwrap(),
        direct: Communicator::with_mpi(mpi, &config.clone().with_mpi_direct(true)).unwrap(),
        blocking: Communicator::with_mpi(mpi, &config.clone().with_mpi_blocking(true)).unwrap(),
        between_two: Communicator::with_mpi(mpi, &config.with_backend(BackendChoice::MpiP2p)).unwrap(),
    };
    let rank = ways.copied.rank();
    if rank == 0 {
        println!("{}, {} ranks, {samples} samples; microseconds\n", version(), mpi.size());
        let names: Vec<&str> = asked.iter().map(|&way| WAYS[way]).collect();
        println!("| bytes | {} |\n|---:|{}", names.join(" | "), "---:|".repeat(names.len()));
    }
    let mut bytes = smallest;
    while bytes <= largest {
        let taken = measure(&ways, &asked, samples, bytes);
        let cell = |times: &Vec<f64>| {
            let micros = |mut times: Vec<f64>| {
                times.sort_by(f64::total_cmp);
                let (median, low, high) = middle(&times);
                (median * 1e6, low * 1e6, high * 1e6)
            };
            let (median, ..) = micros(times.clone());
            let added = times.iter().zip(&taken[0]).map(|(time, of_mpi)| time - of_mpi);
            let (added, low, high) = micros(added.collect());
            format!("{median:.2} ({added:+.2}, {low:+.2} to {high:+.2})")
        };
        if rank == 0 {
            let cells: Vec<String> = taken.iter().map(cell).collect();
            println!("| {bytes} | {} |", cells.join(" | "));
        }
        bytes *= factor;
    }
}
