//! Claims on devices, which groups of one machine respect.
//!
//! A claim is a lock of the kernel's (`flock`) on a file that is called after the device, in a directory that all groups of a machine
//! know (see [`default_directory`]). A group that takes a device for itself locks its file exclusively, one that shares it shares the lock. The kernel lets go of
//! locks when the process ends, however that happens; so there is no claim of somebody who is gone, and nothing to clean up. The
//! files stay, and are empty. A slice of a GPU also shares the lock of the GPU itself, so that nobody takes the whole beside it.
//!
//! A process that is forked without becoming another program has the locks as well, and where the one that took them is killed,
//! it keeps them until it ends. What it does with its copy of a claim lets go of nothing.

use super::assignment::Assignment;
use super::description::Device;
use super::directory::{Directory, Lock};
use super::inventory::Inventory;
use super::misfit::Misfit;
use super::policy::Sharing;
use crate::error::{Error, ErrorKind, Result};
use nix::fcntl::FlockArg;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The file that is locked while somebody looks what is free and takes it.
const GATE: &str = "gate";
/// How long to wait for others that look or take, which is a matter of microseconds for each.
const LOOKING: Duration = Duration::from_secs(1);

/// The directory where all groups of all users of a machine keep their claims, where none is given by
/// [`Config::device_claims`](crate::Config::device_claims): `/tmp/ringfold-devices`, which whoever comes first makes for everybody.
///
/// Groups see each other's claims only where they share the directory: containers, and services that have a `/tmp` of their own,
/// where one directory is mounted into each of them.
pub fn default_directory() -> PathBuf {
    PathBuf::from("/tmp/ringfold-devices")
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
    _directory: Option<Lock>,
}

impl Claim {
    /// Holds all devices of an assignment, or none of them. The directory is made where it is missing: for all users where it lies right
    /// below a directory that is everybody's, as `/tmp` is, else for this user alone. Does not wait for whoever holds a device, but for others that
    /// are just looking or taking: a second at most.
    ///
    /// # Errors
    /// [`Refusal::Held`] where another group, of this process or another, holds one of them;
    /// [`Refusal::Error`] where the directory cannot be used: it is no directory, another user's alone, or open to others but not
    /// as `/tmp` is (mode 1777); of the kind
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
        // The gate is passed, so nobody who cleans up is in there.
        let kept = directory.keep()?.ok();
        let devices = devices.iter().map(|device| device.key()).collect();
        Ok(Claim { devices, _locks: locks, _directory: kept })
    }

    /// A claim on nothing.
    pub(super) fn none() -> Claim {
        Claim { devices: Vec::new(), _locks: Vec::new(), _directory: None }
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
            is_held(&directory, device, sharing).unwrap_or_else(|error| {
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

/// Held while somebody looks what is free and takes it, so that nobody comes in between.
#[derive(Debug)]
pub(super) struct Gate {
    _lock: Lock,
    _directory: Lock,
}

impl Gate {
    /// Waits for it, `patience` at most.
    pub(super) fn pass(directory: &Path, patience: Duration) -> Result<Gate> {
        let begun = Instant::now();
        loop {
            // Anew each time: who has cleaned up may have taken it away.
            let opened = Directory::open(directory)?;
            let tried = match opened.keep()? {
                Ok(kept) => opened
                    .lock(GATE, FlockArg::LockExclusiveNonblock)
                    .map(|tried| tried.map(|lock| (lock, kept))),
                Err(processes) => Ok(Err(processes)),
            };
            let tried = match tried {
                Err(_) if !directory.exists() && begun.elapsed() < patience => continue,
                tried => tried?,
            };
            match tried {
                Ok((lock, kept)) => return Ok(Gate { _lock: lock, _directory: kept }),
                Err(processes) if begun.elapsed() >= patience => {
                    let holding =
                        Holding { device: format!("the lock of {}", opened.path().display()), processes };
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

fn is_held(directory: &Directory<'_>, device: &Device, sharing: Sharing) -> Result<bool> {
    let held = directory.lock(&device.key(), mode(sharing))?.is_err();
    let parent = device.parent.as_ref().filter(|_| !held);
    parent.map_or(Ok(held), |parent| Ok(directory.lock(parent, FlockArg::LockSharedNonblock)?.is_err()))
}
