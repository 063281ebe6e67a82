//! Telling a process from what was forked off it.

use super::{PAGE, Pages};
use nix::sys::mman::{MmapAdvise, madvise};
use std::process;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

/// The process that made this, and not one that was forked off it: asked by one load.
///
/// By a page that the system wipes in a child (`MADV_WIPEONFORK`, Linux 4.14); by asking for the process's number where
/// there is no such page.
#[derive(Debug)]
pub struct Origin {
    page: Option<Pages>,
    pid: u32,
}

impl Origin {
    /// This process.
    pub fn new() -> Self {
        let page = Pages::zeroed(PAGE).ok().filter(|page| {
            // Which knows no such advice, and no children.
            if cfg!(miri) {
                return false;
            }
            let at = NonNull::new(page.address()).expect("a mapping is somewhere");
            // SAFETY: the page is this value's own, and what the advice changes happens in children only.
            let wiped = unsafe { madvise(at.cast(), PAGE, MmapAdvise::MADV_WIPEONFORK) };
            wiped.is_ok()
        });
        let origin = Origin { page, pid: process::id() };
        if let Some(mark) = origin.mark() {
            mark.store(1, Ordering::Relaxed);
        }
        origin
    }

    /// Whether this is the process that made it.
    #[inline]
    pub fn is_here(&self) -> bool {
        match self.mark() {
            Some(mark) => mark.load(Ordering::Relaxed) == 1,
            None => process::id() == self.pid,
        }
    }

    #[inline]
    fn mark(&self) -> Option<&AtomicU8> {
        // SAFETY: the page is mapped as long as this lives, and reached by atomics only.
        self.page.as_ref().map(|page| unsafe { AtomicU8::from_ptr(page.address()) })
    }
}

impl Default for Origin {
    fn default() -> Self {
        Origin::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};

    #[test]
    fn a_child_is_told_from_its_parent() {
        for origin in [Origin::new(), Origin { page: None, ..Origin::new() }] {
            assert!(origin.is_here());
            // SAFETY: the child only looks at the mark and ends.
            match unsafe { fork() }.unwrap() {
                // SAFETY: as above; nothing of the parent's is run.
                ForkResult::Child => unsafe { nix::libc::_exit(i32::from(origin.is_here())) },
                ForkResult::Parent { child } => {
                    assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
                }
            }
            assert!(origin.is_here());
        }
    }
}
