//! Pools from a configuration file, watched and taken over when it changes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, anyhow};
use arc_swap::ArcSwap;
use pointsman_core::registry::Registry;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry as MetricsRegistry;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::file_pools::FilePools;
use super::pools::RunningPools;
use super::supervisor::Supervisor;
use crate::config_file::{self, FileProblem, LoadedConfig, ServerConfig, render_problems};

/// A configuration file that is watched.
pub(crate) struct FileSource {
    path: PathBuf,
    registry: Registry,
    /// The `server` section of the start, which alone counts.
    server: ServerConfig,
    changes: mpsc::Receiver<()>,
    metrics: ConfigMetrics,
    /// The configuration in force, as JSON.
    shown: Arc<ArcSwap<Value>>,
}

/// What reloading a configuration counts.
struct ConfigMetrics {
    generation: Gauge,
    rejections: Counter,
    is_rejected: Gauge,
}

impl ConfigMetrics {
    fn register(registry: &mut MetricsRegistry) -> Self {
        let (generation, rejections, is_rejected) = (Gauge::default(), Counter::default(), Gauge::default());
        registry.register("config_generation", "Configurations that were taken over so far", generation.clone());
        registry.register("config_rejections", "Configurations that were refused", rejections.clone());
        let help = "Whether the file as it stands is refused, and an earlier one is in force";
        registry.register("config_rejected", help, is_rejected.clone());
        Self { generation, rejections, is_rejected }
    }
}

impl FileSource {
    /// Reads the file, and watches it from before that on.
    pub(crate) fn open(path: &Path, registry: Registry, metrics: &mut MetricsRegistry) -> Result<(Self, LoadedConfig)> {
        let changes = config_file::watch::watch(path)?;
        let config = load(path, &registry)?;
        let server = config.server.clone();
        let shown = Arc::new(ArcSwap::from_pointee(describe(path, &config, &server)));
        let metrics = ConfigMetrics::register(metrics);
        Ok((Self { path: path.to_owned(), registry, server, changes, metrics, shown }, config))
    }

    /// The configuration in force, as JSON; follows what is taken over.
    pub(crate) fn shown(&self) -> Arc<ArcSwap<Value>> {
        Arc::clone(&self.shown)
    }

    /// Starts the file's pools, and keeps them true to it for as long as the process lives.
    pub(crate) async fn start(self, config: LoadedConfig, pools: RunningPools, supervisor: &Supervisor) {
        let mut pools = FilePools::new(pools);
        pools.apply(config).await;
        self.metrics.generation.set(1);
        let (orders, orders_taken) = mpsc::channel(1);
        supervisor.spawn("pools", pools.keep_true(orders_taken));
        supervisor.spawn("configuration", self.keep_true(orders));
    }

    async fn keep_true(mut self, pools: mpsc::Sender<LoadedConfig>) {
        while self.changes.recv().await.is_some() {
            self.reload(&pools).await;
        }
    }

    /// Takes a changed file over, or keeps what is in force and says why.
    async fn reload(&self, pools: &mpsc::Sender<LoadedConfig>) {
        let Self { path, server, metrics, .. } = self;
        match load(path, &self.registry) {
            Ok(config) => {
                if config.server != *server {
                    tracing::warn!("the file's `server` section changed: it is taken over at the next start");
                }
                self.shown.store(Arc::new(describe(path, &config, server)));
                if pools.send(config).await.is_err() {
                    return;
                }
                metrics.is_rejected.set(0);
                tracing::info!(generation = metrics.generation.inc() + 1, "a new configuration is in force");
            }
            Err(error) => {
                metrics.rejections.inc();
                metrics.is_rejected.set(1);
                tracing::error!("the last good configuration stays in force: {error:#}");
            }
        }
    }
}

fn load(path: &Path, registry: &Registry) -> Result<LoadedConfig> {
    config_file::load(path, registry).map_err(|problems| refused(path, &problems))
}

/// The `server` section of a file beside pools of the cluster; the defaults without a file.
pub(crate) fn load_server(path: Option<&Path>, registry: &Registry) -> Result<ServerConfig> {
    let Some(path) = path else { return Ok(ServerConfig::default()) };
    config_file::load_server(path, registry).map_err(|problems| refused(path, &problems))
}

fn refused(path: &Path, problems: &[FileProblem]) -> anyhow::Error {
    anyhow!("the configuration is refused:\n{}", render_problems(&path.display().to_string(), problems))
}

/// The configuration in force, for the admin page: `server` is that of the start.
fn describe(path: &Path, config: &LoadedConfig, server: &ServerConfig) -> Value {
    let pools: Vec<Value> = config
        .pools
        .iter()
        .map(|pool| json!({"name": pool.name, "endpoints": pool.endpoints.len(), "scheduling": pool.scheduling}))
        .collect();
    json!({"file": path.display().to_string(), "pools": pools, "server": format!("{server:?}")})
}
