//! What a communicator counts while it works.

use crate::collective::Collective;
use crate::observe::trace::Tracer;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What one communicator of one process has counted since it was made: by
/// [`Communicator::counters`](crate::Communicator::counters). A snapshot, taken without stopping anybody, so that its
/// numbers may be some instants apart from each other where an operation is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// The operations that have ended, by collective; those that were never called are left out. A batch counts one for
    /// each element type, a call that was refused counts nothing.
    pub operations: Vec<OperationCounters>,
    /// What went to and came from each rank of the communicator, by rank.
    pub peers: Vec<PeerCounters>,
    /// Parts of operations: one for each operation and each peer that it sends to, with one fingerprint ahead of its
    /// payload. What strict checks exchange is in the bytes only.
    pub messages_sent: u64,
    /// The same of what comes from peers.
    pub messages_received: u64,
    /// How often the driving thread had nothing to move and turned to the system to wait. Looking again at once, as a
    /// rank with a CPU of its own does for some microseconds before that, is not counted.
    pub waits: u64,
    /// The time spent in these waits.
    pub waiting: Duration,
    /// Plans that had to be made: one for each new request.
    pub plans_made: u64,
    /// Operations whose plan was there.
    pub plans_found: u64,
    /// Connections that carry or carried payload, made by either side; 0 among threads.
    pub connections_made: u64,
    /// Peers to whom a connection has ended.
    pub connections_lost: u64,
    /// Bytes of memory held for partial results and for what arrives. Grows to the largest need there was, and stays.
    pub scratch_bytes: u64,
}

/// Operations of one collective.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct OperationCounters {
    /// Which.
    pub collective: Collective,
    /// How many have ended well.
    pub completed: u64,
    /// How many have ended with an error after they had begun.
    pub failed: u64,
    /// Bytes of those that ended well: of each, this rank's input or output, whichever is larger.
    pub bytes: u64,
    /// From submission to end, of all of them. Started operations overlap with each other and with their callers. Of
    /// blocking calls of some hundred bytes in shared memory, and of those in place in a group of one, each 16th is timed, and stands for
    /// the others: the clock would take a third of them, or all.
    pub time: Duration,
}

/// What one peer was sent and has sent: payload, and the fingerprint of 64 bytes ahead of each part; not the frames
/// that a transport puts around it. In shared memory nobody sends: what was read of a peer's memory counts as received, what was
/// written to it as sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PeerCounters {
    /// Bytes that the transport has taken for it.
    pub sent: u64,
    /// Bytes that have come from it.
    pub received: u64,
}

impl Counters {
    /// What is counted of a collective: zeros where it was never called.
    pub fn of(&self, collective: Collective) -> OperationCounters {
        let known = self.operations.iter().find(|counters| counters.collective == collective);
        known.copied().unwrap_or(OperationCounters {
            collective,
            completed: 0,
            failed: 0,
            bytes: 0,
            time: Duration::ZERO,
        })
    }

    /// Bytes sent to all peers.
    pub fn bytes_sent(&self) -> u64 {
        self.peers.iter().map(|peer| peer.sent).sum()
    }

    /// Bytes received from all peers.
    pub fn bytes_received(&self) -> u64 {
        self.peers.iter().map(|peer| peer.received).sum()
    }
}

/// A number that one thread at a time writes and any may read: an addition costs what it costs on a plain number.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds to it. Only by whoever drives the backend, of which there is one at a time.
    #[inline]
    pub fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    /// Sets it. By whom: as [`add`](Count::add).
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// What it is.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Collectives by their numbers on the wire.
const KINDS: usize = 16;

/// The counters of a communicator as its backend writes them. See [`Counters`] for what they mean.
#[derive(Debug)]
#[expect(missing_docs)]
pub struct Meter {
    operations: [Kind; KINDS],
    peers: Box<[Peer]>,
    pub messages_sent: Count,
    pub messages_received: Count,
    pub waits: Count,
    pub waiting_nanos: Count,
    pub plans_made: Count,
    pub plans_found: Count,
    pub connections_made: Count,
    pub connections_lost: Count,
    pub scratch_bytes: Count,
    /// Where operations are written down one by one, if they are.
    pub(crate) tracer: Option<Arc<Tracer>>,
}

#[derive(Debug, Default)]
struct Kind {
    completed: Count,
    failed: Count,
    bytes: Count,
    nanos: Count,
}

#[derive(Debug, Default)]
struct Peer {
    sent: Count,
    received: Count,
}

impl Meter {
    /// Zeros, for a communicator of this many ranks.
    pub fn new(world: usize) -> Self {
        Meter {
            operations: Default::default(),
            peers: (0..world).map(|_| Peer::default()).collect(),
            messages_sent: Count::default(),
            messages_received: Count::default(),
            waits: Count::default(),
            waiting_nanos: Count::default(),
            plans_made: Count::default(),
            plans_found: Count::default(),
            connections_made: Count::default(),
            connections_lost: Count::default(),
            scratch_bytes: Count::default(),
            tracer: None,
        }
    }

    /// The same with a trace.
    pub(crate) fn traced(world: usize, tracer: Option<Arc<Tracer>>) -> Self {
        Meter { tracer, ..Meter::new(world) }
    }

    /// An operation has ended.
    #[inline]
    pub fn ended(&self, collective: Collective, bytes: u64, time: Duration, well: bool) {
        let kind = &self.operations[collective as usize];
        if well {
            kind.completed.add(1);
            kind.bytes.add(bytes);
        } else {
            kind.failed.add(1);
        }
        kind.nanos.add(time.as_nanos() as u64);
    }

    /// Bytes have gone to a rank.
    #[inline]
    pub fn sent(&self, to: usize, bytes: usize) {
        self.peers[to].sent.add(bytes as u64);
    }

    /// Bytes have come from a rank.
    #[inline]
    pub fn received(&self, from: usize, bytes: usize) {
        self.peers[from].received.add(bytes as u64);
    }

    /// Takes over what a part of the communicator has counted since the last time, of which `seen` is kept between: its ranks are these.
    pub(crate) fn take(&self, part: &Meter, ranks: &[usize], seen: &mut Vec<u64>) {
        let fields = |meter: &Meter| -> [u64; 8] {
            [
                meter.messages_sent.get(),
                meter.messages_received.get(),
                meter.waits.get(),
                meter.waiting_nanos.get(),
                meter.plans_made.get(),
                meter.plans_found.get(),
                meter.connections_made.get(),
                meter.connections_lost.get(),
            ]
        };
        let own = [
            &self.messages_sent,
            &self.messages_received,
            &self.waits,
            &self.waiting_nanos,
            &self.plans_made,
            &self.plans_found,
            &self.connections_made,
            &self.connections_lost,
        ];
        let to_peers = ranks.iter().flat_map(|&rank| [&self.peers[rank].sent, &self.peers[rank].received]);
        let of_peers = part.peers.iter().flat_map(|peer| [peer.sent.get(), peer.received.get()]);
        let numbers = fields(part).into_iter().chain(of_peers);
        seen.resize(own.len() + 2 * ranks.len(), 0);
        for ((count, number), seen) in own.into_iter().chain(to_peers).zip(numbers).zip(seen) {
            if number != *seen {
                count.add(number.wrapping_sub(std::mem::replace(seen, number)));
            }
        }
    }

    /// What is counted so far.
    pub fn snapshot(&self) -> Counters {
        let kinds = Collective::ALL.into_iter().chain([Collective::SendRecv]).map(|collective| {
            let kind = &self.operations[collective as usize];
            OperationCounters {
                collective,
                completed: kind.completed.get(),
                failed: kind.failed.get(),
                bytes: kind.bytes.get(),
                time: Duration::from_nanos(kind.nanos.get()),
            }
        });
        let peers = self.peers.iter();
        Counters {
            operations: kinds.filter(|kind| kind.completed + kind.failed > 0).collect(),
            peers: peers.map(|p| PeerCounters { sent: p.sent.get(), received: p.received.get() }).collect(),
            messages_sent: self.messages_sent.get(),
            messages_received: self.messages_received.get(),
            waits: self.waits.get(),
            waiting: Duration::from_nanos(self.waiting_nanos.get()),
            plans_made: self.plans_made.get(),
            plans_found: self.plans_found.get(),
            connections_made: self.connections_made.get(),
            connections_lost: self.connections_lost.get(),
            scratch_bytes: self.scratch_bytes.get(),
        }
    }
}
