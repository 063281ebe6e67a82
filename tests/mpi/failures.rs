//! What ranks are told when something goes wrong.

use crate::mpirun::tell;
use nix::sys::signal::{Signal, raise};
use ringfold::config::BackendChoice;
use ringfold::transport::mpi::Mpi;
use ringfold::{Communicator, Config, ErrorKind, Options, Order, ReduceOp, Result};
use std::time::{Duration, Instant};

/// Long against the time in which a failure is told, even on a machine under load.
const SOON: Duration = Duration::from_secs(20);

fn form() -> Communicator {
    let config = Config::from_env().unwrap().with_backend(BackendChoice::MpiP2p);
    Communicator::with_mpi(Mpi::world(Duration::from_secs(60)).unwrap(), &config).unwrap()
}

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

pub(crate) fn mismatch() {
    for (index, (field, odd_call)) in ODD.into_iter().enumerate() {
        let comm = form();
        let odd = (index + 1) % comm.world_size();
        let before: Vec<f32> = (0..5000).map(|i| (i * (comm.rank() + 1)) as f32).collect();
        let mut data = before.clone();
        let result = if comm.rank() == odd {
            odd_call(&comm, &mut data)
        } else {
            let mut options = Options::new().deadline(SOON);
            if field == "order differs" {
                options = options.algorithm(binomial_tree());
            }
            comm.with(options).all_reduce(&mut data, ReduceOp::Sum)
        };
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch, "{field}: {error}");
        let names = error.message().starts_with(field) && error.message().contains(&format!("on rank {odd}"));
        assert!(names, "{error}, which does not name {field:?} and rank {odd}");
        assert!(data == before, "{field}: memory has changed");
        assert_eq!(comm.barrier().unwrap_err().message(), error.message());
    }
}

pub(crate) fn abort() {
    let comm = form();
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
        assert!(error.to_string().contains("enough"), "{error}");
    });
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

pub(crate) fn deadline() {
    let comm = form();
    let last = comm.world_size() - 1;
    let short = Options::new().deadline(Duration::from_millis(300));
    let start = Instant::now();
    let result = if comm.rank() == last {
        while comm.failure().is_none() && start.elapsed() < SOON {
            std::thread::sleep(Duration::from_millis(1));
        }
        comm.barrier()
    } else {
        comm.with(short).all_reduce(&mut vec![1.0f64; 1_000_000], ReduceOp::Sum)
    };
    let error = result.unwrap_err();
    assert_eq!((error.kind(), error.culprit()), (ErrorKind::Deadline, Some(last)), "{error}");
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

/// Rank 1 dies while all are at work. Survivors that are left to it say what they are told.
pub(crate) fn death() {
    let comm = form();
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
