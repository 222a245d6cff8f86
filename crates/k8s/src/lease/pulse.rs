//! Whether the process was stopped for a while: by a signal, a debugger, a frozen cgroup.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::LeaseTiming;

/// How often the heart beats.
const BEAT: Duration = Duration::from_millis(100);

/// A heartbeat that anybody can ask for its last beat. It lives by the monotonic clock, which goes on while a process
/// is stopped; a machine that sleeps stops that clock too, and its holder learns from its next renewal.
#[derive(Debug)]
pub(super) struct Pulse {
    start: Instant,
    /// When the heart beat last, in milliseconds since `start`.
    last: AtomicU64,
    /// How long the heart must have stood still to count as stopped: as long as it takes, after the last renewal before
    /// the pause, for another to become holder. Whoever stood still for less still holds what it held, and a runtime
    /// that was merely short of CPU is left alone.
    pause: Duration,
}

impl Pulse {
    pub(super) fn new(timing: LeaseTiming) -> Self {
        let pause = timing.duration.saturating_sub(timing.renew.mul_f64(1.1)).max(BEAT * 5);
        Self { start: Instant::now(), last: AtomicU64::new(0), pause }
    }

    /// Whether the process was stopped, and nobody has drawn the conclusions yet.
    pub(super) fn is_late(&self) -> bool {
        self.still() >= self.pause
    }

    /// Beats.
    pub(super) fn beat(&self) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Release);
    }

    /// Beats until the process finds that it was stopped, and says for how long. The next beat is the caller's.
    pub(super) async fn stopped(&self) -> Duration {
        while !self.is_late() {
            self.beat();
            sleep(BEAT).await;
        }
        self.still()
    }

    /// How long ago the last beat was.
    fn still(&self) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::Acquire)))
    }
}
