//! What Envoy Gateway has to be told of the extension server.

use pointsman_k8s::key::ObjectKey;
use pointsman_k8s::trust;
use serde_json::{Value, json};

/// An extension server, as far as Envoy Gateway has to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExtensionServer {
    /// Its Service. The Secrets of Envoy Gateway's namespace are named after it.
    pub(crate) service: ObjectKey,
    /// The Service's port.
    pub(crate) port: u16,
    /// Whether it serves over TLS, to clients with a certificate.
    pub(crate) is_secure: bool,
}

/// Envoy Gateway's Helm values that have it ask this server.
pub(super) fn envoy_gateway_values(server: &ExtensionServer) -> Value {
    json!({"config": {"envoyGateway": {"extensionManager": extension_manager(server)}}})
}

/// The section `extensionManager` of Envoy Gateway's configuration that has it ask this server.
///
/// Without the hooks and `includeAll` it sends nothing to change, and a change of a `GatewaySync` (`policyResources`) is
/// what makes it ask again. Secrets, private keys among them, are of no use here, and are not asked for.
pub(crate) fn extension_manager(server: &ExtensionServer) -> Value {
    let (all, none) = (json!({"includeAll": true}), json!({"includeAll": false}));
    let ObjectKey { namespace, name } = &server.service;
    let mut service = json!({"fqdn": {"hostname": format!("{name}.{namespace}.svc"), "port": server.port}});
    if server.is_secure {
        service["tls"] = json!({
            "certificateRef": {"name": trust::object_name(name)},
            "clientCertificateRef": {"name": trust::client_name(name)},
        });
    }
    json!({
        // The default of 4 MB holds the resources of some two thousand rules.
        "maxMessageSize": "64Mi",
        "backendResources": [{"group": "inference.networking.k8s.io", "kind": "InferencePool", "version": "v1"}],
        "policyResources": [{"group": "pointsman.dev", "kind": "GatewaySync", "version": "v1alpha1"}],
        "hooks": {"xdsTranslator": {
            "post": ["Translation", "Cluster"],
            "translation": {"listener": all, "route": all, "cluster": all, "secret": none},
        }},
        "service": service,
    })
}
