//! Pools from Kubernetes: what the cluster says becomes running pools, and what is thought of it goes back.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::Client;
use pointsman_core::registry::Registry;
use pointsman_extproc::settings::PickerService;
use pointsman_k8s::api::CONTROLLER_NAME;
use pointsman_k8s::cluster::{ClusterView, Kind, follow};
use pointsman_k8s::events::{Notice, NoticeMetrics, Notices, Publisher, notices};
use pointsman_k8s::index::{News, Picture, PoolNews, Scope};
use pointsman_k8s::key::ObjectKey;
use pointsman_k8s::lease::{
    Election, HaMode, Holder, Leadership, LeaseOptions, LeaseTiming, LeaseView, default_name, leadership,
};
use pointsman_k8s::status::{self, StatusMetrics};
use pointsman_k8s::trust::authority::Leaf;
use pointsman_k8s::trust::{Periods, Trust, TrustOptions};
use pointsman_k8s::verdict::Verdicts;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry as MetricsRegistry;
use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::own_notices::OwnNotices;
use super::pools::RunningPools;
use super::supervisor::Supervisor;
use crate::args::{HaModeArg, ServeArgs};

/// News on their way to the pools. They hold whole member lists, so few of them wait at once.
const NEWS: usize = 4;
/// How often the pools are looked at for what nobody tells.
const LOOK: Duration = Duration::from_secs(5);
/// The most bytes that the API server takes for a Lease's name.
const LEASE_NAME_MAX: usize = 253;

/// Where pools come from, and the way back.
pub(crate) struct ClusterSource {
    client: Client,
    scope: Scope,
    registry: Registry,
    election: Election,
    publisher: Publisher,
    notices: Notices,
    own_notices: OwnNotices,
    statuses: StatusMetrics,
    metrics: ClusterMetrics,
    trust: Option<Trust>,
    /// What others see of it.
    pub(crate) standing: Standing,
    view: watch::Sender<ClusterView>,
}

/// What this replica says of itself and of the objects that it reads.
struct ClusterMetrics {
    leads: Gauge,
    rejected: Gauge,
}

impl ClusterMetrics {
    fn register(registry: &mut MetricsRegistry) -> Self {
        let (leads, rejected) = (Gauge::default(), Gauge::default());
        registry.register("leader", "Whether this replica holds the Lease that the replicas share", leads.clone());
        let help = "Objects that tune the pools and are refused as they stand";
        registry.register("config_rejected", help, rejected.clone());
        Self { leads, rejected }
    }

    fn holds(&self, holds: bool) {
        self.leads.set(holds.into());
    }

    fn judged(&self, verdicts: &Verdicts) {
        let refusals = verdicts.values().filter(|verdict| verdict.is_refusal()).count();
        self.rejected.set(i64::try_from(refusals).unwrap_or(i64::MAX));
    }
}

/// How things stand between this replica and its cluster. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    scope: Scope,
    pub(crate) view: watch::Receiver<ClusterView>,
    pub(crate) leadership: Leadership,
    /// The Lease that replicas share.
    lease: ObjectKey,
    /// The name of the Secret and the ConfigMap that hold the CA that replicas share; absent when they do not.
    shared_ca: Option<String>,
    /// This replica's certificate under the CA that replicas share; absent when it serves another one.
    pub(crate) issued: Option<watch::Receiver<Option<Arc<Leaf>>>>,
    /// Whether only whom the API server lets in gets metrics.
    metrics_auth: bool,
}

impl Standing {
    /// Why this replica should not get requests; empty when it should.
    pub(crate) fn obstacles(&self) -> Vec<String> {
        let mut obstacles = self.faults();
        if obstacles.is_empty() && !self.leadership.serves() {
            obstacles.push(match &self.leadership.view.borrow().holder {
                Holder::Other(holder) => format!("another replica leads: {holder}"),
                Holder::Unread | Holder::Nobody | Holder::Us => "the Lease has not been read yet".to_owned(),
            });
        }
        obstacles
    }

    /// What somebody has to mend before this replica can serve.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = self.view.borrow().obstacles(&self.scope);
        if self.issued.as_ref().is_some_and(|issued| issued.borrow().is_none()) {
            let mend = "the log says what is in the way of the Secret and the ConfigMap of --service-name";
            faults.push(format!("there is no certificate that gateways could verify: {mend}"));
        }
        if let LeaseView { holder: Holder::Unread, refusal: Some(refusal), .. } = &*self.leadership.view.borrow()
            && self.leadership.mode == HaMode::Leader
        {
            let ObjectKey { namespace, name } = &self.lease;
            faults.push(format!("the Lease {namespace}/{name} may not be used, so nobody knows who leads: {refusal}"));
        }
        faults
    }

    /// Waits until something of it changed. Who writes it lives as long as the process.
    pub(crate) async fn changed(&mut self) {
        tokio::select! {
            Ok(()) = self.view.changed() => {}
            () = self.leadership.changed() => {}
            Ok(()) = super::tls::next(self.issued.as_mut()) => {}
            else => std::future::pending().await,
        }
    }

    /// For the admin page.
    pub(crate) fn describe(&self, server: &str) -> Value {
        let obstacles = self.faults();
        let view = self.view.borrow();
        let watches: Map<String, Value> =
            view.watches.iter().map(|(kind, state)| (kind.to_string(), format!("{state:?}").into())).collect();
        let lease = self.leadership.view.borrow();
        json!({
            "scope": Shown(&self.scope).to_string(),
            "pools": view.pools,
            "watches": watches,
            "obstacles": obstacles,
            "lease": {
                "namespace": &*self.lease.namespace,
                "name": &*self.lease.name,
                "holds": lease.holds,
                "holder": format!("{:?}", lease.holder),
                "refusal": lease.refusal.as_deref(),
            },
            "trust": self.shared_ca,
            "metricsAuth": self.metrics_auth,
            "serving": self.leadership.serves(),
            "server": server,
        })
    }
}

/// The scope that the flags ask for; `None` where pools come from a file.
fn scope(args: &ServeArgs, default_namespace: &str) -> Option<Scope> {
    let namespace = args.pool_namespace.as_deref().unwrap_or(default_namespace);
    match &args.pool_name {
        Some(name) => Some(Scope::Pool(ObjectKey::new(namespace, name))),
        None if args.all_pools => Some(Scope::Namespace(namespace.into())),
        None => None,
    }
}

impl ClusterSource {
    /// Finds the cluster, as kubectl would or as a pod does. Nothing is asked of it yet: one that is away stops nobody.
    pub(crate) async fn find(args: &ServeArgs, registry: Registry, metrics: &mut MetricsRegistry) -> Result<Self> {
        let config = kube::Config::infer()
            .await
            .context("finding the cluster: run in a pod with a ServiceAccount, or set KUBECONFIG")?;
        let own_namespace = std::env::var("POD_NAMESPACE").unwrap_or_else(|_| config.default_namespace.clone());
        let scope = scope(args, &own_namespace).context("neither --pool-name nor --all-pools is given")?;
        let client = Client::try_from(config).context("the cluster's configuration cannot be used")?;
        let identity = super::identity();
        let lease_name = args.lease_name.clone().unwrap_or_else(|| default_name(&scope));
        ensure!(
            lease_name.len() <= LEASE_NAME_MAX,
            "the Lease's name {lease_name} is longer than {LEASE_NAME_MAX} bytes: give a shorter one with --lease-name"
        );
        let trust = args.service_name.as_ref().filter(|_| args.secure_serving).map(|service| {
            let (namespace, service) = (own_namespace.clone(), service.clone());
            TrustOptions { namespace, service, periods: Periods::default() }
        });
        let shared_ca = trust.as_ref().map(TrustOptions::object_name);
        let (trust, issued) = trust.map(|options| Trust::new(client.clone(), options)).unzip();
        let lease = ObjectKey::new(&own_namespace, &lease_name);
        let mode = match args.ha_mode {
            HaModeArg::ActiveActive => HaMode::ActiveActive,
            HaModeArg::Leader => HaMode::Leader,
        };
        let options = LeaseOptions {
            namespace: own_namespace,
            name: lease_name,
            identity: identity.clone(),
            mode,
            timing: LeaseTiming::of(mode),
        };
        tracing::info!(scope = %Shown(&scope), lease = options.name, identity, "pools come from Kubernetes");
        let (election, leadership) = leadership(client.clone(), options);
        let holds = leadership.holds.clone();
        let own_notices = OwnNotices::new(&identity, mode);
        let (notices, publisher) =
            notices(client.clone(), CONTROLLER_NAME, &identity, holds, NoticeMetrics::register(metrics));
        let statuses = StatusMetrics::register(metrics);
        let metrics = ClusterMetrics::register(metrics);
        let (view, seen) = watch::channel(ClusterView::default());
        let metrics_auth = args.metrics_auth;
        let standing =
            Standing { scope: scope.clone(), view: seen, leadership, lease, shared_ca, issued, metrics_auth };
        Ok(Self {
            client,
            scope,
            registry,
            election,
            publisher,
            notices,
            own_notices,
            statuses,
            metrics,
            trust,
            standing,
            view,
        })
    }

    /// Starts everything, for as long as the process lives; the Lease is given up when `leave` is cancelled.
    pub(crate) fn start(self, pools: RunningPools, supervisor: &Supervisor, leave: CancellationToken) -> Standing {
        let (tell, news) = mpsc::channel(NEWS);
        let (judge, verdicts) = watch::channel(Arc::default());
        let holds = self.standing.leadership.holds.clone();
        supervisor.spawn(
            "cluster",
            follow(self.client.clone(), self.scope.clone(), &Kind::ALL, self.registry, tell, self.view),
        );
        let (notices, own_notices, metrics) = (self.notices, self.own_notices, self.metrics);
        let pools =
            ClusterPools { pools, are_shown: false, notices, own_notices, metrics, judge, holds: holds.clone() };
        supervisor.spawn("pools", pools.keep_true(news));
        supervisor.spawn("status", status::write(self.client, self.scope, verdicts, holds, self.statuses));
        supervisor.spawn("events", self.publisher.run());
        if let Some(trust) = self.trust {
            supervisor.spawn("trust", trust.keep());
        }
        supervisor.spawn("lease", self.election.run(leave));
        self.standing
    }
}

/// The running pools, and where what comes with their news goes.
struct ClusterPools {
    pools: RunningPools,
    /// Whether requests were shown any, be it none.
    are_shown: bool,
    notices: Notices,
    own_notices: OwnNotices,
    metrics: ClusterMetrics,
    judge: watch::Sender<Arc<Verdicts>>,
    holds: watch::Receiver<bool>,
}

impl ClusterPools {
    /// Applies what is told of the cluster until nobody tells any more.
    async fn keep_true(mut self, mut news: mpsc::Receiver<News>) {
        let mut looks = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                told = news.recv() => match told {
                    Some(news) => self.apply(news).await,
                    None => return,
                },
                Ok(()) = self.holds.changed() => {
                    let holds = *self.holds.borrow_and_update();
                    self.metrics.holds(holds);
                    let notices = self.own_notices.holds(holds);
                    self.tell(notices);
                }
                _ = looks.tick() => {
                    let notices = self.own_notices.look(&self.pools);
                    self.tell(notices);
                }
            }
        }
    }

    /// Tells, in the log too: Events need a Lease and an API server.
    fn tell(&self, notices: Vec<Notice>) {
        for notice in notices {
            let (pool, reason, message) = (&notice.regarding.key, notice.reason.as_str(), &notice.message);
            match notice.reason.is_warning() {
                true => tracing::warn!(%pool, reason, message, "notice"),
                false => tracing::info!(%pool, reason, message, "notice"),
            }
            self.notices.tell(notice);
        }
    }

    async fn apply(&mut self, news: News) {
        let mut are_others = false;
        for pool in news.pools {
            match pool {
                PoolNews::Gone(key) => {
                    self.pools.stop(&key.to_string());
                    self.own_notices.forget(&key);
                    are_others = true;
                }
                PoolNews::Is(picture) => are_others |= self.draw(*picture).await,
            }
        }
        if are_others || !self.are_shown {
            self.pools.show().await;
            self.are_shown = true;
        }
        if let Some(verdicts) = news.verdicts {
            self.metrics.judged(&verdicts);
            self.judge.send_replace(verdicts);
        }
        self.tell(news.notices);
    }

    /// Makes a pool what its picture shows; says whether that concerns more than the pool itself.
    async fn draw(&mut self, picture: Picture) -> bool {
        let Picture { object, members, policy, picker } = picture;
        let name = object.key.to_string();
        if let Some(notice) = self.own_notices.know(object) {
            self.tell(vec![notice]);
        }
        let is_new = self.pools.names().all(|running| running != name);
        if let Some(policy) = policy {
            self.pools.set_policy(&name, policy).await;
        }
        if let Some(members) = members {
            self.pools.set_members(&name, members).await;
        }
        let service = picker.map(|service| PickerService { namespace: service.namespace, name: service.name });
        self.pools.set_picker(&name, service) || is_new
    }
}

/// A scope for the log.
struct Shown<'a>(&'a Scope);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Scope::Pool(pool) => write!(f, "{pool}"),
            Scope::Namespace(namespace) => write!(f, "all pools of {namespace}"),
            Scope::Cluster => f.write_str("all pools"),
        }
    }
}
