//! The clusters of a bootstrap: one a pool.

use serde_json::{Value, json};

use super::{EDS_CLUSTER, WiredPool};
use crate::parts::cluster::{breakers, eds, explicit_http, http_protocol, least_request, picked, policies};
use crate::parts::duration;
use crate::wiring::{Balancer, CONNECT_TIMEOUT, EDS_RECONNECT_BASE, EDS_RECONNECT_MAX};

/// A pool's cluster: its endpoints come from the picker, and the pick says which of them.
pub(super) fn pool(pool: &WiredPool<'_>, max_streams: u32) -> Value {
    let eds_server = json!({"envoy_grpc": {
        "cluster_name": EDS_CLUSTER,
        "retry_policy": {"retry_back_off": {
            "base_interval": duration(EDS_RECONNECT_BASE),
            "max_interval": duration(EDS_RECONNECT_MAX),
        }},
    }});
    let balancing = match pool.wiring.balancer {
        Balancer::RoundRobin => policies("round_robin", "RoundRobin", json!({})),
        Balancer::LeastRequest => least_request(),
        Balancer::Picker => picked(pool.wiring.failure_mode),
    };
    json!({
        "name": pool.cluster,
        "type": "EDS",
        "connect_timeout": duration(CONNECT_TIMEOUT),
        "eds_cluster_config": eds(&pool.wiring.name, &eds_server),
        "circuit_breakers": breakers(max_streams),
        "typed_extension_protocol_options": http_protocol(explicit_http(pool.wiring.protocol)),
        "load_balancing_policy": balancing,
    })
}
