//! `prefix-cache-scorer`: the more of the prompt a server has in its cache, the better.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Scorer, ScorerDef};
use crate::registry::{in_range, parse, schema_of};
use crate::signals::Signals;

pub(super) const DEF: ScorerDef = ScorerDef {
    name: "prefix-cache-scorer",
    summary: "Prefers servers that hold the prompt's beginning: w x min(1, matched / scale)^2 + (1 - w) x matched / \
              total, in tokens.",
    schema: schema_of::<Parameters>,
    build: |parameters| {
        let parameters: Parameters = parse(parameters)?;
        in_range("matchLengthWeight", parameters.match_length_weight, 0.0..=1.0)?;
        in_range("matchLengthScaleTokens", parameters.match_length_scale_tokens, 1..=u32::MAX)?;
        Ok(Box::new(PrefixCacheScorer(parameters)))
    },
};

/// Parameters of `prefix-cache-scorer`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Parameters {
    /// How much the match's absolute length counts beside its share of the prompt, 0 to 1.
    #[schemars(range(min = 0.0, max = 1.0))]
    match_length_weight: f32,
    /// Matched tokens from which on the absolute length counts in full.
    #[schemars(range(min = 1))]
    match_length_scale_tokens: u32,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { match_length_weight: 0.0, match_length_scale_tokens: 8192 }
    }
}

#[derive(Debug)]
struct PrefixCacheScorer(Parameters);

impl Scorer for PrefixCacheScorer {
    fn score(&self, signals: &Signals<'_>, scores: &mut [f32]) {
        let total = signals.matchable_tokens().max(1) as f32;
        let (weight, scale) = (self.0.match_length_weight, self.0.match_length_scale_tokens as f32);
        for (score, matched) in scores.iter_mut().zip(signals.matched_tokens) {
            let length = (matched / scale).min(1.0);
            *score = weight * length * length + (1.0 - weight) * matched / total;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Facts;
    use crate::policy::Policy;
    use crate::pool::tests::PoolFixture;
    use crate::prefix::PrefixBlock;

    fn scores_of(parameters: Parameters) -> Vec<f32> {
        let blocks: Vec<_> = (1..=8).map(|n| PrefixBlock { hash: n, tokens: 64 * n as u32 }).collect();
        let fixture = PoolFixture::new(3, Policy::default());
        fixture.remember(0, &blocks);
        fixture.remember(1, &blocks[..4]);
        let facts = Facts { prefix: blocks, ..Facts::default() };
        fixture.signals(&facts, |signals| {
            let mut scores = vec![0.0; 3];
            PrefixCacheScorer(parameters).score(signals, &mut scores);
            scores
        })
    }

    #[test]
    fn scores_the_matched_share() {
        assert_eq!(scores_of(Parameters::default()), [1.0, 0.5, 0.0]);
    }

    #[test]
    fn the_absolute_length_counts_as_much_as_asked() {
        let parameters = Parameters { match_length_weight: 0.5, match_length_scale_tokens: 512 };
        assert_eq!(scores_of(parameters), [1.0, 0.5 * 0.25 + 0.5 * 0.5, 0.0]);
    }
}
