//! The thread that carries the ranks' output: from their pipes, through [`Lines`], to this process's own streams.
//!
//! It may block where the streams' reader does not read; ranks that go on writing then wait in their turn. The
//! thread that watches over the ranks does not.

use super::beside::Beside;
use super::lines::{LONGEST, Lines, Look};
use crate::error::{Error, Result};
use crate::transport::control::{Bell, readiness, wait};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

/// No pipe holds more than this.
const LARGEST_PIPE: usize = 1 << 20;

/// Where a stream goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    Stdout,
    Stderr,
}

/// A stream of a rank.
struct Source {
    pipe: OwnedFd,
    to: To,
    lines: Lines,
}

/// The streams of all ranks, before the thread takes them.
#[derive(Default)]
pub(super) struct Streams(Vec<Source>);

impl Streams {
    /// One more stream.
    pub(super) fn add(&mut self, pipe: OwnedFd, to: To, rank: usize, ranks: usize, look: Look) -> Result<()> {
        let set = |flags: OFlag| fcntl(&pipe, FcntlArg::F_SETFL(flags));
        set(OFlag::O_NONBLOCK).map_err(|error| Error::io("preparing a rank's pipe", error))?;
        self.0.push(Source { pipe, to, lines: Lines::new(rank, ranks, look) });
        Ok(())
    }
}

struct Shared {
    bell: Bell,
    finish: AtomicBool,
}

/// The thread's handle.
pub(super) struct Pump {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

impl Pump {
    pub(super) fn start(streams: Streams, beside: Beside) -> Result<Pump> {
        let shared = Arc::new(Shared { bell: Bell::new()?, finish: AtomicBool::new(false) });
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("ringfold-output".into())
            .spawn(move || run(streams.0, &of_thread, &beside))
            .map_err(|error| Error::io("starting the output's thread", error))?;
        Ok(Pump { shared, thread })
    }

    /// Carries what the pipes hold and ends, even if somebody still has the other end of a pipe.
    pub(super) fn finish(self) {
        self.tell();
        let _ = self.thread.join();
    }

    /// As [`finish`](Pump::finish), without waiting for it.
    pub(super) fn abandon(self) {
        self.tell();
    }

    fn tell(&self) {
        self.shared.finish.store(true, Ordering::Release);
        self.shared.bell.ring();
    }
}

fn run(mut sources: Vec<Source>, shared: &Shared, beside: &Beside) {
    let mut buffer = vec![0; LONGEST];
    let mut out = Vec::new();
    while !sources.is_empty() {
        let until = sources.iter().filter_map(|source| source.lines.due()).min();
        let mut fds = vec![PollFd::new(shared.bell.as_fd(), PollFlags::POLLIN)];
        fds.extend(sources.iter().map(|source| PollFd::new(source.pipe.as_fd(), PollFlags::POLLIN)));
        wait(&mut fds, until);
        let ready: Vec<bool> = fds[1..].iter().map(|fd| readiness(fd).0).collect();
        let finish = shared.finish.load(Ordering::Acquire);
        let mut closed = None;
        let mut index = 0;
        sources.retain_mut(|source| {
            let limit = if finish { LARGEST_PIPE } else { usize::from(ready[index]) };
            index += 1;
            if closed == Some(source.to) {
                return false;
            }
            let goes_on = source.carry(limit, &mut buffer, &mut out) && !finish;
            if !goes_on {
                source.lines.finish(&mut out);
            }
            if !out.is_empty() && beside.write(|| write_all(source.to, &out)).is_err() {
                closed = Some(source.to);
            }
            out.clear();
            goes_on && closed != Some(source.to)
        });
        // Ranks that write to a stream that nobody reads learn it as they would without a launcher.
        sources.retain(|source| closed != Some(source.to));
    }
}

impl Source {
    /// Reads until this many bytes have come or there are no more for now. False at the end of the stream.
    fn carry(&mut self, limit: usize, buffer: &mut [u8], out: &mut Vec<u8>) -> bool {
        let now = Instant::now();
        let mut count = 0;
        while count < limit {
            match nix::unistd::read(&self.pipe, buffer) {
                Ok(0) => return false,
                Ok(length) => {
                    self.lines.push(&buffer[..length], now, out);
                    count += length;
                }
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(_) => return false,
            }
        }
        self.lines.show_draft(now, out);
        true
    }
}

/// Writes whole lines, after what this process itself has said and before what it will say.
fn write_all(to: To, bytes: &[u8]) -> nix::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    match to {
        To::Stdout => {
            let mut stream = io::stdout().lock();
            let _ = stream.flush();
            write_to(stream.as_fd(), bytes)
        }
        To::Stderr => write_to(io::stderr().lock().as_fd(), bytes),
    }
}

fn write_to(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> nix::Result<()> {
    while !bytes.is_empty() {
        match nix::unistd::write(fd, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::EINTR) => {}
            // Somebody who shares the stream has made it non-blocking.
            Err(Errno::EAGAIN) => wait(&mut [PollFd::new(fd, PollFlags::POLLOUT)], None),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
