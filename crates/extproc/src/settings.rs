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

/// Which of the client's headers are believed. What is not is dropped, and never reaches a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// The one that names an objective, and with it the request's priority.
    pub objective: bool,
}

/// The Service by whose name a gateway finds the picker of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PickerService {
    /// The Service's namespace.
    pub namespace: Arc<str>,
    /// The Service's name.
    pub name: Arc<str>,
}

/// The pools that this process serves. Written by whoever loads configuration, read once a stream.
#[derive(Debug, Default)]
pub struct PoolDirectory {
    listed: ArcSwap<Listed>,
}

/// The pools of one moment.
#[derive(Debug, Default)]
struct Listed {
    /// Whether anybody said which pools there are.
    is_told: bool,
    by_name: HashMap<Arc<str>, Arc<Pool>>,
    /// By `name.namespace` of the picker's Service; `None` where several pools have the same one.
    by_service: HashMap<String, Option<Arc<Pool>>>,
}

impl PoolDirectory {
    /// Makes these the pools, each with the Service of its picker where one is known.
    pub fn set(&self, pools: impl IntoIterator<Item = (Arc<Pool>, Option<PickerService>)>) {
        let mut listed = Listed { is_told: true, ..Listed::default() };
        for (pool, service) in pools {
            if let Some(PickerService { namespace, name }) = service {
                let only = |known: &mut Option<Arc<Pool>>| *known = None;
                listed
                    .by_service
                    .entry(format!("{name}.{namespace}"))
                    .and_modify(only)
                    .or_insert(Some(Arc::clone(&pool)));
            }
            listed.by_name.insert(Arc::clone(pool.name()), pool);
        }
        self.listed.store(Arc::new(listed));
    }

    /// Whether it was said which pools there are, even if there are none. What is asked before that cannot be answered.
    pub fn is_told(&self) -> bool {
        self.listed.load().is_told
    }

    /// All pools, in no order.
    pub fn all(&self) -> Vec<Arc<Pool>> {
        self.listed.load().by_name.values().cloned().collect()
    }

    /// The pool of this name.
    pub fn get(&self, name: &str) -> Option<Arc<Pool>> {
        self.listed.load().by_name.get(name).cloned()
    }

    /// The pool whose picker's Service an authority names, `NAME.NAMESPACE[.svc[.DOMAIN]][:PORT]`, where it is that of
    /// exactly one pool.
    pub fn by_authority(&self, authority: &str) -> Option<Arc<Pool>> {
        let listed = self.listed.load();
        if listed.by_service.is_empty() {
            return None;
        }
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        let mut labels = host.splitn(4, '.');
        let (name, namespace) = (labels.next()?, labels.next()?);
        labels.next().is_none_or(|label| label == "svc").then_some(())?;
        listed.by_service.get(&format!("{name}.{namespace}"))?.clone()
    }

    /// The pool, where there is exactly one.
    pub fn only(&self) -> Option<Arc<Pool>> {
        let listed = self.listed.load();
        let mut all = listed.by_name.values();
        all.next().filter(|_| listed.by_name.len() == 1).cloned()
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

#[cfg(test)]
mod tests {
    use pointsman_core::policy::Policy;

    use super::*;

    #[test]
    fn an_authority_names_the_pool_whose_pickers_service_it_is() {
        let directory = PoolDirectory::default();
        let pool = |name| Pool::new(name, Arc::new(Policy::default()), 1).0;
        let service = |name: &str| Some(PickerService { namespace: "prod".into(), name: name.into() });
        directory.set([
            (pool("prod/a"), service("picker-a")),
            (pool("prod/b"), service("picker-b")),
            (pool("prod/c"), service("picker-b")),
            (pool("prod/d"), None),
        ]);
        let found = |authority| directory.by_authority(authority).map(|pool| pool.name().to_string());
        for authority in
            ["picker-a.prod", "picker-a.prod:9002", "picker-a.prod.svc", "picker-a.prod.svc.cluster.local:9002"]
        {
            assert_eq!(found(authority).as_deref(), Some("prod/a"), "{authority}");
        }
        for authority in
            ["picker-b.prod.svc", "picker-a", "picker-a.test.svc", "picker-a.prod.example.com", "[::1]:9002", ""]
        {
            assert_eq!(found(authority), None, "{authority}");
        }
    }
}
