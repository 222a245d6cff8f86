//! Resources, and parts of them, in Envoy's protobuf: for an Envoy that a control plane configures. What they say is
//! what [`crate::bootstrap`] says of the same things.

use serde_json::{Value, json};

use crate::bootstrap::{Peer, PeerAddress, PeerTls};
use crate::parts::cluster;
use crate::parts::ext_proc::{self, PoolOverrides};
use crate::protobuf::{EncodeError, encode};
use crate::wiring::{
    BodyMode, DEFAULT_RETRIES, EDS_RECONNECT_BASE, EDS_RECONNECT_MAX, EndpointProtocol, FailureMode, RETRY_ON,
};

/// The filter that removes what a client could name a destination by.
pub const HEADER_MUTATION_FILTER: &str = "envoy.filters.http.header_mutation/pointsman";
/// The filter that asks the picker.
pub const EXT_PROC_FILTER: &str = "envoy.filters.http.ext_proc/pointsman";
/// The key of [`explicit_http`] among a cluster's `typed_extension_protocol_options`.
pub const HTTP_PROTOCOL_OPTIONS: &str = cluster::HTTP_PROTOCOL_OPTIONS;

/// The server of endpoints, as an Envoy reaches it whose clusters came by CDS: those it asks by Google's gRPC client,
/// because a cluster of its own it would only take from the bootstrap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdsServer {
    /// Where it is.
    pub address: PeerAddress,
    /// How it proves who it is; `None` means plaintext, for the same host only.
    pub tls: Option<PeerTls>,
}

/// A pool as a cluster is told of it.
#[derive(Clone, Copy, Debug)]
pub struct PoolCluster<'a> {
    /// The cluster's name.
    pub name: &'a str,
    /// The pool's, `namespace/name`.
    pub pool: &'a str,
    /// What happens when the pick cannot be followed; `None` where nobody picks.
    pub picked: Option<FailureMode>,
    /// Where its endpoints come from.
    pub eds: &'a EdsServer,
}

impl EdsServer {
    fn grpc_service(&self) -> Value {
        let millis = |duration: std::time::Duration| json!({"int_value": duration.as_millis() as u64});
        let mut args = json!({
            "grpc.initial_reconnect_backoff_ms": millis(EDS_RECONNECT_BASE),
            "grpc.max_reconnect_backoff_ms": millis(EDS_RECONNECT_MAX),
        });
        let mut google = json!({"target_uri": self.address.to_string(), "stat_prefix": "pointsman_eds"});
        if let Some(tls) = &self.tls {
            let mut credentials = json!({"root_certs": tls.ca.data_source()});
            if let Some((certificate, key)) = &tls.client {
                credentials["cert_chain"] = certificate.data_source();
                credentials["private_key"] = key.data_source();
            }
            google["channel_credentials"] = json!({"ssl_credentials": credentials});
            if tls.server_name != self.address.host {
                args["grpc.ssl_target_name_override"] = json!({"string_value": tls.server_name});
            }
        }
        google["channel_args"] = json!({"args": args});
        json!({"google_grpc": google})
    }
}

impl PoolCluster<'_> {
    /// The fields of a cluster that make it the pool's: its name, its endpoints, and who chooses among them.
    pub fn fields(&self) -> Result<Vec<u8>, EncodeError> {
        let balancing = self.picked.map_or_else(cluster::least_request, cluster::picked);
        let fields = json!({
            "name": self.name,
            "type": "EDS",
            "eds_cluster_config": cluster::eds(self.pool, &self.eds.grpc_service()),
            "load_balancing_policy": balancing,
        });
        encode("envoy.config.cluster.v3.Cluster", &fields)
    }
}

/// A picker's cluster. One without addresses refuses at once whatever it is asked.
pub fn picker_cluster(name: &str, peer: &Peer, max_streams: u32) -> Result<Vec<u8>, EncodeError> {
    encode("envoy.config.cluster.v3.Cluster", &cluster::picker(name, peer, max_streams))
}

/// A whole threshold of a cluster's circuit breakers.
pub fn breaker_threshold(max_streams: u32) -> Result<Vec<u8>, EncodeError> {
    encode("envoy.config.cluster.v3.CircuitBreakers.Thresholds", &cluster::thresholds(max_streams))
}

/// What endpoints of that protocol are told of it, as `explicit_http_config`.
pub fn explicit_http(protocol: EndpointProtocol) -> Result<Vec<u8>, EncodeError> {
    encode(&format!("{HTTP_PROTOCOL_OPTIONS}.ExplicitHttpConfig"), &cluster::explicit_http(protocol))
}

/// The filter that removes what a client could name a destination by, for the head of a chain.
pub fn header_mutation_filter() -> Result<Vec<u8>, EncodeError> {
    http_filter(&ext_proc::header_mutation(HEADER_MUTATION_FILTER))
}

/// The filter that asks a picker, for right before the router; disabled until a pool's route enables it.
pub fn ext_proc_filter(picker_cluster: &str) -> Result<Vec<u8>, EncodeError> {
    http_filter(&ext_proc::filter(EXT_PROC_FILTER, ext_proc::picker(picker_cluster), false))
}

/// What a pool's route says of that filter, as an `Any`. `authority` is the picker's name to itself.
pub fn ext_proc_per_route(
    pool: &str,
    failure_mode: FailureMode,
    picker_cluster: &str,
    authority: &str,
) -> Result<Vec<u8>, EncodeError> {
    let mut picker = ext_proc::picker(picker_cluster);
    picker["envoy_grpc"]["authority"] = json!(authority);
    let overrides = PoolOverrides {
        pool,
        failure_mode,
        request_body: BodyMode::FullDuplex,
        response_body: BodyMode::FullDuplex,
        picker: Some(picker),
    };
    encode("google.protobuf.Any", &ext_proc::per_route(overrides))
}

/// The retries of a route that says nothing of them.
pub fn retry_policy() -> Result<Vec<u8>, EncodeError> {
    let policy = json!({"retry_on": RETRY_ON, "num_retries": DEFAULT_RETRIES});
    encode("envoy.config.route.v3.RetryPolicy", &policy)
}

/// One entry of a weighted route.
pub fn weighted_cluster(name: &str, weight: u32) -> Result<Vec<u8>, EncodeError> {
    encode("envoy.config.route.v3.WeightedCluster.ClusterWeight", &json!({"name": name, "weight": weight}))
}

fn http_filter(filter: &Value) -> Result<Vec<u8>, EncodeError> {
    encode("envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter", filter)
}
