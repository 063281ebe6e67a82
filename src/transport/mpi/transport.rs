//! Ranks that are reached by MPI.
//!
//! A stream is a sequence of messages of MPI's, of at most [`CHUNK`](super::stream::CHUNK) bytes, in buffers of the transport's own. Each
//! is sent in synchronous mode: it is over when the receiver has asked for it, and only so many are under way; so a stream
//! that nobody reads holds little memory, and none stands in the way of another. Whoever leaves sends a farewell on a tag of
//! its own, with how many bytes each stream had.
//!
//! MPI has no wait that something else could end. So [`wait`](Transport::wait) looks, first often and then less, down to
//! each half millisecond.

use super::flight::Flight;
use super::group::{Mpi, rest};
use super::library::{self, Awaited, Turn};
use super::stream::{Course, Incoming, Outgoing, Pool};
use crate::error::{Cause, CauseKind, Error, Result};
use crate::observe::{Poison, Time, Waker};
use crate::transport::{Channel, Direction, Interest, LinkFault, Transport};
use std::fmt;
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The streams of a pair of ranks.
const CHANNELS: usize = 2;

/// The tags of a group: one for each stream, one for the farewell.
const TAGS: usize = CHANNELS + 1;

/// How long a rank that leaves waits for others to take what it has sent.
const FLUSH: Duration = Duration::from_secs(1);

/// How many looks of a wait pass between two looks for farewells.
const LOOKS_PER_FAREWELL: u32 = 16;

/// What a [`MpiTransport`] is made of.
pub struct MpiSetup {
    /// The communicator of MPI's that it uses.
    pub mpi: Mpi,
    /// This rank.
    pub rank: usize,
    /// The ranks' numbers in that communicator, in rank order.
    pub numbers: Vec<usize>,
    /// A number that the same ranks, or some of them, use for no other group over this communicator; the same on all ranks.
    pub group: usize,
    /// The failure of the group, set by the control plane or an abort; ends a rank's wait.
    pub poison: Arc<Poison>,
    /// Tells the control plane of a cause. Must not block.
    pub report: Box<dyn Fn(&Cause) + Send>,
    /// What [`spins`](Transport::spins) answers.
    pub spins: u32,
    /// What [`shares_cpus`](Transport::shares_cpus) answers.
    pub shares_cpus: bool,
}

impl fmt::Debug for MpiSetup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MpiSetup")
            .field("mpi", &self.mpi)
            .field("rank", &self.rank)
            .field("numbers", &self.numbers)
            .field("group", &self.group)
            .finish_non_exhaustive()
    }
}

/// How a peer has left, with the bytes of each of its streams to this rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Farewell {
    panicked: bool,
    totals: [u64; CHANNELS],
}

impl Farewell {
    const SIZE: usize = 1 + 8 * CHANNELS;

    fn encode(self) -> Vec<u8> {
        let totals = self.totals.iter().flat_map(|total| total.to_le_bytes());
        std::iter::once(u8::from(self.panicked)).chain(totals).collect()
    }

    fn decode(bytes: &[u8]) -> Option<Farewell> {
        let (&panicked, totals) = bytes.split_first()?;
        let total = |channel: usize| {
            Some(u64::from_le_bytes(totals.get(8 * channel..8 * (channel + 1))?.try_into().ok()?))
        };
        Some(Farewell { panicked: panicked != 0, totals: [total(0)?, total(1)?] })
    }
}

/// What this rank has with one peer.
#[derive(Default)]
struct Link {
    outgoing: [Outgoing; CHANNELS],
    incoming: [Incoming; CHANNELS],
    /// A farewell on its way here.
    parting: Option<Flight>,
    farewell: Option<Farewell>,
}

/// One rank's end of a world over MPI. Send; none of its owner's calls but [`wait`](Transport::wait) blocks.
///
/// Dropping it says farewell and waits for a second at most until what [`try_send`](Transport::try_send) has taken was asked for. What is
/// still under way then stays with MPI, buffers included, until that is done with it.
pub struct MpiTransport {
    setup: MpiSetup,
    links: Vec<Link>,
    pool: Pool,
    origin: Instant,
    pid: u32,
    nudged: Arc<AtomicBool>,
}

impl MpiTransport {
    /// A transport over this communicator.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where rank and numbers do not fit each other or the communicator;
    /// [`Unavailable`](crate::ErrorKind::Unavailable) where there are no tags left for another group.
    pub fn new(setup: MpiSetup) -> Result<MpiTransport> {
        let MpiSetup { mpi, rank, numbers, group, .. } = &setup;
        let fits = numbers.get(*rank) == Some(&mpi.rank()) && numbers.iter().all(|&n| n < mpi.size());
        if !fits {
            let text = format!("rank {rank} of {numbers:?} in a communicator of MPI's, where it is {mpi:?}");
            return Err(Error::invalid(text));
        }
        let highest = group.checked_mul(TAGS).and_then(|tag| tag.checked_add(TAGS - 1));
        if highest.is_none_or(|highest| highest > mpi.highest_tag) {
            let text = format!("no tags are left for group {group}: MPI's highest is {}", mpi.highest_tag);
            return Err(Error::new(crate::ErrorKind::Unavailable, text)
                .remedy("keep groups and use them again instead of making new ones"));
        }
        let links = (0..numbers.len()).map(|_| Link::default()).collect();
        library::turn()?.sweep();
        Ok(MpiTransport {
            setup,
            links,
            pool: Pool::default(),
            origin: Instant::now(),
            pid: std::process::id(),
            nudged: Arc::default(),
        })
    }

    fn course(&self, peer: usize, channel: usize) -> Course {
        let MpiSetup { mpi, numbers, group, .. } = &self.setup;
        Course { comm: mpi.comm, peer: numbers[peer], tag: group * TAGS + channel }
    }

    /// The stream's place, or why there is none.
    fn known(&self, peer: usize, channel: Channel) -> std::result::Result<usize, LinkFault> {
        let detail = if peer >= self.links.len() {
            format!("there is no rank {peer} in a world of {}", self.links.len())
        } else if usize::from(channel.0) >= CHANNELS {
            format!("there is no channel {}", channel.0)
        } else {
            return Ok(channel.0.into());
        };
        Err(LinkFault { peer, kind: CauseKind::Unreachable, detail })
    }

    /// Looks whether a peer has left.
    fn look_for_farewell(&mut self, peer: usize, turn: &Turn) {
        if self.links[peer].farewell.is_some() {
            return;
        }
        let Course { comm, peer: number, tag } = self.course(peer, CHANNELS);
        let link = &mut self.links[peer];
        if link.parting.is_none()
            && let Ok(Some(found)) = comm.find(Some(number), Some(tag), turn)
        {
            link.parting = Flight::receive(found, Vec::with_capacity(Farewell::SIZE), turn).ok();
        }
        if let Some(parting) = &mut link.parting
            && parting.is_over(turn)
        {
            link.farewell = Farewell::decode(parting.bytes());
            link.parting = None;
        }
    }

    /// The fault that a peer's absence is.
    fn left(&self, peer: usize) -> Option<LinkFault> {
        let farewell = self.links[peer].farewell?;
        let (kind, detail) = match farewell.panicked {
            true => (CauseKind::UserPanic, "its thread panicked"),
            false => (CauseKind::Closed, "it left the group"),
        };
        Some(LinkFault { peer, kind, detail: detail.into() })
    }

    /// Whether something can be done for it.
    fn ready(&mut self, interest: &Interest, turn: &Turn) -> bool {
        let Interest { peer, direction, .. } = *interest;
        let Ok(channel) = self.known(peer, interest.channel) else { return true };
        let course = self.course(peer, channel);
        let (link, pool) = (&mut self.links[peer], &mut self.pool);
        match direction {
            Direction::Send => {
                let reaped = link.outgoing[channel].reap(pool, turn);
                reaped.is_err() || link.outgoing[channel].has_room() || link.farewell.is_some()
            }
            Direction::Receive => {
                let incoming = &mut link.incoming[channel];
                let there = incoming.look(course, pool, turn).unwrap_or(true);
                there || link.farewell.is_some_and(|farewell| incoming.is_at(farewell.totals[channel]))
            }
        }
    }

    /// Says farewell, and waits a while for what is under way.
    fn leave(&mut self) -> Result<()> {
        let panicked = std::thread::panicking();
        let mut flights: Vec<(usize, Flight)> = Vec::new();
        let mut turn = library::turn()?;
        for peer in 0..self.links.len() {
            let course = self.course(peer, CHANNELS);
            let link = &mut self.links[peer];
            let totals = std::array::from_fn(|channel| link.outgoing[channel].total);
            let under_way = link.outgoing.iter_mut().flat_map(|outgoing| outgoing.flights.drain(..));
            flights.extend(under_way.map(|flight| (peer, flight)));
            let incoming = link.incoming.iter_mut().flat_map(Incoming::give_up).chain(link.parting.take());
            turn.kept.extend(incoming);
            if peer != self.setup.rank {
                let farewell = Farewell { panicked, totals }.encode();
                let said = Flight::send(farewell, course.comm, course.peer, course.tag, false, &turn);
                flights.extend(said.ok().map(|flight| (peer, flight)));
            }
        }
        let until = Instant::now() + FLUSH;
        let mut looks = 0;
        loop {
            flights.retain_mut(|(_, flight)| !flight.is_over(&turn));
            // Nobody waits for whoever has failed, or will not read any more.
            if flights.is_empty() || self.setup.poison.is_set() || panicked || Instant::now() >= until {
                break;
            }
            let peers: Vec<usize> = flights.iter().map(|(peer, _)| *peer).collect();
            peers.iter().for_each(|&peer| self.look_for_farewell(peer, &turn));
            if peers.iter().all(|&peer| self.links[peer].farewell.is_some() || peer == self.setup.rank) {
                break;
            }
            // Others of this process may have a turn meanwhile.
            drop(turn);
            rest(&mut looks);
            turn = library::turn()?;
        }
        turn.spoilt |= self.setup.poison.is_set();
        if !flights.is_empty() {
            let bytes: usize = flights.iter().map(|(_, flight)| flight.len()).sum();
            let (rank, messages) = (self.setup.rank, flights.len());
            tracing::debug!(rank, messages, bytes, "MPI keeps buffers of messages that nobody has asked for");
        }
        for peer in 0..self.links.len() {
            if peer == self.setup.rank {
                continue;
            }
            self.look_for_farewell(peer, &turn);
            let has_left = self.links[peer].farewell.is_some() || self.links[peer].parting.is_some();
            let Course { comm, peer, tag } = self.course(peer, 0);
            turn.awaited.push(Awaited { comm, peer, tags: tag..tag + TAGS, has_left });
        }
        let parting = self.links.iter_mut().filter_map(|link| link.parting.take());
        turn.kept.extend(flights.into_iter().map(|(_, flight)| flight).chain(parting));
        turn.sweep();
        Ok(())
    }
}

/// What MPI has refused, or that it has ended, as a fault of the link.
fn fault(peer: usize, why: impl fmt::Display) -> LinkFault {
    LinkFault { peer, kind: CauseKind::Unreachable, detail: why.to_string() }
}

impl Transport for MpiTransport {
    fn rank(&self) -> usize {
        self.setup.rank
    }

    fn world(&self) -> usize {
        self.links.len()
    }

    fn try_send(
        &mut self,
        to: usize,
        channel: Channel,
        data: &[IoSlice<'_>],
    ) -> std::result::Result<usize, LinkFault> {
        let channel = self.known(to, channel)?;
        let turn = library::turn().map_err(|error| fault(to, error))?;
        if data.iter().all(|slice| slice.is_empty()) {
            self.look_for_farewell(to, &turn);
        }
        if let Some(fault) = self.left(to) {
            return Err(fault);
        }
        let course = self.course(to, channel);
        let outgoing = &mut self.links[to].outgoing[channel];
        let sent = outgoing
            .reap(&mut self.pool, &turn)
            .and_then(|()| outgoing.send(course, data, &mut self.pool, &turn));
        sent.map_err(|refusal| fault(to, refusal))
    }

    fn try_recv(
        &mut self,
        from: usize,
        channel: Channel,
        into: &mut [u8],
    ) -> std::result::Result<usize, LinkFault> {
        let channel = self.known(from, channel)?;
        let turn = library::turn().map_err(|error| fault(from, error))?;
        let course = self.course(from, channel);
        let incoming = &mut self.links[from].incoming[channel];
        let received = incoming.receive(course, into, &mut self.pool, &turn);
        match received.map_err(|refusal| fault(from, refusal))? {
            0 if !into.is_empty() => {}
            received => return Ok(received),
        }
        let link = &self.links[from];
        let over =
            link.farewell.is_some_and(|farewell| link.incoming[channel].is_at(farewell.totals[channel]));
        match self.left(from) {
            Some(fault) if over => Err(fault),
            _ => Ok(0),
        }
    }

    fn peek(
        &mut self,
        from: usize,
        channel: Channel,
    ) -> std::result::Result<Option<(*const u8, usize)>, LinkFault> {
        let channel = self.known(from, channel)?;
        let turn = library::turn().map_err(|error| fault(from, error))?;
        let course = self.course(from, channel);
        let shown = self.links[from].incoming[channel].peek(course, &mut self.pool, &turn);
        let shown = shown.map_err(|refusal| fault(from, refusal))?;
        let (address, length) = (shown.as_ptr(), shown.len());
        if length == 0
            && let Some(fault) = self.left(from)
            && let Some(farewell) = self.links[from].farewell
            && self.links[from].incoming[channel].is_at(farewell.totals[channel])
        {
            return Err(fault);
        }
        Ok(Some((address, length)))
    }

    fn consume(&mut self, from: usize, channel: Channel, bytes: usize) {
        let course = self.course(from, channel.0.into());
        let incoming = &mut self.links[from].incoming[usize::from(channel.0)];
        let Ok(turn) = library::turn() else { return };
        // What MPI refuses now it says again when the next bytes are looked for.
        let _ = incoming.consume(bytes, course, &mut self.pool, &turn);
    }

    fn wait(&mut self, interests: &[Interest], until: Time) {
        let mut looks = 0;
        loop {
            if self.nudged.swap(false, Ordering::SeqCst) || self.setup.poison.is_set() {
                return;
            }
            if !interests.is_empty() {
                // Without MPI there is nothing to wait for, which the next call says.
                let Ok(turn) = library::turn() else { return };
                if looks % LOOKS_PER_FAREWELL == 0 {
                    for interest in interests {
                        if interest.peer < self.links.len() {
                            self.look_for_farewell(interest.peer, &turn);
                        }
                    }
                }
                if interests.iter().any(|interest| self.ready(interest, &turn)) {
                    return;
                }
            }
            if self.now() >= until {
                return;
            }
            rest(&mut looks);
        }
    }

    fn waker(&self) -> Waker {
        let nudged = Arc::clone(&self.nudged);
        Arc::new(move || nudged.store(true, Ordering::SeqCst))
    }

    fn now(&self) -> Time {
        Time::default().after(self.origin.elapsed())
    }

    fn spins(&self) -> u32 {
        self.setup.spins
    }

    fn shares_cpus(&self) -> bool {
        self.setup.shares_cpus
    }

    fn report(&mut self, cause: &Cause) {
        (self.setup.report)(cause);
    }

    fn verdict(&self) -> Option<Cause> {
        self.setup.poison.cause().cloned()
    }
}

impl Drop for MpiTransport {
    fn drop(&mut self) {
        // A process that was forked off is nobody to MPI.
        if self.pid == std::process::id() {
            // Where MPI has ended there is nobody to tell.
            let _ = self.leave();
        }
    }
}

impl fmt::Debug for MpiTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MpiTransport").field("setup", &self.setup).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn farewells_round_trip_and_nonsense_is_none() {
        for farewell in [
            Farewell { panicked: false, totals: [0, 1] },
            Farewell { panicked: true, totals: [u64::MAX, 7 << 40] },
        ] {
            let bytes = farewell.encode();
            assert_eq!(bytes.len(), Farewell::SIZE);
            assert_eq!(Farewell::decode(&bytes), Some(farewell));
            assert_eq!(Farewell::decode(&bytes[1..]), None);
        }
        assert_eq!(Farewell::decode(&[]), None);
    }
}
