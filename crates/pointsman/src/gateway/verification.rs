//! How the certificate of a picker is verified: as a BackendTLSPolicy of its Service says, else by the CAs that pickers
//! publish beside it. There is no picker that is not verified.

use pointsman_envoy::bootstrap::{PeerTls, Pem};
use pointsman_gateway::picture::PickerRef;
use pointsman_k8s::api::{BackendTlsValidation, CaCertificateRef, DatedTlsPolicy, SubjectAltName};
use pointsman_k8s::gateways::Routing;
use pointsman_k8s::key::ObjectKey;
use pointsman_k8s::trust;

use super::authorities::Found;

/// Where Envoy's image has the CAs of its system; Envoy Gateway names the same file.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// So many objects with CAs may be named by one policy; the API server allows no more either.
const REFS_MAX: usize = 8;
/// The longest name of a host.
const HOSTNAME_MAX: usize = 253;

/// How one certificate is verified.
struct Verification<'a> {
    /// Whose certificates are believed.
    authorities: Authorities,
    /// The name that the certificate must be for.
    server_name: String,
    /// The policy that says so.
    policy: Option<&'a ObjectKey>,
}

/// Whose certificates are believed.
enum Authorities {
    /// Those in `ca.crt` of these ConfigMaps, together.
    ConfigMaps(Vec<ObjectKey>),
    /// Those of the system that Envoy runs on.
    System,
}

/// The ConfigMaps that a picker is verified by.
pub(super) fn config_maps(picker: &PickerRef, seen: &Routing) -> Vec<ObjectKey> {
    match verification(picker, seen).map(|verification| verification.authorities) {
        Ok(Authorities::ConfigMaps(config_maps)) => config_maps,
        Ok(Authorities::System) | Err(_) => Vec::new(),
    }
}

/// How a picker is verified, or what is in the way and how to mend it; `None` while nobody could look for its CA.
pub(super) fn picker_tls(picker: &PickerRef, seen: &Routing, found: &Found) -> Result<Option<PeerTls>, String> {
    let Verification { authorities, server_name, policy } = verification(picker, seen)?;
    let ca = match authorities {
        Authorities::System => Pem::File(SYSTEM_AUTHORITIES.to_owned()),
        Authorities::ConfigMaps(config_maps) => {
            let mut bundle = String::new();
            for config_map in &config_maps {
                let Some(looked_for) = found.get(config_map) else { return Ok(None) };
                bundle += looked_for.as_ref().ok_or_else(|| missing(config_map, policy, picker))?;
            }
            Pem::Inline(bundle)
        }
    };
    Ok(Some(PeerTls { ca, server_name, client: None }))
}

fn missing(config_map: &ObjectKey, policy: Option<&ObjectKey>, picker: &PickerRef) -> String {
    match policy {
        Some(policy) => format!(
            "there is no ConfigMap {config_map} with CA certificates in ca.crt (PEM), which the BackendTLSPolicy {policy} \
             names"
        ),
        None => format!(
            "there is no ConfigMap {config_map} with the CA to verify it by: run the picker with --service-name {}, or \
             make a BackendTLSPolicy for its Service",
            picker.name
        ),
    }
}

fn verification<'a>(picker: &PickerRef, seen: &'a Routing) -> Result<Verification<'a>, String> {
    if let Some((policy, DatedTlsPolicy { spec, .. })) = policy_of(picker, seen) {
        let said = said(&policy.namespace, &spec.validation);
        let (authorities, server_name) = said.map_err(|why| format!("the BackendTLSPolicy {policy} {why}"))?;
        return Ok(Verification { authorities, server_name, policy: Some(policy) });
    }
    let PickerRef { namespace, name, .. } = picker;
    let config_maps = vec![ObjectKey::new(namespace, &trust::object_name(name))];
    let server_name = format!("{name}.{namespace}.svc");
    Ok(Verification { authorities: Authorities::ConfigMaps(config_maps), server_name, policy: None })
}

/// The policy that counts: one for the port before one for the whole Service, and of several the oldest.
fn policy_of<'a>(picker: &PickerRef, seen: &'a Routing) -> Option<(&'a ObjectKey, &'a DatedTlsPolicy)> {
    let PickerRef { namespace, name, port } = picker;
    let service = seen.services.get(&ObjectKey::new(namespace, name))?;
    let port = service.port_names.get(port);
    let of_namespace = seen.tls_policies.range(ObjectKey::new(namespace, "")..);
    let of_namespace = of_namespace.take_while(|(key, _)| *key.namespace == **namespace);
    let ranked = of_namespace.filter_map(|(key, policy)| {
        let targets = policy.spec.target_refs.iter().filter(|target| target.is_service(name));
        let targets = targets.filter(|target| target.section_name.is_none() || target.section_name.as_ref() == port);
        let is_for_all_ports = targets.map(|target| target.section_name.is_none()).min()?;
        Some(((is_for_all_ports, policy.created, key), policy))
    });
    ranked.min_by_key(|(rank, _)| *rank).map(|((_, _, key), policy)| (key, policy))
}

/// What a policy of that namespace says, or what of it cannot be followed.
fn said(namespace: &str, validation: &BackendTlsValidation) -> Result<(Authorities, String), String> {
    let BackendTlsValidation { ca_certificate_refs, well_known_ca_certificates, hostname, subject_alt_names } =
        validation;
    let of_a_host = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    if hostname.is_empty() || hostname.len() > HOSTNAME_MAX || !hostname.bytes().all(of_a_host) {
        return Err("has no hostname that a certificate could be for: set validation.hostname to a DNS name".to_owned());
    }
    // With other names the certificate would be verified for those, and `hostname` only be asked for.
    let is_hostname = |name: &SubjectAltName| name.kind == "Hostname" && name.hostname.as_ref() == Some(hostname);
    if !subject_alt_names.iter().all(is_hostname) {
        return Err("has subjectAltNames, which is not supported: name the certificate's name in validation.hostname \
                    alone"
            .to_owned());
    }
    let authorities = match (ca_certificate_refs.as_slice(), well_known_ca_certificates.as_deref().unwrap_or_default())
    {
        ([], "System") => Authorities::System,
        ([], "") => return Err("names no CA: name a ConfigMap in validation.caCertificateRefs".to_owned()),
        ([], other) => {
            return Err(format!("has wellKnownCACertificates {other:?}: System is the only one that is known"));
        }
        (refs, _) if refs.len() > REFS_MAX => {
            return Err(format!("names more than {REFS_MAX} objects in validation.caCertificateRefs"));
        }
        (refs, _) => {
            if let Some(CaCertificateRef { kind, name, .. }) = refs.iter().find(|named| !is_config_map(named)) {
                return Err(format!("names the {kind} {name} as CA: name a ConfigMap with ca.crt instead"));
            }
            Authorities::ConfigMaps(refs.iter().map(|named| ObjectKey::new(namespace, &named.name)).collect())
        }
    };
    Ok((authorities, hostname.clone()))
}

fn is_config_map(named: &CaCertificateRef) -> bool {
    named.group.is_empty() && named.kind == "ConfigMap"
}

#[cfg(test)]
mod tests {
    use pointsman_k8s::api::BackendTlsPolicySpec;
    use pointsman_k8s::gateways::ServiceFacts;
    use serde_json::{Value, json};

    use super::*;

    fn policy(created: i64, target: Value, validation: Value) -> DatedTlsPolicy {
        let spec: BackendTlsPolicySpec =
            serde_json::from_value(json!({"targetRefs": [target], "validation": validation})).unwrap();
        DatedTlsPolicy { created: k8s_openapi::jiff::Timestamp::from_second(created).ok(), spec }
    }

    fn service(section: Option<&str>) -> Value {
        let mut target = json!({"group": "", "kind": "Service", "name": "epp"});
        if let Some(section) = section {
            target["sectionName"] = json!(section);
        }
        target
    }

    fn by(hostname: &str) -> Value {
        json!({"caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "one"}], "hostname": hostname})
    }

    /// How the picker is verified among these policies of its namespace.
    fn verified(policies: &[(&str, DatedTlsPolicy)]) -> String {
        let key = |name: &str| ObjectKey::new("default", name);
        let facts = ServiceFacts { port_names: [(9002, "grpc".to_owned())].into(), ..ServiceFacts::default() };
        let mut seen = Routing { services: [(key("epp"), facts)].into(), ..Routing::default() };
        seen.tls_policies.extend(policies.iter().map(|(name, policy)| (key(name), policy.clone())));
        let elsewhere = policy(0, service(None), by("elsewhere"));
        seen.tls_policies.insert(ObjectKey::new("another", "a"), elsewhere.clone());
        seen.tls_policies.insert(ObjectKey::new("z", "a"), elsewhere);
        let picker = PickerRef { namespace: "default".into(), name: "epp".into(), port: 9002 };
        let mut found = Found::new();
        for config_map in config_maps(&picker, &seen) {
            let is_there = &*config_map.name != "absent";
            found.insert(config_map.clone(), is_there.then(|| format!("<{}>", config_map.name)));
        }
        match picker_tls(&picker, &seen, &found) {
            Ok(None) => "nobody could look".to_owned(),
            Ok(Some(tls)) => {
                assert!(tls.client.is_none());
                format!("{} by {}", tls.server_name, tls.ca.text())
            }
            Err(why) => why,
        }
    }

    #[test]
    fn a_picker_is_verified_as_its_policy_says_or_not_asked() {
        let config_map = |name: &str| json!({"group": "", "kind": "ConfigMap", "name": name});
        let hostname = |name: &str| json!([{"type": "Hostname", "hostname": name}]);
        let table: [(Value, &str); 14] = [
            (by("epp.example.org"), "epp.example.org by <one>"),
            (json!({"caCertificateRefs": [config_map("b"), config_map("a")], "hostname": "h"}), "h by <b><a>"),
            (
                json!({"caCertificateRefs": [config_map("one"), config_map("absent")], "hostname": "h"}),
                "there is no ConfigMap default/absent with CA certificates in ca.crt (PEM), which the BackendTLSPolicy \
                 default/p names",
            ),
            (
                json!({"caCertificateRefs": [{"group": "", "kind": "Secret", "name": "s"}], "hostname": "h"}),
                "the BackendTLSPolicy default/p names the Secret s as CA",
            ),
            (
                json!({"caCertificateRefs": [{"group": "x", "kind": "ConfigMap", "name": "s"}], "hostname": "h"}),
                "the BackendTLSPolicy default/p names the ConfigMap s as CA",
            ),
            (json!({"caCertificateRefs": vec![config_map("one"); 9], "hostname": "h"}), "names more than 8"),
            (json!({"wellKnownCACertificates": "System", "hostname": "h"}), "h by /etc/ssl/certs/ca-certificates.crt"),
            (json!({"wellKnownCACertificates": "example.com/all", "hostname": "h"}), "System is the only one"),
            (json!({"hostname": "h"}), "names no CA"),
            (json!({"wellKnownCACertificates": "", "hostname": "h"}), "names no CA"),
            (json!({"caCertificateRefs": [config_map("one")]}), "has no hostname"),
            (json!({"caCertificateRefs": [config_map("one")], "hostname": "a\"b"}), "has no hostname"),
            (
                json!({"caCertificateRefs": [config_map("one")], "hostname": "h", "subjectAltNames": hostname("h")}),
                "h by <one>",
            ),
            (
                json!({"caCertificateRefs": [config_map("one")], "hostname": "h", "subjectAltNames": hostname("i")}),
                "has subjectAltNames, which is not supported",
            ),
        ];
        for (validation, expected) in table {
            let verified = verified(&[("p", policy(1, service(None), validation.clone()))]);
            assert!(verified.contains(expected), "{validation}: {verified}");
        }
    }

    #[test]
    fn of_several_policies_one_counts() {
        let whole = |created, hostname| policy(created, service(None), by(hostname));
        let port = |created, name, hostname| policy(created, service(Some(name)), by(hostname));
        let other = |target: Value| policy(0, target, by("other"));
        let undated = DatedTlsPolicy { created: None, ..whole(0, "undated") };
        let published = "epp.default.svc by <epp-ca>";
        let table: [(&[(&str, DatedTlsPolicy)], &str); 9] = [
            (&[], published),
            (&[("a", other(json!({"group": "", "kind": "Service", "name": "another"})))], published),
            (&[("a", other(json!({"group": "x", "kind": "Service", "name": "epp"})))], published),
            (&[("a", other(json!({"group": "", "kind": "Pod", "name": "epp"})))], published),
            (&[("a", port(1, "http", "a"))], published),
            (&[("a", port(2, "grpc", "a")), ("b", whole(1, "b"))], "a by <one>"),
            (&[("a", whole(2, "a")), ("b", whole(1, "b"))], "b by <one>"),
            (&[("b", whole(1, "b")), ("a", whole(1, "a"))], "a by <one>"),
            (&[("a", port(1, "http", "a")), ("b", undated)], "undated by <one>"),
        ];
        for (policies, expected) in table {
            assert_eq!(verified(policies), expected, "{policies:?}");
        }
    }

    #[test]
    fn without_a_policy_the_missing_ca_is_told_with_its_mend() {
        let picker = PickerRef { namespace: "default".into(), name: "epp".into(), port: 9002 };
        let looked = Found::from([(ObjectKey::new("default", "epp-ca"), None)]);
        let why = picker_tls(&picker, &Routing::default(), &looked).unwrap_err();
        assert!(picker_tls(&picker, &Routing::default(), &Found::new()).unwrap().is_none());
        assert!(why.contains("ConfigMap default/epp-ca") && why.contains("--service-name epp"), "{why}");
    }
}
