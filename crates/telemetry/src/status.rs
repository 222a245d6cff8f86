//! How scraping goes, endpoint by endpoint: for people, in `/debug` and in Events.

use std::collections::HashMap;

use parking_lot::Mutex;
use pointsman_core::endpoint::EndpointId;
use pointsman_core::snapshot::Members;
use pointsman_core::time::Tick;

/// How scraping one endpoint goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrapeStatus {
    /// Failures since the last success; zero when the last scrape succeeded.
    pub consecutive_failures: u32,
    /// What the last failure was; `None` when the last scrape succeeded.
    pub last_error: Option<String>,
    /// When the last reading arrived; `None` before the first.
    pub last_success: Option<Tick>,
}

/// The scrape statuses of one pool. Written by the pool's scraper, which keeps no more than one for each member.
#[derive(Debug, Default)]
pub struct ScrapeStatuses(Mutex<HashMap<EndpointId, ScrapeStatus>>);

impl ScrapeStatuses {
    /// How scraping the endpoint goes; `None` before its first scrape and after it left.
    pub fn get(&self, endpoint: EndpointId) -> Option<ScrapeStatus> {
        self.0.lock().get(&endpoint).cloned()
    }

    /// How many endpoints fail at present.
    pub fn failing(&self) -> usize {
        self.0.lock().values().filter(|status| status.consecutive_failures > 0).count()
    }

    pub(crate) fn succeeded(&self, endpoint: EndpointId, at: Tick) {
        let status = ScrapeStatus { consecutive_failures: 0, last_error: None, last_success: Some(at) };
        self.0.lock().insert(endpoint, status);
    }

    pub(crate) fn failed(&self, endpoint: EndpointId, error: String) {
        let mut statuses = self.0.lock();
        let status = statuses.entry(endpoint).or_default();
        status.consecutive_failures = status.consecutive_failures.saturating_add(1);
        status.last_error = Some(error);
    }

    pub(crate) fn keep_only(&self, members: &Members) {
        let present: std::collections::HashSet<EndpointId> = members.ids.iter().copied().collect();
        self.0.lock().retain(|endpoint, _| present.contains(endpoint));
    }
}
