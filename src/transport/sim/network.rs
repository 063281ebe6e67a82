//! The simulated network itself: streams, events, the hub, chance.

use super::SimConfig;
use crate::error::{Cause, CauseKind};
use crate::observe::{Poison, Time};
use crate::transport::{Channel, LinkFault};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::io::{IoSlice, Read};
use std::sync::Arc;
use std::time::Duration;

/// Sender, receiver, channel.
type Key = (usize, usize, Channel);

/// Short calls move at most this many bytes, mostly.
const SHORT: usize = 7;

/// One direction of one channel of one pair.
#[derive(Default)]
struct Stream {
    /// What has arrived, and behind it what is under way.
    bytes: VecDeque<u8>,
    arrived: usize,
    /// Lengths of the pieces under way.
    pieces: VecDeque<usize>,
    /// When the sender's last byte has left it, and when the last piece arrives.
    busy: Time,
    last: Time,
    /// What the receiver finds behind the last byte, and what the sender finds.
    end: Option<LinkFault>,
    refusal: Option<LinkFault>,
    /// Whether an end is on its way, to the receiver and to the sender.
    ending: bool,
}

/// How a rank is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Running,
    Left,
    Dead,
    Stopped,
}

/// Something that happens at a time. Ordered only to break ties that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The front piece of a stream arrives.
    Arrive(Key),
    /// The receiver of a stream finds its end; how, by the number of the kind.
    End(Key, u8),
    /// The sender finds that nobody receives.
    Refuse(Key, u8),
    Die(usize),
    Stop(usize),
    /// A cause, by its place in the list, reaches the hub.
    Report(usize),
    Decide,
    /// The verdict reaches a rank.
    Verdict(usize),
}

/// What the hub knows of a failure.
enum Hub {
    Nothing,
    Open(Cause),
    Decided(Cause),
}

pub(super) struct Network {
    config: SimConfig,
    random: fastrand::Rng,
    pub(super) now: Time,
    pub(super) poisons: Vec<Arc<Poison>>,
    pub(super) log: u64,
    events: BinaryHeap<Reverse<(Time, u64, Event)>>,
    count: u64,
    streams: BTreeMap<Key, Stream>,
    presence: Vec<Presence>,
    waits: Vec<Option<Time>>,
    causes: Vec<Cause>,
    hub: Hub,
}

impl Network {
    pub(super) fn new(config: SimConfig) -> Self {
        let world = config.world;
        let mut network = Network {
            random: fastrand::Rng::with_seed(config.seed),
            now: Time::default(),
            poisons: (0..world).map(|_| Arc::new(Poison::new())).collect(),
            log: config.seed,
            events: BinaryHeap::new(),
            count: 0,
            streams: BTreeMap::new(),
            presence: vec![Presence::Running; world],
            waits: vec![None; world],
            causes: Vec::new(),
            hub: Hub::Nothing,
            config,
        };
        for (rank, time) in network.config.deaths.clone() {
            network.at(time, Event::Die(rank));
        }
        for (rank, time) in network.config.stops.clone() {
            network.at(time, Event::Stop(rank));
        }
        network
    }

    pub(super) fn world(&self) -> usize {
        self.presence.len()
    }

    pub(super) fn is_dead(&self, rank: usize) -> bool {
        self.presence[rank] == Presence::Dead
    }

    pub(super) fn runs(&self, rank: usize) -> bool {
        self.presence[rank] == Presence::Running
    }

    /// Adds to the log.
    fn note(&mut self, words: [u64; 4]) {
        for word in words {
            let mixed = (self.log ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            self.log = mixed ^ (mixed >> 31);
        }
    }

    fn at(&mut self, time: Time, event: Event) {
        self.count += 1;
        self.events.push(Reverse((time.max(self.now), self.count, event)));
    }

    /// A time from now to `most` later.
    fn soon(&mut self, most: Duration) -> Time {
        let most = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX - 1);
        let delay = self.random.u64(..=most);
        self.now.after(Duration::from_nanos(delay))
    }

    /// How much of what could be moved is moved.
    fn portion(&mut self, possible: usize) -> usize {
        if possible <= 1 || !self.config.short_io || self.random.u8(..8) == 0 {
            possible
        } else {
            self.random.usize(1..=possible.min(SHORT))
        }
    }

    fn known(&self, peer: usize) -> Result<(), LinkFault> {
        if peer < self.world() {
            return Ok(());
        }
        let detail = format!("there is no rank {peer} in a world of {}", self.world());
        Err(LinkFault { peer, kind: CauseKind::Unreachable, detail })
    }

    /// Makes a stream if it is new; between ranks of which one is gone it soon ends.
    fn open(&mut self, key: Key) {
        if self.streams.contains_key(&key) {
            return;
        }
        self.streams.insert(key, Stream::default());
        let gone = |rank: usize| matches!(self.presence[rank], Presence::Dead | Presence::Left);
        if gone(key.0) || gone(key.1) {
            self.end(key);
        }
    }

    /// Lets both sides of a stream find, in their time, that the other is gone.
    fn end(&mut self, key: Key) {
        let Some(stream) = self.streams.get_mut(&key) else { return };
        if std::mem::replace(&mut stream.ending, true) {
            return;
        }
        let last = stream.last;
        let kind = |network: &mut Self, rank: usize| match network.presence[rank] {
            Presence::Dead if network.random.bool() => CauseKind::PeerDead as u8,
            _ => CauseKind::Closed as u8,
        };
        let (found, refused) = (kind(self, key.0), kind(self, key.1));
        let time = self.soon(self.config.detection).max(last);
        self.at(time, Event::End(key, found));
        let time = self.soon(self.config.detection);
        self.at(time, Event::Refuse(key, refused));
    }

    pub(super) fn send(
        &mut self,
        from: usize,
        to: usize,
        channel: Channel,
        data: &[IoSlice<'_>],
    ) -> Result<usize, LinkFault> {
        self.known(to)?;
        if !self.runs(from) {
            return Ok(0);
        }
        self.waits[from] = None;
        let key = (from, to, channel);
        self.open(key);
        let stream = &self.streams[&key];
        if let Some(fault) = &stream.refusal {
            return Err(fault.clone());
        }
        let offered: usize = data.iter().map(|slice| slice.len()).sum();
        let room = self.config.capacity.max(1).saturating_sub(stream.bytes.len());
        let taken = self.portion(offered.min(room));
        if taken == 0 {
            return Ok(0);
        }
        let arrival = self.soon(self.config.max_delay).since(self.now);
        let bandwidth = self.config.bandwidth;
        let now = self.now;
        // The stream is there: `open` has made it.
        let stream = self.streams.entry(key).or_default();
        let mut left = taken;
        for slice in data {
            let part = slice.len().min(left);
            stream.bytes.extend(&slice[..part]);
            left -= part;
        }
        let sending = bandwidth.map_or(0, |rate| taken as u128 * 1_000_000_000 / u128::from(rate.max(1)));
        let sending = Duration::from_nanos(u64::try_from(sending).unwrap_or(u64::MAX));
        stream.busy = stream.busy.max(now).after(sending);
        stream.last = stream.busy.after(arrival).max(stream.last);
        stream.pieces.push_back(taken);
        let last = stream.last;
        self.at(last, Event::Arrive(key));
        self.note([1, from as u64, to as u64, taken as u64]);
        Ok(taken)
    }

    pub(super) fn recv(
        &mut self,
        from: usize,
        to: usize,
        channel: Channel,
        into: &mut [u8],
    ) -> Result<usize, LinkFault> {
        self.known(from)?;
        if !self.runs(to) || into.is_empty() {
            return Ok(0);
        }
        self.waits[to] = None;
        let key = (from, to, channel);
        self.open(key);
        let possible = self.streams[&key].arrived.min(into.len());
        let taken = self.portion(possible);
        let stream = self.streams.entry(key).or_default();
        if taken == 0 {
            return stream.end.clone().map_or(Ok(0), Err);
        }
        let mut done = 0;
        while done < taken {
            // Reading a deque of bytes cannot fail; it yields one of its two parts a time.
            done += stream.bytes.read(&mut into[done..taken]).unwrap_or(0);
        }
        stream.arrived -= taken;
        self.note([2, from as u64, to as u64, taken as u64]);
        Ok(taken)
    }

    pub(super) fn wait(&mut self, rank: usize, until: Time) {
        self.waits[rank] = (self.runs(rank) && until != Time::NEVER).then_some(until);
    }

    pub(super) fn report(&mut self, rank: usize, cause: &Cause) {
        if self.runs(rank) {
            self.note([3, rank as u64, cause.kind as u64, cause.culprit as u64]);
            self.tell_hub(cause.clone());
        }
    }

    fn tell_hub(&mut self, cause: Cause) {
        self.causes.push(cause);
        let time = self.soon(self.config.detection);
        self.at(time, Event::Report(self.causes.len() - 1));
    }

    /// A rank leaves in good order.
    pub(super) fn leave(&mut self, rank: usize) {
        if self.runs(rank) {
            self.presence[rank] = Presence::Left;
            self.waits[rank] = None;
            self.note([4, rank as u64, 0, 0]);
            self.end_all(rank);
        }
    }

    fn end_all(&mut self, rank: usize) {
        let keys: Vec<Key> =
            self.streams.keys().copied().filter(|key| key.0 == rank || key.1 == rank).collect();
        keys.into_iter().for_each(|key| self.end(key));
    }

    /// Lets time go on to the next event, or to the nearest time until which a rank waits.
    pub(super) fn advance(&mut self) -> bool {
        let due = self.waits.iter_mut().filter_map(Option::take).min();
        let next = self.events.peek().map(|Reverse((time, _, _))| *time);
        match (next, due) {
            (None, None) => false,
            (next, Some(due)) if next.is_none_or(|next| due < next) => {
                self.now = self.now.max(due);
                self.note([5, self.now.as_nanos(), 0, 0]);
                true
            }
            _ => {
                if let Some(Reverse((time, count, event))) = self.events.pop() {
                    self.now = time;
                    self.note([6, time.as_nanos(), count, 0]);
                    self.happen(event);
                }
                true
            }
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive(key) => {
                let stream = self.streams.entry(key).or_default();
                // A death may have taken it.
                if let Some(piece) = stream.pieces.pop_front() {
                    stream.arrived += piece;
                }
            }
            Event::End(key, kind) => self.streams.entry(key).or_default().end = Some(fault(key.0, kind)),
            Event::Refuse(key, kind) => {
                self.streams.entry(key).or_default().refusal = Some(fault(key.1, kind))
            }
            Event::Die(rank) => self.die(rank),
            Event::Stop(rank) if self.runs(rank) => {
                self.presence[rank] = Presence::Stopped;
                self.waits[rank] = None;
                let cause = self.noticed(rank, CauseKind::Unresponsive, "it gives no sign of life");
                self.causes.push(cause);
                let time = self.now.after(self.config.heartbeat);
                self.at(time, Event::Report(self.causes.len() - 1));
            }
            Event::Stop(_) => {}
            Event::Report(index) => {
                let cause = self.causes[index].clone();
                self.hub = match std::mem::replace(&mut self.hub, Hub::Nothing) {
                    Hub::Decided(verdict) => Hub::Decided(verdict),
                    Hub::Open(known) => Hub::Open(known.merge(cause)),
                    Hub::Nothing => {
                        self.at(self.now.after(self.config.moment), Event::Decide);
                        Hub::Open(cause)
                    }
                };
            }
            Event::Decide => {
                if let Hub::Open(cause) = std::mem::replace(&mut self.hub, Hub::Nothing) {
                    self.note([7, cause.kind as u64, cause.culprit as u64, cause.sequence]);
                    self.hub = Hub::Decided(cause);
                    for rank in 0..self.world() {
                        let time = self.soon(self.config.detection);
                        self.at(time, Event::Verdict(rank));
                    }
                }
            }
            Event::Verdict(rank) => {
                if let Hub::Decided(cause) = &self.hub
                    && self.runs(rank)
                {
                    self.poisons[rank].set(cause.clone());
                }
            }
        }
    }

    fn die(&mut self, rank: usize) {
        if matches!(self.presence[rank], Presence::Dead | Presence::Left) {
            return;
        }
        self.presence[rank] = Presence::Dead;
        self.waits[rank] = None;
        // Of what was under way some arrives: the front, never a middle.
        for (_, stream) in self.streams.iter_mut().filter(|(key, _)| key.0 == rank) {
            let kept = self.random.usize(..=stream.pieces.len());
            stream.pieces.truncate(kept);
            stream.bytes.truncate(stream.arrived + stream.pieces.iter().sum::<usize>());
        }
        self.end_all(rank);
        let cause = self.noticed(rank, CauseKind::PeerDead, "its process ended");
        self.tell_hub(cause);
    }

    /// What the hub itself says of a rank, in the name of the first that runs.
    fn noticed(&self, culprit: usize, kind: CauseKind, detail: &str) -> Cause {
        let reporter = (0..self.world()).find(|rank| self.runs(*rank)).unwrap_or(culprit);
        Cause { generation: 0, sequence: Cause::NO_SEQUENCE, kind, culprit, reporter, detail: detail.into() }
    }
}

fn fault(peer: usize, kind: u8) -> LinkFault {
    let kind = CauseKind::from_wire(kind).unwrap_or(CauseKind::Closed);
    let detail = if kind == CauseKind::PeerDead { "it reset the link" } else { "it closed the link" };
    LinkFault { peer, kind, detail: detail.into() }
}
