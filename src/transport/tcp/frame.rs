//! What crosses a link after its hello: frames. Pure: bytes in, meaning out, no sockets.
//!
//! A frame is a header of [`HEADER`] bytes and a payload.
//!
//! | bytes | content |
//! |---|---|
//! | 0 | kind |
//! | 1 | for data, how many bytes of padding stand between header and payload, less than [`ALIGNMENT`]; else 0 |
//! | 2, 3 | check: a hash of kind, padding, length, the link's key and the number of frames before this one |
//! | 4 to 7 | length of the payload; at least 1 and at most [`DATA_LIMIT`] for data, at most [`CONTROL_LIMIT`] else |
//!
//! All numbers are little-endian. Because the check counts frames and is keyed by the link, a header that was
//! damaged, repeated, left out or meant for another link is no frame here. The payload is not checked.

use crate::error::{Cause, CauseKind};

/// Bytes of a header.
pub const HEADER: usize = 8;

/// Padding puts long payloads at multiples of this, in bytes: a kernel that copies from an aligned buffer to an
/// aligned buffer copies half as fast again as one that copies between differently aligned ones.
pub const ALIGNMENT: usize = 64;

/// The longest payload of a data frame, in bytes.
pub const DATA_LIMIT: usize = 1 << 20;

/// The longest payload of any other frame, in bytes.
pub const CONTROL_LIMIT: usize = 1024;

/// Bytes of a cause before its detail.
const CAUSE_FIXED: usize = 4 + 8 + 1 + 4 + 4 + 2;

/// What a frame is. The numbers are the wire's and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Bytes of the caller's stream.
    Data = 1,
    /// The sender's group has failed, and why.
    Cause = 2,
    /// The sender leaves in good order and sends nothing more.
    Goodbye = 3,
    /// The hello was understood and not accepted.
    Refused = 4,
    /// The sender moves from its own link, where this is its last frame, to the receiver's, where it is its first.
    Moved = 5,
}

impl Kind {
    const fn from_wire(number: u8) -> Option<Self> {
        Some(match number {
            1 => Kind::Data,
            2 => Kind::Cause,
            3 => Kind::Goodbye,
            4 => Kind::Refused,
            5 => Kind::Moved,
            _ => return None,
        })
    }
}

/// Why a hello was not accepted. The numbers are the wire's and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// No version of the protocol is spoken by both.
    Version = 1,
    /// It belongs to another world.
    World = 2,
    /// It belongs to another generation of this world.
    Generation = 3,
    /// It belongs to another communicator.
    Communicator = 4,
    /// Its ranks or its world size cannot be right.
    Rank = 5,
    /// There is, or was, such a link already.
    Duplicate = 6,
}

impl Refusal {
    /// The refusal with this number on the wire.
    pub const fn from_wire(number: u8) -> Option<Self> {
        Some(match number {
            1 => Refusal::Version,
            2 => Refusal::World,
            3 => Refusal::Generation,
            4 => Refusal::Communicator,
            5 => Refusal::Rank,
            6 => Refusal::Duplicate,
            _ => return None,
        })
    }

    /// In words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Refusal::Version => "it speaks no version of the protocol that this build speaks",
            Refusal::World => "it belongs to another world",
            Refusal::Generation => "it belongs to another generation of the group",
            Refusal::Communicator => "it belongs to another communicator",
            Refusal::Rank => "it has other ranks or another world size",
            Refusal::Duplicate => "it has such a link already: perhaps this rank was started twice",
        }
    }
}

/// Bytes that are no frame of this link, and what is wrong with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoFrame(pub &'static str);

/// The running key of one direction of a link: moves by one with each frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key(u64);

const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

impl Key {
    /// The key of the first frame; both ends derive `seed` from what they agree on.
    pub const fn new(seed: u64) -> Self {
        Key(seed)
    }

    /// The seed made of these words, for [`Key::new`].
    pub fn seed(words: &[u64]) -> u64 {
        words.iter().fold(ODD, |hash, word| {
            let mixed = (hash ^ word).wrapping_mul(ODD);
            mixed ^ (mixed >> 29)
        })
    }

    fn check(self, kind: u8, padding: u8, length: u32) -> u16 {
        let word = u64::from(length) << 16 | u64::from(padding) << 8 | u64::from(kind);
        let hash = (word ^ self.0).wrapping_mul(ODD);
        ((hash ^ (hash >> 32)).wrapping_mul(ODD) >> 48) as u16
    }

    /// The header of the next frame, whose payload has `length` bytes and comes behind `padding` more.
    pub fn header(self, kind: Kind, padding: usize, length: usize) -> [u8; HEADER] {
        debug_assert!(length <= if kind == Kind::Data { DATA_LIMIT } else { CONTROL_LIMIT });
        debug_assert!(padding == 0 || (kind == Kind::Data && padding < ALIGNMENT));
        let (padding, length) = (padding as u8, length as u32);
        let mut bytes = [0; HEADER];
        bytes[0] = kind as u8;
        bytes[1] = padding;
        bytes[2..4].copy_from_slice(&self.check(kind as u8, padding, length).to_le_bytes());
        bytes[4..8].copy_from_slice(&length.to_le_bytes());
        bytes
    }

    /// Counts a frame.
    pub fn advance(&mut self) {
        self.0 = self.0.wrapping_add(ODD << 1 | 1);
    }

    /// A whole control frame, in the front of `into`; the number of its bytes. Does not count it.
    pub fn control(self, kind: Kind, payload: &[u8], into: &mut [u8; HEADER + CONTROL_LIMIT]) -> usize {
        let payload = &payload[..payload.len().min(CONTROL_LIMIT)];
        into[..HEADER].copy_from_slice(&self.header(kind, 0, payload.len()));
        into[HEADER..HEADER + payload.len()].copy_from_slice(payload);
        HEADER + payload.len()
    }
}

/// What a [`Decoder`] has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing can be said before this many bytes (in all) are there.
    Need(usize),
    /// A data frame's payload follows: [`Decoder::remaining`] bytes.
    Data,
    /// The peer tells of a failure.
    Cause(Cause),
    /// The peer leaves in good order.
    Goodbye,
    /// The peer has not accepted the link.
    Refused(Refusal),
    /// The peer moves between links.
    Moved,
}

/// Reads frames. Holds no bytes: the caller keeps what is incomplete and offers it again with more.
#[derive(Debug, Clone)]
pub struct Decoder {
    key: Key,
    remaining: usize,
}

impl Decoder {
    /// A decoder of the frames that a peer makes with `key`.
    pub const fn new(key: Key) -> Self {
        Decoder { key, remaining: 0 }
    }

    /// How many bytes of the open data frame's payload are still to come.
    pub const fn remaining(&self) -> usize {
        self.remaining
    }

    /// Notes that the caller has taken `bytes` of the payload, at most [`remaining`](Decoder::remaining).
    pub fn take(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.remaining);
        self.remaining -= bytes;
    }

    /// Reads the header, and the payload unless it is data, at the front of `bytes`; the number of bytes used up
    /// and what they mean. To be called where [`remaining`](Decoder::remaining) is 0. After an error the stream
    /// makes no sense any more.
    ///
    /// # Errors
    /// [`NoFrame`] where no sequence of frames begins so.
    pub fn step(&mut self, bytes: &[u8]) -> Result<(usize, Step), NoFrame> {
        debug_assert_eq!(self.remaining, 0);
        let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else {
            return Ok((0, Step::Need(HEADER)));
        };
        let &[number, padding, c0, c1, l0, l1, l2, l3] = header;
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let kind = Kind::from_wire(number).ok_or(NoFrame("a kind that does not exist"))?;
        if self.key.check(number, padding, length) != u16::from_le_bytes([c0, c1]) {
            return Err(NoFrame("a header that was damaged, repeated or left out"));
        }
        let (padding, length) = (usize::from(padding), length as usize);
        if kind == Kind::Data {
            if length == 0 || length > DATA_LIMIT || padding >= ALIGNMENT {
                return Err(NoFrame("a length out of bounds"));
            }
            if rest.len() < padding {
                return Ok((0, Step::Need(HEADER + padding)));
            }
            self.key.advance();
            self.remaining = length;
            return Ok((HEADER + padding, Step::Data));
        }
        if length > CONTROL_LIMIT || padding != 0 {
            return Err(NoFrame("a length out of bounds"));
        }
        let Some(payload) = rest.get(..length) else {
            return Ok((0, Step::Need(HEADER + length)));
        };
        let step = match kind {
            Kind::Cause => decode_cause(payload).map(Step::Cause),
            Kind::Goodbye if length == 0 => Some(Step::Goodbye),
            Kind::Moved if length == 0 => Some(Step::Moved),
            Kind::Refused if length == 1 => Refusal::from_wire(payload[0]).map(Step::Refused),
            _ => None,
        };
        let step = step.ok_or(NoFrame("a control frame without meaning"))?;
        self.key.advance();
        Ok((HEADER + length, step))
    }
}

/// The payload of a cause frame, in the front of `into`; the number of its bytes.
pub fn encode_cause(cause: &Cause, into: &mut [u8; CONTROL_LIMIT]) -> usize {
    let mut end = cause.detail.len().min(Cause::DETAIL_LIMIT);
    while !cause.detail.is_char_boundary(end) {
        end -= 1;
    }
    let detail = &cause.detail.as_bytes()[..end];
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        into[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    };
    put(&cause.generation.to_le_bytes());
    put(&cause.sequence.to_le_bytes());
    put(&[cause.kind as u8]);
    put(&u32::try_from(cause.culprit).unwrap_or(u32::MAX).to_le_bytes());
    put(&u32::try_from(cause.reporter).unwrap_or(u32::MAX).to_le_bytes());
    put(&(detail.len() as u16).to_le_bytes());
    put(detail);
    at
}

/// The cause that a payload holds, if it is one.
pub fn decode_cause(payload: &[u8]) -> Option<Cause> {
    let (fixed, detail) = payload.split_first_chunk::<CAUSE_FIXED>()?;
    let word = |at: usize| u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
    let length = usize::from(u16::from_le_bytes([fixed[21], fixed[22]]));
    if length != detail.len() || length > Cause::DETAIL_LIMIT {
        return None;
    }
    Some(Cause {
        generation: word(0),
        sequence: u64::from(word(4)) | u64::from(word(8)) << 32,
        kind: CauseKind::from_wire(fixed[12])?,
        culprit: word(13) as usize,
        reporter: word(17) as usize,
        detail: std::str::from_utf8(detail).ok()?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(detail: &str) -> Cause {
        Cause {
            generation: 3,
            sequence: Cause::NO_SEQUENCE - 1,
            kind: CauseKind::Mismatch,
            culprit: 70_000,
            reporter: 1,
            detail: detail.into(),
        }
    }

    /// A stream of every kind of frame, and what it means.
    fn stream(seed: u64) -> (Vec<u8>, Vec<Step>) {
        let mut key = Key::new(seed);
        let mut bytes = Vec::new();
        let mut whole = [0; HEADER + CONTROL_LIMIT];
        let mut payload = [0; CONTROL_LIMIT];
        for length in [1, 200] {
            let padding = length % ALIGNMENT;
            bytes.extend(key.header(Kind::Data, padding, length));
            bytes.extend(std::iter::repeat_n(7, padding + length));
            key.advance();
        }
        let length = encode_cause(&cause("why"), &mut payload);
        let end = key.control(Kind::Cause, &payload[..length], &mut whole);
        bytes.extend(&whole[..end]);
        key.advance();
        let end = key.control(Kind::Refused, &[3], &mut whole);
        bytes.extend(&whole[..end]);
        key.advance();
        let end = key.control(Kind::Moved, &[], &mut whole);
        bytes.extend(&whole[..end]);
        key.advance();
        let end = key.control(Kind::Goodbye, &[], &mut whole);
        bytes.extend(&whole[..end]);
        let steps = vec![
            Step::Data,
            Step::Data,
            Step::Cause(cause("why")),
            Step::Refused(Refusal::Generation),
            Step::Moved,
            Step::Goodbye,
        ];
        (bytes, steps)
    }

    /// Decodes as a link does, with pieces of at most `piece` bytes.
    fn decode(bytes: &[u8], seed: u64, piece: usize) -> Result<Vec<Step>, NoFrame> {
        let mut decoder = Decoder::new(Key::new(seed));
        let (mut start, mut end, mut steps) = (0, 0, Vec::new());
        while end < bytes.len() {
            end = (end + piece).min(bytes.len());
            loop {
                let held = end - start;
                if decoder.remaining() > 0 {
                    let taken = held.min(decoder.remaining());
                    decoder.take(taken);
                    start += taken;
                    if taken == 0 {
                        break;
                    }
                } else {
                    let (used, step) = decoder.step(&bytes[start..end])?;
                    start += used;
                    match step {
                        Step::Need(more) => {
                            assert!(more > held && more <= HEADER + CONTROL_LIMIT);
                            break;
                        }
                        step => steps.push(step),
                    }
                }
            }
        }
        Ok(steps)
    }

    #[test]
    fn frames_round_trip_whatever_the_pieces() {
        let (bytes, steps) = stream(11);
        for piece in [1, 2, 7, 8, 9, 100, 10_000] {
            assert_eq!(decode(&bytes, 11, piece).as_ref(), Ok(&steps), "pieces of {piece}");
        }
    }

    #[test]
    fn long_details_are_cut_between_characters() {
        let mut payload = [0; CONTROL_LIMIT];
        let length = encode_cause(&cause(&"\u{e9}".repeat(600)), &mut payload);
        let back = decode_cause(&payload[..length]).unwrap();
        assert_eq!(back.detail.len(), Cause::DETAIL_LIMIT);
        let length = encode_cause(&cause(&format!("x{}", "\u{e9}".repeat(600))), &mut payload);
        assert_eq!(decode_cause(&payload[..length]).unwrap().detail.len(), Cause::DETAIL_LIMIT - 1);
        assert_eq!(decode_cause(&payload[..length - 1]), None);
    }

    #[test]
    fn the_store_can_be_the_culprit() {
        let mut payload = [0; CONTROL_LIMIT];
        let lost = Cause { culprit: Cause::STORE, ..cause("") };
        let length = encode_cause(&lost, &mut payload);
        assert_eq!(decode_cause(&payload[..length]), Some(lost));
    }

    #[test]
    fn a_huge_length_is_refused_whatever_its_check() {
        for (kind, length) in [(1, DATA_LIMIT as u32 + 1), (1, u32::MAX), (1, 0), (2, 1025), (3, u32::MAX)] {
            let key = Key::new(5);
            let mut header = [kind, 0, 0, 0, 0, 0, 0, 0];
            header[2..4].copy_from_slice(&key.check(kind, 0, length).to_le_bytes());
            header[4..].copy_from_slice(&length.to_le_bytes());
            assert_eq!(Decoder::new(key).step(&header), Err(NoFrame("a length out of bounds")));
        }
        let key = Key::new(5);
        let mut header = [1, ALIGNMENT as u8, 0, 0, 9, 0, 0, 0];
        header[2..4].copy_from_slice(&key.check(1, ALIGNMENT as u8, 9).to_le_bytes());
        assert_eq!(Decoder::new(key).step(&header), Err(NoFrame("a length out of bounds")));
    }

    #[test]
    fn repeated_missing_and_foreign_frames_are_no_frames() {
        let (bytes, _) = stream(11);
        let twice = [&bytes[..10], &bytes[..]].concat();
        assert!(decode(&twice, 11, 64).is_err());
        assert!(decode(&bytes[10..], 11, 64).is_err());
        assert!(decode(&bytes, 12, 64).is_err());
    }

    #[test]
    fn a_flipped_bit_in_a_header_is_seen() {
        let header = Key::new(77).header(Kind::Data, 8, 4096);
        for bit in 0..64 {
            let mut damaged = header;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Decoder::new(Key::new(77)).step(&damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let mut random = fastrand::Rng::with_seed(2);
        for round in 0..20_000 {
            let (mut bytes, _) = stream(round);
            for _ in 0..random.usize(1..6) {
                match random.u8(0..4) {
                    0 => {
                        let at = random.usize(..bytes.len());
                        bytes[at] = random.u8(..);
                    }
                    1 => bytes.truncate(random.usize(1..=bytes.len())),
                    2 => bytes.insert(random.usize(..bytes.len()), random.u8(..)),
                    _ => {
                        let at = random.usize(..bytes.len());
                        bytes.remove(at);
                        if bytes.is_empty() {
                            bytes.push(0);
                        }
                    }
                }
            }
            let _ = decode(&bytes, round, random.usize(1..300));
            let _ = decode_cause(&bytes);
        }
    }
}
