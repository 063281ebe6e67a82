//! The first cause of a group's failure, in the form that ranks tell each other.

use super::{Error, ErrorKind};

/// What happened, in the order in which causes win when several are told of one operation.
///
/// The numbers are the wire's and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum CauseKind {
    /// A process ended without a goodbye.
    PeerDead = 1,
    /// Two ranks asked for different things.
    Mismatch = 2,
    /// A user's function panicked.
    UserPanic = 3,
    /// A rank called abort.
    Abort = 4,
    /// A rank cannot be reached by the network.
    Unreachable = 5,
    /// A rank gives no sign of life.
    Unresponsive = 6,
    /// A rank's deadline passed.
    Deadline = 7,
    /// A rank left while others still needed it.
    Closed = 8,
    /// The library itself panicked on a rank.
    Internal = 9,
}

impl CauseKind {
    /// The kind with this number on the wire.
    pub const fn from_wire(number: u8) -> Option<Self> {
        Some(match number {
            1 => CauseKind::PeerDead,
            2 => CauseKind::Mismatch,
            3 => CauseKind::UserPanic,
            4 => CauseKind::Abort,
            5 => CauseKind::Unreachable,
            6 => CauseKind::Unresponsive,
            7 => CauseKind::Deadline,
            8 => CauseKind::Closed,
            9 => CauseKind::Internal,
            _ => return None,
        })
    }

    /// The kind of error that a rank returns for this cause.
    pub const fn error_kind(self) -> ErrorKind {
        match self {
            CauseKind::PeerDead => ErrorKind::PeerDead,
            CauseKind::Mismatch => ErrorKind::Mismatch,
            CauseKind::UserPanic => ErrorKind::UserPanic,
            CauseKind::Abort => ErrorKind::Aborted,
            CauseKind::Unreachable => ErrorKind::Unreachable,
            CauseKind::Unresponsive => ErrorKind::Unresponsive,
            CauseKind::Deadline => ErrorKind::Deadline,
            CauseKind::Closed => ErrorKind::Closed,
            CauseKind::Internal => ErrorKind::Internal,
        }
    }

    const fn what_to_do(self) -> &'static str {
        match self {
            CauseKind::PeerDead => {
                "look for that process's own last words (a signal, a panic, the kernel's out-of-memory log)"
            }
            CauseKind::Mismatch => {
                "make every rank call the same with matching arguments; RINGFOLD_CHECK=strict finds the first call that differs"
            }
            CauseKind::UserPanic => "mend the function that panicked; its message is above",
            CauseKind::Abort => "nothing here: the abort was asked for",
            CauseKind::Unreachable => "check the network between the two hosts and RINGFOLD_INTERFACE",
            CauseKind::Unresponsive => {
                "see whether that process is stopped or its host is frozen, or raise RINGFOLD_HEARTBEAT"
            }
            CauseKind::Deadline => "find what keeps the named ranks from the call, or raise the deadline",
            CauseKind::Closed => "let every rank make all its calls before it drops its communicator",
            CauseKind::Internal => {
                "drop the communicator, and report what stands on that rank's standard error"
            }
        }
    }
}

/// The first cause of a failure: what happened, in which operation, who is to blame and who says so.
///
/// Causes merge deterministically: see [`Cause::merge`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// The generation of the group.
    pub generation: u32,
    /// The sequence number of the operation in which it was noticed; `u64::MAX` outside of any.
    pub sequence: u64,
    /// What happened.
    pub kind: CauseKind,
    /// The rank that is to blame; [`Cause::STORE`] where it is the store, hosted by a launcher, that was lost.
    pub culprit: usize,
    /// The rank that noticed.
    pub reporter: usize,
    /// The story in words; at most [`Cause::DETAIL_LIMIT`] bytes cross the wire.
    pub detail: String,
}

impl Cause {
    /// How many bytes of [`detail`](Cause::detail) are told to other ranks.
    pub const DETAIL_LIMIT: usize = 512;

    /// The sequence number that stands for "outside of any operation".
    pub const NO_SEQUENCE: u64 = u64::MAX;

    /// The culprit that is no rank: the store of a launcher.
    pub const STORE: usize = u32::MAX as usize;

    /// How far a kind is from the root of a failure: a death is behind everything; then comes what a rank says of
    /// itself; that a link broke or went silent is often its consequence, for who has given up leaves; and that a
    /// link is closed or time is up may always be the consequence of something else.
    fn distance(&self) -> u8 {
        match self.kind {
            CauseKind::PeerDead => 0,
            CauseKind::Mismatch | CauseKind::UserPanic | CauseKind::Abort | CauseKind::Internal => 1,
            CauseKind::Unreachable | CauseKind::Unresponsive => 2,
            CauseKind::Closed | CauseKind::Deadline => 3,
        }
    }

    fn order(&self) -> (u8, u64, CauseKind, usize, usize, &str) {
        (self.distance(), self.sequence, self.kind, self.culprit, self.reporter, &self.detail)
    }

    /// The one of two causes that counts: roots of a failure before consequences, then the lowest sequence number,
    /// then kind, culprit and reporter.
    ///
    /// What is noticed outside of any operation (a death, a panic, an abort) has no sequence number, and its
    /// consequences have; so the sequence number cannot come first.
    pub fn merge(self, other: Cause) -> Cause {
        if self.order() <= other.order() { self } else { other }
    }

    /// The error that a rank returns for this cause.
    pub fn to_error(&self, rank: usize, collective: &'static str, sequence: u64) -> Error {
        self.error(rank).during(collective, sequence)
    }

    /// The same of no call.
    pub(crate) fn error(&self, rank: usize) -> Error {
        let error = Error::new(self.kind.error_kind(), self.detail.clone())
            .at_rank(rank)
            .in_generation(self.generation)
            .remedy(self.kind.what_to_do());
        if self.culprit == Cause::STORE { error } else { error.blame(self.culprit) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(sequence: u64, kind: CauseKind, culprit: usize) -> Cause {
        Cause { generation: 0, sequence, kind, culprit, reporter: 0, detail: String::new() }
    }

    #[test]
    fn merge_is_commutative_and_prefers_the_first_cause() {
        let early = cause(3, CauseKind::Deadline, 2);
        let late = cause(4, CauseKind::Mismatch, 1);
        assert_eq!(early.clone().merge(late.clone()), late, "a deadline may be a consequence");
        assert_eq!(late.clone().merge(early.clone()), late);
        let same = cause(3, CauseKind::Mismatch, 5);
        assert_eq!(late.clone().merge(same.clone()), same);
        let abort = cause(Cause::NO_SEQUENCE, CauseKind::Abort, 6);
        assert_eq!(early.clone().merge(abort.clone()), abort);
        assert_eq!(abort.clone().merge(same.clone()), same);
        let reset = cause(0, CauseKind::Unreachable, 6);
        assert_eq!(reset.clone().merge(abort.clone()), abort, "who aborts also leaves");
        assert_eq!(abort.clone().merge(reset.clone()), abort);
        assert_eq!(early.clone().merge(reset.clone()), reset, "a broken link may be why time was up");
        let dead = cause(Cause::NO_SEQUENCE, CauseKind::PeerDead, 7);
        assert_eq!(same.clone().merge(dead.clone()), dead);
        assert_eq!(dead.clone().merge(same), dead);
    }

    #[test]
    fn wire_numbers_round_trip() {
        for number in 0..=255u8 {
            if let Some(kind) = CauseKind::from_wire(number) {
                assert_eq!(kind as u8, number);
            }
        }
        assert_eq!(CauseKind::from_wire(0), None);
        assert_eq!(CauseKind::from_wire(9), Some(CauseKind::Internal));
        assert_eq!(CauseKind::from_wire(10), None);
    }
}
