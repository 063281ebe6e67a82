//! A directory that all ranks share as the place to meet: rank 0 leaves a note there that says where its store is.
//!
//! It needs no locks, and works over NFS. The note appears whole: it is written beside its place, brought to the
//! disk, and linked in, which fails where a note is already. Its name has world id and generation, so that attempts
//! do not meet each other. A note that outlives its writer is recognised, since no store of its group answers where it
//! says; rank 0 replaces it, and the others wait for that. Rank 0 takes its note away once all ranks have met.

use super::record::host_id;
use crate::config::environment::DIRECTORY;
use crate::error::{Error, ErrorKind, Result};
use crate::transport::control::{hostname, lives_at};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The version of the note.
const VERSION: u16 = 1;
/// No note is longer than this, in bytes.
const LONGEST: u64 = 4096;
/// How long to wait for a store to answer, before it counts as gone for now.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often to look for a note at least.
const LOOK: Duration = Duration::from_millis(200);

/// What rank 0 leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    version: u16,
    pub(super) world_id: u64,
    generation: u32,
    pub(super) address: SocketAddr,
    host: String,
    host_id: String,
    pid: u32,
}

impl Note {
    /// The note of a rank 0 in this process.
    pub(super) fn here(address: SocketAddr, world_id: u64, generation: u32) -> Note {
        let (host, host_id, pid) = (hostname(), host_id(), std::process::id());
        Note { version: VERSION, world_id, generation, address, host, host_id, pid }
    }

    /// Whether the store that it tells of answers.
    fn holds(&self, until: Instant) -> bool {
        let patience = PATIENCE.min(until.saturating_duration_since(Instant::now()));
        lives_at(self.address, self.world_id, self.generation, patience)
    }
}

/// Where the ranks of one attempt meet.
#[derive(Debug, Clone)]
pub(super) struct Place {
    directory: PathBuf,
    note: PathBuf,
}

impl Place {
    /// The place that a store names, if it is a directory. `world_id` is the one that is configured; 0 where none is.
    pub(super) fn of(store: &str, world_id: u64, generation: u32) -> Option<Place> {
        let directory = PathBuf::from(store.strip_prefix(DIRECTORY)?);
        let note = directory.join(format!("ringfold-{world_id:016x}-{generation}.store"));
        Some(Place { directory, note })
    }

    /// Leaves rank 0's note, in place of one that no longer holds.
    ///
    /// # Errors
    /// [`Configuration`](ErrorKind::Configuration) where the directory is not one that can be written to;
    /// [`Bootstrap`](ErrorKind::Bootstrap) where another rank 0 is there.
    pub(super) fn announce(&self, note: &Note, until: Instant) -> Result<Announcement> {
        let cannot = |error: io::Error| self.unusable("rank 0 cannot leave a note in", &error);
        let draft = self.beside("draft");
        // Numbers and strings: nothing that JSON could refuse.
        let text = serde_json::to_vec(note).unwrap_or_default();
        let _gone = Removed(&draft);
        write_down(&draft, &text).map_err(cannot)?;
        loop {
            match fs::hard_link(&draft, &self.note) {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                // Where there are no links, two rank 0s may not notice each other.
                Err(_) if !self.note.exists() => {
                    fs::rename(&draft, &self.note).map_err(cannot)?;
                    break;
                }
                Err(error) => return Err(cannot(error)),
            }
            let there = match self.bytes() {
                Ok(there) => there,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(cannot(error)),
            };
            if let Ok(other) = self.read(&there)
                && other.holds(until)
            {
                let text = format!(
                    "{} says that rank 0 of this launch is pid {} on {}, and its store answers",
                    self.note.display(),
                    other.pid,
                    other.host
                );
                return Err(Error::new(ErrorKind::Bootstrap, text).blame(0).remedy(
                    "start every rank once; for two launches at a time give each a directory or a RINGFOLD_WORLD_ID",
                ));
            }
            tracing::info!(note = %self.note.display(), "replacing a note that an earlier launch left");
            self.take_away(&there).map_err(cannot)?;
        }
        // As far as the file system can: others may be told of the new name sooner.
        let _ = File::open(&self.directory).and_then(|directory| directory.sync_all());
        Ok(Announcement { place: self.clone(), text })
    }

    /// Waits for a note that holds, at most until `until`.
    ///
    /// # Errors
    /// [`Configuration`](ErrorKind::Configuration) where the directory cannot be read, or where only its own host
    /// reaches the store; [`Bootstrap`](ErrorKind::Bootstrap) when time is up, saying what there was instead.
    pub(super) fn find(&self, rank: usize, until: Instant) -> Result<Note> {
        let mut pause = Duration::from_millis(2);
        let mut out_of_reach = None;
        loop {
            // Opening the directory makes NFS look anew, where a missing file may be remembered for a minute.
            drop(fs::read_dir(&self.directory).map_err(|error| self.unusable("cannot look into", &error))?);
            let fault = match self.bytes().map_err(Some).and_then(|bytes| self.read(&bytes).map_err(|_| None)) {
                Ok(note) if note.address.ip().is_loopback() && note.host_id != host_id() => {
                    let fault = unreachable(&note);
                    // Time will not mend it, unless the note is an earlier launch's.
                    let (seen, since) = out_of_reach.get_or_insert_with(|| (note.clone(), Instant::now()));
                    if *seen != note {
                        out_of_reach = None;
                    } else if since.elapsed() > PATIENCE {
                        return Err(fault.blame(0).at_rank(rank));
                    }
                    fault
                }
                Ok(note) if note.holds(until) => return Ok(note),
                Ok(note) => Error::new(
                    ErrorKind::Bootstrap,
                    format!(
                        "{} tells of a store at {} (rank 0: pid {} on {}), and none of this group answers there",
                        self.note.display(),
                        note.address,
                        note.pid,
                        note.host
                    ),
                )
                .remedy("see what became of rank 0; where the note is an earlier launch's, rank 0 did not replace it"),
                Err(Some(error)) if error.kind() == io::ErrorKind::NotFound => Error::new(
                    ErrorKind::Bootstrap,
                    format!("rank 0 has left no note in {} (no {})", self.directory.display(), self.name()),
                )
                .remedy(
                    "see what became of rank 0; all ranks need the same directory, RINGFOLD_WORLD_ID and \
                     RINGFOLD_GENERATION",
                ),
                Err(Some(error)) => self.unusable("cannot read the note in", &error),
                Err(None) => {
                    let text = format!("{} is no note of this version's rank 0", self.note.display());
                    Error::new(ErrorKind::Bootstrap, text)
                        .remedy("remove it, and run the same version on every rank")
                }
            };
            let now = Instant::now();
            if now >= until {
                return Err(fault.blame(0).at_rank(rank));
            }
            std::thread::sleep(pause.min(until - now));
            pause = (pause * 2).min(LOOK);
        }
    }

    /// The note's bytes, if they are this user's.
    fn bytes(&self) -> io::Result<Vec<u8>> {
        let file = File::options()
            .read(true)
            .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
            .open(&self.note)?;
        let (owner, mine) = (file.metadata()?.uid(), nix::unistd::geteuid().as_raw());
        if owner != mine {
            let text = format!("{} belongs to user {owner}, and this process to user {mine}", self.name());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        let mut bytes = Vec::new();
        file.take(LONGEST).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn read(&self, bytes: &[u8]) -> std::result::Result<Note, ()> {
        let note: Note = serde_json::from_slice(bytes).map_err(drop)?;
        if note.version == VERSION { Ok(note) } else { Err(()) }
    }

    /// Removes a note that does not hold, and no other: one that has come in its place meanwhile is put back.
    fn take_away(&self, judged: &[u8]) -> io::Result<()> {
        let aside = self.beside("old");
        match fs::rename(&self.note, &aside) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            moved => moved?,
        }
        let _gone = Removed(&aside);
        if fs::read(&aside).is_ok_and(|bytes| bytes != judged) {
            fs::hard_link(&aside, &self.note)?;
        }
        Ok(())
    }

    /// A name in the directory that is nobody else's.
    fn beside(&self, what: &str) -> PathBuf {
        self.directory.join(format!(".{}.{:016x}.{what}", self.name(), fastrand::u64(..)))
    }

    fn name(&self) -> String {
        self.note.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    fn unusable(&self, doing: &str, error: &io::Error) -> Error {
        let text =
            format!("{doing} the directory {} that is to be the store: {error}", self.directory.display());
        Error::new(ErrorKind::Configuration, text).remedy(
            "give RINGFOLD_STORE=file:///path a directory that exists, that all hosts share, and that this user \
             may write to; all ranks run as one user",
        )
    }
}

fn unreachable(note: &Note) -> Error {
    let text = format!(
        "rank 0's store on {} listens on {}, which only its own host reaches",
        note.host, note.address
    );
    Error::new(ErrorKind::Configuration, text).remedy(
        "set RINGFOLD_INTERFACE on every rank to the interface, or the address, that the others reach",
    )
}

fn write_down(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Rank 0's note, which goes when this is dropped.
#[derive(Debug)]
pub(super) struct Announcement {
    place: Place,
    text: Vec<u8>,
}

impl Drop for Announcement {
    fn drop(&mut self) {
        if self.place.bytes().is_ok_and(|bytes| bytes == self.text) {
            let _ = fs::remove_file(&self.place.note);
        }
    }
}

/// A file that goes at the end of a scope.
struct Removed<'a>(&'a Path);

impl Drop for Removed<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.0);
    }
}
