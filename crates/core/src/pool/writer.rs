//! The only writer of a pool: membership, load and policy go in, snapshots come out.

use std::collections::HashMap;
use std::sync::Arc;

use super::Pool;
use crate::endpoint::{Endpoint, EndpointCell, EndpointId};
use crate::load::LoadReport;
use crate::policy::Policy;
use crate::prefix::PrefixIndex;
use crate::snapshot::{LoadColumns, Members, PoolSnapshot};

/// Changes a pool. There is one a pool, held by the pool's owner task; changes show when they are published.
#[derive(Debug)]
pub struct PoolWriter {
    pool: Arc<Pool>,
    members: Arc<Members>,
    load: LoadColumns,
    policy: Arc<Policy>,
    /// The most bytes that the prefix index may take, whatever the policy allows.
    index_share: usize,
    /// Rows by slot, for reports.
    rows: HashMap<EndpointId, usize>,
    slots: Slots,
    version: u64,
    changed: bool,
}

/// Where a member's cell comes from.
enum Place {
    /// From this row of the former members.
    Kept(usize),
    /// Newly made, in this slot.
    New(EndpointId),
}

/// The slots that were handed out so far.
#[derive(Debug, Default)]
struct Slots {
    /// The newest generation of each.
    generations: Vec<u32>,
    /// Those without a tenant.
    free: Vec<u32>,
}

impl PoolWriter {
    pub(super) fn new(pool: Arc<Pool>) -> Self {
        let policy = Arc::clone(&pool.snapshot.load().policy);
        Self {
            pool,
            members: Arc::default(),
            load: LoadColumns::default(),
            policy,
            index_share: usize::MAX,
            rows: HashMap::new(),
            slots: Slots::default(),
            version: 0,
            changed: false,
        }
    }

    /// The pool that it writes.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Makes `endpoints` the pool's members, in this order. Those that stay keep their slot, counters, load and
    /// prefix; newcomers get a generation of their own and inherit nothing. Of two with one address the first counts.
    pub fn set_members<E: Into<Arc<Endpoint>>>(&mut self, endpoints: impl IntoIterator<Item = E>) {
        let mut staying: HashMap<(Arc<str>, u16), usize> = HashMap::new();
        for (row, endpoint) in self.members.endpoints.iter().enumerate() {
            staying.insert((endpoint.uid.clone(), endpoint.address.port()), row);
        }
        let (former, former_load) = (Arc::clone(&self.members), std::mem::take(&mut self.load));
        let mut rows = Vec::with_capacity(former.len());
        let mut addresses = std::collections::HashSet::new();
        let mut kept = vec![false; former.len()];
        for endpoint in endpoints {
            let endpoint: Arc<Endpoint> = endpoint.into();
            if !addresses.insert(endpoint.address) {
                continue;
            }
            let row = staying
                .remove(&(endpoint.uid.clone(), endpoint.address.port()))
                .filter(|row| former.endpoints[*row].is_same_server(&endpoint));
            match row {
                Some(row) => {
                    kept[row] = true;
                    rows.push((endpoint, Some(row)));
                }
                None => rows.push((endpoint, None)),
            }
        }
        let departed = former.ids.iter().zip(&kept).filter(|(_, kept)| !**kept).map(|(id, _)| *id);
        let places = self.move_in(departed, rows.iter().map(|(_, former_row)| *former_row));
        let mut paired = Vec::with_capacity(rows.len());
        for ((endpoint, former_row), place) in rows.into_iter().zip(places) {
            let cell = match place {
                Place::Kept(row) => former.cells[row].clone(),
                Place::New(id) => Arc::new(EndpointCell::new(id)),
            };
            self.load.push_row(&former_load, former_row);
            paired.push((endpoint, cell));
        }
        self.members = Arc::new(Members::new(paired));
        self.rows = self.members.ids.iter().enumerate().map(|(row, id)| (*id, row)).collect();
        self.changed = true;
    }

    /// Frees the slots of those that depart and gives slots to the newcomers, who have no former row. Picks wait for
    /// this, and for no more of a change of members.
    fn move_in(
        &mut self,
        departed: impl Iterator<Item = EndpointId>,
        former_rows: impl Iterator<Item = Option<usize>>,
    ) -> Vec<Place> {
        let index = &mut self.pool.turn.lock().index;
        for id in departed {
            index.depart(id);
            self.slots.free.push(id.slot);
        }
        let place = |former_row| match former_row {
            Some(row) => Place::Kept(row),
            None => {
                let id = self.slots.allot(|slot| index.is_clear(slot));
                index.admit(id);
                Place::New(id)
            }
        };
        former_rows.map(place).collect()
    }

    /// Takes in a reading; one of an endpoint that is gone is dropped.
    pub fn record_load(&mut self, report: LoadReport) {
        let Some(row) = self.rows.get(&report.endpoint).copied() else { return };
        let LoadReport { endpoint, load } = report;
        if load.kv_cache_tokens != self.load.kv_cache_tokens[row]
            && let Some(tokens) = load.kv_cache_tokens
        {
            self.pool.turn.lock().index.limit(endpoint, tokens);
        }
        self.load.waiting[row] = load.waiting;
        self.load.running[row] = load.running;
        self.load.kv_cache_usage[row] = load.kv_cache_usage;
        self.load.in_flight_at_scrape[row] = load.in_flight_at_scrape;
        self.load.at[row] = Some(load.at);
        self.load.adapters[row] = load.adapters;
        self.load.kv_cache_tokens[row] = load.kv_cache_tokens.or(self.load.kv_cache_tokens[row]);
        self.changed = true;
    }

    /// Replaces the policy. When prompts are cut otherwise the prefix index starts anew.
    pub fn set_policy(&mut self, policy: Arc<Policy>) {
        let memory = policy.prefix_cache.memory_limit.min(self.index_share);
        if policy.prefix_cache.layout == self.policy.prefix_cache.layout {
            self.pool.turn.lock().index.set_memory(memory);
        } else {
            let mut index = PrefixIndex::new(memory);
            for (row, id) in self.members.ids.iter().enumerate() {
                index.admit(*id);
                if let Some(tokens) = self.load.kv_cache_tokens[row] {
                    index.limit(*id, tokens);
                }
            }
            let former = std::mem::replace(&mut self.pool.turn.lock().index, index);
            // Freed here, after the lock: a full index takes a while.
            drop(former);
        }
        self.policy = policy;
        self.changed = true;
    }

    /// Bounds the prefix index to this many bytes, the pool's part of what the process may spend, where the policy allows
    /// more.
    pub fn set_index_share(&mut self, bytes: usize) {
        self.index_share = bytes;
        self.pool.turn.lock().index.set_memory(self.policy.prefix_cache.memory_limit.min(bytes));
    }

    /// Shows what changed since the last publication to all who pick from here on; says whether anything did.
    pub fn publish(&mut self) -> bool {
        let changed = std::mem::take(&mut self.changed);
        if changed {
            self.version += 1;
            self.pool.snapshot.store(Arc::new(PoolSnapshot {
                version: self.version,
                members: Arc::clone(&self.members),
                load: self.load.clone(),
                policy: Arc::clone(&self.policy),
            }));
        }
        changed
    }
}

impl Slots {
    /// A free slot that is clear, or else a new one, with a generation of its own.
    fn allot(&mut self, is_clear: impl Fn(u32) -> bool) -> EndpointId {
        let slot = match self.free.iter().position(|slot| is_clear(*slot)) {
            Some(at) => self.free.swap_remove(at),
            None => {
                self.generations.push(0);
                u32::try_from(self.generations.len() - 1).unwrap_or(u32::MAX)
            }
        };
        let generation = &mut self.generations[slot as usize];
        *generation += 1;
        EndpointId { slot, generation: *generation }
    }
}

impl LoadColumns {
    /// Appends a row: that of `former` at `row`, or that of an endpoint never scraped.
    fn push_row(&mut self, former: &Self, row: Option<usize>) {
        let row = row.filter(|row| *row < former.at.len());
        self.waiting.push(row.map_or(0.0, |row| former.waiting[row]));
        self.running.push(row.map_or(0.0, |row| former.running[row]));
        self.kv_cache_usage.push(row.map_or(0.0, |row| former.kv_cache_usage[row]));
        self.in_flight_at_scrape.push(row.map_or(0, |row| former.in_flight_at_scrape[row]));
        self.at.push(row.and_then(|row| former.at[row]));
        self.adapters.push(row.and_then(|row| former.adapters[row].clone()));
        self.kv_cache_tokens.push(row.and_then(|row| former.kv_cache_tokens[row]));
    }
}
