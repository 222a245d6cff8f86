//! Time as a value: core never reads a clock, callers say what time it is.

use std::time::{Duration, Instant};

/// A moment on the process's monotonic clock, in nanoseconds since the process (or a simulation) began.
///
/// Wall-clock jumps do not touch it. A simulation in virtual time makes its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(pub u64);

impl Tick {
    /// The tick of `now` for a process that began at `start`; zero when `now` lies before `start`.
    pub fn of(start: Instant, now: Instant) -> Self {
        let nanos = now.saturating_duration_since(start).as_nanos();
        Self(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// How long after `earlier` this moment is; zero when it is not after.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<Duration> for Tick {
    type Output = Self;

    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }
}
