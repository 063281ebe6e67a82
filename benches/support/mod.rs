//! What benchmarks of whole calls need: groups of threads over real transports, and ways of doing a thing measured in turn.

use ringfold::config::BackendChoice;
use ringfold::{Communicator, Config, ReduceOp};
use std::net::TcpListener;
use std::time::{Duration, Instant};

fn communicators(backend: BackendChoice, world: usize) -> Vec<Communicator> {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = Config::default().with_world_size(world).with_store(free.to_string());
    let config = config.with_heartbeat_deadline(Duration::from_secs(30)).with_backend(backend);
    std::thread::scope(|scope| {
        let join = |rank| {
            let config = config.clone().with_rank(rank);
            scope.spawn(move || Communicator::connect(&config).unwrap())
        };
        let threads: Vec<_> = (0..world).map(join).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Runs a function on every rank, and gives rank 0's answer.
pub(crate) fn on<T: Send>(
    backend: BackendChoice,
    world: usize,
    body: impl Fn(&Communicator) -> T + Sync,
) -> T {
    let body = &body;
    std::thread::scope(|scope| {
        let run = |comm: Communicator| scope.spawn(move || body(&comm));
        let threads: Vec<_> = communicators(backend, world).into_iter().map(run).collect();
        let mut answers = threads.into_iter().map(|thread| thread.join().unwrap());
        let first = answers.next().unwrap();
        answers.for_each(drop);
        first
    })
}

/// The median seconds of each way, in turn; `each` times in a sample.
pub(crate) fn in_turn(
    comm: &Communicator,
    samples: usize,
    each: usize,
    ways: &mut [&mut dyn FnMut()],
) -> Vec<f64> {
    let mut times = vec![Vec::new(); ways.len()];
    for sample in 0..samples + 2 {
        for (way, times) in ways.iter_mut().zip(&mut times) {
            comm.barrier().unwrap();
            comm.barrier().unwrap();
            let begun = Instant::now();
            for _ in 0..each {
                way();
            }
            let mut took = [begun.elapsed().as_secs_f64() / each as f64];
            comm.all_reduce(&mut took, ReduceOp::Max).unwrap();
            // The first ones make plans and connections.
            if sample >= 2 {
                times.push(took[0]);
            }
        }
    }
    times.into_iter().map(median).collect()
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

pub(crate) fn shown(bytes: usize) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..0x10_0000 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}
