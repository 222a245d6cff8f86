//! A simulated model server: one engine, one task that drives it in real time, one HTTP listener.
//!
//! Any number of them live in one process, each behind its own address.

mod driver;
mod faults;
mod latencies;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use axum::Router;
use http::HeaderValue;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use self::driver::{EngineLink, LinkError, Observed, Ticket};
pub use self::faults::{ErrorFault, FaultConfig, MetricsFault};
pub(crate) use self::latencies::Histogram;
use crate::engine::{Engine, EngineConfig, EngineConfigError, EngineStats};
use crate::http_api;

/// Everything about one simulated server except its address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct SimConfig {
    /// The server's name, sent with every response as `x-sim-server`.
    pub name: String,
    /// Base models that it serves, the first being the one that a request without a model gets; with none, any name is
    /// served.
    pub models: Vec<String>,
    /// LoRA adapters that it serves under names of their own.
    pub adapters: Vec<String>,
    /// Tokens of an answer whose request names no limit.
    pub default_max_tokens: usize,
    /// The time model.
    pub engine: EngineConfig,
    /// What goes wrong from the start on.
    pub faults: FaultConfig,
}

/// Why a simulated server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The engine's configuration makes no sense.
    #[error("engine: {0}")]
    Engine(#[from] EngineConfigError),
    /// The faults make no sense.
    #[error("faults: {0}")]
    Faults(String),
    /// The name cannot be sent in a header.
    #[error("the server's name {0:?} cannot stand in an HTTP header: use visible ASCII")]
    Name(String),
    /// The address cannot be bound.
    #[error("cannot listen on {addr}: {source}")]
    Bind {
        /// The address asked for.
        addr: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Starts simulated servers.
#[derive(Debug)]
pub struct SimServer;

/// A running simulated server; dropping it cuts every connection and stops it.
#[derive(Debug)]
pub struct SimHandle {
    addr: SocketAddr,
    shared: Arc<Shared>,
    tasks: TaskTracker,
    connections: TaskTracker,
    /// Ends the listener and asks connections to finish what they have begun.
    drain: CancellationToken,
}

/// What all requests of one server share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: SimConfig,
    /// `config.name`, checked to be a header value.
    pub(crate) name: HeaderValue,
    pub(crate) engine: EngineLink,
    pub(crate) faults: watch::Sender<FaultConfig>,
    /// Numbers requests for ids and for the share of errors.
    pub(crate) counter: AtomicU64,
    /// Cuts everything, upgraded connections included.
    pub(crate) abort: CancellationToken,
}

impl Default for SimConfig {
    fn default() -> Self {
        Self {
            name: "sim-0".to_owned(),
            models: vec!["sim-8b".to_owned()],
            adapters: Vec::new(),
            default_max_tokens: 64,
            engine: EngineConfig::default(),
            faults: FaultConfig::default(),
        }
    }
}

impl SimServer {
    /// Starts a server on `addr` (port 0 for any) on the current tokio runtime.
    pub async fn start(config: SimConfig, addr: SocketAddr) -> Result<SimHandle, StartError> {
        let engine = Engine::new(config.engine.clone())?;
        config.faults.validate().map_err(StartError::Faults)?;
        let name = HeaderValue::from_str(&config.name).map_err(|_| StartError::Name(config.name.clone()))?;
        let bind = |source| StartError::Bind { addr, source };
        let listener = TcpListener::bind(addr).await.map_err(bind)?;
        let addr = listener.local_addr().map_err(bind)?;

        let (tasks, connections) = (TaskTracker::new(), TaskTracker::new());
        let (drain, abort) = (CancellationToken::new(), CancellationToken::new());
        let engine = driver::spawn(engine, &tasks, abort.clone());
        let faults = watch::Sender::new(config.faults.clone());
        let counter = AtomicU64::new(0);
        let shared = Arc::new(Shared { config, name, engine, faults, counter, abort });
        let router = http_api::router(shared.clone());
        tasks.spawn(listen(listener, router, connections.clone(), drain.clone(), shared.abort.clone()));
        Ok(SimHandle { addr, shared, tasks, connections, drain })
    }
}

impl SimHandle {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its name, as `x-sim-server` says it.
    pub fn name(&self) -> &str {
        &self.shared.config.name
    }

    /// `http://ADDRESS`.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The engine's state and totals, as of its last event.
    pub fn stats(&self) -> EngineStats {
        self.shared.engine.observed().borrow().engine.clone()
    }

    /// Waits until the engine's state satisfies `condition`; false when the server ended before.
    pub async fn wait_for(&self, mut condition: impl FnMut(&EngineStats) -> bool) -> bool {
        self.shared.engine.observed().wait_for(|observed| condition(&observed.engine)).await.is_ok()
    }

    /// What goes wrong at present.
    pub fn faults(&self) -> FaultConfig {
        self.shared.faults.borrow().clone()
    }

    /// Changes what goes wrong, for requests from now on.
    pub fn set_faults(&self, faults: FaultConfig) -> Result<(), StartError> {
        faults.validate().map_err(StartError::Faults)?;
        self.shared.faults.send_replace(faults);
        Ok(())
    }

    /// Forgets every cached block that no running request holds.
    pub async fn clear_cache(&self) {
        self.shared.engine.clear_cache().await;
    }

    /// Stops as a killed process does: the port refuses at once, connections are cut.
    pub async fn shutdown(self) {
        self.drain.cancel();
        self.shared.abort.cancel();
        self.tasks.close();
        self.connections.close();
        self.tasks.wait().await;
        self.connections.wait().await;
    }

    /// Stops as a drained pod does: the port refuses at once, running requests may finish within `limit`.
    pub async fn drain(self, limit: Duration) {
        self.drain.cancel();
        self.connections.close();
        if tokio::time::timeout(limit, self.connections.wait()).await.is_err() {
            tracing::debug!(server = self.name(), "connections are still busy at the end of the drain time");
        }
        self.shutdown().await;
    }
}

impl Drop for SimHandle {
    fn drop(&mut self) {
        self.drain.cancel();
        self.shared.abort.cancel();
    }
}

/// Accepts connections until the drain begins.
async fn listen(
    listener: TcpListener,
    router: Router,
    connections: TaskTracker,
    drain: CancellationToken,
    abort: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = drain.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(serve(stream, router.clone(), drain.clone(), abort.clone()));
            }
            Err(error) => {
                // Out of file descriptors: accepting again at once would only spin.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// Serves one connection, HTTP/1.1 or HTTP/2.
async fn serve(stream: TcpStream, router: Router, drain: CancellationToken, abort: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "tokens may be held back");
    }
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    builder.http2().timer(TokioTimer::new());
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let mut draining = false;
    loop {
        tokio::select! {
            biased;
            () = abort.cancelled() => return,
            () = drain.cancelled(), if !draining => {
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::trace!(%error, "a connection ended");
                }
                return;
            }
        }
    }
}
