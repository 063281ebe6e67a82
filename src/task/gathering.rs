//! An all-gather of messages of different lengths among ranks that do not know them.

use crate::communicator::Communicator;
use crate::error::{Error, Result};

/// What fits in one exchange: a length and so many bytes.
const BLOCK: usize = 128;

/// The longest message that is whole in a block.
const SHORT: usize = BLOCK - 8;

/// Gives every rank the messages of all, in rank order.
pub(super) fn all_gather(comm: &Communicator, message: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut block = [0u8; BLOCK];
    let (length, body) = block.split_at_mut(8);
    length.copy_from_slice(&(message.len() as u64).to_le_bytes());
    let begins = message.len().min(SHORT);
    body[..begins].copy_from_slice(&message[..begins]);
    let mut blocks = vec![0u8; BLOCK * comm.world_size()];
    let over_own_memory = comm.over_own_memory();
    over_own_memory.all_gather(&block, &mut blocks)?;

    let lengths: Vec<usize> = blocks.chunks_exact(BLOCK).map(length_of).collect();
    if lengths.iter().all(|&length| length <= SHORT) {
        let bodies = blocks.chunks_exact(BLOCK).map(|block| &block[8..]);
        return Ok(bodies.zip(lengths).map(|(body, length)| body[..length].to_vec()).collect());
    }
    let total = lengths.iter().try_fold(0usize, |sum, &length| sum.checked_add(length));
    let mut all = Vec::new();
    // Every rank has the same lengths before it, and those that have the room must not wait for one that has not.
    total
        .and_then(|total| all.try_reserve_exact(total).is_ok().then(|| all.resize(total, 0)))
        .ok_or_else(|| Error::invalid(format!("no memory for the {total:?} bytes of all messages")))
        .inspect_err(|_| comm.abort_handle().abort("it has no memory for the messages of all tasks"))?;
    over_own_memory.all_gather_v(message, &mut all, &lengths)?;
    let mut rest = &all[..];
    let cut = |length: usize| {
        let (message, others) = rest.split_at(length);
        rest = others;
        message.to_vec()
    };
    Ok(lengths.into_iter().map(cut).collect())
}

fn length_of(block: &[u8]) -> usize {
    let number = u64::from_le_bytes(std::array::from_fn(|i| block[i]));
    usize::try_from(number).unwrap_or(usize::MAX)
}
