//! What Envoy Gateway's configuration says of an extension server, and what it should say.

use pointsman_k8s::key::ObjectKey;
use serde_json::{Map, Value};

use super::super::report::Finding;

/// The hooks that have to be called.
const HOOKS: [&str; 2] = ["Translation", "Cluster"];
/// What the hook Translation has to be sent all of.
const WHOLE: [&str; 3] = ["listener", "route", "cluster"];
/// Where all of it is in Envoy Gateway's Helm values.
const VALUES: &str = "config.envoyGateway.extensionManager";
/// The port of a service that names none.
const DEFAULT_PORT: u16 = 80;

/// An extension server as Envoy Gateway's configuration names it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Extension {
    /// The entry of the configuration.
    pub(super) entry: Value,
    /// Where the server is: host and port; `None` for one that is found otherwise, by an IP or a socket.
    pub(super) address: Option<(String, u16)>,
}

impl Extension {
    /// The extension server of a configuration: ours where there are several. `None` where there is none.
    pub(super) fn of(configuration: &Value, ours: &ObjectKey) -> Option<Self> {
        let several = configuration["extensionManagers"].as_array();
        let all = configuration.get("extensionManager").into_iter().chain(several.into_iter().flatten());
        let mut all = all.filter(|entry| entry.is_object()).map(|entry| {
            let service = &entry["service"];
            let (host, port) = match &service["fqdn"] {
                Value::Object(fqdn) => (fqdn.get("hostname"), fqdn.get("port")),
                _ => (service.get("host"), service.get("port")),
            };
            let port = port.and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok()).unwrap_or(DEFAULT_PORT);
            let address = host.and_then(Value::as_str).map(|host| (host.to_owned(), port));
            Self { entry: entry.clone(), address }
        });
        let first = all.next()?;
        if first.is_ours(ours) {
            return Some(first);
        }
        Some(all.find(|extension| extension.is_ours(ours)).unwrap_or(first))
    }

    /// Whether it is a Pointsman: it is given our kind, or is at our Service.
    pub(super) fn is_ours(&self, ours: &ObjectKey) -> bool {
        let kinds = self.entry["policyResources"].as_array();
        kinds.into_iter().flatten().any(|kind| kind["group"] == pointsman_k8s::api::GROUP)
            || self.service().as_ref() == Some(ours)
    }

    /// The Service that its host name stands for, like `NAME.NAMESPACE.svc`.
    pub(super) fn service(&self) -> Option<ObjectKey> {
        let (host, _) = self.address.as_ref()?;
        let mut labels = host.split('.');
        let (name, namespace) = (labels.next()?, labels.next()?);
        matches!(labels.next(), None | Some("svc")).then(|| ObjectKey::new(namespace, name))
    }

    /// The Secrets that it names, each with the keys that it must have and what it is for.
    pub(super) fn secrets(&self) -> Vec<(String, &'static [&'static str], &'static str)> {
        let tls = &self.entry["service"]["tls"];
        let name = |of: &str| tls[of]["name"].as_str().map(str::to_owned);
        let verifies = name("certificateRef")
            .map(|name| (name, ["tls.crt"].as_slice(), "the CA by which Envoy Gateway verifies the extension server"));
        let shows = name("clientCertificateRef").map(|name| {
            (name, ["tls.crt", "tls.key"].as_slice(), "the certificate that Envoy Gateway shows the extension server")
        });
        verifies.into_iter().chain(shows).collect()
    }

    /// What is missing of `expected`, the entry as `pointsman gateway --print-values` has it; each with the exact value to
    /// add.
    pub(super) fn judge(&self, expected: &Value) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (list, what) in [
            ("backendResources", "routes to InferencePools stay without backends"),
            ("policyResources", "Envoy Gateway does not learn of changes that it cannot see itself"),
        ] {
            let has = |kind: &Value| self.entry[list].as_array().is_some_and(|kinds| kinds.contains(kind));
            for kind in expected[list].as_array().into_iter().flatten().filter(|kind| !has(kind)) {
                let text = format!("extensionManager.{list} lacks {}: {what}", word(&kind["kind"]));
                findings.push(Finding::fail(text, add(&[list], &Value::Array(vec![kind.clone()]))));
            }
        }
        let (hooks, wanted) = (&self.entry["hooks"]["xdsTranslator"], &expected["hooks"]["xdsTranslator"]);
        let called: Vec<&str> = hooks["post"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let uncalled: Vec<&str> = HOOKS.into_iter().filter(|hook| !called.contains(hook)).collect();
        if !uncalled.is_empty() {
            let text = format!("extensionManager.hooks.xdsTranslator.post lacks {}", uncalled.join(", "));
            findings.push(Finding::fail(text, add(&["hooks", "xdsTranslator", "post"], &wanted["post"])));
        }
        let partial = WHOLE.into_iter().filter(|part| hooks["translation"][part]["includeAll"] != true);
        let partial: Map<String, Value> =
            partial.map(|part| (part.to_owned(), wanted["translation"][part].clone())).collect();
        if !partial.is_empty() {
            let parts: Vec<&str> = partial.keys().map(String::as_str).collect();
            let text = format!(
                "extensionManager.hooks.xdsTranslator.translation has no includeAll of {}: none of them can be changed",
                parts.join(", ")
            );
            findings
                .push(Finding::fail(text, add(&["hooks", "xdsTranslator", "translation"], &Value::Object(partial))));
        }
        findings.extend(self.judge_service(&expected["service"]));
        if self.entry["failOpen"] == true {
            findings.push(Finding::warn(
                "extensionManager.failOpen is true: while the extension server answers with errors, every route to a pool \
                 gets 503",
                "leave it out: what was in force stays in force then",
            ));
        }
        findings
    }

    fn judge_service(&self, expected: &Value) -> Option<Finding> {
        let tls = &self.entry["service"]["tls"];
        if self.entry["service"].as_object().is_none_or(Map::is_empty) {
            let text = "extensionManager.service is missing: Envoy Gateway knows of no extension server";
            return Some(Finding::fail(text, add(&["service"], expected)));
        }
        if tls["certificateRef"].is_null() {
            return Some(Finding::warn(
                "extensionManager.service has no tls: Envoy Gateway asks in plaintext",
                format!(
                    "right where the extension server runs with --secure-serving=false; else {}",
                    add(&["service", "tls"], &expected["tls"])
                ),
            ));
        }
        if tls["clientCertificateRef"].is_null() {
            let at = ["service", "tls", "clientCertificateRef"];
            return Some(Finding::fail(
                "extensionManager.service.tls has no clientCertificateRef, and the extension server asks for a certificate",
                add(&at, &expected["tls"]["clientCertificateRef"]),
            ));
        }
        None
    }
}

/// All of it, for a configuration that has none.
pub(super) fn whole(expected: &Value) -> String {
    format!("`pointsman gateway --print-values` prints it: {}", add(&[], expected))
}

/// What to add to Envoy Gateway's Helm values, on one line: JSON is YAML.
fn add(path: &[&str], value: &Value) -> String {
    let path: Vec<&str> = [VALUES].into_iter().chain(path.iter().copied()).collect();
    format!("add to Envoy Gateway's Helm values {}: {value}", path.join("."))
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::super::report::Mark;
    use super::*;
    use crate::gateway::install::{ExtensionServer, extension_manager};

    fn server() -> ExtensionServer {
        ExtensionServer { service: ObjectKey::new("pointsman", "pointsman-gateway"), port: 9004, is_secure: true }
    }

    fn without(pointer: &str) -> Value {
        let mut entry = extension_manager(&server());
        *entry.pointer_mut(pointer).unwrap() = Value::Null;
        entry
    }

    fn extension(entry: Value) -> Extension {
        Extension::of(&json!({"extensionManager": entry}), &server().service).unwrap()
    }

    #[test]
    fn what_print_values_prints_is_what_is_wanted() {
        let printed = extension(extension_manager(&server()));
        assert_eq!(printed.judge(&extension_manager(&server())), []);
        assert_eq!(printed.address, Some(("pointsman-gateway.pointsman.svc".into(), 9004)));
        let secrets: Vec<String> = printed.secrets().into_iter().map(|(name, _, _)| name).collect();
        assert_eq!(secrets, ["pointsman-gateway-ca", "pointsman-gateway-client"]);
    }

    #[test]
    fn each_value_that_is_missing_is_told_with_itself() {
        let table = [
            ("/backendResources", Mark::Fail, "lacks InferencePool", "\"kind\":\"InferencePool\""),
            ("/policyResources", Mark::Fail, "lacks GatewaySync", "extensionManager.policyResources: [{"),
            ("/hooks", Mark::Fail, "post lacks Translation, Cluster", "post: [\"Translation\",\"Cluster\""),
            ("/hooks/xdsTranslator/post/1", Mark::Fail, "post lacks Cluster", "hooks.xdsTranslator.post: ["),
            (
                "/hooks/xdsTranslator/translation/route",
                Mark::Fail,
                "no includeAll of route:",
                "translation: {\"route\":{\"includeAll\":true}}",
            ),
            ("/service", Mark::Fail, "service is missing", "\"hostname\":\"pointsman-gateway.pointsman.svc"),
            ("/service/tls", Mark::Warn, "asks in plaintext", "service.tls: {\"certificateRef\""),
            (
                "/service/tls/clientCertificateRef",
                Mark::Fail,
                "no clientCertificateRef",
                "{\"name\":\"pointsman-gateway-client\"}",
            ),
        ];
        for (pointer, mark, text, mend) in table {
            let findings = extension(without(pointer)).judge(&extension_manager(&server()));
            assert_eq!(
                (findings.len(), findings[0].mark),
                (if pointer == "/hooks" { 2 } else { 1 }, mark),
                "{findings:?}"
            );
            assert!(
                findings[0].text.contains(text) && findings[0].mend.as_deref().unwrap().contains(mend),
                "{findings:?}"
            );
        }
        let mut open = extension_manager(&server());
        open["failOpen"] = true.into();
        assert!(extension(open).judge(&extension_manager(&server()))[0].text.contains("failOpen"));
    }

    #[test]
    fn ours_is_found_among_several_by_its_kind_or_by_its_service() {
        let ours = server().service;
        let foreign = json!({"name": "ai", "service": {"fqdn": {"hostname": "ai.ai-system.svc", "port": 1063}}});
        let by_kind = json!({"name": "kind", "policyResources": [{"group": "pointsman.dev", "kind": "GatewaySync"}]});
        let by_service = json!({"name": "service", "service": {"host": "pointsman-gateway.pointsman", "port": 9004}});
        for (several, name) in [
            (json!([foreign, by_kind]), "kind"),
            (json!([foreign, by_service]), "service"),
            (json!([by_service, foreign]), "service"),
            (json!([foreign]), "ai"),
        ] {
            let found = Extension::of(&json!({"extensionManagers": several}), &ours).unwrap();
            assert_eq!(found.entry["name"], name);
            assert_eq!(found.is_ours(&ours), name != "ai");
        }
        assert_eq!(Extension::of(&json!({"extensionManagers": [], "extensionManager": null}), &ours), None);
    }

    #[test]
    fn a_host_name_is_a_service_where_it_has_a_namespace() {
        let service = |host: &str| extension(json!({"service": {"host": host}})).service();
        for host in ["a.b", "a.b.svc", "a.b.svc.cluster.local"] {
            assert_eq!(service(host), Some(ObjectKey::new("b", "a")), "{host}");
        }
        for host in ["a", "a.example.com", ""] {
            assert_eq!(service(host), None, "{host}");
        }
    }
}
