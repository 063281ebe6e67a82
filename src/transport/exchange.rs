//! The only thing that a bootstrap must offer.

use crate::error::Result;
use std::time::Duration;

/// An all-gather of small byte strings among the ranks of a group that is being formed.
pub trait Exchange {
    /// This rank.
    fn rank(&self) -> usize;

    /// The number of ranks.
    fn world(&self) -> usize;

    /// Gives every rank the messages of all, in rank order. Blocks until all have called it, at most `timeout`.
    /// Messages may differ in length and are at most 64 KiB long.
    ///
    /// # Errors
    /// [`Bootstrap`](crate::ErrorKind::Bootstrap), naming the ranks that are missing where that can be known.
    fn all_gather(&mut self, message: &[u8], timeout: Duration) -> Result<Vec<Vec<u8>>>;
}
