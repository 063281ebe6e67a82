//! Whether processes of this host may read each other's memory, by trying it; and if not, who forbids it.

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::io::IoSliceMut;

/// A number at a place of this process's memory, by which others try whether they may read there.
#[derive(Debug)]
pub struct Landmark(Box<u64>);

/// What a process tells of its [`Landmark`]: where in its memory, and which number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sight(pub u64, pub u64);

impl Default for Landmark {
    fn default() -> Self {
        Landmark(Box::new(fastrand::u64(..)))
    }
}

impl Landmark {
    /// What others have to know. It can be read as long as the landmark is there.
    pub fn sight(&self) -> Sight {
        Sight(std::ptr::from_ref(&*self.0).expose_provenance() as u64, *self.0)
    }
}

impl Sight {
    /// Reads it in this process's memory; else why that may not be.
    ///
    /// # Errors
    /// The reason, in words for people.
    pub fn read(self, pid: u32) -> std::result::Result<(), String> {
        let Err(refused) = self.try_read(pid.cast_signed()) else { return Ok(()) };
        // A process may always look at itself, unless the call is forbidden as such.
        let own = Landmark::default();
        let at_all = own.sight().try_read(std::process::id().cast_signed()).is_ok();
        let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok();
        Err(explain(refused, at_all, scope.and_then(|text| text.trim().parse().ok())))
    }

    /// The number of the error; none where something else is there.
    fn try_read(self, pid: i32) -> std::result::Result<(), Option<Errno>> {
        let Sight(address, number) = self;
        let mut read = [0; 8];
        let from = RemoteIoVec { base: address as usize, len: read.len() };
        match process_vm_readv(Pid::from_raw(pid), &mut [IoSliceMut::new(&mut read)], &[from]) {
            Ok(count) if count == read.len() && u64::from_ne_bytes(read) == number => Ok(()),
            Ok(_) => Err(None),
            Err(error) => Err(Some(error)),
        }
    }
}

/// Who forbids it: from what the system says of another process, whether one may read oneself, and what Yama is set to.
fn explain(refused: Option<Errno>, at_all: bool, ptrace_scope: Option<u32>) -> String {
    match (refused, ptrace_scope) {
        (Some(error), _) if !at_all => format!(
            "process_vm_readv fails even for one's own memory ({error}): a seccomp filter forbids the call, as that of a \
             container does, or the kernel is built without it"
        ),
        (Some(error @ (Errno::EPERM | Errno::EACCES)), Some(scope)) if scope > 0 => format!(
            "kernel.yama.ptrace_scope is {scope} ({error}): set it to 0, or give the processes the capability CAP_SYS_PTRACE"
        ),
        (Some(error @ (Errno::EPERM | Errno::EACCES)), _) => format!(
            "the processes may not trace each other ({error}): they are of two users, or one has more capabilities, or is \
             not dumpable, or a security module forbids it"
        ),
        (Some(Errno::ESRCH | Errno::EFAULT) | None, _) => {
            "its number is another process's here: they are in containers of their own".to_owned()
        }
        (Some(error), _) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_reads_itself_and_sees_where_something_else_is() {
        let landmark = Landmark::default();
        let Sight(address, number) = landmark.sight();
        let own = std::process::id();
        assert_eq!(Sight(address, number).read(own), Ok(()));
        for wrong in [Sight(address, number ^ 1), Sight(8, number)] {
            let why = wrong.read(own).unwrap_err();
            assert!(why.contains("containers"), "{why}");
        }
    }

    #[test]
    fn whoever_forbids_it_is_named() {
        let refused = Some(Errno::EPERM);
        assert!(explain(refused, false, Some(1)).contains("seccomp"));
        assert!(explain(Some(Errno::ENOSYS), false, None).contains("seccomp"));
        assert!(explain(refused, true, Some(1)).contains("ptrace_scope is 1"));
        assert!(explain(refused, true, Some(0)).contains("capabilities"));
        assert!(explain(refused, true, None).contains("capabilities"));
        assert!(explain(Some(Errno::ESRCH), true, Some(1)).contains("containers"));
    }
}
