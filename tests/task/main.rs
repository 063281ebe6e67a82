//! Barrier task groups: in threads, as processes, and joined from an engine.
//!
//! Times are limits against hanging: nothing is asserted to be quick, since the machine may be busy.

#[path = "../support/mod.rs"]
mod support;

mod hosts;
mod joined;
mod processes;
mod programs;
mod resources;
mod threads;
