//! What a small call costs before the backend has it: the whole call in a group of one, beside the same operation given
//! to the same backend by hand.
//!
//! `cargo bench --bench path` prints nanoseconds, medians of samples that are taken in turn. What is above the backend is
//! the difference to its line.

use ringfold::backend::{Backend, Buffers, Meter, Operation, Planned, STAGING};
use ringfold::collective::{Collective, Request};
use ringfold::plan::Schedule;
use ringfold::transport::channel::channel;
use ringfold::{Algorithm, Communicator, DType, Options, Order, ReduceOp};
use std::cell::RefCell;
use std::hint::black_box;
use std::time::{Duration, Instant};

const SAMPLES: usize = 101;
const EACH: usize = 5_000;

/// What is measured, and how it is done once.
type Way<'a> = (&'static str, Box<dyn FnMut() + 'a>);

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// An all_reduce of two f32 in place, given to a backend by hand.
fn by_hand(backend: &mut dyn Backend, schedule: Schedule, sequence: u64, data: &mut [f32]) {
    let mut request = Request::new(Collective::AllReduce, 1, DType::F32, data.len());
    request.in_place = true;
    let pointer = data.as_mut_ptr().cast();
    let buffers = Buffers { input: pointer, output: pointer };
    let timeout = Duration::from_secs(60);
    // SAFETY: the memory is borrowed exclusively, as long as the request says, until the operation is complete.
    let operation = unsafe { Operation::new(request, schedule, sequence, false, timeout, buffers) };
    backend.run(&mut Some(operation)).unwrap();
}

fn main() {
    // `cargo test --benches` only wants to know that it builds.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let comm = Communicator::local(1).remove(0);
    let data = RefCell::new(vec![1.0f32; 8]);
    let fixed = comm.with(Options::new().order(Order::Fixed));
    let mut prepared = comm.prepare_all_reduce(vec![1.0f32; 2], ReduceOp::Sum).unwrap();
    let add = ReduceOp::custom("add", true, |a: f32, b: f32| a + b);
    let mut backend = Planned::new("channel", channel(1).remove(0), 0, 0, STAGING);
    let schedule = Schedule::whole(Algorithm::named("recursive_doubling").unwrap());
    let (mut sequence, mut turn) = (0, 0);
    let meter = Meter::new(1);

    let mut ways: Vec<Way<'_>> = vec![
        (
            "the backend by itself",
            Box::new(|| {
                by_hand(&mut backend, schedule, sequence, &mut data.borrow_mut()[..2]);
                sequence += 1;
            }),
        ),
        ("all_reduce", Box::new(|| comm.all_reduce(&mut data.borrow_mut()[..2], ReduceOp::Sum).unwrap())),
        ("all_reduce, prepared", Box::new(|| prepared.run().unwrap())),
        (
            "all_reduce, with options",
            Box::new(|| fixed.all_reduce(&mut data.borrow_mut()[..2], ReduceOp::Sum).unwrap()),
        ),
        (
            "all_reduce, four lengths in turn",
            Box::new(|| {
                turn = turn % 4 + 1;
                comm.all_reduce(&mut data.borrow_mut()[..turn], ReduceOp::Sum).unwrap();
            }),
        ),
        (
            "all_reduce, a reduction of the user's",
            Box::new(|| comm.all_reduce(&mut data.borrow_mut()[..2], &add).unwrap()),
        ),
        ("barrier", Box::new(|| comm.barrier().unwrap())),
        ("two looks at the clock", Box::new(|| _ = black_box((Instant::now(), Instant::now())))),
        (
            "one operation counted",
            Box::new(|| black_box(&meter).ended(Collective::AllReduce, 8, Duration::from_nanos(9), true)),
        ),
    ];
    let mut times = vec![Vec::new(); ways.len()];
    for sample in 0..SAMPLES + 2 {
        for ((_, way), times) in ways.iter_mut().zip(&mut times) {
            let begun = Instant::now();
            for _ in 0..EACH {
                way();
            }
            // The first ones make plans.
            if sample >= 2 {
                times.push(begun.elapsed().as_secs_f64() * 1e9 / EACH as f64);
            }
        }
    }
    let backend = median(times[0].clone());
    println!("{:<40} {:>10} {:>16}", "", "ns", "above the backend");
    for ((name, _), times) in ways.iter().zip(times) {
        let time = median(times);
        match *name {
            name if name.contains("all_reduce") => {
                println!("{name:<40} {time:>10.1} {:>16.1}", time - backend)
            }
            name => println!("{name:<40} {time:>10.1}"),
        }
    }
}
