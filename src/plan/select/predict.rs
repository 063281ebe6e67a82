//! A table from the cost of messages: whatever the simulation finds quickest.

use super::{Rule, Table};
use crate::collective::{Collective, Request};
use crate::error::{Error, Result};
use crate::plan::cost::Network;
use crate::plan::simulate::simulate_all;
use crate::tensor::DType;

/// The sizes that are simulated: 64 B to 256 MiB, by factors of four.
const SIZES: std::ops::RangeInclusive<u32> = 3..=14;

impl Table {
    /// The table for a group of `world` ranks on a network: between 64 B and 256 MiB, whatever is quickest. Pure, so that
    /// ranks that are given the same network choose alike. It takes time: seconds for a hundred ranks.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for a network that does not fit the group, or has a dead
    /// rank: without it, what waits least is not what is quickest.
    ///
    /// ```
    /// use ringfold::plan::cost::{Link, Network};
    /// use ringfold::plan::select::Table;
    /// let slow = Network::flat(Link { overhead: 2e-6, ..Link::new(50e-6, 0.8e-9) }, 0.1e-9);
    /// let table = Table::from_cost(&slow, 8)?;
    /// assert_eq!(table, table.to_string().parse()?);
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    pub fn from_cost(network: &Network, world: usize) -> Result<Table> {
        if world == 0 {
            return Err(Error::invalid("a table for a group of no ranks"));
        }
        network.check(world)?;
        if let Some(dead) = network.dead {
            return Err(Error::invalid(format!(
                "a table from the costs of a network whose rank {dead} is dead"
            ))
            .remedy("leave the dead rank out"));
        }
        let mut table = Table { rules: Vec::new(), ..Table::default() };
        for collective in Collective::ALL {
            let first = table.rules.len();
            for size in SIZES {
                let bytes = 1usize << (2 * size);
                let request = Request::new(collective, world, DType::F32, elements(collective, world, bytes));
                let reports =
                    simulate_all(&request, |algorithm| table.schedule(&request, algorithm), network)?;
                let Some(quickest) = reports.first() else { continue };
                let algorithm = quickest.schedule.algorithm;
                // The limit lies in the middle between two sizes, on the scale that they are on.
                let rule = Rule { collective, bytes: bytes * 2, world: usize::MAX, algorithm };
                match table.rules[first..].last_mut() {
                    Some(last) if last.algorithm == algorithm => last.bytes = rule.bytes,
                    _ => table.rules.push(rule),
                }
                if collective == Collective::Barrier {
                    break;
                }
            }
            if let Some(last) = table.rules[first..].last_mut() {
                last.bytes = usize::MAX;
            }
        }
        table.sort();
        Ok(table)
    }
}

/// The count of a request whose agreed bytes are these.
fn elements(collective: Collective, world: usize, bytes: usize) -> usize {
    let has_blocks = collective.has_blocks() || collective == Collective::AllToAll;
    (bytes / DType::F32.size() / if has_blocks { world } else { 1 }).max(1)
}
