//! From a verb's tensors to its end: checked, made an operation, and run here or on the progress thread.

use super::With;
use super::batch::Ask;
use super::call::Call;
use super::completion::Completion;
use super::line::Handed;
use super::tensors::Tensors;
use crate::backend::{Buffers, Operation};
use crate::collective::{Collective, Request};
use crate::error::{Error, Result};
use crate::reduce::CustomOp;
use std::sync::Arc;

/// A call that has been checked as far as one rank can, with the addresses of its memory.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) request: Request,
    /// Whether the call came with one tensor for input and output: the same on every rank, unlike the request's
    /// `in_place`, which a rank's part in a rooted collective may forbid.
    pub(super) one_tensor: bool,
    pub(super) buffers: Buffers,
    pub(super) custom: Option<CustomOp>,
}

impl With<'_> {
    /// Checks all that one rank can check.
    pub(super) fn check(&self, call: &Call<'_>, tensors: &mut Tensors<'_>) -> Result<Checked> {
        let comm = self.communicator;
        let rank = comm.rank;
        let of_rank = |error: Error| comm.line.complete(error);
        tensors.check().map_err(of_rank)?;
        let lists = &mut comm.sequencer.borrow_mut().lists;
        let mut request = call.request(rank, comm.world, tensors, lists).map_err(of_rank)?;
        request.validate().map_err(of_rank)?;
        request.in_place = tensors.is_in_place() && request.in_place_shift(rank).is_some();
        if request.in_place {
            request.validate().map_err(of_rank)?;
        }
        // In elements of the tensors, which may be several to one of the request's.
        let each = request.element_size() / request.dtype.size();
        let (input, output) = (request.input_len(rank) * each, request.output_len(rank) * each);
        let (has_input, has_output) = tensors.lens();
        // A tensor that this rank's part does not use may have any length: the output of a rank that is not
        // the root of a reduce, for one.
        let expect = |role: &str, has: usize, needs: usize| {
            if has == needs || needs == 0 {
                return Ok(());
            }
            let text = format!("the {role} has {has} elements, this {} needs {needs}", request.collective);
            Err(of_rank(Error::invalid(text).remedy("pass buffers of the lengths that the counts say")))
        };
        let buffers = match tensors {
            Tensors::Apart(from, to) => {
                expect("input", has_input, input)?;
                expect("output", has_output, output)?;
                Buffers { input: from.pointer(), output: to.pointer() }
            }
            Tensors::InPlace(tensor) => {
                expect("buffer", has_input, input.max(output))?;
                let pointer = tensor.pointer();
                let shift = request.in_place_shift(rank).unwrap_or(0);
                let bytes = shift.unsigned_abs() * request.element_size();
                // Input element i is output element i + shift.
                let (from, to) = if shift >= 0 {
                    (pointer.wrapping_add(bytes), pointer)
                } else {
                    (pointer, pointer.wrapping_add(bytes))
                };
                Buffers { input: from, output: to }
            }
        };
        Ok(Checked { request, one_tensor: tensors.is_in_place(), buffers, custom: call.custom().cloned() })
    }

    /// Makes a checked call the next operation in the order.
    ///
    /// # Safety
    /// Until the operation is complete, the memory of the tensors that were checked must be left to it: it is borrowed
    /// or owned for that long.
    pub(super) unsafe fn operation(&self, checked: &Checked) -> Result<Operation> {
        let Checked { request, buffers, custom, .. } = checked;
        let mut sequencer = self.communicator.sequencer.borrow_mut();
        // SAFETY: the tensors are dense and as long as the request says; two of them lie apart, because the output is
        // borrowed exclusively; in place, the addresses are laid out by the shift. The rest is the caller's promise.
        let made = unsafe { sequencer.operation(request.clone(), *buffers, custom.as_ref(), &self.options) };
        drop(sequencer);
        made.map(|operation| self.communicator.told(operation))
            .map_err(|error| self.communicator.line.complete(error))
    }

    /// Carries out a call, and returns when it is complete.
    pub(super) fn execute(&self, call: &Call<'_>, mut tensors: Tensors<'_>) -> Result<()> {
        let checked = self.check(call, &mut tensors)?;
        // SAFETY: the tensors are borrowed until this returns, which is after the operation's end; where it unwinds
        // instead, the backend is never driven again.
        let result = unsafe { self.run(&checked) };
        drop(tensors);
        result
    }

    /// Runs a checked call to its end, in its turn.
    ///
    /// # Safety
    /// As [`operation`](Self::operation).
    pub(super) unsafe fn run(&self, checked: &Checked) -> Result<()> {
        // SAFETY: handed on to the caller.
        let operation = unsafe { self.operation(checked) }?;
        let comm = self.communicator;
        if comm.line.is_busy() {
            let completion = self.hand_over(1, std::iter::once(operation));
            let awaiting = comm.progress.awaiting();
            completion.wait(None);
            drop(awaiting);
            return completion.result();
        }
        let is_message = checked.request.collective == Collective::SendRecv;
        let result = comm.line.run(operation);
        comm.sequencer.borrow_mut().settle(is_message, &result);
        result
    }

    /// Runs several operations, which are all under way at once, to their ends.
    pub(super) fn run_all(&self, asks: &mut Vec<Ask>) -> Result<()> {
        let comm = self.communicator;
        if comm.line.is_busy() {
            let completion = self.hand_over(asks.len(), asks.drain(..).map(|ask| ask.operation));
            let awaiting = comm.progress.awaiting();
            completion.wait(None);
            drop(awaiting);
            return completion.result();
        }
        let messages: Vec<bool> = asks.iter().map(|ask| ask.is_message).collect();
        let (result, refused) = comm.line.run_all(asks.drain(..).map(|ask| ask.operation));
        for is_message in &messages[messages.len() - refused..] {
            comm.sequencer.borrow_mut().settle(*is_message, &result);
        }
        result
    }

    /// Gives operations to the progress thread, which must be [there](super::progress::ProgressThread::make).
    pub(super) fn hand_over(
        &self,
        count: usize,
        operations: impl Iterator<Item = Operation>,
    ) -> Arc<Completion> {
        let comm = self.communicator;
        let completion = comm.completions.borrow_mut().take(count);
        let handed = operations.map(|operation| Handed { operation, completion: Arc::clone(&completion) });
        comm.progress.hand_over(&comm.line, handed);
        completion
    }
}
