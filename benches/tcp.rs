//! What TCP costs beside bare sockets, between two threads over loopback, in alternation: links, and a whole
//! all_reduce.
//!
//! `cargo bench --bench tcp` prints the figures. Bare sockets beside links use the congestion control that these have;
//! beside an all_reduce, which is to be measured against the limit, whatever is fastest of all there is.

use ringfold::config::BackendChoice;
use ringfold::observe::{Poison, Time};
use ringfold::transport::tcp::{Seat, TcpSetup, TcpTransport};
use ringfold::transport::{Channel, Direction, Interest, Transport};
use ringfold::{Communicator, Config, ReduceOp};
use socket2::{SockRef, Socket};
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

const C: Channel = Channel::COLLECTIVE;
const BULK: usize = 16 << 20;
const WINDOW: usize = 1 << 20;

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

/// Two ends of one connection, as the links of two ranks are in the end, or of one each way.
struct Bare {
    there: Socket,
    back: Option<Socket>,
}

impl Bare {
    fn back(&self) -> &Socket {
        self.back.as_ref().unwrap_or(&self.there)
    }
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
        match self.back().read(into) {
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
            PollFd::new(self.back().as_fd(), if recv { PollFlags::POLLIN } else { PollFlags::empty() }),
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
                seat: Seat::new(listener).unwrap(),
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

/// Bare sockets with this congestion control, if there is such a one.
fn bare(congestion: &str, one_way: bool) -> Option<(Bare, Bare)> {
    let pair = || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let out = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (into, _) = listener.accept().unwrap();
        for socket in [&out, &into] {
            socket.set_nodelay(true).unwrap();
            socket.set_nonblocking(true).unwrap();
            SockRef::from(socket).set_tcp_congestion(congestion.as_bytes()).ok()?;
        }
        Some((Socket::from(out), Socket::from(into)))
    };
    let (a, b) = pair()?;
    if !one_way {
        return Some((Bare { there: a, back: None }, Bare { there: b, back: None }));
    }
    let (b_out, a_in) = pair()?;
    Some((Bare { there: a, back: Some(a_in) }, Bare { there: b_out, back: Some(b) }))
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
    let all = data.len();
    let (mut sent, mut received) = (if send { 0 } else { all }, if recv { 0 } else { all });
    while sent < all || received < all {
        let mut moved = 0;
        if sent < all {
            let end = (sent + WINDOW).min(all);
            moved += pipe.send(&data[sent..end]);
            sent += moved;
        }
        if received < all {
            let end = (received + WINDOW).min(all);
            let came = pipe.recv(&mut into[received..end]);
            received += came;
            moved += came;
        }
        if moved == 0 {
            pipe.rest(sent < all, received < all);
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

/// Whoever moves a message of each rank to the other: sockets as fast as they can, or an all_reduce.
enum Contender {
    Sockets(Bare),
    AllReduce(Box<Communicator>),
}

/// One operation: up to 64 KiB by spinning, beyond that by waiting.
fn exchange(contender: &mut Contender, data: &mut [u8], into: &mut [u8]) {
    match contender {
        Contender::Sockets(bare) if data.len() <= 64 << 10 => {
            spin_send(bare, data);
            spin_recv(bare, into);
        }
        Contender::Sockets(bare) => stream(bare, true, true, data, into),
        Contender::AllReduce(comm) => {
            // SAFETY: any bytes are floats, and the bytes are aligned as floats are (whole pages).
            let (data, into) = unsafe { (data.align_to::<f32>().1, into.align_to_mut::<f32>().1) };
            comm.all_reduce_into(data, into, ReduceOp::Sum).unwrap();
        }
    }
}

/// The seconds of one operation, for each contender and turn. Ranks rewrite what they send before each operation
/// that is long enough to be timed alone.
fn alternate(
    contenders: &mut [(Contender, Contender)],
    bytes: usize,
    turns: usize,
    rounds: usize,
) -> Vec<Vec<f64>> {
    let (mut left, mut right): (Vec<_>, Vec<_>) = contenders.iter_mut().map(|(a, b)| (a, b)).unzip();
    let barrier = Barrier::new(2);
    let run = |ends: &mut Vec<&mut Contender>| {
        let (mut data, mut into) = (vec![0f32; bytes / 4], vec![0f32; bytes / 4]);
        // SAFETY: floats are bytes.
        let (data, into) = unsafe { (data.align_to_mut::<u8>().1, into.align_to_mut::<u8>().1) };
        let mut times = vec![Vec::new(); ends.len()];
        for turn in 0..=turns {
            for (end, times) in ends.iter_mut().zip(&mut times) {
                data.fill(turn as u8 % 16);
                exchange(end, data, into);
                barrier.wait();
                let start = Instant::now();
                for _ in 0..rounds {
                    exchange(end, data, into);
                }
                // The first turn makes links and warms up.
                if turn > 0 {
                    times.push(start.elapsed().as_secs_f64() / rounds as f64);
                }
            }
        }
        times
    };
    std::thread::scope(|scope| {
        scope.spawn(|| run(&mut right));
        run(&mut left)
    })
}

/// Ranks of a group over TCP.
fn group() -> (Communicator, Communicator) {
    let store = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let config = Config::default().with_world_size(2).with_store(store).with_backend(BackendChoice::Tcp);
    let join = |rank| Communicator::connect(&config.clone().with_rank(rank)).unwrap();
    std::thread::scope(|scope| {
        let other = scope.spawn(|| join(1));
        (join(0), other.join().unwrap())
    })
}

fn against_the_limit(turns: usize, short: bool) {
    let mut names = Vec::new();
    let mut contenders = Vec::new();
    for congestion in ["reno", "cubic", "bbr"] {
        for one_way in [false, true] {
            let Some((a, b)) = bare(congestion, one_way) else { continue };
            names.push(format!("{congestion}, {}", if one_way { "one each way" } else { "one" }));
            contenders.push((Contender::Sockets(a), Contender::Sockets(b)));
        }
    }
    let (a, b) = group();
    contenders.push((Contender::AllReduce(Box::new(a)), Contender::AllReduce(Box::new(b))));
    println!("{:>12} {:>12} {:>12} {:>8}  fastest sockets", "all_reduce", "sockets us", "us", "ratio");
    for bytes in [8, 1 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, BULK] {
        let rounds = if short || bytes == BULK { 1 } else { (4 << 20) / (bytes + 2048) };
        let mut times = alternate(&mut contenders, bytes, turns, rounds);
        let ours = times.pop().unwrap();
        let medians: Vec<f64> = times.iter().map(|times| median(times.clone())).collect();
        let best = (0..medians.len()).min_by(|&a, &b| medians[a].total_cmp(&medians[b])).unwrap();
        let ratio = median(ours.iter().zip(&times[best]).map(|(ours, raw)| ours / raw).collect());
        let (raw, ours) = (medians[best] * 1e6, median(ours) * 1e6);
        println!("{bytes:>12} {raw:>12.2} {ours:>12.2} {ratio:>8.3}  {}", names[best]);
    }
}

fn main() {
    // Under `cargo test` this only has to work.
    let short = !std::env::args().any(|argument| argument == "--bench");
    let (turns, rounds, copies) = if short { (1, 50, 1) } else { (15, 4000, 7) };
    against_the_limit(if short { 1 } else { 31 }, short);
    let congestion = if bare("reno", false).is_some() { "reno" } else { "cubic" };
    let (mut links, mut bare) = (links(), bare(congestion, false).unwrap());
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
