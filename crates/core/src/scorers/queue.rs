//! `queue-scorer`: the shorter the server's queue, the better.

use super::{Scorer, ScorerDef, no_parameters, score_lower_is_better};
use crate::signals::Signals;

pub(super) const DEF: ScorerDef = ScorerDef {
    name: "queue-scorer",
    summary: "Prefers short queues: (max - waiting) / (max - min), 1 when all are equal; waiting is the scraped value \
              corrected by what was picked since.",
    schema: crate::registry::no_parameters_schema,
    build: |parameters| no_parameters(parameters).map(|()| Box::new(QueueScorer) as _),
};

#[derive(Debug)]
struct QueueScorer;

impl Scorer for QueueScorer {
    fn score(&self, signals: &Signals<'_>, scores: &mut [f32]) {
        score_lower_is_better(signals, signals.waiting, scores);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Facts;
    use crate::scorers::tests::scores;

    #[test]
    fn short_queues_score_high_and_equal_ones_alike() {
        for (waiting, expected) in
            [(&[3.0, 0.0, 10.0][..], &[0.7, 1.0, 0.0][..]), (&[4.0, 4.0], &[1.0, 1.0]), (&[7.0], &[1.0])]
        {
            let endpoints: Vec<_> = waiting.iter().map(|w| Some((*w, 0.0, 0.0))).collect();
            assert_eq!(scores(&QueueScorer, &Facts::default(), &endpoints, &[]), expected);
        }
    }

    #[test]
    fn a_stale_endpoint_is_neutral_and_falls_with_what_we_sent_it() {
        let endpoints = [Some((5.0, 0.0, 0.0)), None, None, Some((0.0, 0.0, 0.0))];
        assert_eq!(scores(&QueueScorer, &Facts::default(), &endpoints, &[0, 0, 4, 0]), [0.0, 0.5, 0.0, 1.0]);
    }
}
