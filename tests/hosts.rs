//! Groups of several hosts, each with ranks that share memory.

#[path = "support/hosts.rs"]
mod placing;

use placing::communicators_on;
use ringfold::config::BackendChoice;
use ringfold::{Communicator, Config, ReduceOp};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(20);

fn config() -> Config {
    Config::default().with_init_deadline(LONG).with_deadline(LONG)
}

/// Runs a function on every rank of a group on these hosts.
fn on_hosts<T: Send>(hosts: &[usize], body: impl Fn(Communicator) -> T + Sync) -> Vec<T> {
    let comms = communicators_on(hosts, BackendChoice::Auto, |_| config());
    let body = &body;
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            comms.into_iter().map(|comm| scope.spawn(move || body(comm.unwrap()))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn sums_are_right_wherever_ranks_are() {
    for hosts in [&[0, 0, 1, 1][..], &[0, 1, 0, 1], &[0, 1, 1, 2, 2, 2], &[0, 0, 1], &[0, 0, 0, 1, 1, 1, 1]] {
        let world = hosts.len() as u64;
        on_hosts(hosts, |comm| {
            assert_eq!(comm.backend(), "hierarchical");
            for len in [0, 1, 2, 7, 1000, 300_000, 3_000_001] {
                let mut data: Vec<u64> = (0..len).map(|i| i + comm.rank() as u64).collect();
                comm.all_reduce(&mut data, ReduceOp::Sum).unwrap();
                let expected = |i: u64| world * i + world * (world - 1) / 2;
                let wrong = data.iter().zip(0..).find(|(sum, i)| **sum != expected(*i));
                assert_eq!(wrong, None, "{hosts:?} {len}");
                comm.barrier().unwrap();
            }
        });
    }
}
