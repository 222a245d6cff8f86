//! What the picker may do in a cluster: exactly this, each rule with its reason. Roles are made from it, and
//! `pointsman check` asks for it, so that neither can say more or less than the code needs.

use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};
use kube::api::ObjectMeta;

use crate::api::{GROUP, ModelGroup, PoolGroup};

/// Some requests that the picker makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The namespace that it makes them in.
    pub place: Place,
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Plural names, with `/status` for that subresource.
    pub resources: &'static [&'static str],
    /// What it does with them.
    pub verbs: &'static [&'static str],
    /// Which of them.
    pub objects: Objects,
    /// What for.
    pub why: &'static str,
}

/// Where requests are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The pools' namespace.
    Pools,
    /// The picker's own.
    Picker,
}

/// Which objects a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objects {
    /// All of the namespace. A rule to `create` is always one of these: RBAC cannot limit that verb by name.
    All,
    /// [`Install::lease`].
    Lease,
    /// [`Install::trust`].
    Trust,
}

/// One installation of the picker: what its Roles depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Install {
    /// The Roles' name.
    pub name: String,
    /// Where the pools are.
    pub pools_namespace: String,
    /// Where the picker runs.
    pub picker_namespace: String,
    /// The name of its Lease.
    pub lease: String,
    /// The name of its Secret and ConfigMap; `None` when it is given certificates in files, or serves none.
    pub trust: Option<String>,
}

const WATCH: &[&str] = &["get", "list", "watch"];

/// Everything that the picker does.
pub const RULES: &[Rule] = &[
    Rule {
        place: Place::Pools,
        group: "",
        resources: &["pods"],
        verbs: WATCH,
        objects: Objects::All,
        why: "a pool's members, and their annotations",
    },
    Rule {
        place: Place::Pools,
        group: "discovery.k8s.io",
        resources: &["endpointslices"],
        verbs: WATCH,
        objects: Objects::All,
        why: "which members serve, terminate, and in which zone; the members of a policy's Service",
    },
    Rule {
        place: Place::Pools,
        group: PoolGroup::Stable.as_str(),
        resources: &["inferencepools"],
        verbs: WATCH,
        objects: Objects::All,
        why: "the pools",
    },
    Rule {
        place: Place::Pools,
        group: PoolGroup::Experimental.as_str(),
        resources: &["inferencepools", "inferencemodels", "inferenceobjectives", "inferencemodelrewrites"],
        verbs: WATCH,
        objects: Objects::All,
        why: "pools, models, objectives and rewrites of the older group",
    },
    Rule {
        place: Place::Pools,
        group: ModelGroup::LlmD.as_str(),
        resources: &["inferenceobjectives", "inferencemodelrewrites"],
        verbs: WATCH,
        objects: Objects::All,
        why: "objectives and rewrites",
    },
    Rule {
        place: Place::Pools,
        group: GROUP,
        resources: &["schedulingpolicies"],
        verbs: WATCH,
        objects: Objects::All,
        why: "how pools are scheduled",
    },
    Rule {
        place: Place::Pools,
        group: PoolGroup::Experimental.as_str(),
        resources: &["inferencemodels/status", "inferenceobjectives/status", "inferencemodelrewrites/status"],
        verbs: &["patch"],
        objects: Objects::All,
        why: "to say what became of them",
    },
    Rule {
        place: Place::Pools,
        group: ModelGroup::LlmD.as_str(),
        resources: &["inferenceobjectives/status", "inferencemodelrewrites/status"],
        verbs: &["patch"],
        objects: Objects::All,
        why: "to say what became of them",
    },
    Rule {
        place: Place::Pools,
        group: GROUP,
        resources: &["schedulingpolicies/status"],
        verbs: &["patch"],
        objects: Objects::All,
        why: "to say what became of them",
    },
    Rule {
        place: Place::Pools,
        group: "events.k8s.io",
        resources: &["events"],
        verbs: &["create", "patch"],
        objects: Objects::All,
        why: "to tell on a pool what happened to it, and how often",
    },
    Rule {
        place: Place::Picker,
        group: "coordination.k8s.io",
        resources: &["leases"],
        verbs: &["create"],
        objects: Objects::All,
        why: "to make the Lease that replicas share",
    },
    Rule {
        place: Place::Picker,
        group: "coordination.k8s.io",
        resources: &["leases"],
        verbs: &["get", "update"],
        objects: Objects::Lease,
        why: "to hold it",
    },
    Rule {
        place: Place::Picker,
        group: "",
        resources: &["secrets", "configmaps"],
        verbs: &["create"],
        objects: Objects::All,
        why: "to make the CA that replicas share, and to publish it",
    },
    Rule {
        place: Place::Picker,
        group: "",
        resources: &["secrets", "configmaps"],
        verbs: &["get", "update"],
        objects: Objects::Trust,
        why: "to read it, and to replace it before it ends",
    },
];

/// A rule as one installation needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant<'a> {
    /// The namespace.
    pub namespace: &'a str,
    /// The one object that it is about; all of the namespace when absent.
    pub name: Option<&'a str>,
    /// What is done, and why.
    pub rule: &'static Rule,
}

impl Install {
    /// What this installation has to be granted.
    pub fn grants(&self) -> impl Iterator<Item = Grant<'_>> {
        // Making a CA is all that is done in the core group of the picker's namespace.
        let is_needed = |rule: &&Rule| self.trust.is_some() || rule.place == Place::Pools || !rule.group.is_empty();
        RULES.iter().filter(is_needed).map(|rule| Grant {
            namespace: match rule.place {
                Place::Pools => &self.pools_namespace,
                Place::Picker => &self.picker_namespace,
            },
            name: match rule.objects {
                Objects::All => None,
                Objects::Lease => Some(&*self.lease),
                Objects::Trust => self.trust.as_deref(),
            },
            rule,
        })
    }

    /// The Roles that grant it: one a namespace.
    pub fn roles(&self) -> Vec<Role> {
        let mut roles: Vec<Role> = Vec::new();
        for grant in self.grants() {
            let rule = policy_rule(&grant);
            match roles.iter_mut().find(|role| role.metadata.namespace.as_deref() == Some(grant.namespace)) {
                Some(role) => role.rules.get_or_insert_default().push(rule),
                None => roles.push(Role {
                    metadata: ObjectMeta {
                        name: Some(self.name.clone()),
                        namespace: Some(grant.namespace.to_owned()),
                        ..ObjectMeta::default()
                    },
                    rules: Some(vec![rule]),
                }),
            }
        }
        roles
    }

    /// What gives these Roles to a ServiceAccount of the picker's namespace: one a Role, of its name.
    pub fn bindings(&self, service_account: &str) -> Vec<RoleBinding> {
        let bind = |role: Role| RoleBinding {
            metadata: role.metadata,
            role_ref: RoleRef {
                api_group: "rbac.authorization.k8s.io".into(),
                kind: "Role".into(),
                name: self.name.clone(),
            },
            subjects: Some(vec![Subject {
                kind: "ServiceAccount".into(),
                name: service_account.to_owned(),
                namespace: Some(self.picker_namespace.clone()),
                ..Subject::default()
            }]),
        };
        self.roles().into_iter().map(bind).collect()
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Kind;
    use crate::verdict::SubjectKind;

    fn install(pools: &str, trust: Option<&str>) -> Install {
        Install {
            name: "picker".into(),
            pools_namespace: pools.into(),
            picker_namespace: "ours".into(),
            lease: "picker-lease".into(),
            trust: trust.map(Into::into),
        }
    }

    fn is_granted(group: &str, resource: &str, verb: &str) -> bool {
        RULES.iter().any(|rule| rule.group == group && rule.resources.contains(&resource) && rule.verbs.contains(&verb))
    }

    #[test]
    fn every_kind_is_watched_and_every_verdict_is_written_and_no_more() {
        let watched: Vec<_> = Kind::ALL.iter().map(|kind| kind.resource()).collect();
        for (group, plural) in &watched {
            assert!(WATCH.iter().all(|verb| is_granted(group, plural, verb)), "{plural}.{group}");
        }
        let written: Vec<_> = SubjectKind::ALL
            .iter()
            .map(|kind| (kind.resource().group, format!("{}/status", kind.resource().plural)))
            .collect();
        for (group, resource) in &written {
            assert!(is_granted(group, resource, "patch"), "{resource}.{group}");
        }
        for rule in RULES {
            for resource in rule.resources {
                let is_watched = watched.contains(&(rule.group, resource));
                let is_written = written.iter().any(|(group, status)| group == rule.group && status == resource);
                assert_eq!(rule.verbs.contains(&"watch"), is_watched, "{resource}: {}", rule.why);
                assert_eq!(resource.ends_with("/status"), is_written, "{resource}: {}", rule.why);
            }
        }
    }

    #[test]
    fn secrets_are_read_by_name_alone() {
        for rule in RULES.iter().filter(|rule| rule.resources.contains(&"secrets")) {
            assert!(rule.verbs == ["create"] || rule.objects == Objects::Trust, "{}", rule.why);
        }
    }

    #[test]
    fn each_namespace_gets_what_happens_there() {
        let counts = |install: Install| -> Vec<(String, usize)> {
            let roles = install.roles().into_iter();
            roles.map(|role| (role.metadata.namespace.unwrap(), role.rules.unwrap().len())).collect()
        };
        assert_eq!(counts(install("ours", Some("picker-ca"))), [("ours".into(), 14)]);
        assert_eq!(counts(install("theirs", Some("picker-ca"))), [("theirs".into(), 10), ("ours".into(), 4)]);
        assert_eq!(counts(install("theirs", None)), [("theirs".into(), 10), ("ours".into(), 2)]);
    }
}
