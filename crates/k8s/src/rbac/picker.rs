//! What a picker does in a cluster.

use super::{Grant, LEASE, METRICS_AUTH, Manifest, Objects, Rule, TRUST, WATCH, granted, manifests};
use crate::api::{GROUP, ModelGroup, PoolGroup};
use crate::key::ObjectKey;

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
    /// Whether only whom the API server lets in gets metrics.
    pub metrics_auth: bool,
}

/// What it does in the pools' namespace.
const POOLS: &[Rule] = &[
    Rule {
        group: "",
        resources: &["pods"],
        verbs: WATCH,
        objects: Objects::All,
        why: "a pool's members, and their annotations",
    },
    Rule {
        group: "discovery.k8s.io",
        resources: &["endpointslices"],
        verbs: WATCH,
        objects: Objects::All,
        why: "which members serve, terminate, and in which zone; the members of a policy's Service",
    },
    Rule {
        group: PoolGroup::Stable.as_str(),
        resources: &["inferencepools"],
        verbs: WATCH,
        objects: Objects::All,
        why: "the pools",
    },
    Rule {
        group: PoolGroup::Experimental.as_str(),
        resources: &["inferencepools", "inferencemodels", "inferenceobjectives", "inferencemodelrewrites"],
        verbs: WATCH,
        objects: Objects::All,
        why: "pools, models, objectives and rewrites of the older group",
    },
    Rule {
        group: ModelGroup::LlmD.as_str(),
        resources: &["inferenceobjectives", "inferencemodelrewrites"],
        verbs: WATCH,
        objects: Objects::All,
        why: "objectives and rewrites",
    },
    Rule {
        group: GROUP,
        resources: &["schedulingpolicies"],
        verbs: WATCH,
        objects: Objects::All,
        why: "how pools are scheduled",
    },
    Rule {
        group: PoolGroup::Experimental.as_str(),
        resources: &["inferencemodels/status", "inferenceobjectives/status", "inferencemodelrewrites/status"],
        verbs: &["patch"],
        objects: Objects::All,
        why: "to say what became of them",
    },
    Rule {
        group: ModelGroup::LlmD.as_str(),
        resources: &["inferenceobjectives/status", "inferencemodelrewrites/status"],
        verbs: &["patch"],
        objects: Objects::All,
        why: "to say what became of them",
    },
    Rule {
        group: GROUP,
        resources: &["schedulingpolicies/status"],
        verbs: &["patch"],
        objects: Objects::All,
        why: "to say what became of them",
    },
    Rule {
        group: "events.k8s.io",
        resources: &["events"],
        verbs: &["create", "patch"],
        objects: Objects::All,
        why: "to tell on a pool what happened to it, and how often",
    },
];

impl Install {
    /// What this installation has to be granted.
    pub fn grants(&self) -> impl Iterator<Item = Grant<'_>> {
        let own = Some(&*self.picker_namespace);
        let trust = self.trust.iter().flat_map(move |name| granted(own, name, TRUST));
        let pools = granted(Some(&*self.pools_namespace), "", POOLS);
        pools.chain(granted(own, &self.lease, LEASE)).chain(trust).chain(self.cluster_grants())
    }

    fn cluster_grants(&self) -> impl Iterator<Item = Grant<'_>> {
        granted(None, "", METRICS_AUTH).filter(|_| self.metrics_auth)
    }

    /// The Roles that grant it, and what gives them to a ServiceAccount of the picker's namespace. What is of the whole
    /// cluster bears that namespace in its name.
    pub fn manifests(&self, service_account: &str) -> Vec<Manifest> {
        let account = ObjectKey::new(&self.picker_namespace, service_account);
        let in_namespaces = self.grants().filter(|grant| grant.namespace.is_some());
        let mut all = manifests(&self.name, &account, in_namespaces);
        let of_cluster = format!("pointsman:{}:{}", self.picker_namespace, self.name);
        all.extend(manifests(&of_cluster, &account, self.cluster_grants()));
        all
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
            metrics_auth: false,
        }
    }

    fn is_granted(group: &str, resource: &str, verb: &str) -> bool {
        POOLS.iter().any(|rule| rule.group == group && rule.resources.contains(&resource) && rule.verbs.contains(&verb))
    }

    #[test]
    fn every_kind_is_watched_and_every_verdict_is_written_and_no_more() {
        let watched: Vec<_> = Kind::ALL.iter().map(|kind| kind.resource()).collect();
        for (group, plural) in &watched {
            assert!(WATCH.iter().all(|verb| is_granted(group, plural, verb)), "{plural}.{group}");
        }
        let written: Vec<_> = SubjectKind::OF_PICKER
            .iter()
            .map(|kind| (kind.resource().group, format!("{}/status", kind.resource().plural)))
            .collect();
        for (group, resource) in &written {
            assert!(is_granted(group, resource, "patch"), "{resource}.{group}");
        }
        for rule in POOLS {
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
        let install = install("theirs", Some("picker-ca"));
        let mut of_secrets = install.grants().filter(|grant| grant.rule.resources.contains(&"secrets")).peekable();
        assert!(of_secrets.peek().is_some());
        for grant in of_secrets {
            assert!(grant.rule.verbs == ["create"] || grant.name == Some("picker-ca"), "{}", grant.rule.why);
        }
    }

    #[test]
    fn each_namespace_gets_what_happens_there() {
        let counts = |install: Install| -> Vec<(String, usize)> {
            let manifests = install.manifests("picker").into_iter();
            let roles = manifests.filter_map(|manifest| match manifest {
                Manifest::Role(role) => Some((role.metadata.namespace.unwrap(), role.rules.unwrap().len())),
                Manifest::RoleBinding(_) => None,
                Manifest::ClusterRole(_) | Manifest::ClusterRoleBinding(_) => panic!("a picker needs none"),
            });
            roles.collect()
        };
        assert_eq!(counts(install("ours", Some("picker-ca"))), [("ours".into(), 14)]);
        assert_eq!(counts(install("theirs", Some("picker-ca"))), [("theirs".into(), 10), ("ours".into(), 4)]);
        assert_eq!(counts(install("theirs", None)), [("theirs".into(), 10), ("ours".into(), 2)]);
    }

    #[test]
    fn what_is_of_the_whole_cluster_is_reviews_alone_under_a_name_that_no_other_installation_has() {
        let of_cluster = |namespace: &str| -> Vec<Manifest> {
            let install = Install { picker_namespace: namespace.into(), metrics_auth: true, ..install("pools", None) };
            assert_eq!(install.grants().filter(|grant| grant.namespace.is_none()).count(), METRICS_AUTH.len());
            let is_of_cluster =
                |manifest: &Manifest| matches!(manifest, Manifest::ClusterRole(_) | Manifest::ClusterRoleBinding(_));
            install.manifests("picker").into_iter().filter(is_of_cluster).collect()
        };
        let ours = of_cluster("ours");
        let [Manifest::ClusterRole(role), Manifest::ClusterRoleBinding(binding)] = &ours[..] else {
            panic!("{ours:?}")
        };
        assert_eq!(role.metadata.name.as_deref(), Some("pointsman:ours:picker"));
        assert_eq!((&binding.metadata.name, &*binding.role_ref.name), (&role.metadata.name, "pointsman:ours:picker"));
        let rules = role.rules.iter().flatten();
        let rules: Vec<_> = rules.map(|rule| (rule.resources.clone().unwrap(), rule.verbs.clone())).collect();
        let create = |resource: &str| (vec![resource.to_owned()], vec!["create".to_owned()]);
        assert_eq!(rules, [create("tokenreviews"), create("subjectaccessreviews")]);
        let Some(Manifest::ClusterRole(other)) = of_cluster("others").into_iter().next() else { panic!() };
        assert_ne!(other.metadata.name, role.metadata.name);
    }
}
