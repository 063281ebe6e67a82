//! What has arrived on links that the running operation expects nothing on.
//!
//! Usually that is the first fingerprint of a later operation, from a rank that is ahead; it is kept until its turn.
//! But where ranks disagree on what they do now, the telling bytes may lie on a link that this rank's plan does not
//! use, while it waits on another one for ever. So a rank that is idle for long looks.

use super::state::Trouble;
use crate::collective::Fingerprint;
use crate::transport::{Channel, LinkFault, Transport};

/// First fingerprints that were read before their turn, of the collectives' channel, by peer.
pub(super) struct Knocks {
    heads: Vec<Head>,
}

#[derive(Clone)]
struct Head {
    bytes: [u8; Fingerprint::SIZE],
    len: usize,
}

impl Knocks {
    pub(super) fn new(world: usize) -> Self {
        Knocks { heads: vec![Head { bytes: [0; Fingerprint::SIZE], len: 0 }; world] }
    }

    /// Receives part of a fingerprint: what was read before its turn, then what the transport has.
    pub(super) fn receive(
        &mut self,
        transport: &mut impl Transport,
        from: usize,
        channel: Channel,
        into: &mut [u8],
    ) -> Result<usize, LinkFault> {
        let head = &mut self.heads[from];
        if channel != Channel::COLLECTIVE || head.len == 0 {
            return transport.try_recv(from, channel, into);
        }
        let count = head.len.min(into.len());
        into[..count].copy_from_slice(&head.bytes[..count]);
        head.bytes.copy_within(count.., 0);
        head.len -= count;
        Ok(count)
    }

    /// Looks at the links with peers of whom nothing is `expected`. Finds whoever does something else now, or did
    /// so before; a rank that is ahead is none of this operation's business. Returns whether more has come of a
    /// fingerprint that is not complete: the rest is worth another look soon.
    pub(super) fn look(
        &mut self,
        transport: &mut impl Transport,
        mine: &Fingerprint,
        expected: impl Fn(usize) -> bool,
    ) -> Result<bool, Trouble> {
        let me = transport.rank();
        let mut in_part = false;
        for peer in (0..self.heads.len()).filter(|&peer| peer != me && !expected(peer)) {
            let head = &mut self.heads[peer];
            if head.len < Fingerprint::SIZE {
                // That the link is closed is no fault where nothing is expected.
                let room = &mut head.bytes[head.len..];
                let count = transport.try_recv(peer, Channel::COLLECTIVE, room).unwrap_or(0);
                head.len += count;
                in_part |= count > 0 && head.len < Fingerprint::SIZE;
            }
            if head.len < Fingerprint::SIZE {
                continue;
            }
            let theirs = Fingerprint::decode(&head.bytes).ok_or(Trouble::Garbled { peer })?;
            let comparable = Fingerprint { pair_count: theirs.pair_count, ..*mine };
            if theirs.sequence <= mine.sequence
                && let Some(difference) = comparable.difference(&theirs)
            {
                return Err(Trouble::Mismatch { peer, difference });
            }
        }
        Ok(in_part)
    }
}
