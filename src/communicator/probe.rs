//! What messages cost between these very ranks: a short measurement.

use super::Communicator;
use crate::error::{Error, Result};
use crate::plan::cost::{GRANULE, Link, Network};
use std::time::{Duration, Instant};

/// Elements of a large message: 4 MiB, more than any cache between two ranks holds.
const LARGE: usize = 1 << 20;
/// Small messages in a row.
const BURST: usize = 64;

impl Communicator {
    /// Measures what messages cost: between two ranks of one host, between two hosts, and a reduction in memory. Every
    /// rank calls it, and gets the same figures: those that rank 0 and its partners have measured, while all others
    /// wait. Racks are not known to it. Blocks for about `time`, at most for the communicator's deadline.
    ///
    /// # Errors
    /// Whatever messages fail with; [`Unsupported`](crate::ErrorKind::Unsupported) in a group of one.
    ///
    /// ```
    /// use ringfold::Communicator;
    /// use std::time::Duration;
    /// std::thread::scope(|scope| {
    ///     for comm in Communicator::local(2) {
    ///         scope.spawn(move || {
    ///             let network = comm.probe(Duration::from_millis(20)).unwrap();
    ///             // What a message takes, on the way and of the processors: either may be too little to be seen.
    ///             let message = network.host.alpha + 2.0 * network.host.overhead;
    ///             assert!(message > 0.0 && network.gamma > 0.0);
    ///         });
    ///     }
    /// });
    /// ```
    pub fn probe(&self, time: Duration) -> Result<Network> {
        let world = self.world_size();
        if world < 2 {
            return Err(Error::unsupported("a group of one has no messages to measure")
                .remedy("start two ranks or more"));
        }
        let host = |rank: usize| self.kind.host(self.numbers[rank]);
        let near = (1..world).find(|&rank| host(rank) == host(0));
        let far = (1..world).find(|&rank| host(rank) != host(0));
        let mut figures = [0.0f64; 9];
        let each = time / (1 + u32::from(near.is_some()) + u32::from(far.is_some()));
        for (partner, at) in [(near, 0), (far, 4)] {
            let Some(partner) = partner else { continue };
            if self.rank() == 0 {
                let link = self.measure_link(partner, each)?;
                figures[at..at + 4].copy_from_slice(&[link.alpha, link.beta, link.overhead, link.copy]);
            } else if self.rank() == partner {
                self.answer()?;
            }
        }
        if self.rank() == 0 {
            figures[8] = gamma(each);
        }
        self.broadcast(&mut figures, 0)?;
        let link = |at: usize| Link {
            alpha: figures[at],
            beta: figures[at + 1],
            overhead: figures[at + 2],
            copy: figures[at + 3],
        };
        let (host_link, rack_link) = match (near, far) {
            (Some(_), Some(_)) => (link(0), link(4)),
            (Some(_), None) => (link(0), link(0)),
            _ => (link(4), link(4)),
        };
        let ranks_per_host = (0..world).take_while(|&rank| host(rank) == host(0)).count();
        let mut cpus = [std::thread::available_parallelism().map_or(1, usize::from) as u64];
        self.broadcast(&mut cpus, 0)?;
        Ok(Network {
            ranks_per_host,
            cpus_per_host: cpus[0] as usize,
            host: host_link,
            rack: rack_link,
            granule: GRANULE,
            ..Network::flat(rack_link, figures[8])
        })
    }

    /// Rank 0's part. It tells its partner what comes next, and last that nothing does.
    fn measure_link(&self, partner: usize, time: Duration) -> Result<Link> {
        let each = time / 4;
        let round = |what: What, body: &mut dyn FnMut() -> Result<()>| -> Result<f64> {
            let (begin, mut times) = (Instant::now(), Vec::new());
            while times.len() < 5 || (begin.elapsed() < each && times.len() < 2000) {
                self.send(&[what as u8], partner)?;
                let begin = Instant::now();
                body()?;
                times.push(begin.elapsed().as_secs_f64());
            }
            times.sort_by(f64::total_cmp);
            Ok(times[times.len() / 2])
        };
        let mut byte = [0u8; 1];
        let mut large = vec![0f32; LARGE];
        let other = vec![0f32; LARGE];
        // The partner is known to listen when it has answered once.
        let small = round(What::Small, &mut || {
            self.send(&[0u8], partner)?;
            self.recv(&mut byte, partner)
        })? / 2.0;
        let burst = round(What::Burst, &mut || {
            (0..BURST).try_for_each(|_| self.send(&[0u8], partner))?;
            self.recv(&mut byte, partner)
        })?;
        let one_way = round(What::Large, &mut || {
            self.send(&large, partner)?;
            self.recv(&mut large, partner)
        })? / 2.0;
        let both_ways = round(What::Both, &mut || self.send_recv(&other, partner, &mut large, partner))?;
        self.send(&[What::Nothing as u8], partner)?;
        let bytes = (LARGE * 4) as f64;
        // The messages of a burst follow each other as fast as the busier end allows.
        let overhead = ((burst - 2.0 * small) / (BURST - 1) as f64).clamp(0.0, small / 2.0);
        let alpha = small - 2.0 * overhead;
        let beta = ((one_way - small) / bytes).max(0.0);
        // Where both directions at once take longer than one, the processors are what holds them up, not the wire.
        let duplex = (both_ways - small).max(0.0) / bytes;
        let copy = if duplex > 1.25 * beta { duplex / 2.0 } else { 0.0 };
        Ok(Link { alpha, beta, overhead, copy })
    }

    /// The partner's part.
    fn answer(&self) -> Result<()> {
        let mut byte = [0u8; 1];
        let mut large = vec![0f32; LARGE];
        let other = vec![0f32; LARGE];
        loop {
            let mut what = [0u8; 1];
            self.recv(&mut what, 0)?;
            match what[0] {
                what if what == What::Small as u8 => {
                    self.recv(&mut byte, 0)?;
                    self.send(&byte, 0)?;
                }
                what if what == What::Burst as u8 => {
                    (0..BURST).try_for_each(|_| self.recv(&mut byte, 0))?;
                    self.send(&byte, 0)?;
                }
                what if what == What::Large as u8 => {
                    self.recv(&mut large, 0)?;
                    self.send(&large, 0)?;
                }
                what if what == What::Both as u8 => self.send_recv(&other, 0, &mut large, 0)?,
                _ => return Ok(()),
            }
        }
    }
}

/// What is measured next.
#[derive(Clone, Copy)]
enum What {
    Nothing,
    Small,
    Burst,
    Large,
    Both,
}

/// Seconds a byte that is added to another in memory.
fn gamma(time: Duration) -> f64 {
    let (mut sums, terms) = (vec![1f32; LARGE], vec![1f32; LARGE]);
    let (begin, mut best) = (Instant::now(), f64::INFINITY);
    while best.is_infinite() || begin.elapsed() < time / 4 {
        let begin = Instant::now();
        for (sum, term) in sums.iter_mut().zip(&terms) {
            *sum += *term;
        }
        best = best.min(begin.elapsed().as_secs_f64());
        std::hint::black_box(&mut sums);
    }
    best / (LARGE * 4) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::transport::Exchange;
    use std::sync::{Barrier, Mutex};

    /// An exchange between threads that calls the host of each rank by another name, as some clusters do with
    /// containers of one host.
    struct Renaming<'a> {
        rank: usize,
        world: usize,
        said: &'a Mutex<Vec<Vec<u8>>>,
        all: &'a Barrier,
    }

    impl Exchange for Renaming<'_> {
        fn rank(&self) -> usize {
            self.rank
        }

        fn world(&self) -> usize {
            self.world
        }

        fn all_gather(&mut self, message: &[u8], _: Duration) -> Result<Vec<Vec<u8>>> {
            let mut record: serde_json::Value = serde_json::from_slice(message).unwrap();
            record["host"] = format!("container-{}", self.rank).into();
            self.said.lock().unwrap()[self.rank] = serde_json::to_vec(&record).unwrap();
            self.all.wait();
            Ok(self.said.lock().unwrap().clone())
        }
    }

    #[test]
    fn hosts_are_told_apart_as_schedules_do_and_not_by_their_names() {
        let (said, all) = (&Mutex::new(vec![Vec::new(); 3]), &Barrier::new(3));
        std::thread::scope(|scope| {
            for rank in 0..3 {
                scope.spawn(move || {
                    let mut exchange = Renaming { rank, world: 3, said, all };
                    let comm = Communicator::with_exchange(&mut exchange, &Config::default()).unwrap();
                    assert_eq!(comm.host_of(2), Some("container-2"));
                    let measured = comm.probe(Duration::from_millis(10)).unwrap();
                    assert_eq!(measured.ranks_per_host, 3);
                    let pair = comm.split((rank > 0).then_some(0), 0).unwrap();
                    if let Some(pair) = pair {
                        assert_eq!(pair.probe(Duration::from_millis(10)).unwrap().ranks_per_host, 2);
                    }
                });
            }
        });
    }
}
