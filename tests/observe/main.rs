//! What can be seen of a communicator: its counters, its spans and events, its traces.

mod counters;
mod spans;
mod traces;

#[path = "../support/mod.rs"]
mod support;

/// Not a test: what ranks of other tests do. See [`traces`].
#[test]
fn rank() {
    traces::rank();
}
