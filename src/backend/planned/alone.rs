//! Operations of a group of one that change nothing: in place, or a barrier. They are over with their checks.
//!
//! What the checks say depends on request and schedule alone. So the first operation of each number goes the common way, with
//! everything that may refuse it; those that follow it are counted, and that is all.

use super::super::{Backend, Operation};
use super::Planned;
use crate::collective::Collective;
use crate::error::Result;
use crate::reduce::kernels;
use crate::transport::Transport;
use std::time::Duration;

/// Every so manieth is timed and stands for the others, which take less than the clock does.
const TIMED: u32 = 16;

/// How many numbers are remembered: as many as there are calls that a communicator remembers.
const REMEMBERED: usize = 16;

/// The numbers of operations that change nothing.
#[derive(Default)]
pub(super) struct Alone {
    numbers: [u64; REMEMBERED],
    runs: u32,
}

impl<T: Transport> Planned<T> {
    /// [`run`](Backend::run) in a group of one.
    pub(super) fn run_in_group_of_one(&mut self, operation: &mut Option<Operation>) -> Result<()> {
        if self.is_over(operation.as_ref().expect("an operation to run")) {
            *operation = None;
            return Ok(());
        }
        let operation = operation.take().expect("it was there");
        let number = operation.number;
        let changes_nothing = self.transport.meter.tracer.is_none() && changes_nothing(&operation);
        let mine = self.submit(operation)?;
        self.drive(mine)?;
        if changes_nothing {
            self.alone.numbers[number as usize % REMEMBERED] = number;
        }
        Ok(())
    }

    /// Whether an operation is known to change nothing, and there is none before it; then it is counted.
    #[inline]
    fn is_over(&mut self, operation: &Operation) -> bool {
        let number = operation.number;
        if number == 0
            || self.alone.numbers[number as usize % REMEMBERED] != number
            || operation.extras.is_some()
            || self.running.is_some()
            || !self.queue.is_empty()
            || self.failure.is_some()
            || self.transport.inner.verdict().is_some()
        {
            return false;
        }
        let (request, meter) = (&operation.request, &self.transport.meter);
        self.alone.runs = self.alone.runs.wrapping_add(1);
        let timed = self.alone.runs.is_multiple_of(TIMED);
        let begun = timed.then(|| self.transport.inner.now());
        meter.plans_found.add(1);
        let time = begun.map_or(Duration::ZERO, |begun| self.transport.inner.now().since(begun) * TIMED);
        meter.ended(request.collective, request.bytes(0) as u64, time, true);
        true
    }
}

/// Whether an operation leaves the memory of a group of one as it is.
fn changes_nothing(operation: &Operation) -> bool {
    let request = &operation.request;
    let is_result = match request.collective {
        // Its byte is nobody's.
        Collective::Barrier => true,
        _ => request.aliasing(0) == Some(0),
    };
    let finishes = request.op.and_then(|op| kernels(op, request.dtype)).is_some_and(|all| all.finishes());
    request.world == 1 && is_result && !finishes && operation.extras.is_none()
}
