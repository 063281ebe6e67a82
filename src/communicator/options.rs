//! What can be said of one call.

use crate::collective::Order;
use crate::error::{Error, Result};
use crate::plan::Algorithm;
use crate::reduce::NullPolicy;
use crate::tensor::Stream;
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
    pub(super) stream: Option<Stream>,
    pub(super) staging: Option<bool>,
    /// Whether the tensors are the library's own, and used for something else after the call.
    pub(super) reused: bool,
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

    /// The stream of a device that the call follows: its input is there once the stream has come so far. A backend that works on
    /// devices queues its own work behind that, and what the caller queues on the stream afterwards finds the output. One that
    /// works on the host's memory copies tensors of devices on this stream, under [`staging`](Options::staging), and has copied
    /// the output back when the call returns; for tensors on the host it says nothing. Default: the device's default stream.
    ///
    /// # Safety
    /// In calls with tensors of a device, the stream is one of that device, and is there until the call is complete.
    ///
    /// ```
    /// use ringfold::tensor::Stream;
    /// use ringfold::{Communicator, Options, ReduceOp};
    /// let comm = Communicator::local(1).remove(0);
    /// // SAFETY: every device has a default stream, and it is there for ever.
    /// let options = unsafe { Options::new().stream(Stream::default()) };
    /// comm.with(options).all_reduce(&mut [1.0f32; 4], ReduceOp::Sum)?;
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    pub unsafe fn stream(mut self, stream: Stream) -> Self {
        self.stream = Some(stream);
        self
    }

    /// Whether tensors that lie where the backend cannot reach may go through memory that it does reach: those of a device, over
    /// backends that work on the host's memory, and those of the host, over backends that work on devices. Default: such a call is
    /// refused with [`Unsupported`](crate::ErrorKind::Unsupported) on the rank that makes it, before anything has moved. The same on every
    /// rank, wherever the tensors of each are.
    ///
    /// Over a backend that works on the host's memory, staging goes through pinned memory. all_reduce, reduce and broadcast above 4
    /// MiB go in portions, of which one is copied to the host, one is worked on, and one is copied back at a time; this holds for
    /// ranks whose tensors are on the host, too, and under [`Order::Default`] the bits may be others than without. Other
    /// collectives copy their tensors whole. The deadline is the whole call's. Where a copy fails when others are in the call
    /// already, the group fails; where one is not over at the deadline, the error says so, and the device's memory is to be left
    /// alone until the device has been synchronised.
    ///
    /// It holds for verbs that block and take views (`*_dyn`, [`call`](crate::Communicator::call)), not for started,
    /// prepared, gathered or batched ones, which refuse what their backend cannot reach.
    ///
    /// ```
    /// use ringfold::{Communicator, Options, ReduceOp};
    /// let comm = Communicator::local(1).remove(0);
    /// let mut here = [1.0f32; 4]; // or a view of a device's memory
    /// comm.with(Options::new().staging(true)).all_reduce(&mut here, ReduceOp::Sum)?;
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    pub fn staging(mut self, staging: bool) -> Self {
        self.staging = Some(staging);
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
            stream: self.stream.or(base.stream),
            staging: self.staging.or(base.staging),
            reused: self.reused || base.reused,
        }
    }
}
