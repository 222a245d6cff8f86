//! Clusters: the picker, the server of endpoints, and one a pool.

use pointsman_core::control_headers::{DESTINATION, METADATA_NAMESPACE, SERVED};
use serde_json::{Value, json};

use super::{EDS_CLUSTER, PICKER_CLUSTER, Peer, WiredPool, duration, typed};
use crate::wiring::{
    Balancer, CONNECT_TIMEOUT, EDS_INITIAL_FETCH_TIMEOUT, EDS_RECONNECT_BASE, EDS_RECONNECT_MAX, EndpointProtocol,
    FailureMode, KEEPALIVE, NO_SUBSET_KEY, PEER_DNS_REFRESH, PICKER_HEALTH_CHECK, PICKER_OUTLIERS,
    PICKER_PANIC_PERCENT,
};

/// The picker's cluster: a replica that dies or hangs is noticed within a request or a second.
pub(super) fn picker(peer: &Peer, max_streams: u32) -> Value {
    let check = PICKER_HEALTH_CHECK;
    let outliers = PICKER_OUTLIERS;
    let mut cluster = grpc_server(PICKER_CLUSTER, peer);
    cluster["circuit_breakers"] = breakers(max_streams);
    cluster["common_lb_config"] = json!({"healthy_panic_threshold": {"value": PICKER_PANIC_PERCENT}});
    cluster["health_checks"] = json!([{
        "interval": duration(check.interval),
        "no_traffic_interval": duration(check.interval),
        "timeout": duration(check.timeout),
        "unhealthy_threshold": check.unhealthy_threshold,
        "healthy_threshold": check.healthy_threshold,
        "grpc_health_check": {},
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

/// The cluster of the server of endpoints. Only a cluster that stands in the bootstrap can be one.
pub(super) fn eds_server(peer: &Peer) -> Value {
    grpc_server(EDS_CLUSTER, peer)
}

fn grpc_server(name: &str, peer: &Peer) -> Value {
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

/// A pool's cluster: its endpoints come from the picker, and the pick says which of them.
pub(super) fn pool(pool: &WiredPool<'_>, max_streams: u32) -> Value {
    let explicit = match pool.wiring.protocol {
        EndpointProtocol::Http1 => json!({"http_protocol_options": {}}),
        EndpointProtocol::H2c => json!({"http2_protocol_options": {}}),
    };
    json!({
        "name": pool.cluster,
        "type": "EDS",
        "connect_timeout": duration(CONNECT_TIMEOUT),
        "eds_cluster_config": {
            "service_name": pool.wiring.name,
            "eds_config": {
                "resource_api_version": "V3",
                "initial_fetch_timeout": duration(EDS_INITIAL_FETCH_TIMEOUT),
                "api_config_source": {
                    "api_type": "GRPC",
                    "transport_api_version": "V3",
                    "set_node_on_first_message_only": true,
                    "grpc_services": [{"envoy_grpc": {
                        "cluster_name": EDS_CLUSTER,
                        "retry_policy": {"retry_back_off": {
                            "base_interval": duration(EDS_RECONNECT_BASE),
                            "max_interval": duration(EDS_RECONNECT_MAX),
                        }},
                    }}],
                },
            },
        },
        "circuit_breakers": breakers(max_streams),
        "typed_extension_protocol_options": http_protocol(explicit),
        "load_balancing_policy": balancing(pool.wiring.balancer, pool.wiring.failure_mode),
    })
}

fn balancing(balancer: Balancer, failure_mode: FailureMode) -> Value {
    match balancer {
        Balancer::RoundRobin => policies("round_robin", "RoundRobin", json!({})),
        Balancer::LeastRequest => least_request(),
        Balancer::Picker => {
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
    }
}

fn least_request() -> Value {
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

fn policies(name: &str, message: &str, config: Value) -> Value {
    let config = typed(&format!("envoy.extensions.load_balancing_policies.{name}.v3.{message}"), config);
    let name = format!("envoy.load_balancing_policies.{name}");
    json!({"policies": [{"typed_extension_config": {"name": name, "typed_config": config}}]})
}

fn http_protocol(explicit: Value) -> Value {
    let options =
        typed("envoy.extensions.upstreams.http.v3.HttpProtocolOptions", json!({"explicit_http_config": explicit}));
    json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options})
}

/// Retries too: Envoy's own limit of three at once fails the requests of a pod that goes away under load.
fn breakers(max_streams: u32) -> Value {
    json!({"thresholds": [{
        "max_connections": max_streams,
        "max_pending_requests": max_streams,
        "max_requests": max_streams,
        "max_retries": max_streams,
    }]})
}
