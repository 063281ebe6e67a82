//! A point in time that may be virtual.

use std::time::Duration;

/// Nanoseconds since an origin that the clock's owner chose: the start of the process for real transports,
/// the start of the run for the simulated one. Deadlines are points in time too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(u64);

impl Time {
    /// The end of time: a deadline that never passes.
    pub const NEVER: Time = Time(u64::MAX);

    /// The point this many nanoseconds after the origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Time(nanos)
    }

    /// Nanoseconds since the origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// This point and a duration later, at most [`Time::NEVER`].
    pub fn after(self, duration: Duration) -> Self {
        Time(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How long it is from `earlier` to this point; zero where it is not later.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates() {
        let t = Time::from_nanos(5);
        assert_eq!(t.after(Duration::from_nanos(7)).as_nanos(), 12);
        assert_eq!(t.after(Duration::MAX), Time::NEVER);
        assert_eq!(t.since(Time::from_nanos(9)), Duration::ZERO);
        assert_eq!(Time::from_nanos(9).since(t), Duration::from_nanos(4));
    }
}
