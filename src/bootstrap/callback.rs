//! An exchange that the user brings: MPI's allgather, Spark's, or anything else.

use crate::error::{Error, ErrorKind, Result};
use crate::transport::Exchange;
use std::error::Error as StdError;
use std::time::Duration;

/// What a user's all-gather returns: the messages of all ranks in rank order, or its own error.
pub type Gathered = std::result::Result<Vec<Vec<u8>>, Box<dyn StdError + Send + Sync>>;

/// A user's function as an [`Exchange`]. Waiting is the function's own business: it gets no deadline.
pub struct CallbackExchange<F> {
    rank: usize,
    world: usize,
    gather: F,
}

impl<F: FnMut(&[u8]) -> Gathered> CallbackExchange<F> {
    /// The exchange of this rank among `world` ranks; `gather` gives every rank the messages of all in rank order.
    pub fn new(rank: usize, world: usize, gather: F) -> Self {
        CallbackExchange { rank, world, gather }
    }
}

impl<F> std::fmt::Debug for CallbackExchange<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CallbackExchange").field("rank", &self.rank).field("world", &self.world).finish()
    }
}

impl<F: FnMut(&[u8]) -> Gathered> Exchange for CallbackExchange<F> {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn all_gather(&mut self, message: &[u8], _timeout: Duration) -> Result<Vec<Vec<u8>>> {
        let fault = |text: String| Error::new(ErrorKind::Bootstrap, text).at_rank(self.rank);
        let messages = (self.gather)(message)
            .map_err(|error| fault(format!("the user's all-gather failed: {error}")))?;
        if messages.len() != self.world {
            return Err(fault(format!(
                "the user's all-gather gave {} messages for {} ranks",
                messages.len(),
                self.world
            )));
        }
        if messages.get(self.rank).is_some_and(|own| own != message) {
            return Err(fault(format!(
                "the user's all-gather gave rank {} another message than its own: are the messages in rank order?",
                self.rank
            )));
        }
        Ok(messages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_function_gives_is_checked() {
        let one = |reply: Vec<Vec<u8>>| {
            CallbackExchange::new(0, 2, move |_: &[u8]| Ok(reply.clone())).all_gather(b"a", Duration::ZERO)
        };
        assert_eq!(one(vec![b"a".to_vec(), b"b".to_vec()]).unwrap().len(), 2);
        assert!(one(vec![b"a".to_vec()]).unwrap_err().to_string().contains("1 messages for 2 ranks"));
        assert!(one(vec![b"b".to_vec(), b"a".to_vec()]).unwrap_err().to_string().contains("rank order"));
        let error = CallbackExchange::new(1, 2, |_: &[u8]| -> Gathered { Err("no network".into()) })
            .all_gather(b"a", Duration::ZERO)
            .unwrap_err();
        assert!(error.to_string().contains("no network"));
        assert_eq!((error.kind(), error.rank()), (ErrorKind::Bootstrap, Some(1)));
    }
}
