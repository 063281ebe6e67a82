//! Bytes between ranks, and the little that ranks need to find each other.
//!
//! A [`Transport`] moves byte streams; it knows nothing of collectives. An [`Exchange`] is an all-gather of small
//! byte strings: the only thing that a bootstrap has to offer.

pub mod channel;
pub mod control;
mod exchange;
#[cfg(feature = "mpi")]
pub mod mpi;
pub(crate) mod prompt;
pub mod shm;
pub mod sim;
pub mod tcp;
pub(crate) mod verdict;

pub use exchange::Exchange;

use crate::error::{Cause, CauseKind};
use crate::observe::{Time, Waker};
use std::io::IoSlice;

/// One of the independent byte streams between a pair of ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Channel(pub u16);

impl Channel {
    /// Collectives.
    pub const COLLECTIVE: Channel = Channel(0);
    /// Point-to-point messages.
    pub const POINT_TO_POINT: Channel = Channel(1);
}

/// Which way bytes go, seen from this rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From this rank to the peer.
    Send,
    /// From the peer to this rank.
    Receive,
}

/// Something that a waiting rank would like to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interest {
    /// With whom.
    pub peer: usize,
    /// On which stream.
    pub channel: Channel,
    /// Which way.
    pub direction: Direction,
}

/// A link that carries no more bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkFault {
    /// The peer at the other end.
    pub peer: usize,
    /// What is known of why; a bare close is [`CauseKind::Closed`] until a better cause is told.
    pub kind: CauseKind,
    /// In words.
    pub detail: String,
}

/// How many connections a transport has had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Links {
    /// Those that were made, by either side.
    pub made: u64,
    /// How many peers have ended one.
    pub lost: u64,
}

/// Byte streams between the ranks of a world, driven by one thread that never blocks but in [`wait`](Transport::wait).
///
/// Per (pair, channel, direction) the bytes arrive in order, each once. A call may move any part of what it was
/// given, and keeps nothing of it: the caller offers the rest again, the same bytes, until they are taken.
pub trait Transport: Send {
    /// This rank.
    fn rank(&self) -> usize;

    /// The number of ranks.
    fn world(&self) -> usize;

    /// Sends as many leading bytes of `data` as can be taken now; 0 where none can. Links are made when first
    /// needed, within this call and [`wait`](Transport::wait).
    fn try_send(&mut self, to: usize, channel: Channel, data: &[IoSlice<'_>]) -> Result<usize, LinkFault>;

    /// Receives into the front of `into` what is there now; 0 where nothing is. The contents of the rest of `into`
    /// are unspecified afterwards.
    fn try_recv(&mut self, from: usize, channel: Channel, into: &mut [u8]) -> Result<usize, LinkFault>;

    /// Where bytes that have come lie, as many as lie together, where this transport can show them; 0 bytes where none have.
    /// They stay there until they are [consumed](Transport::consume) or received, and the peer could change them: to be
    /// read by raw pointers only.
    fn peek(&mut self, _from: usize, _channel: Channel) -> Result<Option<(*const u8, usize)>, LinkFault> {
        Ok(None)
    }

    /// Lets go of so many of the bytes that were [shown](Transport::peek).
    ///
    /// # Panics
    /// Where so many were not shown.
    fn consume(&mut self, _from: usize, _channel: Channel, bytes: usize) {
        assert_eq!(bytes, 0, "nothing was shown");
    }

    /// Returns when one of the interests may make progress, the verdict is in, or `until` has come; and may
    /// return for no reason.
    fn wait(&mut self, interests: &[Interest], until: Time);

    /// The memory that the ranks see of each other, where they do.
    fn host_memory(&mut self) -> Option<&mut shm::HostMemory> {
        None
    }

    /// As [`wait`](Transport::wait), for something that `look` finds in the memory that the ranks see of each other.
    fn wait_for(&mut self, _look: &mut dyn FnMut(&mut shm::HostMemory) -> bool, _until: Time) {}

    /// What makes a present call of [`wait`](Transport::wait), or else the next one, return at once.
    fn waker(&self) -> Waker;

    /// The clock that deadlines are measured by.
    fn now(&self) -> Time;

    /// How often a caller should look again before it calls [`wait`](Transport::wait): 0 where the CPUs are
    /// shared with other ranks.
    fn spins(&self) -> u32;

    /// Whether ranks must share CPUs: then a rank that looks again offers its own each time.
    fn shares_cpus(&self) -> bool {
        false
    }

    /// Moves the calling thread to another of its CPUs where ranks before this one were last seen on the same, and fewer there; whether any
    /// were seen. Where the thread may run is the same afterwards.
    fn step_aside(&mut self) -> bool {
        false
    }

    /// Tells the group of a failure that this rank has noticed. Does not block.
    fn report(&mut self, cause: &Cause);

    /// What the group has agreed to call its first failure, if it has failed.
    fn verdict(&self) -> Option<Cause>;

    /// The connections so far: none where ranks need none.
    fn links(&self) -> Links {
        Links::default()
    }
}
