//! Connections that have not said who they are: few, short-lived and cheap.

use super::frame::{self, Frame};
use super::hello::{Hello, Refusal};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

/// How long a connection may take to say hello, and to take its refusal.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// A connection before its hello is complete, or on its way out. Owns 128 bytes and a socket.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) stream: TcpStream,
    pub(super) until: Instant,
    hello: [u8; Hello::SIZE],
    have: usize,
    refused: bool,
}

/// What a look at a pending connection came to.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing yet.
    Wait,
    /// It is of no more use.
    Drop,
    /// It is no rank.
    Stranger,
    /// It has said hello.
    Hello(Hello),
}

impl Pending {
    pub(super) fn new(stream: TcpStream, now: Instant) -> Self {
        Pending { stream, until: now + PATIENCE, hello: [0; Hello::SIZE], have: 0, refused: false }
    }

    /// Reads what is there, never past the hello.
    pub(super) fn step(&mut self) -> Step {
        if self.refused {
            return self.drain();
        }
        while self.have < Hello::SIZE {
            match (&self.stream).read(&mut self.hello[self.have..]) {
                Ok(0) => return Step::Drop,
                Ok(count) => self.have += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return Step::Drop,
            }
            if !Hello::may_begin(&self.hello[..self.have]) {
                return Step::Stranger;
            }
        }
        if self.have < Hello::SIZE {
            return Step::Wait;
        }
        Hello::decode(&self.hello).map_or(Step::Stranger, Step::Hello)
    }

    /// Says why not. The connection then waits for the other end to close, so that the words arrive.
    pub(super) fn refuse(&mut self, reason: Refusal, text: String, now: Instant) {
        tracing::debug!(?reason, %text, "connection refused");
        // A fresh connection takes a frame of this size; where it does not, the other end has no use for it.
        let _ = (&self.stream).write(&frame::encode(&Frame::Refuse { reason, text }));
        let _ = self.stream.shutdown(Shutdown::Write);
        self.refused = true;
        self.until = now + PATIENCE;
    }

    fn drain(&mut self) -> Step {
        // At most a little at a time: the poll comes back while there is more, and `until` ends it.
        match (&self.stream).read(&mut self.hello) {
            Ok(0) => Step::Drop,
            Ok(_) => Step::Wait,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                Step::Wait
            }
            Err(_) => Step::Drop,
        }
    }
}
