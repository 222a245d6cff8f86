//! `max-score-picker`: the highest score wins, at random among equals.

use rand::seq::SliceRandom;

use super::{Candidates, Picker, PickerDef, PickerMemory, choose_greatest};
use crate::registry::{NoParameters, no_parameters_schema, parse};

pub(super) const DEF: PickerDef = PickerDef {
    name: "max-score-picker",
    summary: "Picks the highest score, at random among equals.",
    schema: no_parameters_schema,
    build: |parameters| parse::<NoParameters>(parameters).map(|_| Box::new(MaxScorePicker) as _),
};

#[derive(Debug)]
pub(super) struct MaxScorePicker;

impl Picker for MaxScorePicker {
    fn pick(&self, candidates: &Candidates<'_>, wanted: usize, memory: &mut PickerMemory, chosen: &mut Vec<u32>) {
        memory.keys.clear();
        memory.keys.extend(candidates.scores.iter().copied().zip(0u32..));
        memory.keys.shuffle(&mut memory.random);
        choose_greatest(&mut memory.keys, wanted, chosen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pickers::tests::picked;

    #[test]
    fn the_highest_score_wins_and_the_next_ones_follow() {
        let (counts, chosen) = picked(&MaxScorePicker, &[0.1, 0.9, 0.5, 0.7], 10);
        assert_eq!(counts, [0, 10, 0, 0]);
        assert_eq!(chosen, [1, 3, 2]);
    }

    #[test]
    fn equals_share_alike() {
        let (counts, _) = picked(&MaxScorePicker, &[0.5, 0.2, 0.5, 0.5], 3000);
        assert_eq!(counts[1], 0);
        assert!([0, 2, 3].iter().all(|at| (850..1150).contains(&counts[*at])), "{counts:?}");
    }
}
