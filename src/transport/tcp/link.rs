//! A connection between two ranks, seen from either end: what the sending and the receiving half share.

use super::fault::End;
use super::frame::Kind;
use super::hello::Hello;
use super::incoming::{Incoming, drain};
use super::outgoing::{Outgoing, Told};
use crate::error::{Cause, CauseKind};
use crate::transport::LinkFault;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};

/// The congestion controls for links within one host, best first: none needs pacing, and there is nobody to be
/// fair to.
const WITHIN_A_HOST: [&[u8]; 2] = [b"reno", b"cubic"];

/// See the module's documentation.
pub(super) struct Link {
    end: End,
    socket: Socket,
    outgoing: Outgoing,
    incoming: Incoming,
    /// Why nothing can be sent any more, beyond what the peer has said.
    fault: Option<LinkFault>,
}

impl Link {
    /// Begins to connect to `end`, to say `hello` there first. Does not block.
    pub(super) fn connect(end: End, hello: &Hello) -> Result<Self, LinkFault> {
        let failed = |error: io::Error| end.error("connect", &error);
        let domain = Domain::for_address(end.address);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP)).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        match socket.connect(&end.address.into()) {
            Ok(()) => {}
            Err(error) if in_progress(&error) => {}
            Err(error) => return Err(failed(error)),
        }
        prepare(&socket, &end).map_err(failed)?;
        let (there, back) = hello.keys();
        let outgoing = Outgoing::new(there, &hello.encode());
        Ok(Link { end, socket, outgoing, incoming: Incoming::new(end, back), fault: None })
    }

    /// The link that began with `hello`, which came from `end`.
    pub(super) fn accepted(end: End, hello: &Hello, socket: Socket) -> Result<Self, LinkFault> {
        prepare(&socket, &end).map_err(|error| end.error("accept", &error))?;
        let (there, back) = hello.keys();
        let outgoing = Outgoing::new(back, &[]);
        Ok(Link { end, socket, outgoing, incoming: Incoming::new(end, there), fault: None })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether it carries nothing more.
    pub(super) fn failed(&self) -> bool {
        self.fault.is_some() || self.incoming.fault.is_some()
    }

    /// Whether the peer has said goodbye.
    pub(super) fn was_left(&self) -> bool {
        let fault = self.incoming.fault.as_ref().filter(|_| self.incoming.explained);
        fault.is_some_and(|fault| fault.kind == CauseKind::Closed)
    }

    /// Whether the peer has told of a failure.
    pub(super) fn has_told(&self) -> bool {
        self.incoming.told.is_some()
    }

    /// What the peer has told of a failure, once.
    pub(super) fn told(&mut self) -> Option<Cause> {
        self.incoming.told.take()
    }

    /// Sends what can be sent of `data`; how many of its bytes were taken.
    pub(super) fn send(&mut self, data: &[IoSlice<'_>], place: &mut usize) -> Result<usize, LinkFault> {
        if let Some(fault) = self.incoming.fault.as_ref().or(self.fault.as_ref()) {
            return Err(fault.clone());
        }
        self.outgoing.send(&self.socket, data, place).or_else(|error| self.stuck(&error))
    }

    /// After a send that failed: nothing taken where it was only too early, else the fault.
    #[cold]
    fn stuck(&mut self, error: &io::Error) -> Result<usize, LinkFault> {
        if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected) {
            return Ok(0);
        }
        // What the peer said before it closed explains more than the error does; the mere end of it, less.
        self.incoming.listen(&self.socket);
        let fault = match &self.incoming.fault {
            Some(fault) if self.incoming.explained => fault.clone(),
            _ => self.end.error("send", error),
        };
        self.fault = Some(fault.clone());
        Err(fault)
    }

    /// Receives what is there, at most `into`; how many bytes.
    pub(super) fn recv(&mut self, into: &mut [u8]) -> Result<usize, LinkFault> {
        self.incoming.recv(&self.socket, into)
    }

    /// Reads what the peer says beside payload.
    pub(super) fn listen(&mut self) {
        self.incoming.listen(&self.socket);
    }

    /// Whether [`recv`](Link::recv) has something to give or to say without looking at the socket.
    pub(super) fn ready(&self) -> bool {
        self.incoming.ready()
    }

    /// Whether there is use in [`listen`](Link::listen)ing.
    pub(super) fn listens(&self) -> bool {
        !self.incoming.has_payload() && !self.incoming.moved
    }

    /// Whether the peer has ever sent payload here.
    pub(super) fn used(&self) -> bool {
        self.incoming.used
    }

    /// Whether the peer has said that it moves between links. Nothing behind that comes before [`resume`](Link::resume).
    pub(super) fn moved(&self) -> bool {
        self.incoming.moved
    }

    /// Reads on behind the move.
    pub(super) fn resume(&mut self) {
        self.incoming.moved = false;
    }

    /// Whether nothing is promised to the peer that it has not got.
    pub(super) fn at_boundary(&self) -> bool {
        self.outgoing.at_boundary()
    }

    /// Says, at a boundary, that this rank moves between links.
    pub(super) fn promise_to_move(&mut self) {
        self.outgoing.promise(Kind::Moved);
    }

    /// Whether all that was promised has gone. A link that fails promises nothing any more.
    pub(super) fn flushed(&mut self, place: &mut usize) -> bool {
        match self.outgoing.flush(&self.socket, place) {
            Ok(whole) => whole,
            Err(error) => self.stuck(&error).is_err(),
        }
    }

    /// Sends a control frame if that is possible at once.
    pub(super) fn tell(&mut self, kind: Kind, payload: &[u8]) {
        if !self.failed() && self.outgoing.tell(&self.socket, kind, payload) == Told::InPart {
            self.fault = Some(self.end.closed(true));
        }
    }

    /// Says goodbye where a frame may begin, and closes. What was taken is still delivered.
    pub(super) fn close(mut self, goodbye: bool) {
        self.listen();
        if goodbye {
            self.tell(Kind::Goodbye, &[]);
        }
        let _ = self.socket.shutdown(Shutdown::Write);
        // Bytes that nobody has read make the kernel reset the connection, and a reset loses what is under way.
        drain(&self.socket, &mut [0; 8192]);
    }
}

fn prepare(socket: &Socket, end: &End) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let own = socket.local_addr().ok().and_then(|own| own.as_socket());
    if end.address.ip().is_loopback() || own.is_some_and(|own| own.ip() == end.address.ip()) {
        let _ = WITHIN_A_HOST.iter().find(|name| socket.set_tcp_congestion(name).is_ok());
    }
    Ok(())
}

fn in_progress(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::libc::EINPROGRESS)
        || matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

    #[test]
    fn within_a_host_both_ends_do_without_pacing() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let calling = Socket::from(TcpStream::connect(address).unwrap());
        let accepting = Socket::from(listener.accept().unwrap().0);
        let plain = Socket::from(TcpStream::connect(address).unwrap());
        let first = WITHIN_A_HOST.iter().find(|name| plain.set_tcp_congestion(name).is_ok());
        let expected = plain.tcp_congestion().unwrap();
        for socket in [calling, accepting] {
            prepare(&socket, &End { peer: 1, address }).unwrap();
            assert!(socket.tcp_nodelay().unwrap());
            assert_eq!(socket.tcp_congestion().unwrap(), expected, "{first:?} is to be had");
        }
        let far = Socket::from(TcpStream::connect(address).unwrap());
        let before = far.tcp_congestion().unwrap();
        let elsewhere = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 1));
        prepare(&far, &End { peer: 1, address: elsewhere }).unwrap();
        assert_eq!(far.tcp_congestion().unwrap(), before, "what a network needs is the system's to say");
    }
}
