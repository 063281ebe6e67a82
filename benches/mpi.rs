//! What ringfold costs over MPI: an all_reduce of f32 by the MPI library itself, blocking and not, and by ringfold's backends `mpi` (with
//! borrowed memory copied, direct, with memory of the operation's own, and by blocking calls) and `mpi-p2p`, in alternation.
//!
//! `bash benches/mpi.sh` builds it with Open MPI and with MPICH and runs it under their `mpirun`s with two ranks. By hand:
//! `mpirun -n 2 target/.../mpi-... [SMALLEST [LARGEST [FACTOR]]]`, sizes in bytes. In every sample the slowest rank counts; the table has
//! the median and the quickest sample, with what each adds to that of the library's blocking call.

use mpi_sys as raw;
use ringfold::config::BackendChoice;
use ringfold::transport::mpi::{Mpi, version};
use ringfold::{Communicator, Config, ReduceOp};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Samples of each way and size.
const SAMPLES: usize = 31;

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

fn main() {
    let long = Duration::from_secs(60);
    let config = Config::from_env().unwrap().with_backend(BackendChoice::Mpi);
    let mut sizes = std::env::args().skip(1).filter_map(|word| word.parse::<usize>().ok());
    let (smallest, largest) = (sizes.next().unwrap_or(8), sizes.next().unwrap_or(16 << 20));
    let factor = sizes.next().unwrap_or(8).max(2);
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
        println!(
            "{}, {} ranks; microseconds: median / quickest (added to the blocking call)\n",
            version(),
            mpi.size()
        );
        println!("| bytes | {} |\n|---:|{}", WAYS.join(" | "), "---:|".repeat(WAYS.len()));
    }
    let mut bytes = smallest;
    while bytes <= largest {
        let (mut data, mut into) = (vec![1.0f32; bytes / 4], vec![0.0f32; bytes / 4]);
        let once = sample(&ways, 0, 3, &mut data, &mut into).max(sample(&ways, 6, 3, &mut data, &mut into));
        let mut times = [((SAMPLE / once) as u64).clamp(3, 2000)];
        ways.copied.broadcast(&mut times, 0).unwrap();
        let mut taken: Vec<Vec<f64>> = vec![Vec::new(); WAYS.len()];
        // In another order each time, the same on every rank: what one way leaves in the caches is not always the same other's.
        let mut order: Vec<usize> = (0..WAYS.len()).collect();
        let mut random = fastrand::Rng::with_seed(bytes as u64);
        for _ in 0..SAMPLES {
            random.shuffle(&mut order);
            for &way in &order {
                taken[way].push(sample(&ways, way, times[0] as usize, &mut data, &mut into));
            }
        }
        let told: Vec<(f64, f64)> = taken
            .into_iter()
            .map(|mut times| {
                ways.copied.all_reduce(&mut times, ReduceOp::Max).unwrap();
                times.sort_by(f64::total_cmp);
                (times[times.len() / 2] * 1e6, times[0] * 1e6)
            })
            .collect();
        if rank == 0 {
            let (median_of_mpi, least_of_mpi) = told[0];
            let cells: Vec<String> = told
                .iter()
                .map(|&(median, least)| {
                    format!(
                        "{median:.2} ({:+.2}) / {least:.2} ({:+.2})",
                        median - median_of_mpi,
                        least - least_of_mpi
                    )
                })
                .collect();
            println!("| {bytes} | {} |", cells.join(" | "));
        }
        bytes *= factor;
    }
}
