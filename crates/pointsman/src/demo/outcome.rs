//! What a demo found, as `result.json` and `--json` say it.

use std::collections::BTreeMap;
use std::time::Duration;

use pointsman_sim::{ErrorKind, Quantiles, SimConfig, Workload, WorkloadConfig};
use serde::Serialize;

use super::cpu::CpuUse;
use super::scenario;
use super::strategy::Strategy;
use super::trial::Trial;

/// Everything.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Outcome {
    pub(super) scenario: Scenario,
    /// In the order in which they ran.
    pub(super) strategies: Vec<Summary>,
    /// The picker's figures as multiples of round robin's.
    pub(super) picker_versus_round_robin: Ratios,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Scenario {
    pub(super) seed: u64,
    /// Seconds of load a strategy.
    pub(super) seconds: u64,
    pub(super) requests_per_second: f64,
    pub(super) round_robin_saturation: f64,
    /// Conversations and requests that begin in that time when every answer comes at once.
    pub(super) conversations: usize,
    pub(super) requests: usize,
    pub(super) distinct_prefix_tokens: usize,
    pub(super) servers: Vec<SimConfig>,
    pub(super) workload: WorkloadConfig,
}

/// One strategy's figures.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Summary {
    pub(super) strategy: Strategy,
    /// Requests that went well.
    pub(super) requests: u64,
    pub(super) failures: u64,
    pub(super) errors: BTreeMap<ErrorKind, u64>,
    /// Requests that went well a second, over the whole run.
    pub(super) requests_per_second: f64,
    pub(super) output_tokens_per_second: f64,
    pub(super) ttft_ms: Quantiles,
    /// TTFT of the requests that began in the second half of the run: its caches are no longer cold.
    pub(super) warm_ttft_ms: Quantiles,
    pub(super) tpot_ms: Quantiles,
    pub(super) latency_ms: Quantiles,
    /// 0..1.
    pub(super) prefix_hit_ratio: f64,
    pub(super) load_cv: f64,
    pub(super) servers: Vec<ServerSummary>,
    /// Absent where the system does not tell.
    pub(super) cpu: Option<CpuUse>,
}

/// One server's part.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServerSummary {
    pub(super) name: String,
    pub(super) speed: f64,
    pub(super) requests: u64,
    pub(super) prefix_hit_ratio: f64,
    pub(super) output_tokens: u64,
}

/// Multiples; absent where round robin's figure is 0.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ratios {
    pub(super) ttft_p50: Option<f64>,
    pub(super) ttft_p99: Option<f64>,
    pub(super) warm_ttft_p99: Option<f64>,
    pub(super) tpot_p50: Option<f64>,
    pub(super) requests_per_second: Option<f64>,
    pub(super) prefix_hit_ratio: Option<f64>,
    pub(super) load_cv: Option<f64>,
}

impl Scenario {
    /// Describes a run.
    pub(super) fn new(workload: &Workload, duration: Duration) -> Self {
        Self {
            seed: workload.config().seed,
            seconds: duration.as_secs(),
            requests_per_second: workload.config().requests_per_second,
            round_robin_saturation: scenario::ROUND_ROBIN_SATURATION,
            conversations: workload.conversations().len(),
            requests: workload.requests(),
            distinct_prefix_tokens: workload.total_prefix_tokens(),
            servers: scenario::servers(workload.config().seed),
            workload: workload.config().clone(),
        }
    }
}

impl Outcome {
    /// Adds up what was found.
    pub(super) fn new(scenario: Scenario, trials: &[Trial]) -> Self {
        let strategies: Vec<Summary> = trials.iter().map(|trial| Summary::new(trial, &scenario)).collect();
        let ratios = Ratios::new(&strategies);
        Self { scenario, strategies, picker_versus_round_robin: ratios }
    }
}

impl Summary {
    fn new(trial: &Trial, scenario: &Scenario) -> Self {
        let report = &trial.report;
        let half = scenario.seconds * 1_000_000 / 2;
        let warm = report.samples.iter().filter(|sample| sample.error.is_none() && sample.start_us >= half);
        let server = |config: &SimConfig| {
            let share = report.servers.get(&config.name).copied().unwrap_or_default();
            ServerSummary {
                name: config.name.clone(),
                speed: config.engine.speed,
                requests: share.requests,
                prefix_hit_ratio: share.cached_tokens as f64 / share.prompt_tokens.max(1) as f64,
                output_tokens: share.output_tokens,
            }
        };
        Self {
            strategy: trial.strategy,
            requests: report.succeeded,
            failures: report.failed(),
            errors: report.errors.clone(),
            requests_per_second: report.requests_per_second,
            output_tokens_per_second: report.output_tokens_per_second,
            ttft_ms: report.ttft_ms,
            warm_ttft_ms: Quantiles::of_micros(warm.filter_map(|sample| sample.ttft_us).collect()),
            tpot_ms: report.tpot_ms,
            latency_ms: report.latency_ms,
            prefix_hit_ratio: report.prefix_hit_ratio,
            load_cv: trial.load_cv(),
            servers: scenario.servers.iter().map(server).collect(),
            cpu: trial.cpu.clone(),
        }
    }
}

impl Ratios {
    fn new(strategies: &[Summary]) -> Self {
        let of = |strategy| strategies.iter().find(|summary| summary.strategy == strategy);
        let ratio = |figure: fn(&Summary) -> f64| {
            let (base, picked) = (figure(of(Strategy::RoundRobin)?), figure(of(Strategy::Picker)?));
            (base > 0.0).then(|| picked / base)
        };
        Self {
            ttft_p50: ratio(|summary| summary.ttft_ms.p50),
            ttft_p99: ratio(|summary| summary.ttft_ms.p99),
            warm_ttft_p99: ratio(|summary| summary.warm_ttft_ms.p99),
            tpot_p50: ratio(|summary| summary.tpot_ms.p50),
            requests_per_second: ratio(|summary| summary.requests_per_second),
            prefix_hit_ratio: ratio(|summary| summary.prefix_hit_ratio),
            load_cv: ratio(|summary| summary.load_cv),
        }
    }
}
