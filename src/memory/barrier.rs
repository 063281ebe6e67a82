//! A fence that one thread passes for others, in other processes too.

use nix::libc;

/// The kernel's numbers (`enum membarrier_cmd`).
const GLOBAL_EXPEDITED: libc::c_int = 1 << 1;
const REGISTER_GLOBAL_EXPEDITED: libc::c_int = 1 << 2;
const PRIVATE_EXPEDITED: libc::c_int = 1 << 3;
const REGISTER_PRIVATE_EXPEDITED: libc::c_int = 1 << 4;

fn membarrier(command: libc::c_int) -> bool {
    // Which miri does not know.
    if cfg!(miri) {
        return false;
    }
    // SAFETY: the call takes three numbers, and touches no memory of this process.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
}

/// Lets others pass fences for the threads of this process. `false` where the system has no such thing or a sandbox refuses
/// it.
pub(crate) fn register() -> bool {
    membarrier(REGISTER_GLOBAL_EXPEDITED)
}

/// Passes a full fence on every thread that runs in a process which has [registered](register), this one's included, some
/// microseconds long. What is not running passes one before it runs again.
///
/// Whoever stores, passes this, and loads, needs of the others no more than that they store and then load, in the order of
/// their program, which the compiler has to keep: theirs costs nothing.
pub(crate) fn fence_for_all() -> bool {
    membarrier(GLOBAL_EXPEDITED)
}

/// Lets threads of this process pass fences for each other. `false` where the system has no such thing or a sandbox refuses it.
pub fn register_own() -> bool {
    membarrier(REGISTER_PRIVATE_EXPEDITED)
}

/// Passes a full fence on every thread of this process, which has [registered](register_own); some microseconds long.
pub fn fence_for_own() -> bool {
    membarrier(PRIVATE_EXPEDITED)
}
