//! Sets of slots, as bits: who holds a block, and who holds all blocks so far.

use smallvec::SmallVec;

/// Slots in one word.
const WORD: usize = u64::BITS as usize;

/// The slots of the endpoints that hold one block, each with a value of its own; never empty. Most blocks have one
/// holder, and the table of all blocks stays small for it.
#[derive(Clone, Debug)]
pub(super) enum Holders {
    One { slot: u32, value: u32 },
    Many(Box<Many>),
}

/// Two holders or more, once.
#[derive(Clone, Debug, Default)]
pub(super) struct Many {
    first: u64,
    /// Slots from 64 on; as long as the highest one needs.
    further: Vec<u64>,
    /// The holders' values, by slot.
    values: SmallVec<[u32; 4]>,
}

impl Holders {
    /// The heap that a set over so many slots takes at most, a holder, when all hold as many blocks.
    pub(super) fn heap_bytes(slots: usize) -> usize {
        let words = slots.div_ceil(WORD).saturating_sub(1);
        (size_of::<Many>() + words * size_of::<u64>()) / 2
    }

    /// The value of a holder.
    pub(super) fn get(&self, slot: u32) -> Option<u32> {
        match self {
            Self::One { slot: only, value } => (*only == slot).then_some(*value),
            Self::Many(many) => many.get(slot),
        }
    }

    /// Adds a slot that is no holder yet.
    pub(super) fn insert(&mut self, slot: u32, value: u32) {
        if let Self::One { slot: first, value: of_first } = *self {
            let mut many = Box::<Many>::default();
            many.insert(first, of_first);
            *self = Self::Many(many);
        }
        if let Self::Many(many) = self {
            many.insert(slot, value);
        }
    }

    /// Takes a holder out, and says whether it was the last.
    pub(super) fn remove(&mut self, slot: u32) -> bool {
        match self {
            Self::One { slot: only, .. } => *only == slot,
            Self::Many(many) => {
                many.remove(slot);
                many.values.is_empty()
            }
        }
    }

    fn word(&self, word: usize) -> u64 {
        match self {
            Self::One { slot, .. } => {
                let (at, bit) = place(*slot);
                if at == word { bit } else { 0 }
            }
            Self::Many(many) => many.word(word),
        }
    }
}

impl Many {
    fn get(&self, slot: u32) -> Option<u32> {
        let (word, bit) = place(slot);
        if self.word(word) & bit == 0 {
            return None;
        }
        self.values.get(self.rank(word, bit)).copied()
    }

    fn insert(&mut self, slot: u32, value: u32) {
        let (word, bit) = place(slot);
        if word > self.further.len() {
            self.further.reserve_exact(word - self.further.len());
            self.further.resize(word, 0);
        }
        self.values.insert(self.rank(word, bit), value);
        *self.word_mut(word) |= bit;
    }

    fn remove(&mut self, slot: u32) {
        let (word, bit) = place(slot);
        if self.word(word) & bit != 0 {
            self.values.remove(self.rank(word, bit));
            *self.word_mut(word) &= !bit;
        }
    }

    /// How many holders have lower slots.
    fn rank(&self, word: usize, bit: u64) -> usize {
        let below: u32 = (0..word).map(|word| self.word(word).count_ones()).sum();
        (below + (self.word(word) & (bit - 1)).count_ones()) as usize
    }

    fn word_mut(&mut self, word: usize) -> &mut u64 {
        match word {
            0 => &mut self.first,
            _ => &mut self.further[word - 1],
        }
    }

    fn word(&self, word: usize) -> u64 {
        match word {
            0 => self.first,
            _ => self.further.get(word - 1).copied().unwrap_or(0),
        }
    }
}

/// The slots that held every block so far. Scratch space of a lookup, reused from request to request.
#[derive(Debug, Default)]
pub struct Alive(Vec<u64>);

impl Alive {
    /// All of the first `slots` slots.
    pub(super) fn reset(&mut self, slots: usize) {
        self.0.clear();
        self.0.resize(slots / WORD, u64::MAX);
        if !slots.is_multiple_of(WORD) {
            self.0.push((1 << (slots % WORD)) - 1);
        }
    }

    /// Keeps the slots that are holders, tells those that are not, and says whether any is left.
    pub(super) fn retain(&mut self, holders: &Holders, mut fallen: impl FnMut(usize)) -> bool {
        let mut left = 0;
        for (word, alive) in self.0.iter_mut().enumerate() {
            let held = *alive & holders.word(word);
            for_each_bit(word, *alive & !held, &mut fallen);
            *alive = held;
            left |= held;
        }
        left != 0
    }

    /// Tells the slots that are left.
    pub(super) fn for_each(&self, mut tell: impl FnMut(usize)) {
        self.0.iter().enumerate().for_each(|(word, alive)| for_each_bit(word, *alive, &mut tell));
    }
}

fn place(slot: u32) -> (usize, u64) {
    (slot as usize / WORD, 1 << (slot as usize % WORD))
}

fn for_each_bit(word: usize, mut bits: u64, tell: &mut impl FnMut(usize)) {
    while bits != 0 {
        tell(word * WORD + bits.trailing_zeros() as usize);
        bits &= bits - 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn keeps_exactly_the_holders(
            slots in 0usize..300,
            first in 0u32..300,
            inserted in proptest::collection::vec(0u32..300, 0..60),
            removed in proptest::collection::vec(0u32..300, 0..60),
        ) {
            let mut holders = Holders::One { slot: first, value: first + 1000 };
            let mut held = BTreeSet::from([first as usize]);
            for slot in inserted {
                if held.insert(slot as usize) {
                    holders.insert(slot, slot + 1000);
                }
            }
            for slot in removed {
                if held.len() > 1 && held.remove(&(slot as usize)) {
                    prop_assert!(!holders.remove(slot));
                }
            }
            for slot in 0..300 {
                let expected = held.contains(&(slot as usize)).then_some(slot + 1000);
                prop_assert_eq!(holders.get(slot), expected);
            }
            let mut alive = Alive::default();
            alive.reset(slots);
            let (mut fallen, mut left) = (BTreeSet::new(), BTreeSet::new());
            let any = alive.retain(&holders, |slot| { fallen.insert(slot); });
            alive.for_each(|slot| { left.insert(slot); });
            prop_assert_eq!(any, !left.is_empty());
            prop_assert_eq!(&left, &held.iter().copied().filter(|slot| *slot < slots).collect());
            prop_assert_eq!(fallen, (0..slots).filter(|slot| !left.contains(slot)).collect());
            for (rest, slot) in held.iter().enumerate().rev() {
                prop_assert_eq!(holders.remove(*slot as u32), rest == 0);
            }
        }
    }
}
