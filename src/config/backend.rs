//! Which backend is wanted.

use std::fmt;
use std::str::FromStr;

/// By what bytes are to go between ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
#[non_exhaustive]
pub enum BackendChoice {
    /// Whatever is fastest and can be had, agreed among all ranks: shared memory where all are on one host, shared memory within hosts
    /// and TCP between them where there are several, else TCP. Never MPI or NCCL, which are asked for by name.
    #[default]
    Auto,
    /// Shared memory, or an error that says why not.
    Shm,
    /// Shared memory among the ranks of each host and TCP between hosts, of which one has several ranks; or an error that says why
    /// not.
    Hierarchical,
    /// TCP, on one host too.
    Tcp,
    /// The system's MPI, point to point: ringfold's own schedules on any network that it knows. Where the program was built
    /// with the feature `mpi`; its ranks are those of `MPI_COMM_WORLD`.
    MpiP2p,
    /// The collectives of the system's MPI, where the program was built with the feature `mpi`.
    Mpi,
    /// The collectives of NVIDIA's NCCL, for tensors on GPUs of which each rank has one of its own.
    Nccl,
}

impl BackendChoice {
    /// Every choice.
    pub const ALL: [BackendChoice; 7] = [
        BackendChoice::Auto,
        BackendChoice::Shm,
        BackendChoice::Hierarchical,
        BackendChoice::Tcp,
        BackendChoice::MpiP2p,
        BackendChoice::Mpi,
        BackendChoice::Nccl,
    ];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            BackendChoice::Auto => "auto",
            BackendChoice::Shm => "shm",
            BackendChoice::Hierarchical => "hierarchical",
            BackendChoice::Tcp => "tcp",
            BackendChoice::MpiP2p => "mpi-p2p",
            BackendChoice::Mpi => "mpi",
            BackendChoice::Nccl => "nccl",
        }
    }

    /// Whether bytes go by MPI.
    #[cfg(feature = "mpi")]
    pub(crate) const fn is_mpi(self) -> bool {
        matches!(self, BackendChoice::Mpi | BackendChoice::MpiP2p)
    }
}

impl fmt::Display for BackendChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for BackendChoice {
    type Err = crate::error::Error;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        BackendChoice::ALL.into_iter().find(|choice| choice.as_str() == word).ok_or_else(|| {
            crate::error::Error::invalid(format!("no backend is called {word:?}"))
                .remedy("use auto, shm, hierarchical, tcp, mpi-p2p, mpi or nccl")
        })
    }
}
