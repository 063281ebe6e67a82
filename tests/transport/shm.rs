//! Shared memory: ranks of one process, each with a mapping of its own.

use super::suite::{Rank, contract};
use ringfold::error::{CauseKind, ErrorKind};
use ringfold::memory::{Arena, PAGE, Segment};
use ringfold::observe::{Poison, Time};
use ringfold::transport::shm::{CAPACITY, Ground, ShmSeat, ShmSetup, ShmTransport};
use ringfold::transport::{Channel, Direction, Interest, Transport};
use std::io::IoSlice;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

const C: Channel = Channel::COLLECTIVE;
const LEN: usize = 1 << 30;

/// The grounds of a world's ranks, each over a mapping of its own.
fn grounds(world: usize) -> Vec<Arc<Ground>> {
    let first = Segment::create(LEN).unwrap();
    (0..world)
        .map(|rank| {
            let descriptor = first.descriptor().try_clone_to_owned().unwrap();
            let segment = Arc::new(Segment::open(descriptor, LEN).unwrap());
            Arc::new(Ground::new(Arena::new(segment, rank, world)))
        })
        .collect()
}

/// A group over these grounds, whose control plane is a list of poisons.
fn group(grounds: &[Arc<Ground>], capacity: usize) -> Vec<(ShmTransport, Arc<Poison>)> {
    let world = grounds.len();
    let seats: Vec<_> = grounds.iter().map(|ground| ShmSeat::new(ground, world).unwrap()).collect();
    let offsets: Vec<u64> = seats.iter().map(ShmSeat::offset).collect();
    let poisons: Arc<Mutex<Vec<Arc<Poison>>>> = Arc::default();
    let make = |(rank, seat)| {
        let poison = Arc::new(Poison::new());
        poisons.lock().unwrap().push(Arc::clone(&poison));
        let all = Arc::clone(&poisons);
        let report = Box::new(move |cause: &ringfold::error::Cause| {
            all.lock().unwrap().iter().for_each(|poison| {
                poison.set(cause.clone());
            });
        });
        let seats = offsets.clone();
        let setup = ShmSetup {
            processes: None,
            rank,
            seat,
            seats,
            poison: Arc::clone(&poison),
            report,
            spins: 50,
            shares_cpus: false,
            capacity,
        };
        (ShmTransport::new(setup).unwrap(), poison)
    };
    seats.into_iter().enumerate().map(make).collect()
}

fn boxed(world: usize, capacity: usize) -> Vec<Rank> {
    let ranks = group(&grounds(world), capacity).into_iter();
    ranks.map(|(transport, poison)| (Box::new(transport) as Box<dyn Transport>, poison)).collect()
}

#[test]
fn shared_memory_keeps_the_contract() {
    contract(|world| boxed(world, CAPACITY), 24 << 20);
}

#[test]
fn it_does_with_tiny_rings() {
    contract(|world| boxed(world, 16), 200_000);
}

#[test]
fn bytes_are_shown_where_they_lie() {
    let mut ranks = group(&grounds(2), 16);
    let (mut b, _) = ranks.pop().unwrap();
    let (mut a, _) = ranks.pop().unwrap();
    let see = |shown: Option<(*const u8, usize)>| {
        let (bytes, len) = shown.expect("shared memory can be shown");
        // SAFETY: what is shown stays there until it is consumed.
        let byte = |at| unsafe { bytes.add(at).read() };
        (0..len).map(byte).collect::<Vec<u8>>()
    };
    assert_eq!(see(b.peek(0, C).unwrap()), b"");
    assert_eq!(a.try_send(1, C, &[IoSlice::new(b"0123456789ab")]), Ok(12));
    assert_eq!(see(b.peek(0, C).unwrap()), b"0123456789ab");
    b.consume(0, C, 10);
    assert_eq!(see(b.peek(0, C).unwrap()), b"ab");
    // Round the end of the ring, in two parts.
    assert_eq!(a.try_send(1, C, &[IoSlice::new(b"cdefgh")]), Ok(6));
    assert_eq!(see(b.peek(0, C).unwrap()), b"abcdef");
    b.consume(0, C, 6);
    assert_eq!(see(b.peek(0, C).unwrap()), b"gh");
    drop(a);
    assert_eq!(see(b.peek(0, C).unwrap()), b"gh", "what was sent outlives its sender");
    b.consume(0, C, 2);
    assert_eq!(b.peek(0, C).unwrap_err().kind, CauseKind::Closed);
}

/// How much memory the file behind a ground holds.
fn held(ground: &Ground) -> i64 {
    nix::sys::stat::fstat(ground.arena().segment().descriptor()).unwrap().st_blocks * 512
}

#[test]
fn groups_come_and_go_and_leave_nothing() {
    let grounds = grounds(3);
    let exchange = |ranks: Vec<(ShmTransport, Arc<Poison>)>| {
        thread::scope(|scope| {
            for (rank, (mut transport, _)) in ranks.into_iter().enumerate() {
                scope.spawn(move || {
                    let (to, from) = ((rank + 1) % 3, (rank + 2) % 3);
                    assert_eq!(transport.try_send(to, C, &[IoSlice::new(&[rank as u8])]), Ok(1));
                    let mut into = [9];
                    let interest = Interest { peer: from, channel: C, direction: Direction::Receive };
                    while transport.try_recv(from, C, &mut into).unwrap() == 0 {
                        transport.wait(&[interest], Time::NEVER);
                    }
                    assert_eq!(into, [from as u8]);
                });
            }
        });
    };
    let mut most = 0;
    for round in 0..200 {
        exchange(group(&grounds, 4 * PAGE));
        if round < 3 {
            most = most.max(held(&grounds[0]));
        }
        assert!(held(&grounds[0]) <= most, "round {round}: {} bytes after {most}", held(&grounds[0]));
    }
}

/// A root that has shown what it had to leaves before the others have come; and the other way round.
#[test]
fn slots_are_given_back_whoever_leaves_first() {
    let grounds = grounds(3);
    let free = |ground| drop(ShmSeat::new(ground, 1).unwrap());
    let mut most = 0;
    for round in 0..20 {
        let mut ranks: Vec<_> = group(&grounds, PAGE).into_iter().map(|(rank, _)| Some(rank)).collect();
        for step in 0..3 {
            let rank = (round + step) % 3;
            let mut one = ranks[rank].take().unwrap();
            one.host_memory().unwrap().make_slots().unwrap();
            most = most.max(held(&grounds[rank]));
        }
        // Taking memory gives back what was left.
        grounds.iter().for_each(free);
        assert_eq!(held(&grounds[0]), 0, "round {round}");
    }
    assert!(most > 1 << 20, "{most} bytes are no slots");
}

#[test]
fn a_ring_may_lie_at_the_very_beginning() {
    let grounds = grounds(2);
    // Nobody else could ever look at this one.
    let first = ShmSeat::new(&grounds[0], 1).unwrap();
    assert_eq!(first.offset(), 0);
    let mut ranks = group(&grounds, 1024);
    drop(first);
    let (mut b, _) = ranks.pop().unwrap();
    let (mut a, _) = ranks.pop().unwrap();
    assert_eq!(a.try_send(1, C, &[IoSlice::new(b"here")]), Ok(4));
    let mut into = [0; 4];
    assert_eq!(b.try_recv(0, C, &mut into), Ok(4));
    assert_eq!(&into, b"here");
}

#[test]
fn a_ring_to_whoever_is_gone_is_not_kept() {
    let grounds = grounds(2);
    for _ in 0..3 {
        let mut ranks = group(&grounds, PAGE);
        let (mut a, _) = ranks.remove(0);
        assert_eq!(a.try_send(1, C, &[IoSlice::new(b"unread")]), Ok(6));
        drop(ranks);
        let fault = a.try_send(1, C, &[IoSlice::new(b"x")]).unwrap_err();
        assert_eq!((fault.peer, fault.kind), (1, CauseKind::Closed));
        drop(a);
    }
    // Taking memory gives back what was left.
    drop(grounds.iter().map(|ground| ShmSeat::new(ground, 1).unwrap()).collect::<Vec<_>>());
    assert_eq!(held(&grounds[0]), 0);
}

#[test]
fn a_seat_that_is_given_up_is_seen_to_be_left() {
    let grounds = grounds(2);
    let seats: Vec<_> = grounds.iter().map(|ground| ShmSeat::new(ground, 2).unwrap()).collect();
    let offsets: Vec<u64> = seats.iter().map(ShmSeat::offset).collect();
    let mut seats = seats.into_iter();
    let setup = ShmSetup {
        processes: None,
        rank: 0,
        seat: seats.next().unwrap(),
        seats: offsets.clone(),
        poison: Arc::default(),
        report: Box::new(|_| {}),
        spins: 0,
        shares_cpus: true,
        capacity: PAGE,
    };
    let mut transport = ShmTransport::new(setup).unwrap();
    assert_eq!(transport.try_recv(1, C, &mut [0]), Ok(0));
    drop(seats);
    // What it would be reused for would be garbled.
    assert_ne!(ShmSeat::new(&grounds[1], 2).unwrap().offset(), offsets[1]);
    let interest = Interest { peer: 1, channel: C, direction: Direction::Receive };
    transport.wait(&[interest], Time::NEVER);
    assert_eq!(transport.try_recv(1, C, &mut [0]).unwrap_err().kind, CauseKind::Closed);
    assert_eq!(transport.try_send(1, C, &[IoSlice::new(b"x")]).unwrap_err().kind, CauseKind::Closed);
}

#[test]
fn nonsense_is_refused() {
    let grounds = grounds(2);
    let seat = ShmSeat::new(&grounds[0], 2).unwrap();
    let own = seat.offset();
    for (rank, seats) in
        [(2, vec![own, own]), (1, vec![own]), (0, vec![own, 1]), (0, vec![own, LEN as u64 - 128])]
    {
        let seat = ShmSeat::new(&grounds[0], 2).unwrap();
        let mut seats = seats;
        if rank == 0 {
            seats[0] = seat.offset();
        }
        let setup = ShmSetup {
            processes: None,
            rank,
            seat,
            seats,
            poison: Arc::default(),
            report: Box::new(|_| {}),
            spins: 0,
            shares_cpus: true,
            capacity: PAGE,
        };
        assert_eq!(ShmTransport::new(setup).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
    let mut ranks = group(&grounds, PAGE);
    let (transport, _) = &mut ranks[0];
    let fault = transport.try_send(1, Channel(2), &[IoSlice::new(b"x")]).unwrap_err();
    assert_eq!(fault.kind, CauseKind::Unreachable);
}

#[test]
fn a_waker_outlives_its_transport() {
    let mut ranks = group(&grounds(2), PAGE);
    let (mut transport, _) = ranks.remove(0);
    let wake = transport.waker();
    wake();
    // One that came before the wait counts.
    transport.wait(&[], Time::NEVER);
    let sleeper = thread::spawn(move || transport.wait(&[], Time::NEVER));
    thread::sleep(Duration::from_millis(10));
    wake();
    sleeper.join().unwrap();
    wake();
}
