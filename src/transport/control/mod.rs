//! The control plane: one small connection from every rank to the store.
//!
//! The [`Server`] gathers small messages while a group forms, and afterwards watches: a rank whose link closes
//! without a goodbye is dead, one that sends nothing for a heartbeat deadline is unresponsive. Whatever happens
//! first, by its own eyes or by a rank's report, it lets settle for [`SETTLE`] ([`SETTLE_DEATH`] where it is a death), merges what it has heard, and tells
//! every rank one and the same verdict. A rank's end is the [`ControlLink`], whose watch thread turns the verdict,
//! or the loss of the store, into poison.
//!
//! ```text
//! rank                           store
//!  | -- hello (128 bytes) -------> |   checked: magic, versions, world id, generation, world size, rank
//!  | <- welcome, or refuse ------- |   a refusal says why in words, then the connection closes
//!  | -- contribute --------------> |   rounds of the all-gather, in order
//!  | <- part (one a rank) -------- |
//!  | -- heartbeat, report -------> |   at any time after the welcome
//!  | <- heartbeat, verdict ------- |
//!  | -- tell --------------------> |   what a rank tells of its work, from version 2 on; the newest counts
//!  | -- ledger ------------------> |   what it has begun of a group's collectives, for comparison, from version 3 on
//!  | -- who is late -------------> |   whom it waits for in a call that cannot be ended, from version 4 on
//!  | <- late --------------------- |
//!  | -- goodbye -----------------> |   whoever closes without one has died
//! ```

mod admission;
mod audit;
mod buffer;
mod ear;
#[doc(hidden)]
pub mod frame;
mod hello;
mod judge;
mod ledger;
mod link;
mod notice;
mod rounds;
mod server;
mod server_loop;
mod tell;
mod watch;

pub use ear::{Ear, Hear};
pub use hello::{Hello, Refusal};
pub use ledger::{Awaited, Ledger};
pub use link::{ControlLink, LinkConfig, Reporter};
pub use server::{Server, ServerConfig};
pub use tell::Source;

pub(crate) use hello::hostname;
pub(crate) use link::lives_at;
pub(crate) use notice::{Bell, after, readiness, wait};

use std::time::Duration;

/// The longest message of one rank in one round, in bytes.
pub const MESSAGE_LIMIT: usize = 64 * 1024;

/// The longest message that a rank tells the store's host, in bytes.
pub const TELL_LIMIT: usize = 16 * 1024;

/// How long a rank waits between two messages to the store's host.
pub const TELL_PAUSE: Duration = Duration::from_millis(100);

/// How long the store collects causes, after the first, before it gives its verdict.
pub const SETTLE: Duration = Duration::from_millis(20);

/// The same once a process has ended: nothing is nearer to the root than that, so it is only for others that end at the
/// same moment.
pub const SETTLE_DEATH: Duration = Duration::from_millis(1);

/// The same while nothing but deadlines is heard of: they pass on one rank after another.
pub const SETTLE_DEADLINE: Duration = Duration::from_millis(150);

/// The same, at most, where ranks ask for different things and it is in doubt which of more than two is the odd one.
pub const SETTLE_DOUBT: Duration = Duration::from_millis(300);

/// The oldest and the newest version of the protocol that this build speaks. Version 2 knows what a rank tells, version 3 ledgers,
/// version 4 who is late; ranks and stores of older ones go without.
pub const VERSIONS: (u16, u16) = (1, 4);
