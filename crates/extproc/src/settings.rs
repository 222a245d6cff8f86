//! What belongs to the process: limits, and what all streams share.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use pointsman_core::pool::Pool;

/// Bounds of one request and of all together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes of a request body; more is 413. Tunnels (upgrades, gRPC streams) are not bodies and not bounded.
    pub max_body_size: u64,
    /// The most bytes of bodies that all requests together may hold while they wait for a decision; more is 503.
    pub buffer_budget: usize,
    /// The most streams open at once; more are refused.
    pub max_streams: usize,
    /// A request of which nothing came for this long ends.
    pub request_idle: Duration,
    /// A response of which nothing came for this long ends.
    pub response_idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body_size: 32 << 20,
            buffer_budget: 256 << 20,
            max_streams: 10_000,
            request_idle: Duration::from_secs(60),
            response_idle: Duration::from_secs(300),
        }
    }
}

/// The pools that this process serves, by name. Written by whoever loads configuration, read once a stream.
#[derive(Debug, Default)]
pub struct PoolDirectory {
    pools: ArcSwap<HashMap<Arc<str>, Arc<Pool>>>,
}

impl PoolDirectory {
    /// Makes these the pools.
    pub fn set(&self, pools: impl IntoIterator<Item = Arc<Pool>>) {
        self.pools.store(Arc::new(pools.into_iter().map(|pool| (Arc::clone(pool.name()), pool)).collect()));
    }

    /// All pools, in no order.
    pub fn all(&self) -> Vec<Arc<Pool>> {
        self.pools.load().values().cloned().collect()
    }

    /// The pool of this name.
    pub fn get(&self, name: &str) -> Option<Arc<Pool>> {
        self.pools.load().get(name).cloned()
    }

    /// The pool, where there is exactly one.
    pub fn only(&self) -> Option<Arc<Pool>> {
        let pools = self.pools.load();
        let mut all = pools.values();
        all.next().filter(|_| pools.len() == 1).cloned()
    }
}

/// Bytes of bodies that are held for a decision, over all streams.
#[derive(Debug, Default)]
pub struct BufferBudget {
    held: AtomicUsize,
}

impl BufferBudget {
    /// Bytes held now.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

/// One stream's part of the [`BufferBudget`], given back when dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    budget: Arc<BufferBudget>,
    bytes: usize,
}

impl Reservation {
    pub(crate) fn new(budget: &Arc<BufferBudget>) -> Self {
        Self { budget: Arc::clone(budget), bytes: 0 }
    }

    /// Takes `bytes` more, unless all streams together would then hold more than `limit`.
    pub(crate) fn grow(&mut self, bytes: usize, limit: usize) -> bool {
        let grow = |held: usize| held.checked_add(bytes).filter(|held| *held <= limit);
        let fits = self.budget.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grow).is_ok();
        self.bytes += if fits { bytes } else { 0 };
        fits
    }

    pub(crate) fn release(&mut self) {
        if self.bytes > 0 {
            self.budget.held.fetch_sub(std::mem::take(&mut self.bytes), Ordering::Relaxed);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.release();
    }
}

/// Makes ids for requests that bring none.
#[derive(Debug)]
pub(crate) struct RequestIds {
    seed: u64,
    next: AtomicU64,
}

impl RequestIds {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, next: AtomicU64::new(0) }
    }

    pub(crate) fn make(&self) -> Arc<str> {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        let id = pointsman_core::prefix::mix(self.seed, next);
        format!("pointsman-{id:016x}").into()
    }
}
