//! What Pointsman may do in a cluster: exactly this, each rule with its reason. Roles are made from it, and
//! `pointsman check` asks for it, so that neither can say more or less than the code needs.
//!
//! There are two installations: [`Install`] is a picker's, [`GatewayInstall`] that of Envoy Gateway's extension server.

mod gateway;
mod picker;

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject};
use kube::api::ObjectMeta;
use serde::Serialize;

use crate::key::ObjectKey;

pub use gateway::{GatewayInstall, envoy_gateway_grants};
pub use picker::Install;

/// Some requests that are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Plural names, with `/status` for that subresource.
    pub resources: &'static [&'static str],
    /// What is done with them.
    pub verbs: &'static [&'static str],
    /// With which of them.
    pub objects: Objects,
    /// What for.
    pub why: &'static str,
}

/// Which objects a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objects {
    /// All of the namespace, or of the cluster. A rule to `create` is always one of these: RBAC cannot limit that verb by
    /// name.
    All,
    /// The one whose name the installation gives.
    Named,
}

/// A rule as one installation needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant<'a> {
    /// The namespace; all of the cluster when absent.
    pub namespace: Option<&'a str>,
    /// The one object that it is about; all of the namespace when absent.
    pub name: Option<&'a str>,
    /// What is done, and why.
    pub rule: &'static Rule,
}

/// An object that grants.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Manifest {
    /// Rules of the whole cluster.
    ClusterRole(ClusterRole),
    /// Rules of a namespace.
    Role(Role),
    /// What gives the former to a ServiceAccount.
    ClusterRoleBinding(ClusterRoleBinding),
    /// What gives the latter to one.
    RoleBinding(RoleBinding),
}

const WATCH: &[&str] = &["get", "list", "watch"];

/// What replicas do that share a Lease, in their own namespace.
const LEASE: &[Rule] = &[
    Rule {
        group: "coordination.k8s.io",
        resources: &["leases"],
        verbs: &["create"],
        objects: Objects::All,
        why: "to make the Lease that replicas share",
    },
    Rule {
        group: "coordination.k8s.io",
        resources: &["leases"],
        verbs: &["get", "update"],
        objects: Objects::Named,
        why: "to hold it",
    },
];

/// What replicas do that share a CA, in their own namespace.
const TRUST: &[Rule] = &[
    Rule {
        group: "",
        resources: &["secrets", "configmaps"],
        verbs: &["create"],
        objects: Objects::All,
        why: "to make the CA that replicas share, and to publish it",
    },
    Rule {
        group: "",
        resources: &["secrets", "configmaps"],
        verbs: &["get", "update"],
        objects: Objects::Named,
        why: "to read it, and to replace it before it ends",
    },
];

/// What is done to let in to the metrics only whom the API server lets in.
const METRICS_AUTH: &[Rule] = &[
    Rule {
        group: "authentication.k8s.io",
        resources: &["tokenreviews"],
        verbs: &["create"],
        objects: Objects::All,
        why: "to have the API server say whose token asks for metrics",
    },
    Rule {
        group: "authorization.k8s.io",
        resources: &["subjectaccessreviews"],
        verbs: &["create"],
        objects: Objects::All,
        why: "to have it say whether they may",
    },
];

/// A table's rules in a namespace; `name` is that of the named objects.
fn granted<'a>(
    namespace: Option<&'a str>,
    name: &'a str,
    rules: &'static [Rule],
) -> impl Iterator<Item = Grant<'a>> + use<'a> {
    rules.iter().map(move |rule| Grant {
        namespace,
        name: match rule.objects {
            Objects::All => None,
            Objects::Named => Some(name),
        },
        rule,
    })
}

/// What grants all of it to a ServiceAccount: a ClusterRole for what is of the whole cluster and a Role a namespace, all
/// of one name, then a binding of each.
fn manifests<'a>(name: &str, account: &ObjectKey, grants: impl Iterator<Item = Grant<'a>>) -> Vec<Manifest> {
    let mut places: Vec<(Option<&str>, Vec<PolicyRule>)> = Vec::new();
    for grant in grants {
        let rule = policy_rule(&grant);
        match places.iter_mut().find(|(namespace, _)| *namespace == grant.namespace) {
            Some((_, rules)) => rules.push(rule),
            None => places.push((grant.namespace, vec![rule])),
        }
    }
    let bindings: Vec<_> = places.iter().map(|(namespace, _)| binding(name, *namespace, account)).collect();
    let roles = places.into_iter().map(|(namespace, rules)| {
        let (metadata, rules) = (metadata(name, namespace), Some(rules));
        match namespace {
            None => Manifest::ClusterRole(ClusterRole { metadata, rules, aggregation_rule: None }),
            Some(_) => Manifest::Role(Role { metadata, rules }),
        }
    });
    roles.chain(bindings).collect()
}

fn binding(name: &str, namespace: Option<&str>, account: &ObjectKey) -> Manifest {
    let kind = if namespace.is_some() { "Role" } else { "ClusterRole" };
    let role_ref = RoleRef { api_group: "rbac.authorization.k8s.io".into(), kind: kind.into(), name: name.to_owned() };
    let subjects = Some(vec![Subject {
        kind: "ServiceAccount".into(),
        name: account.name.to_string(),
        namespace: Some(account.namespace.to_string()),
        ..Subject::default()
    }]);
    let metadata = metadata(name, namespace);
    match namespace {
        None => Manifest::ClusterRoleBinding(ClusterRoleBinding { metadata, role_ref, subjects }),
        Some(_) => Manifest::RoleBinding(RoleBinding { metadata, role_ref, subjects }),
    }
}

fn metadata(name: &str, namespace: Option<&str>) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), namespace: namespace.map(str::to_owned), ..ObjectMeta::default() }
}

fn policy_rule(grant: &Grant<'_>) -> PolicyRule {
    let strings = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    PolicyRule {
        api_groups: Some(vec![grant.rule.group.to_owned()]),
        resources: Some(strings(grant.rule.resources)),
        resource_names: grant.name.map(|name| vec![name.to_owned()]),
        verbs: strings(grant.rule.verbs),
        non_resource_urls: None,
    }
}
