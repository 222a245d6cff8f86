//! `running-requests-size-scorer`: the smaller the server's batch, the better.

use super::{Scorer, ScorerDef, no_parameters, score_lower_is_better};
use crate::signals::Signals;

pub(super) const DEF: ScorerDef = ScorerDef {
    name: "running-requests-size-scorer",
    summary: "Prefers small batches: (max - running) / (max - min), 1 when all are equal.",
    schema: crate::registry::no_parameters_schema,
    build: |parameters| no_parameters(parameters).map(|()| Box::new(RunningRequestsSizeScorer) as _),
};

#[derive(Debug)]
struct RunningRequestsSizeScorer;

impl Scorer for RunningRequestsSizeScorer {
    fn score(&self, signals: &Signals<'_>, scores: &mut [f32]) {
        score_lower_is_better(signals, signals.running, scores);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Facts;
    use crate::scorers::tests::scores;

    #[test]
    fn small_batches_score_high() {
        let endpoints = [8.0, 0.0, 16.0].map(|running| Some((0.0, running, 0.0)));
        assert_eq!(scores(&RunningRequestsSizeScorer, &Facts::default(), &endpoints, &[]), [0.5, 1.0, 0.0]);
    }
}
