//! Threads of one process.

use super::suite::{Rank, contract};
use ringfold::transport::channel::{DEFAULT_CAPACITY, channel_with};

fn world(world: usize, capacity: usize) -> Vec<Rank> {
    channel_with(world, capacity)
        .into_iter()
        .map(|transport| {
            let poison = transport.poison();
            (Box::new(transport) as _, poison)
        })
        .collect()
}

#[test]
fn channel_keeps_the_contract() {
    contract(|n| world(n, DEFAULT_CAPACITY), 8 << 20);
}

#[test]
fn channel_keeps_the_contract_with_tiny_queues() {
    contract(|n| world(n, 5), 40_000);
}
