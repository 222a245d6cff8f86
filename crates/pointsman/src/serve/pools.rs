//! The pools of a configuration file, running: an owner task and a scraper each, kept true to the file and to DNS.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures::StreamExt;
use pointsman_core::endpoint::Endpoint;
use pointsman_core::pool::Pool;
use pointsman_extproc::settings::PoolDirectory;
use pointsman_telemetry::metrics::TelemetryMetrics;
use pointsman_telemetry::status::ScrapeStatuses;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::memory;
use super::owner::{PoolChange, own};
use super::supervisor::Supervisor;
use crate::config_file::{EndpointSpec, Host, LoadedConfig};

/// Readings on their way to an owner.
const LOADS: usize = 4096;
/// Changes on their way to an owner.
const CHANGES: usize = 16;
/// How often names of endpoints are looked up again.
const NAMES_INTERVAL: Duration = Duration::from_secs(30);
/// Names that are looked up at once.
const LOOKUPS_AT_ONCE: usize = 16;
/// How long looking up one name may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// How scraping goes, by the pool's name, for those who show it.
pub(crate) type Scrapes = Arc<ArcSwap<HashMap<String, Arc<ScrapeStatuses>>>>;

/// The running pools.
pub(crate) struct RunningPools {
    directory: Arc<PoolDirectory>,
    scrapes: Scrapes,
    running: HashMap<String, RunningPool>,
    telemetry: TelemetryMetrics,
    supervisor: Supervisor,
    memory_limit: u64,
    start: Instant,
}

/// One running pool. Dropping it ends its tasks.
struct RunningPool {
    pool: Arc<Pool>,
    changes: mpsc::Sender<PoolChange>,
    stop: CancellationToken,
    /// How scraping its endpoints goes.
    scrapes: Arc<ScrapeStatuses>,
    /// The members as the file names them, for looking names up again.
    specs: Vec<EndpointSpec>,
    /// The members as the owner was last told; `None` before the first time.
    members: Option<Vec<Endpoint>>,
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
        start: Instant,
    ) -> Self {
        let memory_limit = memory::limit();
        Self { directory, scrapes, running: HashMap::new(), telemetry, supervisor, memory_limit, start }
    }

    /// Makes what runs equal to the file: new pools start, those that are gone end, the others change.
    pub(crate) async fn apply(&mut self, config: LoadedConfig) {
        let share = config.server.limits.prefix_index_percent;
        let index_limit = memory::prefix_index_of_one(self.memory_limit, share, config.pools.len());
        self.running.retain(|name, _| config.pools.iter().any(|pool| pool.name == *name));
        for mut pool in config.pools {
            let memory_limit = &mut pool.policy.prefix_cache.memory_limit;
            *memory_limit = index_limit.min(*memory_limit);
            let former = self.running.get(&pool.name).and_then(|running| running.members.as_deref());
            let members = look_up(&pool.endpoints, former).await;
            let policy = Arc::new(pool.policy);
            let running = match self.running.get_mut(&pool.name) {
                Some(running) => {
                    running.tell(PoolChange::Policy(policy)).await;
                    running
                }
                None => {
                    let running = self.start(&pool.name, policy);
                    self.running.entry(pool.name).or_insert(running)
                }
            };
            running.specs = pool.endpoints;
            running.set_members(members).await;
        }
        let scrapes = self.running.iter().map(|(name, running)| (name.clone(), Arc::clone(&running.scrapes)));
        self.scrapes.store(Arc::new(scrapes.collect()));
        self.directory.set(self.running.values().map(|running| Arc::clone(&running.pool)));
    }

    /// Applies each configuration that comes, and looks names up again now and then.
    pub(crate) async fn keep_true(mut self, mut configs: mpsc::Receiver<LoadedConfig>) {
        let mut names = tokio::time::interval_at(tokio::time::Instant::now() + NAMES_INTERVAL, NAMES_INTERVAL);
        loop {
            tokio::select! {
                config = configs.recv() => match config {
                    Some(config) => self.apply(config).await,
                    None => return,
                },
                _ = names.tick() => self.refresh_names().await,
            }
        }
    }

    async fn refresh_names(&mut self) {
        for running in self.running.values_mut() {
            if running.specs.iter().any(|spec| matches!(spec.host, Host::Dns(_))) {
                let members = look_up(&running.specs, running.members.as_deref()).await;
                running.set_members(members).await;
            }
        }
    }

    fn start(&self, name: &str, policy: Arc<pointsman_core::policy::Policy>) -> RunningPool {
        let seed = super::random_seed();
        let (pool, writer) = Pool::new(name, policy, seed);
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
        RunningPool { pool, changes, stop, scrapes, specs: Vec::new(), members: None }
    }
}

impl RunningPool {
    async fn tell(&self, change: PoolChange) {
        if self.changes.send(change).await.is_err() {
            tracing::error!(pool = %self.pool.name(), "the pool's owner is gone");
        }
    }

    async fn set_members(&mut self, members: Vec<Endpoint>) {
        if self.members.as_ref() != Some(&members) {
            tracing::info!(pool = %self.pool.name(), endpoints = members.len(), "the pool's members changed");
            self.members = Some(members.clone());
            self.tell(PoolChange::Members(members)).await;
        }
    }
}

/// The endpoints with their addresses. One whose name cannot be looked up keeps the address that it had; one that never
/// had any is left out, and said to be.
async fn look_up(specs: &[EndpointSpec], former: Option<&[Endpoint]>) -> Vec<Endpoint> {
    let looked_up = futures::stream::iter(specs.to_vec()).map(|spec| async move {
        let ip = match &spec.host {
            Host::Ip(ip) => Some(*ip),
            Host::Dns(name) => look_up_name(name, spec.port).await,
        };
        (spec, ip)
    });
    let mut endpoints = Vec::with_capacity(specs.len());
    for (spec, ip) in looked_up.buffered(LOOKUPS_AT_ONCE).collect::<Vec<_>>().await {
        let known = || {
            let uid = uid(&spec);
            let is_it = |known: &&Endpoint| *known.uid == *uid && known.address.port() == spec.port;
            former.into_iter().flatten().find(is_it).map(|known| known.address.ip())
        };
        match ip.or_else(known) {
            Some(ip) => endpoints.push(endpoint(&spec, ip)),
            None => tracing::warn!(endpoint = spec.name, "an endpoint is left out until its name has an address"),
        }
    }
    endpoints
}

/// What makes an endpoint of a file the same one over time.
fn uid(spec: &EndpointSpec) -> String {
    format!("{}/{}", spec.namespace, spec.name)
}

/// The least address of a name, so that the answer's order makes no difference.
async fn look_up_name(name: &str, port: u16) -> Option<IpAddr> {
    match tokio::time::timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host((name, port))).await {
        Ok(Ok(addresses)) => addresses.map(|address| address.ip()).min(),
        Ok(Err(error)) => {
            tracing::warn!(name, %error, "an endpoint's name cannot be looked up");
            None
        }
        Err(_) => {
            tracing::warn!(name, "looking an endpoint's name up took too long");
            None
        }
    }
}

fn endpoint(spec: &EndpointSpec, ip: IpAddr) -> Endpoint {
    Endpoint {
        uid: uid(spec).into(),
        name: spec.name.as_str().into(),
        namespace: spec.namespace.as_str().into(),
        address: SocketAddr::new(ip, spec.port),
        metrics_port: spec.metrics_port,
        engine: spec.engine.as_deref().map(Into::into),
        labels: spec.labels.clone(),
    }
}
