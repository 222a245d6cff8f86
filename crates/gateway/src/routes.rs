//! Routes: who gets which share of a rule's requests, who is asked about them, and the limits that fit to generated text.

use pointsman_envoy::wire::{Change, Field, Message, WireError, put_bytes, put_integer};
use pointsman_envoy::wiring::{DEFAULT_BODY_BUFFER_LIMIT, STREAM_IDLE_TIMEOUT};
use pointsman_envoy::xds::{self, EXT_PROC_FILTER};

use crate::clusters::{MakeError, picker_of};
use crate::picture::Picture;
use crate::rule::{PoolShare, Rule};

/// Fields of a Route.
mod route {
    pub(super) const ACTION: u32 = 2;
    pub(super) const TYPED_PER_FILTER_CONFIG: u32 = 13;
    pub(super) const PER_REQUEST_BUFFER_LIMIT: u32 = 16;
    pub(super) const REQUEST_BODY_BUFFER_LIMIT: u32 = 20;
}

/// Fields of a RouteAction.
mod action {
    pub(super) const CLUSTER: u32 = 1;
    pub(super) const WEIGHTED_CLUSTERS: u32 = 3;
    pub(super) const TIMEOUT: u32 = 8;
    pub(super) const RETRY_POLICY: u32 = 9;
    pub(super) const HASH_POLICY: u32 = 15;
    pub(super) const IDLE_TIMEOUT: u32 = 24;
    pub(super) const RETRY_POLICY_TYPED: u32 = 33;
}

/// Fields of a WeightedCluster.
mod weighted {
    pub(super) const CLUSTERS: u32 = 1;
    pub(super) const TOTAL_WEIGHT: u32 = 3;
    pub(super) const USE_HASH_POLICY: u32 = 5;
}

/// `ClusterWeight.typed_per_filter_config`.
const OF_ENTRY: u32 = 10;

/// A route that was made the rule's.
pub(crate) struct MadeRoute {
    /// The route.
    pub(crate) route: Vec<u8>,
    /// The clusters of Envoy Gateway's that it still names.
    pub(crate) kept: Vec<String>,
}

/// Makes a route that of its rule's pools; `None` where it goes to no cluster at all. `has_idle_timeout` says whether
/// the listener has a limit on idle streams of its user's own.
pub(crate) fn pool_route(
    found: &Message<'_>,
    rule: &Rule,
    picture: &Picture,
    has_idle_timeout: bool,
) -> Result<Option<MadeRoute>, MakeError> {
    if !found.has(route::ACTION) {
        return Ok(None);
    }
    let before = found.message(route::ACTION)?;
    let mut kept = kept_entries(&before, rule)?;
    let names = kept.iter().map(|entry| Ok(Message::read(entry)?.text(1).to_owned()));
    let names = names.collect::<Result<Vec<_>, WireError>>()?;

    let (mut of_action, mut of_route) = (Vec::new(), Vec::new());
    match (rule.pools.as_slice(), kept.is_empty()) {
        ([pool], true) => {
            put_bytes(&mut of_action, action::CLUSTER, pool.cluster.as_bytes());
            if let Some(entry) = per_filter(pool, picture)? {
                put_bytes(&mut of_route, route::TYPED_PER_FILTER_CONFIG, &entry);
            }
        }
        (pools, _) => {
            for pool in pools {
                let mut entry = xds::weighted_cluster(&pool.cluster, pool.weight)?;
                if let Some(per_filter) = per_filter(pool, picture)? {
                    put_bytes(&mut entry, OF_ENTRY, &per_filter);
                }
                kept.push(entry);
            }
            put_bytes(&mut of_action, action::WEIGHTED_CLUSTERS, &weighted_clusters(&before, &kept)?);
        }
    }
    if !before.has(action::TIMEOUT) {
        put_bytes(&mut of_action, action::TIMEOUT, &[]);
    }
    if !before.has(action::IDLE_TIMEOUT) && !has_idle_timeout {
        let mut idle = Vec::new();
        put_integer(&mut idle, 1, STREAM_IDLE_TIMEOUT.as_secs());
        put_bytes(&mut of_action, action::IDLE_TIMEOUT, &idle);
    }
    if !before.has(action::RETRY_POLICY) && !before.has(action::RETRY_POLICY_TYPED) {
        put_bytes(&mut of_action, action::RETRY_POLICY, &xds::retry_policy()?);
    }
    if !found.has(route::PER_REQUEST_BUFFER_LIMIT) && !found.has(route::REQUEST_BODY_BUFFER_LIMIT) {
        let mut limit = Vec::new();
        put_integer(&mut limit, 1, DEFAULT_BODY_BUFFER_LIMIT);
        put_bytes(&mut of_route, route::REQUEST_BODY_BUFFER_LIMIT, &limit);
    }
    let made = before.replaced(&[action::CLUSTER, action::WEIGHTED_CLUSTERS], &of_action);
    let set = |field: &Field<'_>| match field.number {
        route::ACTION => Change::Set(made.clone()),
        _ => Change::Keep,
    };
    Ok(Some(MadeRoute { route: found.changed(set, &of_route), kept: names }))
}

/// What Envoy Gateway made of the backendRefs that are no pools, as entries of a weighted route.
fn kept_entries(before: &Message<'_>, rule: &Rule) -> Result<Vec<Vec<u8>>, MakeError> {
    if before.has(action::WEIGHTED_CLUSTERS) {
        let entries = before.message(action::WEIGHTED_CLUSTERS)?;
        return Ok(entries.all(weighted::CLUSTERS).map(<[u8]>::to_vec).collect());
    }
    if rule.others == 0 {
        return Ok(Vec::new());
    }
    Ok(vec![xds::weighted_cluster(before.text(action::CLUSTER), rule.others)?])
}

/// A route's shares: these entries, with what Envoy Gateway says of how one is drawn.
fn weighted_clusters(before: &Message<'_>, entries: &[Vec<u8>]) -> Result<Vec<u8>, MakeError> {
    let mut added = Vec::new();
    entries.iter().for_each(|entry| put_bytes(&mut added, weighted::CLUSTERS, entry));
    if !before.has(action::WEIGHTED_CLUSTERS) && before.has(action::HASH_POLICY) {
        // As Envoy Gateway does for shares of its own: a client that is held to an endpoint is held to a share.
        let mut yes = Vec::new();
        put_integer(&mut yes, 1, 1);
        put_bytes(&mut added, weighted::USE_HASH_POLICY, &yes);
    }
    let before = before.message(action::WEIGHTED_CLUSTERS)?;
    Ok(before.replaced(&[weighted::CLUSTERS, weighted::TOTAL_WEIGHT], &added))
}

/// What is said of the filter that asks the picker, as an entry of `typed_per_filter_config`; `None` where nobody picks.
fn per_filter(share: &PoolShare, picture: &Picture) -> Result<Option<Vec<u8>>, MakeError> {
    let Some((cluster, authority)) = picker_of(&share.pool, picture) else { return Ok(None) };
    let overrides = xds::ext_proc_per_route(&share.pool.name, share.pool.failure_mode(), &cluster, &authority)?;
    let mut entry = Vec::new();
    put_bytes(&mut entry, 1, EXT_PROC_FILTER.as_bytes());
    put_bytes(&mut entry, 2, &overrides);
    Ok(Some(entry))
}
