//! gRPC health: alive as long as it answers, ready once pools are known and load was asked for, never while draining.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use pointsman_core::pool::Pool;
use pointsman_extproc::settings::PoolDirectory;
use pointsman_k8s::lease::Leadership;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry as MetricsRegistry;
use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::health_check_response::ServingStatus as Answered;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_health::server::{HealthReporter, HealthService};

use super::cluster_source::Standing;

/// Whose health is told: the whole (readiness), the process, its readiness, and ext_proc (as readiness).
const LIVENESS: &str = "liveness";
/// Whether only the Lease may keep it from taking requests: what kubelets ask in leader mode, whose updates would wait for
/// ever for a standby to be ready.
const STANDBY: &str = "standby";
const READINESS: [&str; 3] = ["", "readiness", "envoy.service.ext_proc.v3.ExternalProcessor"];
/// How long endpoints that do not answer their first scrape may hold up readiness.
const FIRST_SCRAPES: Duration = Duration::from_secs(2);
/// How often the first scrapes are looked for.
const LOOK: Duration = Duration::from_millis(20);

/// Tells gateways how the picker is.
#[derive(Clone, Debug)]
pub(crate) struct HealthTeller {
    reporter: HealthReporter,
    /// The same as a metric, but for a replica that was stopped and has not read the Lease again.
    ready: Gauge,
}

impl HealthTeller {
    /// A teller that says alive and not ready, and the service that gateways ask. In a replica that was stopped and goes
    /// on, what was said before counts for nothing until the Lease was read again.
    pub(crate) async fn new(
        leadership: Option<Leadership>,
        metrics: &mut MetricsRegistry,
    ) -> (Self, HealthServer<AwakeHealth>) {
        let ready = Gauge::default();
        metrics.register("ready", "Whether this replica says that it takes requests", ready.clone());
        let reporter = HealthReporter::new();
        let said = HealthService::from_health_reporter(reporter.clone());
        let service = HealthServer::new(AwakeHealth { said, leadership });
        let teller = Self { reporter, ready };
        teller.reporter.set_service_status(LIVENESS, ServingStatus::Serving).await;
        teller.set(false, false).await;
        (teller, service)
    }

    /// Says whether the picker takes requests, and whether it would if it led.
    pub(crate) async fn set(&self, ready: bool, standby: bool) {
        self.ready.set(ready.into());
        let services = READINESS.iter().map(|service| (*service, ready)).chain([(STANDBY, standby)]);
        for (service, serves) in services {
            let status = if serves { ServingStatus::Serving } else { ServingStatus::NotServing };
            self.reporter.set_service_status(service, status).await;
        }
    }

    /// Says ready once every endpoint was asked for its load or took too long to answer and, for pools of a cluster, for
    /// as long as nothing stands in the way. Goes on for ever.
    pub(crate) async fn tell(self, pools: Arc<PoolDirectory>, standing: Option<Standing>) {
        let Some(mut standing) = standing else {
            first_scrapes(&pools, 0).await;
            self.set(true, true).await;
            tracing::info!("ready");
            return std::future::pending().await;
        };
        let mut told: Option<Vec<String>> = None;
        let mut were_scraped = false;
        loop {
            let obstacles = standing.obstacles();
            if obstacles.is_empty() && !were_scraped {
                were_scraped = true;
                let known = standing.view.borrow().pools;
                first_scrapes(&pools, known).await;
                continue;
            }
            if told.as_ref() != Some(&obstacles) {
                self.set(obstacles.is_empty(), standing.faults().is_empty()).await;
                match obstacles.is_empty() {
                    true => tracing::info!("ready"),
                    false => tracing::warn!(obstacles = obstacles.join("; "), "not ready"),
                }
                told = Some(obstacles);
            }
            standing.changed().await;
        }
    }
}

/// The health that was said, but for readiness in a process that does not know yet whether it still leads.
pub(crate) struct AwakeHealth {
    said: HealthService,
    leadership: Option<Leadership>,
}

#[tonic::async_trait]
impl Health for AwakeHealth {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let leadership = self.leadership_of(&request);
        let said = self.said.check(request).await?;
        Ok(said.map(|said| judge(leadership.as_ref(), said)))
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let leadership = self.leadership_of(&request);
        let said = self.said.watch(request).await?;
        Ok(said.map(|said| said.map(move |said| Ok(judge(leadership.as_ref(), said?))).boxed()))
    }
}

impl AwakeHealth {
    /// What an answer to the request depends on.
    fn leadership_of(&self, request: &Request<HealthCheckRequest>) -> Option<Leadership> {
        self.leadership.clone().filter(|_| READINESS.contains(&request.get_ref().service.as_str()))
    }
}

fn judge(leadership: Option<&Leadership>, said: HealthCheckResponse) -> HealthCheckResponse {
    match leadership.is_none_or(Leadership::serves) {
        true => said,
        false => HealthCheckResponse { status: Answered::NotServing.into() },
    }
}

/// Waits until so many pools run and every endpoint was asked for its load, or took too long to answer.
async fn first_scrapes(pools: &PoolDirectory, known: usize) {
    // Before that every request would be refused.
    while !pools.is_told() {
        tokio::time::sleep(LOOK).await;
    }
    let is_asked = |pools: &[Arc<Pool>]| {
        pools.len() >= known && pools.iter().all(|pool| pool.snapshot().load.at.iter().all(Option::is_some))
    };
    let asked = async {
        while !is_asked(&pools.all()) {
            tokio::time::sleep(LOOK).await;
        }
    };
    if tokio::time::timeout(FIRST_SCRAPES, asked).await.is_err() {
        tracing::warn!("some endpoints have not told their load yet; serving without it");
    }
}
