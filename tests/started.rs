//! Started, prepared, scoped and batched operations: their order, their handles, their threads.

use ringfold::collective::Order;
use ringfold::tensor::TensorMut;
use ringfold::{Bucket, Communicator, ErrorKind, Options, ReduceOp};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

#[path = "support/mod.rs"]
mod support;

/// Runs a function on a thread per rank of two kinds of groups.
fn on_groups<T: Send>(world: usize, body: impl Fn(Communicator) -> T + Sync) -> Vec<Vec<T>> {
    [Communicator::local(world), support::communicators(world), support::over_sockets(world)]
        .into_iter()
        .map(|group| on(group, &body))
        .collect()
}

fn on<T: Send>(group: Vec<Communicator>, body: &(impl Fn(Communicator) -> T + Sync)) -> Vec<T> {
    thread::scope(|scope| {
        let threads: Vec<_> = group.into_iter().map(|comm| scope.spawn(move || body(comm))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn blocking_calls_among_started_ones_keep_their_order() {
    on_groups(3, |comm| {
        let mut pending = Vec::new();
        for round in 0..50u64 {
            pending
                .push(comm.start_all_reduce(vec![round + comm.rank() as u64; 300], ReduceOp::Sum).unwrap());
            let mut here = [comm.rank() as u64];
            comm.all_reduce(&mut here, ReduceOp::Max).unwrap();
            assert_eq!(here, [2]);
            if round % 7 == 0 {
                comm.barrier().unwrap();
            }
        }
        for (round, pending) in pending.into_iter().enumerate() {
            assert_eq!(pending.wait().unwrap(), vec![3 * round as u64 + 3; 300]);
        }
        // With nothing outstanding, calls are the caller's own again.
        comm.barrier().unwrap();
    });
}

#[test]
fn what_one_rank_starts_another_may_call() {
    on_groups(2, |comm| {
        for _ in 0..20 {
            let mut data = vec![1.0f32; 1000];
            if comm.rank() == 0 {
                data = comm.start_all_reduce(data, ReduceOp::Sum).unwrap().wait().unwrap();
            } else {
                comm.all_reduce(&mut data, ReduceOp::Sum).unwrap();
            }
            assert_eq!(data, vec![2.0; 1000]);
        }
    });
}

#[test]
fn a_handle_tells_whether_it_is_ready_and_waiting_for_a_while_changes_nothing() {
    on_groups(2, |comm| {
        if comm.rank() == 0 {
            let pending = comm.start_recv(vec![0u8; 4], 1).unwrap();
            assert!(!pending.wait_timeout(Duration::from_millis(20)));
            assert!(!pending.is_ready());
            assert_eq!(comm.failure(), None);
            // The rank is free to go on, its queue is not: the message is behind nothing of rank 1's.
            let go = comm.start_send(vec![1u8], 1).unwrap();
            assert_eq!(pending.wait().unwrap(), [1, 2, 3, 4]);
            assert_eq!(go.wait().unwrap(), [1]);
        } else {
            thread::sleep(Duration::from_millis(50));
            comm.send(&[1u8, 2, 3, 4], 0).unwrap();
            let mut go = [0u8];
            comm.recv(&mut go, 0).unwrap();
        }
    });
}

#[test]
fn a_dropped_handle_detaches_and_its_operation_goes_on() {
    on_groups(2, |comm| {
        drop(comm.start_all_reduce(vec![1u32; 100_000], ReduceOp::Sum).unwrap());
        std::mem::forget(comm.start_all_reduce(vec![1u32; 1000], ReduceOp::Sum).unwrap());
        let sums = comm.start_all_reduce(vec![comm.rank() as u32; 10], ReduceOp::Sum).unwrap();
        assert_eq!(sums.wait().unwrap(), [1; 10]);
    });
}

#[test]
fn operations_outlive_their_communicator() {
    on_groups(2, |comm| {
        let rank = comm.rank() as u64;
        let pending = comm.start_all_reduce(vec![rank; 200_000], ReduceOp::Sum).unwrap();
        drop(comm);
        assert_eq!(pending.wait().unwrap(), vec![1; 200_000]);
    });
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Arc::new(Unpark(thread::current())).into();
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn handles_are_futures() {
    on_groups(2, |comm| {
        let both = async {
            let first = comm.start_all_gather((vec![comm.rank() as i16], vec![0i16; 2]), None)?;
            let second = comm.start_barrier()?;
            second.await?;
            first.await
        };
        assert_eq!(block_on(both).unwrap().1, [0, 1]);
    });
}

#[test]
fn a_failure_comes_to_every_handle_and_names_the_culprit() {
    on_groups(3, |comm| {
        if comm.rank() == 2 {
            // Leaves without what the others have started.
            comm.barrier().unwrap();
            return;
        }
        comm.barrier().unwrap();
        let pending: Vec<_> =
            (0..3).map(|_| comm.start_all_reduce(vec![1.0f64; 100], ReduceOp::Sum).unwrap()).collect();
        for pending in pending {
            let error = pending.wait().unwrap_err();
            assert_eq!((error.kind(), error.culprit()), (ErrorKind::Closed, Some(2)), "{error}");
            assert_eq!(error.rank(), Some(comm.rank()));
        }
        assert!(comm.failure().is_some());
    });
}

#[test]
fn an_abort_ends_what_is_started() {
    on_groups(2, |comm| {
        let abort = comm.abort_handle();
        let error = if comm.rank() == 0 {
            let pending = comm.start_recv(vec![0u8; 1], 1).unwrap();
            abort.abort("the user pressed stop");
            pending.wait().unwrap_err()
        } else {
            comm.barrier().unwrap_err()
        };
        assert_eq!(error.kind(), ErrorKind::Aborted, "{error}");
    });
}

#[test]
fn a_started_operation_keeps_its_deadline() {
    on_groups(2, |comm| {
        if comm.rank() == 0 {
            let begun = Instant::now();
            let with = comm.with(Options::new().deadline(Duration::from_millis(100)));
            let error = with.start_all_reduce(vec![0u8; 9], ReduceOp::Sum).unwrap().wait().unwrap_err();
            assert_eq!((error.kind(), error.culprit()), (ErrorKind::Deadline, Some(1)), "{error}");
            assert!(begun.elapsed() < support::LONG);
        } else {
            thread::sleep(Duration::from_millis(700));
        }
    });
}

#[test]
fn what_is_refused_takes_no_place_in_the_order() {
    on_groups(2, |comm| {
        // On one rank only: the other one would miss whatever had taken a place.
        if comm.rank() == 0 {
            let three = comm.start_all_to_all((vec![0u8; 3], vec![0u8; 3]), None);
            assert_eq!(three.unwrap_err().kind(), ErrorKind::InvalidArgument);
            let bits = comm.start_all_reduce(vec![0.0f32; 3], ReduceOp::BitOr);
            assert_eq!(bits.unwrap_err().kind(), ErrorKind::Unsupported);
            let (mut one, mut two) = ([1u8], vec![1u8]);
            let refused = comm.scope(|scope| {
                scope.broadcast(&mut one, 0);
                scope.broadcast(&mut two, 7);
            });
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidArgument);
            // The first of these can be done by a ring, the second cannot.
            let ring = Options::new().algorithm("ring".parse().unwrap());
            let (mut sum, mut copy) = ([1u8], [1u8]);
            let refused = comm.with(ring).scope(|scope| {
                scope.all_reduce(&mut sum, ReduceOp::Sum);
                scope.broadcast(&mut copy, 0);
            });
            assert_eq!((refused.unwrap_err().kind(), sum), (ErrorKind::Unsupported, [1]));
        }
        assert_eq!(comm.start_all_reduce(vec![1u8], ReduceOp::Sum).unwrap().wait().unwrap(), [2]);
    });
}

#[test]
fn what_is_fused_does_not_depend_on_the_rank() {
    on_groups(3, |comm| {
        // Off the root, nobody works in place, whatever it passes.
        let mine = comm.rank() as u64 + 1;
        let (mut one, two, mut sum) = ([mine; 5], [mine; 7], [0u64; 7]);
        comm.scope(|scope| {
            scope.reduce(&mut one, ReduceOp::Sum, 1);
            scope.reduce((&two[..], &mut sum[..]), ReduceOp::Sum, 1);
        })
        .unwrap();
        if comm.rank() == 1 {
            assert_eq!((one, sum), ([6; 5], [6; 7]));
        }
        comm.barrier().unwrap();
    });
}

#[test]
fn a_batch_takes_as_few_messages_as_one_tensor() {
    on_groups(3, |comm| {
        let sent = || comm.counters().messages_sent;
        let mut flat = vec![1.0f32; 20 * 333];
        comm.all_reduce(&mut flat, ReduceOp::Sum).unwrap();
        let of_one = sent();
        let mut many = vec![vec![1.0f32; 333]; 20];
        let mut tensors: Vec<_> = many.iter_mut().map(|one| TensorMut::from_slice(one)).collect();
        comm.all_reduce_batch(&mut tensors, ReduceOp::Sum).unwrap();
        assert_eq!(sent(), 2 * of_one);
        assert!(many.concat() == flat);
    });
}

#[test]
fn prepared_operations_run_again_and_again() {
    on_groups(3, |comm| {
        let mut step = comm.prepare_all_reduce(vec![0.0f32; 777], ReduceOp::Sum).unwrap();
        for round in 0..20 {
            step.buffer_mut().unwrap().fill(round as f32);
            if round % 2 == 0 {
                step.run().unwrap();
            } else {
                step.start().unwrap();
                assert_eq!(step.buffer_mut().unwrap_err().kind(), ErrorKind::InvalidArgument);
                assert_eq!(step.start().unwrap_err().kind(), ErrorKind::InvalidArgument);
                step.wait().unwrap();
                assert!(step.is_ready());
            }
            assert_eq!(step.buffer().unwrap()[..], vec![3.0 * round as f32; 777]);
        }
        step.start().unwrap();
        drop(step);
        comm.barrier().unwrap();
    });
}

#[test]
fn a_scope_fuses_what_is_alike_and_runs_the_rest_beside_it() {
    on_groups(3, |comm| {
        let rank = comm.rank();
        let (mut a, mut b, mut c) = (vec![rank as f32; 1000], vec![1.0f32; 3], vec![rank as u64; 5]);
        let (mut empty, mut seed) = (Vec::<f32>::new(), [rank as i8; 2]);
        let (here, mut all) = ([rank as u16; 2], [0u16; 6]);
        let (token, mut from) = ([rank as i32], [9i32]);
        let value = comm.scope(|scope| {
            scope.all_reduce(&mut a, ReduceOp::Sum);
            scope.all_gather((&here[..], &mut all[..]), None);
            scope.all_reduce(&mut empty[..], ReduceOp::Sum);
            scope.all_reduce(&mut b[..], ReduceOp::Sum);
            scope.all_reduce(&mut c[..], ReduceOp::Max);
            scope.broadcast(&mut seed[..], 1);
            scope.send_recv(&token, (rank + 1) % 3, &mut from, (rank + 2) % 3);
            "done"
        });
        assert_eq!(value.unwrap(), "done");
        assert_eq!((a, b, c), (vec![3.0; 1000], vec![3.0; 3], vec![2; 5]));
        assert_eq!((seed, all, from), ([1; 2], [0, 0, 1, 1, 2, 2], [(rank as i32 + 2) % 3]));
    });
}

/// Lengths from nothing to more than a staging buffer.
const LENGTHS: [usize; 9] = [1, 0, 70_001, 3, 3, 0, 1024, 5000, 2];

#[test]
fn a_batch_of_mixed_types_is_each_tensor_by_itself() {
    for world in [1, 2, 3, 4] {
        on_groups(world, |comm| {
            let rank = comm.rank();
            let value = |tensor: usize, i: usize| (tensor * 31 + i % 97 + rank) as u64;
            let mut f: Vec<Vec<f32>> = (LENGTHS.iter().enumerate())
                .map(|(t, &len)| (0..len).map(|i| value(t, i) as f32).collect())
                .collect();
            let mut u: Vec<Vec<u64>> = (LENGTHS.iter().enumerate())
                .map(|(t, &len)| (0..len).map(|i| value(t, i)).collect())
                .collect();
            let mut tensors: Vec<TensorMut<'_>> = Vec::new();
            for (f, u) in f.iter_mut().zip(&mut u) {
                tensors.push(TensorMut::from_slice(f));
                tensors.push(TensorMut::from_slice(u));
            }
            comm.all_reduce_batch(&mut tensors, ReduceOp::Sum).unwrap();
            let ranks: u64 = (0..world as u64).sum();
            for (t, (f, u)) in f.iter().zip(&u).enumerate() {
                assert_eq!(u.len(), LENGTHS[t]);
                for (i, (f, u)) in f.iter().zip(u).enumerate() {
                    let expected = (value(t, i) - rank as u64) * world as u64 + ranks;
                    assert_eq!((*f, *u), (expected as f32, expected), "element {i} of tensor {t}");
                }
            }
        });
    }
}

/// Sums whose bits depend on the order of combination.
fn rounding(rank: usize, i: usize) -> f32 {
    let magnitude = [1e8f32, 1.0, 1e-3, 3e4][(rank + i) % 4];
    magnitude * (1.0 + (i * 7 + rank * 13) as f32 / 101.0)
}

#[test]
fn fixed_order_has_the_same_bits_however_a_batch_is_laid_out() {
    let total = 10_000;
    for world in [2, 3, 4, 5, 8] {
        let layouts: [&[usize]; 4] =
            [&[total], &[1, total - 1], &[4999, 2, 0, 4999], &[100, 900, 1000, 3000, 5000]];
        let mut seen: Vec<Vec<u32>> = Vec::new();
        for layout in layouts {
            for bits in on(Communicator::local(world), &|comm: Communicator| {
                let mut at = 0;
                let mut parts: Vec<Vec<f32>> = (layout.iter())
                    .map(|len| {
                        at += len;
                        (at - len..at).map(|i| rounding(comm.rank(), i)).collect()
                    })
                    .collect();
                let mut views: Vec<_> = parts.iter_mut().map(|part| TensorMut::from_slice(part)).collect();
                let with = comm.with(Options::new().order(Order::Fixed));
                with.all_reduce_batch(&mut views, ReduceOp::Sum).unwrap();
                parts.concat().iter().map(|x| x.to_bits()).collect::<Vec<u32>>()
            }) {
                seen.push(bits);
            }
        }
        assert!(seen.iter().all(|bits| *bits == seen[0]), "{world} ranks");
        let default = on(Communicator::local(world), &|comm: Communicator| {
            let mut data: Vec<f32> = (0..total).map(|i| rounding(comm.rank(), i)).collect();
            comm.with(Options::new().algorithm(ringfold::Algorithm::named("ring").unwrap()))
                .all_reduce(&mut data, ReduceOp::Sum)
                .unwrap();
            data.iter().map(|x| x.to_bits()).collect::<Vec<u32>>()
        });
        assert!(world == 2 || default[0] != seen[0], "these sums do not show the order at {world} ranks");
    }
}

#[test]
fn one_total_cut_differently_is_a_mismatch() {
    on_groups(2, |comm| {
        let layout = if comm.rank() == 0 { [4, 8] } else { [8, 4] };
        let mut parts: Vec<Vec<i32>> = layout.iter().map(|&len| vec![7; len]).collect();
        let mut views: Vec<_> = parts.iter_mut().map(|part| TensorMut::from_slice(part)).collect();
        let error = comm.all_reduce_batch(&mut views, ReduceOp::Sum).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
        assert!(parts.concat().iter().all(|&x| x == 7), "memory has changed");
    });
}

#[test]
fn a_bucket_gives_back_what_was_pushed_in_order() {
    on_groups(2, |comm| {
        for capacity in [0, 1000, 100_000_000] {
            let mut bucket = Bucket::new(&comm, capacity, ReduceOp::Mean);
            for epoch in 0..2 {
                for (layer, &len) in LENGTHS.iter().enumerate() {
                    bucket.push(vec![(layer + epoch + 2 * comm.rank()) as f32; len]).unwrap();
                }
                let reduced = bucket.finish().unwrap();
                assert_eq!(reduced.len(), LENGTHS.len());
                for (layer, (vector, &len)) in reduced.iter().zip(&LENGTHS).enumerate() {
                    assert_eq!(*vector, vec![(layer + epoch + 1) as f32; len]);
                }
            }
        }
    });
}

fn threads_named(name: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let comm = |task: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default()
    };
    tasks.map(comm).filter(|comm| comm.trim() == name).count()
}

/// In a process of its own, so that no other test's threads are counted.
#[test]
fn one_thread_serves_all_that_is_started_and_none_is_made_for_calls() {
    if !support::process::alone("one_thread_serves_all_that_is_started_and_none_is_made_for_calls") {
        return;
    }
    let progress = "ringfold-progre";
    let comm = Communicator::local(1).remove(0);
    comm.barrier().unwrap();
    assert_eq!(threads_named(progress), 0);
    for _ in 0..10 {
        comm.start_barrier().unwrap().wait().unwrap();
    }
    assert_eq!(threads_named(progress), 1);
    // Parked: a second takes it no CPU time worth counting.
    let ticks = || {
        let mut sum = 0;
        for task in std::fs::read_dir("/proc/self/task").unwrap() {
            let path = task.unwrap().path();
            if std::fs::read_to_string(path.join("comm")).unwrap_or_default().trim() == progress {
                let stat = std::fs::read_to_string(path.join("stat")).unwrap();
                let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
                sum += fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
            }
        }
        sum
    };
    let before = ticks();
    thread::sleep(Duration::from_secs(1));
    assert!(ticks() - before <= 2, "the progress thread does something");
    drop(comm);
    let until = Instant::now() + support::LONG;
    while threads_named(progress) > 0 {
        assert!(Instant::now() < until, "the progress thread stays");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn what_no_algorithm_does_is_refused_where_it_is_prepared() {
    on_groups(3, |comm| {
        let ring = || Options::new().algorithm(ringfold::Algorithm::named("ring").unwrap());
        let sent = comm.counters().bytes_sent();
        let prepared =
            |options| comm.with(options).prepare_all_reduce(vec![1.0f32; 9], ReduceOp::Sum).map(drop);
        prepared(ring()).unwrap();
        // A ring does not combine in the fixed order.
        assert_eq!(prepared(ring().order(Order::Fixed)).unwrap_err().kind(), ErrorKind::Unsupported);
        let bruck = Options::new().algorithm(ringfold::Algorithm::named("bruck").unwrap());
        assert_eq!(prepared(bruck).unwrap_err().kind(), ErrorKind::Unsupported);
        // Nothing has been sent, and no place in the order taken.
        assert_eq!(comm.counters().bytes_sent(), sent);
        let mut step = comm.with(ring()).prepare_all_reduce(vec![1.0f32; 9], ReduceOp::Sum).unwrap();
        step.run().unwrap();
        assert_eq!(step.buffer().unwrap()[..], [3.0; 9]);
    });
}
