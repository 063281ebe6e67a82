//! The codec of the frames that follow a hello: pure functions over bytes.
//!
//! A frame is a header of 8 bytes (the length of the body as 32 bits, the kind as 8, three zeros) and a body. Each
//! kind has its own limit, which is looked at before anything is allocated or waited for. Numbers are little-endian.

use super::hello::{Refusal, printable};
use super::{MESSAGE_LIMIT, TELL_LIMIT, ledger};
use crate::error::{Cause, CauseKind};

/// Bytes ahead of every body.
pub const HEADER: usize = 8;

/// The longest frame of any kind, header included.
pub const FRAME_LIMIT: usize = HEADER + 16 + MESSAGE_LIMIT;

/// The longest text of a refusal in bytes.
const TEXT_LIMIT: usize = 512;

/// How many ranks a [`Frame::Missing`] lists at most, of each sort.
const LIST_LIMIT: usize = 1024;

const NO_RANK: u32 = u32::MAX;

/// What the two ends of a control link say to each other after the hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// The store takes the rank in.
    Welcome {
        /// The version of the protocol from here on.
        version: u16,
        /// The store's heartbeat deadline in milliseconds.
        heartbeat: u32,
        /// The rank in whose process the store lives; `None` for a launcher's.
        host_rank: Option<u32>,
    },
    /// The store does not take the connection in, and why.
    Refuse {
        /// The reason.
        reason: Refusal,
        /// The reason in words.
        text: String,
    },
    /// A rank's message of a round of the all-gather.
    Contribute {
        /// The round, counted from 0.
        round: u64,
        /// The message.
        message: Vec<u8>,
    },
    /// One rank's message of a round that is complete.
    Part {
        /// The round.
        round: u64,
        /// Whose message.
        rank: u32,
        /// The message.
        message: Vec<u8>,
    },
    /// Who is missing in this round?
    Query {
        /// The round.
        round: u64,
    },
    /// The answer to a query; long lists are cut.
    Missing {
        /// The round.
        round: u64,
        /// Ranks that have never connected.
        absent: Vec<u32>,
        /// Ranks that have connected and have not contributed.
        silent: Vec<u32>,
    },
    /// A sign of life.
    Heartbeat,
    /// A rank tells of a failure.
    Report(Cause),
    /// The group's first failure, for good.
    Verdict(Cause),
    /// What a rank tells the store's host of its work. From version 2 on.
    Tell {
        /// The message.
        message: Vec<u8>,
    },
    /// What a rank has begun of the collectives of a group. From version 3 on.
    Ledger {
        /// A window of the ledger.
        message: Vec<u8>,
    },
    /// Who has not begun this collective? From version 4 on.
    WhoIsLate {
        /// The communicator, as fingerprints name it.
        communicator: u32,
        /// The collective's number there.
        sequence: u64,
    },
    /// The answer to that; a long list is cut.
    Late {
        /// The communicator.
        communicator: u32,
        /// The collective's number there.
        sequence: u64,
        /// Ranks that have told of no such collective.
        ranks: Vec<u32>,
    },
    /// The rank leaves in good order.
    Goodbye,
    /// The rank that hosts the store has left in good order: from now on the loss of the store is no failure.
    HostLeft,
}

/// Bytes that are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length is beyond the limit of the kind.
    #[error("a frame of kind {kind} claims a body of {length} bytes, and at most {limit} are allowed")]
    TooLong {
        /// The kind's wire number.
        kind: u8,
        /// The length as claimed.
        length: u32,
        /// The longest body of that kind.
        limit: usize,
    },
    /// No frame has this number.
    #[error("no frame is of kind {0}")]
    UnknownKind(u8),
    /// The body is not what the kind asks for.
    #[error("a frame of kind {0} has a malformed body")]
    Malformed(u8),
}

mod kind {
    pub(super) const WELCOME: u8 = 1;
    pub(super) const REFUSE: u8 = 2;
    pub(super) const CONTRIBUTE: u8 = 3;
    pub(super) const PART: u8 = 4;
    pub(super) const QUERY: u8 = 5;
    pub(super) const MISSING: u8 = 6;
    pub(super) const HEARTBEAT: u8 = 7;
    pub(super) const REPORT: u8 = 8;
    pub(super) const VERDICT: u8 = 9;
    pub(super) const GOODBYE: u8 = 10;
    pub(super) const HOST_LEFT: u8 = 11;
    pub(super) const TELL: u8 = 12;
    pub(super) const LEDGER: u8 = 13;
    pub(super) const WHO_IS_LATE: u8 = 14;
    pub(super) const LATE: u8 = 15;
}

const CAUSE_FIXED: usize = 24;

fn body_limit(kind: u8) -> Option<usize> {
    Some(match kind {
        kind::WELCOME => 12,
        kind::REFUSE => 1 + TEXT_LIMIT,
        kind::CONTRIBUTE => 8 + MESSAGE_LIMIT,
        kind::PART => 12 + MESSAGE_LIMIT,
        kind::QUERY => 8,
        kind::MISSING => 16 + 2 * 4 * LIST_LIMIT,
        kind::REPORT | kind::VERDICT => CAUSE_FIXED + Cause::DETAIL_LIMIT,
        kind::TELL => TELL_LIMIT,
        kind::LEDGER => ledger::LIMIT,
        kind::WHO_IS_LATE => 12,
        kind::LATE => 16 + 4 * LIST_LIMIT,
        kind::HEARTBEAT | kind::GOODBYE | kind::HOST_LEFT => 0,
        _ => return None,
    })
}

/// How many bytes the frame that begins here has, header included, once its header is there.
///
/// # Errors
/// [`FrameError::UnknownKind`] and [`FrameError::TooLong`]: nothing that follows can be trusted.
pub fn frame_length(bytes: &[u8]) -> Result<Option<usize>, FrameError> {
    let Some(header) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
    let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    let kind = header[4];
    let limit = body_limit(kind).ok_or(FrameError::UnknownKind(kind))?;
    if length as usize > limit {
        return Err(FrameError::TooLong { kind, length, limit });
    }
    if header[5..] != [0; 3] {
        return Err(FrameError::Malformed(kind));
    }
    Ok(Some(HEADER + length as usize))
}

/// Reads the frame that begins here and says how many bytes it took; `None` while it is not complete.
///
/// # Errors
/// [`FrameError`]: the connection is of no more use. Never panics, whatever the bytes are.
pub fn decode(bytes: &[u8]) -> Result<Option<(Frame, usize)>, FrameError> {
    let Some(length) = frame_length(bytes)? else { return Ok(None) };
    if bytes.len() < length {
        return Ok(None);
    }
    let kind = bytes[4];
    let mut body = Body(&bytes[HEADER..length]);
    let frame = body.frame(kind).ok_or(FrameError::Malformed(kind))?;
    Ok(Some((frame, length)))
}

struct Body<'a>(&'a [u8]);

impl Body<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    /// All that is left.
    fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0).to_vec()
    }

    fn ranks(&mut self, count: u32) -> Option<Vec<u32>> {
        if count as usize > LIST_LIMIT {
            return None;
        }
        (0..count).map(|_| self.u32()).collect()
    }

    fn text(&mut self) -> String {
        printable(std::mem::take(&mut self.0))
    }

    fn cause(&mut self) -> Option<Cause> {
        let generation = self.u32()?;
        let kind = CauseKind::from_wire(self.u8()?)?;
        if self.take::<3>()? != [0; 3] {
            return None;
        }
        let sequence = self.u64()?;
        let culprit = self.u32()? as usize;
        let reporter = self.u32()? as usize;
        Some(Cause { generation, sequence, kind, culprit, reporter, detail: self.text() })
    }

    fn frame(&mut self, kind: u8) -> Option<Frame> {
        let frame = match kind {
            kind::WELCOME => {
                let version = self.u16()?;
                if self.u16()? != 0 {
                    return None;
                }
                let heartbeat = self.u32()?;
                let host = self.u32()?;
                Frame::Welcome { version, heartbeat, host_rank: (host != NO_RANK).then_some(host) }
            }
            kind::REFUSE => Frame::Refuse { reason: Refusal::from_wire(self.u8()?)?, text: self.text() },
            kind::CONTRIBUTE => Frame::Contribute { round: self.u64()?, message: self.rest() },
            kind::PART => Frame::Part { round: self.u64()?, rank: self.u32()?, message: self.rest() },
            kind::QUERY => Frame::Query { round: self.u64()? },
            kind::MISSING => {
                let (round, absent, silent) = (self.u64()?, self.u32()?, self.u32()?);
                Frame::Missing { round, absent: self.ranks(absent)?, silent: self.ranks(silent)? }
            }
            kind::HEARTBEAT => Frame::Heartbeat,
            kind::REPORT => Frame::Report(self.cause()?),
            kind::VERDICT => Frame::Verdict(self.cause()?),
            kind::GOODBYE => Frame::Goodbye,
            kind::HOST_LEFT => Frame::HostLeft,
            kind::TELL => Frame::Tell { message: self.rest() },
            kind::LEDGER => Frame::Ledger { message: self.rest() },
            kind::WHO_IS_LATE => Frame::WhoIsLate { communicator: self.u32()?, sequence: self.u64()? },
            kind::LATE => {
                let (communicator, sequence, count) = (self.u32()?, self.u64()?, self.u32()?);
                Frame::Late { communicator, sequence, ranks: self.ranks(count)? }
            }
            _ => return None,
        };
        self.0.is_empty().then_some(frame)
    }
}

/// The bytes of a frame on the wire. Texts and lists beyond their limits are cut; a message beyond
/// [`MESSAGE_LIMIT`] or [`TELL_LIMIT`] is the caller's to refuse.
pub fn encode(frame: &Frame) -> Vec<u8> {
    let mut bytes = vec![0u8; HEADER];
    let kind = match frame {
        Frame::Welcome { version, heartbeat, host_rank } => {
            bytes.extend_from_slice(&version.to_le_bytes());
            bytes.extend_from_slice(&[0; 2]);
            bytes.extend_from_slice(&heartbeat.to_le_bytes());
            bytes.extend_from_slice(&host_rank.unwrap_or(NO_RANK).to_le_bytes());
            kind::WELCOME
        }
        Frame::Refuse { reason, text } => {
            bytes.push(*reason as u8);
            bytes.extend_from_slice(cut(text, TEXT_LIMIT).as_bytes());
            kind::REFUSE
        }
        Frame::Contribute { round, message } => {
            bytes.extend_from_slice(&round.to_le_bytes());
            bytes.extend_from_slice(message);
            kind::CONTRIBUTE
        }
        Frame::Part { round, rank, message } => {
            bytes.extend_from_slice(&round.to_le_bytes());
            bytes.extend_from_slice(&rank.to_le_bytes());
            bytes.extend_from_slice(message);
            kind::PART
        }
        Frame::Query { round } => {
            bytes.extend_from_slice(&round.to_le_bytes());
            kind::QUERY
        }
        Frame::Missing { round, absent, silent } => {
            let absent = &absent[..absent.len().min(LIST_LIMIT)];
            let silent = &silent[..silent.len().min(LIST_LIMIT)];
            bytes.extend_from_slice(&round.to_le_bytes());
            bytes.extend_from_slice(&(absent.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&(silent.len() as u32).to_le_bytes());
            for rank in absent.iter().chain(silent) {
                bytes.extend_from_slice(&rank.to_le_bytes());
            }
            kind::MISSING
        }
        Frame::Heartbeat => kind::HEARTBEAT,
        Frame::Report(cause) => {
            encode_cause(cause, &mut bytes);
            kind::REPORT
        }
        Frame::Verdict(cause) => {
            encode_cause(cause, &mut bytes);
            kind::VERDICT
        }
        Frame::Goodbye => kind::GOODBYE,
        Frame::HostLeft => kind::HOST_LEFT,
        Frame::Tell { message } => {
            bytes.extend_from_slice(message);
            kind::TELL
        }
        Frame::Ledger { message } => {
            bytes.extend_from_slice(message);
            kind::LEDGER
        }
        Frame::WhoIsLate { communicator, sequence } => {
            bytes.extend_from_slice(&communicator.to_le_bytes());
            bytes.extend_from_slice(&sequence.to_le_bytes());
            kind::WHO_IS_LATE
        }
        Frame::Late { communicator, sequence, ranks } => {
            let ranks = &ranks[..ranks.len().min(LIST_LIMIT)];
            bytes.extend_from_slice(&communicator.to_le_bytes());
            bytes.extend_from_slice(&sequence.to_le_bytes());
            bytes.extend_from_slice(&(ranks.len() as u32).to_le_bytes());
            bytes.extend(ranks.iter().flat_map(|rank| rank.to_le_bytes()));
            kind::LATE
        }
    };
    let length = (bytes.len() - HEADER) as u32;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes[4] = kind;
    bytes
}

fn encode_cause(cause: &Cause, bytes: &mut Vec<u8>) {
    let rank = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
    bytes.extend_from_slice(&cause.generation.to_le_bytes());
    bytes.extend_from_slice(&[cause.kind as u8, 0, 0, 0]);
    bytes.extend_from_slice(&cause.sequence.to_le_bytes());
    bytes.extend_from_slice(&rank(cause.culprit));
    bytes.extend_from_slice(&rank(cause.reporter));
    bytes.extend_from_slice(cut(&cause.detail, Cause::DETAIL_LIMIT).as_bytes());
}

/// The longest prefix of at most `limit` bytes that ends between characters.
fn cut(text: &str, limit: usize) -> &str {
    if text.len() <= limit {
        return text;
    }
    let end = (0..=limit).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
