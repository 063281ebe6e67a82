//! A simulated network in virtual time, for all ranks of a world in one thread.
//!
//! The driver steps every rank that [`runs`](Sim::runs) until none makes progress, then lets time go on to the
//! next event with [`advance`](Sim::advance). Everything that a network may do and seldom does comes from one seed:
//! short reads and writes, delays, reordering between pairs (never within a stream), queues of a byte, ranks that
//! die or stop, links that close late, a verdict that reaches one rank before another. The same seed and the same
//! calls give the same run, which [`log_hash`](Sim::log_hash) lets a test compare.
//!
//! ```
//! use ringfold::transport::sim::{Sim, SimConfig};
//! use ringfold::transport::{Channel, Transport};
//! use std::io::IoSlice;
//!
//! let sim = Sim::new(SimConfig::new(2, 42));
//! let (mut a, mut b) = (sim.transport(0), sim.transport(1));
//! let mut into = [0; 5];
//! let (mut sent, mut received) = (0, 0);
//! while received < 5 {
//!     sent += a.try_send(1, Channel::COLLECTIVE, &[IoSlice::new(&b"hello"[sent..])]).unwrap();
//!     received += b.try_recv(0, Channel::COLLECTIVE, &mut into[received..]).unwrap();
//!     sim.advance();
//! }
//! assert_eq!(&into, b"hello");
//! ```

mod network;

use super::{Channel, Interest, LinkFault, Transport};
use crate::error::Cause;
use crate::observe::{Poison, Time, Waker};
use network::Network;
use std::fmt;
use std::io::IoSlice;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What the network is like and what befalls its ranks. All times are virtual.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimConfig {
    /// The number of ranks.
    pub world: usize,
    /// Where all chance comes from.
    pub seed: u64,
    /// Whether a call may move less than it could, often a byte; it never moves nothing where it could move some.
    pub short_io: bool,
    /// The bytes that a stream holds between sender and receiver; at least 1.
    pub capacity: usize,
    /// The longest delay of a piece of a stream.
    pub max_delay: Duration,
    /// Bytes a second that a stream carries; `None` for no limit.
    pub bandwidth: Option<u64>,
    /// Ranks that die, and when. What they had sent may arrive in part.
    pub deaths: Vec<(usize, Time)>,
    /// Ranks that fall silent, and when: their links stay open, and nothing moves.
    pub stops: Vec<(usize, Time)>,
    /// The longest time that it takes a link or the hub to notice a death, or a message to or from the hub to
    /// arrive.
    pub detection: Duration,
    /// How long the hub waits for a sign of life.
    pub heartbeat: Duration,
    /// How long the hub waits for better causes after the first.
    pub moment: Duration,
}

impl SimConfig {
    /// A sound network of ample queues with delays of up to 100 us, in which nobody dies.
    pub fn new(world: usize, seed: u64) -> Self {
        SimConfig {
            world,
            seed,
            short_io: false,
            capacity: 64 * 1024,
            max_delay: Duration::from_micros(100),
            bandwidth: None,
            deaths: Vec::new(),
            stops: Vec::new(),
            detection: Duration::from_millis(5),
            heartbeat: Duration::from_secs(2),
            moment: Duration::from_millis(10),
        }
    }
}

/// The network, as its driver sees it. Cloning gives another handle on the same.
#[derive(Clone)]
pub struct Sim(Arc<Mutex<Network>>);

impl Sim {
    /// A network at time 0.
    pub fn new(config: SimConfig) -> Sim {
        Sim(Arc::new(Mutex::new(Network::new(config))))
    }

    fn network(&self) -> MutexGuard<'_, Network> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A rank's end. To be made once for each rank.
    ///
    /// # Panics
    /// Where there is no such rank.
    pub fn transport(&self, rank: usize) -> SimTransport {
        let poison = Arc::clone(&self.network().poisons[rank]);
        SimTransport { rank, poison, sim: self.clone() }
    }

    /// Lets time go on to the next event: something arrives, closes, dies or is told, or the time comes until which
    /// a rank wanted to wait. Returns whether there was one. Without one a world that is not done never will be.
    pub fn advance(&self) -> bool {
        self.network().advance()
    }

    /// The present.
    pub fn now(&self) -> Time {
        self.network().now
    }

    /// Whether this rank has died.
    pub fn is_dead(&self, rank: usize) -> bool {
        self.network().is_dead(rank)
    }

    /// Whether this rank is neither dead nor stopped: only then is it to be stepped. Calls on the transport of one
    /// that is not move nothing and change nothing.
    pub fn runs(&self, rank: usize) -> bool {
        self.network().runs(rank)
    }

    /// A hash of all events and all calls so far.
    pub fn log_hash(&self) -> u64 {
        self.network().log
    }
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sim").field("now", &self.now()).finish_non_exhaustive()
    }
}

/// A rank's end of a [`Sim`]. Never blocks: [`wait`](Transport::wait) only notes until when.
///
/// Dropping it is a departure in good order: what it has sent arrives, then its peers' links close.
pub struct SimTransport {
    rank: usize,
    poison: Arc<Poison>,
    sim: Sim,
}

impl SimTransport {
    /// This rank's failure word, set when the verdict reaches it. To be set by an abort as well.
    pub fn poison(&self) -> Arc<Poison> {
        Arc::clone(&self.poison)
    }
}

impl Transport for SimTransport {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.sim.network().world()
    }

    fn try_send(&mut self, to: usize, channel: Channel, data: &[IoSlice<'_>]) -> Result<usize, LinkFault> {
        self.sim.network().send(self.rank, to, channel, data)
    }

    fn try_recv(&mut self, from: usize, channel: Channel, into: &mut [u8]) -> Result<usize, LinkFault> {
        self.sim.network().recv(from, self.rank, channel, into)
    }

    fn wait(&mut self, _interests: &[Interest], until: Time) {
        self.sim.network().wait(self.rank, until);
    }

    /// Waiting takes no time outside of the simulation, and ends by itself: there is nobody to wake.
    fn waker(&self) -> Waker {
        Arc::new(|| {})
    }

    fn now(&self) -> Time {
        self.sim.now()
    }

    fn spins(&self) -> u32 {
        0
    }

    fn report(&mut self, cause: &Cause) {
        self.sim.network().report(self.rank, cause);
    }

    fn verdict(&self) -> Option<Cause> {
        self.poison.cause().cloned()
    }
}

impl Drop for SimTransport {
    fn drop(&mut self) {
        self.sim.network().leave(self.rank);
    }
}

impl fmt::Debug for SimTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimTransport").field("rank", &self.rank).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::CauseKind;

    const C: Channel = Channel::COLLECTIVE;

    /// A ring in which every rank passes bytes on until time is up or something fails; the log and the verdicts.
    fn ring(config: SimConfig) -> (u64, Vec<Option<Cause>>, Time) {
        let world = config.world;
        let sim = Sim::new(config);
        let mut ranks: Vec<_> = (0..world).map(|rank| sim.transport(rank)).collect();
        let mut left = vec![3000usize; world];
        let mut reported = vec![false; world];
        loop {
            let mut moved = false;
            for (rank, end) in ranks.iter_mut().enumerate() {
                if !sim.runs(rank) || end.verdict().is_some() || left[rank] == 0 {
                    continue;
                }
                let data = vec![rank as u8; 300];
                let sent = end.try_send((rank + 1) % world, C, &[IoSlice::new(&data)]);
                let received = end.try_recv((rank + world - 1) % world, C, &mut [0; 200]);
                for fault in [&sent, &received].into_iter().filter_map(|r| r.as_ref().err()) {
                    if std::mem::replace(&mut reported[rank], true) {
                        continue;
                    }
                    end.report(&Cause {
                        generation: 0,
                        sequence: 1,
                        kind: fault.kind,
                        culprit: fault.peer,
                        reporter: rank,
                        detail: fault.detail.clone(),
                    });
                }
                let came = received.unwrap_or(0);
                left[rank] = left[rank].saturating_sub(came);
                moved |= came > 0 || sent.is_ok_and(|sent| sent > 0);
            }
            if !moved && !sim.advance() {
                return (sim.log_hash(), ranks.iter().map(|end| end.verdict()).collect(), sim.now());
            }
        }
    }

    fn rough(seed: u64) -> SimConfig {
        SimConfig { short_io: true, capacity: 700, bandwidth: Some(1 << 20), ..SimConfig::new(4, seed) }
    }

    #[test]
    fn the_same_seed_gives_the_same_run_and_another_another() {
        let dying = |seed| SimConfig { deaths: vec![(2, Time::from_nanos(3_000_000))], ..rough(seed) };
        for seed in 0..20 {
            assert_eq!(ring(rough(seed)), ring(rough(seed)));
            assert_eq!(ring(dying(seed)), ring(dying(seed)));
            assert_ne!(ring(rough(seed)).0, ring(rough(seed + 1)).0);
        }
    }

    #[test]
    fn a_death_is_one_verdict_for_all_survivors() {
        for seed in 0..50 {
            let death = Time::from_nanos(1_000_000 * (1 + seed % 7));
            let (_, verdicts, now) = ring(SimConfig { deaths: vec![(1, death)], ..rough(seed) });
            assert_eq!(verdicts[1], None);
            assert!(now > death);
            for rank in [0, 2, 3] {
                let verdict = verdicts[rank].as_ref().expect("every survivor has a verdict");
                assert_eq!((verdict.kind, verdict.culprit), (CauseKind::PeerDead, 1));
                assert_eq!(verdicts[rank], verdicts[0]);
            }
        }
    }

    #[test]
    fn silence_is_unresponsiveness_after_the_heartbeat() {
        let stop = Time::from_nanos(2_000_000);
        let (_, verdicts, now) = ring(SimConfig { stops: vec![(3, stop)], ..rough(9) });
        assert!(now.since(stop) >= Duration::from_secs(2));
        let verdict = verdicts[0].as_ref().unwrap();
        assert_eq!((verdict.kind, verdict.culprit), (CauseKind::Unresponsive, 3));
        assert_eq!(verdicts[3], None);
        assert_eq!(verdicts[1], verdicts[2]);
    }

    #[test]
    fn time_goes_on_to_the_deadline_of_a_waiting_rank() {
        let sim = Sim::new(SimConfig::new(2, 0));
        let mut end = sim.transport(0);
        assert!(!sim.advance());
        let until = Time::from_nanos(77);
        end.wait(&[], until);
        assert!(sim.advance());
        assert_eq!(end.now(), until);
        end.wait(&[], Time::NEVER);
        assert!(!sim.advance());
        end.wait(&[], Time::from_nanos(99));
        assert_eq!(end.try_recv(1, C, &mut [0]), Ok(0));
        assert!(!sim.advance(), "whoever calls again does not wait any more");
    }

    #[test]
    fn bandwidth_takes_its_time() {
        let slow = SimConfig {
            bandwidth: Some(1000),
            max_delay: Duration::ZERO,
            capacity: 1 << 20,
            ..SimConfig::new(2, 0)
        };
        let sim = Sim::new(slow);
        let (mut a, mut b) = (sim.transport(0), sim.transport(1));
        assert_eq!(a.try_send(1, C, &[IoSlice::new(&[1; 500])]), Ok(500));
        assert_eq!(b.try_recv(0, C, &mut [0; 500]), Ok(0));
        while b.try_recv(0, C, &mut [0; 500]) == Ok(0) {
            assert!(sim.advance());
        }
        assert_eq!(sim.now(), Time::from_nanos(500_000_000));
    }
}
