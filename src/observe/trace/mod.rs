//! Traces: what each rank did when, for Perfetto and `chrome://tracing`.
//!
//! [`Config::trace`](crate::Config::trace) (`RINGFOLD_TRACE=DIR`, `ringfold run --trace DIR`) makes every rank write
//! `DIR/ringfold-<world id>-rank<k>.json`, in the [form] that these viewers open: the rank is the process, the
//! communicator the thread, and each operation a slice with what it was asked for as arguments. Within it lie its longest
//! wait, with the rank that was waited for, and marks at the first byte sent and received. `ringfold trace merge DIR -o
//! merged.json` makes one file of all ranks, with their clocks [aligned](mod@merge).
//!
//! Operations are kept in memory, the last [`KEPT`] of a process (some 15 MB at most, taken when they are used), and
//! written when a communicator is dropped and when its group fails. A process that is killed or calls `exit` with its
//! communicators alive writes none. Writing an operation down takes a fraction of a microsecond and allocates nothing.
//!
//! Times are those of the host's monotonic clock, in microseconds: files of ranks on one host are aligned as they are.
//!
//! [form]: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU

mod clock;
pub mod merge;
mod read;
mod summary;
mod write;

pub use merge::{Merged, merge};
pub use read::{Trace, in_directory, read};
pub use summary::Line;

use crate::error::{Cause, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many operations are kept; the oldest give way to new ones.
pub const KEPT: usize = 65_536;

/// The version of the files' header.
const VERSION: u32 = 1;

/// An operation that has ended, as a trace tells of it. Times are nanoseconds of the [tracer's clock](Tracer::now).
#[derive(Debug, Clone)]
#[expect(missing_docs)]
pub struct Record {
    pub communicator: u32,
    pub collective: &'static str,
    pub sequence: u64,
    /// The larger of this rank's input and output.
    pub bytes: u64,
    pub dtype: &'static str,
    pub op: &'static str,
    pub algorithm: &'static str,
    pub order: &'static str,
    pub submitted: u64,
    /// When all before it had ended.
    pub begun: u64,
    pub ended: u64,
    pub first_sent: Option<u64>,
    pub first_received: Option<u64>,
    /// Bytes, fingerprints included.
    pub sent: u64,
    pub received: u64,
    pub waits: u32,
    /// The time of all waits together.
    pub waited: u64,
    /// Begin and end, and the rank of the communicator that was waited for.
    pub longest_wait: Option<(u64, u64, Option<usize>)>,
    pub error: Option<ErrorKind>,
}

/// Whose trace it is: the head of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The version of this header.
    pub version: u32,
    /// The rank in the world.
    pub rank: usize,
    /// The number of ranks in the world.
    pub world: usize,
    /// The launch, in hexadecimal.
    pub world_id: String,
    /// How often the group has been formed anew.
    pub generation: u32,
    /// The host's name.
    pub host: String,
    /// The process.
    pub pid: u32,
    /// Which clock the times are of: the same text for processes that share it.
    pub clock: String,
    /// What the wall clock showed, in ns since 1970, when that clock was at its origin.
    pub wall_origin: i64,
    /// How many operations, the oldest, have given way to later ones.
    #[serde(default)]
    pub dropped: u64,
}

/// One process's trace while it is made. Shared by all communicators of its world.
#[derive(Debug)]
pub struct Tracer {
    path: PathBuf,
    header: Header,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    records: VecDeque<Record>,
    dropped: u64,
    communicators: Vec<(u32, usize, usize)>,
    failure: Option<(u64, Cause)>,
    /// Whether there is something that the file does not have.
    changed: bool,
}

impl Tracer {
    /// The trace of this rank, in a file of the directory, which is made where it is missing.
    ///
    /// # Errors
    /// [`Configuration`](ErrorKind::Configuration) where the directory cannot be made or written.
    pub fn create(
        directory: &Path,
        rank: usize,
        world: usize,
        world_id: u64,
        generation: u32,
        host: &str,
    ) -> Result<Tracer> {
        let world_id = format!("{world_id:x}");
        let again = if generation > 0 { format!(".{generation}") } else { String::new() };
        let header = Header {
            version: VERSION,
            rank,
            world,
            generation,
            host: host.to_owned(),
            pid: std::process::id(),
            clock: clock::identity(),
            wall_origin: clock::wall_origin(),
            dropped: 0,
            world_id,
        };
        let path = directory.join(format!("ringfold-{}{again}-rank{rank}.json", header.world_id));
        let tracer = Tracer {
            path,
            header,
            kept: Mutex::new(Kept {
                records: VecDeque::with_capacity(KEPT),
                dropped: 0,
                communicators: Vec::new(),
                failure: None,
                changed: true,
            }),
        };
        let refused = |error: &dyn std::fmt::Display| {
            let text = format!("no trace can be written to {}: {error}", directory.display());
            Error::new(ErrorKind::Configuration, text)
                .at_rank(rank)
                .remedy("name a directory that can be written, by RINGFOLD_TRACE or the key trace")
        };
        std::fs::create_dir_all(directory).map_err(|error| refused(&error))?;
        tracer.write().map_err(|error| refused(&error.message()))?;
        Ok(tracer)
    }

    /// The file that it is written to.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The time by its clock, in ns.
    pub fn now(&self) -> u64 {
        clock::now()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names a communicator, and this rank's number in it.
    pub fn communicator(&self, id: u32, rank: usize, world: usize) {
        self.kept().communicators.push((id, rank, world));
    }

    /// Writes an operation down.
    pub fn record(&self, record: Record) {
        let mut kept = self.kept();
        if kept.records.len() == KEPT {
            kept.records.pop_front();
            kept.dropped += 1;
        }
        kept.records.push_back(record);
        kept.changed = true;
    }

    /// The group has failed, which is written at once: there may be no later.
    pub fn failed(&self, cause: &Cause) {
        let mut kept = self.kept();
        if kept.failure.is_none() {
            kept.failure = Some((clock::now(), cause.clone()));
            kept.changed = true;
        }
        drop(kept);
        self.save();
    }

    /// Writes the file, if there is something new to write. What goes wrong is logged.
    pub fn save(&self) {
        if let Err(error) = self.write() {
            tracing::warn!(rank = self.header.rank, %error, "the trace could not be written");
        }
    }

    fn write(&self) -> Result<()> {
        let mut kept = self.kept();
        if std::mem::take(&mut kept.changed) {
            let header = Header { dropped: kept.dropped, ..self.header.clone() };
            write::file(&self.path, &header, &kept)?;
        }
        Ok(())
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.save();
    }
}
