//! A round in which the group agrees on a request before any payload moves: strict checks.
//!
//! Dissemination: in step k every rank tells the rank 2^k places on what it has been asked for, and hears from the
//! rank 2^k places back. A rank goes on to the next step only if what it heard equals what it was asked; so after
//! ceil(log2 n) steps every rank knows, through the chain of those it heard from, that all n ranks agree.
//!
//! Source: D. Hensgen, R. Finkel, U. Manber, "Two algorithms for barrier synchronization", Int. J. Parallel
//! Programming 17 (1988), with a fingerprint in place of the signal.

use super::knock::Knocks;
use super::state::{Moved, Trouble, compare};
use crate::collective::Fingerprint;
use crate::transport::{Channel, Direction, Interest, LinkFault, Transport};
use std::io::IoSlice;

/// The progress of one agreement.
pub(super) struct Agreement {
    rank: usize,
    world: usize,
    fingerprint: Fingerprint,
    bytes: [u8; Fingerprint::SIZE],
    distance: usize,
    sent: usize,
    received: usize,
    heard: [u8; Fingerprint::SIZE],
}

impl Agreement {
    pub(super) fn new(rank: usize, world: usize, fingerprint: Fingerprint) -> Self {
        Agreement {
            rank,
            world,
            fingerprint,
            bytes: fingerprint.encode(),
            distance: 1,
            sent: 0,
            received: 0,
            heard: [0; Fingerprint::SIZE],
        }
    }

    fn listener(&self) -> usize {
        (self.rank + self.distance) % self.world
    }

    fn teller(&self) -> usize {
        (self.rank + self.world - self.distance) % self.world
    }

    pub(super) fn interests(&self, interests: &mut Vec<Interest>) {
        let channel = Channel::COLLECTIVE;
        if self.sent < Fingerprint::SIZE {
            interests.push(Interest { peer: self.listener(), channel, direction: Direction::Send });
        }
        if self.received < Fingerprint::SIZE {
            interests.push(Interest { peer: self.teller(), channel, direction: Direction::Receive });
        }
    }

    /// Whether the next bytes from a peer are this round's.
    pub(super) fn expects(&self, peer: usize) -> bool {
        peer == self.teller()
    }

    /// Sends what it can of this rank's fingerprint, also where this rank knows already that something is wrong:
    /// the more ranks hear of it, the better the culprit is known.
    pub(super) fn tell(&mut self, transport: &mut impl Transport) -> Result<bool, LinkFault> {
        if self.sent == Fingerprint::SIZE {
            return Ok(false);
        }
        let rest = [IoSlice::new(&self.bytes[self.sent..])];
        let count = transport.try_send(self.listener(), Channel::COLLECTIVE, &rest)?;
        self.sent += count;
        Ok(count > 0)
    }

    pub(super) fn step(
        &mut self,
        transport: &mut impl Transport,
        knocks: &mut Knocks,
    ) -> Result<Moved, Trouble> {
        let mut moved = self.tell(transport)?;
        if self.received < Fingerprint::SIZE {
            let teller = self.teller();
            let count =
                knocks.receive(transport, teller, Channel::COLLECTIVE, &mut self.heard[self.received..])?;
            self.received += count;
            moved |= count > 0;
            if self.received == Fingerprint::SIZE {
                compare(&self.fingerprint, &self.heard, teller)?;
            }
        }
        if self.sent == Fingerprint::SIZE && self.received == Fingerprint::SIZE {
            self.distance *= 2;
            (self.sent, self.received) = (0, 0);
            return Ok(if self.distance >= self.world { Moved::All } else { Moved::Some });
        }
        Ok(if moved { Moved::Some } else { Moved::None })
    }
}
