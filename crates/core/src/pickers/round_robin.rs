//! `round-robin-picker`: each in turn.

use super::{Candidates, Picker, PickerDef, PickerMemory};
use crate::registry::{NoParameters, no_parameters_schema, parse};

pub(super) const DEF: PickerDef = PickerDef {
    name: "round-robin-picker",
    summary: "Picks the candidates in turn, whatever their scores.",
    schema: no_parameters_schema,
    build: |parameters| parse::<NoParameters>(parameters).map(|_| Box::new(RoundRobinPicker) as _),
};

/// The turn goes by slot, so that it holds while candidates come and go.
#[derive(Debug)]
struct RoundRobinPicker;

impl Picker for RoundRobinPicker {
    fn pick(&self, candidates: &Candidates<'_>, wanted: usize, memory: &mut PickerMemory, chosen: &mut Vec<u32>) {
        memory.keys.clear();
        let mut after = memory.last;
        for _ in 0..wanted.min(candidates.ids.len()) {
            let next = (0u32..)
                .zip(candidates.ids)
                .filter(|(_, id)| after.is_none_or(|after| **id > after))
                .min_by_key(|(_, id)| **id)
                .or_else(|| (0u32..).zip(candidates.ids).min_by_key(|(_, id)| **id));
            let Some((at, id)) = next else { return };
            if chosen.is_empty() {
                memory.last = Some(*id);
            }
            after = Some(*id);
            chosen.push(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pickers::tests::picked;

    #[test]
    fn each_gets_its_turn_and_the_next_ones_are_its_fallbacks() {
        let (counts, chosen) = picked(&RoundRobinPicker, &[0.0, 1.0, 0.0, 0.0], 8);
        assert_eq!(counts, [2, 2, 2, 2]);
        assert_eq!(chosen, [3, 0, 1]);
    }
}
