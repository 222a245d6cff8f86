//! The picture of a pool that one scheduling attempt reads: members, their load, the policy, all of one moment.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::endpoint::{Endpoint, EndpointCell, EndpointId};
use crate::load::Adapters;
use crate::policy::Policy;
use crate::time::Tick;

/// Who is in the pool. Changed only by membership; behind an `Arc` of its own, so that a publication of load alone
/// does not copy it. All columns have one row an endpoint, in the same order.
#[derive(Debug, Default)]
pub struct Members {
    /// Static attributes.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Slot and generation.
    pub ids: Vec<EndpointId>,
    /// What this process counts.
    pub cells: Vec<Arc<EndpointCell>>,
    by_address: HashMap<SocketAddr, u32>,
    slots: u32,
}

impl Members {
    pub(crate) fn new(rows: Vec<(Arc<Endpoint>, Arc<EndpointCell>)>) -> Self {
        let mut members = Self::default();
        for (row, (endpoint, cell)) in (0u32..).zip(rows) {
            members.by_address.insert(endpoint.address, row);
            members.slots = members.slots.max(cell.id().slot + 1);
            members.ids.push(cell.id());
            members.endpoints.push(endpoint);
            members.cells.push(cell);
        }
        members
    }

    /// How many endpoints there are.
    pub fn len(&self) -> usize {
        self.endpoints.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// The row of the endpoint that takes requests at `address`.
    pub fn row_at(&self, address: SocketAddr) -> Option<u32> {
        self.by_address.get(&address).copied()
    }

    /// One more than the highest slot in use.
    pub fn slots(&self) -> u32 {
        self.slots
    }
}

/// The members' load, a column a value, rows as in [`Members`].
#[derive(Clone, Debug, Default)]
pub struct LoadColumns {
    /// Requests in the server's queue at the last scrape.
    pub waiting: Vec<f32>,
    /// Requests in the server's batch at the last scrape.
    pub running: Vec<f32>,
    /// Share of the KV cache in use at the last scrape, 0 to 1.
    pub kv_cache_usage: Vec<f32>,
    /// This process's requests in flight at the last scrape.
    pub in_flight_at_scrape: Vec<u32>,
    /// When the last scrape arrived; `None` before the first.
    pub at: Vec<Option<Tick>>,
    /// LoRA adapters at the last scrape.
    pub adapters: Vec<Option<Arc<Adapters>>>,
    /// Size of the KV cache in tokens, where known.
    pub kv_cache_tokens: Vec<Option<u64>>,
}

impl LoadColumns {
    /// How old the row's reading is; `None` before the first.
    pub fn age(&self, row: usize, now: Tick) -> Option<Duration> {
        self.at[row].map(|at| now.since(at))
    }

    /// Whether the row's reading is younger than `stale_after`.
    pub fn is_fresh(&self, row: usize, now: Tick, stale_after: Duration) -> bool {
        self.age(row, now).is_some_and(|age| age < stale_after)
    }
}

/// One moment of one pool. Immutable: nothing in it changes under a reader, except the counters in the cells.
#[derive(Debug)]
pub struct PoolSnapshot {
    /// Counts publications.
    pub version: u64,
    /// Who is in the pool.
    pub members: Arc<Members>,
    /// How loaded they are.
    pub load: LoadColumns,
    /// How to choose among them.
    pub policy: Arc<Policy>,
}
