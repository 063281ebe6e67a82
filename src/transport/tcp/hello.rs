//! The first bytes of a link: who is calling whom, in which world. Pure: no sockets.
//!
//! | bytes | content |
//! |---|---|
//! | 0 to 7 | `ringfold` |
//! | 8, 9; 10, 11 | oldest and newest version of the protocol that the caller speaks |
//! | 12, 13; 14, 15 | channel; zero |
//! | 16 to 23 | world id |
//! | 24 to 27; 28 to 31 | generation; communicator |
//! | 32 to 35; 36 to 39; 40 to 43 | the caller's rank; the called rank; world size |
//! | 44 to 47 | hash of all that |
//!
//! All numbers are little-endian.

use super::frame::{Key, Refusal};
use crate::transport::Channel;

/// Bytes of a hello.
pub const HELLO: usize = 48;

/// The version of the protocol that this build speaks, and the only one.
pub const VERSION: u16 = 1;

const MAGIC: &[u8; 8] = b"ringfold";

/// Who is calling whom, in which world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// The oldest version of the protocol that the caller speaks.
    pub oldest: u16,
    /// The newest.
    pub newest: u16,
    /// The stream that the link carries.
    pub channel: Channel,
    /// The world, a number drawn when it was formed.
    pub world_id: u64,
    /// Its generation.
    pub generation: u32,
    /// The communicator within it.
    pub communicator: u32,
    /// The rank that calls and will send payload.
    pub from: u32,
    /// The rank that is called.
    pub to: u32,
    /// The number of ranks.
    pub world: u32,
}

/// Bytes that begin no hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoHello;

impl Hello {
    /// As it crosses the wire.
    pub fn encode(&self) -> [u8; HELLO] {
        let mut bytes = [0; HELLO];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..10].copy_from_slice(&self.oldest.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.newest.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.channel.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.world_id.to_le_bytes());
        for (at, word) in
            [(24, self.generation), (28, self.communicator), (32, self.from), (36, self.to), (40, self.world)]
        {
            bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        let hash = hash(&bytes);
        bytes[44..].copy_from_slice(&hash);
        bytes
    }

    /// The hello that `bytes` are, or `None` where they are the front of what may become one.
    ///
    /// # Errors
    /// [`NoHello`] where no hello begins so.
    pub fn decode(bytes: &[u8]) -> Result<Option<Hello>, NoHello> {
        let known = bytes.len().min(MAGIC.len());
        if bytes[..known] != MAGIC[..known] {
            return Err(NoHello);
        }
        let Some(bytes) = bytes.first_chunk::<HELLO>() else { return Ok(None) };
        if bytes[44..] != hash(bytes) {
            return Err(NoHello);
        }
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let word = |at: usize| u32::from(half(at)) | u32::from(half(at + 2)) << 16;
        Ok(Some(Hello {
            oldest: half(8),
            newest: half(10),
            channel: Channel(half(12)),
            world_id: u64::from(word(16)) | u64::from(word(20)) << 32,
            generation: word(24),
            communicator: word(28),
            from: word(32),
            to: word(36),
            world: word(40),
        }))
    }

    /// Whether a rank that would itself say `own` (to anyone, on any channel) can take this one.
    pub fn check(&self, own: &Hello) -> Result<(), Refusal> {
        if self.oldest > own.newest || self.newest < own.oldest {
            Err(Refusal::Version)
        } else if self.world_id != own.world_id {
            Err(Refusal::World)
        } else if self.generation != own.generation {
            Err(Refusal::Generation)
        } else if self.communicator != own.communicator {
            Err(Refusal::Communicator)
        } else if self.world != own.world || self.to != own.from || self.from >= own.world {
            Err(Refusal::Rank)
        } else {
            Ok(())
        }
    }

    /// The keys of the link that begins with this hello: of the frames to the called rank, and of those back.
    pub fn keys(&self) -> (Key, Key) {
        let words = [
            self.world_id,
            u64::from(self.generation) << 32 | u64::from(self.communicator),
            u64::from(self.from) << 32 | u64::from(self.to),
            u64::from(self.channel.0),
        ];
        let seed = Key::seed(&words);
        (Key::new(seed), Key::new(Key::seed(&[seed])))
    }
}

fn hash(bytes: &[u8; HELLO]) -> [u8; 4] {
    let mut words = [0; 6];
    for (word, chunk) in words.iter_mut().zip(bytes[..44].chunks(8)) {
        let mut whole = [0; 8];
        whole[..chunk.len()].copy_from_slice(chunk);
        *word = u64::from_le_bytes(whole);
    }
    ((Key::seed(&words) >> 32) as u32).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            oldest: 1,
            newest: 3,
            channel: Channel(9),
            world_id: 0x0102_0304_0506_0708,
            generation: 4,
            communicator: 5,
            from: 6,
            to: 7,
            world: 8,
        }
    }

    #[test]
    fn round_trip_and_prefixes() {
        let bytes = hello().encode();
        assert_eq!(Hello::decode(&bytes), Ok(Some(hello())));
        for length in 0..HELLO {
            assert_eq!(Hello::decode(&bytes[..length]), Ok(None));
        }
    }

    #[test]
    fn any_changed_byte_is_no_hello() {
        let bytes = hello().encode();
        for at in 0..HELLO {
            for change in [1, 0x80, 0xff] {
                let mut damaged = bytes;
                damaged[at] ^= change;
                assert_eq!(Hello::decode(&damaged), Err(NoHello), "byte {at}");
            }
        }
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..10_000 {
            let mut noise = [0; HELLO + 8];
            random.fill(&mut noise);
            let _ = Hello::decode(&noise[..random.usize(..noise.len())]);
            noise[..8].copy_from_slice(MAGIC);
            let _ = Hello::decode(&noise[..random.usize(..noise.len())]);
        }
    }

    #[test]
    fn each_field_is_checked() {
        let own = Hello { oldest: 2, newest: 2, from: 7, to: 0, channel: Channel(0), ..hello() };
        assert_eq!(hello().check(&own), Ok(()));
        let wrong = |change: fn(&mut Hello)| {
            let mut changed = hello();
            change(&mut changed);
            changed.check(&own).unwrap_err()
        };
        assert_eq!(wrong(|h| h.newest = 1), Refusal::Version);
        assert_eq!(wrong(|h| h.oldest = 3), Refusal::Version);
        assert_eq!(wrong(|h| h.world_id = 0), Refusal::World);
        assert_eq!(wrong(|h| h.generation = 3), Refusal::Generation);
        assert_eq!(wrong(|h| h.communicator = 0), Refusal::Communicator);
        assert_eq!(wrong(|h| h.world = 9), Refusal::Rank);
        assert_eq!(wrong(|h| h.to = 6), Refusal::Rank);
        assert_eq!(wrong(|h| h.from = 8), Refusal::Rank);
    }

    #[test]
    fn the_two_directions_and_different_links_have_different_keys() {
        let (there, back) = hello().keys();
        assert_ne!(there, back);
        assert_ne!(there, Hello { channel: Channel(8), ..hello() }.keys().0);
        assert_ne!(there, Hello { generation: 5, ..hello() }.keys().0);
    }
}
