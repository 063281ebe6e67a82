//! Groups of tasks.

pub mod monitor;
