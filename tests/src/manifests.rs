//! Manifests that several stacks apply: Gateways, routes, pools, and the EndpointSlices that no controller writes here.

use std::net::SocketAddr;

use serde_json::{Value, json};

/// A manifest as JSON, one document among others.
pub fn manifest(api_version: &str, kind: &str, name: &str, spec: Value) -> String {
    let object = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}, "spec": spec});
    format!("---\n{object}\n")
}

/// A Gateway with one listener of plain HTTP, for routes of its namespace.
pub fn gateway(class: &str, name: &str, port: u16) -> String {
    let listener = json!({"name": "http", "protocol": "HTTP", "port": port});
    let spec = json!({"gatewayClassName": class, "listeners": [listener]});
    manifest("gateway.networking.k8s.io/v1", "Gateway", name, spec)
}

/// An HTTPRoute of the Gateway `gateway`, with these rules.
pub fn route(name: &str, rules: &[Value]) -> String {
    let spec = json!({"parentRefs": [{"name": "gateway"}], "rules": rules});
    manifest("gateway.networking.k8s.io/v1", "HTTPRoute", name, spec)
}

/// A rule of a route: requests whose path begins with `prefix`, to these backends.
pub fn rule(prefix: &str, backends: &[Value]) -> Value {
    json!({"matches": [{"path": {"type": "PathPrefix", "value": prefix}}], "backendRefs": backends})
}

/// A pool as a rule's backend.
pub fn pool_backend(name: &str, weight: u32) -> Value {
    json!({"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": name, "weight": weight})
}

/// A headless Service of one port, and its EndpointSlice with these addresses, all on one port.
pub fn headless_service(name: &str, port: u16, addresses: &[SocketAddr]) -> String {
    let target = addresses.first().map_or(port, SocketAddr::port);
    let ports = json!([{"name": "main", "port": port, "targetPort": target}]);
    let slice = endpoint_slice(name, "main", target, addresses);
    manifest("v1", "Service", name, json!({"clusterIP": "None", "ports": ports})) + &slice
}

/// What a controller would write for the pods of a Service at these addresses, whose port has this name and number there.
pub fn endpoint_slice(service: &str, port_name: &str, port: u16, addresses: &[SocketAddr]) -> String {
    let endpoints: Vec<Value> = addresses
        .iter()
        .map(|address| json!({"addresses": [address.ip()], "conditions": {"ready": true, "serving": true}}))
        .collect();
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": service, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [{"name": port_name, "port": port, "protocol": "TCP"}],
        "endpoints": endpoints,
    });
    format!("---\n{slice}\n")
}
