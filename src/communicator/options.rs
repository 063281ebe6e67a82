//! What can be said of one call.

use crate::collective::Order;
use crate::error::{Error, Result};
use crate::plan::Algorithm;
use crate::reduce::NullPolicy;
use std::str::FromStr;
use std::time::Duration;

/// When the group compares what its ranks ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Check {
    /// [`Check::Strict`] where the message is above 64 KiB and the collective is one of those that it helps (not
    /// all_reduce, reduce_scatter and barrier, which promise as much without it; not all_to_all with counts between
    /// pairs, whose size is not known to all); else [`Check::Normal`].
    #[default]
    Auto,
    /// With the first bytes between every two ranks that exchange any. For all_reduce, reduce_scatter and barrier
    /// every rank gets the same error before its memory changes. In other collectives a rank may have returned
    /// before another notices, and learns the cause at its next call.
    Normal,
    /// In a round of ceil(log2 n) small messages before any payload moves: every rank gets the same error before
    /// its memory changes, in every collective. Counts between pairs (`all_to_all_v`) are compared by the pairs.
    Strict,
}

impl FromStr for Check {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "auto" => Ok(Check::Auto),
            "normal" => Ok(Check::Normal),
            "strict" => Ok(Check::Strict),
            _ => Err(Error::invalid(format!("no check is called {name:?}"))
                .remedy("use one of auto, normal, strict")),
        }
    }
}

/// What can be said of one call, or of all calls of a communicator.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use]
pub struct Options {
    pub(super) deadline: Option<Duration>,
    pub(super) algorithm: Option<Algorithm>,
    pub(super) check: Option<Check>,
    pub(super) order: Option<Order>,
    pub(super) nulls: Option<NullPolicy>,
    pub(super) pack: Option<bool>,
}

impl Options {
    /// Nothing said: everything as the communicator has it.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long the call may take, from its beginning. When it passes, the group fails. Default: 30 minutes.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// The algorithm, instead of the table's choice. The same on every rank.
    pub fn algorithm(mut self, algorithm: Algorithm) -> Self {
        self.algorithm = Some(algorithm);
        self
    }

    /// When ranks compare what they ask for. The same on every rank.
    pub fn check(mut self, check: Check) -> Self {
        self.check = Some(check);
        self
    }

    /// What is promised about the order of combination. The same on every rank.
    pub fn order(mut self, order: Order) -> Self {
        self.order = Some(order);
        self
    }

    /// What becomes of nulls, in calls whose data can have some: those of Arrow data. Default: they are refused.
    /// The same on every rank.
    pub fn nulls(mut self, nulls: NullPolicy) -> Self {
        self.nulls = Some(nulls);
        self
    }

    /// Whether strided tensors of the host are packed: copied into dense memory for the time of the call, and an output copied
    /// back when the call has succeeded. What lies between the elements is not touched. That takes as much memory as the
    /// elements have bytes, and a pass over them for an input, another for an output. Default: strided tensors are refused.
    /// Dense ones are used where they are, whatever is said here.
    ///
    /// It holds for verbs that block and take views (`*_dyn`, [`call`](crate::Communicator::call)), not for started,
    /// prepared, gathered or batched ones. Each rank decides for itself.
    ///
    /// ```
    /// use ringfold::tensor::{DType, Device, TensorMut};
    /// use ringfold::{Communicator, Options, ReduceOp};
    /// let comm = Communicator::local(1).remove(0);
    /// let mut matrix = [1.0f32, 2.0, 3.0, 4.0];
    /// // SAFETY: the first column of two rows of two, borrowed exclusively.
    /// let column = unsafe {
    ///     TensorMut::from_raw(matrix.as_mut_ptr().cast(), DType::F32, &[2], Some(&[2]), Device::Host)?
    /// };
    /// comm.with(Options::new().pack(true)).all_reduce_dyn(column, ReduceOp::Sum)?;
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    pub fn pack(mut self, pack: bool) -> Self {
        self.pack = Some(pack);
        self
    }

    /// These options where they say something, else `base`'s.
    pub(super) fn over(&self, base: &Options) -> Options {
        Options {
            deadline: self.deadline.or(base.deadline),
            algorithm: self.algorithm.or(base.algorithm),
            check: self.check.or(base.check),
            order: self.order.or(base.order),
            nulls: self.nulls.or(base.nulls),
            pack: self.pack.or(base.pack),
        }
    }
}
