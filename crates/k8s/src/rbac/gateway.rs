//! What Envoy Gateway's extension server does in a cluster, and what Envoy Gateway does for it.

use super::{Grant, LEASE, METRICS_AUTH, Manifest, Objects, Rule, TRUST, WATCH, granted, manifests};
use crate::api::{GATEWAY_GROUP, GROUP, PoolGroup};
use crate::key::ObjectKey;

/// One installation of the extension server: what its Roles depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayInstall {
    /// Its ServiceAccount, in the namespace that it runs in.
    pub account: ObjectKey,
    /// The name of its Lease.
    pub lease: String,
    /// The name of its Secret and ConfigMap, and of the Secret that hands Envoy Gateway the CA.
    pub trust: String,
    /// The name of the Secret that hands Envoy Gateway a certificate to show.
    pub client: String,
    /// Envoy Gateway's ServiceAccount, in the namespace that it runs in.
    pub envoy_gateway: ObjectKey,
    /// Whether only whom the API server lets in gets metrics.
    pub metrics_auth: bool,
}

/// What the extension server does in the whole cluster: Gateways, routes, pools and pickers may be in any namespace.
const CLUSTER: &[Rule] = &[
    Rule { group: "", resources: &["pods"], verbs: WATCH, objects: Objects::All, why: "the pools' members" },
    Rule {
        group: "discovery.k8s.io",
        resources: &["endpointslices"],
        verbs: WATCH,
        objects: Objects::All,
        why: "which members serve; the members of a policy's Service",
    },
    Rule {
        group: "",
        resources: &["services"],
        verbs: WATCH,
        objects: Objects::All,
        why: "the ports that pickers are reached at",
    },
    Rule {
        group: "",
        resources: &["configmaps"],
        verbs: &["get"],
        objects: Objects::All,
        why: "the CAs that pickers publish, each beside its Service and named after it",
    },
    Rule {
        group: PoolGroup::Stable.as_str(),
        resources: &["inferencepools"],
        verbs: WATCH,
        objects: Objects::All,
        why: "the pools",
    },
    Rule {
        group: GROUP,
        resources: &["schedulingpolicies"],
        verbs: WATCH,
        objects: Objects::All,
        why: "the Services that are pools' membership",
    },
    Rule {
        group: GATEWAY_GROUP,
        resources: &["httproutes", "gateways", "gatewayclasses", "backendtlspolicies", "referencegrants"],
        verbs: WATCH,
        objects: Objects::All,
        why: "which Gateways are Envoy Gateway's, their routes, and how pickers are verified",
    },
    Rule {
        group: GROUP,
        resources: &["gatewaysyncs"],
        verbs: &["get", "create", "patch"],
        objects: Objects::All,
        why: "to have Envoy Gateway ask again",
    },
    Rule {
        group: PoolGroup::Stable.as_str(),
        resources: &["inferencepools/status"],
        verbs: &["patch"],
        objects: Objects::All,
        why: "to say of a pool what its Gateways make of it",
    },
    Rule {
        group: "events.k8s.io",
        resources: &["events"],
        verbs: &["create", "patch"],
        objects: Objects::All,
        why: "to tell what a user can mend, and how often",
    },
];

/// What it does in Envoy Gateway's namespace: it makes the Secrets by which the two know each other.
const HANDED_OVER: &[Rule] = &[Rule {
    group: "",
    resources: &["secrets"],
    verbs: &["create"],
    objects: Objects::All,
    why: "to hand Envoy Gateway its CA, and a certificate to show",
}];

/// What it does with each of them.
const RENEWED: &[Rule] = &[Rule {
    group: "",
    resources: &["secrets"],
    verbs: &["get", "update"],
    objects: Objects::Named,
    why: "to replace what it handed over before it ends",
}];

/// What Envoy Gateway does beyond what its chart grants, in the whole cluster.
const ENVOY_GATEWAY: &[Rule] = &[
    Rule {
        group: PoolGroup::Stable.as_str(),
        resources: &["inferencepools"],
        verbs: WATCH,
        objects: Objects::All,
        why: "the backendResources of its configuration",
    },
    Rule {
        group: GROUP,
        resources: &["gatewaysyncs"],
        verbs: WATCH,
        objects: Objects::All,
        why: "the policyResources of its configuration",
    },
    Rule {
        group: GROUP,
        resources: &["gatewaysyncs/status"],
        verbs: &["update"],
        objects: Objects::All,
        why: "to say that it took one",
    },
];

/// What Envoy Gateway has to be granted beyond what its chart grants.
pub fn envoy_gateway_grants<'a>() -> impl Iterator<Item = Grant<'a>> {
    granted(None, "", ENVOY_GATEWAY)
}

impl GatewayInstall {
    /// What the extension server has to be granted.
    pub fn grants(&self) -> impl Iterator<Item = Grant<'_>> {
        let (own, theirs) = (Some(&*self.account.namespace), Some(&*self.envoy_gateway.namespace));
        granted(None, "", CLUSTER)
            .chain(granted(None, "", METRICS_AUTH).filter(|_| self.metrics_auth))
            .chain(granted(own, &self.lease, LEASE))
            .chain(granted(own, &self.trust, TRUST))
            .chain(granted(theirs, "", HANDED_OVER))
            .chain(granted(theirs, &self.trust, RENEWED))
            .chain(granted(theirs, &self.client, RENEWED))
    }

    /// What grants it, and what grants Envoy Gateway the rest. No two installations share an object: each is named after
    /// the extension server's ServiceAccount with its namespace.
    pub fn manifests(&self) -> Vec<Manifest> {
        // A colon is in no ServiceAccount's name, so that these are never a picker's Roles.
        let name = format!("pointsman-gateway:{}:{}", self.account.namespace, self.account.name);
        let mut all = manifests(&name, &self.account, self.grants());
        all.extend(manifests(&format!("{name}:envoy-gateway"), &self.envoy_gateway, envoy_gateway_grants()));
        all
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::cluster::Kind;

    fn install(namespace: &str, name: &str) -> GatewayInstall {
        GatewayInstall {
            account: ObjectKey::new(namespace, name),
            lease: "gateway-lease".into(),
            trust: "gateway-ca".into(),
            client: "gateway-client".into(),
            envoy_gateway: ObjectKey::new("envoy-gateway-system", "envoy-gateway"),
            metrics_auth: true,
        }
    }

    /// Kind, namespace and name of each object.
    fn objects(install: &GatewayInstall) -> Vec<(&'static str, Option<String>, String)> {
        let manifests = install.manifests().into_iter().map(|manifest| match manifest {
            Manifest::ClusterRole(object) => ("ClusterRole", object.metadata),
            Manifest::Role(object) => ("Role", object.metadata),
            Manifest::ClusterRoleBinding(object) => ("ClusterRoleBinding", object.metadata),
            Manifest::RoleBinding(object) => ("RoleBinding", object.metadata),
        });
        manifests.map(|(kind, metadata)| (kind, metadata.namespace, metadata.name.unwrap())).collect()
    }

    #[test]
    fn what_membership_needs_is_watched_in_the_whole_cluster() {
        let install = install("ours", "gateway");
        for (group, plural) in Kind::MEMBERSHIP.map(Kind::resource) {
            let is_watched = install.grants().any(|Grant { namespace, name, rule }| {
                (namespace, name, rule.group, rule.verbs) == (None, None, group, WATCH)
                    && rule.resources.contains(&plural)
            });
            assert!(is_watched, "{plural}.{group}");
        }
    }

    #[test]
    fn secrets_are_read_by_name_and_never_in_the_whole_cluster() {
        let install = install("ours", "gateway");
        let mut named = BTreeSet::new();
        for Grant { namespace, name, rule } in install.grants().chain(envoy_gateway_grants()) {
            let texts = rule.resources.iter().chain(rule.verbs).chain([&rule.group]);
            assert!(texts.into_iter().all(|text| !text.contains('*')), "{}", rule.why);
            if rule.resources.contains(&"secrets") {
                let namespace = namespace.expect("secrets of the whole cluster");
                assert!(name.is_some() || rule.verbs == ["create"], "{}", rule.why);
                named.extend(name.map(|name| (namespace, name)));
            }
        }
        let theirs = "envoy-gateway-system";
        let expected = [(theirs, "gateway-ca"), (theirs, "gateway-client"), ("ours", "gateway-ca")];
        assert_eq!(named, BTreeSet::from(expected));
    }

    #[test]
    fn envoy_gateway_reads_pools_and_writes_nothing_but_the_status_of_our_own_kind() {
        for Grant { rule, .. } in envoy_gateway_grants() {
            let is_status = rule.group == GROUP && rule.resources == ["gatewaysyncs/status"];
            assert_eq!(rule.verbs, if is_status { &["update"] } else { WATCH }, "{}", rule.why);
        }
    }

    #[test]
    fn each_place_has_a_role_and_its_binding() {
        let kinds = |install: &GatewayInstall| -> Vec<(&str, Option<String>)> {
            objects(install).into_iter().map(|(kind, namespace, _)| (kind, namespace)).collect()
        };
        let (ours, theirs) = (Some("ours".to_owned()), Some("envoy-gateway-system".to_owned()));
        let expected = [
            ("ClusterRole", None),
            ("Role", ours.clone()),
            ("Role", theirs.clone()),
            ("ClusterRoleBinding", None),
            ("RoleBinding", ours),
            ("RoleBinding", theirs.clone()),
            ("ClusterRole", None),
            ("ClusterRoleBinding", None),
        ];
        assert_eq!(kinds(&install("ours", "gateway")), expected);
        let beside = kinds(&install("envoy-gateway-system", "gateway"));
        assert_eq!(beside.iter().filter(|place| **place == ("Role", theirs.clone())).count(), 1);
    }

    #[test]
    fn no_two_installations_share_an_object() {
        let installs = [("a", "gateway"), ("b", "gateway"), ("a", "other"), ("a", "gateway.envoy-gateway")];
        let mut seen = BTreeSet::new();
        for (namespace, name) in installs {
            for object in objects(&install(namespace, name)) {
                assert!(seen.insert(object.clone()), "{object:?}");
            }
        }
    }
}
