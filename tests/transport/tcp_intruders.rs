//! Connections that are no links, and links that break or lie.

use super::program::{Program, Step, Stream};
use super::tcp::{WORLD_ID, listeners, setup};
use ringfold::error::CauseKind;
use ringfold::transport::tcp::TcpTransport;
use ringfold::transport::tcp::frame::{DATA_LIMIT, HEADER, Kind};
use ringfold::transport::tcp::hello::Hello;
use ringfold::transport::{Channel, LinkFault, Transport};
use std::io::{IoSlice, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const C: Channel = Channel::COLLECTIVE;

/// Rank 0 of a world of two, and the place where its peer would be.
fn alone() -> (TcpTransport, SocketAddr, TcpListener) {
    let (mut listeners, peers) = listeners(2);
    let peer = listeners.pop().unwrap();
    (TcpTransport::new(setup(0, listeners.pop().unwrap(), &peers)).unwrap(), peers[0], peer)
}

fn right() -> Hello {
    Hello {
        oldest: 1,
        newest: 1,
        channel: C,
        world_id: WORLD_ID,
        generation: 0,
        communicator: 0,
        from: 1,
        to: 0,
        world: 2,
    }
}

/// A connection that has sent these bytes.
fn client(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(bytes).unwrap();
    stream
}

/// The hello and one data frame whose header promises `length` bytes and which has `payload`.
fn spoken(length: usize, payload: &[u8]) -> Vec<u8> {
    let (key, _) = right().keys();
    [&right().encode()[..], &key.header(Kind::Data, 0, length), payload].concat()
}

/// Receives from rank 1 until a fault: the bytes, and the fault.
fn receive(transport: &mut TcpTransport) -> (Vec<u8>, LinkFault) {
    let start = Instant::now();
    let mut all = Vec::new();
    let mut into = [0; 100];
    loop {
        assert!(start.elapsed() < Duration::from_secs(20));
        match transport.try_recv(1, C, &mut into) {
            Ok(received) => all.extend(&into[..received]),
            Err(fault) => return (all, fault),
        }
    }
}

#[test]
fn scans_silence_and_noise_do_not_disturb() {
    let (listeners, addresses) = listeners(2);
    let make = |(rank, listener)| TcpTransport::new(setup(rank, listener, &addresses)).unwrap();
    let ranks: Vec<_> = listeners.into_iter().enumerate().map(make).collect();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = fastrand::Rng::with_seed(6);
            let mut silent = Vec::new();
            while !over.load(Ordering::Relaxed) {
                for address in &addresses {
                    drop(TcpStream::connect(address));
                    let Ok(mut noisy) = TcpStream::connect(address) else { continue };
                    let mut noise = [0; 300];
                    random.fill(&mut noise);
                    let known = random.usize(..9);
                    noise[..known].copy_from_slice(&b"ringfold"[..known]);
                    let _ = noisy.write_all(&noise[..random.usize(..300)]);
                    silent.push(noisy);
                    silent.extend(TcpStream::connect(address));
                }
                if silent.len() > 100 {
                    silent.drain(..50);
                }
                thread::sleep(Duration::from_micros(500));
            }
        });
        let barrier = std::sync::Barrier::new(2);
        thread::scope(|inner| {
            for (rank, mut transport) in ranks.into_iter().enumerate() {
                let barrier = &barrier;
                inner.spawn(move || {
                    for (round, channel) in (0..20).map(Channel).enumerate() {
                        let streams = vec![
                            Stream::send(1 - rank, channel, 200_000),
                            Stream::recv(1 - rank, channel, 200_000),
                        ];
                        Program::new(round as u64, 30_000, streams).run_clean(&mut transport);
                    }
                    barrier.wait();
                });
            }
        });
        over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_wrong_hello_is_refused_and_the_right_one_taken() {
    let (mut transport, address, _peer) = alone();
    let wrong: [fn(&mut Hello); 8] = [
        |h| h.oldest = 9,
        |h| h.world_id += 1,
        |h| h.generation = 1,
        |h| h.communicator = 1,
        |h| h.world = 3,
        |h| h.from = 2,
        |h| h.to = 1,
        |h| h.newest = 0,
    ];
    let mut refused = Vec::new();
    for change in wrong {
        let mut hello = right();
        change(&mut hello);
        refused.push(client(address, &[&hello.encode()[..], b"payload"].concat()));
    }
    let early = client(address, &right().encode()[..20]);
    let _link = client(address, &spoken(3, b"yes"));
    let mut into = [0; 8];
    let start = Instant::now();
    while transport.try_recv(1, C, &mut into).unwrap() == 0 {
        assert!(start.elapsed() < Duration::from_secs(5));
    }
    assert_eq!(&into[..3], b"yes");
    for mut stream in refused {
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert_eq!((answer.len(), answer[0]), (HEADER + 1, Kind::Refused as u8));
    }
    drop(early);
    // A second link of the same stream is refused, and the first goes on.
    let mut second = client(address, &spoken(3, b"not"));
    second.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut answer = [0; HEADER + 1];
    let start = Instant::now();
    while second.read_exact(&mut answer).is_err() {
        assert!(start.elapsed() < Duration::from_secs(5));
        transport.wait(&[], transport.now().after(Duration::from_millis(1)));
        assert_eq!(transport.try_recv(1, C, &mut into), Ok(0));
    }
}

#[test]
fn the_one_that_is_refused_learns_why() {
    let (mut listeners, peers) = listeners(2);
    let mut newer = setup(1, listeners.pop().unwrap(), &peers);
    newer.generation = 1;
    let mut newer = TcpTransport::new(newer).unwrap();
    let mut older = TcpTransport::new(setup(0, listeners.pop().unwrap(), &peers)).unwrap();
    let start = Instant::now();
    let fault = loop {
        assert!(start.elapsed() < Duration::from_secs(5));
        assert_eq!(newer.try_recv(0, C, &mut [0]), Ok(0));
        if let Err(fault) = older.try_send(1, C, &[IoSlice::new(b"late")]) {
            break fault;
        }
    };
    assert_eq!(fault.kind, CauseKind::Unreachable);
    assert!(fault.detail.contains("another generation"), "{}", fault.detail);
}

#[test]
fn an_early_end_in_mid_frame_is_a_fault_behind_what_came() {
    let (mut transport, address, _peer) = alone();
    drop(client(address, &spoken(100, &[5; 60])));
    let (bytes, fault) = receive(&mut transport);
    assert_eq!(bytes, [5; 60]);
    assert_eq!(fault.kind, CauseKind::Closed);
    assert!(fault.detail.contains("in the middle of a frame"), "{}", fault.detail);
}

#[test]
fn a_reset_in_mid_frame_breaks_the_link() {
    let (mut transport, address, _peer) = alone();
    let stream = client(address, &spoken(100, &[5; 60]));
    let mut into = [0; 60];
    let mut received = 0;
    while received < 60 {
        received += transport.try_recv(1, C, &mut into[received..]).unwrap();
    }
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
    let (bytes, fault) = receive(&mut transport);
    assert_eq!((bytes.len(), fault.kind), (0, CauseKind::Unreachable), "{fault:?}");
}

#[test]
fn a_length_out_of_bounds_is_refused_and_nothing_allocated() {
    for length in [0, DATA_LIMIT as u32 + 1, u32::MAX] {
        let (mut transport, address, _peer) = alone();
        let mut bytes = spoken(9, b"");
        let at = bytes.len() - 4;
        bytes[at..].copy_from_slice(&length.to_le_bytes());
        let _client = client(address, &bytes);
        let (bytes, fault) = receive(&mut transport);
        assert_eq!((bytes.len(), fault.kind), (0, CauseKind::Unreachable));
        assert!(fault.detail.contains("bytes that are no frame"), "{}", fault.detail);
    }
}

#[test]
fn a_repeated_frame_is_refused() {
    let (mut transport, address, _peer) = alone();
    let once = spoken(3, b"one");
    let frame = once[once.len() - HEADER - 3..].to_vec();
    let _client = client(address, &[once, frame].concat());
    let (bytes, fault) = receive(&mut transport);
    assert_eq!(bytes, b"one");
    assert!(fault.detail.contains("bytes that are no frame"), "{}", fault.detail);
}

#[test]
fn noise_behind_a_hello_never_does_more_than_break_the_link() {
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..200 {
        let (mut transport, address, _peer) = alone();
        let (mut key, _) = right().keys();
        let mut bytes = right().encode().to_vec();
        for _ in 0..random.usize(..4) {
            let (padding, length) = (random.usize(..64), random.usize(1..5000));
            bytes.extend(key.header(Kind::Data, padding, length));
            bytes.extend(std::iter::repeat_with(|| random.u8(..)).take(padding + length));
            key.advance();
        }
        let noise = random.usize(..100);
        bytes.extend(std::iter::repeat_with(|| random.u8(..)).take(noise));
        drop(client(address, &bytes));
        let (_, fault) = receive(&mut transport);
        assert!(matches!(fault.kind, CauseKind::Unreachable | CauseKind::Closed), "{fault:?}");
    }
}

#[test]
fn frames_in_pieces_of_one_byte_are_understood() {
    let (mut transport, address, _peer) = alone();
    let feeder = thread::spawn(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        let (mut key, _) = right().keys();
        let mut bytes = right().encode().to_vec();
        for (padding, length) in [(0, 1), (63, 40), (7, 3), (0, 200)] {
            bytes.extend(key.header(Kind::Data, padding, length));
            bytes.extend(std::iter::repeat_n(0, padding));
            bytes.extend((0..length).map(|i| i as u8));
            key.advance();
        }
        for byte in bytes {
            stream.write_all(&[byte]).unwrap();
            thread::yield_now();
        }
    });
    let (bytes, fault) = receive(&mut transport);
    feeder.join().unwrap();
    let expected: Vec<u8> = [1, 40, 3, 200].iter().flat_map(|n| 0..*n as u8).collect();
    assert_eq!(bytes, expected);
    assert!(fault.detail.contains("without a goodbye"), "{}", fault.detail);
}

#[test]
fn frames_of_any_size_in_pieces_of_any_size_are_understood() {
    for seed in 0..40 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut key, _) = right().keys();
        let mut stream = right().encode().to_vec();
        let mut expected = Vec::new();
        for _ in 0..40 {
            // Runs of like frames and sudden others: the reader guesses by the last.
            let padding = if random.bool() { 56 } else { random.usize(..64) };
            let length = match random.u8(..4) {
                0 => random.usize(1..100),
                1 => 40_000,
                2 => random.usize(1000..9000),
                _ => random.usize(1..200_000),
            };
            stream.extend(key.header(Kind::Data, padding, length));
            stream.extend(std::iter::repeat_n(0xee, padding));
            let start = stream.len();
            stream.extend(std::iter::repeat_with(|| random.u8(..)).take(length));
            expected.extend_from_slice(&stream[start..]);
            key.advance();
        }
        let (mut transport, address, _peer) = alone();
        let feeder = thread::spawn(move || {
            let mut connection = TcpStream::connect(address).unwrap();
            connection.set_nodelay(true).unwrap();
            let mut random = fastrand::Rng::with_seed(seed);
            let mut rest = &stream[..];
            while !rest.is_empty() {
                let most = if random.bool() { 300 } else { 100_000 };
                let (piece, after) = rest.split_at(random.usize(1..=most).min(rest.len()));
                connection.write_all(piece).unwrap();
                rest = after;
                if random.u8(..8) == 0 {
                    thread::yield_now();
                }
            }
        });
        let mut received = Vec::new();
        let mut into = vec![0; 300_000];
        while received.len() < expected.len() {
            let most = if random.bool() { 500 } else { into.len() };
            let room = random.usize(1..=most).min(expected.len() - received.len());
            let came = transport.try_recv(1, C, &mut into[..room]).unwrap();
            received.extend_from_slice(&into[..came]);
        }
        assert!(received == expected, "seed {seed}");
        feeder.join().unwrap();
    }
}

#[test]
fn a_killed_reader_is_noticed_by_its_sender() {
    let (mut transport, _, peer) = alone();
    let reader = thread::spawn(move || {
        let (stream, _) = peer.accept().unwrap();
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    });
    let mut program = Program::new(0, 1 << 16, vec![Stream::send(1, C, usize::MAX >> 1)]);
    assert_eq!(program.run(&mut transport), Step::Done);
    let fault = program.streams[0].fault.clone().unwrap();
    assert_eq!(fault.kind, CauseKind::Unreachable, "{fault:?}");
    reader.join().unwrap();
}
