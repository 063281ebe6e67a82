//! How communicators come to be.

use super::abort::AbortHandle;
use super::engine::Engine;
use super::{Communicator, Options};
use crate::backend::Planned;
use crate::transport::Transport;
use crate::transport::channel::channel;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long an operation may take where nobody says otherwise.
const DEADLINE: Duration = Duration::from_secs(30 * 60);

impl Communicator {
    /// A group whose ranks are threads of this process: one communicator for each, in rank order. Cannot fail.
    ///
    /// # Panics
    /// Where `world` is 0.
    pub fn local(world: usize) -> Vec<Communicator> {
        assert!(world > 0, "a group has one rank at least");
        channel(world)
            .into_iter()
            .map(|transport| {
                let rank = transport.rank();
                let poison = transport.poison();
                let report = transport.reporter();
                let backend = Planned::new(
                    "channel",
                    transport,
                    0,
                    0,
                    Planned::<crate::transport::channel::ChannelTransport>::STAGING,
                );
                Communicator {
                    rank,
                    world,
                    generation: 0,
                    hosts: Vec::new(),
                    engine: Mutex::new(Engine::new(
                        Box::new(backend),
                        Options::new(),
                        DEADLINE,
                        Box::new(()),
                    )),
                    abort: AbortHandle::new(rank, 0, poison, Arc::new(report)),
                    not_sync: PhantomData,
                }
            })
            .collect()
    }
}
