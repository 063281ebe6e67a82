//! Ranks that are threads and take themselves for processes of several hosts: each is told of others what a real exchange between
//! hosts would have told it.

use ringfold::config::BackendChoice;
use ringfold::transport::Exchange;
use ringfold::{Communicator, Config, Result};
use std::sync::{Barrier, Mutex};
use std::time::Duration;

/// An exchange between threads that puts each rank on a host.
struct Placing<'a> {
    rank: usize,
    hosts: &'a [usize],
    said: &'a Mutex<Vec<Vec<u8>>>,
    all: &'a Barrier,
}

impl Exchange for Placing<'_> {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.hosts.len()
    }

    fn all_gather(&mut self, message: &[u8], _: Duration) -> Result<Vec<Vec<u8>>> {
        let mut record: serde_json::Value = serde_json::from_slice(message).expect("records are JSON");
        let host = self.hosts[self.rank];
        record["host"] = format!("host-{host}").into();
        record["host_id"] = format!("{} {host}", record["host_id"]).into();
        // The same address in a form that is not known to be this host's own.
        let address =
            record["address"].as_str().expect("there is one").replace("127.0.0.1", "[::ffff:127.0.0.1]");
        record["address"] = address.into();
        self.said.lock().expect("nobody panics")[self.rank] =
            serde_json::to_vec(&record).expect("it is JSON");
        self.all.wait();
        Ok(self.said.lock().expect("nobody panics").clone())
    }
}

/// Communicators of ranks on these hosts, in rank order, with a configuration for each.
pub(crate) fn communicators_on(
    hosts: &[usize],
    backend: BackendChoice,
    config: impl Fn(usize) -> Config + Sync,
) -> Vec<Result<Communicator>> {
    let (said, all) = (&Mutex::new(vec![Vec::new(); hosts.len()]), &Barrier::new(hosts.len()));
    let config = &config;
    std::thread::scope(|scope| {
        let join = |rank| {
            scope.spawn(move || {
                let mut exchange = Placing { rank, hosts, said, all };
                Communicator::with_exchange(&mut exchange, &config(rank).with_backend(backend))
            })
        };
        let threads: Vec<_> = (0..hosts.len()).map(join).collect();
        threads.into_iter().map(|thread| thread.join().expect("no rank panics")).collect()
    })
}
