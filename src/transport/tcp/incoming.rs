//! A link that carries a peer's payload to this rank; only control frames go back on it.
//!
//! Bytes come by two ways. At a frame's start the header is not known yet, so what is there is read into a small
//! *stage* and copied on from it: one call and a short copy for a small message. Within a frame the payload is read
//! straight into the caller's buffer, and what lies behind it (the next header, or a whole small frame) into the
//! stage by the same call.

use super::fault::End;
use super::frame::{Decoder, HEADER, Key, Kind, Step};
use super::hello::Hello;
use super::outgoing::{Told, retry, send_control};
use crate::error::Cause;
use crate::transport::{Channel, LinkFault};
use socket2::Socket;
use std::io::{self, IoSliceMut, Read};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};

/// Bytes of the stage: a message of 4 KiB with its header, and a header more.
const STAGE: usize = 4096 + 2 * HEADER;

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
    stage: Box<[u8; STAGE]>,
    /// What is staged and not taken.
    start: usize,
    filled: usize,
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
            stage: Box::new([0; STAGE]),
            start: 0,
            filled: 0,
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
                Ok((0, _)) => break,
                Ok((_, payload)) => {
                    done += payload.direct;
                    done += self.unstage(&mut into[done..]);
                    if !payload.full {
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

    /// One call: how many bytes came (0 where none are there), and where they went.
    fn read(&mut self, into: &mut [u8]) -> Result<(usize, Came), LinkFault> {
        let remaining = self.decoder.remaining();
        let (result, direct, room) = if remaining == 0 {
            let stage = &mut self.stage[self.filled..];
            let room = stage.len();
            (retry(|| (&self.socket).read(stage)), 0, room)
        } else if remaining > into.len() {
            (retry(|| (&self.socket).read(into)), into.len(), into.len())
        } else {
            let into = &mut into[..remaining];
            let stage = &mut self.stage[..];
            let room = remaining + stage.len();
            let mut pieces = [IoSliceMut::new(into), IoSliceMut::new(stage)];
            (retry(|| (&self.socket).read_vectored(&mut pieces)), remaining, room)
        };
        match result {
            Ok(0) => Err(self.end.closed(remaining > 0 || self.start < self.filled)),
            Ok(read) => {
                let direct = read.min(direct);
                self.decoder.take(direct);
                self.filled += read - direct;
                Ok((read, Came { direct, full: read == room }))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Ok((0, Came { direct: 0, full: false }))
            }
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
                into[done..done + part].copy_from_slice(&self.stage[self.start..self.start + part]);
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
        match self.decoder.step(&self.stage[self.start..self.filled]) {
            Ok((_, Step::Need(bytes))) => {
                if self.start + bytes > STAGE {
                    self.stage.copy_within(self.start..self.filled, 0);
                    self.filled -= self.start;
                    self.start = 0;
                }
                return false;
            }
            Ok((used, step)) => {
                self.start += used;
                match step {
                    Step::Cause(cause) => super::remember(&mut self.told, cause),
                    Step::Goodbye => {
                        self.left = true;
                        self.fault = Some(self.end.left());
                    }
                    Step::Refused(_) => self.fault = Some(self.end.no_frame("a refusal of nothing")),
                    _ => {}
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
        drain(&self.socket, &mut self.stage[..]);
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
