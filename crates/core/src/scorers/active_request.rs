//! `active-request-scorer`: the fewer requests this picker has in flight to a server, the better.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Scorer, ScorerDef};
use crate::registry::{in_range, parse, schema_of};
use crate::signals::Signals;

pub(super) const DEF: ScorerDef = ScorerDef {
    name: "active-request-scorer",
    summary: "Prefers endpoints with few requests of ours in flight: 1 up to idleThreshold, else \
              (max - n) / max x maxBusyScore.",
    schema: schema_of::<Parameters>,
    build: |parameters| {
        let parameters: Parameters = parse(parameters)?;
        in_range("maxBusyScore", parameters.max_busy_score, 0.0..=1.0)?;
        Ok(Box::new(ActiveRequestScorer(parameters)))
    },
};

/// Parameters of `active-request-scorer`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Parameters {
    /// Up to this many requests in flight an endpoint counts as idle.
    idle_threshold: u32,
    /// The score that a busy endpoint gets at most, 0 to 1.
    #[schemars(range(min = 0.0, max = 1.0))]
    max_busy_score: f32,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { idle_threshold: 0, max_busy_score: 1.0 }
    }
}

#[derive(Debug)]
struct ActiveRequestScorer(Parameters);

impl Scorer for ActiveRequestScorer {
    fn score(&self, signals: &Signals<'_>, scores: &mut [f32]) {
        let most = signals.in_flight.iter().copied().fold(0.0, f32::max);
        for (score, in_flight) in scores.iter_mut().zip(signals.in_flight) {
            *score = if *in_flight <= self.0.idle_threshold as f32 {
                1.0
            } else {
                (most - in_flight) / most * self.0.max_busy_score
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Facts;
    use crate::scorers::tests::scores;

    #[test]
    fn idle_endpoints_score_one_and_busy_ones_by_their_distance_from_the_busiest() {
        let scorer = ActiveRequestScorer(Parameters { idle_threshold: 1, max_busy_score: 0.8 });
        assert_eq!(scores(&scorer, &Facts::default(), &[None; 4], &[0, 1, 4, 8]), [1.0, 1.0, 0.4, 0.0]);
    }

    #[test]
    fn a_busy_score_over_one_is_refused() {
        let refused = (DEF.build)(serde_json::json!({"maxBusyScore": 1.5})).unwrap_err();
        assert_eq!(refused.field, "maxBusyScore");
    }
}
