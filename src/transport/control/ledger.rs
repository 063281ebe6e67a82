//! What a rank has lately begun of a group's collectives, for a store to compare: where a library owns the schedules, nothing
//! travels ahead of the bytes that ranks could compare themselves.
//!
//! A backend [notes](Ledger::note) each collective as it begins it, which costs two stores behind a lock that nobody else wants.
//! The watch thread tells the store the newest of it, each 200 ms where something is new, and at once where the backend says that it
//! has [waited](Ledger::wait) for long. Of the fingerprints that were noted it has the last few, and of older ones those at
//! multiples of powers of two, so that two ranks have one in common however far one is ahead; since each carries a hash of all
//! before it, one in common is enough to know of a difference, and one of the last few to name it.
//!
//! A backend that goes into a call which comes back at its end only says so ([`enter`](Ledger::enter)): then the watch thread sees how long that
//! takes, in its place, and tells the log when the deadline has passed, with who has not come as far as the store knows, and when the group
//! has failed meanwhile.

use crate::collective::{Collective, Fingerprint};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

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

impl Stuck {
    /// What the log calls it.
    pub(super) fn name(&self) -> &'static str {
        self.collective.map_or("collective", Collective::as_str)
    }
}

/// One rank's record of one group. Send and Sync; only its backend writes to it.
pub struct Ledger {
    inner: Mutex<Inner>,
    /// Something has happened that is told at once.
    hurry: AtomicBool,
    /// Whether the backend is in a call, for the collective that was noted last, that comes back at its end only.
    inside: AtomicBool,
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
    stay: Stay,
}

/// What the watch thread knows of a call that the backend is in.
#[derive(Debug, Clone, Copy, Default)]
struct Stay {
    timeout: Duration,
    /// When the watch thread saw it first: nobody looks at the clock when it begins.
    seen: Option<Instant>,
    /// Whether it was asked who is late.
    asked: bool,
}

/// A call that does not come back, as the log tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stuck {
    pub(super) communicator: u32,
    pub(super) sequence: u64,
    pub(super) collective: Option<Collective>,
    pub(super) timeout: Duration,
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
                stay: Stay::default(),
            }),
            hurry: AtomicBool::new(false),
            inside: AtomicBool::new(false),
            bell: Box::new(ring),
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A collective begins.
    #[inline]
    pub fn note(&self, fingerprint: &Fingerprint) {
        self.inner().note(fingerprint);
    }

    /// The same of one for which the backend goes into a call that comes back at its end only, however long it may take.
    #[inline]
    pub fn enter(&self, fingerprint: &Fingerprint, timeout: Duration) {
        let mut inner = self.inner();
        inner.note(fingerprint);
        inner.stay = Stay { timeout, seen: None, asked: false };
        self.inside.store(true, Ordering::Release);
    }

    /// The backend has come back from that call.
    #[inline]
    pub fn come_out(&self) {
        self.inside.store(false, Ordering::Release);
    }

    /// Looks whether the backend is in a call that does not come back: where it was there at the last look, too, it is said to wait. The call,
    /// once, when it has been there beyond its deadline for so long that all others have told what they had begun by then.
    pub(super) fn look_inside(&self, now: Instant) -> Option<Stuck> {
        if !self.inside.load(Ordering::Acquire) {
            return None;
        }
        let mut inner = self.inner();
        let Some(seen) = inner.stay.seen else {
            inner.stay.seen = Some(now);
            return None;
        };
        if inner.window.awaited.replace(Awaited::Collective).is_none() {
            self.hurry.store(true, Ordering::Release);
        }
        let overdue = now.saturating_duration_since(seen) >= inner.stay.timeout.saturating_add(PERIOD);
        if inner.stay.asked || !overdue {
            return None;
        }
        inner.stay.asked = true;
        Some(inner.stuck())
    }

    /// The call that the backend is in, where it is in one.
    pub(super) fn inside(&self) -> Option<Stuck> {
        self.inside.load(Ordering::Acquire).then(|| self.inner().stuck())
    }

    /// The call of this number, where the backend is in it.
    pub(super) fn inside_of(&self, communicator: u32, sequence: u64) -> Option<Stuck> {
        self.inside().filter(|stuck| (stuck.communicator, stuck.sequence) == (communicator, sequence))
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

    /// The message that tells what is new, if anything is; and whether it is the last one. A store that is `old` takes fingerprints for
    /// nonsense that say how a call is made.
    pub(super) fn take(&self, old: bool) -> Option<(Vec<u8>, bool)> {
        let hurry = self.hurry.swap(false, Ordering::AcqRel);
        let mut inner = self.inner();
        let now = (inner.window.begun, inner.exchanged);
        if now == inner.told && !hurry {
            return None;
        }
        inner.told = now;
        let kept = inner.latest.iter().chain(&inner.levels).flatten();
        let known = |one: &Fingerprint| Fingerprint { blocking: one.blocking && !old, ..*one };
        let mut fingerprints: Vec<Fingerprint> = kept.map(known).collect();
        fingerprints.sort_unstable_by_key(|fingerprint| fingerprint.sequence);
        fingerprints.dedup_by_key(|fingerprint| fingerprint.sequence);
        let window = Window { fingerprints, ..inner.window.clone() };
        Some((window.encode(), window.left))
    }
}

impl Inner {
    #[inline]
    fn note(&mut self, fingerprint: &Fingerprint) {
        let sequence = fingerprint.sequence;
        self.latest[sequence as usize % LATEST] = Some(*fingerprint);
        self.levels[(sequence.trailing_zeros() as usize).min(LEVELS - 1)] = Some(*fingerprint);
        self.window.begun = sequence + 1;
        self.window.awaited = None;
    }

    fn stuck(&self) -> Stuck {
        let sequence = self.window.begun.saturating_sub(1);
        let noted = self.latest[sequence as usize % LATEST];
        let collective = noted.and_then(|noted| Collective::from_wire(noted.collective));
        Stuck { communicator: self.window.communicator, sequence, collective, timeout: self.stay.timeout }
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
                Window::decode(&ledger.take(false).unwrap().0).unwrap()
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
        assert!(ledger.take(false).is_none());
        ledger.note(&fingerprint(0));
        assert!(!ledger.is_in_a_hurry() && ledger.take(false).is_some() && ledger.take(false).is_none());
        ledger.message(1, true);
        assert!(ledger.take(false).is_some() && ledger.take(false).is_none());
        ledger.wait(Awaited::Collective);
        assert!(ledger.is_in_a_hurry() && rung.load(Ordering::SeqCst));
        let window = Window::decode(&ledger.take(false).unwrap().0).unwrap();
        assert_eq!(
            (window.awaited, window.begun, window.messages),
            (Some(Awaited::Collective), 1, vec![(1, 1, 0)])
        );
        ledger.note(&fingerprint(1));
        assert_eq!(Window::decode(&ledger.take(false).unwrap().0).unwrap().awaited, None);
        ledger.leave();
        assert!(ledger.take(false).is_some_and(|(_, last)| last));
    }

    #[test]
    fn who_is_in_a_call_is_said_to_wait_and_once_to_be_late() {
        let ledger = Ledger::new(7, &[0, 1], || {});
        let (start, timeout) = (Instant::now(), Duration::from_secs(1));
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let waits = || {
            let told = ledger.take(false).map(|(message, _)| Window::decode(&message).unwrap());
            told.is_some_and(|window| window.awaited == Some(Awaited::Collective))
        };
        ledger.enter(&fingerprint(4), timeout);
        assert!(ledger.look_inside(at(0)).is_none() && !waits());
        assert!(ledger.look_inside(at(1)).is_none() && ledger.is_in_a_hurry() && waits());
        let stuck = ledger.look_inside(at(2)).unwrap();
        assert_eq!((stuck.communicator, stuck.sequence, stuck.timeout), (7, 4, timeout));
        assert_eq!(stuck.collective, Some(Collective::AllReduce));
        assert!(ledger.look_inside(at(3)).is_none() && !waits(), "it is told once");
        assert!(ledger.inside_of(7, 4) == Some(stuck) && ledger.inside_of(7, 3).is_none());
        // The next one is seen anew.
        ledger.enter(&fingerprint(5), timeout);
        assert!(ledger.look_inside(at(9)).is_none() && !waits());
        ledger.come_out();
        assert!(ledger.look_inside(at(20)).is_none() && ledger.inside().is_none());
    }
}
