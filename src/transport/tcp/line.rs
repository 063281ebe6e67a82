//! What joins this rank and one peer on one channel.
//!
//! Whoever has something to send and no link yet makes one; whoever has been called first answers on the same link.
//! So two ranks that talk in turn share one connection, where bytes one way carry the acknowledgements of the
//! other way, and a small exchange costs a third less than on two.
//!
//! Two ranks that begin at once make two links. There is no race to settle: both work. But the rank with the lower
//! number leaves its own at the next beginning of a frame: the last that it says there is `Moved`, and so is the first
//! that it says on the other one's. The reader waits at the second for the first, so that no byte overtakes another.

use super::fault::End;
use super::hello::Hello;
use super::link::Link;
use crate::error::Cause;
use crate::transport::{Channel, LinkFault};
use socket2::Socket;
use std::io::IoSlice;

/// See the module's documentation.
pub(super) struct Line {
    pub(super) channel: Channel,
    end: End,
    /// Whether this rank gives up its own link where there are two.
    yields: bool,
    /// The link that this rank has made.
    made: Option<Link>,
    /// The link that the peer has made.
    taken: Option<Link>,
    /// Whether there has been one, since another one cannot be right.
    was_taken: bool,
    sends: Way,
    receives: Move,
    /// Whether payload is waited for here.
    pub(super) wanted: bool,
}

/// Which link this rank sends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// It has not sent yet.
    Open,
    Made,
    /// On the peer's, once the promise to move there has left on its own.
    Moving,
    Taken,
}

/// How far the peer's move to this rank's link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Move {
    /// The link that it has left, if there is one, is not read to the end.
    Not,
    Left,
    /// It has arrived.
    Done,
}

impl Line {
    /// Between `own` and the peer at `end`, without a link.
    pub(super) fn new(channel: Channel, end: End, own: usize) -> Self {
        Line {
            channel,
            end,
            yields: own < end.peer,
            made: None,
            taken: None,
            was_taken: false,
            sends: Way::Open,
            receives: Move::Not,
            wanted: false,
        }
    }

    /// Takes a link that the peer has made, if it may make one.
    pub(super) fn takes(&self) -> bool {
        !self.was_taken
    }

    /// Whether there is a link that this rank has made.
    pub(super) fn has_made(&self) -> bool {
        self.made.is_some()
    }

    /// Takes the link that the peer has made.
    pub(super) fn take(&mut self, end: End, hello: &Hello, socket: Socket) {
        match Link::accepted(end, hello, socket) {
            Ok(link) => (self.taken, self.was_taken) = (Some(link), true),
            Err(fault) => tracing::debug!(fault.detail, "a link cannot be used"),
        }
    }

    /// Sends what can be sent of `data`, and makes a link first where there is none; `hello` is what to say then.
    /// `place` counts the bytes that this thread has given to the kernel.
    pub(super) fn send(
        &mut self,
        hello: &Hello,
        data: &[IoSlice<'_>],
        place: &mut usize,
    ) -> Result<usize, LinkFault> {
        if self.sends != Way::Taken && !self.settle(hello, place)? {
            return Ok(0);
        }
        let link = if self.sends == Way::Taken { &mut self.taken } else { &mut self.made };
        link.as_mut().map_or(Ok(0), |link| link.send(data, place))
    }

    /// Finds the link to send on; whether it can be used yet.
    fn settle(&mut self, hello: &Hello, place: &mut usize) -> Result<bool, LinkFault> {
        match (self.sends, &mut self.made) {
            (Way::Open, _) if self.taken.is_some() => self.sends = Way::Taken,
            (Way::Open, _) => {
                self.made = Some(Link::connect(self.end, &Hello { channel: self.channel, ..*hello })?);
                self.sends = Way::Made;
            }
            (Way::Made, Some(made)) if self.yields && self.taken.is_some() && made.at_boundary() => {
                made.promise_to_move();
                self.sends = Way::Moving;
                return self.settle(hello, place);
            }
            (Way::Moving, Some(made)) => {
                if !made.flushed(place) {
                    return Ok(false);
                }
                self.made.take().into_iter().for_each(|made| made.close(false));
                self.sends = Way::Taken;
                if let Some(taken) = &mut self.taken {
                    taken.promise_to_move();
                    taken.flushed(place);
                }
            }
            _ => {}
        }
        Ok(true)
    }

    /// Receives what is there, at most `into`.
    pub(super) fn recv(&mut self, into: &mut [u8]) -> Result<usize, LinkFault> {
        if let Some(taken) = &mut self.taken {
            let received = taken.recv(into);
            if !taken.moved() || received.as_ref().is_ok_and(|&received| received > 0) {
                return received;
            }
            self.follow(Move::Left)?;
        }
        let Some(made) = &mut self.made else { return Ok(0) };
        let received = made.recv(into);
        if !made.moved() || (self.receives == Move::Not && !self.yields) {
            return received;
        }
        made.resume();
        self.follow(Move::Done)?;
        self.recv(into)
    }

    /// The peer moves to this rank's link: it has said so where it leaves, or where it arrives.
    #[cold]
    fn follow(&mut self, next: Move) -> Result<(), LinkFault> {
        if self.yields || self.made.is_none() || self.receives == Move::Done {
            return Err(self.end.no_frame("a move to a link that there is not"));
        }
        self.receives = next;
        self.taken.take().into_iter().for_each(|taken| taken.close(false));
        Ok(())
    }

    /// Whether [`recv`](Line::recv) has something to give or to say without looking at a socket.
    pub(super) fn ready(&self) -> bool {
        match (&self.taken, &self.made) {
            (Some(taken), _) => taken.ready() || taken.moved(),
            (None, made) => made.as_ref().is_some_and(Link::ready) && !self.awaits_a_straggler(),
        }
    }

    /// The link that this rank sends on, if there is one.
    pub(super) fn sending(&self) -> Option<&Link> {
        match self.sends {
            Way::Open => None,
            Way::Made | Way::Moving => self.made.as_ref(),
            Way::Taken => self.taken.as_ref(),
        }
    }

    /// The link that this rank receives on next, if there is one.
    pub(super) fn receiving(&self) -> Option<&Link> {
        let made = self.made.as_ref().filter(|made| !made.moved() && !self.awaits_a_straggler());
        self.taken.as_ref().or(made)
    }

    /// Whether the peer may still make a link.
    pub(super) fn expects(&self) -> bool {
        !self.was_taken && !self.made.as_ref().is_some_and(Link::used)
    }

    /// Whether the peer has said goodbye on this rank's link, where it never sent anything else: if it has sent something, then on a link
    /// of its own, which is yet to be taken.
    pub(super) fn awaits_a_straggler(&self) -> bool {
        self.expects() && self.made.as_ref().is_some_and(Link::was_left)
    }

    /// All links that there are.
    pub(super) fn links(&self) -> impl Iterator<Item = &Link> {
        self.made.iter().chain(&self.taken)
    }

    /// All links that there are.
    pub(super) fn links_mut(&mut self) -> impl Iterator<Item = &mut Link> {
        self.made.iter_mut().chain(&mut self.taken)
    }

    /// Reads what the peer says beside payload.
    pub(super) fn listen(&mut self) {
        self.links_mut().for_each(Link::listen);
    }

    /// Whether the peer has told of a failure.
    pub(super) fn has_told(&self) -> bool {
        self.links().any(Link::has_told)
    }

    /// What the peer has said of a failure, and whether a link has ended.
    pub(super) fn told(&mut self) -> (Option<Cause>, bool) {
        let mut told = None;
        let mut ended = false;
        for link in self.links_mut() {
            if let Some(cause) = link.told() {
                super::remember(&mut told, cause);
            }
            ended |= link.failed();
        }
        (told, ended)
    }

    /// Says goodbye and closes.
    pub(super) fn close(self, goodbye: bool) {
        self.made.into_iter().chain(self.taken).for_each(|link| link.close(goodbye));
    }
}
