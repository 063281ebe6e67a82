//! What an operating-system error on a link means for the group.

use crate::error::CauseKind;
use crate::transport::LinkFault;
use nix::errno::Errno;
use std::io;
use std::net::SocketAddr;

/// The other end of a link, for messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    pub(super) peer: usize,
    pub(super) address: SocketAddr,
}

impl End {
    pub(super) fn fault(&self, kind: CauseKind, detail: impl std::fmt::Display) -> LinkFault {
        LinkFault {
            peer: self.peer,
            kind,
            detail: format!("rank {} at {} {detail}", self.peer, self.address),
        }
    }

    pub(super) fn left(&self) -> LinkFault {
        self.fault(CauseKind::Closed, "left the group")
    }

    pub(super) fn no_frame(&self, why: &str) -> LinkFault {
        self.fault(CauseKind::Unreachable, format_args!("sent bytes that are no frame: {why}"))
    }

    pub(super) fn closed(&self, within_a_frame: bool) -> LinkFault {
        let how = if within_a_frame { "in the middle of a frame" } else { "without a goodbye" };
        self.fault(CauseKind::Closed, format_args!("closed the connection {how}"))
    }

    pub(super) fn error(&self, doing: &str, error: &io::Error) -> LinkFault {
        if starved(error) {
            let detail = format!("cannot be connected to: {NO_DESCRIPTOR} ({error})");
            return self.fault(CauseKind::Unreachable, detail);
        }
        match error.kind() {
            // A death the store knows better: its control link has ended too.
            io::ErrorKind::ConnectionReset => {
                self.fault(CauseKind::Unreachable, format_args!("reset the connection ({doing}: {error})"))
            }
            // The peer had ended its direction before it reset the connection.
            io::ErrorKind::BrokenPipe => self.closed(false),
            io::ErrorKind::ConnectionRefused => {
                // Every listener was there when the group formed: this one has left.
                self.fault(CauseKind::Closed, "has left the group: nothing listens there any more")
            }
            _ => self.fault(CauseKind::Unreachable, format_args!("cannot be reached ({doing}: {error})")),
        }
    }
}

pub(super) const NO_DESCRIPTOR: &str = "this process has no file descriptor left, see `ulimit -n`";

/// Whether the process or the host has run out of what a socket needs.
pub(super) fn starved(error: &io::Error) -> bool {
    const STARVED: [Errno; 4] = [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM];
    error.raw_os_error().is_some_and(|number| STARVED.contains(&Errno::from_raw(number)))
}
