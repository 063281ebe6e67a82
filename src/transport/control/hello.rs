//! The first 128 bytes of a control link: who I am and which group I want to join.

use super::VERSIONS;
use std::fmt;

const MAGIC: [u8; 8] = *b"rfcontrl";
const HOST_AT: usize = 40;
const HOST_LIMIT: usize = 64;

/// Who connects to the store, and which group it believes in. Fixed size on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The oldest and the newest version of the protocol that the rank speaks.
    pub versions: (u16, u16),
    /// The launch.
    pub world_id: u64,
    /// The generation of the group.
    pub generation: u32,
    /// The rank.
    pub rank: usize,
    /// The number of ranks.
    pub world: usize,
    /// The process id on its host, for people.
    pub pid: u32,
    /// The host's name, for people; at most 64 bytes cross the wire.
    pub host: String,
}

/// Why the store refuses a connection. The numbers are the wire's and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Refusal {
    /// The first bytes are no hello.
    Magic = 1,
    /// No version of the protocol is spoken by both ends.
    Version = 2,
    /// It belongs to another launch.
    WorldId = 3,
    /// It belongs to another generation of the group.
    Generation = 4,
    /// It counts the ranks differently.
    WorldSize = 5,
    /// There is no such rank.
    Rank = 6,
    /// That rank is connected already.
    Connected = 7,
    /// That rank was here before and is gone.
    Gone = 8,
}

impl Refusal {
    /// The refusal with this number on the wire.
    pub const fn from_wire(number: u8) -> Option<Self> {
        Some(match number {
            1 => Refusal::Magic,
            2 => Refusal::Version,
            3 => Refusal::WorldId,
            4 => Refusal::Generation,
            5 => Refusal::WorldSize,
            6 => Refusal::Rank,
            7 => Refusal::Connected,
            8 => Refusal::Gone,
            _ => return None,
        })
    }
}

impl Hello {
    /// Bytes on the wire.
    pub const SIZE: usize = 128;

    /// The hello of this process for a rank of a group.
    pub fn new(rank: usize, world: usize, world_id: u64, generation: u32) -> Self {
        Hello {
            versions: VERSIONS,
            world_id,
            generation,
            rank,
            world,
            pid: std::process::id(),
            host: hostname(),
        }
    }

    /// The bytes on the wire. A rank or world that 32 bits cannot hold becomes one that no group has.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0u8; Self::SIZE];
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&self.versions.0.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.versions.1.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.generation.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.world_id.to_le_bytes());
        bytes[24..28].copy_from_slice(&number(self.rank));
        bytes[28..32].copy_from_slice(&number(self.world));
        bytes[32..36].copy_from_slice(&self.pid.to_le_bytes());
        let host = &self.host.as_bytes()[..self.host.len().min(HOST_LIMIT)];
        bytes[36] = host.len() as u8;
        bytes[HOST_AT..HOST_AT + host.len()].copy_from_slice(host);
        bytes
    }

    /// Reads the bytes of the wire; `None` where they are no hello. Says nothing of whether it is welcome.
    pub fn decode(bytes: &[u8; Self::SIZE]) -> Option<Self> {
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if !Self::may_begin(bytes) {
            return None;
        }
        let host_len = usize::from(bytes[36]);
        if host_len > HOST_LIMIT {
            return None;
        }
        Some(Hello {
            versions: (u16_at(8), u16_at(10)),
            generation: u32_at(12),
            world_id: u64::from(u32_at(16)) | u64::from(u32_at(20)) << 32,
            rank: u32_at(24) as usize,
            world: u32_at(28) as usize,
            pid: u32_at(32),
            host: printable(&bytes[HOST_AT..HOST_AT + host_len]),
        })
    }

    /// Whether these bytes, as far as they go, may be the first of a hello.
    pub(super) fn may_begin(bytes: &[u8]) -> bool {
        let seen = bytes.len().min(MAGIC.len());
        bytes[..seen] == MAGIC[..seen]
    }

    /// The newest version that both ends speak.
    pub(super) fn common_version(&self) -> Option<u16> {
        let newest = self.versions.1.min(VERSIONS.1);
        (newest >= self.versions.0.max(VERSIONS.0)).then_some(newest)
    }
}

impl fmt::Display for Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} (pid {} on host {})", self.rank, self.pid, self.host)
    }
}

/// The text of bytes that a stranger sent: nothing in it that a terminal would act on.
pub(super) fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// The name of this host, or what stands for it where the system does not say.
pub(crate) fn hostname() -> String {
    match nix::unistd::gethostname() {
        Ok(name) => name.to_string_lossy().into_owned(),
        Err(_) => "an unnamed host".to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_round_trips() {
        let hello = Hello { host: "node-7".into(), ..Hello::new(3, 8, u64::MAX - 5, 9) };
        assert_eq!(Hello::decode(&hello.encode()), Some(hello));
    }

    #[test]
    fn strangers_are_not_taken_for_ranks() {
        let good = Hello::new(0, 1, 0, 0).encode();
        let mut bad = good;
        bad[3] ^= 1;
        assert_eq!(Hello::decode(&bad), None);
        let mut bad = good;
        bad[36] = 65;
        assert_eq!(Hello::decode(&bad), None, "a host name longer than its field");
        assert!(!Hello::may_begin(b"GET / HT"));
        assert!(Hello::may_begin(b"rfc"));
    }

    #[test]
    fn a_long_host_name_is_cut_and_control_characters_are_replaced() {
        let hello = Hello { host: format!("a\x1b[31m{}", "b".repeat(200)), ..Hello::new(0, 1, 0, 0) };
        let read = Hello::decode(&hello.encode()).unwrap();
        assert_eq!(read.host.len(), 64);
        assert!(read.host.starts_with("a?[31m"));
    }

    #[test]
    fn versions_meet_at_the_newest_common_one() {
        let with = |low, high| Hello { versions: (low, high), ..Hello::new(0, 1, 0, 0) };
        assert_eq!(with(1, 1).common_version(), Some(1));
        assert_eq!(with(1, 7).common_version(), Some(4));
        assert_eq!(with(1, 2).common_version(), Some(2));
        assert_eq!(with(2, 7).common_version(), Some(4));
        assert_eq!(with(5, 7).common_version(), None);
        assert_eq!(with(0, 0).common_version(), None);
        assert_eq!(with(5, 1).common_version(), None, "a range that is upside down");
    }
}
