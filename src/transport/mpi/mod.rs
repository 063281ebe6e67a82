//! An MPI that the system has: as a way to meet, and as a transport.
//!
//! [`Mpi`] is a communicator of one's own: a duplicate of `MPI_COMM_WORLD` or of any other, on which errors are returned.
//! [`MpiExchange`] is an all-gather over it, by which a group forms under any launcher of MPI, whatever its bytes go by
//! afterwards. [`MpiTransport`] carries the bytes too: the backend `mpi-p2p`.
//!
//! | file | subject |
//! |---|---|
//! | `call` | MPI's functions, each with its return code checked |
//! | `library` | the one MPI of a process: who begins it, who ends it, and the lock around it |
//! | `group` | [`Mpi`] |
//! | `flight` | buffers that MPI has, until it gives them back |
//! | `collective` | what MPI's own collectives are told: types, reductions, counts |
//! | `ask` | MPI's own collectives, begun or carried out |
//! | `holding` | what MPI has of a collective, until it gives that back |
//! | `exchange` | [`MpiExchange`] |
//! | `stream` | the chunks of one stream, under way |
//! | `transport` | [`MpiTransport`] |
//!
//! # What is asked of the MPI
//! Version 3.0 of the standard and thread level `MPI_THREAD_SERIALIZED`: a communicator is driven by whoever waits for it, the
//! caller or the progress thread, and all calls of this process's ringfold take one lock. A program that calls MPI itself
//! meanwhile, on another thread, needs `MPI_THREAD_MULTIPLE`, which is what is asked for where ringfold begins MPI.
//!
//! # Beginning and end
//! Where the program has begun MPI, it ends it, after the last communicator is dropped. Else ringfold begins it when it is
//! first needed and ends it when the process exits in good order, once all ranks are there; after a failure it waits for them
//! for some seconds only, as it waits for threads of this process that are still in calls, and after a deadline that has passed within MPI not
//! at all; then it leaves MPI as it is, which `mpirun` calls an improper exit. `MPI_Init` and `MPI_Finalize`
//! have no deadline. Nothing here calls `MPI_Abort`.
//!
//! What a launcher does about a process that dies is its own business: by default the `mpirun`s of Open MPI and MPICH end all
//! others, some before they can say who it was.

mod ask;
mod call;
mod collective;
mod exchange;
mod flight;
mod group;
mod holding;
mod library;
mod stream;
mod transport;

pub(crate) use ask::Ask;
pub(crate) use call::{Checked, Refusal};
pub(crate) use collective::{Custom, LIMIT, Op, Type};
pub(crate) use holding::{Holding, Memory};
pub(crate) use library::{Turn, free_turn, turn};

pub use exchange::MpiExchange;
pub use group::{Mpi, RawComm};
pub use library::version;
pub use transport::{MpiSetup, MpiTransport};
