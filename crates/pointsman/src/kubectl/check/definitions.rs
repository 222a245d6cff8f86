//! The kinds that the picker reads: whether the API server serves them, in the version that this binary knows.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use pointsman_k8s::api::{GROUP, ModelGroup, PoolGroup, VERSION};
use pointsman_k8s::calls::Failure;
use pointsman_k8s::cluster::Kind;

use super::report::Report;
use crate::kubectl::cluster::Cluster;

/// What the API server serves: plural names by group and version.
pub(super) type Served = BTreeMap<(String, String), Vec<String>>;

/// Looks for all kinds; what is served, where that could be read.
pub(super) async fn check(cluster: &Cluster, report: &mut Report) -> Option<Served> {
    let read = read(cluster).await;
    let served = report.known(read)?;
    judge(&served, report);
    Some(served)
}

/// What is served of the groups that the picker reads; versions that it does not know have no names.
async fn read(cluster: &Cluster) -> Result<Served> {
    let groups = cluster.call(cluster.client.list_api_groups()).await.context("which API groups are served")?;
    let mut served = Served::new();
    for group in groups.groups.iter().filter(|group| ours().any(|(ours, _)| ours == group.name)) {
        for version in &group.versions {
            let is_known = ours().any(|known| known == (&group.name, &version.version));
            let mut names = Vec::new();
            if is_known {
                match cluster.call(cluster.client.list_api_group_resources(&version.group_version)).await {
                    Ok(list) => names = list.resources.into_iter().map(|resource| resource.name).collect(),
                    Err(error) if error.kind() == Failure::Absent => {}
                    Err(error) => return Err(error).context(format!("what {} holds", version.group_version)),
                }
            }
            served.insert((group.name.clone(), version.version.clone()), names);
        }
    }
    Ok(served)
}

/// The groups that the picker reads, each in the version that this binary knows.
fn ours() -> impl Iterator<Item = (&'static str, &'static str)> {
    let pools = [PoolGroup::Stable, PoolGroup::Experimental].map(|group| match group {
        PoolGroup::Stable => (PoolGroup::Stable.as_str(), PoolGroup::Stable.version()),
        PoolGroup::Experimental => (PoolGroup::Experimental.as_str(), PoolGroup::Experimental.version()),
    });
    [(GROUP, VERSION), (ModelGroup::LlmD.as_str(), ModelGroup::VERSION)].into_iter().chain(pools)
}

fn version_of(group: &str) -> &'static str {
    ours().find(|(ours, _)| *ours == group).map_or("", |(_, version)| version)
}

fn judge(served: &Served, report: &mut Report) {
    let is_served = |group: &str, plural: &str| {
        let names = served.get(&(group.to_owned(), version_of(group).to_owned()));
        names.is_some_and(|names| names.iter().any(|name| name == plural))
    };
    let other_versions = |group: &str| -> Vec<&str> {
        let of_group = served.keys().filter(|(served, version)| served == group && version != version_of(group));
        of_group.map(|(_, version)| &**version).collect()
    };
    let mut pools = 0;
    let mut rest = Vec::new();
    for kind in Kind::ALL {
        let (group, plural) = kind.resource();
        match kind {
            Kind::Pod | Kind::Slice => {}
            Kind::Policy if is_served(group, plural) => report.ok(format!("{plural}.{group} is served as {VERSION}")),
            Kind::Policy => {
                let apply = "`pointsman crds --output crds && kubectl apply --server-side -f crds`";
                match other_versions(group).as_slice() {
                    [] => report.fail(format!("the CRD {plural}.{group} is not installed"), apply),
                    others => report.fail(
                        format!("{plural}.{group} is served as {}, and this binary reads {VERSION}", others.join(", ")),
                        format!("use the pointsman of the cluster's version, or {apply}"),
                    ),
                }
            }
            Kind::Pool(_) if is_served(group, plural) => {
                pools += 1;
                report.ok(format!("{plural}.{group} is served as {}", version_of(group)));
            }
            Kind::Pool(_) => {
                let others = other_versions(group);
                if !others.is_empty() && group == PoolGroup::Stable.as_str() {
                    report.warn(
                        format!("{plural}.{group} is served as {} alone", others.join(", ")),
                        format!("this binary reads {}: install that version of the CRD", version_of(group)),
                    );
                }
            }
            Kind::Model | Kind::Objective(_) | Kind::Rewrite(_) => {
                rest.extend(is_served(group, plural).then(|| kind.to_string()))
            }
        }
    }
    if pools == 0 {
        report.fail(
            "no InferencePool CRD is installed",
            "install the CRDs of the Gateway API Inference Extension, or those that `pointsman crds` writes into crds/upstream",
        );
    }
    if !rest.is_empty() {
        report.ok(format!("also served: {}", rest.join(", ")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(served: &[(&str, &str, &[&str])]) -> String {
        let served = served.iter().map(|(group, version, names)| {
            (((*group).to_owned(), (*version).to_owned()), names.iter().map(|name| (*name).to_owned()).collect())
        });
        let mut report = Report::default();
        judge(&served.collect(), &mut report);
        report.to_string()
    }

    #[test]
    fn either_group_of_pools_is_enough_and_ours_must_be_there() {
        let policies = ("pointsman.dev", "v1alpha1", ["schedulingpolicies", "gatewaysyncs"].as_slice());
        let stable = ("inference.networking.k8s.io", "v1", ["inferencepools"].as_slice());
        let older = ("inference.networking.x-k8s.io", "v1alpha2", ["inferencepools", "inferencemodels"].as_slice());
        assert!(judged(&[policies, stable]).contains("all is well; 2 ok"));
        let text = judged(&[policies, older]);
        assert!(
            text.contains("all is well; 3 ok") && text.contains("inferencemodels.inference.networking.x-k8s.io"),
            "{text}"
        );
        let text = judged(&[policies]);
        assert!(text.contains("× no InferencePool CRD") && text.contains("crds/upstream"), "{text}");
        let text = judged(&[stable]);
        assert!(text.contains("× the CRD schedulingpolicies.pointsman.dev is not installed"), "{text}");
    }

    #[test]
    fn a_version_that_this_binary_does_not_read_is_told() {
        let text = judged(&[("pointsman.dev", "v1", &[]), ("inference.networking.k8s.io", "v2", &[])]);
        assert!(
            text.contains("schedulingpolicies.pointsman.dev is served as v1, and this binary reads v1alpha1"),
            "{text}"
        );
        assert!(text.contains("inferencepools.inference.networking.k8s.io is served as v2 alone"), "{text}");
    }
}
