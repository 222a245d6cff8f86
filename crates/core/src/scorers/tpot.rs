//! `tpot-scorer`: the faster a server's output tokens come, the better.

use super::{Scorer, ScorerDef, no_parameters};
use crate::signals::Signals;

pub(super) const DEF: ScorerDef = ScorerDef {
    name: "tpot-scorer",
    summary: "Prefers servers whose output tokens come fast: fastest TPOT / TPOT, learnt from the responses that pass; \
              1 until learnt. For pools of unlike servers.",
    schema: crate::registry::no_parameters_schema,
    build: |parameters| no_parameters(parameters).map(|()| Box::new(TpotScorer) as _),
};

#[derive(Debug)]
struct TpotScorer;

impl Scorer for TpotScorer {
    fn score(&self, signals: &Signals<'_>, scores: &mut [f32]) {
        let fastest = signals.tpot.iter().copied().filter(|tpot| *tpot > 0.0).fold(f32::INFINITY, f32::min);
        for (score, tpot) in scores.iter_mut().zip(signals.tpot) {
            *score = if *tpot > 0.0 { fastest / tpot } else { 1.0 };
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

    #[test]
    fn slow_servers_score_by_how_much_slower_they_are_and_unknown_ones_get_their_chance() {
        let fixture = PoolFixture::new(3, Policy::default());
        let cells = &fixture.pool.snapshot().members.cells;
        cells[0].observe_tpot(Duration::from_millis(25));
        cells[1].observe_tpot(Duration::from_millis(100));
        let scores = fixture.signals(&Facts::default(), |signals| {
            let mut scores = vec![0.0; 3];
            TpotScorer.score(signals, &mut scores);
            scores
        });
        assert_eq!(scores, [1.0, 0.25, 1.0]);
    }

    #[test]
    fn the_average_follows_a_server_that_grows_slow() {
        let fixture = PoolFixture::new(1, Policy::default());
        let cell = &fixture.pool.snapshot().members.cells[0];
        for (millis, count) in [(10, 20), (40, 20)] {
            (0..count).for_each(|_| cell.observe_tpot(Duration::from_millis(millis)));
            let tpot = cell.tpot().unwrap() * 1e3;
            assert!((tpot - millis as f32).abs() < 0.5, "{tpot}");
        }
    }
}
