//! Sleeping until something that matters moves.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// What a watched descriptor is to the transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The listener, or a connection without a hello.
    Door,
    /// A link of this peer's line with this number, on which nobody waits for payload.
    Line { peer: usize, index: usize },
    /// The eventfd by which others wake this rank.
    Wake,
    /// Anything that the caller will look at itself.
    Plain,
}

/// The lists of one sleep, kept for the next so that sleeping allocates nothing.
#[derive(Default)]
pub(super) struct Sleeper {
    spare: Vec<PollFd<'static>>,
    roles: Vec<Role>,
    awake: Vec<Role>,
}

/// What to watch for in one sleep.
pub(super) struct Watch<'a> {
    descriptors: Vec<PollFd<'a>>,
    roles: Vec<Role>,
}

impl<'a> Watch<'a> {
    /// Watches for bytes to read and for room to write, as is said, and for its end.
    pub(super) fn add(&mut self, descriptor: BorrowedFd<'a>, bytes: bool, room: bool, role: Role) {
        let mut events = PollFlags::empty();
        events.set(PollFlags::POLLIN, bytes);
        events.set(PollFlags::POLLOUT, room);
        self.descriptors.push(PollFd::new(descriptor, events));
        self.roles.push(role);
    }
}

impl Sleeper {
    /// An empty list to fill.
    pub(super) fn watch<'a>(&mut self) -> Watch<'a> {
        let mut roles = std::mem::take(&mut self.roles);
        roles.clear();
        Watch { descriptors: std::mem::take(&mut self.spare), roles }
    }

    /// Sleeps until one of them moves, a signal comes or `limit` is over. Those which have something to read or
    /// are broken, other than plain ones, are then in [`awake`](Sleeper::awake).
    pub(super) fn sleep(&mut self, mut watch: Watch<'_>, limit: Option<Duration>) {
        self.awake.clear();
        // Any of them may be awake at once, one day.
        self.awake.reserve(watch.roles.capacity());
        match ppoll(&mut watch.descriptors, limit.map(TimeSpec::from_duration), None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => {
                tracing::debug!(%error, "poll failed");
                // Never a loop without a rest, whatever is wrong.
                std::thread::sleep(limit.unwrap_or(Duration::MAX).min(Duration::from_millis(1)));
            }
        }
        for (descriptor, role) in watch.descriptors.iter().zip(&watch.roles) {
            let moved = descriptor.revents().unwrap_or(PollFlags::empty());
            if *role != Role::Plain && moved.intersects(!PollFlags::POLLOUT) {
                self.awake.push(*role);
            }
        }
        self.roles = watch.roles;
        // Empties the list and keeps its memory: collecting in place is what turns the lifetime into another.
        watch.descriptors.clear();
        self.spare = watch.descriptors.into_iter().map_while(|_| None).collect();
    }

    /// One that is awake after [`sleep`](Sleeper::sleep), each once.
    pub(super) fn awake(&mut self) -> Option<Role> {
        self.awake.pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn sleeping_keeps_its_memory() {
        let (a, b) = UnixStream::pair().unwrap();
        let mut sleeper = Sleeper::default();
        let mut places = Vec::new();
        for _ in 0..3 {
            let mut watch = sleeper.watch();
            watch.add(a.as_fd(), true, true, Role::Line { peer: 1, index: 2 });
            watch.add(b.as_fd(), true, false, Role::Door);
            sleeper.sleep(watch, Some(Duration::ZERO));
            assert_eq!(sleeper.awake(), None);
            places.push((sleeper.spare.capacity(), sleeper.spare.as_ptr(), sleeper.roles.as_ptr()));
        }
        assert!(places[0].0 >= 2);
        assert_eq!(places[0], places[1]);
        assert_eq!(places[1], places[2]);
        drop(b);
        let mut watch = sleeper.watch();
        watch.add(a.as_fd(), true, false, Role::Line { peer: 1, index: 2 });
        sleeper.sleep(watch, None);
        assert_eq!(sleeper.awake(), Some(Role::Line { peer: 1, index: 2 }));
        assert_eq!(sleeper.awake(), None);
    }
}
