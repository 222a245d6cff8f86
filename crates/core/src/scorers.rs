//! Scorers: how much each candidate is to be preferred, 0 to 1. One file a scorer, one line in [`BUILTIN`].
//!
//! Formulas follow the names that users know from the peers' configuration; where telemetry is stale a scorer that
//! reads it is neutral, so that an endpoint is neither flooded nor starved by what nobody knows.

mod active_request;
mod kv_cache_utilization;
mod lora_affinity;
mod prefix_cache;
mod queue;
mod running_requests_size;
mod tpot;
mod ttft;

use crate::registry::{ParameterError, PluginDef};
use crate::signals::Signals;

/// Prefers some candidates over others.
pub trait Scorer: Send + Sync + std::fmt::Debug {
    /// Writes one score a candidate into `scores`, 0 (worst) to 1 (best); the profile clamps what lies outside.
    fn score(&self, signals: &Signals<'_>, scores: &mut [f32]);
}

/// A scorer under its name.
pub type ScorerDef = PluginDef<dyn Scorer>;

/// The scorers that come with Pointsman, by name.
pub const BUILTIN: &[ScorerDef] = &[
    active_request::DEF,
    kv_cache_utilization::DEF,
    lora_affinity::DEF,
    prefix_cache::DEF,
    queue::DEF,
    running_requests_size::DEF,
    tpot::DEF,
    ttft::DEF,
];

/// The score of a candidate whose telemetry is stale, where the scorer reads nothing else.
const NEUTRAL: f32 = 0.5;

/// Scores a column of which less is better: `(max - x) / (max - min)` over the fresh candidates, 1 when all are equal.
///
/// Stale candidates get the neutral score, lowered by their share of this process's own load, so that among them the
/// least loaded goes first and none of them collects everything.
fn score_lower_is_better(signals: &Signals<'_>, column: &[f32], scores: &mut [f32]) {
    let (mut min, mut max) = (f32::INFINITY, f32::NEG_INFINITY);
    for (value, _) in column.iter().zip(signals.fresh).filter(|(_, fresh)| **fresh) {
        min = min.min(*value);
        max = max.max(*value);
    }
    let most_in_flight = signals.in_flight.iter().copied().fold(0.0, f32::max).max(1.0);
    for (at, score) in scores.iter_mut().enumerate() {
        *score = if !signals.fresh[at] {
            NEUTRAL * (1.0 - signals.in_flight[at] / most_in_flight)
        } else if max > min {
            (max - column[at]) / (max - min)
        } else {
            1.0
        };
    }
}

/// For scorers without parameters: refuses any.
fn no_parameters(parameters: serde_json::Value) -> Result<(), ParameterError> {
    crate::registry::parse::<crate::registry::NoParameters>(parameters).map(|_| ())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::facts::Facts;
    use crate::policy::Policy;
    use crate::pool::tests::PoolFixture;

    /// Scores a scorer over candidates given as `(waiting, running, kv)`; `None` is an endpoint never scraped.
    pub(crate) fn scores(
        scorer: &dyn Scorer,
        facts: &Facts,
        endpoints: &[Option<(f32, f32, f32)>],
        in_flight: &[u32],
    ) -> Vec<f32> {
        let mut fixture = PoolFixture::new(endpoints.len(), Policy::default());
        let _held = fixture.hold(in_flight);
        fixture.report(endpoints);
        fixture.advance(Duration::from_millis(1));
        fixture.signals(facts, |signals| {
            let mut scores = vec![f32::NAN; endpoints.len()];
            scorer.score(signals, &mut scores);
            scores
        })
    }

    #[test]
    fn names_are_unique_and_sorted() {
        assert!(BUILTIN.windows(2).all(|pair| pair[0].name < pair[1].name));
    }

    #[test]
    fn every_scorer_file_is_registered() {
        let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/scorers")).unwrap();
        assert_eq!(files.count(), BUILTIN.len());
    }
}
