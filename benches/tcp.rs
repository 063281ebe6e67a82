//! What a link over TCP costs beside a bare socket: both between two threads over loopback, in alternation.
//!
//! `cargo bench --bench tcp` prints the figures. Bare sockets use the same congestion control as the links.

use ringfold::observe::{Poison, Time};
use ringfold::transport::tcp::{TcpSetup, TcpTransport};
use ringfold::transport::{Channel, Direction, Interest, Transport};
use socket2::{SockRef, Socket};
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

const C: Channel = Channel::COLLECTIVE;
const BULK: usize = 16 << 20;
const WINDOW: usize = 512 << 10;

/// The shape of a raw exchange and of one over links.
trait Pipe: Send {
    fn send(&mut self, data: &[u8]) -> usize;
    fn recv(&mut self, into: &mut [u8]) -> usize;
    fn rest(&mut self, send: bool, recv: bool);
}

struct Links(TcpTransport);

impl Pipe for Links {
    fn send(&mut self, data: &[u8]) -> usize {
        let to = 1 - self.0.rank();
        self.0.try_send(to, C, &[IoSlice::new(data)]).unwrap()
    }

    fn recv(&mut self, into: &mut [u8]) -> usize {
        let from = 1 - self.0.rank();
        self.0.try_recv(from, C, into).unwrap()
    }

    fn rest(&mut self, send: bool, recv: bool) {
        let peer = 1 - self.0.rank();
        let sends = Interest { peer, channel: C, direction: Direction::Send };
        let receives = Interest { peer, channel: C, direction: Direction::Receive };
        match (send, recv) {
            (true, true) => self.0.wait(&[sends, receives], Time::NEVER),
            (true, false) => self.0.wait(&[sends], Time::NEVER),
            _ => self.0.wait(&[receives], Time::NEVER),
        }
    }
}

/// Two connections, one each way, as the links have.
struct Bare {
    there: Socket,
    back: Socket,
}

impl Pipe for Bare {
    fn send(&mut self, data: &[u8]) -> usize {
        match self.there.write(data) {
            Ok(sent) => sent,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => panic!("{error}"),
        }
    }

    fn recv(&mut self, into: &mut [u8]) -> usize {
        match self.back.read(into) {
            Ok(received) => received,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => panic!("{error}"),
        }
    }

    fn rest(&mut self, send: bool, recv: bool) {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        use std::os::fd::AsFd;
        let mut list = [
            PollFd::new(self.there.as_fd(), if send { PollFlags::POLLOUT } else { PollFlags::empty() }),
            PollFd::new(self.back.as_fd(), if recv { PollFlags::POLLIN } else { PollFlags::empty() }),
        ];
        poll(&mut list, PollTimeout::NONE).unwrap();
    }
}

fn links() -> (Links, Links) {
    let listeners: Vec<_> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let peers: Vec<_> = listeners.iter().map(|l| l.local_addr().unwrap()).collect();
    let mut ends = listeners.into_iter().enumerate().map(|(rank, listener)| {
        Links(
            TcpTransport::new(TcpSetup {
                rank,
                world: 2,
                generation: 0,
                world_id: 1,
                communicator: 0,
                listener,
                peers: peers.clone(),
                poison: Arc::new(Poison::new()),
                report: Box::new(|_| {}),
                spins: 1000,
            })
            .unwrap(),
        )
    });
    (ends.next().unwrap(), ends.next().unwrap())
}

fn bare() -> (Bare, Bare) {
    let pair = || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let out = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (into, _) = listener.accept().unwrap();
        for socket in [&out, &into] {
            socket.set_nodelay(true).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = SockRef::from(socket).set_tcp_congestion(b"reno");
        }
        (Socket::from(out), Socket::from(into))
    };
    let (a_out, b_in) = pair();
    let (b_out, a_in) = pair();
    (Bare { there: a_out, back: a_in }, Bare { there: b_out, back: b_in })
}

fn spin_send(pipe: &mut impl Pipe, data: &[u8]) {
    let mut sent = 0;
    while sent < data.len() {
        sent += pipe.send(&data[sent..]);
    }
}

fn spin_recv(pipe: &mut impl Pipe, into: &mut [u8]) {
    let mut received = 0;
    while received < into.len() {
        received += pipe.recv(&mut into[received..]);
    }
}

/// Half a round trip of `bytes`, spinning: the median over batches.
fn ping_pong<P: Pipe>((a, b): &mut (P, P), bytes: usize, rounds: usize) -> Duration {
    let barrier = Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = vec![0; bytes];
            barrier.wait();
            for _ in 0..rounds {
                spin_recv(b, &mut buffer);
                spin_send(b, &buffer);
            }
        });
        let mut buffer = vec![1; bytes];
        barrier.wait();
        let start = Instant::now();
        for _ in 0..rounds {
            spin_send(a, &buffer);
            spin_recv(a, &mut buffer);
        }
        start.elapsed() / (2 * rounds as u32)
    })
}

fn stream(pipe: &mut impl Pipe, send: bool, recv: bool, data: &mut [u8], into: &mut [u8]) {
    let (mut sent, mut received) = (if send { 0 } else { BULK }, if recv { 0 } else { BULK });
    while sent < BULK || received < BULK {
        let mut moved = 0;
        if sent < BULK {
            let end = (sent + WINDOW).min(BULK);
            moved += pipe.send(&data[sent..end]);
            sent += moved;
        }
        if received < BULK {
            let end = (received + WINDOW).min(BULK);
            let came = pipe.recv(&mut into[received..end]);
            received += came;
            moved += came;
        }
        if moved == 0 {
            pipe.rest(sent < BULK, received < BULK);
        }
    }
}

/// The time to move 16 MiB from a to b, and back at once where `duplex`.
fn bulk<P: Pipe>((a, b): &mut (P, P), duplex: bool, rounds: usize) -> Duration {
    let barrier = Barrier::new(2);
    let mut times = std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut data, mut into) = (vec![1; BULK], vec![0; BULK]);
            for _ in 0..rounds {
                barrier.wait();
                stream(b, duplex, true, &mut data, &mut into);
                barrier.wait();
            }
        });
        let (mut data, mut into) = (vec![1; BULK], vec![0; BULK]);
        (0..rounds)
            .map(|_| {
                barrier.wait();
                let start = Instant::now();
                stream(a, true, duplex, &mut data, &mut into);
                barrier.wait();
                start.elapsed()
            })
            .collect::<Vec<_>>()
    });
    times.sort();
    times[times.len() / 2]
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    // Under `cargo test` this only has to work.
    let short = !std::env::args().any(|argument| argument == "--bench");
    let (turns, rounds, copies) = if short { (1, 50, 1) } else { (15, 4000, 7) };
    let (mut links, mut bare) = (links(), bare());
    println!("{:>12} {:>12} {:>12} {:>8}", "half trip", "bare us", "links us", "ratio");
    for bytes in [8, 64, 512, 1024, 4096, 16 << 10, 64 << 10] {
        let (mut of_bare, mut of_links, mut ratios) = (vec![], vec![], vec![]);
        for _ in 0..turns {
            let a = ping_pong(&mut bare, bytes, rounds / (1 + bytes / 8192)).as_secs_f64() * 1e6;
            let b = ping_pong(&mut links, bytes, rounds / (1 + bytes / 8192)).as_secs_f64() * 1e6;
            of_bare.push(a);
            of_links.push(b);
            ratios.push(b / a);
        }
        println!("{bytes:>12} {:>12.2} {:>12.2} {:>8.3}", median(of_bare), median(of_links), median(ratios));
    }
    println!("{:>12} {:>12} {:>12} {:>8}", "16 MiB", "bare GB/s", "links GB/s", "ratio");
    for duplex in [false, true] {
        let (mut of_bare, mut of_links, mut ratios) = (vec![], vec![], vec![]);
        for _ in 0..turns {
            let a = BULK as f64 / bulk(&mut bare, duplex, copies).as_secs_f64() / 1e9;
            let b = BULK as f64 / bulk(&mut links, duplex, copies).as_secs_f64() / 1e9;
            of_bare.push(a);
            of_links.push(b);
            ratios.push(b / a);
        }
        let name = if duplex { "duplex" } else { "one way" };
        println!("{name:>12} {:>12.2} {:>12.2} {:>8.3}", median(of_bare), median(of_links), median(ratios));
    }
}
