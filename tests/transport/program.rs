//! A rank's part of a test, in steps, so that it can be driven by a thread of its own or by the simulation's one.

use ringfold::error::Cause;
use ringfold::observe::Time;
use ringfold::transport::{Channel, Direction, Interest, LinkFault, Transport};
use std::io::IoSlice;
use std::time::Duration;

/// The byte of a stream at this place: another for every stream, and never the same for long.
fn byte(from: usize, to: usize, channel: Channel, place: usize) -> u8 {
    let seed = (from as u64) << 40 ^ (to as u64) << 20 ^ u64::from(channel.0) << 60 ^ (place / 8) as u64;
    let mixed = (seed ^ seed >> 31).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed ^ mixed >> 29) >> (place % 8 * 8)) as u8
}

/// One stream of a rank: where it goes and how far it is.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) peer: usize,
    pub(crate) channel: Channel,
    pub(crate) direction: Direction,
    pub(crate) bytes: usize,
    pub(crate) done: usize,
    pub(crate) fault: Option<LinkFault>,
    offered: Vec<u8>,
}

impl Stream {
    pub(crate) fn send(peer: usize, channel: Channel, bytes: usize) -> Self {
        Stream { peer, channel, direction: Direction::Send, bytes, done: 0, fault: None, offered: Vec::new() }
    }

    pub(crate) fn recv(peer: usize, channel: Channel, bytes: usize) -> Self {
        Stream { direction: Direction::Receive, ..Stream::send(peer, channel, bytes) }
    }

    /// Until the end of the peer, not of its bytes.
    pub(crate) fn recv_until_fault(peer: usize, channel: Channel) -> Self {
        Stream::recv(peer, channel, usize::MAX)
    }

    fn finished(&self) -> bool {
        self.done == self.bytes || self.fault.is_some()
    }

    /// Moves some bytes; whether any moved.
    fn step(&mut self, transport: &mut dyn Transport, random: &mut fastrand::Rng, window: usize) -> bool {
        let Stream { peer, channel, .. } = *self;
        let own = transport.rank();
        let left = (self.bytes - self.done).min(random.usize(1..=window));
        let moved = match self.direction {
            Direction::Send => {
                // What was offered and not taken is offered again, perhaps with more behind it.
                let from = self.done + self.offered.len();
                self.offered.extend((from..self.done + left).map(|i| byte(own, peer, channel, i)));
                let (a, rest) = self.offered.split_at(random.usize(..=self.offered.len()));
                let (b, c) = rest.split_at(random.usize(..=rest.len()));
                let slices = [IoSlice::new(a), IoSlice::new(b), IoSlice::new(&[]), IoSlice::new(c)];
                let sent = transport.try_send(peer, channel, &slices);
                if let Ok(sent) = sent {
                    self.offered.drain(..sent);
                }
                sent
            }
            Direction::Receive => {
                let mut into = vec![0; left];
                let received = transport.try_recv(peer, channel, &mut into);
                if let Ok(received) = received {
                    for (i, got) in into[..received].iter().enumerate() {
                        let place = self.done + i;
                        assert_eq!(
                            *got,
                            byte(peer, own, channel, place),
                            "byte {place} from {peer} to {own}"
                        );
                    }
                }
                received
            }
        };
        match moved {
            Ok(moved) => {
                self.done += moved;
                moved > 0
            }
            Err(fault) => {
                assert_eq!(fault.peer, peer);
                self.fault = Some(fault);
                true
            }
        }
    }
}

/// What a rank does: all its streams at once, until they are done.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) streams: Vec<Stream>,
    pub(crate) window: usize,
    random: fastrand::Rng,
    interests: Vec<Interest>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Moved,
    Idle,
    Done,
    Failed(Cause),
}

impl Program {
    pub(crate) fn new(seed: u64, window: usize, streams: Vec<Stream>) -> Self {
        Program { streams, window, random: fastrand::Rng::with_seed(seed), interests: Vec::new() }
    }

    /// Everything that can be done now. After `Idle`, [`interests`](Program::interests) says for what to wait.
    pub(crate) fn step(&mut self, transport: &mut dyn Transport) -> Step {
        if let Some(cause) = transport.verdict() {
            return Step::Failed(cause);
        }
        let mut moved = false;
        self.interests.clear();
        for stream in self.streams.iter_mut().filter(|stream| !stream.finished()) {
            moved |= stream.step(transport, &mut self.random, self.window);
            let Stream { peer, channel, direction, .. } = *stream;
            self.interests.push(Interest { peer, channel, direction });
        }
        if self.streams.iter().all(Stream::finished) {
            Step::Done
        } else if moved {
            Step::Moved
        } else {
            Step::Idle
        }
    }

    pub(crate) fn interests(&self) -> &[Interest] {
        &self.interests
    }

    /// Runs to its end, or for a minute.
    pub(crate) fn run(&mut self, transport: &mut dyn Transport) -> Step {
        let end = transport.now().after(Duration::from_secs(60));
        loop {
            match self.step(transport) {
                Step::Moved => {}
                Step::Idle => {
                    let before = transport.now();
                    assert!(before < end, "nothing moves any more: {self:?}");
                    transport.wait(&self.interests, before.after(Duration::from_secs(10)).min(end));
                }
                end => return end,
            }
        }
    }

    /// As [`run`](Program::run), and every stream must have come to its end without a fault.
    pub(crate) fn run_clean(&mut self, transport: &mut dyn Transport) {
        assert_eq!(self.run(transport), Step::Done);
        for stream in &self.streams {
            assert_eq!(stream.fault, None);
        }
    }
}

/// Waits for the group's verdict, at most ten seconds.
pub(crate) fn await_verdict(transport: &mut dyn Transport) -> Cause {
    let end = transport.now().after(Duration::from_secs(10));
    loop {
        if let Some(cause) = transport.verdict() {
            return cause;
        }
        assert!(transport.now() < end, "no verdict");
        transport.wait(&[], end.min(Time::NEVER));
    }
}

/// The streams of a rank that sends and receives `bytes` with every rank, itself included, on both channels.
pub(crate) fn everyone(rank: usize, world: usize, bytes: usize) -> Vec<Stream> {
    let mut streams = Vec::new();
    for channel in [Channel::COLLECTIVE, Channel::POINT_TO_POINT] {
        for other in 0..world {
            let uneven = |from: usize, to: usize| bytes + 13 * from + 7 * to;
            streams.push(Stream::send(other, channel, uneven(rank, other)));
            streams.push(Stream::recv(other, channel, uneven(other, rank)));
        }
    }
    streams
}
