//! Collectives of Arrow data: against an oracle of values that may be missing, over threads, shared memory and TCP.

#[path = "../support/mod.rs"]
mod support;

mod disagree;
mod nested;
mod reduce;
mod tables;

use ringfold::Communicator;
use std::thread;

/// Runs a function on a thread for each rank, and gives the results in rank order.
fn on<T: Send>(group: Vec<Communicator>, body: impl Fn(Communicator) -> T + Sync) -> Vec<T> {
    let body = &body;
    thread::scope(|scope| {
        let threads: Vec<_> = group.into_iter().map(|comm| scope.spawn(move || body(comm))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Groups of every kind.
fn groups(world: usize) -> [Vec<Communicator>; 3] {
    [Communicator::local(world), support::communicators(world), support::over_sockets(world)]
}
