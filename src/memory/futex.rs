//! Sleeping on words of memory that other processes see, and owning one in such a way that the kernel tells of one's end.

use nix::errno::Errno;
use nix::libc;
use nix::time::{ClockId, clock_gettime};
use std::ffi::{c_long, c_void};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// In a word that is [owned](own): its owner wants sleepers to be woken when it ends.
pub(crate) const WAITERS: u32 = 0x8000_0000;
/// The kernel's mark: the thread that owned the word has ended.
pub(crate) const OWNER_DIED: u32 = 0x4000_0000;
/// The bits of a word in which its owner's thread id is.
pub(crate) const OWNER: u32 = 0x3fff_ffff;

/// How many words one call can wait for (`FUTEX_WAITV_MAX`).
const MOST: usize = 128;

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
        rest(Errno::last());
    }
}

/// What follows a sleep that was none.
fn rest(error: Errno) {
    if !matches!(error, Errno::EAGAIN | Errno::EINTR | Errno::ETIMEDOUT) {
        tracing::debug!(%error, "a futex does not wait");
        // Never a loop without a rest, whatever is wrong.
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What the kernel takes for one of several words (`struct futex_waitv`).
#[repr(C)]
#[derive(Clone, Copy)]
struct Waiter {
    seen: u64,
    word: u64,
    flags: u32,
    reserved: u32,
}

/// Sleeps while each of the words is what was seen of it, at most for `limit`; may return for no reason. Returns `false`
/// at once where that cannot be waited for: kernels before 5.16 and some sandboxes have no such call, and nobody has it for
/// more than 128 words.
#[must_use]
pub(crate) fn wait_any(words: &[(&AtomicU32, u32)], limit: Duration) -> bool {
    /// Words of 32 bits; not private, so that other processes' calls count.
    const SHARED_32: u32 = 2;
    if words.is_empty() || words.len() > MOST {
        return false;
    }
    let mut waiters = [Waiter { seen: 0, word: 0, flags: SHARED_32, reserved: 0 }; MOST];
    for (waiter, (word, seen)) in waiters.iter_mut().zip(words) {
        waiter.seen = u64::from(*seen);
        waiter.word = word.as_ptr().expose_provenance() as u64;
    }
    // This call takes the time at which it ends, and takes it with 64 bits everywhere.
    let clock = ClockId::CLOCK_MONOTONIC;
    let Ok(now) = clock_gettime(clock) else { return false };
    let until = Duration::from(now).saturating_add(limit);
    let until = [i64::try_from(until.as_secs()).unwrap_or(i64::MAX), i64::from(until.subsec_nanos())];
    let (count, flags) = (words.len() as libc::c_uint, 0 as libc::c_uint);
    // SAFETY: the words are aligned and mapped as long as the references live; the kernel reads them, `count` waiters, which
    // are there, and the time, and writes nothing.
    let slept = unsafe {
        libc::syscall(
            libc::SYS_futex_waitv,
            waiters.as_ptr(),
            count,
            flags,
            until.as_ptr(),
            libc::clockid_t::from(clock),
        )
    };
    if slept == -1 {
        match Errno::last() {
            // Sandboxes that do not know a call answer with the second.
            Errno::ENOSYS | Errno::EPERM => return false,
            error => rest(error),
        }
    }
    true
}

/// Wakes everybody who sleeps on the word.
pub(crate) fn wake(word: &AtomicU32) {
    // SAFETY: the kernel only takes the address for a name.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, libc::c_int::MAX) };
}

/// One entry of the list of words that the kernel looks through when a thread ends (`struct robust_list`).
#[repr(C)]
struct Entry {
    next: *const Entry,
}

/// Where that list begins (`struct robust_list_head`).
#[repr(C)]
struct Head {
    first: Entry,
    /// How far behind an entry its word is.
    distance: c_long,
    /// An entry on its way into the list or out of it.
    pending: *const Entry,
}

/// Puts a thread's former list back.
struct Former {
    head: *const c_void,
    len: usize,
}

impl Drop for Former {
    fn drop(&mut self) {
        // SAFETY: the kernel only notes the address, which this thread's list had before.
        unsafe { libc::syscall(libc::SYS_set_robust_list, self.head, self.len) };
    }
}

/// Makes the calling thread the owner of a word while `body` runs. Should the thread end before that, by whatever end of
/// its process, the kernel puts [`OWNER_DIED`] in the owner's place and wakes one of those who sleep on the word. It does so
/// before it takes the process's memory down, so at once, however much there is. Whoever runs `body` to its end has to
/// write something else into the word.
///
/// For threads of one's own: robust mutexes of the C library that the thread holds meanwhile are not given up at its end.
///
/// # Errors
/// The system's, where it has no such lists or a sandbox refuses them. Then nothing has happened.
pub(crate) fn own<T>(word: &AtomicU32, body: impl FnOnce() -> T) -> nix::Result<T> {
    let mut former = Former { head: std::ptr::null(), len: 0 };
    // SAFETY: the kernel writes an address and a length of the calling thread's list to the two places.
    let asked =
        unsafe { libc::syscall(libc::SYS_get_robust_list, 0, &raw mut former.head, &raw mut former.len) };
    if asked == -1 {
        let error = Errno::last();
        std::mem::forget(former);
        return Err(error);
    }
    let mut head = Head { first: Entry { next: std::ptr::null() }, distance: 0, pending: std::ptr::null() };
    // A list of one entry, which leads back to the beginning. It is private memory: nobody else can lead the kernel astray.
    let entry = Entry { next: &raw const head.first };
    let distance = word.as_ptr().addr().wrapping_sub((&raw const entry).addr());
    head.distance = distance.cast_signed() as c_long;
    head.first.next = &raw const entry;
    // SAFETY: the kernel notes the address and reads the list when this thread ends. Until `former` is dropped, which
    // precedes the end of `head` and `entry` also where `body` panics, both are there and unchanged, and so is the word, which
    // is borrowed; the kernel writes to it atomically, and only where this thread's id is in it. What the list was before
    // is out of use meanwhile: the C library's own list, which only matters to its robust mutexes. Losing sight of one of
    // those breaks no memory, and the callers' threads, made for this, have none.
    let set =
        unsafe { libc::syscall(libc::SYS_set_robust_list, &raw const head, std::mem::size_of::<Head>()) };
    if set == -1 {
        let error = Errno::last();
        std::mem::forget(former);
        return Err(error);
    }
    // Listed first and owned second: from the moment that others see an owner, they hear of its end.
    word.store(nix::unistd::gettid().as_raw().cast_unsigned() & OWNER | WAITERS, Ordering::SeqCst);
    let result = body();
    drop(former);
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;
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

    #[test]
    fn any_of_several_words_wakes() {
        let words: Vec<AtomicU32> = (0..MOST as u32).map(AtomicU32::new).collect();
        let seen = || -> Vec<(&AtomicU32, u32)> {
            words.iter().map(|word| (word, word.load(Ordering::SeqCst))).collect()
        };
        let long = Duration::from_secs(60);
        let mut stale = seen();
        stale[MOST - 1].1 += 1;
        if !wait_any(&stale, long) {
            assert!(!wait_any(&seen(), long), "a kernel without the call says so each time");
            return;
        }
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(5) {
            assert!(wait_any(&seen(), Duration::from_millis(5)));
        }
        for index in [0, 1, MOST - 1] {
            let before = words[index].load(Ordering::SeqCst);
            thread::scope(|scope| {
                scope.spawn(|| {
                    while words[index].load(Ordering::SeqCst) == before {
                        assert!(wait_any(&seen(), long));
                    }
                });
                thread::sleep(Duration::from_millis(2));
                words[index].fetch_add(1, Ordering::SeqCst);
                wake(&words[index]);
            });
        }
        let more = AtomicU32::new(0);
        let mut too_many = seen();
        too_many.push((&more, 0));
        assert!(!wait_any(&too_many, long));
        assert!(!wait_any(&[], long));
    }

    #[test]
    fn a_word_is_owned_while_the_body_runs() {
        let word = AtomicU32::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                let inside = own(&word, || word.load(Ordering::SeqCst)).unwrap();
                assert_eq!(inside, nix::unistd::gettid().as_raw().cast_unsigned() | WAITERS);
            });
        });
        // The thread has ended, but it was not on its list any more.
        assert_eq!(word.load(Ordering::SeqCst) & OWNER_DIED, 0);
    }

    #[test]
    fn whoever_ends_as_the_owner_is_told_of() {
        /// Ends the thread without a word to anybody, as the end of its process does.
        fn end_the_thread() -> ! {
            // SAFETY: the thread holds nothing, and nobody joins it.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
            unreachable!()
        }
        let word: &AtomicU32 = Box::leak(Box::new(AtomicU32::new(0)));
        thread::spawn(|| own(word, || end_the_thread()));
        let begun = Instant::now();
        loop {
            let seen = word.load(Ordering::SeqCst);
            if seen & OWNER_DIED != 0 {
                assert_eq!(seen, WAITERS | OWNER_DIED);
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{seen:#x}");
            wait(word, seen, Some(Duration::from_secs(1)));
        }
    }
}
