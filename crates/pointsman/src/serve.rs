//! `pointsman serve`: everything wired together, until it is told to go.
//!
//! Two runtimes: a multi-threaded one for ext_proc alone, and the calling thread's for everything else, so that
//! scraping, watching and pages never stand in a request's way.

mod admin;
mod health;
mod incoming;
mod logging;
mod memory;
mod owner;
mod pool_metrics;
mod pools;
mod supervisor;
mod tls;

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use arc_swap::ArcSwap;
use axum::Router;
use axum::routing::get;
use parking_lot::Mutex;
use pointsman_core::registry::Registry;
use pointsman_envoy::eds::{Eds, EdsOptions};
use pointsman_extproc::exchange::Shared;
use pointsman_extproc::metrics::Metrics;
use pointsman_extproc::pb::ExternalProcessorServer;
use pointsman_extproc::server;
use pointsman_extproc::service::PickerService;
use pointsman_extproc::settings::{Limits, PoolDirectory};
use pointsman_telemetry::metrics::TelemetryMetrics;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry as MetricsRegistry;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::args::ServeArgs;
use crate::config_file::{self, LoadedConfig, ServerConfig, render_problems};
use crate::signals::Signals;
use health::HealthTeller;
use pools::RunningPools;
use supervisor::{Ended, Supervisor};

/// How long no stream must be open before a draining picker goes: time for two health checks of a gateway.
const QUIET: Duration = Duration::from_secs(2);
/// How often a draining picker looks whether streams are open.
const DRAIN_LOOK: Duration = Duration::from_millis(50);
/// How long streams that were told to end get to say so.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Runs the picker until a signal ends it, or a task that must not end does.
pub fn run(args: ServeArgs, registry: Registry) -> Result<()> {
    let log_level = logging::init(&args.log)?;
    let picking = tokio::runtime::Builder::new_multi_thread()
        .thread_name("ext-proc")
        .enable_all()
        .build()
        .context("starting the ext_proc runtime")?;
    let rest = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    let ended = rest.block_on(serve(args, registry, log_level, picking.handle().clone()));
    picking.shutdown_timeout(LAST_WORDS);
    // A name that is being looked up cannot be interrupted.
    rest.shutdown_background();
    ended
}

/// A number that differs from process to process.
fn random_seed() -> u64 {
    RandomState::new().hash_one(std::process::id())
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

async fn serve(
    args: ServeArgs,
    registry: Registry,
    log_level: logging::LogLevel,
    picking: tokio::runtime::Handle,
) -> Result<()> {
    if !args.secure_serving && args.client_ca_path.is_some() {
        bail!("--client-ca-path asks for client certificates, which need --secure-serving");
    }
    let start = Instant::now();
    let mut signals = Signals::listen()?;
    let mut changes = config_file::watch::watch(&args.config)?;
    let config = load(&args, &registry)?;
    let (supervisor, mut ended) = Supervisor::new();
    let (health, health_service) = HealthTeller::new().await;

    let mut metrics = MetricsRegistry::with_prefix("pointsman");
    let config_metrics = ConfigMetrics::register(&mut metrics);
    let telemetry = TelemetryMetrics::register(&mut metrics);
    let directory = Arc::new(PoolDirectory::default());
    let limits = limits(&config.server);
    let service_metrics = Metrics::register(&mut metrics);
    let shared = Arc::new(Shared::new(limits, Arc::clone(&directory), service_metrics, random_seed()));
    metrics.register_collector(Box::new(pool_metrics::PoolCollector {
        pools: Arc::clone(&directory),
        budget: Arc::clone(&shared.budget),
        start,
    }));

    let server = config.server.clone();
    let scrapes = pools::Scrapes::default();
    let shown = Arc::new(ArcSwap::from_pointee(describe(&config, &server, &args)));
    let mut pools =
        RunningPools::new(Arc::clone(&directory), Arc::clone(&scrapes), telemetry, supervisor.clone(), start);
    pools.apply(config).await;
    config_metrics.generation.set(1);

    // All ports are bound before anything is served: a port that is taken is told at once.
    let at = |port| SocketAddr::new(args.bind_address, port);
    let grpc = bind("--grpc-port", at(args.grpc_port)).await?;
    let grpc_health = bind("--grpc-health-port", at(args.grpc_health_port)).await?;
    let pages = bind("--metrics-port", at(args.metrics_port)).await?;
    let admin = bind("--admin-address", args.admin_address).await?;
    let eds = bind("--eds-address", args.eds_address).await?;
    let tls = match args.secure_serving {
        false => None,
        true => {
            let source = tls::Source::of(&args);
            let config = tls::replaceable(tls::load(&source, args.client_ca_path.as_deref())?);
            let fresh = tls::keep_fresh(source, args.client_ca_path.clone(), Arc::clone(&config));
            supervisor.spawn("certificates", fresh);
            Some(config)
        }
    };
    tracing::info!(
        ext_proc = %grpc.local_addr()?, health = %grpc_health.local_addr()?, metrics = %pages.local_addr()?,
        admin = %admin.local_addr()?, eds = %eds.local_addr()?, tls = tls.is_some(), "listening"
    );

    let stop = CancellationToken::new();
    let picker = ExternalProcessorServer::new(PickerService::new(Arc::clone(&shared), start, stop.clone()))
        .max_decoding_message_size(server::message_size_max(&limits));
    let listener = grpc.into_std()?;
    let serving = picking.spawn(serve_grpc(listener, tls, limits, picker, health_service.clone()));
    supervisor.watch("ext_proc", serving);
    supervisor.spawn("health", {
        let incoming = incoming::accept(grpc_health, None);
        Server::builder().add_service(health_service).serve_with_incoming(incoming)
    });
    let metrics = Arc::new(Mutex::new(metrics));
    supervisor.spawn("metrics", async move { axum::serve(pages, metrics_page(metrics)).await });
    let admin_pages =
        admin::Admin { pools: Arc::clone(&directory), scrapes, config: Arc::clone(&shown), log_level, start };
    supervisor.spawn("admin", async move { axum::serve(admin, admin_pages.router()).await });
    let named = Arc::clone(&directory);
    let eds_service = Eds::new(Arc::new(move |name: &str| named.get(name)), EdsOptions::default());
    supervisor.spawn("eds", {
        let incoming = incoming::accept(eds, None);
        Server::builder().add_service(eds_service.into_server()).serve_with_incoming(incoming)
    });
    let becoming_ready = {
        let (health, directory) = (health.clone(), Arc::clone(&directory));
        tokio::spawn(async move { health.become_ready(directory).await })
    };

    let (orders, orders_taken) = mpsc::channel(1);
    supervisor.spawn("pools", pools.keep_true(orders_taken));
    loop {
        tokio::select! {
            name = ended.next() => bail!("the task {name:?} ended, and nothing can go on without it"),
            () = signals.next() => break,
            changed = changes.recv() => {
                changed.ok_or_else(|| anyhow!("the configuration file is no longer watched"))?;
                reload(&args, &registry, &server, &orders, &shown, &config_metrics).await;
            }
        }
    }
    becoming_ready.abort();
    drain(&args, &health, &shared, &mut ended, &mut signals).await;
    stop.cancel();
    tokio::time::sleep(if shared.metrics.open_streams() > 0 { LAST_WORDS } else { Duration::ZERO }).await;
    tracing::info!("gone");
    Ok(())
}

/// Serves ext_proc and health. Runs on the ext_proc runtime, connections and all.
async fn serve_grpc<H>(
    listener: std::net::TcpListener,
    tls: Option<incoming::TlsConfig>,
    limits: Limits,
    picker: ExternalProcessorServer<PickerService>,
    health: H,
) -> Result<()>
where
    H: tonic::server::NamedService
        + tower::Service<
            http::Request<tonic::body::Body>,
            Response = http::Response<tonic::body::Body>,
            Error = std::convert::Infallible,
        > + Clone
        + Send
        + Sync
        + 'static,
    H::Future: Send + 'static,
{
    let incoming = incoming::accept(TcpListener::from_std(listener)?, tls);
    server::configure(Server::builder(), &limits)
        .add_service(picker)
        .add_service(health)
        .serve_with_incoming(incoming)
        .await
        .context("serving ext_proc")
}

async fn bind(flag: &str, address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("listening on {address} ({flag}): is the port taken?"))
}

fn load(args: &ServeArgs, registry: &Registry) -> Result<LoadedConfig> {
    config_file::load(&args.config, registry).map_err(|problems| {
        let name = args.config.display().to_string();
        anyhow!("the configuration is refused:\n{}", render_problems(&name, &problems))
    })
}

/// Takes a changed file over, or keeps what is in force and says why.
async fn reload(
    args: &ServeArgs,
    registry: &Registry,
    server: &ServerConfig,
    pools: &mpsc::Sender<LoadedConfig>,
    shown: &ArcSwap<Value>,
    metrics: &ConfigMetrics,
) {
    match load(args, registry) {
        Ok(config) => {
            if config.server != *server {
                tracing::warn!("the file's `server` section changed: it is taken over at the next start");
            }
            shown.store(Arc::new(describe(&config, server, args)));
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

fn limits(server: &ServerConfig) -> Limits {
    let limits = &server.limits;
    Limits {
        max_body_size: limits.max_body_size,
        buffer_budget: memory::share(memory::limit(), limits.buffer_budget_percent),
        max_streams: limits.max_streams as usize,
        request_idle: limits.request_idle_timeout,
        response_idle: limits.response_idle_timeout,
    }
}

/// The configuration in force, for the admin page: `server` is that of the start.
fn describe(config: &LoadedConfig, server: &ServerConfig, args: &ServeArgs) -> Value {
    let pools: Vec<Value> = config
        .pools
        .iter()
        .map(|pool| {
            let scorers: Vec<Value> =
                pool.policy.profile.scorers.iter().map(|s| json!({"type": &*s.name, "weight": s.weight})).collect();
            json!({
                "name": pool.name,
                "endpoints": pool.endpoints.len(),
                "scheduling": pool.scheduling,
                "scorers": scorers,
                "fallbacks": pool.policy.fallbacks,
                "prefixCache": format!("{:?}", pool.policy.prefix_cache),
                "telemetry": format!("{:?}", pool.policy.telemetry),
            })
        })
        .collect();
    json!({"file": args.config.display().to_string(), "pools": pools, "server": format!("{server:?}")})
}

fn metrics_page(registry: Arc<Mutex<MetricsRegistry>>) -> Router {
    let page = move || async move {
        let mut text = String::new();
        let encoded = prometheus_client::encoding::text::encode(&mut text, &registry.lock());
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        match encoded {
            Ok(()) => Ok(([("content-type", kind)], text)),
            Err(_) => Err(http::StatusCode::INTERNAL_SERVER_ERROR),
        }
    };
    Router::new().route("/metrics", get(page))
}

/// Says not ready and goes on serving until no stream has been open for a while, the time is up, or a second signal
/// comes.
async fn drain(args: &ServeArgs, health: &HealthTeller, shared: &Shared, ended: &mut Ended, signals: &mut Signals) {
    health.set_ready(false).await;
    tracing::info!(streams = shared.metrics.open_streams(), "draining");
    let quiet = async {
        let mut since = tokio::time::Instant::now();
        while since.elapsed() < QUIET {
            tokio::time::sleep(DRAIN_LOOK).await;
            if shared.metrics.open_streams() > 0 {
                since = tokio::time::Instant::now();
            }
        }
    };
    tokio::select! {
        () = quiet => {}
        () = tokio::time::sleep(args.drain_timeout) => {
            tracing::warn!(streams = shared.metrics.open_streams(), "the drain timeout came; streams are ended");
        }
        () = signals.next() => tracing::warn!("a second signal came; streams are ended"),
        name = ended.next() => tracing::error!(name, "a task ended while draining"),
    }
}
