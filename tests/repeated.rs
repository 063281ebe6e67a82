//! Calls that repeat earlier ones, which are remembered, among calls that differ from them in one thing: none may be
//! taken for another.

use ringfold::plan::Algorithm;
use ringfold::tensor::{Device, TensorMut, TensorRef};
use ringfold::{Check, Communicator, DType, ErrorKind, Options, Order, ReduceOp};
use std::time::Duration;

#[path = "support/mod.rs"]
mod support;

const WORLD: usize = 3;

fn on<T: Send>(group: Vec<Communicator>, body: impl Fn(Communicator) -> T + Sync) -> Vec<T> {
    let body = &body;
    std::thread::scope(|scope| {
        let threads: Vec<_> = group.into_iter().map(|comm| scope.spawn(move || body(comm))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// A call with a check of what came of it. Rank r's values are r + 1 and on.
type Step = fn(&Communicator);

/// This rank's input of so many elements: r + 1, r + 2, ...
fn mine<T: From<u8>>(comm: &Communicator, len: usize) -> Vec<T> {
    (0..len).map(|i| T::from((comm.rank() + 1 + i) as u8)).collect()
}

/// The sums of all ranks' inputs: 6, 9, 12, ...
fn sums<T: From<u8>>(len: usize) -> Vec<T> {
    (0..len).map(|i| T::from((6 + 3 * i) as u8)).collect()
}

fn reduced<T: ringfold::Element + From<u8> + PartialEq + std::fmt::Debug>(
    comm: &Communicator,
    len: usize,
    root: usize,
) {
    let mut data = mine::<T>(comm, len);
    comm.reduce(&mut data, ReduceOp::Sum, root).unwrap();
    assert_eq!(data, if comm.rank() == root { sums(len) } else { mine(comm, len) });
}

fn summed<T: ringfold::Element + From<u8> + PartialEq + std::fmt::Debug>(comm: &Communicator, len: usize) {
    let mut data = mine::<T>(comm, len);
    comm.all_reduce(&mut data, ReduceOp::Sum).unwrap();
    assert_eq!(data, sums(len));
}

fn broadcast(comm: &Communicator, root: usize) {
    let mut data = mine::<f32>(comm, 2);
    comm.broadcast(&mut data, root).unwrap();
    assert_eq!(data, [root as f32 + 1.0, root as f32 + 2.0]);
}

fn gathered(comm: &Communicator, root: usize) {
    let mut all = [0.0f32; WORLD];
    comm.gather(&mine(comm, 1), &mut all, root).unwrap();
    assert_eq!(all, if comm.rank() == root { [1.0, 2.0, 3.0] } else { [0.0; WORLD] });
}

fn gathered_in_place(comm: &Communicator, root: usize) {
    let mut all = [0.0f32; WORLD];
    let is_root = comm.rank() == root;
    let at = if is_root { root } else { 0 };
    all[at] = comm.rank() as f32 + 1.0;
    let part = if is_root { &mut all[..] } else { &mut all[..1] };
    comm.gather_dyn(part, None, root).unwrap();
    assert_eq!(all, if is_root { [1.0, 2.0, 3.0] } else { [comm.rank() as f32 + 1.0, 0.0, 0.0] });
}

fn scattered(comm: &Communicator, root: usize) {
    let mut one = [0.0f32];
    comm.scatter(&mine(comm, WORLD), &mut one, root).unwrap();
    assert_eq!(one, [(root + 1 + comm.rank()) as f32]);
}

fn gathered_blocks(comm: &Communicator, counts: [usize; WORLD]) {
    let mut all = vec![0.0f32; counts.iter().sum()];
    comm.all_gather_v(&mine(comm, counts[comm.rank()]), &mut all, &counts).unwrap();
    let expected = (0..WORLD).flat_map(|rank| (0..counts[rank]).map(move |i| (rank + 1 + i) as f32));
    assert_eq!(all, expected.collect::<Vec<_>>());
}

fn shifted(comm: &Communicator, by: usize) {
    let (to, from) = ((comm.rank() + by) % WORLD, (comm.rank() + WORLD - by) % WORLD);
    let mut got = [0.0f32; 2];
    comm.send_recv(&mine(comm, 2), to, &mut got, from).unwrap();
    assert_eq!(got, [from as f32 + 1.0, from as f32 + 2.0]);
}

fn custom(comm: &Communicator, name: &str, combine: fn(f32, f32) -> f32, expected: [f32; 2]) {
    let mut data = mine::<f32>(comm, 2);
    comm.all_reduce(&mut data, ReduceOp::custom(name, true, combine)).unwrap();
    assert_eq!(data, expected);
}

/// Where all ranks are refused alike, and where one is alone: neither takes a place in the order.
fn refused(comm: &Communicator, alone: usize) {
    if alone == WORLD || comm.rank() == alone {
        let kind = |result: ringfold::Result<()>| result.unwrap_err().kind();
        let mut data = mine::<f32>(comm, 2);
        assert_eq!(kind(comm.reduce(&mut data, ReduceOp::Sum, WORLD)), ErrorKind::InvalidArgument);
        assert_eq!(kind(comm.all_reduce(&mut data, ReduceOp::BitAnd)), ErrorKind::Unsupported);
        assert_eq!(kind(comm.all_reduce_into(&[1.0], &mut data, ReduceOp::Sum)), ErrorKind::InvalidArgument);
        assert_eq!(
            kind(comm.all_reduce_dyn(
                (TensorRef::from_slice(&[1i32, 2]), TensorMut::from_slice(&mut data)),
                ReduceOp::Sum
            )),
            ErrorKind::InvalidArgument
        );
        let integers = ReduceOp::custom("sum", true, |a: i32, b: i32| a + b);
        assert_eq!(kind(comm.all_reduce(&mut data, &integers)), ErrorKind::InvalidArgument);
        let bruck = comm.with(Options::new().algorithm(Algorithm::named("bruck").unwrap()));
        assert_eq!(kind(bruck.all_reduce(&mut data, ReduceOp::Sum)), ErrorKind::Unsupported);
        // As long as one that is remembered, but not as dense; or not here.
        let mut sparse = [0.0f32; 4];
        for (strides, device) in [(Some(&[2isize][..]), Device::Host), (None, Device::Cuda(0))] {
            let pointer = sparse.as_mut_ptr().cast();
            // SAFETY: the memory is longer than what the shape and the strides reach, and is not touched meanwhile.
            let view = unsafe { TensorMut::from_raw(pointer, DType::F32, &[2], strides, device) }.unwrap();
            assert_eq!(kind(comm.all_reduce_dyn(view, ReduceOp::Sum)), ErrorKind::Unsupported);
        }
        assert_eq!(data, mine::<f32>(comm, 2));
    }
}

/// Each differs from others in one thing only.
const STEPS: &[Step] = &[
    |comm| summed::<f32>(comm, 2),
    |comm| summed::<f32>(comm, 3),
    |comm| summed::<f32>(comm, 0),
    |comm| summed::<u32>(comm, 2),
    |comm| summed::<i32>(comm, 2),
    |comm| {
        let mut data = mine::<f32>(comm, 2);
        comm.all_reduce(&mut data, ReduceOp::Max).unwrap();
        assert_eq!(data, [3.0, 4.0]);
    },
    |comm| {
        let (input, mut output) = (mine::<f32>(comm, 2), vec![0.0; 2]);
        comm.all_reduce_into(&input, &mut output, ReduceOp::Sum).unwrap();
        assert_eq!((input, output), (mine(comm, 2), sums(2)));
    },
    |comm| reduced::<f32>(comm, 2, 0),
    |comm| reduced::<f32>(comm, 2, 1),
    |comm| reduced::<f32>(comm, 2, 2),
    |comm| {
        // Ranks that are not the root may pass any length.
        let mut output = vec![0.0f32; if comm.rank() == 1 { 2 } else { comm.rank() }];
        comm.reduce_into(&mine(comm, 2), &mut output, ReduceOp::Sum, 1).unwrap();
        let none = vec![0.0; comm.rank()];
        assert_eq!(output, if comm.rank() == 1 { sums(2) } else { none });
    },
    |comm| broadcast(comm, 0),
    |comm| broadcast(comm, 2),
    |comm| gathered(comm, 0),
    |comm| gathered(comm, 1),
    |comm| gathered_in_place(comm, 0),
    |comm| gathered_in_place(comm, 2),
    |comm| scattered(comm, 0),
    |comm| scattered(comm, 1),
    |comm| {
        let mut all = [0.0f32; WORLD];
        comm.all_gather(&mine(comm, 1), &mut all).unwrap();
        assert_eq!(all, [1.0, 2.0, 3.0]);
    },
    |comm| {
        let mut all = [0.0f32; WORLD];
        all[comm.rank()] = comm.rank() as f32 + 1.0;
        comm.all_gather_dyn(&mut all, None).unwrap();
        assert_eq!(all, [1.0, 2.0, 3.0]);
    },
    |comm| gathered_blocks(comm, [1, 1, 1]),
    |comm| gathered_blocks(comm, [1, 2, 0]),
    |comm| gathered_blocks(comm, [2, 0, 1]),
    |comm| {
        let mut one = [0.0f32];
        comm.reduce_scatter(&mine(comm, WORLD), &mut one, ReduceOp::Sum).unwrap();
        assert_eq!(one, [sums::<f32>(WORLD)[comm.rank()]]);
    },
    |comm| {
        let mut all = [0.0f32; WORLD];
        comm.all_to_all(&mine(comm, WORLD), &mut all).unwrap();
        assert_eq!(all, [0, 1, 2].map(|from| (from + 1 + comm.rank()) as f32));
    },
    |comm| comm.barrier().unwrap(),
    |comm| shifted(comm, 1),
    |comm| shifted(comm, 2),
    |comm| custom(comm, "sum", |a, b| a + b, [6.0, 9.0]),
    // The function is not known by its name.
    |comm| custom(comm, "sum", f32::max, [3.0, 4.0]),
    |comm| custom(comm, "product", |a, b| a * b, [6.0, 24.0]),
    |comm| {
        let with = comm.with(Options::new().order(Order::Fixed));
        let mut data = mine::<f32>(comm, 2);
        with.all_reduce(&mut data, ReduceOp::Sum).unwrap();
        assert_eq!(data, [6.0, 9.0]);
    },
    |comm| {
        let with = comm.with(Options::new().check(Check::Strict).deadline(support::LONG));
        let mut data = mine::<f32>(comm, 2);
        with.all_reduce(&mut data, ReduceOp::Sum).unwrap();
        assert_eq!(data, [6.0, 9.0]);
    },
    |comm| {
        let data = comm.start_all_reduce(mine::<f32>(comm, 2), ReduceOp::Sum).unwrap();
        assert_eq!(data.wait().unwrap(), [6.0, 9.0]);
    },
    |comm| refused(comm, WORLD),
    |comm| refused(comm, 1),
];

#[test]
fn no_call_is_taken_for_another() {
    for group in [Communicator::local(WORLD), support::communicators(WORLD)] {
        on(group, |comm| {
            let mut random = fastrand::Rng::with_seed(5);
            let mut prepared = comm.prepare_all_reduce(mine::<f32>(&comm, 2), ReduceOp::Sum).unwrap();
            for round in 0..60 {
                // Few of them first, which are all remembered, then more than can be; the same choice on every rank.
                let among = if round < 20 { 8 } else { STEPS.len() };
                let from = random.usize(..=STEPS.len() - among);
                for _ in 0..20 {
                    STEPS[from + random.usize(..among)](&comm);
                }
                for step in &STEPS[from..from + among] {
                    step(&comm);
                    step(&comm);
                }
                prepared.buffer_mut().unwrap().copy_from_slice(&mine::<f32>(&comm, 2));
                prepared.run().unwrap();
                assert_eq!(prepared.buffer().unwrap()[..], [6.0, 9.0]);
            }
        });
    }
}

#[test]
fn each_step_follows_each_other() {
    on(Communicator::local(WORLD), |comm| {
        for first in STEPS {
            for second in STEPS {
                first(&comm);
                second(&comm);
            }
        }
    });
}

/// What both ranks have called often with some options is another call where one rank has others.
#[test]
fn a_repeated_call_has_the_options_of_this_time() {
    let ring = Algorithm::named("ring").unwrap();
    let all = [
        ("algorithm", Options::new().algorithm(ring)),
        ("check", Options::new().check(Check::Strict)),
        ("order", Options::new().order(Order::Fixed)),
    ];
    for (what, options) in all {
        for (before, now) in [(Options::new(), options.clone()), (options.clone(), Options::new())] {
            let messages = on(Communicator::local(2), |comm| {
                let call = |options: &Options| {
                    let mut data = [1.0f32, 2.0];
                    comm.with(options.clone()).all_reduce(&mut data, ReduceOp::Sum)
                };
                for _ in 0..5 {
                    call(&before).unwrap();
                }
                call(if comm.rank() == 0 { &now } else { &before }).unwrap_err()
            });
            for error in messages {
                assert_eq!(error.kind(), ErrorKind::Mismatch, "{what}: {error}");
                assert!(error.to_string().contains(what), "{what}: {error}");
            }
        }
    }
}

#[test]
fn a_repeated_call_has_the_deadline_of_this_time() {
    on(Communicator::local(2), |comm| {
        let call = |options| {
            let mut data = [1.0f32, 2.0];
            comm.with(options).all_reduce(&mut data, ReduceOp::Sum)
        };
        for _ in 0..5 {
            call(Options::new()).unwrap();
            call(Options::new().deadline(support::LONG)).unwrap();
        }
        if comm.rank() == 0 {
            let error = call(Options::new().deadline(Duration::from_millis(100))).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Deadline, "{error}");
        } else {
            // Comes too late, and is told so.
            std::thread::sleep(Duration::from_millis(400));
            assert_eq!(call(Options::new()).unwrap_err().kind(), ErrorKind::Deadline);
        }
    });
}

#[test]
fn a_message_to_another_rank_is_another_call() {
    on(Communicator::local(WORLD), |comm| {
        for round in 0..20u32 {
            let next = (comm.rank() + 1) % WORLD;
            let other = (comm.rank() + 2) % WORLD;
            for (to, from) in [(next, other), (other, next)] {
                let mut got = [0u32];
                // In turns that cannot end in a deadlock, whether or not a transport holds a message by itself.
                if comm.rank() == 0 {
                    comm.send(&[round], to).unwrap();
                    comm.recv_dyn(TensorMut::from_slice(&mut got), from).unwrap();
                } else {
                    comm.recv(&mut got, from).unwrap();
                    comm.send_dyn(TensorRef::from_slice(&[got[0] + 1]), to).unwrap();
                }
                let hops = if comm.rank() == 0 {
                    WORLD - 1
                } else if to == next {
                    comm.rank() - 1
                } else {
                    WORLD - 1 - comm.rank()
                };
                assert_eq!(got[0], round + hops as u32);
            }
        }
    });
}
