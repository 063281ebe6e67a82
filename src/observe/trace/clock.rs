//! The clock of traces: the system's monotonic one, which all processes of a host share.

use nix::time::{ClockId, clock_gettime};

fn nanos(clock: ClockId) -> i64 {
    // These clocks exist on every system that this crate builds on.
    clock_gettime(clock).map_or(0, |time| time.tv_sec() * 1_000_000_000 + time.tv_nsec())
}

/// Nanoseconds since the clock's origin.
pub(super) fn now() -> u64 {
    nanos(ClockId::CLOCK_MONOTONIC) as u64
}

/// What the wall clock showed at that origin, in ns since 1970.
pub(super) fn wall_origin() -> i64 {
    nanos(ClockId::CLOCK_REALTIME) - nanos(ClockId::CLOCK_MONOTONIC)
}

/// The same text for processes with the same clock: a boot of a kernel, and its namespace of time.
pub(super) fn identity() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    // Without it, a clock is taken to be its process's own.
    let boot = boot.unwrap_or_else(|_| format!("process {} {}", std::process::id(), fastrand::u64(..)));
    let namespace = std::fs::read_link("/proc/self/ns/time").unwrap_or_default();
    format!("{} {}", boot.trim(), namespace.display())
}
