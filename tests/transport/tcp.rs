//! Loopback.

use super::program::{Program, Step, Stream, await_verdict};
use super::suite::{Rank, contract};
use ringfold::error::{Cause, CauseKind, ErrorKind};
use ringfold::observe::{Poison, Time};
use ringfold::transport::tcp::{Seat, TcpSetup, TcpTransport};
use ringfold::transport::{Channel, Direction, Interest, Transport};
use std::io::IoSlice;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

const C: Channel = Channel::COLLECTIVE;

pub(crate) const WORLD_ID: u64 = 0x1234_5678_9abc_def0;

/// Bound listeners and their addresses.
pub(crate) fn listeners(world: usize) -> (Vec<TcpListener>, Vec<SocketAddr>) {
    let listeners: Vec<_> = (0..world).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let addresses = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
    (listeners, addresses)
}

/// A rank whose reports do nothing.
pub(crate) fn setup(rank: usize, listener: TcpListener, peers: &[SocketAddr]) -> TcpSetup {
    TcpSetup {
        rank,
        world: peers.len(),
        generation: 0,
        world_id: WORLD_ID,
        communicator: 0,
        seat: Seat::new(listener).unwrap(),
        peers: peers.to_vec(),
        poison: Arc::new(Poison::new()),
        report: Box::new(|_| {}),
        spins: 0,
    }
}

/// A world whose control plane is the links' own hearsay.
pub(crate) fn plain(world: usize) -> Vec<TcpTransport> {
    let (listeners, peers) = listeners(world);
    let make = |(rank, listener)| TcpTransport::new(setup(rank, listener, &peers)).unwrap();
    listeners.into_iter().enumerate().map(make).collect()
}

/// A world whose control plane is a shared list of poisons.
fn connected(world: usize) -> Vec<Rank> {
    let (listeners, peers) = listeners(world);
    let poisons: Arc<Mutex<Vec<Arc<Poison>>>> = Arc::default();
    let mut ranks: Vec<Rank> = Vec::new();
    for (rank, listener) in listeners.into_iter().enumerate() {
        let mut setup = setup(rank, listener, &peers);
        let poison = Arc::clone(&setup.poison);
        poisons.lock().unwrap().push(Arc::clone(&poison));
        let all = Arc::clone(&poisons);
        setup.report = Box::new(move |cause| {
            all.lock().unwrap().iter().for_each(|poison| {
                poison.set(cause.clone());
            });
        });
        ranks.push((Box::new(TcpTransport::new(setup).unwrap()), poison));
    }
    ranks
}

#[test]
fn tcp_keeps_the_contract() {
    contract(connected, 24 << 20);
}

#[test]
fn a_setup_that_cannot_be_right_is_refused() {
    let (mut listeners, peers) = listeners(2);
    let setup = setup(2, listeners.remove(0), &peers);
    assert_eq!(TcpTransport::new(setup).unwrap_err().kind(), ErrorKind::InvalidArgument);
}

/// Lets rank 0 send to rank 1 until the link stands.
pub(crate) fn link(ranks: &mut [TcpTransport]) {
    let (a, b) = ranks.split_at_mut(1);
    let (a, b) = (&mut a[0], &mut b[0]);
    let mut sent = 0;
    let mut received = 0;
    while received < 1 {
        if sent == 0 {
            sent = a.try_send(1, C, &[IoSlice::new(b"!")]).unwrap();
        }
        received += b.try_recv(0, C, &mut [0]).unwrap();
    }
}

#[test]
fn a_cause_travels_by_links_in_both_directions_where_the_control_plane_is_slow() {
    let cause = Cause {
        generation: 0,
        sequence: 9,
        kind: CauseKind::Deadline,
        culprit: 1,
        reporter: 0,
        detail: "late".into(),
    };
    // Along the link, and against it.
    for reporter in [0, 1] {
        let mut ranks = plain(2);
        link(&mut ranks);
        ranks[reporter].report(&cause);
        let listener = &mut ranks[1 - reporter];
        let direction = if reporter == 0 { Direction::Receive } else { Direction::Send };
        let interest = Interest { peer: reporter, channel: C, direction };
        let start = Instant::now();
        while listener.verdict().is_none() {
            assert!(start.elapsed() < Duration::from_secs(10));
            listener.wait(&[interest], Time::NEVER);
            match direction {
                Direction::Receive => drop(listener.try_recv(reporter, C, &mut [0]).unwrap()),
                Direction::Send => thread::yield_now(),
            }
        }
        assert_eq!(listener.verdict(), Some(cause.clone()));
        assert!(start.elapsed() >= Duration::from_millis(45), "hearsay waits for the verdict");
    }
}

#[test]
fn a_cause_on_a_link_is_passed_on_once() {
    let (mut listeners, peers) = listeners(2);
    let heard: Arc<Mutex<Vec<Cause>>> = Arc::default();
    let mut second = setup(1, listeners.pop().unwrap(), &peers);
    let told = Arc::clone(&heard);
    second.report = Box::new(move |cause| told.lock().unwrap().push(cause.clone()));
    let first = setup(0, listeners.pop().unwrap(), &peers);
    let mut ranks = vec![TcpTransport::new(first).unwrap(), TcpTransport::new(second).unwrap()];
    link(&mut ranks);
    let cause = Cause {
        generation: 0,
        sequence: 1,
        kind: CauseKind::Abort,
        culprit: 0,
        reporter: 0,
        detail: String::new(),
    };
    ranks[0].report(&cause);
    ranks[0].report(&cause);
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(100) {
        assert_eq!(ranks[1].try_recv(0, C, &mut [0]), Ok(0));
    }
    assert_eq!(*heard.lock().unwrap(), [cause]);
}

#[test]
fn one_that_has_left_is_named() {
    let (mut listeners, mut peers) = listeners(2);
    drop(listeners.pop());
    let mut transport = TcpTransport::new(setup(0, listeners.pop().unwrap(), &peers)).unwrap();
    let address = peers.pop().unwrap();
    let fault = loop {
        match transport.try_send(1, C, &[IoSlice::new(b"x")]) {
            Ok(0) => {}
            other => break other.unwrap_err(),
        }
    };
    assert_eq!((fault.peer, fault.kind), (1, CauseKind::Closed));
    assert!(fault.detail.contains(&address.to_string()), "{}", fault.detail);
}

#[test]
fn one_that_leaves_before_it_was_ever_needed_is_missed_in_time() {
    let mut ranks = plain(2);
    link(&mut ranks);
    let gone = ranks.pop().unwrap();
    drop(gone);
    let start = Instant::now();
    let mut program = Program::new(0, 10, vec![Stream::recv(1, C, 10)]);
    assert_eq!(program.run(&mut ranks[0]), Step::Done);
    assert_eq!(program.streams[0].fault.as_ref().unwrap().kind, CauseKind::Closed);
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn leaving_with_unread_bytes_loses_none_that_were_sent() {
    for _ in 0..20 {
        let mut ranks = plain(2);
        link(&mut ranks);
        let mut there = ranks.pop().unwrap();
        let mut here = ranks.pop().unwrap();
        // Rank 1 has never read these.
        let mut unread = Program::new(0, 9000, vec![Stream::send(1, Channel(5), 9000)]);
        unread.run_clean(&mut here);
        let mut sender = Program::new(7, 100_000, vec![Stream::send(0, C, 300_000)]);
        let mut receiver = Program::new(8, 5000, vec![Stream::recv_until_fault(1, C)]);
        while sender.step(&mut there) != Step::Done {
            receiver.step(&mut here);
        }
        drop(there);
        assert_eq!(receiver.run(&mut here), Step::Done);
        let stream = &receiver.streams[0];
        assert_eq!(stream.done, 300_000);
        assert_eq!(stream.fault.as_ref().unwrap().kind, CauseKind::Closed);
    }
}

#[test]
fn a_panic_says_no_goodbye() {
    let mut ranks = plain(2);
    link(&mut ranks);
    let mut there = ranks.remove(0);
    thread::spawn(move || {
        let _mine = ranks;
        panic!("on purpose");
    })
    .join()
    .unwrap_err();
    let mut program = Program::new(0, 10, vec![Stream::send(1, C, usize::MAX >> 1)]);
    assert_eq!(program.run(&mut there), Step::Done);
    let fault = program.streams[0].fault.clone().unwrap();
    assert!(!fault.detail.contains("left the group"), "{fault:?}");
}

#[test]
fn poison_set_before_the_wait_is_seen() {
    let mut ranks = plain(1);
    let (mut listeners, peers) = listeners(1);
    let setup = setup(0, listeners.remove(0), &peers);
    let poison = Arc::clone(&setup.poison);
    ranks[0] = TcpTransport::new(setup).unwrap();
    let cause = Cause {
        generation: 0,
        sequence: 1,
        kind: CauseKind::Abort,
        culprit: 0,
        reporter: 0,
        detail: String::new(),
    };
    poison.set(cause.clone());
    ranks[0].wait(&[], Time::NEVER);
    assert_eq!(await_verdict(&mut ranks[0]), cause);
}
