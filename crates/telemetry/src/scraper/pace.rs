//! How often: intervals, backoff and the rate over all endpoints. Pure: the caller says what time it is.

use std::time::Duration;

use pointsman_core::policy::TelemetryPolicy;
use tokio::time::Instant;

/// No endpoint is asked more often than this, whatever a policy says.
pub(super) const SHORTEST_INTERVAL: Duration = Duration::from_millis(5);
/// The longest pause that failures alone bring about.
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);
/// The longest pause that failures bring about, in idle intervals.
const BACKOFF_IN_IDLE_INTERVALS: u32 = 10;
/// The share of a second's scrapes that may start at once after a quiet time: one in this many.
const BURSTS_A_SECOND: f64 = 10.0;

/// The pause until the next scrape of an endpoint that is `busy` or not and failed the last `failures` times.
///
/// The pause doubles with each failure, to ten idle intervals or ten seconds, whichever is less.
pub(super) fn pause(policy: &TelemetryPolicy, busy: bool, failures: u32) -> Duration {
    let interval = if busy { policy.busy_interval } else { policy.idle_interval }.max(SHORTEST_INTERVAL);
    let longest = policy.idle_interval.saturating_mul(BACKOFF_IN_IDLE_INTERVALS).min(LONGEST_BACKOFF);
    let doublings = failures.saturating_sub(1).min(16);
    interval.max(interval.saturating_mul(1 << doublings).min(longest))
}

/// Lets so many through a second, a tenth of a second's worth at once.
#[derive(Debug)]
pub(super) struct TokenBucket {
    rate: f64,
    /// Tokens at `at`.
    tokens: f64,
    at: Instant,
}

impl TokenBucket {
    /// A full bucket. A rate of zero lets nobody through.
    pub(super) fn new(rate: u32, now: Instant) -> Self {
        let mut bucket = Self { rate: f64::from(rate), tokens: 0.0, at: now };
        bucket.tokens = bucket.size();
        bucket
    }

    pub(super) fn set_rate(&mut self, rate: u32, now: Instant) {
        self.fill(now);
        self.rate = f64::from(rate);
        self.tokens = self.tokens.min(self.size());
    }

    /// Takes a token, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        self.fill(now);
        let taken = self.tokens >= 1.0;
        if taken {
            self.tokens -= 1.0;
        }
        taken
    }

    /// When there will be a token; `None` if never.
    pub(super) fn next_token(&self, now: Instant) -> Option<Instant> {
        if self.rate == 0.0 {
            return None;
        }
        let missing = (1.0 - self.tokens).max(0.0);
        // A nanosecond more than enough, so that rounding never wakes the caller for nothing.
        let at = self.at + Duration::from_secs_f64(missing / self.rate) + Duration::from_nanos(1);
        Some(at.max(now))
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + elapsed * self.rate).min(self.size());
        self.at = now;
    }

    fn size(&self) -> f64 {
        if self.rate == 0.0 { 0.0 } else { (self.rate / BURSTS_A_SECOND).max(1.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn failures_double_the_pause_up_to_ten_idle_intervals_or_ten_seconds() {
        let policy = |busy: u64, idle: u64| TelemetryPolicy {
            busy_interval: MS * busy as u32,
            idle_interval: MS * idle as u32,
            ..TelemetryPolicy::default()
        };
        let pauses = |policy: TelemetryPolicy, busy| {
            [0, 1, 2, 3, 4, 5, 9, u32::MAX].map(|failures| pause(&policy, busy, failures).as_millis())
        };
        let idle = [1_000, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000, 10_000];
        assert_eq!(pauses(policy(50, 1_000), false), idle);
        assert_eq!(pauses(policy(50, 1_000), true), [50, 50, 100, 200, 400, 800, 10_000, 10_000]);
        assert_eq!(pauses(policy(50, 100), false), [100, 100, 200, 400, 800, 1_000, 1_000, 1_000]);
        assert_eq!(pauses(policy(50, 30_000), false), [30_000; 8], "failing never makes it more often");
        assert_eq!(pauses(policy(0, 0), true), [5; 8]);
    }

    #[test]
    fn the_bucket_lets_the_rate_through_and_says_when_the_next_may_go() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(100, start);
        assert_eq!((0..50).filter(|_| bucket.take(start)).count(), 10, "a tenth of a second's worth at once");
        let (mut now, mut through) = (start, 0);
        while now < start + MS * 1_000 {
            now = bucket.next_token(now).unwrap();
            assert!(bucket.take(now), "it said that there would be one");
            through += 1;
        }
        assert!((99..=101).contains(&through), "{through}");
    }

    #[test]
    fn the_rate_can_change_and_zero_lets_nobody_through() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(1_000, start);
        bucket.set_rate(0, start);
        assert_eq!((bucket.take(start + MS * 1_000), bucket.next_token(start)), (false, None));
        bucket.set_rate(1, start + MS * 1_000);
        assert!(!bucket.take(start + MS * 1_900));
        assert!(bucket.take(start + MS * 2_001));
    }
}
