//! What telemetry says of one endpoint, with the moment it was true.

use std::sync::Arc;

use crate::endpoint::EndpointId;
use crate::prefix::hash_name;
use crate::time::Tick;

/// One reading of a model server's own metrics. Made by telemetry, stored by the pool's writer.
///
/// A value that the server does not publish stays at its default: nothing waiting, nothing running, an empty cache.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Load {
    /// Requests in the server's queue.
    pub waiting: f32,
    /// Requests in the server's batch.
    pub running: f32,
    /// Share of the KV cache in use, 0 to 1.
    pub kv_cache_usage: f32,
    /// Size of the KV cache in tokens; `None` when the server does not say.
    pub kv_cache_tokens: Option<u64>,
    /// LoRA adapters; `None` when the server publishes none.
    pub adapters: Option<Arc<Adapters>>,
    /// This picker's requests in flight to the server when the reading was asked for: what was picked later is not in
    /// `waiting` yet.
    pub in_flight_at_scrape: u32,
    /// When the reading arrived.
    pub at: Tick,
}

/// A reading and whose it is, on its way to the pool's writer.
#[derive(Clone, Debug)]
pub struct LoadReport {
    /// Dropped by the writer when this endpoint is gone by then.
    pub endpoint: EndpointId,
    /// The reading.
    pub load: Load,
}

/// The LoRA adapters of one server, by the hash of their names so that a request compares numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adapters {
    /// How many may be loaded at once.
    pub max: u32,
    running: Box<[u64]>,
    waiting: Box<[u64]>,
}

impl Adapters {
    /// Adapters by name: `running` are loaded and in use, `waiting` have requests queued.
    pub fn new<'a>(
        max: u32,
        running: impl IntoIterator<Item = &'a str>,
        waiting: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        Self {
            max,
            running: running.into_iter().map(|name| hash_name(name.as_bytes())).collect(),
            waiting: waiting.into_iter().map(|name| hash_name(name.as_bytes())).collect(),
        }
    }

    /// Whether the adapter with this name hash is loaded and in use.
    pub fn is_running(&self, name_hash: u64) -> bool {
        self.running.contains(&name_hash)
    }

    /// Whether requests for the adapter with this name hash are queued.
    pub fn is_waiting(&self, name_hash: u64) -> bool {
        self.waiting.contains(&name_hash)
    }

    /// Whether one more adapter could be loaded without evicting another.
    pub fn has_room(&self) -> bool {
        self.running.len() + self.waiting.len() < self.max as usize
    }
}
