//! One strategy under load: what its requests saw, and what its servers held meanwhile.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use pointsman_sim::client::spread;
use pointsman_sim::{LoadConfig, LoadReport, Progress, SimHandle, Workload, client};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::children::Children;
use super::cpu::{CpuTimes, CpuUse};
use super::progress::Display;
use super::scenario;
use super::stage::Stage;
use super::strategy::Strategy;

/// Time between two looks at the servers.
pub(super) const SAMPLE_INTERVAL: Duration = Duration::from_millis(250);

/// What the servers hold at one moment.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LoadSample {
    /// Seconds since the load's start.
    pub(super) at: f64,
    /// Requests that run, by server.
    pub(super) running: Vec<usize>,
    /// Requests that wait, by server.
    pub(super) waiting: Vec<usize>,
}

/// One strategy's run.
#[derive(Debug, Clone)]
pub(super) struct Trial {
    pub(super) strategy: Strategy,
    pub(super) report: LoadReport,
    /// The servers while requests were sent, every [`SAMPLE_INTERVAL`].
    pub(super) loads: Vec<LoadSample>,
    /// The machine meanwhile; absent where it cannot be told.
    pub(super) cpu: Option<CpuUse>,
}

/// How to load.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub(super) strategy: Strategy,
    pub(super) workload: Arc<Workload>,
    /// No request begins after this time.
    pub(super) duration: Duration,
    /// How long requests that are open then may take to finish.
    pub(super) grace: Duration,
}

impl LoadSample {
    fn of(sims: &[SimHandle], at: Duration) -> Self {
        let stats: Vec<_> = sims.iter().map(SimHandle::stats).collect();
        Self {
            at: at.as_secs_f64(),
            running: stats.iter().map(|stats| stats.running).collect(),
            waiting: stats.iter().map(|stats| stats.waiting).collect(),
        }
    }

    /// Requests in each server, running or waiting.
    pub(super) fn held(&self) -> impl Iterator<Item = usize> {
        self.running.iter().zip(&self.waiting).map(|(running, waiting)| running + waiting)
    }

    /// Requests that wait, over all servers.
    pub(super) fn waiting_in_all(&self) -> usize {
        self.waiting.iter().sum()
    }
}

impl Trial {
    /// How unevenly requests were spread over the servers: the coefficient of variation, in the mean over time.
    pub(super) fn load_cv(&self) -> f64 {
        load_cv(&self.loads)
    }
}

/// As [`Trial::load_cv`]; moments without any request do not count.
fn load_cv(loads: &[LoadSample]) -> f64 {
    let spreads = loads.iter().filter_map(|load| {
        let held: Vec<f64> = load.held().map(|held| held as f64).collect();
        held.iter().any(|held| *held > 0.0).then(|| spread(&held))
    });
    let (count, sum) = spreads.fold((0u32, 0.0), |(count, sum), spread| (count + 1, sum + spread));
    if count == 0 { 0.0 } else { sum / f64::from(count) }
}

/// Makes everything cold, then sends a load.
pub(super) async fn perform(
    order: Order,
    stage: &Stage,
    children: &mut Children,
    display: &mut Display,
) -> Result<Trial> {
    let Order { strategy, workload, duration, grace } = order;
    display.begin(strategy.label(), duration);
    stage.make_cold(strategy, children).await?;
    let config = LoadConfig {
        duration: Some(duration),
        grace,
        request_timeout: duration + grace,
        ..LoadConfig::new(stage.url(strategy), scenario::MODEL)
    };
    let progress = Arc::new(Progress::default());
    let ids = children.ids();
    let before = CpuTimes::read(&ids);
    let start = Instant::now();
    let mut load = std::pin::pin!(client::run(workload, config, Arc::clone(&progress), CancellationToken::new()));
    let mut tick = tokio::time::interval(SAMPLE_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut loads = Vec::new();
    let report = loop {
        tokio::select! {
            biased;
            died = children.death() => return Err(died),
            report = &mut load => break report?,
            _ = tick.tick() => {
                let at = start.elapsed();
                if at < duration {
                    loads.push(LoadSample::of(&stage.sims, at));
                }
                display.show(at, &progress);
            }
        }
    };
    let cpu = before.zip(CpuTimes::read(&ids)).map(|(before, after)| after.since(&before));
    display.end(start.elapsed(), &progress);
    Ok(Trial { strategy, report, loads, cpu })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_is_the_mean_over_the_moments_with_requests() {
        let load = |running: [usize; 2], waiting: [usize; 2]| LoadSample {
            at: 0.0,
            running: running.to_vec(),
            waiting: waiting.to_vec(),
        };
        let even = load([2, 1], [0, 1]);
        let lopsided = load([0, 3], [0, 1]);
        assert_eq!(load_cv(std::slice::from_ref(&even)), 0.0);
        assert_eq!(load_cv(std::slice::from_ref(&lopsided)), 1.0);
        assert_eq!(load_cv(&[load([0, 0], [0, 0]), even, lopsided]), 0.5);
        assert_eq!(load_cv(&[]), 0.0);
    }
}
