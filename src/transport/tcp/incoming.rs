//! The half of a link that receives: frames into the caller's buffer.
//!
//! A frame's length is not known before its header is read, and a call to read the header alone costs what a call
//! to read everything costs. So the next frame is taken to be like the last:
//!
//! - After a short one, what is there is read into a small *stage* and copied on from it.
//! - After a long one, header and payload are read by one call, the header into the stage and as much payload as
//!   the last frame had straight into the caller's buffer. Where that was wrong, what has come is put into the stage.
//! - Within a frame the payload is read straight into the caller's buffer.

use super::fault::End;
use super::frame::{ALIGNMENT, CONTROL_LIMIT, Decoder, HEADER, Key, Step};
use super::outgoing::retry;
use crate::error::{Cause, CauseKind};
use crate::transport::LinkFault;
use socket2::Socket;
use std::io::{self, IoSliceMut, Read};

/// Frames longer than this are not staged.
const LONG: usize = 1024;

/// The most that is read into the caller's buffer before the header is known, and then perhaps moved.
const GUESSED: usize = 128 * 1024;

/// Where the payload of a frame is meant to come to lie in the stage.
const PLACE: usize = 2 * ALIGNMENT;

/// Bytes of the stage until a guess was wrong: for a page or two of payload, with the fingerprint ahead of it.
const STAGE: usize = PLACE + 8192 + 256;

const _: () = assert!(STAGE >= HEADER + CONTROL_LIMIT && PLACE >= HEADER + ALIGNMENT);

/// A caller who has got something and has less room left than this is not worth another call.
const WORTHWHILE: usize = 4096;

/// The most that is read and thrown away when a link is closed.
const DRAIN: usize = 1 << 20;

/// See the module's documentation.
pub(super) struct Incoming {
    end: End,
    decoder: Decoder,
    /// Empty until there is something to read: most links carry payload one way.
    stage: Vec<u8>,
    /// What is staged and not taken.
    start: usize,
    filled: usize,
    /// The header with its padding, and the payload, of the last data frame: the guess for the next.
    guess: (usize, usize),
    /// Whether payload has ever come.
    pub(super) used: bool,
    /// Whether the peer has said that it moves between links: nothing behind that is read until the caller resets it.
    pub(super) moved: bool,
    /// Why nothing more comes.
    pub(super) fault: Option<LinkFault>,
    /// Whether that is what the peer said, and no guess.
    pub(super) explained: bool,
    /// A cause that the peer told.
    pub(super) told: Option<Cause>,
}

impl Incoming {
    /// Frames from this peer with this key.
    pub(super) fn new(end: End, key: Key) -> Self {
        Incoming {
            end,
            decoder: Decoder::new(key),
            stage: Vec::new(),
            start: 0,
            filled: 0,
            guess: (HEADER, 0),
            used: false,
            moved: false,
            fault: None,
            explained: false,
            told: None,
        }
    }

    /// Whether [`recv`](Incoming::recv) has something to give or to say without looking at the socket.
    pub(super) fn ready(&self) -> bool {
        self.fault.is_some() || (!self.moved && self.has_payload())
    }

    /// Whether payload has been read and not taken: there is no use in looking at the socket before it is.
    pub(super) fn has_payload(&self) -> bool {
        self.decoder.remaining() > 0 && self.start < self.filled
    }

    /// Whether nothing more comes.
    fn over(&self) -> bool {
        self.moved || self.fault.is_some()
    }

    /// Reads what the peer says, but no payload.
    pub(super) fn listen(&mut self, socket: &Socket) {
        while !self.over() && self.decoder.remaining() == 0 {
            match self.fill(socket) {
                Ok(Came { read: 0, .. }) => return,
                Ok(_) => drop(self.unstage(&mut [])),
                Err(fault) => self.fault = Some(fault),
            }
        }
    }

    /// Receives what is there, at most `into`; how many bytes.
    pub(super) fn recv(&mut self, socket: &Socket, into: &mut [u8]) -> Result<usize, LinkFault> {
        let mut done = 0;
        if self.start < self.filled && !self.moved {
            done = self.unstage(into);
            if done == into.len() || (done > 0 && into.len() - done < WORTHWHILE) {
                return Ok(done);
            }
        }
        while done < into.len() && !self.over() {
            match self.read(socket, &mut into[done..]) {
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
    fn read(&mut self, socket: &Socket, into: &mut [u8]) -> Result<Came, LinkFault> {
        let remaining = self.decoder.remaining();
        if remaining > 0 {
            let part = into.len().min(remaining);
            let read = self.result((&*socket).read(&mut into[..part]))?;
            self.decoder.take(read);
            return Ok(Came { direct: read, read, full: read == part });
        }
        let (head, payload) = self.guess;
        // A fingerprint ahead of its payload is not worth a call of its own.
        if self.start == self.filled && payload > LONG && into.len() > LONG {
            (self.start, self.filled) = (PLACE - head, PLACE - head);
            let part = into.len().min(payload).min(GUESSED);
            return self.guess(socket, &mut into[..part]);
        }
        self.fill(socket)
    }

    /// One call, into the stage.
    fn fill(&mut self, socket: &Socket) -> Result<Came, LinkFault> {
        if self.stage.is_empty() {
            // Room for what a wrong guess brings, of which no page is touched before: later on nothing is allocated.
            self.stage.reserve_exact(PLACE + GUESSED);
            self.stage.resize(STAGE, 0);
        }
        if self.start == self.filled {
            (self.start, self.filled) = (PLACE - self.guess.0, PLACE - self.guess.0);
        }
        let end = self.stage.len().min(self.filled + STAGE);
        let room = &mut self.stage[self.filled..end];
        let length = room.len();
        let result = (&*socket).read(room);
        let read = self.result(result)?;
        self.filled += read;
        Ok(Came { direct: 0, read, full: read == length })
    }

    /// One call for a header like the last and its payload.
    fn guess(&mut self, socket: &Socket, into: &mut [u8]) -> Result<Came, LinkFault> {
        let head = PLACE - self.filled;
        let room = head + into.len();
        let mut pieces = [IoSliceMut::new(&mut self.stage[self.filled..PLACE]), IoSliceMut::new(into)];
        let result = (&*socket).read_vectored(&mut pieces);
        let read = self.result(result)?;
        self.filled += read.min(head);
        let full = read == room;
        let came = read.saturating_sub(head);
        if came == 0 {
            return Ok(Came { direct: 0, read, full });
        }
        self.understand();
        if self.start == self.filled && came <= self.decoder.remaining() {
            self.decoder.take(came);
            return Ok(Came { direct: came, read, full });
        }
        if self.fault.is_none() {
            let end = self.filled + came;
            if end > self.stage.len() {
                self.stage.resize(end, 0);
            }
            self.stage[self.filled..end].copy_from_slice(&into[..came]);
            self.filled = end;
        }
        Ok(Came { direct: 0, read, full })
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
                    Step::Data => {
                        self.guess = (used, self.decoder.remaining());
                        self.used = true;
                    }
                    Step::Cause(cause) => super::remember(&mut self.told, cause),
                    Step::Moved => self.moved = true,
                    Step::Goodbye => self.explain(self.end.left()),
                    Step::Refused(why) => {
                        let detail = format!("refused the link: {}", why.as_str());
                        self.explain(self.end.fault(CauseKind::Unreachable, detail));
                    }
                    Step::Need(_) => {}
                }
            }
            Err(why) => self.explain(self.end.no_frame(why.0)),
        }
        if self.fault.is_some() {
            self.start = self.filled;
        }
        !self.moved
    }

    fn explain(&mut self, fault: LinkFault) {
        (self.fault, self.explained) = (Some(fault), true);
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
    /// Bytes in all.
    read: usize,
    /// Whether there was not room for more.
    full: bool,
}
