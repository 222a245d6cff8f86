//! `lora-affinity-scorer`: servers that have the asked adapter loaded go first.

use super::{NEUTRAL, Scorer, ScorerDef, no_parameters};
use crate::signals::Signals;

pub(super) const DEF: ScorerDef = ScorerDef {
    name: "lora-affinity-scorer",
    summary: "Prefers servers that run the asked LoRA adapter (1.0), then those with room for one more (0.8), then \
              those where it is queued (0.6), else 0.",
    schema: crate::registry::no_parameters_schema,
    build: |parameters| no_parameters(parameters).map(|()| Box::new(LoraAffinityScorer) as _),
};

#[derive(Debug)]
struct LoraAffinityScorer;

impl Scorer for LoraAffinityScorer {
    fn score(&self, signals: &Signals<'_>, scores: &mut [f32]) {
        let Some(model) = &signals.facts.model else {
            return scores.fill(NEUTRAL);
        };
        for (at, score) in scores.iter_mut().enumerate() {
            let adapters = &signals.snapshot.load.adapters[signals.rows[at] as usize];
            *score = match adapters {
                _ if !signals.fresh[at] => NEUTRAL,
                Some(adapters) if adapters.is_running(model.hash) => 1.0,
                Some(adapters) if adapters.has_room() => 0.8,
                Some(adapters) if adapters.is_waiting(model.hash) => 0.6,
                _ => 0.0,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::facts::{Facts, Model};
    use crate::load::{Adapters, Load};
    use crate::policy::Policy;
    use crate::pool::tests::PoolFixture;

    #[test]
    fn loaded_then_room_then_queued_then_nothing() {
        let adapters = [
            Adapters::new(2, ["chat-lora"], []),
            Adapters::new(2, ["other"], []),
            Adapters::new(2, ["a", "b"], ["chat-lora"]),
            Adapters::new(2, ["a", "b"], []),
        ];
        let mut fixture = PoolFixture::new(5, Policy::default());
        for (row, adapters) in adapters.into_iter().enumerate() {
            fixture.report_load(row, Load { adapters: Some(Arc::new(adapters)), ..Load::default() });
        }
        let facts = Facts { model: Some(Model::new("chat-lora")), ..Facts::default() };
        let scores = fixture.signals(&facts, |signals| {
            let mut scores = vec![0.0; 5];
            LoraAffinityScorer.score(signals, &mut scores);
            scores
        });
        assert_eq!(scores, [1.0, 0.8, 0.6, 0.0, 0.5]);
    }
}
