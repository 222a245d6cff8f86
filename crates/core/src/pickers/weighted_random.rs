//! `weighted-random-picker`: at random, in proportion to the scores.

use rand::RngExt;

use super::{Candidates, Picker, PickerDef, PickerMemory, choose_greatest};
use crate::registry::{NoParameters, no_parameters_schema, parse};

pub(super) const DEF: PickerDef = PickerDef {
    name: "weighted-random-picker",
    summary: "Picks at random in proportion to the scores (A-Res: the greatest U^(1/score)); all alike when every score \
              is 0.",
    schema: no_parameters_schema,
    build: |parameters| parse::<NoParameters>(parameters).map(|_| Box::new(WeightedRandomPicker) as _),
};

/// Weighted sampling without replacement after Efraimidis and Spirakis, "Weighted random sampling with a reservoir",
/// 2006: the key of each candidate is `U^(1/w)`, compared here by its logarithm `ln(U)/w`.
#[derive(Debug)]
struct WeightedRandomPicker;

impl Picker for WeightedRandomPicker {
    fn pick(&self, candidates: &Candidates<'_>, wanted: usize, memory: &mut PickerMemory, chosen: &mut Vec<u32>) {
        let any = candidates.scores.iter().any(|score| *score > 0.0);
        memory.keys.clear();
        for (score, at) in candidates.scores.iter().zip(0u32..) {
            let log: f32 = memory.random.random::<f32>().max(f32::MIN_POSITIVE).ln();
            let key = match (any, *score > 0.0) {
                (false, _) => log,
                (true, true) => log / score,
                (true, false) => f32::NEG_INFINITY,
            };
            memory.keys.push((key, at));
        }
        choose_greatest(&mut memory.keys, wanted, chosen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pickers::tests::picked;

    #[test]
    fn picks_in_proportion_to_the_scores() {
        let (counts, _) = picked(&WeightedRandomPicker, &[0.0, 0.1, 0.3], 4000);
        assert_eq!(counts[0], 0);
        assert!((850..1150).contains(&counts[1]), "{counts:?}");
    }

    #[test]
    fn all_zero_is_all_alike() {
        let (counts, _) = picked(&WeightedRandomPicker, &[0.0; 4], 4000);
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
