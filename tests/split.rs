//! Groups within a group: how they are numbered, that they do not disturb each other, how they fail, what they cost.

use ringfold::{Communicator, ErrorKind, Options, ReduceOp};
use std::thread;
use std::time::Duration;

#[path = "support/mod.rs"]
mod support;

fn on<T: Send>(group: Vec<Communicator>, body: impl Fn(Communicator) -> T + Sync) -> Vec<T> {
    let body = &body;
    thread::scope(|scope| {
        let threads: Vec<_> = group.into_iter().map(|comm| scope.spawn(move || body(comm))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn groups(world: usize) -> [Vec<Communicator>; 3] {
    [Communicator::local(world), support::communicators(world), support::over_sockets(world)]
}

fn sum(comm: &Communicator, value: usize) -> u64 {
    let mut data = [value as u64; 3];
    comm.all_reduce(&mut data, ReduceOp::Sum).unwrap();
    assert!(data.iter().all(|&x| x == data[0]));
    data[0]
}

#[test]
fn a_grid_has_rows_and_columns_numbered_by_their_keys() {
    for group in groups(6) {
        on(group, |comm| {
            let (row, column) = (comm.rank() / 3, comm.rank() % 3);
            let rows = comm.split(Some(row as u32), -(column as i64)).unwrap().unwrap();
            let columns = comm.split(Some(column as u32), 0).unwrap().unwrap();
            assert_eq!((rows.world_size(), rows.rank()), (3, 2 - column), "the largest key is the last");
            assert_eq!((columns.world_size(), columns.rank()), (2, row));
            let numbers: Vec<_> = (0..3).map(|rank| rows.world_rank_of(rank)).collect();
            assert_eq!(numbers, [row * 3 + 2, row * 3 + 1, row * 3]);
            for _ in 0..5 {
                assert_eq!(sum(&rows, comm.rank()), [3, 12][row]);
                assert_eq!(sum(&columns, comm.rank()), [3, 5, 7][column]);
                assert_eq!(sum(&comm, comm.rank()), 15);
            }
            // A group of a group of a group.
            let pair = rows.split((rows.rank() < 2).then_some(9), 0).unwrap();
            assert_eq!(pair.is_some(), rows.rank() < 2);
            if let Some(pair) = pair {
                let again = pair.duplicate().unwrap();
                assert_eq!(sum(&again, comm.rank()), [3, 9][row]);
                assert_eq!(again.world_rank_of(1), row * 3 + 1);
            }
        });
    }
}

#[test]
fn a_group_of_listed_ranks_has_their_order_and_bad_lists_are_refused() {
    for group in groups(4) {
        on(group, |comm| {
            let list = [3, 0, 2];
            let group = comm.group(&list).unwrap();
            assert_eq!(group.as_ref().map(|g| g.rank()), list.iter().position(|&r| r == comm.rank()));
            if let Some(group) = group {
                assert_eq!(sum(&group, comm.rank()), 5);
            }
            for bad in [&[0, 4][..], &[1, 1]] {
                assert_eq!(comm.group(bad).unwrap_err().kind(), ErrorKind::InvalidArgument);
            }
            // Lists that differ: whoever is in the other list finds its group too small.
            let list = if comm.rank() == 1 { [1, 0] } else { [0, 1] };
            let kind = comm.group(&list).map_err(|error| error.kind()).map(|group| group.is_some());
            let expected = if comm.rank() < 2 { Err(ErrorKind::InvalidArgument) } else { Ok(false) };
            assert_eq!(kind, expected);
            assert_eq!(sum(&comm, 1), 4, "the group goes on");
        });
    }
}

#[test]
fn duplicates_are_used_by_other_threads_at_once_and_outlive_their_origin() {
    for group in groups(3) {
        on(group, |comm| {
            let other = comm.duplicate().unwrap();
            let last = comm.duplicate().unwrap();
            thread::scope(|scope| {
                scope.spawn(move || {
                    for round in 0..100 {
                        assert_eq!(sum(&other, round), 3 * round as u64);
                    }
                });
                for round in 0..50 {
                    assert_eq!(sum(&comm, round + 7), 3 * (round as u64 + 7));
                }
                drop(comm);
            });
            assert_eq!(sum(&last, 1), 3);
        });
    }
}

#[test]
fn what_is_started_on_several_groups_may_end_in_any_order() {
    for group in groups(2) {
        on(group, |comm| {
            let many: Vec<Communicator> = (0..5).map(|_| comm.duplicate().unwrap()).collect();
            for round in 0..20u32 {
                // Each rank begins at another end: only among the operations of one communicator is there an order.
                let mut order: Vec<usize> = (0..5).collect();
                if comm.rank() == 1 {
                    order.reverse();
                }
                let mut pending: Vec<_> = (order.iter())
                    .map(|&i| {
                        (i, many[i].start_all_reduce(vec![round + i as u32; 20_000], ReduceOp::Sum).unwrap())
                    })
                    .collect();
                pending.sort_by_key(|(i, _)| *i);
                for (i, pending) in pending {
                    assert_eq!(pending.wait().unwrap(), vec![2 * (round + i as u32); 20_000]);
                }
            }
        });
    }
}

#[test]
fn all_groups_of_a_world_fail_together_and_name_ranks_by_their_world_numbers() {
    for group in groups(4) {
        let errors = on(group, |comm| {
            let half = comm.split(Some(comm.rank() as u32 / 2), 0).unwrap().unwrap();
            let error = if comm.rank() == 3 {
                // In its half it is rank 1.
                half.all_reduce(&mut [1.0f32; 2], ReduceOp::Sum).unwrap_err()
            } else if comm.rank() == 2 {
                half.all_reduce(&mut [1.0f32; 3], ReduceOp::Sum).unwrap_err()
            } else {
                // Busy with something else, until it hears of it.
                loop {
                    match half.barrier() {
                        Ok(()) => thread::sleep(Duration::from_millis(1)),
                        Err(error) => break error,
                    }
                }
            };
            assert_eq!(comm.barrier().unwrap_err().kind(), ErrorKind::Mismatch);
            assert_eq!(error.rank(), Some(comm.rank()));
            error
        });
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
            assert!([Some(2), Some(3)].contains(&error.culprit()), "{error}");
            let text = error.to_string();
            assert!(text.contains("rank 2") && text.contains("rank 3"), "{text}");
        }
    }
}

#[test]
fn a_rank_that_leaves_a_group_is_told_by_its_world_number() {
    for group in groups(3) {
        on(group, |comm| {
            let pair = comm.split((comm.rank() > 0).then_some(1), 0).unwrap();
            match (comm.rank(), pair) {
                (1, Some(pair)) => {
                    let error = pair.recv(&mut [0u8], 1).unwrap_err();
                    assert_eq!((error.kind(), error.culprit()), (ErrorKind::Closed, Some(2)), "{error}");
                }
                (2, Some(pair)) => drop(pair),
                _ => {}
            }
        });
    }
}

#[test]
fn a_rank_that_panics_with_a_group_at_hand_is_told_by_its_world_number() {
    for group in groups(4) {
        on(group, |comm| {
            let half = comm.split(Some(comm.rank() as u32 / 2), 0).unwrap().unwrap();
            comm.barrier().unwrap();
            if comm.rank() == 3 {
                let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
                    let (_comm, _half) = (comm, half);
                    panic!("as this test wants it");
                }));
                panicked.unwrap_err();
                return;
            }
            let error = comm.barrier().unwrap_err();
            assert_eq!((error.kind(), error.culprit()), (ErrorKind::UserPanic, Some(3)), "{error}");
            // Among threads the transport notices it, too.
            let told = ["rank 3 panicked", "its thread panicked"];
            assert!(told.iter().any(|told| error.to_string().contains(told)), "{error}");
        });
    }
}

#[test]
fn options_and_deadlines_are_inherited() {
    on(Communicator::local(2), |comm| {
        let other = comm.duplicate().unwrap();
        if comm.rank() == 0 {
            let with = other.with(Options::new().deadline(Duration::from_millis(50)));
            assert_eq!(with.barrier().unwrap_err().kind(), ErrorKind::Deadline);
        } else {
            thread::sleep(Duration::from_millis(500));
        }
    });
}

fn entries(of: &str) -> usize {
    std::fs::read_dir(of).unwrap().count()
}

#[test]
fn a_group_that_one_rank_has_no_descriptors_for_is_made_on_none() {
    if !support::process::alone("a_group_that_one_rank_has_no_descriptors_for_is_made_on_none") {
        return;
    }
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, 64, 64).unwrap();
    let together = std::sync::Barrier::new(2);
    on(support::over_sockets(2), |comm| {
        drop(comm.duplicate().unwrap());
        // Each rank needs two, and both are in this process: with three, one of them lacks its second.
        for left in 0..=4 {
            comm.barrier().unwrap();
            let mut all = Vec::new();
            if comm.rank() == 0 {
                while let Ok(file) = std::fs::File::open("/dev/null") {
                    all.push(file);
                }
                all.truncate(all.len() - left);
            }
            together.wait();
            let split = comm.duplicate();
            together.wait();
            drop(all);
            together.wait();
            match split {
                Ok(again) => {
                    assert_eq!(left, 4);
                    assert_eq!(sum(&again, 1), 2);
                }
                Err(error) => {
                    assert!(left < 4, "{error}");
                    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
                }
            }
        }
        assert_eq!(sum(&comm, 2), 4, "the group goes on");
    });
}

#[test]
fn two_hundred_communicators_need_no_thread_each() {
    if !support::process::alone("two_hundred_communicators_need_no_thread_each") {
        return;
    }
    let (tasks, files) = ("/proc/self/task", "/proc/self/fd");
    // Both ranks are in this process: it has twice the descriptors of a rank.
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, 4096, 4096).unwrap();
    on(support::communicators(2), |comm| {
        sum(&comm, 1);
        comm.start_barrier().unwrap().wait().unwrap();
        // One rank looks, while the other one waits for it: looking takes a descriptor.
        let look = || {
            comm.barrier().unwrap();
            let found = (comm.rank() == 0).then(|| (entries(tasks), entries(files)));
            comm.barrier().unwrap();
            found
        };
        let before = look();
        let many: Vec<Communicator> = (0..200).map(|_| comm.duplicate().unwrap()).collect();
        let pending: Vec<_> =
            many.iter().map(|comm| comm.start_all_reduce(vec![1u8; 100], ReduceOp::Sum).unwrap()).collect();
        for pending in pending {
            assert_eq!(pending.wait().unwrap(), vec![2; 100]);
        }
        let with_many = look();
        drop(many);
        let after = look();
        if let (Some((threads, files)), Some((more_threads, more_files))) = (before, with_many) {
            assert_eq!(more_threads, threads, "threads with 200 communicators more");
            println!("{} descriptors a communicator and rank", (more_files - files) as f64 / 400.0);
        }
        assert_eq!(after, before, "what they had is given back");
    });
}
