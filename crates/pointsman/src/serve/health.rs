//! gRPC health: alive as long as it answers, ready once pools are known and load was asked for, never while draining.

use std::sync::Arc;
use std::time::Duration;

use pointsman_core::pool::Pool;
use pointsman_extproc::settings::PoolDirectory;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::HealthReporter;

use super::cluster_source::Standing;

/// Whose health is told: the whole (readiness), the process, its readiness, and ext_proc (as readiness).
const LIVENESS: &str = "liveness";
const READINESS: [&str; 3] = ["", "readiness", "envoy.service.ext_proc.v3.ExternalProcessor"];
/// How long endpoints that do not answer their first scrape may hold up readiness.
const FIRST_SCRAPES: Duration = Duration::from_secs(2);
/// How often the first scrapes are looked for.
const LOOK: Duration = Duration::from_millis(20);

/// Tells gateways how the picker is.
#[derive(Clone, Debug)]
pub(crate) struct HealthTeller {
    reporter: HealthReporter,
}

impl HealthTeller {
    /// A teller that says alive and not ready, and the service that gateways ask.
    pub(crate) async fn new() -> (Self, HealthServer<impl Health>) {
        let (reporter, service) = tonic_health::server::health_reporter();
        let teller = Self { reporter };
        teller.reporter.set_service_status(LIVENESS, ServingStatus::Serving).await;
        teller.set_ready(false).await;
        (teller, service)
    }

    pub(crate) async fn set_ready(&self, ready: bool) {
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in READINESS {
            self.reporter.set_service_status(service, status).await;
        }
    }

    /// Says ready once every endpoint was asked for its load or took too long to answer and, for pools of a cluster, for
    /// as long as nothing stands in the way. Goes on for ever.
    pub(crate) async fn tell(self, pools: Arc<PoolDirectory>, standing: Option<Standing>) {
        let Some(mut standing) = standing else {
            first_scrapes(&pools, 0).await;
            self.set_ready(true).await;
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
                self.set_ready(obstacles.is_empty()).await;
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

/// Waits until so many pools run and every endpoint was asked for its load, or took too long to answer.
async fn first_scrapes(pools: &PoolDirectory, known: usize) {
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
