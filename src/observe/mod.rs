//! Time, the poison word and counters: what every floor above looks at while it works.

mod poison;
mod time;

pub use poison::Poison;
pub use time::Time;
