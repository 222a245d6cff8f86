//! Pools that are narrowed: what a gateway would tell the picker of which endpoints it may choose among.

use pointsman_core::control_headers::{SUBSET, SUBSET_NAMESPACE};
use serde_json::{Value, json};

use super::PoolWiring;
use crate::parts::typed;

/// The name of the filter that tells the subset of a pool, which stands ahead of the one that asks.
pub(super) fn filter_name(cluster: &str) -> String {
    format!("pointsman.subset.{cluster}")
}

/// A filter that tells the picker the subset of one pool, disabled until that pool's route enables it.
pub(super) fn filter(cluster: &str, pool: &PoolWiring) -> Option<Value> {
    let subset: Vec<_> = pool.subset.as_ref()?.iter().map(ToString::to_string).collect();
    let metadata =
        json!([{"metadata_namespace": SUBSET_NAMESPACE, "allow_overwrite": true, "value": {SUBSET: subset}}]);
    let config = typed("envoy.extensions.filters.http.set_metadata.v3.Config", json!({"metadata": metadata}));
    Some(json!({"name": filter_name(cluster), "disabled": true, "typed_config": config}))
}
