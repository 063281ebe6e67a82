//! One mapping for all who map a segment in a process: in builds for the thread sanitizer (`--cfg ringfold_tsan`), and
//! nowhere else.
//!
//! Ranks that are threads of one process map their segment once each. What they do to one byte happens at as many addresses,
//! so a sanitizer sees neither that they meet there nor what orders them. In such a build whoever maps a segment
//! again is given the mapping that is there; the last who lets go unmaps it. The list of them is the process's, which
//! nothing else could be.

use crate::error::{Error, Result};
use nix::sys::stat::fstat;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A file: its device and its number there.
type File = (u64, u64);

/// Where a file is mapped, and by how many.
type Mapping = (usize, usize);

static MAPPINGS: Mutex<BTreeMap<File, Mapping>> = Mutex::new(BTreeMap::new());

fn file(descriptor: &OwnedFd) -> Result<File> {
    let stat = fstat(descriptor).map_err(|error| Error::io("asking which file shared memory is", error))?;
    Ok((stat.st_dev, stat.st_ino))
}

fn mappings() -> MutexGuard<'static, BTreeMap<File, Mapping>> {
    MAPPINGS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The mapping that there is of a file, or one that is made now.
pub(super) fn of(descriptor: &OwnedFd, make: impl FnOnce() -> Result<NonNull<u8>>) -> Result<NonNull<u8>> {
    let file = file(descriptor)?;
    let mut mappings = mappings();
    if let Some((at, count)) = mappings.get_mut(&file) {
        *count += 1;
        return Ok(NonNull::new(std::ptr::with_exposed_provenance_mut(*at)).expect("it is somewhere"));
    }
    let at = make()?;
    mappings.insert(file, (at.as_ptr().expose_provenance(), 1));
    Ok(at)
}

/// Lets go of a file's mapping; whether nobody has it any more.
pub(super) fn let_go(descriptor: &OwnedFd) -> bool {
    let Ok(file) = file(descriptor) else { return false };
    let mut mappings = mappings();
    let Some((_, count)) = mappings.get_mut(&file) else { return true };
    *count -= 1;
    let last = *count == 0;
    if last {
        mappings.remove(&file);
    }
    last
}
