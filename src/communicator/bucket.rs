//! Gradients that become ready one after another, reduced in batches.

use super::buffer::Many;
use super::pending::Pending;
use super::{Communicator, Options};
use crate::error::Result;
use crate::reduce::Reduction;
use crate::tensor::Element;
use std::collections::VecDeque;

/// Collects vectors as they become ready and starts an [all_reduce of a batch](Communicator::start_all_reduce_batch)
/// whenever so many bytes have come together, so that communication overlaps with what makes the next vectors.
///
/// All ranks push vectors of the same lengths in the same order. There is no thread and no timer in it: a batch starts
/// in the call of [`push`](Bucket::push) that fills it, the last one in [`finish`](Bucket::finish).
///
/// ```
/// use ringfold::{Bucket, Communicator, ReduceOp};
/// let comm = Communicator::local(1).remove(0);
/// let mut bucket = Bucket::new(&comm, 1 << 20, ReduceOp::Mean);
/// for layer in (0..10).rev() {
///     let gradient = vec![layer as f32; 1000]; // what a backward pass gives
///     bucket.push(gradient)?;
/// }
/// let gradients: Vec<Vec<f32>> = bucket.finish()?;
/// assert_eq!(gradients[0][0], 9.0);
/// # Ok::<(), ringfold::Error>(())
/// ```
#[derive(Debug)]
pub struct Bucket<'c, T: Element> {
    communicator: &'c Communicator,
    options: Options,
    op: Reduction,
    capacity: usize,
    filling: Vec<Vec<T>>,
    filled: usize,
    started: VecDeque<Pending<Many<T>>>,
}

impl<'c, T: Element> Bucket<'c, T> {
    /// A bucket that starts a batch whenever `capacity` bytes are in it. Good values are a few MiB: large enough for
    /// bandwidth, small enough for an early start.
    pub fn new(communicator: &'c Communicator, capacity: usize, op: impl Into<Reduction>) -> Self {
        Bucket::with(communicator, Options::new(), capacity, op)
    }

    /// The same with options for its batches.
    pub fn with(
        communicator: &'c Communicator,
        options: Options,
        capacity: usize,
        op: impl Into<Reduction>,
    ) -> Self {
        Bucket {
            communicator,
            options,
            op: op.into(),
            capacity,
            filling: Vec::new(),
            filled: 0,
            started: VecDeque::new(),
        }
    }

    /// Adds a vector; starts a batch where the bucket is full with it.
    ///
    /// # Errors
    /// As [`start_all_reduce`](Communicator::start_all_reduce).
    pub fn push(&mut self, vector: Vec<T>) -> Result<()> {
        self.filled += size_of_val(&vector[..]);
        self.filling.push(vector);
        if self.filled >= self.capacity { self.start() } else { Ok(()) }
    }

    /// Starts a batch of what is in the bucket now.
    ///
    /// # Errors
    /// As [`start_all_reduce`](Communicator::start_all_reduce).
    pub fn start(&mut self) -> Result<()> {
        if self.filling.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.filling);
        self.filled = 0;
        let with = self.communicator.with(self.options.clone());
        self.started.push_back(with.start_all_reduce_batch(batch, self.op.clone())?);
        Ok(())
    }

    /// Starts the last batch, waits for all of them, and gives the vectors back in the order of their coming. The
    /// bucket is empty then and can be filled anew.
    ///
    /// # Errors
    /// As [`all_reduce`](Communicator::all_reduce); the vectors are dropped then, and the bucket is empty all the same.
    pub fn finish(&mut self) -> Result<Vec<Vec<T>>> {
        let last = self.start();
        let started = std::mem::take(&mut self.started);
        last?;
        let mut vectors = Vec::new();
        for batch in started {
            vectors.extend(batch.wait()?);
        }
        Ok(vectors)
    }
}
