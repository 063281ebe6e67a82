//! Claims on devices, which groups of one machine respect.
//!
//! A claim is a lock of the kernel's (`flock`) on a file that is called after the device, in a directory that all groups of a user
//! know. A group that takes a device for itself locks its file exclusively, one that shares it shares the lock. The kernel lets go of
//! locks when the process ends, however that happens; so there is no claim of somebody who is gone, and nothing to clean up. The
//! files stay, and are empty. A slice of a GPU also shares the lock of the GPU itself, so that nobody takes the whole beside it.
//!
//! A process that is forked without becoming another program has the locks as well, and where the one that took them is killed,
//! it keeps them until it ends. What it does with its copy of a claim lets go of nothing.

use super::assignment::Assignment;
use super::description::Device;
use super::inventory::Inventory;
use super::misfit::Misfit;
use super::policy::Sharing;
use crate::error::{Error, ErrorKind, Result};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::libc;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The file that is locked while somebody looks what is free and takes it.
const GATE: &str = "gate";
/// How long to wait for others that look or take, which is a matter of microseconds for each.
const LOOKING: Duration = Duration::from_secs(1);
/// No name of a file is longer.
const LONGEST: usize = 200;

/// The directory where groups of this user keep their claims: below `runtime` (see
/// [`environment::runtime_directory`](crate::config::environment::runtime_directory)) where that is given and there and this user's,
/// else below the user's own directory in `/run/user`, else one in `/tmp` that has the user's number. What `sudo` has left of
/// another user's environment is passed over, since that user could not use what this one makes there.
///
/// Groups see each other's claims only where they share the directory: containers of one user, where one directory is mounted into
/// each of them and is their `XDG_RUNTIME_DIR`. Users do not share one: it may be entered by its owner alone.
pub fn default_directory(runtime: Option<&Path>) -> PathBuf {
    let user = nix::unistd::geteuid();
    let of_user = PathBuf::from(format!("/run/user/{user}"));
    let own = |path: &Path| fs::metadata(path).is_ok_and(|of| of.is_dir() && of.uid() == user.as_raw());
    match runtime.filter(|runtime| own(runtime)) {
        Some(runtime) => runtime.join("ringfold-devices"),
        None if own(&of_user) => of_user.join("ringfold-devices"),
        None => PathBuf::from(format!("/tmp/ringfold-devices-{user}")),
    }
}

/// A device that another group holds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holding {
    /// What the device is called: see [`Device::key`].
    pub device: String,
    /// The processes that hold it, where the system tells.
    pub processes: Vec<u32>,
}

impl fmt::Display for Holding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let processes: Vec<String> = self.processes.iter().map(u32::to_string).collect();
        match processes.len() {
            0 => write!(f, "{} is held by another group", self.device),
            1 => write!(f, "{} is held by process {}", self.device, processes[0]),
            _ => write!(f, "{} is held by processes {}", self.device, processes.join(", ")),
        }
    }
}

/// Why there are no devices.
#[derive(Debug)]
#[non_exhaustive]
pub enum Refusal {
    /// What is asked for does not fit.
    Misfit(Misfit),
    /// Others hold some of it.
    Held(Vec<Holding>),
    /// Something else went wrong.
    Error(Error),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Misfit(misfit) => misfit.fmt(f),
            Refusal::Held(held) => {
                let held: Vec<String> = held.iter().map(Holding::to_string).collect();
                f.write_str(&held.join("; "))
            }
            Refusal::Error(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Refusal {}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        match refusal {
            Refusal::Misfit(misfit) => misfit.into(),
            Refusal::Held(_) => Error::new(ErrorKind::Unavailable, refusal.to_string()).remedy(
                "wait until they have ended, or ask for other devices; groups that share may use the same",
            ),
            Refusal::Error(error) => error,
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        Refusal::Error(error)
    }
}

impl From<Misfit> for Refusal {
    fn from(misfit: Misfit) -> Refusal {
        Refusal::Misfit(misfit)
    }
}

/// Devices that are held against other groups until this is dropped or the process ends. Send and Sync.
///
/// The process that took it lets go of it, and no other: a copy that is dropped in a forked process leaves the devices held.
#[derive(Debug)]
pub struct Claim {
    devices: Vec<String>,
    _locks: Vec<Lock>,
}

impl Claim {
    /// Holds all devices of an assignment, or none of them. The directory is made where it is missing; only this user may get into it.
    /// Does not wait for whoever holds a device, but for others that
    /// are just looking or taking: a second at most.
    ///
    /// # Errors
    /// [`Refusal::Held`] where another group, of this process or another, holds one of them;
    /// [`Refusal::Error`] where the directory cannot be used: it is somebody else's, others may get into it, or it is no directory; of the kind
    /// [`Deadline`](ErrorKind::Deadline) where somebody has been looking for too long.
    ///
    /// ```
    /// use ringfold::device::{Claim, Inventory, Policy, Refusal, Sharing, TaskRequest, assign};
    /// let directory = std::env::temp_dir().join(format!("ringfold-doc-claims-{}", std::process::id()));
    /// let machine = Inventory::of_addresses("gpu", ["0", "1"])?;
    /// let assignment = assign(&machine, &[TaskRequest::new().amount("gpu", 1.0)], &Policy::default())?;
    /// let claim = Claim::take(&directory, &assignment, Sharing::Exclusive).unwrap();
    /// assert!(matches!(Claim::take(&directory, &assignment, Sharing::Shared), Err(Refusal::Held(_))));
    /// drop(claim);
    /// assert!(Claim::take(&directory, &assignment, Sharing::Shared).is_ok());
    /// # std::fs::remove_dir_all(directory).unwrap();
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    pub fn take(
        directory: &Path,
        assignment: &Assignment,
        sharing: Sharing,
    ) -> std::result::Result<Claim, Refusal> {
        let _gate = Gate::pass(directory, LOOKING)?;
        Claim::take_inside(directory, assignment, sharing)
    }

    /// The same by whoever has passed the gate.
    pub(super) fn take_inside(
        directory: &Path,
        assignment: &Assignment,
        sharing: Sharing,
    ) -> std::result::Result<Claim, Refusal> {
        let directory = Directory::open(directory)?;
        // In the order of their names, which is the same for everybody.
        let mut wanted: BTreeMap<String, FlockArg> = BTreeMap::new();
        let devices = assignment.devices();
        for device in &devices {
            wanted.insert(device.key(), mode(sharing));
            if let Some(parent) = &device.parent {
                wanted.entry(parent.clone()).or_insert(FlockArg::LockSharedNonblock);
            }
        }
        let (mut locks, mut held) = (Vec::new(), Vec::new());
        for (key, how) in wanted {
            match directory.lock(&key, how)? {
                Ok(lock) => locks.push(lock),
                Err(processes) => held.push(Holding { device: key, processes }),
            }
        }
        if !held.is_empty() {
            return Err(Refusal::Held(held));
        }
        Ok(Claim { devices: devices.iter().map(|device| device.key()).collect(), _locks: locks })
    }

    /// A claim on nothing.
    pub(super) fn none() -> Claim {
        Claim { devices: Vec::new(), _locks: Vec::new() }
    }

    /// What it holds: see [`Device::key`].
    pub fn devices(&self) -> &[String] {
        &self.devices
    }

    /// Says of every device of an inventory whether others hold it so that it could not be taken. What is free may be
    /// taken the moment after: [`allot`](super::allot) keeps others from that.
    ///
    /// # Errors
    /// As [`take`](Claim::take).
    pub fn mark(directory: &Path, inventory: &mut Inventory, sharing: Sharing) -> Result<()> {
        let _gate = Gate::pass(directory, LOOKING)?;
        Claim::mark_inside(directory, inventory, sharing)
    }

    /// The same by whoever has passed the gate.
    pub(super) fn mark_inside(directory: &Path, inventory: &mut Inventory, sharing: Sharing) -> Result<()> {
        let directory = Directory::open(directory)?;
        let mut failed = None;
        inventory.mark_held(|device| {
            directory.is_held(device, sharing).unwrap_or_else(|error| {
                failed = Some(error);
                true
            })
        });
        failed.map_or(Ok(()), Err)
    }
}

fn mode(sharing: Sharing) -> FlockArg {
    match sharing {
        Sharing::Exclusive => FlockArg::LockExclusiveNonblock,
        Sharing::Shared => FlockArg::LockSharedNonblock,
    }
}

/// A lock of the process that took it. A forked process has the same lock by a descriptor of its own, by which it could be
/// unlocked for both: there it is closed only.
#[derive(Debug)]
struct Lock {
    process: u32,
    file: Option<Flock<File>>,
}

impl Lock {
    fn new(file: Flock<File>) -> Lock {
        Lock { process: std::process::id(), file: Some(file) }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let Some(file) = self.file.take() else { return };
        if self.process == std::process::id() {
            drop(file);
        } else {
            // Its own end would unlock; the descriptor is this process's, and nobody uses it after this.
            let _ = nix::unistd::close(file.as_raw_fd());
            std::mem::forget(file);
        }
    }
}

/// Held while somebody looks what is free and takes it, so that nobody comes in between.
#[derive(Debug)]
pub(super) struct Gate {
    _lock: Lock,
}

impl Gate {
    /// Waits for it, `patience` at most.
    pub(super) fn pass(directory: &Path, patience: Duration) -> Result<Gate> {
        let until = Instant::now() + patience;
        let opened = Directory::open(directory)?;
        loop {
            match opened.lock(GATE, FlockArg::LockExclusiveNonblock)? {
                Ok(lock) => return Ok(Gate { _lock: lock }),
                Err(processes) if Instant::now() >= until => {
                    let holding =
                        Holding { device: format!("the lock of {}", directory.display()), processes };
                    return Err(Error::new(
                        ErrorKind::Deadline,
                        format!("{holding}, for {patience:?} already"),
                    )
                    .remedy("see whether that process is stopped; end it, or let it go on"));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }
}

/// A directory of claims that is fit for it.
struct Directory<'a>(&'a Path);

impl Directory<'_> {
    fn open(path: &Path) -> Result<Directory<'_>> {
        let shown = path.display();
        let cannot =
            |error: io::Error| Error::io(format!("the directory {shown} for claims on devices"), error);
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(cannot)?;
        let of = fs::symlink_metadata(path).map_err(cannot)?;
        let user = nix::unistd::geteuid().as_raw();
        let wrong = if !of.is_dir() {
            "is no directory of its own".to_owned()
        } else if of.uid() != user {
            format!("is user {}'s, and this is user {user}", of.uid())
        } else if of.mode() & 0o077 != 0 {
            format!("can be entered by others: its mode is {:o}", of.mode() & 0o777)
        } else {
            return Ok(Directory(path));
        };
        Err(Error::new(ErrorKind::Configuration, format!("{shown}, for claims on devices, {wrong}"))
            .remedy("give a directory of this user's own with mode 700, or remove that one"))
    }

    /// Locks a device's file; or the processes that hold it.
    fn lock(&self, key: &str, how: FlockArg) -> Result<std::result::Result<Lock, Vec<u32>>> {
        let path = self.0.join(format!("{}.lock", file_name(key)));
        let cannot = |error: io::Error| Error::io(format!("locking {}", path.display()), error);
        let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags);
        let mut file = options.open(&path).map_err(cannot)?;
        loop {
            match Flock::lock(file, how) {
                Ok(lock) => return Ok(Ok(Lock::new(lock))),
                Err((again, Errno::EINTR)) => file = again,
                Err((file, Errno::EWOULDBLOCK)) => return Ok(Err(holders(&file))),
                Err((_, error)) => return Err(cannot(error.into())),
            }
        }
    }

    fn is_held(&self, device: &Device, sharing: Sharing) -> Result<bool> {
        let held = self.lock(&device.key(), mode(sharing))?.is_err();
        let parent = device.parent.as_ref().filter(|_| !held);
        parent.map_or(Ok(held), |parent| Ok(self.lock(parent, FlockArg::LockSharedNonblock)?.is_err()))
    }
}

/// A name of a file for a key: what could mean something to the file system is written as a number.
fn file_name(key: &str) -> String {
    let mut name = String::new();
    for byte in key.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => name.push(byte as char),
            _ => name.push_str(&format!("%{byte:02x}")),
        }
    }
    if name.len() > LONGEST {
        name.truncate(LONGEST - 17);
        name.push_str(&format!("%{:016x}", crate::config::environment::fnv1a(key.as_bytes())));
    }
    name
}

/// The processes that have a lock on a file, as the kernel's list tells: none where it does not.
fn holders(file: &File) -> Vec<u32> {
    let Ok(of) = file.metadata() else { return Vec::new() };
    let (major, minor) = (libc::major(of.dev()), libc::minor(of.dev()));
    let file = format!("{major:02x}:{minor:02x}:{}", of.ino());
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let of_line = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let at = words.iter().position(|&word| word == "FLOCK")?;
        (words.get(at + 4) == Some(&&*file)).then(|| words.get(at + 3)?.parse().ok())?
    };
    let mut processes: Vec<u32> = locks.lines().filter_map(of_line).filter(|&process| process > 0).collect();
    processes.sort_unstable();
    processes.dedup();
    processes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_are_harmless_and_different() {
        assert_eq!(file_name("GPU-8932f937"), "GPU-8932f937");
        assert_eq!(file_name("../a b"), "%2e%2e%2fa%20b");
        let (one, other) = ("x".repeat(300) + "1", "x".repeat(300) + "2");
        assert!(file_name(&one).len() <= LONGEST && file_name(&one) != file_name(&other));
    }
}
