//! Clusters, and what they are made of.

use pointsman_core::control_headers::{DESTINATION, METADATA_NAMESPACE, SERVED};
use serde_json::{Value, json};

use super::peer::Peer;
use super::{duration, typed};
use crate::wiring::{
    CONNECT_TIMEOUT, EDS_INITIAL_FETCH_TIMEOUT, EndpointProtocol, FailureMode, KEEPALIVE, NO_SUBSET_KEY,
    PEER_DNS_REFRESH, PICKER_HEALTH_CHECK, PICKER_OUTLIERS, PICKER_PANIC_PERCENT,
};

/// What a cluster says of its hosts' protocol under.
pub(crate) const HTTP_PROTOCOL_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// A picker's cluster: a replica that dies or hangs is noticed within a request or a second.
pub(crate) fn picker(name: &str, peer: &Peer, max_streams: u32) -> Value {
    let check = PICKER_HEALTH_CHECK;
    let outliers = PICKER_OUTLIERS;
    let mut cluster = grpc_server(name, peer);
    cluster["circuit_breakers"] = breakers(max_streams);
    cluster["common_lb_config"] = json!({"healthy_panic_threshold": {"value": PICKER_PANIC_PERCENT}});
    cluster["health_checks"] = json!([{
        "interval": duration(check.interval),
        "no_traffic_interval": duration(check.interval),
        "timeout": duration(check.timeout),
        "unhealthy_threshold": check.unhealthy_threshold,
        "healthy_threshold": check.healthy_threshold,
        // Else Envoy asks under the cluster's name, and a server refuses one that no host can have.
        "grpc_health_check": {"authority": peer.tls.as_ref().map_or("pointsman", |tls| tls.server_name.as_str())},
    }]);
    cluster["outlier_detection"] = json!({
        "split_external_local_origin_errors": true,
        "consecutive_local_origin_failure": outliers.consecutive_failures,
        "consecutive_gateway_failure": outliers.consecutive_failures,
        "consecutive_5xx": outliers.consecutive_failures,
        "enforcing_consecutive_local_origin_failure": 100,
        "enforcing_consecutive_gateway_failure": 100,
        "interval": duration(outliers.interval),
        "base_ejection_time": duration(outliers.base_ejection_time),
        "max_ejection_percent": outliers.max_ejection_percent,
        "always_eject_one_host": true,
    });
    cluster
}

/// The cluster of a gRPC server.
pub(crate) fn grpc_server(name: &str, peer: &Peer) -> Value {
    let interval = duration(KEEPALIVE.interval);
    let mut cluster = json!({
        "name": name,
        "connect_timeout": duration(CONNECT_TIMEOUT),
        "lb_policy": "ROUND_ROBIN",
        "load_assignment": peer.load_assignment(name),
        "typed_extension_protocol_options": http_protocol(json!({"http2_protocol_options": {
            "connection_keepalive": {
                "interval": interval,
                "timeout": duration(KEEPALIVE.timeout),
                "connection_idle_interval": interval,
            },
        }})),
    });
    if peer.is_static() {
        cluster["type"] = json!("STATIC");
    } else {
        // A headless Service names every replica, of either family.
        let dns = json!({"dns_lookup_family": "ALL", "dns_refresh_rate": duration(PEER_DNS_REFRESH)});
        let dns = typed("envoy.extensions.clusters.dns.v3.DnsCluster", dns);
        cluster["cluster_type"] = json!({"name": "envoy.clusters.dns", "typed_config": dns});
    }
    if let Some(tls) = &peer.tls {
        cluster["transport_socket"] = tls.transport_socket();
    }
    cluster
}

/// Where the endpoints of the pool of that name come from: the gRPC server that is asked as `grpc_service` says.
pub(crate) fn eds(pool: &str, grpc_service: &Value) -> Value {
    json!({
        "service_name": pool,
        "eds_config": {
            "resource_api_version": "V3",
            "initial_fetch_timeout": duration(EDS_INITIAL_FETCH_TIMEOUT),
            "api_config_source": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": true,
                "grpc_services": [grpc_service],
            },
        },
    })
}

/// The endpoint that the picker named; where that is none of the pool, or none was named, what the pool's failure mode
/// says.
pub(crate) fn picked(failure_mode: FailureMode) -> Value {
    let source = |key| json!({"key": METADATA_NAMESPACE, "path": [{"key": key}]});
    let fallback = match failure_mode {
        FailureMode::Open => least_request(),
        FailureMode::Closed => nobody(),
    };
    let config = json!({
        "override_host_sources": [{"metadata": source(DESTINATION)}],
        "selected_host_key": source(SERVED),
        "fallback_policy": fallback,
    });
    policies("override_host", "OverrideHost", config)
}

pub(crate) fn least_request() -> Value {
    policies("least_request", "LeastRequest", json!({}))
}

/// A policy that never finds an endpoint.
fn nobody() -> Value {
    let config = json!({
        "fallback_policy": "NO_FALLBACK",
        "subset_selectors": [{"keys": [NO_SUBSET_KEY]}],
        "subset_lb_policy": least_request(),
    });
    policies("subset", "Subset", config)
}

/// A list of the one policy.
pub(crate) fn policies(name: &str, message: &str, config: Value) -> Value {
    let config = typed(&format!("envoy.extensions.load_balancing_policies.{name}.v3.{message}"), config);
    let name = format!("envoy.load_balancing_policies.{name}");
    json!({"policies": [{"typed_extension_config": {"name": name, "typed_config": config}}]})
}

/// What hosts that speak this protocol are told of it.
pub(crate) fn explicit_http(protocol: EndpointProtocol) -> Value {
    match protocol {
        EndpointProtocol::Http1 => json!({"http_protocol_options": {}}),
        EndpointProtocol::H2c => json!({"http2_protocol_options": {}}),
    }
}

pub(crate) fn http_protocol(explicit: Value) -> Value {
    json!({HTTP_PROTOCOL_OPTIONS: typed(HTTP_PROTOCOL_OPTIONS, json!({"explicit_http_config": explicit}))})
}

/// Retries too: Envoy's own limit of three at once fails the requests of a pod that goes away under load.
pub(crate) fn breakers(max_streams: u32) -> Value {
    json!({"thresholds": [thresholds(max_streams)]})
}

pub(crate) fn thresholds(max_streams: u32) -> Value {
    json!({
        "max_connections": max_streams,
        "max_pending_requests": max_streams,
        "max_requests": max_streams,
        "max_retries": max_streams,
    })
}
