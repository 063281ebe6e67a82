//! What is asked of a group: a [`Request`], and the [`Fingerprint`] by which ranks find out that they ask alike.

mod fingerprint;
mod request;

pub(crate) use fingerprint::Footing;
pub use fingerprint::{Difference, Fingerprint};
pub use request::{Collective, Counts, Order, Request};
