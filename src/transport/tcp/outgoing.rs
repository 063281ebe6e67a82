//! The half of a link that sends: frames from the caller's slices.

use super::frame::{ALIGNMENT, CONTROL_LIMIT, DATA_LIMIT, HEADER, Key, Kind};
use super::hello::HELLO;
use nix::libc::MSG_NOSIGNAL;
use socket2::Socket;
use std::io::{self, IoSlice};

/// Up to this many payload bytes are copied behind their header and sent as one piece: cheaper than a list of two.
const SMALL: usize = 2304;

/// Pieces of one vectored call.
const PIECES: usize = 16;

/// See the module's documentation.
pub(super) struct Outgoing {
    key: Key,
    /// The hello, and headers that are promised but not sent: these go first.
    prefix: Prefix,
    /// Payload bytes of the open frame that are still to be sent.
    remaining: usize,
    /// A small frame in one piece.
    whole: Vec<u8>,
}

struct Prefix {
    bytes: [u8; HELLO + HEADER + ALIGNMENT],
    start: usize,
    end: usize,
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
    /// Frames with this key, behind `first`.
    pub(super) fn new(key: Key, first: &[u8]) -> Self {
        let mut prefix = Prefix { bytes: [0; HELLO + HEADER + ALIGNMENT], start: 0, end: 0 };
        prefix.push(first);
        Outgoing { key, prefix, remaining: 0, whole: Vec::new() }
    }

    /// Whether the next byte sent would begin a frame.
    pub(super) fn at_boundary(&self) -> bool {
        self.remaining == 0 && self.prefix.start == self.prefix.end
    }

    /// Sends what can be sent of `data`; how many of its bytes were taken. `place` counts the bytes that this thread
    /// has given to the kernel.
    pub(super) fn send(
        &mut self,
        socket: &Socket,
        data: &[IoSlice<'_>],
        place: &mut usize,
    ) -> io::Result<usize> {
        let offered: usize = data.iter().map(|slice| slice.len()).sum();
        if offered == 0 {
            return Ok(0);
        }
        if self.remaining == 0 {
            if offered <= SMALL && self.prefix.len() == 0 {
                return self.send_small(socket, data, offered, place);
            }
            // The header is thereby promised: the caller offers these bytes until they are taken. Where the hello
            // has not gone yet, it travels with it.
            self.remaining = offered.min(DATA_LIMIT);
            let head = Head::new(self.key, self.remaining, data, 0, *place + self.prefix.len());
            self.prefix.push(head.bytes());
            self.key.advance();
        }
        self.send_vectored(socket, data, offered, place)
    }

    /// A whole small frame at a boundary: nothing is promised before a byte of it has gone.
    fn send_small(
        &mut self,
        socket: &Socket,
        data: &[IoSlice<'_>],
        offered: usize,
        place: &mut usize,
    ) -> io::Result<usize> {
        let header = self.key.header(Kind::Data, 0, offered);
        self.whole.clear();
        self.whole.reserve(HEADER + SMALL);
        self.whole.extend_from_slice(&header);
        data.iter().for_each(|slice| self.whole.extend_from_slice(slice));
        let sent = retry(|| socket.send_with_flags(&self.whole, MSG_NOSIGNAL))?;
        if sent == 0 {
            return Ok(0);
        }
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
        socket: &Socket,
        data: &[IoSlice<'_>],
        offered: usize,
        place: &mut usize,
    ) -> io::Result<usize> {
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
        let mut sent = retry(|| pieces.send(socket))?;
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

    /// Promises a frame without payload, at a boundary: it goes before anything else.
    pub(super) fn promise(&mut self, kind: Kind) {
        debug_assert!(self.at_boundary());
        self.prefix.push(&self.key.header(kind, 0, 0));
        self.key.advance();
    }

    /// Sends what is promised; whether all of it has gone.
    pub(super) fn flush(&mut self, socket: &Socket, place: &mut usize) -> io::Result<bool> {
        while self.prefix.len() > 0 {
            let sent = retry(|| socket.send_with_flags(self.prefix.bytes(), MSG_NOSIGNAL))?;
            *place = place.wrapping_add(sent);
            self.prefix.start += sent;
        }
        Ok(true)
    }

    /// Sends a control frame if that is possible at once.
    pub(super) fn tell(&mut self, socket: &Socket, kind: Kind, payload: &[u8]) -> Told {
        if !self.at_boundary() {
            return Told::Not;
        }
        send_control(socket, &mut self.key, kind, payload)
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
