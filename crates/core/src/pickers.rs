//! Pickers: who is chosen, once all are scored. One file a picker, one line in [`BUILTIN`].

mod max_score;
mod random;
mod round_robin;
mod weighted_random;

use rand::rngs::SmallRng;

use crate::endpoint::EndpointId;
use crate::registry::PluginDef;

/// Chooses among scored candidates.
pub trait Picker: Send + Sync + std::fmt::Debug {
    /// Writes the positions of up to `wanted` distinct candidates into `chosen` (which is empty), best first; the
    /// first is the pick, the others are its fallbacks in order. `candidates` is never empty.
    fn pick(&self, candidates: &Candidates<'_>, wanted: usize, memory: &mut PickerMemory, chosen: &mut Vec<u32>);
}

/// The candidates of one pick; both slices have one element a candidate.
#[derive(Clone, Copy, Debug)]
pub struct Candidates<'a> {
    /// Weighted sums of the scores, 0 or more, never NaN.
    pub scores: &'a [f32],
    /// Who they are.
    pub ids: &'a [EndpointId],
}

/// What pickers remember from pick to pick, kept by the pool.
#[derive(Debug)]
pub struct PickerMemory {
    /// The pool's source of randomness.
    pub random: SmallRng,
    /// Whose turn it was last, in round robin.
    pub last: Option<EndpointId>,
    /// Sort keys, reused from pick to pick.
    pub keys: Vec<(f32, u32)>,
}

/// A picker under its name.
pub type PickerDef = PluginDef<dyn Picker>;

/// The pickers that come with Pointsman, by name.
pub const BUILTIN: &[PickerDef] = &[max_score::DEF, random::DEF, round_robin::DEF, weighted_random::DEF];

/// The picker of a policy that names none.
pub(crate) fn max_score() -> Box<dyn Picker> {
    Box::new(max_score::MaxScorePicker)
}

/// Writes the positions of the `wanted` greatest keys into `chosen`, greatest first.
fn choose_greatest(keys: &mut [(f32, u32)], wanted: usize, chosen: &mut Vec<u32>) {
    for rank in 0..wanted.min(keys.len()) {
        let mut best = rank;
        for at in rank + 1..keys.len() {
            if keys[at].0 > keys[best].0 {
                best = at;
            }
        }
        keys.swap(rank, best);
        chosen.push(keys[rank].1);
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    /// How often each candidate was picked first, and the last list of fallbacks.
    pub(super) fn picked(picker: &dyn Picker, scores: &[f32], times: usize) -> (Vec<u32>, Vec<u32>) {
        let ids: Vec<_> = (0u32..).zip(scores).map(|(slot, _)| EndpointId { slot, generation: 1 }).collect();
        let mut memory = PickerMemory { random: SmallRng::seed_from_u64(7), last: None, keys: Vec::new() };
        let mut counts = vec![0; scores.len()];
        let mut chosen = Vec::new();
        for _ in 0..times {
            chosen.clear();
            picker.pick(&Candidates { scores, ids: &ids }, 3, &mut memory, &mut chosen);
            let mut distinct = chosen.clone();
            distinct.sort_unstable();
            distinct.dedup();
            assert_eq!(distinct.len(), 3.min(scores.len()), "{chosen:?}");
            counts[chosen[0] as usize] += 1;
        }
        (counts, chosen)
    }

    #[test]
    fn names_are_unique_and_sorted() {
        assert!(BUILTIN.windows(2).all(|pair| pair[0].name < pair[1].name));
    }

    #[test]
    fn every_picker_takes_one_candidate_as_well_as_many() {
        for def in BUILTIN {
            let picker = (def.build)(serde_json::Value::Null).unwrap();
            for len in 1..6 {
                picked(&*picker, &vec![0.5; len], 10);
            }
        }
    }
}
