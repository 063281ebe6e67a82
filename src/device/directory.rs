//! The directory where groups keep their claims: one file for each device, which is locked and otherwise empty.
//!
//! Users of a machine who share its devices share a directory, so files that others have made are opened and locked as well. No
//! more than that is asked of them, and nothing is taken from them: a directory for everybody is sticky, so that only its owner can
//! take another's file away; files are made where there is none and else only read, since systems refuse to "create" what another
//! user already has there (`fs.protected_regular`); links are not followed; and all is done beneath one open directory, whatever becomes
//! of its name. Whoever may enter the directory can hold any device by that, as with a program that uses it.
//!
//! Whoever holds a device also shares a lock on the directory, by which what cleans up old files in `/tmp` knows that it is in use.

use crate::error::{Error, ErrorKind, Result};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, fchmod, fstat, fstatat};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

/// No name of a file is longer.
const LONGEST: usize = 200;
/// What a directory for everybody has for a mode: as `/tmp`.
const EVERYBODY: u32 = 0o1777;
/// Somebody else may just be making what is looked at: how often to look again, and after what time.
const LOOKS: (u32, Duration) = (50, Duration::from_millis(2));

/// A lock of the process that took it. A forked process has the same lock by a descriptor of its own, by which it could be
/// unlocked for both: there it is closed only.
#[derive(Debug)]
pub(super) struct Lock {
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

/// What became of a try to lock: the lock, or the processes that have it.
pub(super) type Tried = std::result::Result<Lock, Vec<u32>>;

/// A directory of claims that is fit for it, open.
pub(super) struct Directory<'a> {
    path: &'a Path,
    open: File,
}

impl Directory<'_> {
    /// Opens it, and makes it where it is missing: for everybody right below a directory that is everybody's, as `/tmp` is, and for this
    /// user alone elsewhere.
    pub(super) fn open(path: &Path) -> Result<Directory<'_>> {
        let cannot = |error: io::Error| {
            Error::io(format!("the directory {} for claims on devices", path.display()), error)
        };
        let everybodys = parent_is_everybodys(path);
        let mode = if everybodys { EVERYBODY } else { 0o700 };
        let (mut looks, mut made) = (0, false);
        loop {
            match fs::symlink_metadata(path) {
                Ok(of) if !of.is_dir() => return Err(unfit(path, "is no directory of its own")),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let made_now = DirBuilder::new().recursive(!everybodys).mode(mode).create(path);
                    match made_now {
                        Ok(()) => made = true,
                        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                        Err(error) => return Err(cannot(error)),
                    }
                }
                _ => {}
            }
            let opened = match open_directory(path) {
                Ok(opened) => opened,
                // Somebody has cleaned up.
                Err(error) if error.kind() == io::ErrorKind::NotFound && looks < LOOKS.0 => {
                    looks += 1;
                    continue;
                }
                Err(error) => return Err(cannot(error)),
            };
            let of = fstat(&opened).map_err(|error| cannot(error.into()))?;
            let user = nix::unistd::geteuid().as_raw();
            // What the mask of a process of this user's took of the mode is given back, to what was made just now, or where it is known
            // for whom it was made.
            let is_sticky = of.st_mode & EVERYBODY & !0o777 != 0;
            let for_all = made || path == super::default_directory();
            if everybodys && of.st_uid == user && is_sticky && for_all {
                fchmod(&opened, Mode::from_bits_truncate(EVERYBODY)).map_err(|error| cannot(error.into()))?;
                return Ok(Directory { path, open: opened });
            }
            match judge(&of, user) {
                Ok(()) => return Ok(Directory { path, open: opened }),
                Err(wrong) if !everybodys || looks == LOOKS.0 => return Err(unfit(path, &wrong)),
                Err(_) => std::thread::sleep(LOOKS.1),
            }
            looks += 1;
        }
    }

    pub(super) fn path(&self) -> &Path {
        self.path
    }

    /// Keeps others from cleaning the directory up; or the processes that are about to.
    pub(super) fn keep(&self) -> Result<Tried> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let again = openat(&self.open, ".", flags, Mode::empty());
        let again = again.map_err(|error| self.cannot("its own", error.into()))?.into();
        self.lock_file(again, "its own", FlockArg::LockSharedNonblock)
    }

    /// Locks a device's file; or the processes that hold it.
    pub(super) fn lock(&self, key: &str, how: FlockArg) -> Result<Tried> {
        let name = format!("{}.lock", file_name(key));
        loop {
            let tried = self.lock_file(self.file(&name)?, &name, how)?;
            let Ok(Lock { file: Some(locked), .. }) = &tried else { return Ok(tried) };
            // What was taken away between opening and locking is nobody's lock.
            let there = match fstatat(&self.open, &*name, nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(there) => there,
                Err(Errno::ENOENT) => continue,
                Err(error) => return Err(self.cannot(&name, error.into())),
            };
            let of = fstat(&**locked).map_err(|error| self.cannot(&name, error.into()))?;
            if (of.st_dev, of.st_ino) == (there.st_dev, there.st_ino) {
                return Ok(tried);
            }
        }
    }

    /// A device's file, made where there is none, whoever has made it.
    fn file(&self, name: &str) -> Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let readable = Mode::from_bits_truncate(0o444);
        let mut looks = 0;
        loop {
            match openat(&self.open, name, flags, Mode::empty()) {
                Err(Errno::ENOENT) => {
                    match openat(&self.open, name, flags | OFlag::O_CREAT | OFlag::O_EXCL, readable) {
                        Err(Errno::EEXIST) => {}
                        made => {
                            let made = made.map_err(|error| self.cannot(name, error.into()))?;
                            fchmod(&made, readable).map_err(|error| self.cannot(name, error.into()))?;
                            return Ok(made.into());
                        }
                    }
                }
                // Somebody is between making it and letting others read it.
                Err(Errno::EACCES) if looks < LOOKS.0 => std::thread::sleep(LOOKS.1),
                opened => {
                    let opened = opened.map_err(|error| self.cannot(name, error.into()))?;
                    // Who was killed between making it and letting others read it was this user.
                    let of = fstat(&opened).map_err(|error| self.cannot(name, error.into()))?;
                    if of.st_uid == nix::unistd::geteuid().as_raw() && of.st_mode & 0o444 != 0o444 {
                        fchmod(&opened, readable).map_err(|error| self.cannot(name, error.into()))?;
                    }
                    return Ok(opened.into());
                }
            }
            looks += 1;
        }
    }

    fn lock_file(&self, mut file: File, name: &str, how: FlockArg) -> Result<Tried> {
        loop {
            match Flock::lock(file, how) {
                Ok(lock) => return Ok(Ok(Lock::new(lock))),
                Err((again, Errno::EINTR)) => file = again,
                Err((file, Errno::EWOULDBLOCK)) => return Ok(Err(holders(&file))),
                Err((_, error)) => return Err(self.cannot(name, error.into())),
            }
        }
    }

    fn cannot(&self, name: &str, error: io::Error) -> Error {
        Error::io(format!("locking {} for a claim on a device", self.path.join(name).display()), error)
    }
}

fn open_directory(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(nix::fcntl::open(path, flags, Mode::empty())?.into())
}

/// Whether the directory above is one that everybody may make files in, and nobody may take others' files from.
fn parent_is_everybodys(path: &Path) -> bool {
    let of = path.parent().map(fs::metadata);
    of.is_some_and(|of| of.is_ok_and(|of| of.mode() & EVERYBODY == EVERYBODY))
}

/// Whether claims can be kept in such a directory, or why not.
fn judge(of: &FileStat, user: u32) -> std::result::Result<(), String> {
    let mode = of.st_mode & 0o7777;
    if mode & EVERYBODY == EVERYBODY {
        Ok(())
    } else if of.st_uid != user {
        Err(format!("is user {}'s, and this is user {user}", of.st_uid))
    } else if mode & 0o077 != 0 {
        Err(format!("is neither one user's nor everybody's: its mode is {mode:o}"))
    } else {
        Ok(())
    }
}

fn unfit(path: &Path, wrong: &str) -> Error {
    let text = format!("{}, for claims on devices, {wrong}", path.display());
    Error::new(ErrorKind::Configuration, text)
        .remedy("give a directory of this user's own with mode 700 or one for all users with mode 1777 by RINGFOLD_DEVICE_CLAIMS, or remove that one")
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
    let (major, minor) = (nix::libc::major(of.dev()), nix::libc::minor(of.dev()));
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
