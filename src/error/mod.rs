//! Typed errors: who (rank, host), what (collective, sequence number), why (kind, message) and what to do.
//!
//! An [`Error`] is what a call returns on one rank. A [`Cause`] is the same story in a form that crosses
//! the wire, so that every survivor of a failure tells it alike and names the culprit, not the messenger.

mod cause;

pub use cause::{Cause, CauseKind};

use std::fmt;

/// The result of every fallible call of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What kind of thing went wrong. The set may grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument cannot be right: a length, a rank, a root. Nothing was sent and nothing has changed.
    InvalidArgument,
    /// The request is sound, but this build, backend or algorithm cannot do it. Nothing was sent.
    Unsupported,
    /// The configuration (environment, file, builder) is incomplete or contradicts itself.
    Configuration,
    /// The group could not be formed: a rank is missing, is there twice, or speaks another version.
    Bootstrap,
    /// There is not enough of what was asked for: devices, CPUs, memory. Nothing was started and nothing is held.
    Unavailable,
    /// The operating system refused something that is not about a peer.
    Io,
    /// Ranks asked for different things under the same sequence number.
    Mismatch,
    /// A peer's process has ended without saying goodbye.
    PeerDead,
    /// A peer is there but has given no sign of life for longer than the heartbeat deadline.
    Unresponsive,
    /// A peer cannot be reached by the network.
    Unreachable,
    /// A peer left the group in good order while others still needed it.
    Closed,
    /// The deadline of the operation passed.
    Deadline,
    /// The group was aborted by a call of [`AbortHandle::abort`](crate::AbortHandle::abort).
    Aborted,
    /// A user's function panicked.
    UserPanic,
    /// A peer sent bytes that are no frame of this protocol.
    Protocol,
    /// A task of a group failed, in the last of its attempts.
    TaskFailed,
    /// The library itself has a fault: a call panicked inside of it, on this rank or on the one that is named.
    Internal,
}

impl ErrorKind {
    /// The lower-case words that messages use for this kind.
    pub const fn as_str(self) -> &'static str {
        match self {
            ErrorKind::InvalidArgument => "invalid argument",
            ErrorKind::Unsupported => "unsupported",
            ErrorKind::Configuration => "configuration",
            ErrorKind::Bootstrap => "bootstrap",
            ErrorKind::Unavailable => "resources unavailable",
            ErrorKind::Io => "input/output",
            ErrorKind::Mismatch => "mismatch",
            ErrorKind::PeerDead => "peer dead",
            ErrorKind::Unresponsive => "peer unresponsive",
            ErrorKind::Unreachable => "peer unreachable",
            ErrorKind::Closed => "peer closed",
            ErrorKind::Deadline => "deadline passed",
            ErrorKind::Aborted => "aborted",
            ErrorKind::UserPanic => "user panic",
            ErrorKind::Protocol => "protocol",
            ErrorKind::TaskFailed => "task failed",
            ErrorKind::Internal => "internal",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What went wrong, on which rank, in which operation, and what to do about it.
///
/// ```
/// use ringfold::{Error, ErrorKind};
/// let error = Error::new(ErrorKind::InvalidArgument, "root 7 in a group of 4").remedy("pass a root below 4");
/// assert_eq!(error.kind(), ErrorKind::InvalidArgument);
/// assert_eq!(error.to_string(), "invalid argument: root 7 in a group of 4; to do: pass a root below 4");
/// ```
#[derive(Clone, thiserror::Error)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: String,
    remedy: Option<String>,
    rank: Option<usize>,
    host: Option<String>,
    culprit: Option<usize>,
    collective: Option<&'static str>,
    sequence: Option<u64>,
    generation: Option<u32>,
    keeps_memory: bool,
}

impl Error {
    /// An error of this kind with the reason in words.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error(Box::new(Inner {
            kind,
            message: message.into(),
            remedy: None,
            rank: None,
            host: None,
            culprit: None,
            collective: None,
            sequence: None,
            generation: None,
            keeps_memory: false,
        }))
    }

    /// Shorthand for [`ErrorKind::InvalidArgument`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::InvalidArgument, message)
    }

    /// Shorthand for [`ErrorKind::Unsupported`].
    pub fn unsupported(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Unsupported, message)
    }

    /// An operating-system error with what was being done.
    pub fn io(doing: impl fmt::Display, error: impl fmt::Display) -> Self {
        Error::new(ErrorKind::Io, format!("{doing}: {error}"))
    }

    /// Adds what the user can do about it.
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.0.remedy = Some(remedy.into());
        self
    }

    /// Adds the rank that reports the error.
    pub fn at_rank(mut self, rank: usize) -> Self {
        self.0.rank = Some(rank);
        self
    }

    /// Adds the host of the rank that the error is about.
    pub fn on_host(mut self, host: impl Into<String>) -> Self {
        self.0.host = Some(host.into());
        self
    }

    /// Adds the rank that is to blame.
    pub fn blame(mut self, culprit: usize) -> Self {
        self.0.culprit = Some(culprit);
        self
    }

    /// Adds the collective and its sequence number.
    pub fn during(mut self, collective: &'static str, sequence: u64) -> Self {
        self.0.collective = Some(collective);
        self.0.sequence = Some(sequence);
        self
    }

    /// Adds the generation of the group.
    pub fn in_generation(mut self, generation: u32) -> Self {
        self.0.generation = Some(generation);
        self
    }

    /// Adds more to the reason.
    #[cfg(feature = "mpi")]
    pub(crate) fn explain(mut self, more: &str) -> Self {
        self.0.message.push_str(more);
        self
    }

    /// Says that a library still has the operation's memory, and may write to it.
    #[cfg(feature = "mpi")]
    pub(crate) fn keeping_memory(mut self) -> Self {
        self.0.keeps_memory = true;
        self
    }

    /// Whether a foreign library (MPI) still has the memory that the operation was given, and may write to it for as long as the
    /// process lives: where a deadline or an abort has passed within it. Buffers that an operation owns stay with it for ever then,
    /// and are not given back. Memory that a call has borrowed is concerned only where the configuration gives it to the
    /// library itself (`mpi_direct`; `mpi_blocking`, where MPI has failed in a call).
    pub fn keeps_memory(&self) -> bool {
        self.0.keeps_memory
    }

    /// What kind of error this is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The reason in words, without the fields around it.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What to do about it, where that is known.
    pub fn what_to_do(&self) -> Option<&str> {
        self.0.remedy.as_deref()
    }

    /// The rank that reports the error.
    pub fn rank(&self) -> Option<usize> {
        self.0.rank
    }

    /// The rank that caused the error, where one is to blame.
    pub fn culprit(&self) -> Option<usize> {
        self.0.culprit
    }

    /// The host of the culprit, where known.
    pub fn host(&self) -> Option<&str> {
        self.0.host.as_deref()
    }

    /// The collective that failed, by its name in the API.
    pub fn collective(&self) -> Option<&'static str> {
        self.0.collective
    }

    /// The sequence number of the operation that failed, counted from 0 in each communicator.
    pub fn sequence(&self) -> Option<u64> {
        self.0.sequence
    }

    /// The generation of the group that failed.
    pub fn generation(&self) -> Option<u32> {
        self.0.generation
    }
}

/// As [`Display`](fmt::Display): `fn main() -> ringfold::Result<()>` prints errors in this form.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let e = &*self.0;
        if let Some(rank) = e.rank {
            write!(f, "rank {rank}: ")?;
        }
        if let Some(collective) = e.collective {
            write!(f, "{collective}")?;
            if let Some(sequence) = e.sequence {
                write!(f, " #{sequence}")?;
            }
            f.write_str(": ")?;
        }
        write!(f, "{}: {}", e.kind, e.message)?;
        match (e.culprit, &e.host) {
            (Some(culprit), Some(host)) => write!(f, " (rank {culprit} is on host {host})")?,
            (None, Some(host)) => write!(f, " (host {host})")?,
            // Whoever is to blame is named, if not by the message.
            (Some(culprit), None) if !e.message.contains(&format!("rank {culprit}")) => {
                write!(f, " (rank {culprit})")?;
            }
            _ => {}
        }
        if let Some(remedy) = &e.remedy {
            write!(f, "; to do: {remedy}")?;
        }
        Ok(())
    }
}
