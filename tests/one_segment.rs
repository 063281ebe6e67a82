//! Shared memory among threads that hold one mapping of their segment: whoever watches the memory of a process sees the ranks meet
//! there. The thread sanitizer and miri go through these tests (`tests/sanitize.sh`), and find the faults that the script
//! puts into the library's protocols; each of the first three tests is for one of those.
//!
//! Under miri the segment is memory of the heap, and nobody reads another process's memory.

mod calls;

use calls::call::{Call, Placement};
use calls::group::{PlannedRank, Way};
use calls::suite::{Seeded, algorithms, run_all};
use ringfold::backend::{Backend, Buffers, Operation};
use ringfold::collective::Request;
use ringfold::error::Cause;
use ringfold::memory::{Arena, Segment};
use ringfold::observe::Poison;
use ringfold::plan::select::Table;
use ringfold::plan::{Algorithm, Reach, Schedule};
use ringfold::transport::shm::{Ground, ShmSeat, ShmSetup, ShmTransport};
use ringfold::{Collective, DType, ReduceOp};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const REACH: Reach = if cfg!(miri) { Reach::Slots } else { Reach::Memory };

/// The segment's length: under miri all of it is memory.
const LEN: usize = if cfg!(miri) { 24 << 20 } else { 1 << 30 };

/// How many bytes a ring holds: messages go round its end.
const CAPACITY: usize = 128;

/// Elements of 8 bytes: nothing, one, as many as share a line with their stamp, one more, the last that go in line, and more.
const COUNTS: &[usize] = if cfg!(miri) { &[1, 8] } else { &[0, 1, 7, 8, 256, 257, 5000] };

const WORLDS: &[usize] = if cfg!(miri) { &[2, 3] } else { &[2, 3, 4] };

/// How often each call is made.
const TIMES: u64 = if cfg!(miri) { 1 } else { 2 };

/// Only detects a hang.
const PATIENT: Duration = Duration::from_secs(600);

/// Ranks over one segment, whose control plane is a list of poisons.
fn group(world: usize) -> Vec<PlannedRank<ShmTransport>> {
    let segment = Arc::new(Segment::create(LEN).unwrap());
    let ground = |rank| Arc::new(Ground::new(Arena::new(Arc::clone(&segment), rank, world)));
    let seats: Vec<_> = (0..world).map(|rank| ShmSeat::new(&ground(rank), world).unwrap()).collect();
    let offsets: Vec<u64> = seats.iter().map(ShmSeat::offset).collect();
    let own = std::process::id().cast_signed();
    let processes = (REACH == Reach::Memory).then(|| vec![own; world].into());
    let poisons: Arc<Mutex<Vec<Arc<Poison>>>> = Arc::default();
    let rank = |(rank, seat)| {
        let poison = Arc::new(Poison::new());
        poisons.lock().unwrap().push(Arc::clone(&poison));
        let all = Arc::clone(&poisons);
        let report = Box::new(move |cause: &Cause| {
            all.lock().unwrap().iter().for_each(|poison| {
                poison.set(cause.clone());
            });
        });
        let setup = ShmSetup {
            rank,
            seat,
            seats: offsets.clone(),
            poison,
            report,
            spins: if cfg!(miri) { 1 } else { 20 },
            shares_cpus: rank == 1,
            capacity: CAPACITY,
            processes: processes.clone(),
        };
        PlannedRank::new("shm", ShmTransport::new(setup).unwrap(), 1 << 12, Table::default())
    };
    seats.into_iter().enumerate().map(rank).collect()
}

const WAY: Way =
    Way { name: "shm in one segment", reach: REACH, of_library: false, form: |world| Box::new(group(world)) };

/// Makes each of these calls on a group of each size, where its algorithm can; twice but under miri.
fn run(calls: impl Fn(usize) -> Vec<Call>) {
    run_on(group, calls);
}

/// The same on groups that are made like this.
fn run_on(form: impl Fn(usize) -> Vec<PlannedRank<ShmTransport>>, calls: impl Fn(usize) -> Vec<Call>) {
    for &world in WORLDS {
        let can = |call: &Call| {
            let request = call.request(world, 0);
            call.algorithm.is_none_or(|algorithm| algorithm.check(&request).is_ok())
        };
        let calls = calls(world).into_iter().filter(can).map(|call| call.deadline(PATIENT));
        let calls: Vec<Seeded> =
            calls.flat_map(|call| (0..TIMES).map(move |seed| (call.clone(), seed))).collect();
        assert!(!calls.is_empty());
        run_all(&mut form(world), world, &calls).unwrap_or_else(|fault| panic!("{fault}"));
    }
}

fn all_reduces(counts: &[usize], algorithm: &str) -> Vec<Call> {
    let algorithm = Algorithm::named(algorithm).unwrap();
    let call = |&count: &usize| Call::new(Collective::AllReduce, DType::U64, count).algorithm(algorithm);
    let both = |call: Call| [call.clone(), call.placement(Placement::In).op(ReduceOp::Max)];
    counts.iter().map(call).flat_map(both).collect()
}

#[test]
fn rings() {
    run(|_| all_reduces(&[30], "ring"));
}

#[test]
fn slots_in_line() {
    run(|_| all_reduces(&[7, 8], "flat"));
}

#[test]
fn slots_and_their_flags() {
    run(|_| all_reduces(&[257], "flat"));
}

#[test]
fn every_collective_by_every_algorithm() {
    run(|world| {
        let mut calls = Vec::new();
        for collective in Collective::ALL {
            for algorithm in algorithms(REACH, collective) {
                for &count in COUNTS {
                    let count = if collective == Collective::Barrier { 0 } else { count };
                    let call = Call::new(collective, DType::I64, count).algorithm(algorithm).root(world - 1);
                    let mixed = call.clone().root(0).placement(Placement::Mixed);
                    calls.extend([call, mixed]);
                }
            }
        }
        calls
    });
}

#[test]
fn messages_keep_their_order() {
    calls::messages::in_order(&WAY);
}

/// Little that would go in line, were it not cut by hand: of which those who only receive see nothing in their own plans.
#[test]
fn slices_that_are_given_by_hand() {
    for slice in [1, 3, 1000] {
        let form = |world| group(world).into_iter().map(|rank| rank.in_slices(slice)).collect();
        run_on(form, |world| {
            let flat = Algorithm::named("flat").unwrap();
            let counts = [1, 2, 3, 4, 7].into_iter();
            let call = |count| Call::new(Collective::AllReduce, DType::I64, count).algorithm(flat);
            let of = |collective, call: Call| Call { collective, ..call.root(world - 1) };
            let all = Collective::ALL.into_iter().filter(|collective| *collective != Collective::Barrier);
            counts.flat_map(|count| all.clone().map(move |one| of(one, call(count)))).collect()
        });
    }
}

/// Somebody who looks all the time while operations wait for a rank that is late.
#[test]
fn no_counter_goes_down() {
    const ROUNDS: u64 = 200;
    let flat = Schedule::whole(Algorithm::named("flat").unwrap());
    let mut ranks = group(2);
    let meter = ranks[0].backend.meter();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut before = meter.snapshot().of(Collective::AllReduce);
            while !over.load(Ordering::Relaxed) {
                let now = meter.snapshot().of(Collective::AllReduce);
                assert!(
                    now.completed >= before.completed && now.bytes >= before.bytes,
                    "{before:?}, {now:?}"
                );
                before = now;
            }
            assert_eq!(meter.snapshot().of(Collective::AllReduce).completed, ROUNDS);
        });
        let rounds = ranks.iter_mut().enumerate().map(|(rank, one)| {
            scope.spawn(move || {
                for sequence in 0..ROUNDS {
                    if rank == 1 {
                        std::thread::sleep(Duration::from_micros(300));
                    }
                    let mut data = [1u64, 2];
                    let pointer = (&raw mut data).cast();
                    let buffers = Buffers { input: pointer, output: pointer };
                    let mut request = Request::new(Collective::AllReduce, 2, DType::U64, data.len());
                    request.in_place = true;
                    // SAFETY: the memory is as long as the request says, and nobody else's until the call returns.
                    let operation =
                        unsafe { Operation::new(request, flat, sequence, false, PATIENT, buffers) };
                    one.backend.run(&mut Some(operation)).unwrap();
                    assert_eq!(data, [2, 4]);
                }
            })
        });
        let rounds: Vec<_> = rounds.collect();
        rounds.into_iter().for_each(|rank| rank.join().unwrap());
        over.store(true, Ordering::Relaxed);
    });
}
