//! The steady state allocates nothing: not a blocking call, not a started one, not a prepared one. Scopes and batches, which
//! gather lists, do allocate, and are not looked at here; nor are reductions of the user's own.
//!
//! One test in a process of its own, since it counts every allocation of every thread.

use ringfold::config::BackendChoice;
use ringfold::{Communicator, Options, Order, ReduceOp, Tensors};
use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::Duration;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

#[path = "support/mod.rs"]
mod support;

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

/// Whether the next allocation is to be remembered, and where it came from.
static ARMED: AtomicBool = AtomicBool::new(false);
static FIRST: Mutex<Option<Backtrace>> = Mutex::new(None);

fn count() {
    ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    if ARMED.load(Ordering::Relaxed) && ARMED.swap(false, Ordering::SeqCst) {
        *FIRST.lock().unwrap() = Some(Backtrace::force_capture());
    }
}

// SAFETY: everything is handed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A subscriber that wants to hear nothing.
struct Deaf;

impl Subscriber for Deaf {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        false
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// A group as of processes, which may write traces. Its heartbeats, whose frames are made anew each time, are rarer than
/// the test is long.
fn processes(world: usize, backend: BackendChoice, trace: Option<&Path>) -> Vec<Communicator> {
    let store = support::unused_address();
    support::on_ranks(world, |rank| {
        let config = support::config(rank, world).with_store(&*store).with_backend(backend);
        let mut config = config.with_heartbeat_deadline(Duration::from_secs(600));
        config.trace = trace.map(Path::to_owned);
        Communicator::connect(&config).unwrap()
    })
}

/// One step of a training loop that does a little of everything.
struct Step<'c> {
    comm: &'c Communicator,
    data: Vec<f32>,
    output: Vec<f32>,
    counts: Vec<usize>,
    started: Option<Vec<f32>>,
    prepared: ringfold::Prepared<'c, Vec<f64>>,
}

impl<'c> Step<'c> {
    fn new(comm: &'c Communicator) -> Self {
        let world = comm.world_size();
        Step {
            comm,
            data: vec![1.0; 10_000 * world],
            output: vec![0.0; 10_000 * world],
            counts: (0..world).map(|rank| 10_000 - rank).collect(),
            started: Some(vec![1.0; 100_000]),
            prepared: comm.prepare_all_reduce(vec![1.0; 50_000], ReduceOp::Mean).unwrap(),
        }
    }

    fn run(&mut self) {
        let (comm, rank) = (self.comm, self.comm.rank());
        comm.all_reduce(&mut self.data[..1], ReduceOp::Sum).unwrap();
        comm.all_reduce(&mut self.data, ReduceOp::Max).unwrap();
        comm.with(Options::new().order(Order::Fixed))
            .all_reduce(&mut self.data[..500], ReduceOp::Sum)
            .unwrap();
        comm.reduce_scatter(&self.data, &mut self.output[..10_000], ReduceOp::Sum).unwrap();
        comm.all_gather(&self.data[..10_000], &mut self.output).unwrap();
        let all: usize = self.counts.iter().sum();
        let mine = self.counts[rank];
        comm.all_gather_v(&self.data[..mine], &mut self.output[..all], &self.counts).unwrap();
        comm.broadcast_dyn(Tensors::from(&mut self.data[..]), 1).unwrap();
        comm.all_to_all(&self.data, &mut self.output).unwrap();
        comm.reduce(&mut self.data, ReduceOp::Min, 0).unwrap();
        comm.barrier().unwrap();

        let pending = comm.start_all_reduce(self.started.take().unwrap(), ReduceOp::Min).unwrap();
        // A call behind a started one.
        comm.all_reduce(&mut self.data[..7], ReduceOp::Max).unwrap();
        self.started = Some(pending.wait().unwrap());

        self.prepared.run().unwrap();
        self.prepared.start().unwrap();
        self.prepared.wait().unwrap();
    }
}

#[test]
fn the_steady_state_allocates_nothing() {
    tracing::subscriber::set_global_default(Deaf).unwrap();
    let directory = std::env::temp_dir().join(format!("ringfold-allocation-{}", std::process::id()));
    // Kept to the end: threads of a group that is gone may still be ending while the next one is counted.
    let mut groups = [
        ("threads", Communicator::local(3)),
        ("shared memory", processes(3, BackendChoice::Shm, None)),
        ("sockets", processes(3, BackendChoice::Tcp, None)),
        ("sockets with a trace", processes(3, BackendChoice::Tcp, Some(&directory))),
    ];
    for (name, group) in &mut groups {
        let together = Barrier::new(3);
        let (together, name) = (&together, &*name);
        thread::scope(|scope| {
            for comm in group {
                scope.spawn(move || {
                    let mut step = Step::new(comm);
                    for _ in 0..10 {
                        step.run();
                    }
                    together.wait();
                    let before = ALLOCATIONS.load(Ordering::SeqCst);
                    ARMED.store(true, Ordering::SeqCst);
                    together.wait();
                    for _ in 0..50 {
                        step.run();
                    }
                    together.wait();
                    let during = ALLOCATIONS.load(Ordering::SeqCst) - before;
                    together.wait();
                    ARMED.store(false, Ordering::SeqCst);
                    let first = FIRST.lock().unwrap();
                    assert_eq!(during, 0, "allocations in 50 steps of 3 ranks over {name}: {first:#?}");
                });
            }
        });
    }
    drop(groups);
    std::fs::remove_dir_all(directory).unwrap();
}
