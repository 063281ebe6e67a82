//! Operations on borrowed memory that are gathered first, and then run together.

use super::call::Call;
use super::execute::Checked;
use super::tensors::Tensors;
use super::{Communicator, Options, With};
use crate::error::{Error, Result};
use crate::reduce::Reduction;
use crate::tensor::Element;

/// Gathers the calls of one [`Communicator::scope`].
#[derive(Debug)]
pub struct Scope<'w, 't> {
    with: &'w With<'w>,
    calls: Vec<Checked>,
    /// Holds the borrows until the calls are complete.
    tensors: Vec<Tensors<'t>>,
    refusal: Option<Error>,
}

impl<'t> Scope<'_, 't> {
    fn add(&mut self, call: &Call<'_>, mut tensors: Tensors<'t>) {
        match self.with.check(call, &mut tensors) {
            Ok(checked) => self.calls.push(checked),
            Err(error) => drop(self.refusal.get_or_insert(error)),
        }
        self.tensors.push(tensors);
    }

    /// Adds an [`all_reduce`](Communicator::all_reduce) of a slice in place, of an `(input, output)` pair of slices, or
    /// of views.
    pub fn all_reduce(&mut self, tensors: impl Into<Tensors<'t>>, op: impl Into<Reduction>) {
        self.add(&Call::AllReduce(op.into()), tensors.into());
    }

    /// Adds a [`reduce`](Communicator::reduce).
    pub fn reduce(&mut self, tensors: impl Into<Tensors<'t>>, op: impl Into<Reduction>, root: usize) {
        self.add(&Call::Reduce(op.into(), root), tensors.into());
    }

    /// Adds a [`reduce_scatter`](Communicator::reduce_scatter).
    pub fn reduce_scatter(
        &mut self,
        tensors: impl Into<Tensors<'t>>,
        counts: Option<&[usize]>,
        op: impl Into<Reduction>,
    ) {
        self.add(&Call::ReduceScatter(counts, op.into()), tensors.into());
    }

    /// Adds an [`all_gather`](Communicator::all_gather).
    pub fn all_gather(&mut self, tensors: impl Into<Tensors<'t>>, counts: Option<&[usize]>) {
        self.add(&Call::AllGather(counts), tensors.into());
    }

    /// Adds a [`broadcast`](Communicator::broadcast).
    pub fn broadcast(&mut self, tensors: impl Into<Tensors<'t>>, root: usize) {
        self.add(&Call::Broadcast(root), tensors.into());
    }

    /// Adds a [`gather`](Communicator::gather).
    pub fn gather(&mut self, tensors: impl Into<Tensors<'t>>, counts: Option<&[usize]>, root: usize) {
        self.add(&Call::Gather(counts, root), tensors.into());
    }

    /// Adds a [`scatter`](Communicator::scatter).
    pub fn scatter(&mut self, tensors: impl Into<Tensors<'t>>, counts: Option<&[usize]>, root: usize) {
        self.add(&Call::Scatter(counts, root), tensors.into());
    }

    /// Adds an [`all_to_all`](Communicator::all_to_all).
    pub fn all_to_all(&mut self, tensors: impl Into<Tensors<'t>>, counts: Option<(&[usize], &[usize])>) {
        self.add(&Call::AllToAll(counts), tensors.into());
    }

    /// Adds a [`send_recv`](Communicator::send_recv).
    pub fn send_recv<T: Element>(&mut self, data: &'t [T], to: usize, into: &'t mut [T], from: usize) {
        self.add(&Call::Messages { to: Some(to), from: Some(from) }, (data, into).into());
    }
}

impl With<'_> {
    /// See [`Communicator::scope`].
    ///
    /// # Errors
    /// As there.
    pub fn scope<'t, R>(&self, gather: impl FnOnce(&mut Scope<'_, 't>) -> R) -> Result<R> {
        let mut scope = Scope { with: self, calls: Vec::new(), tensors: Vec::new(), refusal: None };
        let value = gather(&mut scope);
        if let Some(refusal) = scope.refusal.take() {
            return Err(refusal);
        }
        // SAFETY: the scope holds the tensors' borrows until this returns, which is after the operations' ends; an
        // output is borrowed exclusively, so that those of different calls lie apart from all others.
        let result = unsafe { self.run_fused(&scope.calls) };
        drop(scope.tensors);
        result.map(|()| value)
    }
}

impl Communicator {
    /// Gathers calls on borrowed memory, then runs them all at once; returns when all are complete. Calls that differ
    /// only in their memory and lengths become one operation, as in a [batch](Communicator::all_reduce_batch); the
    /// same calls in the same order on every rank, each with one tensor for input and output, or with two, alike on every
    /// rank.
    ///
    /// ```
    /// use ringfold::{Communicator, ReduceOp};
    /// let comm = Communicator::local(1).remove(0);
    /// let (mut weights, mut biases, mut seed) = ([1.0f32; 100], [2.0f32; 10], [7u64]);
    /// comm.scope(|scope| {
    ///     scope.all_reduce(&mut weights, ReduceOp::Sum);
    ///     scope.all_reduce(&mut biases, ReduceOp::Sum);
    ///     scope.broadcast(&mut seed, 0);
    /// })?;
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    ///
    /// # Errors
    /// As the blocking verbs; where one call is refused, nothing has happened to any.
    pub fn scope<'t, R>(&self, gather: impl FnOnce(&mut Scope<'_, 't>) -> R) -> Result<R> {
        With { communicator: self, options: Options::default() }.scope(gather)
    }
}
