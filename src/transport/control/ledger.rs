//! What a rank has lately begun of a group's collectives, for a store to compare: where a library owns the schedules, nothing
//! travels ahead of the bytes that ranks could compare themselves.
//!
//! A backend [notes](Ledger::note) each collective as it begins it, which costs two stores behind a lock that nobody else wants.
//! The watch thread tells the store the newest of it, each 200 ms where something is new, and at once where the backend says that it
//! has [waited](Ledger::wait) for long. Of the fingerprints that were noted it has the last few, and of older ones those at
//! multiples of powers of two, so that two ranks have one in common however far one is ahead; since each carries a hash of all
//! before it, one in common is enough to know of a difference, and one of the last few to name it.

use crate::collective::Fingerprint;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often the watch thread looks what is new.
pub(super) const PERIOD: Duration = Duration::from_millis(200);

/// How many of the latest fingerprints are kept.
const LATEST: usize = 16;

/// For how many powers of two the latest fingerprint at a multiple is kept.
const LEVELS: usize = 24;

/// The longest message of a ledger, in bytes.
pub(super) const LIMIT: usize = 64 * 1024;

/// What a rank waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    /// The collective that was noted last.
    Collective,
    /// That a message of this number is received by this rank of the world.
    Receiver(usize, u64),
    /// A message of this number from this rank of the world.
    Sender(usize, u64),
}

/// What a rank tells of a group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Window {
    pub(super) communicator: u32,
    /// The ranks' numbers in the world, in their order in the group.
    pub(super) members: Vec<u32>,
    /// How many collectives it has begun.
    pub(super) begun: u64,
    pub(super) awaited: Option<Awaited>,
    /// It makes no more calls.
    pub(super) left: bool,
    /// How many messages it has begun to send to, and to receive from, ranks of the world.
    pub(super) messages: Vec<(u32, u64, u64)>,
    /// In the order of their sequence numbers.
    pub(super) fingerprints: Vec<Fingerprint>,
}

/// One rank's record of one group. Send and Sync; only its backend writes to it.
pub struct Ledger {
    inner: Mutex<Inner>,
    /// Something has happened that is told at once.
    hurry: AtomicBool,
    bell: Box<dyn Fn() + Send + Sync>,
}

struct Inner {
    window: Window,
    latest: [Option<Fingerprint>; LATEST],
    /// By how often two divides a sequence number, the last that it divides just so often.
    levels: [Option<Fingerprint>; LEVELS],
    /// What was told last: collectives, and messages of all ranks.
    told: (u64, u64),
    exchanged: u64,
}

impl Ledger {
    /// The ledger of a group, whose fingerprints name this communicator, and whose ranks have these numbers in the world. `ring` wakes
    /// whoever tells.
    pub(super) fn new(
        communicator: u32,
        members: &[usize],
        ring: impl Fn() + Send + Sync + 'static,
    ) -> Arc<Ledger> {
        let members = members.iter().map(|&member| member as u32).collect();
        let window = Window { communicator, members, ..Window::default() };
        Arc::new(Ledger {
            inner: Mutex::new(Inner {
                window,
                latest: [None; LATEST],
                levels: [None; LEVELS],
                told: (0, 0),
                exchanged: 0,
            }),
            hurry: AtomicBool::new(false),
            bell: Box::new(ring),
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A collective begins.
    #[inline]
    pub fn note(&self, fingerprint: &Fingerprint) {
        let mut inner = self.inner();
        let sequence = fingerprint.sequence;
        inner.latest[sequence as usize % LATEST] = Some(*fingerprint);
        inner.levels[(sequence.trailing_zeros() as usize).min(LEVELS - 1)] = Some(*fingerprint);
        inner.window.begun = sequence + 1;
        inner.window.awaited = None;
    }

    /// A message to, or else from, a rank of the world begins. Its number is how many went before it that way.
    pub fn message(&self, peer: usize, sends: bool) {
        let mut inner = self.inner();
        inner.exchanged += 1;
        inner.window.awaited = None;
        let messages = &mut inner.window.messages;
        let place = messages.iter().position(|&(known, ..)| known as usize == peer).unwrap_or_else(|| {
            messages.push((peer as u32, 0, 0));
            messages.len() - 1
        });
        let (_, sent, received) = &mut messages[place];
        *(if sends { sent } else { received }) += 1;
    }

    /// What began last takes long: tells of it now. Does not block but for a short lock.
    pub fn wait(&self, awaited: Awaited) {
        self.inner().window.awaited = Some(awaited);
        self.tell();
    }

    /// This rank makes no more calls in this group.
    pub fn leave(&self) {
        let mut inner = self.inner();
        inner.window.left = true;
        inner.window.awaited = None;
        drop(inner);
        self.tell();
    }

    fn tell(&self) {
        self.hurry.store(true, Ordering::Release);
        (self.bell)();
    }

    /// Whether there is something to be told without waiting.
    pub(super) fn is_in_a_hurry(&self) -> bool {
        self.hurry.load(Ordering::Acquire)
    }

    /// The message that tells what is new, if anything is; and whether it is the last one.
    pub(super) fn take(&self) -> Option<(Vec<u8>, bool)> {
        let hurry = self.hurry.swap(false, Ordering::AcqRel);
        let mut inner = self.inner();
        let now = (inner.window.begun, inner.exchanged);
        if now == inner.told && !hurry {
            return None;
        }
        inner.told = now;
        let kept = inner.latest.iter().chain(&inner.levels).flatten();
        let mut fingerprints: Vec<Fingerprint> = kept.copied().collect();
        fingerprints.sort_unstable_by_key(|fingerprint| fingerprint.sequence);
        fingerprints.dedup_by_key(|fingerprint| fingerprint.sequence);
        let window = Window { fingerprints, ..inner.window.clone() };
        Some((window.encode(), window.left))
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger")
            .field("communicator", &self.inner().window.communicator)
            .finish_non_exhaustive()
    }
}

impl Window {
    /// Lists that are longer than a message are left out: those who compare do without.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64 + 4 * self.members.len() + 64 * self.fingerprints.len());
        bytes.extend(self.communicator.to_le_bytes());
        bytes.extend(self.begun.to_le_bytes());
        let (kind, peer, number) = match self.awaited {
            None => (0u8, 0, 0),
            Some(Awaited::Collective) => (1, 0, 0),
            Some(Awaited::Receiver(peer, number)) => (2, peer, number),
            Some(Awaited::Sender(peer, number)) => (3, peer, number),
        };
        bytes.extend([kind, u8::from(self.left)]);
        bytes.extend((peer as u32).to_le_bytes());
        bytes.extend(number.to_le_bytes());
        let room = LIMIT / 4;
        let members = if 4 * self.members.len() <= room { &self.members[..] } else { &[] };
        let messages = if 20 * self.messages.len() <= room { &self.messages[..] } else { &[] };
        for length in [members.len(), messages.len(), self.fingerprints.len()] {
            bytes.extend((length as u32).to_le_bytes());
        }
        bytes.extend(members.iter().flat_map(|member| member.to_le_bytes()));
        for (peer, sent, received) in messages {
            bytes.extend(peer.to_le_bytes());
            bytes.extend(sent.to_le_bytes());
            bytes.extend(received.to_le_bytes());
        }
        bytes.extend(self.fingerprints.iter().flat_map(Fingerprint::encode));
        bytes
    }

    /// `None` where the bytes are no window.
    pub(super) fn decode(mut bytes: &[u8]) -> Option<Window> {
        fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
            let (head, rest) = bytes.split_first_chunk::<N>()?;
            *bytes = rest;
            Some(*head)
        }
        let bytes = &mut bytes;
        let communicator = u32::from_le_bytes(take(bytes)?);
        let begun = u64::from_le_bytes(take(bytes)?);
        let [kind, left] = take(bytes)?;
        let peer = u32::from_le_bytes(take(bytes)?) as usize;
        let number = u64::from_le_bytes(take(bytes)?);
        let awaited = match kind {
            0 => None,
            1 => Some(Awaited::Collective),
            2 => Some(Awaited::Receiver(peer, number)),
            3 => Some(Awaited::Sender(peer, number)),
            _ => return None,
        };
        let mut lengths = [0usize; 3];
        for length in &mut lengths {
            *length = u32::from_le_bytes(take(bytes)?) as usize;
        }
        let [members, messages, fingerprints] = lengths;
        // Before anything is allocated.
        let expected = [(members, 4), (messages, 20), (fingerprints, Fingerprint::SIZE)]
            .iter()
            .try_fold(0usize, |sum, (length, each)| sum.checked_add(length.checked_mul(*each)?))?;
        if left > 1 || expected != bytes.len() {
            return None;
        }
        let members: Option<_> = (0..members).map(|_| take(bytes).map(u32::from_le_bytes)).collect();
        let messages: Option<_> = (0..messages)
            .map(|_| {
                let peer = u32::from_le_bytes(take(bytes)?);
                let sent = u64::from_le_bytes(take(bytes)?);
                Some((peer, sent, u64::from_le_bytes(take(bytes)?)))
            })
            .collect();
        let fingerprints: Option<_> = (0..fingerprints).map(|_| Fingerprint::decode(&take(bytes)?)).collect();
        Some(Window {
            communicator,
            members: members?,
            begun,
            awaited,
            left: left == 1,
            messages: messages?,
            fingerprints: fingerprints?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::{Collective, Request};
    use crate::tensor::DType;

    fn fingerprint(sequence: u64) -> Fingerprint {
        let request = Request::new(Collective::AllReduce, 2, DType::F32, 5);
        Fingerprint { sequence, communicator: 7, ..Fingerprint::of(&request) }
    }

    #[test]
    fn windows_round_trip_and_nonsense_is_none() {
        let window = Window {
            communicator: 7,
            members: vec![3, 1],
            begun: 9,
            awaited: Some(Awaited::Sender(1, 4)),
            left: true,
            messages: vec![(1, 2, 3)],
            fingerprints: vec![fingerprint(7), fingerprint(8)],
        };
        let bytes = window.encode();
        assert_eq!(Window::decode(&bytes), Some(window));
        for length in 0..bytes.len() {
            assert_eq!(Window::decode(&bytes[..length]), None, "{length}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(Window::decode(&longer), None);
        let mut many = bytes;
        many[26..30].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Window::decode(&many), None);
    }

    #[test]
    fn two_ranks_have_a_fingerprint_in_common_however_far_one_is_ahead() {
        let windows = |counts: &[u64]| -> Vec<Window> {
            let ledger = Ledger::new(7, &[0, 1], || {});
            let mut next = 0;
            let each = counts.iter().map(|&count| {
                (next..count).for_each(|sequence| ledger.note(&fingerprint(sequence)));
                next = count;
                Window::decode(&ledger.take().unwrap().0).unwrap()
            });
            each.collect()
        };
        for (behind, ahead) in [(1, 2), (40, 90), (1000, 1013), (5000, 9000), (70_000, 100_001)] {
            let (few, many) = (windows(&[behind]), windows(&[ahead / 2, ahead]));
            let has = |window: &Window, sequence| window.fingerprints.iter().any(|f| f.sequence == sequence);
            let common =
                few[0].fingerprints.iter().any(|f| many.iter().any(|window| has(window, f.sequence)));
            assert!(common, "{behind} and {ahead}");
        }
    }

    #[test]
    fn it_tells_what_is_new_and_whoever_waits_at_once() {
        let rung = Arc::new(AtomicBool::new(false));
        let bell = Arc::clone(&rung);
        let ledger = Ledger::new(7, &[0, 1], move || bell.store(true, Ordering::SeqCst));
        assert!(ledger.take().is_none());
        ledger.note(&fingerprint(0));
        assert!(!ledger.is_in_a_hurry() && ledger.take().is_some() && ledger.take().is_none());
        ledger.message(1, true);
        assert!(ledger.take().is_some() && ledger.take().is_none());
        ledger.wait(Awaited::Collective);
        assert!(ledger.is_in_a_hurry() && rung.load(Ordering::SeqCst));
        let window = Window::decode(&ledger.take().unwrap().0).unwrap();
        assert_eq!(
            (window.awaited, window.begun, window.messages),
            (Some(Awaited::Collective), 1, vec![(1, 1, 0)])
        );
        ledger.note(&fingerprint(1));
        assert_eq!(Window::decode(&ledger.take().unwrap().0).unwrap().awaited, None);
        ledger.leave();
        assert!(ledger.take().is_some_and(|(_, last)| last));
    }
}
