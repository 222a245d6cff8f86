//! `pointsman gateway`: Envoy Gateway's hooks, and the endpoints of all pools for its Envoys.

mod authorities;
mod eds_metrics;
pub(crate) mod install;
mod known;
mod mutual_tls;
mod pools;
mod statuses;
mod verification;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use arc_swap::ArcSwap;
use axum::routing::get;
use axum::{Json, Router};
use kube::Client;
use parking_lot::Mutex;
use pointsman_core::registry::Registry;
use pointsman_envoy::bootstrap::PeerAddress;
use pointsman_envoy::eds::{Eds, EdsOptions};
use pointsman_gateway::metrics::HookMetrics;
use pointsman_gateway::service::Hooks;
use pointsman_k8s::cluster::{ClusterView, Kind, follow};
use pointsman_k8s::index::Scope;
use pointsman_k8s::key::ObjectKey;
use pointsman_k8s::sync::Answered;
use pointsman_k8s::trust::{Periods, Trust, TrustOptions};
use pointsman_k8s::{gateways, sync};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic_health::ServingStatus;

use crate::args::GatewayArgs;
use crate::serve::logging::{self, LogLevel};
use crate::serve::metrics_port::{self, MetricsPort};
use crate::serve::process_metrics;
use crate::serve::supervisor::Supervisor;
use crate::serve::{bind, incoming, tls};
use crate::signals::Signals;
use authorities::{Found, Wanted};
use eds_metrics::EdsMetrics;
use install::ExtensionServer;
use known::{KnownOptions, Own};
use pools::ServedPools;

/// News on their way to the pools.
const NEWS: usize = 4;
/// Streams of endpoints open at once: one a cluster of each Envoy.
const EDS_STREAMS: usize = 10_000;
/// How often each of them is looked at: there are as many as rules and Envoys, and the hooks share a core with them.
const EDS_INTERVAL: Duration = Duration::from_millis(100);
/// How an Envoy that vanished is noticed, whose streams would be held for ever.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));
/// How long the first look for the pickers' CAs holds up readiness: an answer made before it would refuse requests.
const PATIENCE: Duration = Duration::from_secs(10);
/// What gRPC health is asked for: whether the server is ready, and whether the process answers.
const READINESS: &str = "";
const LIVENESS: &str = "liveness";
/// How long giving the Lease back may take at the end.
const PARTING: Duration = Duration::from_millis(500);

/// Runs the extension server until a signal ends it, or a task that must not end does.
pub(crate) fn run(args: GatewayArgs, registry: Registry) -> Result<()> {
    if args.print_values {
        let server = ExtensionServer {
            service: ObjectKey::new(&args.namespace, &args.service_name),
            port: args.grpc_port,
            is_secure: args.secure_serving,
        };
        let values = install::envoy_gateway_values(&server);
        println!("{}", serde_saphyr::to_string(&values).context("writing the values as YAML")?);
        return Ok(());
    }
    let log_level = logging::init(&args.log)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    let ended = runtime.block_on(serve(args, registry, log_level));
    runtime.shutdown_background();
    ended
}

async fn serve(args: GatewayArgs, registry: Registry, log_level: LogLevel) -> Result<()> {
    let mut signals = Signals::listen()?;
    let (supervisor, mut ended) = Supervisor::new();
    let config = kube::Config::infer()
        .await
        .context("finding the cluster: run in a pod with a ServiceAccount, or set KUBECONFIG")?;
    let namespace = args.namespace.clone();
    let client = Client::try_from(config).context("the cluster's configuration cannot be used")?;

    let at = |port| SocketAddr::new(args.bind_address, port);
    let grpc = bind("--grpc-port", at(args.grpc_port)).await?;
    let grpc_health = bind("--grpc-health-port", at(args.grpc_health_port)).await?;
    let pages = bind("--metrics-port", at(args.metrics_port)).await?;
    let admin = bind("--admin-address", args.admin_address).await?;
    tracing::info!(
        grpc = %grpc.local_addr()?, health = %grpc_health.local_addr()?, metrics = %pages.local_addr()?,
        admin = %admin.local_addr()?, tls = args.secure_serving, "listening"
    );

    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status(READINESS, ServingStatus::NotServing).await;
    health.set_service_status(LIVENESS, ServingStatus::Serving).await;
    supervisor.spawn("health", {
        let incoming = incoming::accept(grpc_health, None);
        Server::builder().add_service(health_service.clone()).serve_with_incoming(incoming)
    });

    let mut all_metrics = process_metrics::registry();
    let metrics = all_metrics.sub_registry_with_prefix("pointsman");
    metrics.register("gateway_build", "Which version of the extension server this is", process_metrics::version());
    let hook_metrics = HookMetrics::register(metrics);
    let status_metrics = statuses::Metrics::register(metrics);
    let metrics = Arc::new(Mutex::new(all_metrics));

    // The members of all pools, by the code that tells them to pickers.
    let pools = ServedPools::default();
    let (tell, news) = mpsc::channel(NEWS);
    let (view, seen) = watch::channel(ClusterView::default());
    supervisor.spawn("cluster", follow(client.clone(), Scope::Cluster, &Kind::MEMBERSHIP, registry, tell, view));
    supervisor.spawn("pools", pools.clone().keep_true(news));

    let own_name = format!("{}.{namespace}.svc", args.service_name);
    let secured = args.secure_serving.then(|| {
        let options = TrustOptions {
            namespace: namespace.clone(),
            service: args.service_name.clone(),
            periods: Periods::default(),
        };
        let (trust, issued) = Trust::new(client.clone(), options);
        let (trust, mutual) = trust.with_clients(client.clone(), &args.envoy_gateway_namespace);
        supervisor.spawn("trust", trust.keep());
        (issued, mutual)
    });
    let auth = args.metrics_auth.then(|| metrics_port::auth(client.clone()));
    let certificate = match &secured {
        Some((issued, _)) if args.metrics_auth => {
            let source = tls::Source::Issued(issued.clone());
            let config = tls::replaceable(tls::load(&source, None)?);
            supervisor.spawn("metrics' certificates", tls::keep_fresh(source, None, Arc::clone(&config)));
            Some(config)
        }
        _ => None,
    };
    let page = MetricsPort { listener: pages, registry: Arc::clone(&metrics), auth };
    supervisor.spawn("metrics", page.serve(certificate)?);

    let (show, routing) = watch::channel(None);
    supervisor.spawn("gateways", gateways::follow(client.clone(), args.controller_name.into(), show));
    let (want, wanted) = watch::channel(Wanted::default());
    let (found, authorities) = watch::channel(Found::default());
    let (all_wanted, mut all_found) = (wanted.clone(), authorities.clone());
    supervisor.spawn("authorities", authorities::keep(client.clone(), wanted, found));
    let (digest, digests) = watch::channel(sync::Digests::default());
    let by_service = PeerAddress { host: format!("{own_name}.{}", args.cluster_domain), port: args.grpc_port };
    let options = KnownOptions {
        own: secured.as_ref().map(|(_, mutual)| Own { server_name: own_name, trust: mutual.clone() }),
        eds_address: args.eds_address.unwrap_or(by_service),
        cluster_domain: args.cluster_domain,
        max_streams: args.max_streams,
    };
    let (first, mut known) = watch::channel(None);
    let (seen_now, seen_last) = watch::channel(None);
    supervisor.spawn("picture", known::keep(options, routing, authorities, want, digest, seen_now, first));

    let eds = EdsOptions { max_streams: EDS_STREAMS, interval: EDS_INTERVAL, ..EdsOptions::default() };
    let eds = Eds::new(Arc::new(pools), eds);
    metrics.lock().sub_registry_with_prefix("pointsman").register_collector(Box::new(EdsMetrics(eds.clone())));
    // Envoy Gateway waits for a server that is not there, and would take an answer made of nothing for one.
    let ready = async {
        let known: Arc<ArcSwap<_>> = loop {
            if let Some(known) = known.borrow_and_update().clone() {
                break known;
            }
            known.changed().await.context("the task that looks at the cluster is gone")?;
        };
        let mut seen = seen;
        seen.wait_for(|view| view.is_settled).await.context("the task that follows the cluster is gone")?;
        let looked_for = |found: &Found| all_wanted.borrow().iter().all(|wanted| found.contains_key(wanted));
        if timeout(PATIENCE, all_found.wait_for(looked_for)).await.is_err() {
            tracing::warn!("the CAs of some pickers could not be looked for yet; going on without");
        }
        anyhow::Ok(known)
    };
    let known = tokio::select! {
        known = ready => known?,
        name = ended.next() => bail!("the task {name:?} ended, and nothing can go on without it"),
        () = signals.next() => return Ok(()),
    };
    // By now the CAs of clients are known: without a certificate of theirs nobody is answered, for an answer holds the
    // key of all of them.
    let tls = match secured {
        None => None,
        Some((mut issued, mut mutual)) => {
            let config = mutual_tls::first(&mut issued, &mut mutual).await?;
            supervisor.spawn("certificates", mutual_tls::keep_fresh(issued, mutual, Arc::clone(&config)));
            Some(incoming::Tls::S2n(config))
        }
    };
    // Whoever holds the Lease has seen the cluster.
    let (lease, leave) = (ObjectKey::new(&namespace, &args.lease_name), CancellationToken::new());
    statuses::start(&client, lease, seen_last, status_metrics, &supervisor, leave.clone());
    let hooks = Hooks::new(known, hook_metrics);
    health.set_service_status(READINESS, ServingStatus::Serving).await;
    tracing::info!("ready");
    supervisor.spawn("grpc", {
        let incoming = incoming::accept(grpc, tls);
        Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE.0))
            .http2_keepalive_timeout(Some(KEEPALIVE.1))
            .max_concurrent_streams(EDS_STREAMS as u32)
            .add_service(hooks.clone().into_server())
            .add_service(eds.clone().into_server())
            .add_service(health_service)
            .serve_with_incoming(incoming)
    });
    let answered = hooks.clone();
    supervisor.spawn(
        "sync",
        sync::keep(client, digests, move |gateway| {
            let answer = answered.answer(&gateway.to_string())?;
            Some(Answered { from: answer.digest, shown: answer.shown })
        }),
    );
    supervisor.spawn("admin", async move { axum::serve(admin, admin_pages(hooks, log_level)).await });

    tokio::select! {
        name = ended.next() => bail!("the task {name:?} ended, and nothing can go on without it"),
        () = signals.next() => {}
    }
    health.set_service_status(READINESS, ServingStatus::NotServing).await;
    eds.close();
    leave.cancel();
    tokio::time::sleep(PARTING).await;
    tracing::info!("gone");
    Ok(())
}

/// The admin pages: what was made of each Gateway's rules, and the log level.
fn admin_pages(hooks: Hooks, log_level: LogLevel) -> Router {
    let shown = log_level.clone();
    let set = move |filter: String| async move {
        log_level.set(filter.trim()).map(|()| log_level.get()).map_err(|error| format!("{error:#}"))
    };
    Router::new()
        .route("/debug/xds", get(move || async move { Json(answers(&hooks)) }))
        .route("/debug/log-level", get(move || async move { shown.get() }).put(set))
}

/// What each Gateway was answered last, by this replica.
fn answers(hooks: &Hooks) -> Value {
    let answers = hooks.answers().into_iter().map(|(gateway, answer)| {
        let ago = answer.at.elapsed().as_secs_f64();
        (gateway, json!({"digest": answer.digest, "agoSeconds": ago, "rules": answer.rules}))
    });
    Value::Object(answers.collect())
}
