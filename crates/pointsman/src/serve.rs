//! `pointsman serve`: everything wired together, until it is told to go.
//!
//! Two runtimes: a multi-threaded one for ext_proc alone, and the calling thread's for everything else, so that
//! scraping, watching and pages never stand in a request's way.

mod admin;
mod cluster_source;
mod file_pools;
mod file_source;
mod health;
pub(crate) mod incoming;
pub(crate) mod logging;
mod memory;
pub(crate) mod metrics_port;
mod own_notices;
mod owner;
mod pool_metrics;
mod pools;
pub(crate) mod process_metrics;
pub(crate) mod supervisor;
pub(crate) mod tls;

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use parking_lot::Mutex;
use pointsman_core::registry::Registry;
use pointsman_envoy::eds::{Eds, EdsOptions};
use pointsman_extproc::authority::WithAuthority;
use pointsman_extproc::exchange::Shared;
use pointsman_extproc::metrics::Metrics;
use pointsman_extproc::pb::ExternalProcessorServer;
use pointsman_extproc::server;
use pointsman_extproc::service::PickerService;
use pointsman_extproc::settings::{Limits, PoolDirectory};
use pointsman_k8s::lease::Leadership;
use pointsman_k8s::trust::authority::Leaf;
use pointsman_telemetry::metrics::TelemetryMetrics;
use prometheus_client::registry::Registry as MetricsRegistry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::args::ServeArgs;
use crate::config_file::{LoadedConfig, ServerConfig};
use crate::signals::Signals;
use admin::Shown;
use cluster_source::{ClusterSource, Standing};
use file_source::FileSource;
use health::HealthTeller;
use metrics_port::MetricsPort;
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
pub(crate) fn random_seed() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

/// A name for this replica that no other start of it has.
pub(crate) fn identity() -> String {
    let host = std::env::var("POD_NAME").or_else(|_| std::env::var("HOSTNAME")).unwrap_or_else(|_| "pointsman".into());
    format!("{host}-{:08x}", random_seed() as u32)
}

/// Where pools come from, before anything is started.
enum Source {
    File(Box<FileSource>, LoadedConfig),
    Cluster(Box<ClusterSource>, ServerConfig),
}

impl Source {
    async fn find(args: &ServeArgs, registry: Registry, metrics: &mut MetricsRegistry) -> Result<Self> {
        if args.pool_name.is_some() || args.all_pools {
            let server = file_source::load_server(args.config.as_deref(), &registry)?;
            let cluster = ClusterSource::find(args, registry, metrics).await?;
            return Ok(Self::Cluster(Box::new(cluster), server));
        }
        let path = args.config.as_deref().context("give --config FILE, --pool-name NAME or --all-pools")?;
        let (file, config) = FileSource::open(path, registry, metrics)?;
        Ok(Self::File(Box::new(file), config))
    }

    fn server(&self) -> &ServerConfig {
        match self {
            Self::File(_, config) => &config.server,
            Self::Cluster(_, server) => server,
        }
    }

    /// Where certificates come from that replicas in a cluster issue under a CA of theirs; absent when they do not.
    fn issued(&self) -> Option<watch::Receiver<Option<Arc<Leaf>>>> {
        match self {
            Self::File(..) => None,
            Self::Cluster(cluster, _) => cluster.standing.issued.clone(),
        }
    }

    /// Who leads among the replicas of a cluster.
    fn leadership(&self) -> Option<Leadership> {
        match self {
            Self::File(..) => None,
            Self::Cluster(cluster, _) => Some(cluster.standing.leadership.clone()),
        }
    }

    /// What the admin pages show of it.
    fn shown(&self) -> Shown {
        match self {
            Self::File(file, _) => {
                let shown = file.shown();
                Arc::new(move || (**shown.load()).clone())
            }
            Self::Cluster(cluster, server) => {
                let (standing, server) = (cluster.standing.clone(), format!("{server:?}"));
                Arc::new(move || standing.describe(&server))
            }
        }
    }

    /// Starts the pools. With those of a cluster comes how things stand between it and this replica.
    async fn start(self, pools: RunningPools, supervisor: &Supervisor, leave: CancellationToken) -> Option<Standing> {
        match self {
            Self::File(file, config) => {
                file.start(config, pools, supervisor).await;
                None
            }
            Self::Cluster(cluster, _) => Some(cluster.start(pools, supervisor, leave)),
        }
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
    let (supervisor, mut ended) = Supervisor::new();
    let mut all_metrics = process_metrics::registry();
    let metrics = all_metrics.sub_registry_with_prefix("pointsman");
    metrics.register("build", "Which version of the picker this is", process_metrics::version());
    let source = Source::find(&args, registry, metrics).await?;
    let (health, health_service) = HealthTeller::new(source.leadership(), metrics).await;
    let telemetry = TelemetryMetrics::register(metrics);
    let directory = Arc::new(PoolDirectory::default());
    let limits = limits(source.server());
    let service_metrics = Metrics::register(metrics);
    let trust = source.server().trust;
    let shared = Arc::new(Shared::new(limits, trust, Arc::clone(&directory), service_metrics, random_seed()));
    metrics.register_collector(Box::new(pool_metrics::PoolCollector {
        pools: Arc::clone(&directory),
        budget: Arc::clone(&shared.budget),
        start,
    }));

    let scrapes = pools::Scrapes::default();
    let index_percent = source.server().limits.prefix_index_percent;
    let running = RunningPools::new(
        Arc::clone(&directory),
        Arc::clone(&scrapes),
        telemetry,
        supervisor.clone(),
        index_percent,
        start,
    );
    let shown = source.shown();

    // All ports are bound before anything is served: a port that is taken is told at once.
    let at = |port| SocketAddr::new(args.bind_address, port);
    let grpc = SocketAddr::new(args.ext_proc_address.unwrap_or(args.bind_address), args.grpc_port);
    let grpc = bind("--grpc-port", grpc).await?;
    let grpc_health = bind("--grpc-health-port", at(args.grpc_health_port)).await?;
    let pages = bind("--metrics-port", at(args.metrics_port)).await?;
    let admin = bind("--admin-address", args.admin_address).await?;
    let eds = bind("--eds-address", args.eds_address).await?;
    let auth = if args.metrics_auth { Some(metrics_port::cluster_auth().await?) } else { None };
    let tls = match args.secure_serving {
        false => None,
        true => {
            let issued = source.issued();
            let source = issued.map_or_else(|| tls::Source::of(&args), tls::Source::Issued);
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
    let picker = WithAuthority(picker);
    let listener = grpc.into_std()?;
    let serving = picking.spawn(serve_grpc(listener, tls.clone(), limits, picker, health_service.clone()));
    supervisor.watch("ext_proc", serving);
    supervisor.spawn("health", {
        let incoming = incoming::accept(grpc_health, None);
        Server::builder().add_service(health_service).serve_with_incoming(incoming)
    });
    let metrics = MetricsPort { listener: pages, registry: Arc::new(Mutex::new(all_metrics)), auth };
    let metrics = metrics.serve(tls)?;
    supervisor.spawn("metrics", metrics);
    let admin_pages = admin::Admin { pools: Arc::clone(&directory), scrapes, config: shown, log_level, start };
    supervisor.spawn("admin", async move { axum::serve(admin, admin_pages.router()).await });
    let named = Arc::clone(&directory);
    let eds_service = Eds::new(Arc::new(move |name: &str| named.get(name)), EdsOptions::default());
    supervisor.spawn("eds", {
        let incoming = incoming::accept(eds, None);
        Server::builder().add_service(eds_service.into_server()).serve_with_incoming(incoming)
    });
    let leave = CancellationToken::new();
    let standing = source.start(running, &supervisor, leave.clone()).await;
    supervisor.spawn_until("readiness", &leave, health.clone().tell(directory, standing));
    tokio::select! {
        name = ended.next() => bail!("the task {name:?} ended, and nothing can go on without it"),
        () = signals.next() => {}
    }
    leave.cancel();
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
    picker: WithAuthority<ExternalProcessorServer<PickerService>>,
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
    let incoming = incoming::accept(TcpListener::from_std(listener)?, tls.map(incoming::Tls::Rustls));
    server::configure(Server::builder(), &limits)
        .add_service(picker)
        .add_service(health)
        .serve_with_incoming(incoming)
        .await
        .context("serving ext_proc")
}

pub(crate) async fn bind(flag: &str, address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("listening on {address} ({flag}): is the port taken?"))
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

/// Says not ready and goes on serving until no stream has been open for a while, the time is up, or a second signal
/// comes.
async fn drain(args: &ServeArgs, health: &HealthTeller, shared: &Shared, ended: &mut Ended, signals: &mut Signals) {
    health.set(false, false).await;
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
