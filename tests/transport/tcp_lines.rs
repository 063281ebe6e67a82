//! Which link carries what: the peer of these is the test itself.

use super::tcp::{WORLD_ID, listeners, setup};
use ringfold::error::CauseKind;
use ringfold::transport::tcp::TcpTransport;
use ringfold::transport::tcp::frame::{HEADER, Key, Kind};
use ringfold::transport::tcp::hello::{HELLO, Hello};
use ringfold::transport::{Channel, Direction, Interest, LinkFault, Transport};
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

const C: Channel = Channel::COLLECTIVE;

/// Rank `rank` of a world of two, its address, and the listener of the other one.
fn one(rank: usize) -> (TcpTransport, SocketAddr, TcpListener) {
    let (mut listeners, peers) = listeners(2);
    let peer = listeners.remove(1 - rank);
    (TcpTransport::new(setup(rank, listeners.remove(0), &peers)).unwrap(), peers[rank], peer)
}

fn hello(from: u32) -> Hello {
    let (to, channel) = (1 - from, C);
    Hello {
        oldest: 1,
        newest: 1,
        channel,
        world_id: WORLD_ID,
        generation: 0,
        communicator: 0,
        from,
        to,
        world: 2,
    }
}

fn frame(key: &mut Key, payload: &[u8]) -> Vec<u8> {
    let bytes = [&key.header(Kind::Data, 0, payload.len())[..], payload].concat();
    key.advance();
    bytes
}

fn moved(key: &mut Key) -> [u8; HEADER] {
    let bytes = key.header(Kind::Moved, 0, 0);
    key.advance();
    bytes
}

fn send(transport: &mut TcpTransport, to: usize, data: &[u8]) {
    let start = Instant::now();
    while transport.try_send(to, C, &[IoSlice::new(data)]).unwrap() == 0 {
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}

fn receive(transport: &mut TcpTransport, from: usize, bytes: usize) -> Result<Vec<u8>, LinkFault> {
    let start = Instant::now();
    let mut all = Vec::new();
    while all.len() < bytes {
        assert!(start.elapsed() < Duration::from_secs(5));
        let mut into = [0; 16];
        let came = transport.try_recv(from, C, &mut into)?;
        all.extend(&into[..came]);
    }
    Ok(all)
}

/// The link that the transport has made, behind its hello.
fn accept(listener: &TcpListener) -> TcpStream {
    let (mut link, _) = listener.accept().unwrap();
    link.read_exact(&mut [0; HELLO]).unwrap();
    link
}

fn expect(link: &mut TcpStream, bytes: &[u8]) {
    let mut came = vec![0; bytes.len()];
    link.read_exact(&mut came).unwrap();
    assert_eq!(came, bytes);
}

#[test]
fn one_that_was_called_answers_on_the_same_link() {
    for rank in [0, 1] {
        let (mut transport, address, listener) = one(rank);
        let (mut there, mut back) = hello(1 - rank as u32).keys();
        let mut link = TcpStream::connect(address).unwrap();
        link.write_all(&[&hello(1 - rank as u32).encode()[..], &frame(&mut there, b"call")].concat())
            .unwrap();
        assert_eq!(receive(&mut transport, 1 - rank, 4).unwrap(), b"call");
        send(&mut transport, 1 - rank, b"answer");
        expect(&mut link, &frame(&mut back, b"answer"));
        listener.set_nonblocking(true).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "it has made a link");
    }
}

#[test]
fn of_two_links_the_lower_rank_leaves_its_own() {
    let (mut transport, address, listener) = one(0);
    send(&mut transport, 1, b"first");
    let mut own = accept(&listener);
    let (mut key, _) = hello(0).keys();
    expect(&mut own, &frame(&mut key, b"first"));
    let (mut there, mut back) = hello(1).keys();
    let mut other = TcpStream::connect(address).unwrap();
    other.write_all(&[&hello(1).encode()[..], &frame(&mut there, b"at once")].concat()).unwrap();
    assert_eq!(receive(&mut transport, 1, 7).unwrap(), b"at once");
    send(&mut transport, 1, b"second");
    expect(&mut own, &moved(&mut key));
    assert_eq!(own.read(&mut [0]).unwrap(), 0, "the link that was left is closed");
    expect(&mut other, &moved(&mut back));
    expect(&mut other, &frame(&mut back, b"second"));
}

#[test]
fn of_two_links_the_higher_rank_follows_and_reads_in_order() {
    let (mut transport, address, listener) = one(1);
    send(&mut transport, 0, b"first");
    let mut own = accept(&listener);
    let (mut there, mut back) = hello(1).keys();
    expect(&mut own, &frame(&mut there, b"first"));
    // What comes on the link that stays is ahead of what comes on the one that is left, and waits for it.
    own.write_all(&[&moved(&mut back)[..], &frame(&mut back, b"later")].concat()).unwrap();
    for _ in 0..100 {
        assert_eq!(transport.try_recv(0, C, &mut [0; 16]), Ok(0));
    }
    let mut other = TcpStream::connect(address).unwrap();
    let (mut key, _) = hello(0).keys();
    other.write_all(&[&hello(0).encode()[..], &frame(&mut key, b"sooner, ")].concat()).unwrap();
    assert_eq!(receive(&mut transport, 0, 8).unwrap(), b"sooner, ");
    for _ in 0..100 {
        assert_eq!(transport.try_recv(0, C, &mut [0; 16]), Ok(0));
    }
    other.write_all(&moved(&mut key)).unwrap();
    assert_eq!(receive(&mut transport, 0, 5).unwrap(), b"later");
    send(&mut transport, 0, b"second");
    expect(&mut own, &frame(&mut there, b"second"));
}

/// Both ranks begin at once, each on a link of its own; one is through, says goodbye on both, and is gone before the other has
/// looked at its door.
#[test]
fn what_was_sent_before_the_goodbye_is_read_on_whichever_link_that_comes_first() {
    for rank in [0, 1] {
        for early in [true, false] {
            let (mut transport, address, listener) = one(rank);
            let peer = 1 - rank;
            send(&mut transport, peer, b"mine");
            let mut own = accept(&listener);
            let (_, mut back) = hello(rank as u32).keys();
            own.write_all(&back.header(Kind::Goodbye, 0, 0)).unwrap();
            back.advance();
            drop((own, listener));
            let call = || {
                let (mut there, _) = hello(peer as u32).keys();
                let theirs = frame(&mut there, b"theirs");
                let goodbye = there.header(Kind::Goodbye, 0, 0);
                let mut link = TcpStream::connect(address).unwrap();
                link.write_all(&[&hello(peer as u32).encode()[..], &theirs, &goodbye].concat()).unwrap();
            };
            if early {
                call();
            } else {
                // It may be on its way, and until it is here there is nothing to do but to sleep.
                let interest = Interest { peer, channel: C, direction: Direction::Receive };
                let mut waited = Duration::ZERO;
                for _ in 0..4 {
                    assert_eq!(transport.try_recv(peer, C, &mut [0; 16]), Ok(0));
                    let (start, pause) = (Instant::now(), Duration::from_millis(20));
                    transport.wait(&[interest], transport.now().after(pause));
                    waited += start.elapsed();
                }
                assert!(waited >= Duration::from_millis(60), "{waited:?}: it does not sleep");
                call();
            }
            assert_eq!(receive(&mut transport, peer, 6).unwrap(), b"theirs");
            assert_eq!(receive(&mut transport, peer, 1).unwrap_err().kind, CauseKind::Closed);
        }
    }
}

/// The same where there is no such link.
#[test]
fn a_goodbye_alone_is_the_end_after_a_while() {
    let (mut transport, _, listener) = one(0);
    send(&mut transport, 1, b"mine");
    let mut own = accept(&listener);
    let (_, back) = hello(0).keys();
    own.write_all(&back.header(Kind::Goodbye, 0, 0)).unwrap();
    drop((own, listener));
    let fault = receive(&mut transport, 1, 1).unwrap_err();
    assert_eq!(fault.kind, CauseKind::Closed);
    assert!(fault.detail.contains("left the group"), "{}", fault.detail);
}

#[test]
fn a_move_to_nowhere_is_a_fault() {
    for rank in [0, 1] {
        let (mut transport, address, _listener) = one(rank);
        let (mut key, _) = hello(1 - rank as u32).keys();
        let mut link = TcpStream::connect(address).unwrap();
        link.write_all(&[&hello(1 - rank as u32).encode()[..], &moved(&mut key)].concat()).unwrap();
        let fault = receive(&mut transport, 1 - rank, 1).unwrap_err();
        assert_eq!(fault.kind, CauseKind::Unreachable);
        assert!(fault.detail.contains("bytes that are no frame"), "{}", fault.detail);
    }
}
