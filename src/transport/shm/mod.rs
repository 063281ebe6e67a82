#![doc = include_str!("README.md")]

mod aside;
mod bell;
mod flag;
mod ground;
mod host_memory;
mod layout;
mod ring;
mod sentinel;
mod shown;
mod sync;

pub use flag::{Seen, Stamp};
pub use ground::Ground;
pub use host_memory::{HostMemory, Operands};
pub use sentinel::{Sentinel, SentinelSetup};
pub(crate) use shown::whole_pages;
pub use shown::{Allocation, Contents, Registration};

use super::{Channel, Direction, Interest, LinkFault, Transport};
use crate::error::{Cause, CauseKind, Error, Result};
use crate::memory::Block;
use crate::observe::{Poison, Time, Waker};
use bell::Bell;
use layout::{CHANNELS, LEFT, PRESENT, Ring, Seat};
use ring::{Garbled, Receiver, Sender};
use std::fmt;
use std::io::IoSlice;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many bytes a ring holds, unless something else is asked for.
pub const CAPACITY: usize = 256 << 10;

/// How many bytes are written before the receiver is shown them.
const PORTION: usize = 32 << 10;

/// A rank's place in a group, taken before the group is there: all that the system may refuse to a [`ShmTransport`] at
/// once.
#[derive(Debug)]
pub struct ShmSeat {
    ground: Arc<Ground>,
    /// Until a transport takes it.
    block: Option<Block>,
    offset: u64,
    world: usize,
}

/// Whoever gives up its seat is seen to have left, by those who count on it.
impl Drop for ShmSeat {
    fn drop(&mut self) {
        let Some(block) = self.block.take() else { return };
        let segment = self.ground.arena().segment();
        if self.ground.arena().is_own()
            && let Some(seat) = Seat::at(segment, block.offset(), self.world)
        {
            seat.presence().store(LEFT, Ordering::SeqCst);
        }
        self.ground.leave(block, None, Seat::DEPARTED, self.world as u32 - 1);
    }
}

impl ShmSeat {
    /// A seat in a group of at most `world` ranks.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) where there is no memory for it.
    pub fn new(ground: &Arc<Ground>, world: usize) -> Result<ShmSeat> {
        let block = ground.take(Seat::len(world.max(1)))?;
        let offset = block.offset() as u64;
        Ok(ShmSeat { ground: Arc::clone(ground), block: Some(block), offset, world: world.max(1) })
    }

    /// Gives it up where no group is founded by it, and nobody ever looks at it.
    pub fn give_up(mut self) {
        drop(self.block.take());
    }

    /// Where it is in the segment: what the other ranks have to know.
    pub fn offset(&self) -> u64 {
        self.offset
    }
}

/// What a [`ShmTransport`] is made of.
pub struct ShmSetup {
    /// This rank.
    pub rank: usize,
    /// This rank's seat.
    pub seat: ShmSeat,
    /// The offsets of everybody's seats, in rank order.
    pub seats: Vec<u64>,
    /// The group's failure.
    pub poison: Arc<Poison>,
    /// Tells the group of a failure.
    pub report: Box<dyn Fn(&Cause) + Send>,
    /// How often to look again before sleeping.
    pub spins: u32,
    /// Whether ranks must share CPUs.
    pub shares_cpus: bool,
    /// How many bytes a ring holds: a power of two.
    pub capacity: usize,
    /// The processes of the ranks, in rank order, where each may read the memory of all.
    pub processes: Option<Arc<[i32]>>,
}

/// Byte streams between ranks that share a segment. Driven by one thread; its waker is for any.
pub struct ShmTransport {
    rank: usize,
    ground: Arc<Ground>,
    own: Arc<Own>,
    memory: HostMemory,
    outgoing: Vec<Option<Outgoing>>,
    incoming: Vec<Option<Incoming>>,
    poison: Arc<Poison>,
    report: Box<dyn Fn(&Cause) + Send>,
    spins: u32,
    shares_cpus: bool,
    capacity: usize,
    origin: Instant,
}

/// What others of this process wake the rank by.
struct Own {
    seat: Seat,
    nudged: AtomicBool,
    ground: Arc<Ground>,
    /// Until the drop.
    block: Option<Block>,
    /// What goes with it: from when the transport is gone.
    slots: Mutex<Option<Block>>,
    others: u32,
}

impl Own {
    /// The bell as its owner sleeps by it.
    fn bell(&self) -> Bell<'_> {
        Bell { quick: self.seat.fences().load(Ordering::Relaxed) != 0, ..self.seat.bell() }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            let slots = self.slots.get_mut().unwrap_or_else(PoisonError::into_inner).take();
            self.ground.leave(block, slots, Seat::DEPARTED, self.others);
        }
    }
}

struct Outgoing {
    ring: Ring,
    block: Block,
    sender: Sender,
}

struct Incoming {
    ring: Ring,
    receiver: Receiver,
}

impl ShmTransport {
    /// A transport among ranks whose seats are known. Nobody has to be there yet.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where seats are told that cannot be.
    ///
    /// # Panics
    /// Where the capacity is no power of two.
    pub fn new(setup: ShmSetup) -> Result<ShmTransport> {
        let ShmSetup { rank, mut seat, seats, poison, report, spins, shares_cpus, capacity, processes } =
            setup;
        assert!(capacity.is_power_of_two(), "a ring of {capacity} bytes");
        if rank >= seats.len() || seats.len() > seat.world || seats[rank] != seat.offset {
            return Err(Error::invalid(format!("rank {rank} of {} does not sit where it says", seats.len())));
        }
        let ground = Arc::clone(&seat.ground);
        let segment = ground.arena().segment();
        let places = seats.iter().enumerate().map(|(peer, &offset)| {
            let seat = usize::try_from(offset).ok().and_then(|offset| Seat::at(segment, offset, seats.len()));
            seat.ok_or_else(|| {
                Error::invalid(format!("rank {peer} sits at {offset}, which is no place")).blame(peer)
            })
        });
        let places = places.collect::<Result<Vec<Seat>>>()?;
        let links = seats.len() * CHANNELS;
        let own = Arc::new(Own {
            seat: places[rank].clone(),
            nudged: AtomicBool::new(false),
            ground: Arc::clone(&ground),
            block: seat.block.take(),
            slots: Mutex::default(),
            others: places.len() as u32 - 1,
        });
        if ground.fenced_by_others() && !shares_cpus {
            // It sleeps seldom.
            own.seat.fences().store(1, Ordering::Release);
        }
        let woken = Arc::downgrade(&own);
        poison.on_set(move || woken.upgrade().map(|own| own.seat.bell().ring_anyway()).is_some());
        Ok(ShmTransport {
            rank,
            memory: HostMemory::new(rank, places, Arc::clone(&ground), processes),
            ground,
            own,
            outgoing: (0..links).map(|_| None).collect(),
            incoming: (0..links).map(|_| None).collect(),
            poison,
            report,
            spins,
            shares_cpus,
            capacity,
            origin: Instant::now(),
        })
    }

    /// How long to sleep at most; none where it is time already.
    fn limit(&self, until: Time) -> Option<Option<Duration>> {
        match until {
            Time::NEVER => Some(None),
            _ => match until.since(self.now()) {
                Duration::ZERO => None,
                left => Some(Some(left)),
            },
        }
    }

    /// The place of a link in the lists.
    fn link(&self, peer: usize, channel: Channel) -> std::result::Result<usize, LinkFault> {
        let channel = usize::from(channel.0);
        if peer < self.memory.seats().len() && channel < CHANNELS {
            return Ok(peer * CHANNELS + channel);
        }
        let detail = format!(
            "there is no rank {peer} with channel {channel} in a world of {} with {CHANNELS} channels",
            self.memory.seats().len()
        );
        Err(LinkFault { peer, kind: CauseKind::Unreachable, detail })
    }

    fn has_left(&self, peer: usize) -> bool {
        self.memory.has_left(peer)
    }

    /// Makes the ring to a peer.
    fn open_outgoing(&mut self, to: usize, link: usize) -> std::result::Result<(), LinkFault> {
        // What this rank lacks is no fault of the peer's.
        let own = self.rank;
        let refused = |why: String| {
            let detail = format!("it has no memory for what it sends to rank {to}: {why}");
            LinkFault { peer: own, kind: CauseKind::Unreachable, detail }
        };
        let block = self.ground.take(Ring::len(self.capacity)).map_err(|error| refused(error.to_string()))?;
        let segment = self.ground.arena().segment();
        let ring =
            Ring::make(segment, block.offset(), self.capacity).ok_or_else(|| refused("no ring".into()))?;
        let told = self.memory.seats()[to].ring_from(self.rank, link % CHANNELS);
        // SeqCst here and where a rank leaves: either the leaver sees the ring, or this sees that it has left. Whoever
        // takes the entry back says that the receiver needs the ring no more; nobody touches it after that.
        let entry = block.offset() as u64 + 1;
        told.store(entry, Ordering::SeqCst);
        if self.memory.seats()[to].presence().load(Ordering::SeqCst) != PRESENT
            && told.compare_exchange(entry, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok()
        {
            ring.released().store(1, Ordering::Release);
        }
        self.outgoing[link] = Some(Outgoing { ring, block, sender: Sender::default() });
        Ok(())
    }

    /// Looks whether a peer has made its ring; whether it is there now.
    fn open_incoming(&mut self, from: usize, link: usize) -> std::result::Result<bool, LinkFault> {
        if self.incoming[link].is_some() {
            return Ok(true);
        }
        let told = self.own.seat.ring_from(from, link % CHANNELS).load(Ordering::Acquire);
        let Some(offset) = told.checked_sub(1) else { return Ok(false) };
        let ring = Ring::open(self.ground.arena().segment(), offset).ok_or_else(|| garbled(from))?;
        self.incoming[link] = Some(Incoming { ring, receiver: Receiver::default() });
        Ok(true)
    }

    /// Whether an interest may make progress, or ends in a fault.
    fn may_progress(&mut self, interest: &Interest) -> bool {
        let Interest { peer, channel, direction } = *interest;
        let Ok(link) = self.link(peer, channel) else { return true };
        if self.has_left(peer) {
            return true;
        }
        match direction {
            Direction::Send => match &mut self.outgoing[link] {
                None => true,
                Some(out) => out.sender.room(out.ring.tail(), out.ring.capacity(), 1) != Ok(0),
            },
            Direction::Receive => match self.open_incoming(peer, link) {
                Ok(false) => false,
                Err(_) => true,
                Ok(true) => self.incoming[link].as_mut().is_some_and(|incoming| {
                    let Incoming { ring, receiver } = incoming;
                    receiver.there(ring.head(), ring.capacity(), 1) != Ok(0)
                }),
            },
        }
    }
}

fn garbled(peer: usize) -> LinkFault {
    let detail = "the memory shared with it does not hold what it should".into();
    LinkFault { peer, kind: CauseKind::Unreachable, detail }
}

fn left(peer: usize) -> LinkFault {
    LinkFault { peer, kind: CauseKind::Closed, detail: "it left the group".into() }
}

impl Transport for ShmTransport {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.memory.seats().len()
    }

    fn try_send(
        &mut self,
        to: usize,
        channel: Channel,
        data: &[IoSlice<'_>],
    ) -> std::result::Result<usize, LinkFault> {
        let link = self.link(to, channel)?;
        let wanted: usize = data.iter().map(|slice| slice.len()).sum();
        // There is no connection to be opened, and who has left may have sent something before.
        if wanted == 0 {
            return Ok(0);
        }
        if self.has_left(to) {
            return Err(left(to));
        }
        if self.outgoing[link].is_none() {
            self.open_outgoing(to, link)?;
        }
        let Some(Outgoing { ring, sender, .. }) = &mut self.outgoing[link] else { return Ok(0) };
        let room = sender.room(ring.tail(), ring.capacity(), wanted as u64);
        let mut room = room.map_err(|Garbled| garbled(to))? as usize;
        let (mut sent, mut written) = (0, 0);
        for slice in data {
            for portion in slice.chunks(PORTION) {
                let part = portion.len().min(room);
                ring.write(sender.at() + written, &portion[..part]);
                room -= part;
                sent += part;
                written += part as u64;
                // What is there already can be read while the rest is written.
                if written >= PORTION as u64 {
                    sender.publish(ring.head(), written);
                    self.memory.ring(to);
                    written = 0;
                }
            }
        }
        if written > 0 {
            sender.publish(ring.head(), written);
            self.memory.ring(to);
        }
        Ok(sent)
    }

    fn try_recv(
        &mut self,
        from: usize,
        channel: Channel,
        into: &mut [u8],
    ) -> std::result::Result<usize, LinkFault> {
        let link = self.link(from, channel)?;
        if into.is_empty() {
            return Ok(0);
        }
        // Looked at before the ring: what was written before the peer left is then surely seen.
        let has_left = self.has_left(from);
        let mut received = 0;
        if self.open_incoming(from, link)?
            && let Some(Incoming { ring, receiver }) = &mut self.incoming[link]
        {
            let there = receiver.there(ring.head(), ring.capacity(), into.len() as u64);
            received = (there.map_err(|Garbled| garbled(from))? as usize).min(into.len());
            if received > 0 {
                ring.read(receiver.at(), &mut into[..received]);
                receiver.consume(ring.tail(), received as u64);
                self.memory.ring(from);
            }
        }
        if received == 0 && has_left { Err(left(from)) } else { Ok(received) }
    }

    fn peek(
        &mut self,
        from: usize,
        channel: Channel,
    ) -> std::result::Result<Option<(*const u8, usize)>, LinkFault> {
        let link = self.link(from, channel)?;
        let has_left = self.has_left(from);
        if self.open_incoming(from, link)?
            && let Some(Incoming { ring, receiver }) = &mut self.incoming[link]
        {
            let all = ring.capacity();
            let there = receiver.there(ring.head(), all, all).map_err(|Garbled| garbled(from))?;
            let [(shown, together), _] = ring.stretches(receiver.at(), there as usize);
            if together > 0 {
                return Ok(Some((shown.cast_const(), together)));
            }
        }
        if has_left { Err(left(from)) } else { Ok(Some((std::ptr::null(), 0))) }
    }

    fn consume(&mut self, from: usize, channel: Channel, bytes: usize) {
        let link = self.link(from, channel).expect("it was shown");
        let Some(Incoming { ring, receiver }) = &mut self.incoming[link] else { panic!("nothing was shown") };
        receiver.consume(ring.tail(), bytes as u64);
        self.memory.ring(from);
    }

    fn wait(&mut self, interests: &[Interest], until: Time) {
        let own = Arc::clone(&self.own);
        let Some(limit) = self.limit(until) else { return };
        own.bell().sleep(limit, || {
            own.nudged.swap(false, Ordering::SeqCst)
                || self.poison.is_set()
                || interests.iter().any(|interest| self.may_progress(interest))
        });
    }

    fn host_memory(&mut self) -> Option<&mut HostMemory> {
        Some(&mut self.memory)
    }

    fn wait_for(&mut self, look: &mut dyn FnMut(&mut HostMemory) -> bool, until: Time) {
        let own = Arc::clone(&self.own);
        let Some(limit) = self.limit(until) else { return };
        own.bell().sleep(limit, || {
            own.nudged.swap(false, Ordering::SeqCst) || self.poison.is_set() || look(&mut self.memory)
        });
    }

    fn waker(&self) -> Waker {
        let own = Arc::downgrade(&self.own);
        Arc::new(move || {
            if let Some(own) = own.upgrade() {
                own.nudged.store(true, Ordering::SeqCst);
                own.seat.bell().ring_anyway();
            }
        })
    }

    fn now(&self) -> Time {
        Time::default().after(self.origin.elapsed())
    }

    fn spins(&self) -> u32 {
        self.spins
    }

    fn shares_cpus(&self) -> bool {
        self.shares_cpus
    }

    fn step_aside(&mut self) -> bool {
        aside::step(self.memory.seats(), self.rank)
    }

    fn report(&mut self, cause: &Cause) {
        (self.report)(cause);
    }

    fn verdict(&self) -> Option<Cause> {
        self.poison.cause().cloned()
    }
}

impl Drop for ShmTransport {
    fn drop(&mut self) {
        // A process that was forked off shares the memory, and must not leave in its parent's name.
        if !self.ground.arena().is_own() {
            return;
        }
        let seat = &self.own.seat;
        // SeqCst: see `open_outgoing`.
        seat.presence().store(LEFT, Ordering::SeqCst);
        for from in 0..self.memory.seats().len() {
            for channel in 0..CHANNELS {
                let told = seat.ring_from(from, channel).swap(0, Ordering::SeqCst);
                if let Some(offset) = told.checked_sub(1)
                    && let Some(ring) = Ring::open(self.ground.arena().segment(), offset)
                {
                    ring.released().store(1, Ordering::Release);
                }
            }
        }
        for out in self.outgoing.drain(..).flatten() {
            self.ground.leave(out.block, None, Ring::RELEASED, 1);
        }
        // Nobody looks at them who has departed: when all have, they are not needed, whenever they were made.
        *self.own.slots.lock().unwrap_or_else(PoisonError::into_inner) = self.memory.take_slots();
        let (before, from_own) = self.memory.seats().split_at(self.rank);
        for other in before.iter().chain(&from_own[1..]) {
            other.bell().ring();
            // The last touch: from here on that rank may give its seat back.
            other.departed().fetch_add(1, Ordering::AcqRel);
        }
    }
}

impl fmt::Debug for ShmTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShmTransport")
            .field("rank", &self.rank)
            .field("world", &self.memory.seats().len())
            .finish_non_exhaustive()
    }
}

/// Those of `flag.rs`, which the model checker takes as it is, with atomics that are nothing outside of a model.
#[cfg(test)]
mod tests {
    use super::flag::{MOST, RENEWED, Seen, Stamp, post, posted, raised, seen, show, shown};
    use super::sync::{AtomicU64, Ordering};

    #[test]
    fn flags_are_of_their_epoch() {
        let stamp = |epoch, hash| Stamp { epoch, hash };
        let flag = AtomicU64::new(0);
        assert_eq!(seen(&flag, stamp(1, 7 << 8), 1), Seen::NotYet);
        for epoch in [1, 2, 1 << 23, (1 << 24) - 1, 1 << 24, (1 << 40) + 5] {
            flag.store(raised(stamp(epoch, 7 << 8), 3), Ordering::Relaxed);
            for (value, expected) in [(1, Seen::There), (3, Seen::There), (4, Seen::NotYet)] {
                assert_eq!(seen(&flag, stamp(epoch, 7 << 8), value), expected, "{epoch} {value}");
            }
            assert_eq!(seen(&flag, stamp(epoch, 8 << 8), 1), Seen::Other);
            assert_eq!(seen(&flag, stamp(epoch + 1, 7 << 8), 1), Seen::NotYet);
            assert_eq!(seen(&flag, stamp(epoch - 1, 9 << 8), MOST), Seen::There);
            assert_eq!(seen(&flag, stamp(epoch + 2 * RENEWED, 7 << 8), 1), Seen::NotYet);
        }
    }

    #[test]
    fn what_is_shown_in_line_is_of_its_epoch() {
        let word = AtomicU64::new(0);
        let stamp = Stamp { epoch: 5, hash: 9 };
        assert_eq!(shown(&word, stamp), Seen::NotYet);
        show(&word, stamp);
        assert_eq!(shown(&word, stamp), Seen::There);
        assert_eq!(shown(&word, Stamp { hash: 8, ..stamp }), Seen::Other);
        // However far: nobody may have shown anything there for millions of operations.
        for epoch in [3, 4, 6, 7, 1 << 23, (1 << 23) + 7, (1 << 24) + 5, (1 << 31) + 9] {
            assert_eq!(shown(&word, Stamp { epoch, ..stamp }), Seen::NotYet);
        }
    }

    #[test]
    fn boards_are_read_whole() {
        let version = AtomicU64::new(0);
        let board = std::array::from_fn(|_| AtomicU64::new(0));
        assert_eq!(posted(&version, &board), None);
        post(&version, &board, &[3; 8]);
        assert_eq!(posted(&version, &board), Some([3; 8]));
        version.fetch_add(1, Ordering::Relaxed);
        assert_eq!(posted(&version, &board), None);
    }
}
