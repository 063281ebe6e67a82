//! A link that carries this rank's payload to a peer; only control frames come back on it.

use super::fault::End;
use super::frame::{ALIGNMENT, CONTROL_LIMIT, DATA_LIMIT, Decoder, HEADER, Key, Kind, Step};
use super::hello::{HELLO, Hello};
use crate::error::{Cause, CauseKind};
use crate::transport::{Channel, LinkFault};
use nix::libc::MSG_NOSIGNAL;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, IoSlice, Read};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};

/// Up to this many payload bytes are copied behind their header and sent as one piece: cheaper than a list of two.
const SMALL: usize = 1024;

/// Pieces of one vectored call.
const PIECES: usize = 16;

/// The congestion controls for links within one host, best first: none needs pacing, and there is nobody to be
/// fair to.
const WITHIN_A_HOST: [&[u8]; 2] = [b"reno", b"cubic"];

/// See the module's documentation.
pub(super) struct Outgoing {
    pub(super) channel: Channel,
    end: End,
    socket: Socket,
    key: Key,
    /// The hello, and a header that is promised but not sent: these go first.
    prefix: Prefix,
    /// Payload bytes of the open frame that are still to be sent.
    remaining: usize,
    reverse: Reverse,
    /// Why nothing can be sent any more.
    fault: Option<LinkFault>,
    /// Whether that is what the peer said, and no guess.
    explained: bool,
    /// A cause that the peer told.
    pub(super) told: Option<Cause>,
}

struct Prefix {
    bytes: [u8; HELLO + HEADER + ALIGNMENT],
    start: usize,
    end: usize,
}

struct Reverse {
    decoder: Decoder,
    buffer: Box<[u8; HEADER + CONTROL_LIMIT]>,
    filled: usize,
}

impl Prefix {
    fn push(&mut self, bytes: &[u8]) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        self.bytes[self.end..self.end + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    fn len(&self) -> usize {
        self.end - self.start
    }
}

impl Outgoing {
    /// Begins to connect to `end`, to say `hello` there first. Does not block.
    pub(super) fn connect(end: End, hello: &Hello) -> Result<Self, LinkFault> {
        let failed = |error: io::Error| end.error("connect", &error);
        let domain = Domain::for_address(end.address);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP)).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        socket.set_tcp_nodelay(true).map_err(failed)?;
        match socket.connect(&end.address.into()) {
            Ok(()) => {}
            Err(error) if in_progress(&error) => {}
            Err(error) => return Err(failed(error)),
        }
        let own = socket.local_addr().ok().and_then(|own| own.as_socket());
        if end.address.ip().is_loopback() || own.is_some_and(|own| own.ip() == end.address.ip()) {
            let _ = WITHIN_A_HOST.iter().find(|name| socket.set_tcp_congestion(name).is_ok());
        }
        let (key, back) = hello.keys();
        let mut prefix = Prefix { bytes: [0; HELLO + HEADER + ALIGNMENT], start: 0, end: 0 };
        prefix.push(&hello.encode());
        Ok(Outgoing {
            channel: hello.channel,
            end,
            socket,
            key,
            prefix,
            remaining: 0,
            reverse: Reverse {
                decoder: Decoder::new(back),
                buffer: Box::new([0; HEADER + CONTROL_LIMIT]),
                filled: 0,
            },
            fault: None,
            explained: false,
            told: None,
        })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(super) fn failed(&self) -> bool {
        self.fault.is_some()
    }

    /// Whether the next byte sent would begin a frame.
    fn at_boundary(&self) -> bool {
        self.remaining == 0 && self.prefix.start == self.prefix.end
    }

    /// Sends what can be sent of `data`; how many of its bytes were taken. `place` counts the bytes that this thread
    /// has given to the kernel.
    pub(super) fn send(&mut self, data: &[IoSlice<'_>], place: &mut usize) -> Result<usize, LinkFault> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        let offered: usize = data.iter().map(|slice| slice.len()).sum();
        if offered == 0 {
            return Ok(0);
        }
        if self.remaining == 0 {
            if offered <= SMALL && self.prefix.len() == 0 {
                return self.send_small(data, offered, place);
            }
            // The header is thereby promised: the caller offers these bytes until they are taken. Where the hello
            // has not gone yet, it travels with it.
            self.remaining = offered.min(DATA_LIMIT);
            let head = Head::new(self.key, self.remaining, data, 0, *place + self.prefix.len());
            self.prefix.push(head.bytes());
            self.key.advance();
        }
        self.send_vectored(data, offered, place)
    }

    /// A whole small frame at a boundary: nothing is promised before a byte of it has gone.
    fn send_small(
        &mut self,
        data: &[IoSlice<'_>],
        offered: usize,
        place: &mut usize,
    ) -> Result<usize, LinkFault> {
        let mut whole = [0; HEADER + SMALL];
        let header = self.key.header(Kind::Data, 0, offered);
        whole[..HEADER].copy_from_slice(&header);
        let mut at = HEADER;
        for slice in data {
            whole[at..at + slice.len()].copy_from_slice(slice);
            at += slice.len();
        }
        let sent = match retry(|| self.socket.send_with_flags(&whole[..at], MSG_NOSIGNAL)) {
            Ok(0) => return Ok(0),
            Ok(sent) => sent,
            Err(error) => return self.stuck(&error),
        };
        *place = place.wrapping_add(sent);
        self.key.advance();
        let payload = sent.saturating_sub(HEADER);
        self.remaining = offered - payload;
        if sent < HEADER {
            self.prefix.push(&header[sent..]);
        }
        Ok(payload)
    }

    /// What is promised, the rest of the open frame and one frame more, in one call.
    fn send_vectored(
        &mut self,
        data: &[IoSlice<'_>],
        offered: usize,
        place: &mut usize,
    ) -> Result<usize, LinkFault> {
        let first = self.remaining.min(offered);
        let second = (offered - first).min(DATA_LIMIT);
        let head = match second {
            0 => Head::EMPTY,
            _ => Head::new(self.key, second, data, first, *place + self.prefix.len() + first),
        };
        let mut pieces = Pieces { list: [IoSlice::new(&[]); PIECES], count: 0 };
        pieces.push(self.prefix.bytes());
        let mut rest = Cursor { data, skipped: 0 };
        let first = rest.gather(first, &mut pieces);
        // Only behind a whole frame may a header follow, and only with room for payload behind it.
        if second > 0 && first == self.remaining && pieces.count + 2 <= PIECES {
            pieces.push(head.bytes());
            rest.gather(second, &mut pieces);
        }
        let mut sent = match retry(|| pieces.send(&self.socket)) {
            Ok(sent) => sent,
            Err(error) => return self.stuck(&error),
        };
        *place = place.wrapping_add(sent);
        let part = sent.min(self.prefix.len());
        self.prefix.start += part;
        sent -= part;
        let part = sent.min(first);
        self.remaining -= part;
        sent -= part;
        if sent == 0 {
            return Ok(part);
        }
        debug_assert!(self.remaining == 0);
        self.key.advance();
        let header = head.bytes();
        let behind = sent.saturating_sub(header.len());
        if sent < header.len() {
            self.prefix.push(&header[sent..]);
        }
        self.remaining = second - behind;
        Ok(part + behind)
    }

    /// After a send that failed: nothing taken where it was only too early, else the fault.
    #[cold]
    fn stuck(&mut self, error: &io::Error) -> Result<usize, LinkFault> {
        if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected) {
            return Ok(0);
        }
        // What the peer said before it closed explains more than the error does; the mere end of it, less.
        self.listen();
        if !self.explained {
            self.fault = Some(self.end.error("send", error));
        }
        self.fault.clone().map_or(Ok(0), Err)
    }

    /// Reads what the peer says on the way back.
    pub(super) fn listen(&mut self) {
        while self.fault.is_none() {
            let reverse = &mut self.reverse;
            let room = &mut reverse.buffer[reverse.filled..];
            match retry(|| (&self.socket).read(room)) {
                Ok(0) => self.fault = Some(self.end.closed(reverse.filled > 0)),
                Ok(read) => {
                    reverse.filled += read;
                    self.understand();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => self.fault = Some(self.end.error("send", &error)),
            }
        }
    }

    fn understand(&mut self) {
        let reverse = &mut self.reverse;
        let mut start = 0;
        while self.fault.is_none() {
            match reverse.decoder.step(&reverse.buffer[start..reverse.filled]) {
                Ok((_, Step::Need(_))) => break,
                Ok((used, step)) => {
                    start += used;
                    match step {
                        Step::Cause(cause) => super::remember(&mut self.told, cause),
                        Step::Goodbye => self.fault = Some(self.end.left()),
                        Step::Refused(why) => {
                            let detail = format!("refused the link: {}", why.as_str());
                            self.fault = Some(self.end.fault(CauseKind::Unreachable, detail));
                        }
                        _ => self.fault = Some(self.end.no_frame("payload in the wrong direction")),
                    }
                }
                Err(why) => self.fault = Some(self.end.no_frame(why.0)),
            }
        }
        self.explained = self.fault.is_some();
        reverse.buffer.copy_within(start..reverse.filled, 0);
        reverse.filled -= start;
    }

    /// Sends a control frame if that is possible at once.
    pub(super) fn tell(&mut self, kind: Kind, payload: &[u8]) {
        if self.fault.is_none() && self.at_boundary() {
            let sent = send_control(&self.socket, &mut self.key, kind, payload);
            if sent == Told::InPart {
                self.fault = Some(self.end.closed(true));
            }
        }
    }

    /// Says goodbye where a frame may begin, and closes. What was taken is still delivered.
    pub(super) fn close(mut self, goodbye: bool) {
        // Bytes that nobody has read make the kernel reset the connection, and a reset loses what is under way.
        self.listen();
        if goodbye {
            self.tell(Kind::Goodbye, &[]);
        }
        let _ = self.socket.shutdown(Shutdown::Write);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    Whole,
    InPart,
    Not,
}

/// Sends a control frame at a boundary, if that is possible at once.
pub(super) fn send_control(socket: &Socket, key: &mut Key, kind: Kind, payload: &[u8]) -> Told {
    let mut whole = [0; HEADER + CONTROL_LIMIT];
    let length = key.control(kind, payload, &mut whole);
    match retry(|| socket.send_with_flags(&whole[..length], MSG_NOSIGNAL)) {
        Ok(sent) if sent == length => {
            key.advance();
            Told::Whole
        }
        Ok(sent) if sent > 0 => Told::InPart,
        _ => Told::Not,
    }
}

/// Repeats what a signal has interrupted.
#[inline]
pub(super) fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn in_progress(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::libc::EINPROGRESS)
        || matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// A header with its padding.
struct Head {
    bytes: [u8; HEADER + ALIGNMENT],
    length: usize,
}

impl Head {
    const EMPTY: Head = Head { bytes: [0; HEADER + ALIGNMENT], length: 0 };

    /// For a data frame of `length` bytes, which begins `skipped` bytes into `data`; its header will be the
    /// byte number `place` that this thread gives to the kernel. The kernel lays what a thread sends into one long
    /// row of pages, whatever the socket, so that this number says where the copy will be.
    fn new(key: Key, length: usize, data: &[IoSlice<'_>], mut skipped: usize, place: usize) -> Self {
        let mut padding = 0;
        if length > SMALL {
            let start = data.iter().find(|slice| {
                let here = skipped < slice.len();
                skipped -= if here { 0 } else { slice.len() };
                here
            });
            let address = start.map_or(0, |slice| slice[skipped..].as_ptr().addr());
            padding = address.wrapping_sub(place + HEADER) % ALIGNMENT;
        }
        let mut bytes = [0; HEADER + ALIGNMENT];
        bytes[..HEADER].copy_from_slice(&key.header(Kind::Data, padding, length));
        Head { bytes, length: HEADER + padding }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// The pieces of one call.
struct Pieces<'a> {
    list: [IoSlice<'a>; PIECES],
    count: usize,
}

impl<'a> Pieces<'a> {
    fn push(&mut self, piece: &'a [u8]) {
        if !piece.is_empty() {
            self.list[self.count] = IoSlice::new(piece);
            self.count += 1;
        }
    }

    fn send(&self, socket: &Socket) -> io::Result<usize> {
        match &self.list[..self.count] {
            [one] => socket.send_with_flags(one, MSG_NOSIGNAL),
            many => socket.send_vectored_with_flags(many, MSG_NOSIGNAL),
        }
    }
}

/// A place in the caller's slices.
struct Cursor<'a> {
    data: &'a [IoSlice<'a>],
    /// Bytes of the first slice that are behind it.
    skipped: usize,
}

impl<'a> Cursor<'a> {
    /// Puts up to `bytes` bytes into the free pieces; how many.
    fn gather(&mut self, bytes: usize, pieces: &mut Pieces<'a>) -> usize {
        let mut left = bytes;
        while left > 0 && pieces.count < PIECES {
            let Some((slice, rest)) = self.data.split_first() else { break };
            let slice: &'a [u8] = slice;
            let part = left.min(slice.len() - self.skipped);
            pieces.push(&slice[self.skipped..self.skipped + part]);
            left -= part;
            self.skipped += part;
            if self.skipped == slice.len() {
                (self.data, self.skipped) = (rest, 0);
            }
        }
        bytes - left
    }
}
