//! Frames to and from a socket that does not block, with bounded memory.

use super::frame::{self, Frame, FrameError};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;

const SMALL: usize = 512;

/// Bytes received and not yet understood: room for one frame, never more.
#[derive(Debug, Default)]
pub(super) struct FrameBuffer {
    bytes: Vec<u8>,
    used: usize,
}

impl FrameBuffer {
    /// Reads once. Returns how many bytes came; 0 is the end of the stream.
    ///
    /// Callers take all complete frames out before they fill again, so that there always is room.
    ///
    /// # Errors
    /// As [`Read::read`] has them, `WouldBlock` included; interruptions are passed over.
    pub(super) fn fill(&mut self, source: &mut impl Read) -> io::Result<usize> {
        let wanted = frame::frame_length(&self.bytes[..self.used]).ok().flatten().unwrap_or(0).max(SMALL);
        if self.bytes.len() < wanted || (self.used == 0 && self.bytes.len() > SMALL) {
            self.bytes.resize(wanted, 0);
            self.bytes.shrink_to(wanted);
        }
        loop {
            match source.read(&mut self.bytes[self.used..]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(count) => {
                    self.used += count;
                    return Ok(count);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes the next complete frame out.
    pub(super) fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some((frame, length)) = frame::decode(&self.bytes[..self.used])? else { return Ok(None) };
        self.bytes.copy_within(length..self.used, 0);
        self.used -= length;
        Ok(Some(frame))
    }
}

/// Frames that wait to be sent.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    frames: VecDeque<Arc<[u8]>>,
    sent: usize,
}

impl Outbox {
    pub(super) fn push(&mut self, frame: Arc<[u8]>) {
        self.frames.push_back(frame);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.frames.len()
    }

    /// Sends what the socket takes now. True when nothing is left.
    ///
    /// One plain write a frame: a vectored one would raise SIGPIPE in programs that do not ignore it.
    pub(super) fn flush(&mut self, sink: &mut impl Write) -> io::Result<bool> {
        while let Some(first) = self.frames.front() {
            match sink.write(&first[self.sent..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(taken) => self.sent += taken,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
            if self.sent == first.len() {
                self.sent = 0;
                self.frames.pop_front();
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct OneByte<T>(T);

    impl<T: Read> Read for OneByte<T> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let end = into.len().min(1);
            self.0.read(&mut into[..end])
        }
    }

    impl<T: Write> Write for OneByte<T> {
        fn write(&mut self, from: &[u8]) -> io::Result<usize> {
            self.0.write(&from[..from.len().min(1)])
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn frames_survive_reads_and_writes_of_one_byte() {
        let frames = [
            Frame::Query { round: 9 },
            Frame::Heartbeat,
            Frame::Part { round: 1, rank: 2, message: vec![7; 5_000] },
            Frame::Goodbye,
        ];
        let mut outbox = Outbox::default();
        for frame in &frames {
            outbox.push(frame::encode(frame).into());
        }
        let mut wire = OneByte(Vec::new());
        assert!(outbox.flush(&mut wire).unwrap());
        let mut source = OneByte(wire.0.as_slice());
        let mut buffer = FrameBuffer::default();
        let mut read = Vec::new();
        while buffer.fill(&mut source).unwrap() > 0 {
            while let Some(frame) = buffer.next_frame().unwrap() {
                read.push(frame);
            }
        }
        assert_eq!(read, frames);
    }

    #[test]
    fn a_buffer_never_holds_more_than_a_frame() {
        let part =
            frame::encode(&Frame::Part { round: 1, rank: 2, message: vec![7; super::super::MESSAGE_LIMIT] });
        let bytes = part.repeat(3);
        let mut source = bytes.as_slice();
        let mut buffer = FrameBuffer::default();
        let mut seen = 0;
        while buffer.fill(&mut source).unwrap() > 0 {
            assert!(buffer.bytes.capacity() <= frame::FRAME_LIMIT);
            while buffer.next_frame().unwrap().is_some() {
                seen += 1;
            }
        }
        assert_eq!(seen, 3);
        let mut empty: &[u8] = &[];
        buffer.fill(&mut empty).unwrap();
        assert!(buffer.bytes.capacity() <= SMALL, "the room for a large frame is given back");
    }
}
