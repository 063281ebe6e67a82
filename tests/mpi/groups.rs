//! Groups within groups, and several at once.

use crate::suites::form;
use ringfold::config::BackendChoice;
use ringfold::{Communicator, ReduceOp};

fn sum(comm: &Communicator, mine: u64) -> u64 {
    let mut data = [mine; 40_000];
    comm.all_reduce(&mut data, ReduceOp::Sum).unwrap();
    assert!(data.iter().all(|value| *value == data[0]));
    data[0]
}

pub(crate) fn groups(backend: BackendChoice) {
    let comm = form(backend);
    let (rank, world) = (comm.rank(), comm.world_size());
    let all: u64 = (0..world as u64).sum();
    // By parity, numbered from the highest.
    let half = comm.split(Some(rank as u32 % 2), -(rank as i64)).unwrap().unwrap();
    assert_eq!(half.backend(), backend.as_str());
    let mine: Vec<usize> = (0..world).rev().filter(|other| other % 2 == rank % 2).collect();
    assert_eq!((half.world_size(), half.world_rank_of(0)), (mine.len(), mine[0]));
    assert_eq!(sum(&half, rank as u64), mine.iter().sum::<usize>() as u64);
    let within = half.split(Some(0), 0).unwrap().unwrap();
    assert_eq!(sum(&within, 1), mine.len() as u64);
    // A group that not all ranks are in.
    let first = comm.group(&[0]).unwrap();
    assert_eq!(first.is_some(), rank == 0);
    // Several at once, each by a thread of its own, and others that come and go meanwhile.
    let others: Vec<Communicator> = (0..3).map(|_| comm.duplicate().unwrap()).collect();
    std::thread::scope(|scope| {
        for (index, other) in others.iter().enumerate() {
            let other = other.duplicate().unwrap();
            scope.spawn(move || {
                for round in 0..10 {
                    assert_eq!(
                        sum(&other, (rank + round + index) as u64),
                        all + (world * (round + index)) as u64
                    );
                    let short = other.duplicate().unwrap();
                    assert_eq!(sum(&short, 1), world as u64);
                }
            });
        }
        for round in 0..20 {
            let pending = comm.start_all_reduce(vec![rank as u64; 1000], ReduceOp::Sum).unwrap();
            assert_eq!(sum(&half, round), round * mine.len() as u64);
            assert_eq!(pending.wait().unwrap(), vec![all; 1000]);
        }
    });
    let mut of_left = [0u32];
    let (right, left) = ((rank + 1) % world, (rank + world - 1) % world);
    if world > 1 {
        comm.send_recv(&[rank as u32], right, &mut of_left, left).unwrap();
        assert_eq!(of_left, [left as u32]);
    }
    drop((comm, half, within, first, others));
    // And a world of its own after that.
    let again = form(backend);
    assert_eq!(sum(&again, 2), 2 * world as u64);
}
