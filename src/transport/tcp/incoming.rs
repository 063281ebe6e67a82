//! A link that carries a peer's payload to this rank; only control frames go back on it.
//!
//! A frame's length is not known before its header is read, and a call to read the header alone costs what a call
//! to read everything costs. So the next frame is taken to be like the last:
//!
//! - After a short one, what is there is read into a small *stage* and copied on from it.
//! - After a long one, header and payload are read by one call, the header into the stage and as much payload as
//!   the last frame had straight into the caller's buffer. Where that was wrong, what has come is put into the stage.
//! - Within a frame the payload is read straight into the caller's buffer.

use super::fault::End;
use super::frame::{ALIGNMENT, CONTROL_LIMIT, Decoder, HEADER, Key, Kind, Step};
use super::hello::Hello;
use super::outgoing::{Told, retry, send_control};
use crate::error::Cause;
use crate::transport::{Channel, LinkFault};
use socket2::Socket;
use std::io::{self, IoSliceMut, Read};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};

/// Frames longer than this are not staged.
const LONG: usize = 1024;

/// The most that is read into the caller's buffer before the header is known, and then perhaps moved.
const GUESSED: usize = 128 * 1024;

/// Where the payload of a frame is meant to come to lie in the stage.
const PLACE: usize = 2 * ALIGNMENT;

/// Bytes of the stage until a guess was wrong.
const STAGE: usize = PLACE + 8192;

const _: () = assert!(STAGE >= HEADER + CONTROL_LIMIT && PLACE >= HEADER + ALIGNMENT);

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
    stage: Vec<u8>,
    /// What is staged and not taken.
    start: usize,
    filled: usize,
    /// The header with its padding, and the payload, of the last data frame: the guess for the next.
    guess: (usize, usize),
    /// Why nothing more comes.
    fault: Option<LinkFault>,
    /// The key of the frames that go back; `None` once they can not.
    back: Option<Key>,
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
            stage: vec![0; STAGE],
            start: 0,
            filled: 0,
            guess: (HEADER, 0),
            fault: None,
            back: Some(back),
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
        let (head, payload) = self.guess;
        if remaining > 0 {
            let part = into.len().min(remaining);
            let read = self.result((&self.socket).read(&mut into[..part]))?;
            self.decoder.take(read);
            return Ok(Came { direct: read, full: read == part });
        }
        if self.start == self.filled {
            (self.start, self.filled) = (PLACE - head, PLACE - head);
            if payload > LONG {
                let part = into.len().min(payload).min(GUESSED);
                return self.guess(&mut into[..part]);
            }
        }
        let end = self.stage.len().min(self.filled + STAGE);
        let room = &mut self.stage[self.filled..end];
        let length = room.len();
        let result = (&self.socket).read(room);
        let read = self.result(result)?;
        self.filled += read;
        Ok(Came { direct: 0, full: read == length })
    }

    /// One call for a header like the last and its payload.
    fn guess(&mut self, into: &mut [u8]) -> Result<Came, LinkFault> {
        let head = PLACE - self.filled;
        let room = head + into.len();
        let mut pieces = [IoSliceMut::new(&mut self.stage[self.filled..PLACE]), IoSliceMut::new(into)];
        let result = (&self.socket).read_vectored(&mut pieces);
        let read = self.result(result)?;
        self.filled += read.min(head);
        let full = read == room;
        let came = read.saturating_sub(head);
        if came == 0 {
            return Ok(Came { direct: 0, full });
        }
        self.understand();
        if self.start == self.filled && came <= self.decoder.remaining() {
            self.decoder.take(came);
            return Ok(Came { direct: came, full });
        }
        if self.fault.is_none() {
            let end = self.filled + came;
            if end > self.stage.len() {
                self.stage.resize(end, 0);
            }
            self.stage[self.filled..end].copy_from_slice(&into[..came]);
            self.filled = end;
        }
        Ok(Came { direct: 0, full })
    }

    /// What a call has brought: bytes, nothing yet, or the end.
    fn result(&self, result: io::Result<usize>) -> Result<usize, LinkFault> {
        match result {
            Ok(0) => Err(self.end.closed(self.decoder.remaining() > 0 || self.start < self.filled)),
            Ok(read) => Ok(read),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(0),
                _ => Err(self.end.error("receive", &error)),
            },
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
                if self.start + bytes > self.stage.len() {
                    self.stage.copy_within(self.start..self.filled, 0);
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
                    Step::Goodbye => self.fault = Some(self.end.left()),
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
