//! Ranks that are threads of one process: bounded byte queues in memory.
//!
//! A queue per (sender, receiver, channel) is made when first used and holds at most *capacity* bytes. A rank that
//! finds nothing to do sleeps on its *bell*, a counter with a condition variable, which whoever moves bytes for that
//! rank rings. What a control plane does between processes, a *hub* does here: it gathers the causes that are
//! reported within ten milliseconds of the first, merges them, and gives every rank the same verdict.

use super::verdict::judge;
use super::{Channel, Direction, Interest, LinkFault, Transport};
use crate::error::{Cause, CauseKind};
use crate::observe::{self, Poison, Time, Waker};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io::{IoSlice, Read};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The bytes that a queue of [`channel`] holds.
pub const DEFAULT_CAPACITY: usize = 256 * 1024;

/// How long the hub waits after the first report for others of the same failure.
const MOMENT: Duration = Duration::from_millis(10);

/// The same after a deadline, which passes on one rank after another.
const DEADLINE_MOMENT: Duration = Duration::from_millis(150);

/// How often a rank looks again before it sleeps, where every rank can have a CPU of its own.
const SPINS: u32 = 500;

/// How often a rank leaves its CPU to others before it sleeps: some microseconds, in which threads that share CPUs answer each other
/// without the system's putting any of them to sleep.
const YIELDS: u32 = 32;

/// The transports of a world of threads, by rank, with queues of [`DEFAULT_CAPACITY`] bytes.
pub fn channel(world: usize) -> Vec<ChannelTransport> {
    channel_with(world, DEFAULT_CAPACITY)
}

/// As [`channel`], with queues of `capacity` bytes each (at least 1).
pub fn channel_with(world: usize, capacity: usize) -> Vec<ChannelTransport> {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let hub = Arc::new(Hub {
        capacity: capacity.max(1),
        origin: Instant::now(),
        spins: if world <= cpus { SPINS } else { 0 },
        queues: Mutex::default(),
        seats: (0..world).map(|number| Seat::new(number, Arc::default())).collect(),
        gathered: Mutex::new(Gathered::Nothing),
        root: None,
        children: Mutex::default(),
    });
    (0..world).map(|rank| ChannelTransport::new(rank, &hub)).collect()
}

/// A group of threads, as the place where groups of some of them come from.
#[derive(Clone)]
pub struct Family {
    hub: Arc<Hub>,
}

impl Family {
    /// The end of one rank of a group within this one, which all members make with the same `key` and list of members
    /// (numbers here, in the order of their ranks there), each once. Causes that come of it are the world's, and name
    /// ranks by their numbers in the world.
    pub fn child(&self, key: u64, members: &[usize], rank: usize) -> ChannelTransport {
        let mut children = lock(&self.hub.children);
        let (child, left) = children.entry(key).or_insert_with(|| {
            let seats = members.iter().map(|&member| &self.hub.seats[member]);
            let child = Hub {
                capacity: self.hub.capacity,
                origin: self.hub.origin,
                spins: self.hub.spins,
                queues: Mutex::default(),
                seats: seats.map(|seat| Seat::new(seat.number, Arc::clone(&seat.poison))).collect(),
                gathered: Mutex::new(Gathered::Nothing),
                root: Some(Arc::clone(self.hub.root.as_ref().unwrap_or(&self.hub))),
                children: Mutex::default(),
            };
            (Arc::new(child), members.len())
        });
        let transport = ChannelTransport::new(rank, child);
        *left -= 1;
        if *left == 0 {
            children.remove(&key);
        }
        transport
    }
}

impl fmt::Debug for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Family").field("world", &self.hub.seats.len()).finish_non_exhaustive()
    }
}

/// One rank's end of a world of threads. See [`channel`].
///
/// Dropping it marks the rank as gone: a peer that needs it reads what is still queued and then gets a
/// [`LinkFault`] of kind Closed, or UserPanic where it was dropped by a panic.
pub struct ChannelTransport {
    rank: usize,
    hub: Arc<Hub>,
    /// By peer; few channels, so a list each.
    outgoing: Vec<Vec<(Channel, Arc<Queue>)>>,
    incoming: Vec<Vec<(Channel, Arc<Queue>)>>,
}

struct Hub {
    capacity: usize,
    origin: Instant,
    spins: u32,
    queues: Mutex<HashMap<(usize, usize, Channel), Arc<Queue>>>,
    seats: Vec<Seat>,
    gathered: Mutex<Gathered>,
    /// The hub of the whole world, of which this is a part; none where it is the whole.
    root: Option<Arc<Hub>>,
    /// Groups within this one that not all members have taken their ends of, and how many are left.
    children: Mutex<HashMap<u64, (Arc<Hub>, usize)>>,
}

/// What the hub knows of a failure.
enum Gathered {
    Nothing,
    /// Reported, and open to a better cause until the moment is over.
    Open(Vec<Cause>),
    Decided,
}

/// What others can see of a rank.
struct Seat {
    /// The rank's number in the world.
    number: usize,
    bell: Arc<Bell>,
    /// Somebody wants this rank to look again: ends the present wait, or else the next.
    nudged: Arc<AtomicBool>,
    poison: Arc<Poison>,
    presence: AtomicU8,
}

const PRESENT: u8 = 0;
const LEFT: u8 = 1;
const PANICKED: u8 = 2;

/// A counter that moves whenever something happened for its rank.
#[derive(Default)]
struct Bell {
    rings: AtomicU64,
    asleep: AtomicBool,
    lock: Mutex<()>,
    condition: Condvar,
}

struct Queue {
    bytes: Mutex<VecDeque<u8>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Bell {
    fn ring(&self) {
        self.rings.fetch_add(1, Ordering::SeqCst);
        // SeqCst on both words: either the sleeper sees the new count, or this sees the sleeper.
        if self.asleep.load(Ordering::SeqCst) {
            drop(lock(&self.lock));
            self.condition.notify_all();
        }
    }

    /// Sleeps until the count is no longer `seen`, at most for `limit`.
    fn sleep(&self, seen: u64, limit: Option<Duration>) {
        let guard = lock(&self.lock);
        self.asleep.store(true, Ordering::SeqCst);
        if self.rings.load(Ordering::SeqCst) == seen {
            match limit {
                Some(limit) => drop(self.condition.wait_timeout(guard, limit)),
                None => drop(self.condition.wait(guard)),
            }
        }
        self.asleep.store(false, Ordering::SeqCst);
    }
}

impl Seat {
    fn new(number: usize, poison: Arc<Poison>) -> Self {
        let bell = Arc::new(Bell::default());
        let woken = Arc::downgrade(&bell);
        poison.on_set(move || woken.upgrade().map(|bell| bell.ring()).is_some());
        Seat { number, bell, nudged: Arc::default(), poison, presence: AtomicU8::new(PRESENT) }
    }
}

impl Hub {
    fn queue(&self, from: usize, to: usize, channel: Channel) -> Arc<Queue> {
        Arc::clone(
            lock(&self.queues).entry((from, to, channel)).or_insert_with(|| {
                Arc::new(Queue { bytes: Mutex::new(VecDeque::with_capacity(self.capacity)) })
            }),
        )
    }

    fn report(self: &Arc<Self>, cause: Cause) {
        if let Some(root) = &self.root {
            return root.report(cause);
        }
        let mut gathered = lock(&self.gathered);
        *gathered = match std::mem::replace(&mut *gathered, Gathered::Decided) {
            Gathered::Decided => return,
            Gathered::Open(mut causes) => {
                causes.push(cause);
                Gathered::Open(causes)
            }
            Gathered::Nothing => {
                let hub = Arc::clone(self);
                let moment = if cause.kind == CauseKind::Deadline { DEADLINE_MOMENT } else { MOMENT };
                let decider = observe::thread::spawn("ringfold-verdict", move || {
                    thread::sleep(moment);
                    hub.decide();
                });
                if decider.is_err() {
                    drop(gathered);
                    return self.deliver(&cause);
                }
                Gathered::Open(vec![cause])
            }
        };
    }

    fn decide(&self) {
        let gathered = std::mem::replace(&mut *lock(&self.gathered), Gathered::Decided);
        if let Gathered::Open(causes) = gathered
            && let Some(verdict) = judge(&causes)
        {
            self.deliver(&verdict);
        }
    }

    fn deliver(&self, cause: &Cause) {
        for seat in &self.seats {
            seat.poison.set(cause.clone());
        }
    }

    /// The fault that a needed peer's absence is, if it is absent.
    fn absence(&self, peer: usize) -> Option<LinkFault> {
        let (kind, detail) = match self.seats[peer].presence.load(Ordering::SeqCst) {
            PRESENT => return None,
            PANICKED => (CauseKind::UserPanic, "its thread panicked"),
            _ => (CauseKind::Closed, "it left the group"),
        };
        Some(LinkFault { peer, kind, detail: detail.into() })
    }
}

fn find(
    hub: &Hub,
    links: &mut Vec<(Channel, Arc<Queue>)>,
    from: usize,
    to: usize,
    channel: Channel,
) -> usize {
    links.iter().position(|(c, _)| *c == channel).unwrap_or_else(|| {
        links.push((channel, hub.queue(from, to, channel)));
        links.len() - 1
    })
}

impl ChannelTransport {
    fn new(rank: usize, hub: &Arc<Hub>) -> Self {
        let world = hub.seats.len();
        ChannelTransport {
            rank,
            outgoing: (0..world).map(|_| Vec::new()).collect(),
            incoming: (0..world).map(|_| Vec::new()).collect(),
            hub: Arc::clone(hub),
        }
    }

    /// Where groups of some of these ranks come from.
    pub fn family(&self) -> Family {
        Family { hub: Arc::clone(&self.hub) }
    }

    /// This rank's failure word, set when the hub's verdict is in. To be set by an abort as well.
    pub fn poison(&self) -> Arc<Poison> {
        Arc::clone(&self.hub.seats[self.rank].poison)
    }

    /// A function by which any thread reports a cause to the hub.
    pub fn reporter(&self) -> impl Fn(&Cause) + Send + Sync + use<> {
        let hub = Arc::clone(&self.hub);
        move |cause| hub.report(cause.clone())
    }

    fn known(&self, peer: usize) -> Result<(), LinkFault> {
        if peer < self.hub.seats.len() {
            return Ok(());
        }
        let detail = format!("there is no rank {peer} in a world of {}", self.hub.seats.len());
        Err(LinkFault { peer, kind: CauseKind::Unreachable, detail })
    }

    fn outgoing(&mut self, to: usize, channel: Channel) -> &Queue {
        let links = &mut self.outgoing[to];
        let index = find(&self.hub, links, self.rank, to, channel);
        &links[index].1
    }

    fn incoming(&mut self, from: usize, channel: Channel) -> &Queue {
        let links = &mut self.incoming[from];
        let index = find(&self.hub, links, from, self.rank, channel);
        &links[index].1
    }

    fn may_progress(&mut self, interest: &Interest) -> bool {
        let peer = interest.peer;
        if self.known(peer).is_err() || self.hub.seats[peer].presence.load(Ordering::SeqCst) != PRESENT {
            return true;
        }
        let capacity = self.hub.capacity;
        match interest.direction {
            Direction::Send => lock(&self.outgoing(peer, interest.channel).bytes).len() < capacity,
            Direction::Receive => !lock(&self.incoming(peer, interest.channel).bytes).is_empty(),
        }
    }
}

impl Transport for ChannelTransport {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.hub.seats.len()
    }

    fn try_send(&mut self, to: usize, channel: Channel, data: &[IoSlice<'_>]) -> Result<usize, LinkFault> {
        self.known(to)?;
        if let Some(fault) = self.hub.absence(to) {
            return Err(fault);
        }
        let capacity = self.hub.capacity;
        let mut bytes = lock(&self.outgoing(to, channel).bytes);
        let mut room = capacity - bytes.len();
        let mut sent = 0;
        for slice in data {
            let part = slice.len().min(room);
            bytes.extend(&slice[..part]);
            room -= part;
            sent += part;
        }
        drop(bytes);
        if sent > 0 {
            self.hub.seats[to].bell.ring();
        }
        Ok(sent)
    }

    fn try_recv(&mut self, from: usize, channel: Channel, into: &mut [u8]) -> Result<usize, LinkFault> {
        self.known(from)?;
        // Looked at before the queue: what was queued before the peer left is then surely seen.
        let absence = self.hub.absence(from);
        let mut received = 0;
        let mut bytes = lock(&self.incoming(from, channel).bytes);
        while received < into.len() && !bytes.is_empty() {
            // Reading a deque of bytes cannot fail; it yields one of its two parts a time.
            received += bytes.read(&mut into[received..]).unwrap_or(0);
        }
        drop(bytes);
        if received > 0 {
            self.hub.seats[from].bell.ring();
            return Ok(received);
        }
        match absence {
            Some(fault) if !into.is_empty() => Err(fault),
            _ => Ok(0),
        }
    }

    fn wait(&mut self, interests: &[Interest], until: Time) {
        let hub = Arc::clone(&self.hub);
        let seat = &hub.seats[self.rank];
        let seen = seat.bell.rings.load(Ordering::SeqCst);
        if seat.nudged.swap(false, Ordering::SeqCst)
            || seat.poison.is_set()
            || interests.iter().any(|i| self.may_progress(i))
        {
            return;
        }
        let limit = match until {
            Time::NEVER => None,
            _ => match until.since(self.now()) {
                Duration::ZERO => return,
                left => Some(left),
            },
        };
        // Whoever is awaited may only want for a CPU.
        for _ in 0..YIELDS {
            thread::yield_now();
            if seat.bell.rings.load(Ordering::SeqCst) != seen {
                return;
            }
        }
        seat.bell.sleep(seen, limit);
    }

    fn waker(&self) -> Waker {
        let seat = &self.hub.seats[self.rank];
        let (bell, nudged) = (Arc::clone(&seat.bell), Arc::clone(&seat.nudged));
        Arc::new(move || {
            nudged.store(true, Ordering::SeqCst);
            bell.ring();
        })
    }

    fn now(&self) -> Time {
        Time::default().after(self.hub.origin.elapsed())
    }

    fn spins(&self) -> u32 {
        self.hub.spins
    }

    fn report(&mut self, cause: &Cause) {
        self.hub.report(cause.clone());
    }

    fn verdict(&self) -> Option<Cause> {
        self.hub.seats[self.rank].poison.cause().cloned()
    }
}

impl Drop for ChannelTransport {
    fn drop(&mut self) {
        let panicked = thread::panicking();
        self.hub.seats[self.rank].presence.store(if panicked { PANICKED } else { LEFT }, Ordering::SeqCst);
        if panicked {
            let number = self.hub.seats[self.rank].number;
            self.hub.report(Cause {
                generation: 0,
                sequence: Cause::NO_SEQUENCE,
                kind: CauseKind::UserPanic,
                culprit: number,
                reporter: number,
                detail: "its thread panicked".into(),
            });
        }
        for seat in &self.hub.seats {
            seat.bell.ring();
        }
    }
}

impl fmt::Debug for ChannelTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelTransport")
            .field("rank", &self.rank)
            .field("world", &self.hub.seats.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const C: Channel = Channel::COLLECTIVE;

    fn cause(sequence: u64, kind: CauseKind, culprit: usize) -> Cause {
        Cause { generation: 0, sequence, kind, culprit, reporter: culprit, detail: String::new() }
    }

    #[test]
    fn bytes_come_in_order_and_within_the_capacity() {
        let mut ends = channel_with(2, 3);
        let mut b = ends.pop().unwrap();
        let mut a = ends.pop().unwrap();
        let parts = [IoSlice::new(b"ab"), IoSlice::new(b""), IoSlice::new(b"cd")];
        assert_eq!(a.try_send(1, C, &parts), Ok(3));
        assert_eq!(a.try_send(1, C, &[IoSlice::new(b"d")]), Ok(0));
        let mut into = [0; 8];
        assert_eq!(b.try_recv(0, C, &mut into[..2]), Ok(2));
        assert_eq!(a.try_send(1, C, &[IoSlice::new(b"d")]), Ok(1));
        assert_eq!(b.try_recv(0, C, &mut into[2..]), Ok(2));
        assert_eq!(&into[..4], b"abcd");
        assert_eq!(b.try_recv(0, C, &mut into), Ok(0));
        assert!(a.try_send(2, C, &parts).is_err());
    }

    #[test]
    fn what_was_queued_outlives_its_sender() {
        let mut ends = channel(2);
        let mut b = ends.pop().unwrap();
        let mut a = ends.pop().unwrap();
        assert_eq!(a.try_send(1, C, &[IoSlice::new(b"last")]), Ok(4));
        drop(a);
        let mut into = [0; 8];
        assert_eq!(b.try_recv(0, C, &mut into), Ok(4));
        assert_eq!(b.try_recv(0, C, &mut into).unwrap_err().kind, CauseKind::Closed);
        assert_eq!(b.try_send(0, C, &[IoSlice::new(b"x")]).unwrap_err().kind, CauseKind::Closed);
        assert_eq!(b.verdict(), None);
    }

    #[test]
    fn a_panic_is_a_death_that_everyone_is_told_of() {
        let mut ends = channel(3);
        let c = ends.pop().unwrap();
        thread::spawn(move || {
            let _mine = c;
            panic!("on purpose");
        })
        .join()
        .unwrap_err();
        let fault = ends[0].try_recv(2, C, &mut [0]).unwrap_err();
        assert_eq!((fault.kind, fault.detail.as_str()), (CauseKind::UserPanic, "its thread panicked"));
        for end in &mut ends {
            while end.verdict().is_none() {
                end.wait(&[], Time::NEVER);
            }
            assert_eq!(end.verdict().unwrap().culprit, 2);
        }
    }

    #[test]
    fn reports_of_one_moment_merge_to_one_verdict() {
        let mut ends = channel(4);
        ends[0].report(&cause(7, CauseKind::Closed, 1));
        ends[2].report(&cause(7, CauseKind::Mismatch, 3));
        ends[3].report(&cause(9, CauseKind::Abort, 3));
        for end in &mut ends {
            while end.verdict().is_none() {
                end.wait(&[], Time::NEVER);
            }
            assert_eq!(end.verdict(), Some(cause(7, CauseKind::Mismatch, 3)));
        }
        ends[1].report(&cause(1, CauseKind::PeerDead, 0));
        assert_eq!(ends[1].verdict(), Some(cause(7, CauseKind::Mismatch, 3)));
    }

    #[test]
    fn a_sleeper_is_woken_by_bytes_room_and_poison() {
        let mut ends = channel_with(2, 1);
        let mut b = ends.pop().unwrap();
        let mut a = ends.pop().unwrap();
        let poison = a.poison();
        let other = thread::spawn(move || {
            let interest = Interest { peer: 0, channel: C, direction: Direction::Receive };
            let mut into = [0];
            for expected in 0..200u8 {
                while b.try_recv(0, C, &mut into).unwrap() == 0 {
                    b.wait(&[interest], Time::NEVER);
                }
                assert_eq!(into[0], expected);
            }
            thread::sleep(Duration::from_millis(5));
            poison.set(cause(0, CauseKind::Abort, 1));
            b
        });
        let interest = Interest { peer: 1, channel: C, direction: Direction::Send };
        for byte in 0..200u8 {
            while a.try_send(1, C, &[IoSlice::new(&[byte])]).unwrap() == 0 {
                a.wait(&[interest], Time::NEVER);
            }
        }
        while a.verdict().is_none() {
            a.wait(&[Interest { direction: Direction::Receive, ..interest }], Time::NEVER);
        }
        other.join().unwrap();
    }

    #[test]
    fn waiting_ends_at_its_time() {
        let mut end = channel(1).pop().unwrap();
        let until = end.now().after(Duration::from_millis(3));
        while end.now() < until {
            end.wait(&[], until);
        }
        end.wait(&[], until);
    }
}
