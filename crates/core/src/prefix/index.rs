//! Who probably holds which prefix blocks: an approximation of every server's KV cache, from what was sent there.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};

use crate::endpoint::EndpointId;
use crate::prefix::hasher::PrefixBlock;
use crate::prefix::holders::{Alive, Holders};

const NONE: u32 = u32::MAX;
/// Bytes that one entry costs, its share of the table included, when its block has no other holder.
const BYTES_PER_ENTRY: usize = std::mem::size_of::<Node>() + std::mem::size_of::<Holders>() + 16;
/// Entries of departed endpoints that each prediction gives back, so that no single request pays for a sweep.
const RECLAIMED_PER_REQUEST: usize = 64;
/// Entries that are given back when an endpoint departs or comes, which happens seldom.
const RECLAIMED_PER_CHANGE: usize = 16_384;

/// "This endpoint holds this block." A member of its endpoint's list, by recency.
#[derive(Clone, Copy, Debug)]
struct Node {
    hash: u64,
    slot: u32,
    tokens: u32,
    /// Whether a response confirmed that the server holds it.
    confirmed: bool,
    /// Requests under way that predict it, until their responses begin. It goes when the last of them fails and none
    /// was confirmed.
    predicted: u16,
    newer: u32,
    older: u32,
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
    /// Entries of the slot's former tenant that are still to be given back.
    leaving: u32,
    entries: u32,
}

impl Tenant {
    fn new(generation: u32) -> Self {
        Self { generation, newest: NONE, oldest: NONE, tokens: 0, capacity_tokens: u64::MAX, leaving: 0, entries: 0 }
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
/// block goes. A request touches its blocks from tail to head, so a chain's tail always goes before its head.
///
/// A departed endpoint's blocks are given back little by little, and its slot is not [`is_clear`](Self::is_clear) for
/// another before that is done: nothing of the one can be taken for the other's.
#[derive(Debug)]
pub struct PrefixIndex {
    nodes: Vec<Node>,
    free: Vec<u32>,
    memory: usize,
    /// Who holds a block, and by which entry.
    holders: HashMap<u64, Holders, BuildHasherDefault<Spread>>,
    tenants: Vec<Tenant>,
    /// The newest entries of departed endpoints' lists.
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
            memory,
            holders: HashMap::default(),
            tenants: Vec::new(),
            departed: Vec::new(),
            tokens: 0,
            hand: 0,
        }
    }

    /// Changes what it may cost. Shrinking takes effect little by little, as entries come.
    pub fn set_memory(&mut self, memory: usize) {
        self.memory = memory;
    }

    /// How full it is.
    pub fn size(&self) -> IndexSize {
        let entries = self.nodes.len() - self.free.len();
        IndexSize { entries, capacity: self.capacity(), bytes: self.nodes.capacity() * self.bytes_per_entry() }
    }

    /// Whether the slot may have a new tenant: nothing of a former one is left.
    pub fn is_clear(&self, slot: u32) -> bool {
        self.tenants.get(slot as usize).is_none_or(|tenant| tenant.leaving == 0 && tenant.entries == 0)
    }

    /// Gives the slot, which must be clear, to a new tenant.
    pub fn admit(&mut self, endpoint: EndpointId) {
        self.reclaim(RECLAIMED_PER_CHANGE);
        let slot = endpoint.slot as usize;
        if self.tenants.len() <= slot {
            self.tenants.resize(slot + 1, Tenant::new(0));
        }
        self.tenants[slot].generation = endpoint.generation;
    }

    /// Forgets an endpoint that went away.
    pub fn depart(&mut self, endpoint: EndpointId) {
        if !self.is_tenant(endpoint) {
            return;
        }
        let tenant = &mut self.tenants[endpoint.slot as usize];
        let former = std::mem::replace(tenant, Tenant::new(0));
        tenant.leaving = former.entries;
        self.tokens -= former.tokens;
        if former.newest != NONE {
            self.departed.push(former.newest);
        }
        self.reclaim(RECLAIMED_PER_CHANGE);
    }

    /// Limits an endpoint's share to its server's cache size.
    pub fn limit(&mut self, endpoint: EndpointId, capacity_tokens: u64) {
        if self.is_tenant(endpoint) {
            self.tenants[endpoint.slot as usize].capacity_tokens = capacity_tokens;
        }
    }

    /// Writes to `matched[slot]` how many of `blocks`, from the head on, each endpoint holds; `alive` is scratch space.
    /// Stops at the first block that nobody holds.
    pub fn lookup(&self, blocks: &[PrefixBlock], matched: &mut [u32], alive: &mut Alive) {
        matched.fill(0);
        alive.reset(self.tenants.len().min(matched.len()));
        let mut depth = 0;
        for block in blocks {
            let Some(holders) = self.holders.get(&block.hash) else { break };
            // Who falls out here holds what came before; at the head that is nothing.
            let any = alive.retain(holders, |slot| matched[slot] = depth);
            if !any {
                return;
            }
            depth += 1;
        }
        alive.for_each(|slot| matched[slot] = depth);
    }

    /// Notes that `endpoint` will hold `blocks`, as a prediction until [`confirm`](Self::confirm)ed. Blocks that it
    /// held already are refreshed.
    pub fn predict(&mut self, endpoint: EndpointId, blocks: &[PrefixBlock]) {
        self.reclaim(RECLAIMED_PER_REQUEST);
        if !self.is_tenant(endpoint) {
            return;
        }
        let slot = endpoint.slot as usize;
        for (depth, block) in blocks.iter().enumerate().rev() {
            let begins_at = if depth == 0 { 0 } else { blocks[depth - 1].tokens };
            match self.find(endpoint, block.hash) {
                Some(at) => {
                    let predicted = &mut self.nodes[at as usize].predicted;
                    *predicted = predicted.saturating_add(1);
                    self.touch(at);
                }
                None => self.insert(endpoint.slot, block.hash, block.tokens.saturating_sub(begins_at)),
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
                let node = &mut self.nodes[at as usize];
                node.confirmed = true;
                node.predicted = node.predicted.saturating_sub(1);
            }
        }
    }

    /// Takes back what was predicted and never confirmed: the request did not reach the server.
    pub fn withdraw(&mut self, endpoint: EndpointId, blocks: &[PrefixBlock]) {
        for block in blocks {
            if let Some(at) = self.find(endpoint, block.hash) {
                let node = &mut self.nodes[at as usize];
                node.predicted = node.predicted.saturating_sub(1);
                if node.predicted == 0 && !node.confirmed {
                    self.remove(at);
                }
            }
        }
    }

    fn is_tenant(&self, endpoint: EndpointId) -> bool {
        self.tenants.get(endpoint.slot as usize).is_some_and(|tenant| tenant.generation == endpoint.generation)
    }

    fn bytes_per_entry(&self) -> usize {
        BYTES_PER_ENTRY + Holders::heap_bytes(self.tenants.len())
    }

    fn capacity(&self) -> usize {
        (self.memory / self.bytes_per_entry()).clamp(1, NONE as usize - 1)
    }

    fn find(&self, endpoint: EndpointId, hash: u64) -> Option<u32> {
        if !self.is_tenant(endpoint) {
            return None;
        }
        self.holders.get(&hash)?.get(endpoint.slot)
    }

    fn insert(&mut self, slot: u32, hash: u64, tokens: u32) {
        let node = Node { hash, slot, tokens, confirmed: false, predicted: 1, newer: NONE, older: NONE };
        let Some(at) = self.place(node) else { return };
        self.holders
            .entry(hash)
            .and_modify(|holders| holders.insert(slot, at))
            .or_insert(Holders::One { slot, value: at });
        let tenant = &mut self.tenants[slot as usize];
        tenant.tokens += u64::from(tokens);
        tenant.entries += 1;
        self.tokens += u64::from(tokens);
        self.link_newest(at);
    }

    /// Puts a node where there is room, made by evicting where need be.
    fn place(&mut self, node: Node) -> Option<u32> {
        // More endpoints cost more an entry, so that the capacity may have shrunk: two for one until it is reached.
        for _ in 0..2 {
            if self.nodes.len() - self.free.len() >= self.capacity() {
                self.evict_for(node.slot as usize);
            }
        }
        if let Some(at) = self.free.pop() {
            self.nodes[at as usize] = node;
            return Some(at);
        }
        let at = u32::try_from(self.nodes.len()).ok().filter(|at| *at != NONE)?;
        self.nodes.push(node);
        Some(at)
    }

    /// Evicts one entry of a full index: of a departed endpoint when there is one, of the tenant that asks when it has
    /// its equal share already, else of the next one in turn that has more than that.
    fn evict_for(&mut self, slot: usize) {
        if !self.departed.is_empty() {
            return self.reclaim(1);
        }
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

    /// Gives back at most so many entries of departed endpoints.
    fn reclaim(&mut self, most: usize) {
        for _ in 0..most {
            let Some(newest) = self.departed.pop() else { return };
            let node = self.nodes[newest as usize];
            if node.older != NONE {
                self.departed.push(node.older);
            }
            self.tenants[node.slot as usize].leaving -= 1;
            self.release(newest);
        }
    }

    /// Drops an entry of a present tenant.
    fn remove(&mut self, at: u32) {
        if at == NONE {
            return;
        }
        let node = self.nodes[at as usize];
        self.unlink(at);
        let tenant = &mut self.tenants[node.slot as usize];
        tenant.tokens -= u64::from(node.tokens);
        tenant.entries -= 1;
        self.tokens -= u64::from(node.tokens);
        self.release(at);
    }

    /// Takes an entry out of the tables and frees its node.
    fn release(&mut self, at: u32) {
        let Node { hash, slot, .. } = self.nodes[at as usize];
        if let Entry::Occupied(mut holders) = self.holders.entry(hash)
            && holders.get_mut().remove(slot)
        {
            holders.remove();
        }
        self.free.push(at);
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
mod tests;
