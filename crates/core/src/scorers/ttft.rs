//! `ttft-scorer`: the sooner the first token is to be expected, the better.

use super::{Scorer, ScorerDef, no_parameters};
use crate::signals::Signals;

pub(super) const DEF: ScorerDef = ScorerDef {
    name: "ttft-scorer",
    summary: "Prefers servers that will answer first: shortest TTFT / TTFT, where TTFT is (prefill backlog + uncached \
              prompt tokens) / prefill rate, a server's rate being learnt from the first tokens that pass. For streamed \
              answers, and for pools of unlike servers.",
    schema: crate::registry::no_parameters_schema,
    build: |parameters| no_parameters(parameters).map(|()| Box::new(TtftScorer) as _),
};

/// Added to every prediction, in seconds: a step of the engine and the way there, so that what nobody would feel makes
/// no difference.
const OVERHEAD: f32 = 0.02;
/// The rate, in tokens a second, where none was learnt of any server. It matters beside [`OVERHEAD`] alone.
const ASSUMED_RATE: f32 = 8_000.0;

#[derive(Debug)]
struct TtftScorer;

impl Scorer for TtftScorer {
    fn score(&self, signals: &Signals<'_>, scores: &mut [f32]) {
        // A server that nothing is known of is taken for as fast as the fastest, so that it gets its chance.
        let fastest = signals.prefill_rate.iter().copied().fold(0.0, f32::max);
        let unlearnt = if fastest > 0.0 { fastest } else { ASSUMED_RATE };
        let prompt = signals.facts.prompt_tokens as f32;
        let columns = signals.prefill_rate.iter().zip(signals.prefill_tokens).zip(signals.matched_tokens);
        let mut shortest = f32::INFINITY;
        for (score, ((rate, backlog), matched)) in scores.iter_mut().zip(columns) {
            let rate = if *rate > 0.0 { *rate } else { unlearnt };
            *score = OVERHEAD + (backlog + (prompt - matched).max(0.0)) / rate;
            shortest = shortest.min(*score);
        }
        for score in scores {
            *score = shortest / *score;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::facts::Facts;
    use crate::policy::Policy;
    use crate::pool::tests::PoolFixture;

    /// Scores a streamed prompt of 2,000 tokens, in milliseconds beyond the best prediction of `shortest`.
    fn predictions(fixture: &PoolFixture, shortest: f32) -> Vec<f32> {
        let facts = Facts { prompt_tokens: 2_000, stream: true, ..Facts::default() };
        fixture.signals(&facts, |signals| {
            let mut scores = vec![0.0; signals.rows.len()];
            TtftScorer.score(signals, &mut scores);
            scores.into_iter().map(|score| (shortest / score * 1e3).round()).collect()
        })
    }

    #[test]
    fn a_backlog_and_a_slow_server_both_make_the_first_token_late() {
        let fixture = PoolFixture::new(4, Policy::default());
        let facts = Facts { prompt_tokens: 1_000, stream: true, ..Facts::default() };
        let [fast, slow, busy] = [0, 1, 2].map(|row| fixture.depart(row, &facts));
        for (mut flight, millis) in [(fast, 125), (slow, 500)] {
            flight.first_token(fixture.now + Duration::from_millis(millis));
        }
        // The fast one computes 8,000 tokens a second, the slow one 2,000; the busy one and the last are unknown.
        assert_eq!(predictions(&fixture, 0.27), [270.0, 1_020.0, 395.0, 270.0]);
        drop(busy);
        assert_eq!(predictions(&fixture, 0.27), [270.0, 1_020.0, 270.0, 270.0]);
    }

    #[test]
    fn what_is_not_streamed_is_no_backlog() {
        let fixture = PoolFixture::new(1, Policy::default());
        let facts = Facts { prompt_tokens: 1_000, ..Facts::default() };
        let _held = fixture.depart(0, &facts);
        assert_eq!(fixture.pool.snapshot().members.cells[0].prefill_tokens(), 0);
    }
}
