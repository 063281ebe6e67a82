//! Runs plans in memory that the ranks see of each other: the second executor, for plans whose steps copy, fold, signal and
//! wait.
//!
//! It is not a backend of its own but a part of [`planned`](super::planned): operations in shared memory and those by
//! messages are one sequence, with one history, one deadline and one way to fail.
//!
//! - [`program`]: a plan with byte addresses, as it is run;
//! - [`exchange`]: its short form, where there is little to move;
//! - [`state`]: how far the running one is;
//! - `memory::stream`: copies past the caches.
//!
//! Ranks agree before anything is read: every flag carries a hash of the operation's fingerprint, and a rank whose hash
//! differs is named by what it has posted. What is little goes *in line*: the bytes of a slot right behind a flag, in the same line
//! of memory if they fit, which is what one exchange of a cache line costs. It is no other algorithm, but another form of slot.
//!
//! Whether a rank's operands are shared tensors is its own affair. A rank whose are tells the others where, waits until all
//! have told theirs, and then runs the program for shared tensors if all are; else, and on a rank whose are not, the
//! program is the same whatever they are. So those who share nothing wait for nothing.
//!
//! An operation may write where the one before the last did (in line: the fourth before it) when all ranks have ended that. A rank
//! that has heard from all others in the last one knows it: they had begun the last. Else it looks (the *guard*); who shows
//! nothing writes nothing, and need not.

mod exchange;
mod program;
mod state;

pub(super) use program::{Program, Programs};
pub(super) use state::{Direct, Step, Stop};
