//! Waiting for sockets and for a word from another thread.

use crate::error::{Error, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

/// An eventfd that other threads ring to interrupt a poll. Ringing never blocks.
#[derive(Debug)]
pub(crate) struct Bell(EventFd);

impl Bell {
    pub(crate) fn new() -> Result<Self> {
        EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map(Bell)
            .map_err(|error| Error::io("making an eventfd", error))
    }

    pub(crate) fn ring(&self) {
        // The only failure is a counter that is full, and then it rings anyway.
        let _ = self.0.write(1);
    }

    pub(crate) fn silence(&self) {
        let _ = self.0.read();
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Polls until something is ready or `until` has come; `None` waits for ever. Interruptions count as "ready".
pub(crate) fn wait(fds: &mut [PollFd<'_>], until: Option<Instant>) {
    const LONGEST: Duration = Duration::from_secs(60);
    // Not in whole milliseconds: how long causes of a death are collected is one.
    let left = until.map(|until| until.saturating_duration_since(Instant::now()).min(LONGEST));
    match ppoll(fds, left.map(TimeSpec::from_duration), None) {
        Ok(_) | Err(Errno::EINTR) => {}
        // Out of memory for the kernel's table: try again a little later instead of spinning.
        Err(_) => std::thread::sleep(Duration::from_millis(10)),
    }
}

/// The point in time that is a duration from now; for durations beyond all clocks, one that never comes.
pub(crate) fn after(duration: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);
    Instant::now() + duration.min(CENTURY)
}

/// What a poll says of one descriptor: anything to read (errors included), room to write.
pub(crate) fn readiness(fd: &PollFd<'_>) -> (bool, bool) {
    let events = fd.revents().unwrap_or(PollFlags::empty());
    let failed = events.intersects(PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL);
    (failed || events.contains(PollFlags::POLLIN), failed || events.contains(PollFlags::POLLOUT))
}

/// How many bytes the peer's kernel has not acknowledged: those of a stopped process are, those sent into a
/// broken network are not.
pub(super) fn unacknowledged(stream: &TcpStream) -> usize {
    let mut count: nix::libc::c_int = 0;
    // SAFETY: the descriptor is open as long as `stream` is borrowed, and TIOCOUTQ writes one int to the address.
    let result = unsafe { nix::libc::ioctl(stream.as_raw_fd(), nix::libc::TIOCOUTQ, &raw mut count) };
    if result == 0 { usize::try_from(count).unwrap_or(0) } else { 0 }
}
