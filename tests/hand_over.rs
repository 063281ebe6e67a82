//! Memory that goes to the thread which drives a group, and comes back: what two threads of a rank can get wrong with each other. The
//! sanitizer of threads goes through this (`tests/sanitize.sh`), and finds a wait that does not wait.
//!
//! Nothing is looked at while operations are under way: what is held to what was expected is the end.

mod support;

use ringfold::{Communicator, ReduceOp};

const WORLD: usize = 3;
const ROUNDS: u64 = 20;

/// Elements: some that lie in line in shared memory, and some that do not.
const COUNTS: [usize; 2] = [5, 3000];

fn on(group: Vec<Communicator>) {
    std::thread::scope(|scope| {
        group.into_iter().for_each(|comm| {
            scope.spawn(move || give_and_take(&comm));
        });
    });
}

/// What is started goes to the progress thread; what comes back is written to at once, and lent to calls that run on this one.
fn give_and_take(comm: &Communicator) {
    let mut sums = COUNTS.map(|count| vec![1u64; count]);
    let mut expected = 1;
    for round in 0..ROUNDS {
        for data in &mut sums {
            let started = comm.start_all_reduce(std::mem::take(data), ReduceOp::Sum).unwrap();
            let mut back = started.wait().unwrap();
            back.iter_mut().for_each(|value| *value = *value % 1009 + round);
            comm.all_reduce(&mut back, ReduceOp::Max).unwrap();
            *data = back;
        }
        expected = expected * WORLD as u64 % 1009 + round;
    }
    for (data, count) in sums.into_iter().zip(COUNTS) {
        assert_eq!(data, vec![expected; count]);
    }
}

#[test]
fn among_threads() {
    on(Communicator::local(WORLD));
}

#[test]
fn over_shared_memory() {
    on(support::communicators(WORLD));
}

#[test]
fn over_sockets() {
    on(support::over_sockets(WORLD));
}
