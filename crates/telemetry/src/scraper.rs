//! Scraping: one task a pool that asks each endpoint for its metrics, often while it works and seldom while it idles.
//!
//! The task follows the pool's snapshots, so it needs no word of members, policy or picks: every
//! [`TelemetryPolicy::busy_interval`](pointsman_core::policy::TelemetryPolicy) (at most [`LONGEST_LOOK`]) it looks at
//! who is in the pool and at the counters of idle endpoints, which costs nanoseconds each. An endpoint has at most one
//! scrape under way, and a rate limit holds over all; whoever has been due the longest goes first.

mod error;
mod fetch;
mod pace;
mod roster;

use std::sync::Arc;
use std::time::Duration;

use pointsman_core::endpoint::{EndpointCell, EndpointId};
use pointsman_core::load::LoadReport;
use pointsman_core::pool::Pool;
use pointsman_core::prefix::hash_name;
use pointsman_core::time::Tick;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use error::ScrapeError;
pub use fetch::MAX_ANSWER;

use crate::metrics::{ScrapeResult, TelemetryMetrics};
use crate::reading::Reading;
use crate::status::ScrapeStatuses;
use fetch::{Fetch, HttpFetch};
use pace::{SHORTEST_INTERVAL, TokenBucket};
use roster::{Errand, Roster, Source};

/// The longest time between looks at the pool: how late a newcomer's first scrape may begin.
pub const LONGEST_LOOK: Duration = Duration::from_millis(50);
/// The most scrapes under way at once. Only a pool with more servers than this that all hang would feel it.
pub const MAX_UNDER_WAY: usize = 1_024;

/// Scrapes the members of `pool` and reports what they say, until `shutdown`, or until nobody takes reports any more.
///
/// `start` is when the process's [`Tick`]s began. A report that does not fit into the channel is dropped and counted,
/// so the channel should hold one for each member. Needs a tokio runtime with time and I/O.
pub async fn run(
    pool: Arc<Pool>,
    reports: mpsc::Sender<LoadReport>,
    start: std::time::Instant,
    metrics: TelemetryMetrics,
    statuses: Arc<ScrapeStatuses>,
    shutdown: CancellationToken,
) {
    let fetch = HttpFetch::new(metrics.clone());
    Scraper::new(fetch, pool, reports, start, metrics, statuses).run(shutdown).await;
}

/// The task's state.
struct Scraper<F> {
    fetch: Arc<F>,
    pool: Arc<Pool>,
    reports: mpsc::Sender<LoadReport>,
    start: std::time::Instant,
    metrics: TelemetryMetrics,
    statuses: Arc<ScrapeStatuses>,
    roster: Roster,
    bucket: TokenBucket,
    under_way: JoinSet<Finished>,
    /// When the counters of idle endpoints are looked at next.
    next_look: Instant,
}

/// A scrape that ended.
struct Finished {
    endpoint: EndpointId,
    took: Duration,
    at: Tick,
    in_flight_at_scrape: u32,
    result: Result<Reading, ScrapeError>,
}

/// Nobody takes reports any more.
struct NobodyListens;

impl<F: Fetch> Scraper<F> {
    fn new(
        fetch: F,
        pool: Arc<Pool>,
        reports: mpsc::Sender<LoadReport>,
        start: std::time::Instant,
        metrics: TelemetryMetrics,
        statuses: Arc<ScrapeStatuses>,
    ) -> Self {
        let now = Instant::now();
        let roster = Roster::new(&pool.snapshot(), hash_name(pool.name().as_bytes()), now);
        let bucket = TokenBucket::new(roster.policy().max_scrapes_per_second, now);
        let (fetch, under_way) = (Arc::new(fetch), JoinSet::new());
        Self { fetch, pool, reports, start, metrics, statuses, roster, bucket, under_way, next_look: now }
    }

    async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let now = Instant::now();
            self.follow(now);
            self.set_out(now);
            let wake = self.next_wake(now);
            let settled = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                Some(finished) = self.under_way.join_next() => self.settle_all(finished),
                () = tokio::time::sleep_until(wake) => Ok(()),
            };
            if settled.is_err() {
                return;
            }
        }
    }

    /// Sees who joined, left or became busy, and what the policy says now.
    fn follow(&mut self, now: Instant) {
        let changes = self.roster.follow(&self.pool.snapshot(), now);
        if changes.members {
            self.statuses.keep_only(self.roster.members());
        }
        if changes.policy {
            self.bucket.set_rate(self.roster.policy().max_scrapes_per_second, now);
        }
        if now >= self.next_look {
            self.roster.hasten_busy(now);
            self.next_look = now + self.roster.policy().busy_interval.clamp(SHORTEST_INTERVAL, LONGEST_LOOK);
        }
    }

    /// Starts what is due, as far as the limits allow.
    fn set_out(&mut self, now: Instant) {
        while self.under_way.len() < MAX_UNDER_WAY && self.roster.next_due().is_some_and(|due| due <= now) {
            if !self.bucket.take(now) {
                return;
            }
            let Some(Errand { endpoint, cell, source }) = self.roster.take_due(now) else { return };
            let (fetch, start) = (Arc::clone(&self.fetch), self.start);
            let timeout = self.roster.policy().timeout;
            self.under_way.spawn(scrape(fetch, endpoint, cell, source, timeout, start));
        }
    }

    /// When there is something to do again, unless a scrape ends before.
    fn next_wake(&self, now: Instant) -> Instant {
        let due = self.roster.next_due().filter(|_| self.under_way.len() < MAX_UNDER_WAY);
        let startable = due.and_then(|due| Some(due.max(self.bucket.next_token(now)?)));
        startable.map_or(self.next_look, |at| at.min(self.next_look))
    }

    fn settle_all(&mut self, first: Result<Finished, JoinError>) -> Result<(), NobodyListens> {
        self.settle(first)?;
        while let Some(finished) = self.under_way.try_join_next() {
            self.settle(finished)?;
        }
        Ok(())
    }

    fn settle(&mut self, finished: Result<Finished, JoinError>) -> Result<(), NobodyListens> {
        let Finished { endpoint, took, at, in_flight_at_scrape, result } = match finished {
            Ok(finished) => finished,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => return Ok(()),
        };
        self.metrics.took(took.as_secs_f64());
        let now = Instant::now();
        if !self.roster.is_member(endpoint) {
            self.metrics.scraped(ScrapeResult::Departed);
            return Ok(());
        }
        match result {
            Ok(Reading { mut load, clamps, malformed_lines }) => {
                self.metrics.read(&clamps, malformed_lines);
                (load.at, load.in_flight_at_scrape) = (at, in_flight_at_scrape);
                if let Some(recovered) = self.roster.succeeded(endpoint, load.waiting + load.running > 0.0, now) {
                    let (pool, failures) = (self.pool.name(), recovered.failures);
                    tracing::info!(%pool, endpoint = %recovered.name, failures, "endpoint's metrics are readable again");
                }
                self.statuses.succeeded(endpoint, at);
                let sent = self.reports.try_send(LoadReport { endpoint, load });
                let result = match sent {
                    Ok(()) => ScrapeResult::Ok,
                    Err(TrySendError::Full(_)) => ScrapeResult::Unreported,
                    Err(TrySendError::Closed(_)) => return Err(NobodyListens),
                };
                self.metrics.scraped(result);
            }
            Err(error) => {
                self.metrics.scraped(error.result());
                if let Some(name) = self.roster.failed(endpoint, now) {
                    let pool = self.pool.name();
                    tracing::warn!(%pool, endpoint = %name, %error, "endpoint's metrics cannot be read");
                }
                self.statuses.failed(endpoint, error.to_string());
            }
        }
        Ok(())
    }
}

/// One scrape, within its time.
async fn scrape<F: Fetch>(
    fetch: Arc<F>,
    endpoint: EndpointId,
    cell: Arc<EndpointCell>,
    source: Result<Arc<Source>, ScrapeError>,
    timeout: Duration,
    start: std::time::Instant,
) -> Finished {
    let began = Instant::now();
    let in_flight_at_scrape = cell.in_flight();
    let result = match source {
        Ok(source) => {
            let target = source.target;
            let answer = tokio::time::timeout(timeout, fetch.fetch(source)).await;
            answer.unwrap_or(Err(ScrapeError::Timeout { target, after: timeout }))
        }
        Err(error) => Err(error),
    };
    let now = Instant::now();
    Finished { endpoint, took: now - began, at: Tick::of(start, now.into_std()), in_flight_at_scrape, result }
}

#[cfg(test)]
mod tests;
