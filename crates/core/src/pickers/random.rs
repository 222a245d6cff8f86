//! `random-picker`: any candidate, whatever its score.

use rand::RngExt;

use super::{Candidates, Picker, PickerDef, PickerMemory, choose_greatest};
use crate::registry::{NoParameters, no_parameters_schema, parse};

pub(super) const DEF: PickerDef = PickerDef {
    name: "random-picker",
    summary: "Picks any candidate, whatever its score.",
    schema: no_parameters_schema,
    build: |parameters| parse::<NoParameters>(parameters).map(|_| Box::new(RandomPicker) as _),
};

#[derive(Debug)]
struct RandomPicker;

impl Picker for RandomPicker {
    fn pick(&self, candidates: &Candidates<'_>, wanted: usize, memory: &mut PickerMemory, chosen: &mut Vec<u32>) {
        memory.keys.clear();
        for (at, _) in (0u32..).zip(candidates.ids) {
            memory.keys.push((memory.random.random(), at));
        }
        choose_greatest(&mut memory.keys, wanted, chosen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pickers::tests::picked;

    #[test]
    fn scores_make_no_difference() {
        let (counts, _) = picked(&RandomPicker, &[0.0, 1.0, 0.5, 0.1], 4000);
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
