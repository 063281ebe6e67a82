//! What ranks are told when something goes wrong.

use crate::calls::call::{Call, prepare};
use crate::calls::group::Member;
use crate::calls::odd::{FIELDS, Field, base, other};
use crate::mpirun::tell;
use crate::suites::form;
use fastrand::Rng;
use nix::sys::signal::{Signal, raise};
use ringfold::config::BackendChoice;
use ringfold::tensor::{DType, Device, TensorMut};
use ringfold::{Check, Collective, Communicator, Error, ErrorKind, Options, Order, ReduceOp, Result};
use std::time::{Duration, Instant};

/// Long against the time in which a failure is told, even on a machine under load.
const SOON: Duration = Duration::from_secs(20);

/// What one rank does otherwise than an all_reduce of some floats, and how the error calls it.
type Odd = (&'static str, fn(&Communicator, &mut [f32]) -> Result<()>);

const ODD: [Odd; 5] = [
    ("count differs", |comm, data| {
        comm.with(Options::new().deadline(SOON)).all_reduce(&mut data[1..], ReduceOp::Sum)
    }),
    ("element type differs", |comm, data| {
        let mut other = vec![1i32; data.len()];
        comm.with(Options::new().deadline(SOON)).all_reduce(&mut other, ReduceOp::Sum)
    }),
    ("reduction differs", |comm, data| {
        comm.with(Options::new().deadline(SOON)).all_reduce(data, ReduceOp::Max)
    }),
    ("order differs", |comm, data| {
        let options = Options::new().deadline(SOON).order(Order::Fixed).algorithm(binomial_tree());
        comm.with(options).all_reduce(data, ReduceOp::Sum)
    }),
    ("collective differs", |comm, _| comm.with(Options::new().deadline(SOON)).barrier()),
];

fn binomial_tree() -> ringfold::Algorithm {
    ringfold::Algorithm::named("binomial_tree").unwrap()
}

pub(crate) fn mismatch(backend: BackendChoice) {
    for (index, (field, odd_call)) in ODD.into_iter().enumerate() {
        if backend == BackendChoice::Mpi && field == "order differs" {
            // Unsupported there.
            continue;
        }
        let comm = form(backend);
        let odd = (index + 1) % comm.world_size();
        let before: Vec<f32> = (0..5000).map(|i| (i * (comm.rank() + 1)) as f32).collect();
        let mut data = before.clone();
        let start = Instant::now();
        let result = if comm.rank() == odd {
            odd_call(&comm, &mut data)
        } else {
            let mut options = Options::new().deadline(SOON);
            if field == "order differs" {
                options = options.algorithm(binomial_tree());
            }
            comm.with(options).all_reduce(&mut data, ReduceOp::Sum)
        };
        if backend == BackendChoice::Mpi {
            // It may have returned, with whatever.
            let error = result.err().unwrap_or_else(|| fails_soon(&comm));
            named(&error, field, odd);
            assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
            continue;
        }
        let error = result.unwrap_err();
        named(&error, field, odd);
        assert!(data == before, "{field}: memory has changed");
        assert_eq!(comm.barrier().unwrap_err().message(), error.message());
    }
}

fn named(error: &Error, field: &str, odd: usize) {
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{field}: {error}");
    let names = error.message().starts_with(field) && error.message().contains(&format!("on rank {odd}"));
    assert!(names, "{error}, which does not name {field:?} and rank {odd}");
}

/// The error that a later call has.
pub(crate) fn fails_soon(comm: &Communicator) -> Error {
    let start = Instant::now();
    while start.elapsed() < SOON {
        if let Err(error) = comm.with(Options::new().deadline(SOON)).barrier() {
            return error;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("nobody has noticed");
}

/// Every collective, with every field in which one rank can differ, over MPI's own collectives.
pub(crate) fn matrix() {
    let mut random = Rng::with_seed(11);
    let (mut cases, mut faults) = (0, Vec::new());
    for collective in Collective::ALL {
        for check in [Check::Normal, Check::Strict] {
            for (field, name) in FIELDS {
                // Strict checks have the same road for every field.
                let sampled = check == Check::Normal || matches!(field, Field::DType | Field::Collective);
                if !sampled || matches!(field, Field::Order | Field::Algorithm) {
                    continue;
                }
                let comm = form(BackendChoice::Mpi);
                let (rank, world) = (comm.rank(), comm.world_size());
                let common = base(collective, field, world, &mut random).check(check).deadline(SOON);
                let odd = random.usize(..world);
                let Some(odd_call) = other(&common, field, world) else { continue };
                let call = if rank == odd { &odd_call } else { &common };
                let call: Call = call.clone();
                let (mut jobs, _) = prepare(&call, world, call.draw(), 1);
                let mut job = jobs.swap_remove(rank);
                let mut member = comm;
                let result = Member::call(&mut member, &mut job);
                let error = result.err().unwrap_or_else(|| fails_soon(&member));
                cases += 1;
                let names = error.message().starts_with(name) || error.message().starts_with("check differs");
                if error.kind() != ErrorKind::Mismatch || !names {
                    faults.push(format!("{error}\n  odd rank {odd} of {world}, {field:?}: {common:?}"));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{} of {cases} fail:\n{}", faults.len(), faults.join("\n"));
    assert!(cases > 30, "{cases}");
}

pub(crate) fn abort(backend: BackendChoice) {
    let comm = form(backend);
    let handle = comm.abort_handle();
    let start = Instant::now();
    std::thread::scope(|scope| {
        if comm.rank() == 0 {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(200));
                handle.abort("enough");
            });
        }
        // All but the last wait for the last, which waits for the abort.
        let result = if comm.rank() + 1 == comm.world_size() {
            while comm.failure().is_none() && start.elapsed() < SOON {
                std::thread::sleep(Duration::from_millis(1));
            }
            comm.barrier()
        } else {
            comm.all_reduce(&mut vec![1.0f64; 100_000], ReduceOp::Sum)
        };
        let error = result.unwrap_err();
        assert_eq!((error.kind(), error.culprit()), (ErrorKind::Aborted, Some(0)), "{error}");
        assert!(error.to_string().contains("enough") && !error.keeps_memory(), "{error}");
    });
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

pub(crate) fn deadline(backend: BackendChoice) {
    let comm = form(backend);
    let last = comm.world_size() - 1;
    let short = Options::new().deadline(Duration::from_millis(300));
    let start = Instant::now();
    let waits = comm.rank() != last;
    let result = if waits {
        comm.with(short).all_reduce(&mut vec![1.0f64; 1_000_000], ReduceOp::Sum)
    } else {
        while comm.failure().is_none() && start.elapsed() < SOON {
            std::thread::sleep(Duration::from_millis(1));
        }
        comm.barrier()
    };
    let error = result.unwrap_err();
    assert_eq!((error.kind(), error.culprit()), (ErrorKind::Deadline, Some(last)), "{error}");
    let says_so = error.message().contains("of ringfold's own memory stays with it for ever");
    assert_eq!(says_so, waits && backend == BackendChoice::Mpi, "{error}");
    assert!(!error.keeps_memory(), "what a call has borrowed is its caller's again");
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

/// Buffers that an operation owns go to MPI themselves, and stay there.
pub(crate) fn quarantine() {
    let config = |direct| {
        let config = ringfold::Config::from_env().unwrap().with_backend(BackendChoice::Mpi);
        config.with_mpi_direct(direct)
    };
    let mpi = ringfold::transport::mpi::Mpi::world(Duration::from_secs(60)).unwrap();
    let short = || Options::new().deadline(Duration::from_millis(200));
    for way in 0..4 {
        let comm = Communicator::with_mpi(mpi, &config(way == 3)).unwrap();
        if comm.rank() == 1 {
            let start = Instant::now();
            while comm.failure().is_none() && start.elapsed() < SOON {
                std::thread::sleep(Duration::from_millis(1));
            }
            continue;
        }
        let data = vec![1.0f64; 100_000];
        let error = match way {
            0 => comm.with(short()).start_all_reduce(data, ReduceOp::Sum).unwrap().wait().unwrap_err(),
            1 => {
                // One whose handle is dropped: nobody is told.
                drop(comm.with(short()).start_all_reduce(data, ReduceOp::Sum).unwrap());
                let error = comm.with(short()).barrier().unwrap_err();
                assert!(!error.keeps_memory(), "{error}");
                continue;
            }
            2 => {
                let mut step = comm.with(short()).prepare_all_reduce(data, ReduceOp::Sum).unwrap();
                let error = step.run().unwrap_err();
                assert_eq!(step.buffer_mut().unwrap_err().kind(), ErrorKind::Closed);
                assert_eq!(step.run().unwrap_err().kind(), ErrorKind::Closed);
                assert_eq!(step.into_buffer().unwrap_err().kind(), ErrorKind::Closed);
                error
            }
            _ => {
                // Kept by the caller, as mpi_direct demands.
                let data = Vec::leak(data);
                comm.with(short()).all_reduce(data, ReduceOp::Sum).unwrap_err()
            }
        };
        assert_eq!((error.kind(), error.culprit()), (ErrorKind::Deadline, Some(1)), "{error}");
        assert!(error.keeps_memory() && error.message().contains("stays with it for ever"), "{error}");
        let later = comm.barrier().unwrap_err();
        assert_eq!((later.kind(), later.culprit()), (ErrorKind::Deadline, Some(1)), "{later}");
        assert!(!later.keeps_memory(), "{later}");
    }
}

/// Where MPI may have borrowed memory, it still has none that is packed, staged or otherwise the library's and used again.
pub(crate) fn reused() {
    let mpi = ringfold::transport::mpi::Mpi::world(Duration::from_secs(60)).unwrap();
    let config = ringfold::Config::from_env().unwrap().with_backend(BackendChoice::Mpi).with_mpi_direct(true);
    let config = config.with_deadline(Duration::from_millis(200));
    for way in 0..3 {
        let comm = Communicator::with_mpi(mpi, &config).unwrap();
        if comm.rank() == 1 {
            let start = Instant::now();
            while comm.failure().is_none() && start.elapsed() < SOON {
                std::thread::sleep(Duration::from_millis(1));
            }
            continue;
        }
        let mut data = vec![1.0f64; 1_000_000];
        let error = match way {
            0 => {
                let (pointer, shape) = (data.as_mut_ptr().cast::<u8>(), [500_000]);
                // SAFETY: every other element, borrowed exclusively for the call.
                let tensor = unsafe {
                    TensorMut::from_raw(pointer, DType::F64, &shape, Some(&[2]), Device::Host).unwrap()
                };
                comm.with(Options::new().pack(true)).all_reduce_dyn(tensor, ReduceOp::Sum).unwrap_err()
            }
            // In portions, which may be anybody's memory.
            1 => comm.with(Options::new().staging(true)).all_reduce(&mut data, ReduceOp::Sum).unwrap_err(),
            _ => comm.duplicate().unwrap_err(),
        };
        assert_eq!((error.kind(), error.culprit()), (ErrorKind::Deadline, Some(1)), "{error}");
        let says_so = error.message().contains("of ringfold's own memory stays with it for ever");
        assert!(!error.keeps_memory() && says_so, "way {way}: {error}");
    }
}

/// One rank leaves before it has made all calls.
pub(crate) fn departure(backend: BackendChoice) {
    let comm = form(backend);
    let (rank, last) = (comm.rank(), comm.world_size() - 1);
    let long = Options::new().deadline(SOON);
    for message in [false, true] {
        let comm = form(backend);
        let mut data = [1.0f32; 100];
        comm.with(long.clone()).all_reduce(&mut data, ReduceOp::Sum).unwrap();
        if message && last > 0 {
            if rank == last {
                comm.with(long.clone()).send(&[1u8], 0).unwrap();
            } else if rank == 0 {
                comm.with(long.clone()).recv(&mut [0u8], last).unwrap();
            }
        }
        if rank == last {
            drop(comm);
            continue;
        }
        let start = Instant::now();
        let result = match message {
            true if rank == 0 => comm.with(long.clone()).recv(&mut [0u8], last),
            _ => comm.with(long.clone()).all_reduce(&mut data, ReduceOp::Sum),
        };
        let error = result.unwrap_err();
        assert_eq!((error.kind(), error.culprit()), (ErrorKind::Closed, Some(last)), "{error}");
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }
    comm.with(long).barrier().unwrap();
}

/// Rank 1 dies while all are at work. Survivors that are left to it say what they are told.
pub(crate) fn death(backend: BackendChoice) {
    let comm = form(backend);
    let mut data = vec![1.0f64; 100_000];
    comm.all_reduce(&mut data, ReduceOp::Sum).unwrap();
    if comm.rank() == 1 {
        std::thread::sleep(Duration::from_millis(100));
        let _ = raise(Signal::SIGKILL);
    }
    let error = comm.all_reduce(&mut data, ReduceOp::Sum).unwrap_err();
    tell(format!("{} {}", error.kind(), error.culprit().map_or(-1, |culprit| culprit as i64)));
    // Nobody can say "fine" after that.
    drop(comm);
    std::process::exit(3);
}
