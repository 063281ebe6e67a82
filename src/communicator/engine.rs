//! The order of operations, and the one place that drives the backend.

use super::options::{Check, Options};
use crate::backend::{Backend, Buffers, Operation};
use crate::collective::{Collective, Request};
use crate::error::{Cause, Result};
use crate::plan::select::Table;
use std::any::Any;
use std::time::Duration;

/// From how many bytes on strict checks are the default, in the collectives that they help.
const STRICT_FROM: usize = 64 << 10;

pub(super) struct Engine {
    backend: Box<dyn Backend>,
    table: Table,
    defaults: Options,
    deadline: Duration,
    sequence: u64,
    /// What must live as long as the backend, and is dropped after it: the control link, a hosted store.
    _held: Box<dyn Any + Send>,
}

impl Engine {
    pub(super) fn new(
        backend: Box<dyn Backend>,
        defaults: Options,
        deadline: Duration,
        held: Box<dyn Any + Send>,
    ) -> Self {
        Engine { backend, table: Table::default(), defaults, deadline, sequence: 0, _held: held }
    }

    pub(super) fn backend_name(&self) -> &'static str {
        self.backend.name()
    }

    pub(super) fn failure(&self) -> Option<Cause> {
        self.backend.failure()
    }

    /// Runs one operation, whose request has been validated, to its end.
    ///
    /// # Safety
    /// The buffers are as [`Operation::new`] demands, until this returns.
    pub(super) unsafe fn run(
        &mut self,
        mut request: Request,
        buffers: Buffers,
        options: &Options,
    ) -> Result<()> {
        // A default algorithm serves where it can; one that a call asks for must.
        let default = self.defaults.algorithm.filter(|algorithm| algorithm.check(&request).is_ok());
        let options = options.over(&Options { algorithm: default, ..self.defaults.clone() });
        request.order = options.order.unwrap_or_default();
        let is_message = request.collective == Collective::SendRecv;
        let schedule = match options.algorithm {
            _ if is_message => self.table.any_schedule(),
            Some(algorithm) => {
                algorithm.check(&request)?;
                self.table.schedule(&request, algorithm)
            }
            None => self.table.select(&request)?,
        };
        let strict = match options.check.unwrap_or_default() {
            Check::Normal => false,
            Check::Strict => true,
            Check::Auto => {
                let helps = !matches!(
                    request.collective,
                    Collective::AllReduce | Collective::ReduceScatter | Collective::Barrier
                );
                helps && Table::agreed_bytes(&request) > STRICT_FROM
            }
        };
        let timeout = options.deadline.unwrap_or(self.deadline);
        // SAFETY: handed on to the caller of this function.
        let operation = unsafe { Operation::new(request, schedule, self.sequence, strict, timeout, buffers) };
        // Messages are ordered in each direction of a pair; collectives among all.
        if !is_message {
            self.sequence += 1;
        }
        self.backend.run(operation)
    }
}
