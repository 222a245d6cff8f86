//! What Envoy Gateway is told before it starts: its folders, its configuration, its GatewayClass and its rights.

use std::path::{Path, PathBuf};

use k8s_openapi::api::rbac::v1::PolicyRule;
use serde_json::{Value, json};

use super::Options;

/// The ServiceAccount of its Helm chart.
pub const SERVICE_ACCOUNT: &str = "envoy-gateway";

/// The folders of one Envoy Gateway.
pub(super) struct Homes<'folder> {
    folder: &'folder Path,
}

impl<'folder> Homes<'folder> {
    pub(super) fn new(folder: &'folder Path) -> Self {
        Self { folder }
    }

    /// Of all of them, and of logs.
    pub(super) fn folder(&self) -> &Path {
        self.folder
    }

    /// What it is configured with.
    pub(super) fn settings(&self) -> PathBuf {
        self.folder.join("envoy-gateway.yaml")
    }

    /// Writes what it is configured with.
    pub(super) fn configure(&self, namespace: &str, options: &Options) -> std::io::Result<()> {
        std::fs::write(self.settings(), settings(namespace, self, options).to_string())
    }

    /// Its own and its proxies' certificates.
    pub(super) fn config(&self) -> PathBuf {
        self.folder.join("config")
    }

    /// Its own certificates; it looks for them in `/certs`.
    pub(super) fn certificates(&self) -> PathBuf {
        self.config().join("certs/envoy-gateway")
    }

    /// Where it looks for programs of Envoy.
    pub(super) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Where the arguments of wanted proxies are left, a file each.
    pub(super) fn wanted(&self) -> PathBuf {
        self.folder.join("wanted")
    }

    /// What is made its root.
    pub(super) fn root(&self) -> PathBuf {
        self.folder.join("root")
    }
}

/// The version of Envoy that is asked for. Its program is found by it.
pub(super) fn envoy_version() -> &'static str {
    include_str!("../../../tools/envoy.version").trim_ascii()
}

/// The name by which a GatewayClass chooses the Envoy Gateway of a namespace: there are others' Gateways in the cluster.
pub(super) fn controller(namespace: &str) -> String {
    format!("gateway.envoyproxy.io/{namespace}")
}

/// Its configuration, as JSON, which is YAML.
fn settings(namespace: &str, homes: &Homes<'_>, options: &Options) -> Value {
    let host = json!({
        "configHome": homes.config(),
        "dataHome": homes.data(),
        "stateHome": homes.folder.join("state"),
        "runtimeDir": homes.folder.join("runtime"),
    });
    let kubernetes = json!({"leaderElection": {"disable": !options.leader_election}});
    let mut settings = json!({
        "apiVersion": "gateway.envoyproxy.io/v1alpha1",
        "kind": "EnvoyGateway",
        "gateway": {"controllerName": controller(namespace)},
        "provider": {
            "type": "Custom",
            "custom": {
                "resource": {"type": "Kubernetes", "kubernetes": kubernetes},
                "infrastructure": {"type": "Host", "host": host},
            },
        },
    });
    if let Some(extension_manager) = &options.extension_manager {
        settings["extensionManager"] = extension_manager.clone();
    }
    settings
}

/// The GatewayClass of a namespace, and the EnvoyProxy that it names.
pub(super) fn class(namespace: &str) -> String {
    let proxy = json!({
        "apiVersion": "gateway.envoyproxy.io/v1alpha1",
        "kind": "EnvoyProxy",
        "metadata": {"name": "proxy"},
        "spec": {
            "provider": {"type": "Host", "host": {"envoyVersion": envoy_version()}},
            "concurrency": 1,
            // Two Envoys of one network namespace would take the same socket for their hot restart.
            "extraArgs": ["--disable-hot-restart"],
            "logging": {"level": {"default": "warn"}},
            "telemetry": {"accessLog": {"disable": true}},
        },
    });
    let parameters = json!({
        "group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "proxy", "namespace": namespace,
    });
    let class = json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "GatewayClass",
        "metadata": {"name": namespace},
        "spec": {"controllerName": controller(namespace), "parametersRef": parameters},
    });
    format!("---\n{proxy}\n---\n{class}\n")
}

/// What its Helm chart grants it (`_rbac.tpl`), and `extra`.
pub(super) fn rbac(namespace: &str, extra: &[PolicyRule]) -> String {
    let name = format!("envoy-gateway-{namespace}");
    let rule = |group: &str, resources: &[&str], verbs: &[&str]| json!({"apiGroups": [group], "resources": resources, "verbs": verbs});
    let read = |group: &str, resources: &[&str]| rule(group, resources, &["get", "list", "watch"]);
    let write_status = |group: &str, resources: &[&str]| {
        let resources: Vec<_> = resources.iter().map(|resource| format!("{resource}/status")).collect();
        json!({"apiGroups": [group], "resources": resources, "verbs": ["update"]})
    };
    let (gateway_api, own) = ("gateway.networking.k8s.io", "gateway.envoyproxy.io");
    let with_status = [
        "gateways",
        "listenersets",
        "grpcroutes",
        "httproutes",
        "tcproutes",
        "tlsroutes",
        "udproutes",
        "backendtlspolicies",
    ];
    let own_with_status = [
        "envoyproxies",
        "envoypatchpolicies",
        "clienttrafficpolicies",
        "backendtrafficpolicies",
        "securitypolicies",
        "envoyextensionpolicies",
        "backends",
    ];
    let mut rules = vec![
        read("", &["nodes", "namespaces", "configmaps", "secrets", "services"]),
        read("apps", &["deployments", "daemonsets"]),
        read("discovery.k8s.io", &["endpointslices"]),
        read("multicluster.x-k8s.io", &["serviceimports"]),
        read(gateway_api, &with_status),
        read(gateway_api, &["referencegrants"]),
        write_status(gateway_api, &with_status),
        rule(gateway_api, &["gatewayclasses"], &["get", "list", "patch", "update", "watch"]),
        write_status(gateway_api, &["gatewayclasses"]),
        read(own, &own_with_status),
        read(own, &["httproutefilters"]),
        write_status(own, &own_with_status),
    ];
    rules.extend(extra.iter().map(|rule| json!(rule)));
    let all = ["get", "list", "watch", "create", "update", "patch", "delete"];
    let election = vec![
        rule("", &["configmaps"], &all),
        rule("coordination.k8s.io", &["leases"], &all),
        rule("", &["events"], &["create", "patch"]),
    ];
    let subject = json!({"kind": "ServiceAccount", "name": SERVICE_ACCOUNT, "namespace": namespace});
    let granted = |scope: &str, name: &str, rules: Vec<Value>| {
        let api = "rbac.authorization.k8s.io";
        let (version, kind) = (format!("{api}/v1"), format!("{scope}Role"));
        let role = json!({"apiVersion": version, "kind": kind, "metadata": {"name": name}, "rules": rules});
        let binding = json!({
            "apiVersion": version,
            "kind": format!("{kind}Binding"),
            "metadata": {"name": name},
            "roleRef": {"apiGroup": api, "kind": kind, "name": name},
            "subjects": [subject],
        });
        format!("---\n{role}\n---\n{binding}\n")
    };
    granted("Cluster", &name, rules) + &granted("", "leader-election", election)
}
