//! A link that carries a peer's payload to this rank; only control frames go back on it.
//!
//! Bytes come by two ways. At a frame's start the header is not known yet, so what is there is read into a small
//! *stage* and copied on from it: one call and a short copy for a small message. Within a frame the payload is read
//! straight into the caller's buffer. Where the last frame was long, the next is taken to be so too, and no more
//! than its header is staged.

use super::fault::End;
use super::frame::{ALIGNMENT, CONTROL_LIMIT, Decoder, HEADER, Key, Kind, Step};
use super::hello::Hello;
use super::outgoing::{Told, retry, send_control};
use crate::error::Cause;
use crate::transport::{Channel, LinkFault};
use socket2::Socket;
use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};

/// Frames longer than this are read straight into the caller's buffer, even if that takes two calls.
const LONG: usize = 8192;

/// Where the payload of a frame is meant to come to lie in the stage.
const PLACE: usize = 2 * ALIGNMENT;

/// Bytes of the stage.
const STAGE: usize = PLACE + LONG;

const _: () = assert!(STAGE >= HEADER + CONTROL_LIMIT && PLACE >= HEADER + ALIGNMENT);

/// Aligned as the kernel's pages are.
#[repr(align(64))]
struct Stage([u8; STAGE]);

/// A caller who has got something and has less room left than this is not worth another call.
const WORTHWHILE: usize = 4096;

/// The most that is read and thrown away when a link is closed.
const DRAIN: usize = 1 << 20;

/// See the module's documentation.
pub(super) struct Incoming {
    pub(super) channel: Channel,
    end: End,
    socket: Socket,
    decoder: Decoder,
    stage: Box<Stage>,
    /// What is staged and not taken.
    start: usize,
    filled: usize,
    /// The header with its padding, and the payload, of the last data frame: the guess for the next.
    guess: (usize, usize),
    /// Why nothing more comes.
    fault: Option<LinkFault>,
    /// The key of the frames that go back; `None` once they can not.
    back: Option<Key>,
    /// Whether the peer said goodbye here.
    pub(super) left: bool,
    /// A cause that the peer told.
    pub(super) told: Option<Cause>,
}

impl Incoming {
    /// The link that began with `hello`.
    pub(super) fn new(end: End, hello: &Hello, socket: Socket) -> Self {
        let (key, back) = hello.keys();
        Incoming {
            channel: hello.channel,
            end,
            socket,
            decoder: Decoder::new(key),
            stage: Box::new(Stage([0; STAGE])),
            start: 0,
            filled: 0,
            guess: (HEADER, 0),
            fault: None,
            back: Some(back),
            left: false,
            told: None,
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether [`recv`](Incoming::recv) has something to give or to say without looking at the socket.
    pub(super) fn ready(&self) -> bool {
        self.fault.is_some() || (self.decoder.remaining() > 0 && self.start < self.filled)
    }

    /// Receives what is there, at most `into`; how many bytes.
    pub(super) fn recv(&mut self, into: &mut [u8]) -> Result<usize, LinkFault> {
        let mut done = 0;
        if self.start < self.filled {
            done = self.unstage(into);
            if done == into.len() || (done > 0 && into.len() - done < WORTHWHILE) {
                return Ok(done);
            }
        }
        while done < into.len() && self.fault.is_none() {
            match self.read(&mut into[done..]) {
                Ok(came) => {
                    done += came.direct;
                    done += self.unstage(&mut into[done..]);
                    if !came.full {
                        break;
                    }
                }
                Err(fault) => self.fault = Some(fault),
            }
        }
        match &self.fault {
            Some(fault) if done == 0 && !into.is_empty() => Err(fault.clone()),
            _ => Ok(done),
        }
    }

    /// One call.
    fn read(&mut self, into: &mut [u8]) -> Result<Came, LinkFault> {
        let remaining = self.decoder.remaining();
        let within = remaining > 0;
        let room = if within {
            let part = into.len().min(remaining);
            &mut into[..part]
        } else {
            let (head, payload) = self.guess;
            if self.start == self.filled {
                (self.start, self.filled) = (PLACE - head, PLACE - head);
            }
            let held = self.filled - self.start;
            let short = payload > LONG && held < head;
            let end = if short { (self.start + head).min(STAGE) } else { STAGE };
            &mut self.stage.0[self.filled..end]
        };
        match retry(|| (&self.socket).read(room)) {
            Ok(0) => Err(self.end.closed(within || self.start < self.filled)),
            Ok(read) => {
                let full = read == room.len();
                let direct = if within { read } else { 0 };
                self.decoder.take(direct);
                self.filled += read - direct;
                Ok(Came { direct, full })
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Came { direct: 0, full: false }),
            Err(error) => Err(self.end.error("receive", &error)),
        }
    }

    /// Moves staged payload to `into`, understands what is staged around it; how many bytes were moved.
    fn unstage(&mut self, into: &mut [u8]) -> usize {
        let mut done = 0;
        loop {
            let held = self.filled - self.start;
            if held == 0 {
                (self.start, self.filled) = (0, 0);
                return done;
            }
            let remaining = self.decoder.remaining();
            if remaining > 0 {
                let part = held.min(remaining).min(into.len() - done);
                if part == 0 {
                    return done;
                }
                into[done..done + part].copy_from_slice(&self.stage.0[self.start..self.start + part]);
                self.decoder.take(part);
                self.start += part;
                done += part;
            } else if !self.understand() {
                return done;
            }
        }
    }

    /// Reads a staged header or control frame; whether there may be more to understand.
    fn understand(&mut self) -> bool {
        match self.decoder.step(&self.stage.0[self.start..self.filled]) {
            Ok((_, Step::Need(bytes))) => {
                if self.start + bytes > STAGE {
                    self.stage.0.copy_within(self.start..self.filled, 0);
                    self.filled -= self.start;
                    self.start = 0;
                }
                return false;
            }
            Ok((used, step)) => {
                self.start += used;
                match step {
                    Step::Data => self.guess = (used, self.decoder.remaining()),
                    Step::Cause(cause) => super::remember(&mut self.told, cause),
                    Step::Goodbye => {
                        self.left = true;
                        self.fault = Some(self.end.left());
                    }
                    Step::Refused(_) | Step::Need(_) => {
                        self.fault = Some(self.end.no_frame("a refusal of nothing"));
                    }
                }
            }
            Err(why) => self.fault = Some(self.end.no_frame(why.0)),
        }
        if self.fault.is_some() {
            self.start = self.filled;
        }
        true
    }

    /// Sends a control frame back if that is possible at once.
    pub(super) fn tell(&mut self, kind: Kind, payload: &[u8]) {
        if let Some(key) = &mut self.back
            && send_control(&self.socket, key, kind, payload) == Told::InPart
        {
            self.back = None;
        }
    }

    /// Says goodbye and closes.
    pub(super) fn close(mut self, goodbye: bool) {
        if goodbye {
            self.tell(Kind::Goodbye, &[]);
        }
        let _ = self.socket.shutdown(Shutdown::Write);
        drain(&self.socket, &mut self.stage.0[..]);
    }
}

/// Reads and throws away what is there, within reason: a socket that is closed with unread bytes resets the
/// connection, and what was said last might be lost.
pub(super) fn drain(mut socket: &Socket, buffer: &mut [u8]) {
    let mut drained = 0;
    while drained < DRAIN {
        match retry(|| socket.read(buffer)) {
            Ok(read) if read > 0 => drained += read,
            _ => return,
        }
    }
}

/// What a read has brought.
struct Came {
    /// Bytes that went straight into the caller's buffer.
    direct: usize,
    /// Whether there was not room for more.
    full: bool,
}
