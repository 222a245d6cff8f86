//! Claims about the prefix index, one of them against a plain model.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

fn id(slot: u32, generation: u32) -> EndpointId {
    EndpointId { slot, generation }
}

fn chain(seed: u64, len: u32) -> Vec<PrefixBlock> {
    (1..=len).map(|n| PrefixBlock { hash: seed * 1000 + u64::from(n), tokens: n * 64 }).collect()
}

fn held(index: &PrefixIndex, blocks: &[PrefixBlock], slots: usize) -> Vec<u32> {
    let mut matched = vec![9; slots];
    index.lookup(blocks, &mut matched, &mut Alive::default());
    matched
}

#[test]
fn finds_how_far_each_endpoint_holds_the_prompt() {
    let mut index = PrefixIndex::new(1 << 20);
    index.admit(id(0, 1));
    index.admit(id(1, 1));
    index.predict(id(0, 1), &chain(1, 5));
    index.predict(id(1, 1), &chain(1, 3));
    assert_eq!(held(&index, &chain(1, 8), 3), [5, 3, 0]);
    assert_eq!(held(&index, &chain(2, 8), 3), [0, 0, 0]);
}

#[test]
fn a_tail_goes_before_its_head() {
    let mut index = PrefixIndex::new(1 << 20);
    index.admit(id(0, 1));
    index.limit(id(0, 1), 64 * 6);
    index.predict(id(0, 1), &chain(1, 4));
    index.predict(id(0, 1), &chain(2, 4));
    assert_eq!(held(&index, &chain(1, 4), 1), [2]);
    assert_eq!(held(&index, &chain(2, 4), 1), [4]);
}

#[test]
fn a_prompt_longer_than_the_cache_keeps_its_head() {
    let mut index = PrefixIndex::new(1 << 20);
    index.admit(id(0, 1));
    index.limit(id(0, 1), 64 * 3);
    index.predict(id(0, 1), &chain(1, 10));
    assert_eq!(held(&index, &chain(1, 10), 1), [3]);
}

#[test]
fn a_departed_endpoint_leaves_nothing_behind() {
    let mut index = PrefixIndex::new(1 << 20);
    index.admit(id(0, 1));
    index.predict(id(0, 1), &chain(1, 50));
    index.depart(id(0, 1));
    assert_eq!(held(&index, &chain(1, 50), 1), [0]);
    index.admit(id(0, 2));
    assert_eq!(held(&index, &chain(1, 50), 1), [0]);
    index.confirm(id(0, 1), &chain(1, 50));
    index.predict(id(0, 1), &chain(3, 5));
    assert_eq!(held(&index, &chain(3, 5), 1), [0]);
    index.predict(id(0, 2), &chain(2, 1));
    assert_eq!(index.size().entries, 1);
}

#[test]
fn an_unconfirmed_prediction_can_be_taken_back() {
    let mut index = PrefixIndex::new(1 << 20);
    index.admit(id(0, 1));
    index.predict(id(0, 1), &chain(1, 2));
    index.confirm(id(0, 1), &chain(1, 2));
    index.predict(id(0, 1), &chain(1, 5));
    index.withdraw(id(0, 1), &chain(1, 5));
    assert_eq!(held(&index, &chain(1, 5), 1), [2]);
}

#[test]
fn a_request_that_fails_takes_nothing_from_another_that_is_under_way() {
    let mut index = PrefixIndex::new(1 << 20);
    index.admit(id(0, 1));
    index.predict(id(0, 1), &chain(1, 5));
    index.predict(id(0, 1), &chain(1, 8));
    index.withdraw(id(0, 1), &chain(1, 5));
    assert_eq!(held(&index, &chain(1, 8), 1), [8]);
    index.withdraw(id(0, 1), &chain(1, 8));
    assert_eq!(held(&index, &chain(1, 8), 1), [0]);
}

#[test]
fn memory_stays_bounded_and_is_shared_alike() {
    let mut index = PrefixIndex::new(100 * (BYTES_PER_ENTRY + Holders::heap_bytes(4)));
    for slot in 0..4 {
        index.admit(id(slot, 1));
    }
    for seed in 0..100 {
        index.predict(id((seed % 4) as u32, 1), &chain(seed, 10));
    }
    assert_eq!(index.size().entries, 100);
    for tenant in &index.tenants {
        assert!((15 * 64..=35 * 64).contains(&tenant.tokens), "{tenant:?}");
    }
}

/// The index against a plain model: a list of blocks an endpoint, newest first.
#[derive(Default)]
struct Plain {
    generation: u32,
    blocks: VecDeque<u64>,
}

proptest! {
    #[test]
    fn agrees_with_a_plain_model(steps in proptest::collection::vec((0u8..10, 0u32..3, 0u64..4, 1u32..8), 1..200)) {
        const CACHE: u64 = 64 * 12;
        let mut index = PrefixIndex::new(1 << 20);
        let mut plain: Vec<Plain> = (0..3).map(|_| Plain::default()).collect();
        for (step, slot, seed, len) in steps {
            let model = &mut plain[slot as usize];
            let blocks = chain(seed, len);
            if step == 0 {
                index.depart(id(slot, model.generation));
                prop_assert!(index.is_clear(slot));
                model.generation += 1;
                model.blocks.clear();
                index.admit(id(slot, model.generation));
                index.limit(id(slot, model.generation), CACHE);
            } else if model.generation > 0 {
                index.predict(id(slot, model.generation), &blocks);
                for block in blocks.iter().rev() {
                    model.blocks.retain(|hash| *hash != block.hash);
                    model.blocks.push_front(block.hash);
                }
                model.blocks.truncate(12);
            }
            for seed in 0..4 {
                let blocks = chain(seed, 8);
                let expected: Vec<u32> = plain
                    .iter()
                    .map(|model| blocks.iter().take_while(|block| model.blocks.contains(&block.hash)).count() as u32)
                    .collect();
                prop_assert_eq!(held(&index, &blocks, 3), expected);
            }
        }
    }
}
