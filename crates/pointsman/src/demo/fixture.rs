//! Made-up runs for tests.

use std::collections::BTreeMap;
use std::time::Duration;

use pointsman_sim::{ErrorKind, LoadReport, Sample};

use super::cpu::CpuUse;
use super::outcome::{Outcome, Scenario};
use super::scenario;
use super::strategy::Strategy;
use super::trial::{LoadSample, Trial};

/// One run a strategy, two requests each in four seconds, the later strategy the better.
pub(super) fn trials() -> Vec<Trial> {
    let figures = [
        (Strategy::RoundRobin, [60, 8_000], 250, 1.0, 0),
        (Strategy::LeastRequest, [45, 6_000], 500, 0.5, 1),
        (Strategy::Picker, [30, 2_000], 750, 0.0, 0),
    ];
    let trial = |(strategy, ttfts, cached_tokens, spread, failures): (Strategy, [u64; 2], u64, f64, usize)| {
        let sample = |(turn, ttft): (usize, &u64)| Sample {
            conversation: 0,
            turn,
            start_us: turn as u64 * 2_000_000,
            ttft_us: Some(ttft * 1_000),
            tpot_us: Some(20_000),
            latency_us: ttft * 1_000 + 20_000,
            status: 200,
            bytes: 100,
            prompt_tokens: 1_000,
            cached_tokens,
            output_tokens: 2,
            server: Some(format!("sim-{turn}")),
            error: None,
        };
        let mut samples: Vec<Sample> = ttfts.iter().enumerate().map(sample).collect();
        let mut failed = samples[0].clone();
        (failed.turn, failed.error, failed.server) = (2, Some(ErrorKind::Cancelled), None);
        samples.extend(std::iter::repeat_n(failed, failures));
        // Two servers hold 3 + 3 x spread and 3 - 3 x spread requests; the spread of two values is half their distance.
        let (more, less) = ((4.0 + 4.0 * spread) as usize, (4.0 - 4.0 * spread) as usize);
        let load = |at: usize| LoadSample { at: at as f64 * 0.25, running: vec![more, 0], waiting: vec![0, less] };
        let processes = BTreeMap::from([("demo", 0.4), ("envoy", 0.3), ("picker", 0.1)]);
        Trial {
            strategy,
            report: LoadReport::new(samples, Duration::from_secs(4)),
            loads: (0..16).map(load).collect(),
            cpu: Some(CpuUse { cores: 2, busy_percent: 50.0, processes }),
        }
    };
    figures.into_iter().map(trial).collect()
}

/// Their outcome.
pub(super) fn outcome() -> Outcome {
    let workload = scenario::workload(1, scenario::RATE, 4);
    Outcome::new(Scenario::new(&workload, Duration::from_secs(4)), &trials())
}
