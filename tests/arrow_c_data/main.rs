//! Arrow's C interfaces: what comes back as it went out, what is refused and that nothing has changed then, and whose memory it is.
#![cfg(feature = "arrow")]

mod hand;
mod leases;
mod refusals;
mod round_trips;
mod streams;
