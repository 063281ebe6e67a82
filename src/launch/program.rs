//! Finding the program before anything is forked, and saying what is wrong with one that cannot be executed.

use super::StartError;
use crate::error::Error;
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Where programs are where there is no `PATH`, as the C library has it.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// A program's path: as it is where it has a slash, else by the directories of `PATH`, the first in which it may be
/// executed. The errors are those of `execvp`.
pub(super) fn find(program: &OsStr, path: Option<&OsStr>) -> Result<PathBuf, Errno> {
    if program.as_bytes().contains(&b'/') {
        return check(Path::new(program)).map(|()| program.into());
    }
    let mut found = Errno::ENOENT;
    for directory in path.unwrap_or(OsStr::new(DEFAULT_PATH)).as_bytes().split(|&byte| byte == b':') {
        // An empty one is the working directory.
        let directory = if directory.is_empty() { b"." } else { directory };
        let candidate = Path::new(OsStr::from_bytes(directory)).join(program);
        match check(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(Errno::EACCES) => found = Errno::EACCES,
            Err(_) => {}
        }
    }
    Err(found)
}

/// Whether a file may be executed, as far as that can be told without doing it.
fn check(path: &Path) -> Result<(), Errno> {
    let file = path.metadata().map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
    // A directory has the permission, too, and means another thing by it.
    if file.is_file() { access(path, AccessFlags::X_OK) } else { Err(Errno::EACCES) }
}

/// What to say where a program cannot be started.
pub(super) fn cannot_start(program: &OsString, doing: String, errno: Errno) -> StartError {
    let program = program.to_string_lossy();
    let told = Error::io(doing, io::Error::from(errno));
    let (reason, told) = match errno {
        Errno::ENOENT if program.contains('/') => {
            let remedy = "check the path, and that the interpreter in its first line is there";
            (Some(io::ErrorKind::NotFound), told.remedy(remedy))
        }
        Errno::ENOENT => {
            let remedy = format!("give its path (./{program}), or add its directory to PATH");
            (Some(io::ErrorKind::NotFound), told.remedy(remedy))
        }
        Errno::EACCES => (Some(io::ErrorKind::PermissionDenied), told.remedy(format!("chmod +x {program}"))),
        Errno::ENOEXEC => {
            let remedy = "give a program of this machine, or a script whose first line names its interpreter";
            (Some(io::ErrorKind::PermissionDenied), told.remedy(remedy))
        }
        Errno::E2BIG => {
            let remedy = "give shorter arguments and variables: each has to be below 128 KiB, and all of them \
                          below a quarter of the limit of the stack (ulimit -s)";
            (None, told.remedy(remedy))
        }
        Errno::EMFILE | Errno::ENFILE => {
            (None, told.remedy("start fewer ranks, or raise the limit of open files (ulimit -n)"))
        }
        Errno::EAGAIN | Errno::ENOMEM => {
            (None, told.remedy("start fewer ranks, or raise the limit of processes (ulimit -u)"))
        }
        _ => (None, told),
    };
    StartError { error: told, reason, transient: is_transient(errno) }
}

/// Whether what the system refuses for this reason may be granted a little later.
pub(super) fn is_transient(errno: Errno) -> bool {
    use Errno::{EAGAIN, EINTR, EMFILE, ENFILE, ENOMEM, ETXTBSY};
    [EAGAIN, EINTR, EMFILE, ENFILE, ENOMEM, ETXTBSY].contains(&errno)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn programs_are_found_as_execvp_finds_them() {
        let place = std::env::temp_dir().join(format!("ringfold-find-{}", std::process::id()));
        let in_place = |name: &str| place.join(name);
        for directory in ["one", "two/tool", "three"] {
            fs::create_dir_all(in_place(directory)).unwrap();
        }
        for (file, mode) in [("one/tool", 0o644), ("three/tool", 0o755), ("one/plain", 0o644)] {
            fs::write(in_place(file), "").unwrap();
            fs::set_permissions(in_place(file), fs::Permissions::from_mode(mode)).unwrap();
        }
        let path = ["one", "two", "nowhere", "three"].map(|name| in_place(name).into_os_string());
        let path = path.join(OsStr::new(":"));
        let find = |program: &str| find(OsStr::new(program), Some(&path));
        assert_eq!(find("tool").unwrap(), in_place("three/tool"), "past a plain file and a directory");
        assert_eq!((find("plain"), find("none")), (Err(Errno::EACCES), Err(Errno::ENOENT)));
        let by_path = |name: &str| find(in_place(name).to_str().unwrap());
        assert_eq!(by_path("three/tool").unwrap(), in_place("three/tool"));
        assert_eq!(by_path("one/tool"), Err(Errno::EACCES));
        assert_eq!(by_path("two/tool"), Err(Errno::EACCES));
        assert_eq!((by_path("none"), by_path("one/tool/x")), (Err(Errno::ENOENT), Err(Errno::ENOTDIR)));
        assert_eq!(find("./none"), Err(Errno::ENOENT));
        assert_eq!(super::find(OsStr::new("sh"), None).unwrap(), Path::new("/bin/sh"));
        fs::remove_dir_all(place).unwrap();
    }
}
