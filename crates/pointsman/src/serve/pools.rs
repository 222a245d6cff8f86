//! The running pools: an owner task and a scraper each, whoever says which there are.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use pointsman_core::endpoint::{Endpoint, EndpointId};
use pointsman_core::policy::Policy;
use pointsman_core::pool::Pool;
use pointsman_extproc::settings::{PickerService, PoolDirectory};
use pointsman_telemetry::metrics::TelemetryMetrics;
use pointsman_telemetry::status::ScrapeStatuses;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::memory;
use super::owner::{PoolChange, own};
use super::supervisor::Supervisor;

/// Readings on their way to an owner.
const LOADS: usize = 4096;
/// Changes on their way to an owner.
const CHANGES: usize = 16;

/// How scraping goes, by the pool's name, for those who show it.
pub(crate) type Scrapes = Arc<ArcSwap<HashMap<String, Arc<ScrapeStatuses>>>>;

/// The running pools. What is changed here shows to requests with [`Self::show`].
pub(crate) struct RunningPools {
    directory: Arc<PoolDirectory>,
    scrapes: Scrapes,
    running: HashMap<String, RunningPool>,
    telemetry: TelemetryMetrics,
    supervisor: Supervisor,
    /// Share of the memory limit for the prefix indexes of all pools together, in percent.
    index_percent: u8,
    memory_limit: u64,
    start: Instant,
}

/// An endpoint whose scrapes fail.
pub(crate) struct Unheard {
    pub(crate) id: EndpointId,
    pub(crate) name: Arc<str>,
    /// What the last failure was.
    pub(crate) error: String,
}

/// One running pool. Dropping it ends its tasks.
struct RunningPool {
    pool: Arc<Pool>,
    changes: mpsc::Sender<PoolChange>,
    stop: CancellationToken,
    /// How scraping its endpoints goes.
    scrapes: Arc<ScrapeStatuses>,
    /// The Service by whose name its gateway finds the picker, where that is known.
    picker: Option<PickerService>,
}

impl Drop for RunningPool {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl RunningPools {
    pub(crate) fn new(
        directory: Arc<PoolDirectory>,
        scrapes: Scrapes,
        telemetry: TelemetryMetrics,
        supervisor: Supervisor,
        index_percent: u8,
        start: Instant,
    ) -> Self {
        let memory_limit = memory::limit();
        Self { directory, scrapes, running: HashMap::new(), telemetry, supervisor, index_percent, memory_limit, start }
    }

    /// The names of all that run.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.running.keys().map(String::as_str)
    }

    /// Makes this the policy of a pool, which is started where it does not run.
    pub(crate) async fn set_policy(&mut self, name: &str, policy: Policy) {
        let policy = Arc::new(policy);
        match self.running.get(name) {
            Some(running) => running.tell(PoolChange::Policy(policy)).await,
            None => _ = self.running.insert(name.to_owned(), self.start(name, policy)),
        }
    }

    /// Makes these the members of a pool that runs.
    pub(crate) async fn set_members(&self, name: &str, members: Vec<Arc<Endpoint>>) {
        if let Some(running) = self.running.get(name) {
            tracing::debug!(pool = name, endpoints = members.len(), "the pool's members changed");
            running.tell(PoolChange::Members(members)).await;
        }
    }

    /// Makes this the Service by whose name the pool's gateway finds the picker; says whether it was another.
    pub(crate) fn set_picker(&mut self, name: &str, picker: Option<PickerService>) -> bool {
        let Some(running) = self.running.get_mut(name) else { return false };
        let differs = running.picker != picker;
        running.picker = picker;
        differs
    }

    /// The endpoints of a pool of which the last `failures` scrapes failed, or more; and how many endpoints it has.
    pub(crate) fn unheard(&self, name: &str, failures: u32) -> (Vec<Unheard>, usize) {
        let Some(running) = self.running.get(name) else { return (Vec::new(), 0) };
        let snapshot = running.pool.snapshot();
        let members = &snapshot.members;
        let unheard = members.ids.iter().zip(&members.endpoints).filter_map(|(id, endpoint)| {
            let status = running.scrapes.get(*id).filter(|status| status.consecutive_failures >= failures)?;
            Some(Unheard { id: *id, name: Arc::clone(&endpoint.name), error: status.last_error.unwrap_or_default() })
        });
        (unheard.collect(), members.ids.len())
    }

    /// Ends a pool. Requests in flight go on; new ones find no pool of the name.
    pub(crate) fn stop(&mut self, name: &str) {
        self.running.remove(name);
    }

    /// Shows to requests which pools there are now, and shares the memory of the indexes among them.
    pub(crate) async fn show(&self) {
        let share = memory::prefix_index_of_one(self.memory_limit, self.index_percent, self.running.len());
        for running in self.running.values() {
            running.tell(PoolChange::IndexShare(share)).await;
        }
        let scrapes = self.running.iter().map(|(name, running)| (name.clone(), Arc::clone(&running.scrapes)));
        self.scrapes.store(Arc::new(scrapes.collect()));
        let pools = self.running.values().map(|running| (Arc::clone(&running.pool), running.picker.clone()));
        self.directory.set(pools);
    }

    fn start(&self, name: &str, policy: Arc<Policy>) -> RunningPool {
        let (pool, writer) = Pool::new(name, policy, super::random_seed());
        let (changes, changes_taken) = mpsc::channel(CHANGES);
        let (loads, loads_taken) = mpsc::channel(LOADS);
        let stop = CancellationToken::new();
        self.supervisor.spawn_until("pool owner", &stop, own(writer, changes_taken, loads_taken));
        let scrapes = Arc::new(ScrapeStatuses::default());
        let scraping = pointsman_telemetry::scraper::run(
            Arc::clone(&pool),
            loads,
            self.start,
            self.telemetry.clone(),
            Arc::clone(&scrapes),
            stop.clone(),
        );
        self.supervisor.spawn_until("scraper", &stop, scraping);
        RunningPool { pool, changes, stop, scrapes, picker: None }
    }
}

impl RunningPool {
    async fn tell(&self, change: PoolChange) {
        if self.changes.send(change).await.is_err() {
            tracing::error!(pool = %self.pool.name(), "the pool's owner is gone");
        }
    }
}
