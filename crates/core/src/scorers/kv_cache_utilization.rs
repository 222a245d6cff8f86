//! `kv-cache-utilization-scorer`: the emptier the server's KV cache, the better.

use super::{NEUTRAL, Scorer, ScorerDef, no_parameters};
use crate::signals::Signals;

pub(super) const DEF: ScorerDef = ScorerDef {
    name: "kv-cache-utilization-scorer",
    summary: "Prefers empty KV caches: 1 - utilization.",
    schema: crate::registry::no_parameters_schema,
    build: |parameters| no_parameters(parameters).map(|()| Box::new(KvCacheUtilizationScorer) as _),
};

#[derive(Debug)]
struct KvCacheUtilizationScorer;

impl Scorer for KvCacheUtilizationScorer {
    fn score(&self, signals: &Signals<'_>, scores: &mut [f32]) {
        for (at, score) in scores.iter_mut().enumerate() {
            *score = if signals.fresh[at] { 1.0 - signals.kv_cache_usage[at] } else { NEUTRAL };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Facts;
    use crate::scorers::tests::scores;

    #[test]
    fn empty_caches_score_high_and_unknown_ones_in_the_middle() {
        let endpoints = [Some((0.0, 0.0, 0.25)), Some((0.0, 0.0, 1.0)), None];
        assert_eq!(scores(&KvCacheUtilizationScorer, &Facts::default(), &endpoints, &[]), [0.75, 0.0, 0.5]);
    }
}
