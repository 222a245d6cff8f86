//! The KV cache: blocks that running sequences hold, and finished ones' blocks that stay until someone needs the room.

use std::collections::{BTreeMap, HashMap};

/// Number of a block, an index into [`BlockCache::blocks`].
pub(super) type BlockId = u32;

/// One block's state.
#[derive(Debug, Clone, Default)]
struct Block {
    /// The chained hash under which others find it; absent while it is not full, or when another block has that hash.
    hash: Option<u64>,
    /// Running sequences that hold it; such a block is never evicted.
    holders: u32,
    /// Key in `idle` while nobody holds it.
    stamp: u64,
}

/// All blocks of one server.
///
/// A sequence gives its blocks back from tail to head, so the least recently used block of a chain is always its tail.
/// (Two sequences that compute the same head at once leave one copy unnamed, so a tail may outlive the head it was
/// computed on; it is then never found and leaves in its turn.)
#[derive(Debug)]
pub(super) struct BlockCache {
    blocks: Vec<Block>,
    /// Blocks that hold nothing.
    free: Vec<BlockId>,
    /// Held by nobody, findable, least recently used first.
    idle: BTreeMap<u64, BlockId>,
    by_hash: HashMap<u64, BlockId>,
    next_stamp: u64,
    /// Blocks with at least one holder.
    held: usize,
    /// Blocks promised to admitted sequences that have not taken them yet.
    reserved: usize,
}

impl BlockCache {
    /// An empty cache of `total` blocks.
    pub(super) fn new(total: usize) -> Self {
        Self {
            blocks: vec![Block::default(); total],
            free: (0..total as BlockId).rev().collect(),
            idle: BTreeMap::new(),
            by_hash: HashMap::new(),
            next_stamp: 0,
            held: 0,
            reserved: 0,
        }
    }

    /// How many of the leading `hashes` are here.
    pub(super) fn matched(&self, hashes: &[u64]) -> usize {
        hashes.iter().take_while(|hash| self.by_hash.contains_key(hash)).count()
    }

    /// Admits a sequence that reuses the blocks of `hashes` and will need `need` blocks in all.
    ///
    /// Returns the reused blocks, now held, with the rest promised; `None`, and nothing changed, when there is no room.
    pub(super) fn admit(&mut self, hashes: &[u64], need: usize) -> Option<Vec<BlockId>> {
        let reused: Vec<BlockId> = hashes.iter().map_while(|hash| self.by_hash.get(hash).copied()).collect();
        let woken = reused.iter().filter(|&&id| self.blocks[id as usize].holders == 0).count();
        let fresh = need.saturating_sub(reused.len());
        if self.held + woken + self.reserved + fresh > self.blocks.len() {
            return None;
        }
        for &id in &reused {
            let block = &mut self.blocks[id as usize];
            if block.holders == 0 {
                self.idle.remove(&block.stamp);
                self.held += 1;
            }
            block.holders += 1;
        }
        self.reserved += fresh;
        Some(reused)
    }

    /// Takes one promised block, evicting the least recently used idle one when none is empty.
    pub(super) fn take_reserved(&mut self) -> Option<BlockId> {
        let id = self.free.pop().or_else(|| self.evict())?;
        self.reserved = self.reserved.saturating_sub(1);
        self.held += 1;
        self.blocks[id as usize].holders = 1;
        Some(id)
    }

    /// Makes a full block findable, unless another one already has its hash.
    pub(super) fn register(&mut self, id: BlockId, hash: u64) {
        if let std::collections::hash_map::Entry::Vacant(entry) = self.by_hash.entry(hash) {
            entry.insert(id);
            self.blocks[id as usize].hash = Some(hash);
        }
    }

    /// Takes back a sequence's blocks, tail first, and the promises that it did not use.
    pub(super) fn release(&mut self, held: &[BlockId], unused: usize) {
        self.reserved = self.reserved.saturating_sub(unused);
        for &id in held.iter().rev() {
            let block = &mut self.blocks[id as usize];
            block.holders = block.holders.saturating_sub(1);
            if block.holders > 0 {
                continue;
            }
            self.held -= 1;
            if block.hash.is_some() {
                block.stamp = self.next_stamp;
                self.idle.insert(self.next_stamp, id);
                self.next_stamp += 1;
            } else {
                self.free.push(id);
            }
        }
    }

    /// Forgets everything that no running sequence holds.
    pub(super) fn clear_idle(&mut self) {
        while let Some(id) = self.evict() {
            self.free.push(id);
        }
    }

    /// Share of the blocks that running sequences hold, 0..1.
    pub(super) fn usage(&self) -> f64 {
        self.held as f64 / self.blocks.len().max(1) as f64
    }

    /// Findable blocks, held or idle.
    pub(super) fn findable(&self) -> usize {
        self.by_hash.len()
    }

    fn evict(&mut self) -> Option<BlockId> {
        let (_, id) = self.idle.pop_first()?;
        if let Some(hash) = self.blocks[id as usize].hash.take() {
            self.by_hash.remove(&hash);
        }
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a sequence of the given blocks through the cache and returns how many it could reuse.
    fn pass(cache: &mut BlockCache, hashes: &[u64]) -> usize {
        let hits = cache.matched(hashes);
        let mut held = cache.admit(&hashes[..hits], hashes.len()).unwrap();
        for &hash in &hashes[hits..] {
            let id = cache.take_reserved().unwrap();
            cache.register(id, hash);
            held.push(id);
        }
        cache.release(&held, 0);
        hits
    }

    #[test]
    fn eviction_takes_a_chains_tail_before_its_head() {
        let mut cache = BlockCache::new(8);
        assert_eq!(pass(&mut cache, &[1, 2, 3, 4, 5, 6]), 0);
        assert_eq!(pass(&mut cache, &[10, 11, 12, 13]), 0, "needs two blocks more than are empty");
        assert_eq!(cache.matched(&[1, 2, 3, 4, 5, 6]), 4, "the last two went, the head stayed");
        assert_eq!(cache.matched(&[10, 11, 12, 13]), 4);
    }

    #[test]
    fn what_was_used_last_leaves_last() {
        let mut cache = BlockCache::new(4);
        pass(&mut cache, &[1, 2]);
        pass(&mut cache, &[3, 4]);
        assert_eq!(pass(&mut cache, &[1, 2]), 2);
        pass(&mut cache, &[5, 6]);
        assert_eq!((cache.matched(&[1, 2]), cache.matched(&[3, 4])), (2, 0));
    }

    #[test]
    fn held_and_promised_blocks_are_never_given_away() {
        let mut cache = BlockCache::new(4);
        let held = cache.admit(&[], 3).unwrap();
        assert!(cache.admit(&[], 2).is_none(), "three of four are promised");
        let block = cache.take_reserved().unwrap();
        cache.register(block, 7);
        let shared = cache.admit(&[7], 2).unwrap();
        assert_eq!((held.len(), shared.len()), (0, 1));
        assert!((cache.usage() - 0.25).abs() < 1e-9);
        cache.release(&[block], 2);
        cache.release(&shared, 1);
        assert_eq!((cache.usage(), cache.findable()), (0.0, 1));
        assert!(cache.admit(&[], 4).is_some());
    }

    #[test]
    fn a_block_computed_twice_is_named_once_and_returns_to_the_empty_ones() {
        let mut cache = BlockCache::new(2);
        let (_, _) = (cache.admit(&[], 1), cache.admit(&[], 1));
        let (a, b) = (cache.take_reserved().unwrap(), cache.take_reserved().unwrap());
        cache.register(a, 9);
        cache.register(b, 9);
        cache.release(&[b], 0);
        cache.release(&[a], 0);
        assert_eq!((cache.findable(), cache.free.len(), cache.idle.len()), (1, 1, 1));
        cache.clear_idle();
        assert_eq!((cache.findable(), cache.free.len()), (0, 2));
    }
}
