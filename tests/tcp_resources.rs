//! What the TCP transport takes of the process: no memory once its links stand, and descriptors that may run out.
//! Both are properties of the whole process, so they are one test in a process of their own.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use ringfold::error::CauseKind;
use ringfold::observe::{Poison, Time};
use ringfold::transport::tcp::{Seat, TcpSetup, TcpTransport};
use ringfold::transport::{Channel, Direction, Interest, Transport};
use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::File;
use std::io::IoSlice;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are the system allocator's conditions.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; the pointer came from there.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn world() -> Vec<TcpTransport> {
    let listeners: Vec<_> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let peers: Vec<_> = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
    let make = |(rank, listener)| {
        TcpTransport::new(TcpSetup {
            rank,
            world: 2,
            generation: 0,
            world_id: 1,
            communicator: 0,
            seat: Seat::new(listener).unwrap(),
            peers: peers.clone(),
            poison: Arc::new(Poison::new()),
            report: Box::new(|_| {}),
            spins: 0,
        })
        .unwrap()
    };
    listeners.into_iter().enumerate().map(make).collect()
}

/// Moves `bytes` each way at once, in one thread.
fn exchange(ranks: &mut [TcpTransport], data: &[u8], into: &mut [u8]) {
    let bytes = data.len();
    let (mut sent, mut received) = ([0; 2], [0; 2]);
    while received != [bytes; 2] {
        let mut moved = 0;
        for rank in 0..2 {
            let peer = 1 - rank;
            let part = [IoSlice::new(&data[sent[rank]..])];
            let now = ranks[rank].try_send(peer, Channel::COLLECTIVE, &part).unwrap();
            sent[rank] += now;
            moved += now;
            let rest = &mut into[received[rank]..];
            let now = ranks[rank].try_recv(peer, Channel::COLLECTIVE, rest).unwrap();
            received[rank] += now;
            moved += now;
        }
        if moved == 0 {
            let until = ranks[0].now().after(Duration::from_micros(50));
            let interest = |direction| Interest { peer: 1, channel: Channel::COLLECTIVE, direction };
            ranks[0].wait(&[interest(Direction::Receive), interest(Direction::Send)], until);
        }
    }
}

fn steady_links_allocate_nothing() {
    let mut ranks = world();
    let data = vec![3; 3 << 20];
    let mut into = vec![0; 3 << 20];
    let sizes = [8, 100, 1024, 1025, 5000, 70_000, 3 << 20, 40, 300_000, 2000];
    let round = |ranks: &mut [TcpTransport], into: &mut [u8]| {
        sizes.into_iter().for_each(|size| exchange(ranks, &data[..size], &mut into[..size]));
    };
    for _ in 0..10 {
        round(&mut ranks, &mut into);
    }
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for _ in 0..20 {
        round(&mut ranks, &mut into);
    }
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - before, 0);
}

fn missing_descriptors_are_said_and_cost_no_cpu() {
    let mut ranks = world();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 64.min(hard), hard).unwrap();
    // The connection is made while there is a descriptor, and cannot be accepted after.
    assert!(ranks[1].try_send(0, Channel::COLLECTIVE, &[IoSlice::new(b"early")]).is_ok());
    let mut all = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        all.push(file);
    }
    let fault = ranks[0].try_send(1, Channel::COLLECTIVE, &[IoSlice::new(b"x")]).unwrap_err();
    assert!(fault.detail.contains("descriptor"), "{fault:?}");

    let interest = Interest { peer: 1, channel: Channel::COLLECTIVE, direction: Direction::Receive };
    let (start, mut turns) = (Instant::now(), 0);
    let fault = loop {
        match ranks[0].try_recv(1, Channel::COLLECTIVE, &mut [0; 5]) {
            Ok(received) => assert_eq!(received, 0),
            Err(fault) => break fault,
        }
        ranks[0].wait(&[interest], Time::NEVER);
        turns += 1;
    };
    assert_eq!(fault.kind, CauseKind::Unreachable);
    assert!(fault.detail.contains("descriptor"), "{fault:?}");
    assert!(start.elapsed() < Duration::from_secs(10));
    assert!(turns < 200, "{turns} turns are a spin");

    // With descriptors it goes on.
    all.clear();
    let mut into = [0; 5];
    let mut received = 0;
    while received < 5 {
        received += ranks[0].try_recv(1, Channel::COLLECTIVE, &mut into[received..]).unwrap_or(0);
        assert!(start.elapsed() < Duration::from_secs(20));
    }
    assert_eq!(&into, b"early");
}

#[test]
fn resources() {
    steady_links_allocate_nothing();
    missing_descriptors_are_said_and_cost_no_cpu();
}
