//! Who probably holds which prefix blocks: an approximation of every server's KV cache, from what was sent there.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::endpoint::EndpointId;
use crate::prefix::hasher::PrefixBlock;

const NONE: u32 = u32::MAX;
/// Bytes that one entry costs: the node, and its share of the table.
const BYTES_PER_ENTRY: usize = std::mem::size_of::<Node>() + 24;
/// Entries of departed endpoints that each insertion gives back, so that no single request pays for a sweep.
const RECLAIMED_PER_INSERT: usize = 64;

/// "This endpoint holds this block." A member of two lists: its endpoint's, by recency, and its block's holders.
#[derive(Clone, Copy, Debug)]
struct Node {
    hash: u64,
    slot: u32,
    generation: u32,
    tokens: u32,
    /// Counted at the pick and not yet confirmed by a response.
    predicted: bool,
    newer: u32,
    older: u32,
    next_holder: u32,
    prev_holder: u32,
}

/// One endpoint's blocks, most recently used first.
#[derive(Clone, Copy, Debug)]
struct Tenant {
    generation: u32,
    newest: u32,
    oldest: u32,
    tokens: u64,
    /// The server's own cache size, when it tells it: what does not fit there is not remembered here.
    capacity_tokens: u64,
}

impl Tenant {
    fn new(generation: u32) -> Self {
        Self { generation, newest: NONE, oldest: NONE, tokens: 0, capacity_tokens: u64::MAX }
    }
}

/// Block hashes are mixed already; the table needs no more than to spread what a client could aim at.
#[derive(Clone, Copy, Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        let wide = u128::from(value ^ self.0) * u128::from(0x9e37_79b9_7f4a_7c15_u64);
        self.0 = (wide >> 64) as u64 ^ wide as u64;
    }
}

/// How full the index is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexSize {
    /// Entries (a block held by one endpoint).
    pub entries: usize,
    /// Entries that it can hold.
    pub capacity: usize,
    /// Bytes that the entries cost.
    pub bytes: usize,
}

/// The approximate prefix index of one pool.
///
/// Bounded: when it is full, or an endpoint's share exceeds that server's cache, the endpoint's least recently used
/// block goes. A request touches its blocks from tail to head, so a chain's tail always goes before its head. Entries
/// carry slot and generation: those of a departed endpoint read as absent at once and are given back little by little.
#[derive(Debug)]
pub struct PrefixIndex {
    nodes: Vec<Node>,
    free: Vec<u32>,
    capacity: usize,
    holders: HashMap<u64, u32, BuildHasherDefault<Spread>>,
    tenants: Vec<Tenant>,
    departed: Vec<u32>,
    /// Tokens of all present tenants.
    tokens: u64,
    hand: usize,
}

impl PrefixIndex {
    /// An empty index that never costs more than about `memory` bytes.
    pub fn new(memory: usize) -> Self {
        Self {
            nodes: Vec::new(),
            free: Vec::new(),
            capacity: (memory / BYTES_PER_ENTRY).clamp(1, NONE as usize - 1),
            holders: HashMap::default(),
            tenants: Vec::new(),
            departed: Vec::new(),
            tokens: 0,
            hand: 0,
        }
    }

    /// How full it is.
    pub fn size(&self) -> IndexSize {
        let entries = self.nodes.len() - self.free.len();
        IndexSize { entries, capacity: self.capacity, bytes: self.nodes.capacity() * BYTES_PER_ENTRY }
    }

    /// Gives the slot to a new tenant. What its former tenant held reads as absent from here on.
    pub fn admit(&mut self, endpoint: EndpointId) {
        let slot = endpoint.slot as usize;
        if self.tenants.len() <= slot {
            self.tenants.resize(slot + 1, Tenant::new(0));
        }
        let former = std::mem::replace(&mut self.tenants[slot], Tenant::new(endpoint.generation));
        self.tokens -= former.tokens;
        if former.newest != NONE {
            self.departed.push(former.newest);
        }
    }

    /// Forgets an endpoint that went away.
    pub fn depart(&mut self, endpoint: EndpointId) {
        if self.is_tenant(endpoint) {
            self.admit(EndpointId { slot: endpoint.slot, generation: 0 });
        }
    }

    /// Limits an endpoint's share to its server's cache size.
    pub fn limit(&mut self, endpoint: EndpointId, capacity_tokens: u64) {
        if self.is_tenant(endpoint) {
            self.tenants[endpoint.slot as usize].capacity_tokens = capacity_tokens;
        }
    }

    /// Writes to `matched[slot]` how many of `blocks`, from the head on, each endpoint holds. Stops at the first block
    /// that nobody holds.
    pub fn lookup(&self, blocks: &[PrefixBlock], matched: &mut [u32]) {
        matched.fill(0);
        for (depth, block) in (0u32..).zip(blocks) {
            let mut advanced = false;
            let mut at = self.holders.get(&block.hash).copied().unwrap_or(NONE);
            while at != NONE {
                let node = &self.nodes[at as usize];
                if let Some(held) = matched.get_mut(node.slot as usize)
                    && *held == depth
                    && self.tenants[node.slot as usize].generation == node.generation
                {
                    *held = depth + 1;
                    advanced = true;
                }
                at = node.next_holder;
            }
            if !advanced {
                return;
            }
        }
    }

    /// Notes that `endpoint` will hold `blocks`, as a prediction until [`confirm`](Self::confirm)ed. Blocks that it
    /// held already are refreshed.
    pub fn predict(&mut self, endpoint: EndpointId, blocks: &[PrefixBlock]) {
        self.reclaim();
        if !self.is_tenant(endpoint) {
            return;
        }
        let slot = endpoint.slot as usize;
        for (depth, block) in blocks.iter().enumerate().rev() {
            let begins_at = if depth == 0 { 0 } else { blocks[depth - 1].tokens };
            match self.find(endpoint, block.hash) {
                Some(at) => self.touch(at),
                None => self.insert(endpoint, block.hash, block.tokens.saturating_sub(begins_at)),
            }
        }
        while self.tenants[slot].tokens > self.tenants[slot].capacity_tokens {
            self.remove(self.tenants[slot].oldest);
        }
    }

    /// Takes the prediction for granted: the server answered, so it has read the prompt.
    pub fn confirm(&mut self, endpoint: EndpointId, blocks: &[PrefixBlock]) {
        for block in blocks {
            if let Some(at) = self.find(endpoint, block.hash) {
                self.nodes[at as usize].predicted = false;
            }
        }
    }

    /// Takes back what was predicted and never confirmed: the request did not reach the server.
    pub fn withdraw(&mut self, endpoint: EndpointId, blocks: &[PrefixBlock]) {
        for block in blocks {
            if let Some(at) = self.find(endpoint, block.hash)
                && self.nodes[at as usize].predicted
            {
                self.remove(at);
            }
        }
    }

    fn is_tenant(&self, endpoint: EndpointId) -> bool {
        self.tenants.get(endpoint.slot as usize).is_some_and(|tenant| tenant.generation == endpoint.generation)
    }

    fn find(&self, endpoint: EndpointId, hash: u64) -> Option<u32> {
        if !self.is_tenant(endpoint) {
            return None;
        }
        let mut at = self.holders.get(&hash).copied()?;
        while at != NONE {
            let node = &self.nodes[at as usize];
            if node.slot == endpoint.slot && node.generation == endpoint.generation {
                return Some(at);
            }
            at = node.next_holder;
        }
        None
    }

    fn insert(&mut self, endpoint: EndpointId, hash: u64, tokens: u32) {
        let Some(at) = self.room(endpoint.slot as usize) else { return };
        let first = self.holders.insert(hash, at).unwrap_or(NONE);
        if first != NONE {
            self.nodes[first as usize].prev_holder = at;
        }
        self.nodes[at as usize] = Node {
            hash,
            slot: endpoint.slot,
            generation: endpoint.generation,
            tokens,
            predicted: true,
            newer: NONE,
            older: NONE,
            next_holder: first,
            prev_holder: NONE,
        };
        self.tenants[endpoint.slot as usize].tokens += u64::from(tokens);
        self.tokens += u64::from(tokens);
        self.link_newest(at);
    }

    /// A free node for the tenant of `slot`, made by evicting where need be.
    fn room(&mut self, slot: usize) -> Option<u32> {
        if self.free.is_empty() && self.nodes.len() < self.capacity {
            let vacant = Node {
                hash: 0,
                slot: NONE,
                generation: 0,
                tokens: 0,
                predicted: false,
                newer: NONE,
                older: NONE,
                next_holder: NONE,
                prev_holder: NONE,
            };
            self.nodes.push(vacant);
            return u32::try_from(self.nodes.len() - 1).ok();
        }
        if self.free.is_empty() {
            self.reclaim();
        }
        if self.free.is_empty() {
            self.evict_for(slot);
        }
        self.free.pop()
    }

    /// Evicts one entry of a full index: of the tenant that asks when it has its equal share already, else of the next
    /// one in turn that has more than that.
    fn evict_for(&mut self, slot: usize) {
        let share = self.tokens / self.tenants.len().max(1) as u64;
        let over = |tenant: &Tenant| tenant.oldest != NONE && tenant.tokens >= share;
        if over(&self.tenants[slot]) {
            return self.remove(self.tenants[slot].oldest);
        }
        for _ in 0..self.tenants.len() {
            self.hand = (self.hand + 1) % self.tenants.len();
            if over(&self.tenants[self.hand]) {
                return self.remove(self.tenants[self.hand].oldest);
            }
        }
    }

    /// Gives back some entries of departed endpoints.
    fn reclaim(&mut self) {
        for _ in 0..RECLAIMED_PER_INSERT {
            let Some(newest) = self.departed.pop() else { return };
            let older = self.nodes[newest as usize].older;
            if older != NONE {
                self.departed.push(older);
            }
            self.leave_holders(newest);
            self.free.push(newest);
        }
    }

    /// Drops an entry of a present tenant.
    fn remove(&mut self, at: u32) {
        if at == NONE {
            return;
        }
        let node = self.nodes[at as usize];
        self.unlink(at);
        self.leave_holders(at);
        let tenant = &mut self.tenants[node.slot as usize];
        tenant.tokens -= u64::from(node.tokens);
        self.tokens -= u64::from(node.tokens);
        self.free.push(at);
    }

    fn leave_holders(&mut self, at: u32) {
        let node = self.nodes[at as usize];
        if node.next_holder != NONE {
            self.nodes[node.next_holder as usize].prev_holder = node.prev_holder;
        }
        if node.prev_holder != NONE {
            self.nodes[node.prev_holder as usize].next_holder = node.next_holder;
        } else if node.next_holder != NONE {
            self.holders.insert(node.hash, node.next_holder);
        } else {
            self.holders.remove(&node.hash);
        }
    }

    fn touch(&mut self, at: u32) {
        self.unlink(at);
        self.link_newest(at);
    }

    fn unlink(&mut self, at: u32) {
        let node = self.nodes[at as usize];
        let tenant = &mut self.tenants[node.slot as usize];
        match node.newer {
            NONE => tenant.newest = node.older,
            newer => self.nodes[newer as usize].older = node.older,
        }
        match node.older {
            NONE => tenant.oldest = node.newer,
            older => self.nodes[older as usize].newer = node.newer,
        }
    }

    fn link_newest(&mut self, at: u32) {
        let tenant = &mut self.tenants[self.nodes[at as usize].slot as usize];
        let former = std::mem::replace(&mut tenant.newest, at);
        if tenant.oldest == NONE {
            tenant.oldest = at;
        }
        self.nodes[at as usize].newer = NONE;
        self.nodes[at as usize].older = former;
        if former != NONE {
            self.nodes[former as usize].newer = at;
        }
    }
}

#[cfg(test)]
mod tests {
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
        index.lookup(blocks, &mut matched);
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
    fn memory_stays_bounded_and_is_shared_alike() {
        let mut index = PrefixIndex::new(100 * BYTES_PER_ENTRY);
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
}
