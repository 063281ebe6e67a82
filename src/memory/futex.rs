//! Sleeping on a word of memory that other processes see.

use nix::errno::Errno;
use nix::libc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

/// Sleeps while the word is `seen`, at most for `limit`; may return for no reason.
pub(crate) fn wait(word: &AtomicU32, seen: u32, limit: Option<Duration>) {
    let limit = limit.map(|limit| libc::timespec {
        tv_sec: libc::time_t::try_from(limit.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: limit.subsec_nanos() as libc::c_long,
    });
    let pointer = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the word is aligned and mapped as long as the reference lives, and the kernel only reads it and the time.
    let slept = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, seen, pointer) };
    if slept == -1 {
        let error = Errno::last();
        if !matches!(error, Errno::EAGAIN | Errno::EINTR | Errno::ETIMEDOUT) {
            tracing::debug!(%error, "a futex does not wait");
            // Never a loop without a rest, whatever is wrong.
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Wakes everybody who sleeps on the word.
pub(crate) fn wake(word: &AtomicU32) {
    // SAFETY: the kernel only takes the address for a name.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, libc::c_int::MAX) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;
    use std::thread;
    use std::time::Instant;

    #[test]
    fn sleepers_wake_by_time_and_by_call() {
        let word = AtomicU32::new(1);
        wait(&word, 0, None);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(5) {
            wait(&word, 1, Some(Duration::from_millis(5)));
        }
        thread::scope(|scope| {
            scope.spawn(|| {
                while word.load(Ordering::SeqCst) == 1 {
                    wait(&word, 1, None);
                }
            });
            thread::sleep(Duration::from_millis(5));
            word.store(2, Ordering::SeqCst);
            wake(&word);
        });
    }
}
