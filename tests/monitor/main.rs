//! What tasks tell while they run: from a rank over its control link to the store's host, and what `ringfold run` makes of it.
//!
//! Times are limits against hanging: nothing is asserted to be quick, since the machine may be busy.

mod bars;
mod carriage;
mod command;
#[path = "../support/mod.rs"]
mod support;

/// Not a test: what ranks of other tests do. See [`command`].
#[test]
fn rank() {
    command::rank();
}
