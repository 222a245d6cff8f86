//! The pickers: which there are, how they say they stand, and whether they know the pool as the cluster does.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use k8s_openapi::api::core::v1::ConfigMap;
use pointsman_k8s::key::ObjectKey;

use super::report::Report;
use crate::kubectl::admin_client::{Replicas, Said, Way};
use crate::kubectl::args::CheckArgs;
use crate::kubectl::cluster::{Cluster, Member, PickerPod, PoolObject};
use crate::kubectl::pages::{PoolPage, StandingPage};
use crate::kubectl::table::count;

/// So many endpoints are named.
const NAMES_MAX: usize = 5;

/// All pickers of the pools that are looked at, and what their admin pages say.
pub(super) struct Pickers {
    replicas: Result<Replicas>,
    /// Whether the flags name them, so that one that does not answer is a failure.
    are_named: bool,
    /// Whether flags lead to them, whatever the pool refers to.
    are_found_apart: bool,
    pods: Vec<PickerPod>,
    standings: Vec<Said<StandingPage>>,
    served: BTreeMap<String, Vec<PoolPage>>,
    /// The name of the CA's ConfigMap, where there is one.
    published: Option<String>,
}

impl Pickers {
    /// Finds them, and reads their pages.
    pub(super) async fn find(cluster: &Cluster, args: &CheckArgs, pools: &[PoolObject]) -> Self {
        let pods = cluster.pickers(pools, &args.pickers).await;
        let urls = &args.pickers.admin_urls;
        let are_named = !urls.is_empty();
        let are_found_apart = are_named || args.pickers.picker_selector.is_some();
        let ways: Result<Vec<Way>> = match (are_named, &pods) {
            (true, _) => Ok(urls.iter().cloned().map(Way::Url).collect()),
            (false, Ok(pods)) => Ok(pods.iter().map(|pod| cluster.way(pod, args.pickers.admin_port)).collect()),
            (false, Err(error)) => Err(anyhow::anyhow!("{error:#}")),
        };
        let mut replicas = ways.and_then(|ways| Replicas::new(ways, cluster.limit));
        let (mut standings, mut served) = (Vec::new(), BTreeMap::new());
        if let Ok(replicas) = &mut replicas {
            standings = replicas.pages("/debug/config").await;
            for Said { replica, page } in replicas.pages("/debug/pools").await {
                served.extend(page.ok().map(|page| (replica, page)));
            }
        }
        let published = published(cluster, pools).await;
        Self { replicas, are_named, are_found_apart, pods: pods.unwrap_or_default(), standings, served, published }
    }

    pub(super) fn replicas(&mut self) -> Option<&mut Replicas> {
        self.replicas.as_mut().ok()
    }

    fn heard(&self) -> impl Iterator<Item = (&str, &StandingPage)> {
        self.standings.iter().filter_map(|said| Some((&*said.replica, said.page.as_ref().ok()?)))
    }

    /// Whether flags lead to them, whatever the pool refers to.
    pub(super) fn are_found_apart(&self) -> bool {
        self.are_found_apart
    }

    /// How many say that another one leads.
    pub(super) fn standing_by(&self) -> usize {
        self.heard().filter(|(_, standing)| standing.serving == Some(false)).count()
    }

    /// The ServiceAccount that all of their pods have.
    pub(super) fn service_account(&self) -> Option<ObjectKey> {
        let accounts: BTreeSet<ObjectKey> =
            self.pods.iter().map(|pod| ObjectKey::new(&pod.key.namespace, &pod.service_account)).collect();
        accounts.first().filter(|_| accounts.len() == 1).cloned()
    }

    /// The Lease that they name.
    pub(super) fn lease(&self) -> Option<String> {
        self.heard().find_map(|(_, standing)| Some(standing.lease["name"].as_str()?.to_owned()))
    }

    /// The name of Secret and ConfigMap of their CA, where they share one.
    pub(super) fn trust(&self) -> Option<String> {
        match self.heard().next() {
            Some((_, standing)) => standing.trust.clone(),
            None => self.published.clone(),
        }
    }

    /// Whether they have the API server say who gets metrics.
    pub(super) fn metrics_auth(&self) -> bool {
        self.heard().any(|(_, standing)| standing.metrics_auth)
    }

    /// Tells how they stand, and what they know of the pool. `members` are those of the cluster, where they are known.
    pub(super) fn check(&self, pool: &PoolObject, members: Option<&[Member]>, report: &mut Report) {
        if let Err(error) = &self.replicas {
            report.fail(
                format!("no picker is known: {error:#}"),
                "mend the picker's Service above, or name the pickers by --picker-selector or --admin-url",
            );
            return;
        }
        self.check_standings(report);
        self.check_pool(pool, members, report);
    }

    fn check_standings(&self, report: &mut Report) {
        for Said { replica, page } in &self.standings {
            match page {
                // The obstacle says what to do about it.
                Ok(standing) if !standing.obstacles.is_empty() => {
                    let more = "until then it is not ready; its log has more";
                    standing.obstacles.iter().for_each(|why| report.fail(format!("{replica}: {why}"), more));
                }
                Ok(_) => {}
                Err(error) if self.are_named => {
                    report.fail(format!("{error:#}"), "start the picker, or correct --admin-url")
                }
                Err(error) => report.warn(
                    format!("{error:#}"),
                    "with another --admin-address give --admin-port; else forward it yourself and give --admin-url",
                ),
            }
        }
        let heard = self.heard().count();
        let serving = self.heard().filter(|(_, standing)| standing.serving != Some(false)).count();
        match (serving, heard) {
            (_, 0) => {}
            (0, _) => report.fail(
                format!("of {} none takes requests: each sees another leader", count(heard, "picker")),
                "look at their Lease: `kubectl get lease`; it passes on when its holder is gone",
            ),
            _ if serving == heard => {
                report.ok(format!("{} of {} answer and take requests", serving, self.standings.len()))
            }
            _ => report.ok(format!("{serving} of {heard} take requests, the others stand by")),
        }
    }

    fn check_pool(&self, pool: &PoolObject, members: Option<&[Member]>, report: &mut Report) {
        let name = pool.key.to_string();
        let served = self
            .served
            .iter()
            .filter_map(|(replica, pools)| Some((replica, pools.iter().find(|pool| pool.name == name)?)));
        let served: Vec<(&String, &PoolPage)> = served.collect();
        if served.is_empty() && !self.served.is_empty() {
            let others: BTreeSet<&str> = self.served.values().flatten().map(|pool| &*pool.name).collect();
            let others =
                if others.is_empty() { "none".to_owned() } else { others.into_iter().collect::<Vec<_>>().join(", ") };
            report.fail(
                format!("no picker serves the pool {name}; they serve: {others}"),
                "start them with --pool-name and --pool-namespace of this pool, or with --all-pools",
            );
        }
        for (replica, page) in served {
            let known: BTreeSet<&str> = page.endpoints.iter().map(|endpoint| &*endpoint.name).collect();
            if let Some(members) = members {
                let ready: BTreeSet<&str> =
                    members.iter().filter(|member| member.is_ready).map(|member| &*member.name).collect();
                let missing: Vec<&str> = ready.difference(&known).copied().collect();
                let surplus: Vec<&str> = known.difference(&ready).copied().collect();
                if !missing.is_empty() || !surplus.is_empty() {
                    report.warn(
                        format!(
                            "{replica} lacks endpoints [{}] and has too many [{}]",
                            listed(&missing),
                            listed(&surplus)
                        ),
                        "if that stays so, its watches are stuck: its log tells, and /debug/config shows them",
                    );
                }
            }
            let failing =
                page.endpoints.iter().filter_map(|endpoint| Some((&*endpoint.name, endpoint.scrape_error.as_deref()?)));
            let failing: Vec<(&str, &str)> = failing.collect();
            match failing.first() {
                None => report.ok(format!("{replica} hears {} of {name}", count(page.endpoints.len(), "endpoint"))),
                Some((_, error)) => {
                    let names: Vec<&str> = failing.iter().map(|(name, _)| *name).collect();
                    report.warn(
                        format!("{replica} hears no load from [{}]: {error}", listed(&names)),
                        "they are weighed by what the picker sent there; do they serve /metrics on the target port, and is \
                         spec.telemetry.engine of the SchedulingPolicy theirs?",
                    );
                }
            }
        }
    }
}

fn listed(names: &[&str]) -> String {
    let more = names.len().saturating_sub(NAMES_MAX);
    let listed = names.iter().take(NAMES_MAX).copied().collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{listed} and {more} more") } else { listed }
}

/// The name of the CA's ConfigMap of the first pool's picker, where there is one that may be read.
async fn published(cluster: &Cluster, pools: &[PoolObject]) -> Option<String> {
    let pool = pools.first()?;
    let name = format!("{}-ca", pool.spec.picker.as_ref()?.service()?);
    let map: Option<ConfigMap> = cluster.get(&pool.key.namespace, &name).await.ok()?;
    map.map(|_| name)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pointsman_k8s::api::PoolGroup;
    use serde_json::json;

    use super::*;

    fn pickers(pages: &[(&str, serde_json::Value, serde_json::Value)]) -> Pickers {
        let url = |name: &str| Way::Url(format!("http://{name}:9091").parse().unwrap());
        let replicas = Replicas::new(pages.iter().map(|(name, ..)| url(name)).collect(), Duration::from_secs(1));
        let standing = |(name, standing, _): &(&str, serde_json::Value, serde_json::Value)| Said {
            replica: (*name).to_owned(),
            page: serde_json::from_value(standing.clone()).map_err(Into::into),
        };
        let served =
            pages.iter().map(|(name, _, pools)| ((*name).to_owned(), serde_json::from_value(pools.clone()).unwrap()));
        Pickers {
            replicas,
            are_named: true,
            are_found_apart: true,
            pods: Vec::new(),
            standings: pages.iter().map(standing).collect(),
            served: served.collect(),
            published: None,
        }
    }

    fn checked(pickers: &Pickers) -> String {
        let key = ObjectKey::new("prod", "chat");
        let pool = PoolObject { group: PoolGroup::Stable, key, spec: Default::default(), parents: Vec::new() };
        let member = |name: &str, is_ready| Member { name: name.into(), is_ready, is_cordoned: false };
        let mut report = Report::default();
        pickers.check(&pool, Some(&[member("gpu-a", true), member("gpu-b", false)]), &mut report);
        report.to_string()
    }

    #[test]
    fn pickers_that_know_the_pool_as_it_is_are_fine_and_one_may_stand_by() {
        let pools = json!([{"name": "prod/chat", "endpoints": [{"name": "gpu-a"}]}]);
        let standing = |serving: bool| json!({"obstacles": [], "serving": serving, "lease": {"name": "lease-x"}, "trust": "picker-ca", "metricsAuth": serving});
        let both = pickers(&[("a", standing(true), pools.clone()), ("b", standing(false), pools.clone())]);
        let text = checked(&both);
        assert!(text.contains("all is well") && text.contains("1 of 2 take requests, the others stand by"), "{text}");
        assert_eq!((both.lease().as_deref(), both.trust().as_deref()), (Some("lease-x"), Some("picker-ca")));
        assert!(both.metrics_auth());
        let neither = checked(&pickers(&[("a", standing(false), pools)]));
        assert!(neither.contains("× of 1 picker none takes requests"), "{neither}");
        // One whose pools come from a file says nothing of all this.
        let file = checked(&pickers(&[(
            "a",
            json!({"pools": []}),
            json!([{"name": "prod/chat", "endpoints": [{"name": "gpu-a"}]}]),
        )]));
        assert!(file.contains("all is well"), "{file}");
    }

    #[test]
    fn obstacles_and_what_differs_from_the_cluster_are_told() {
        let obstacle =
            json!({"obstacles": ["pods cannot be watched (no): grant get, list and watch"], "serving": true});
        let text = checked(&pickers(&[("a", obstacle, json!([{"name": "prod/other", "endpoints": []}]))]));
        assert!(text.contains("× a: pods cannot be watched (no): grant get"), "{text}");
        assert!(text.contains("× no picker serves the pool prod/chat; they serve: prod/other"), "{text}");
        let pools = json!([{"name": "prod/chat", "endpoints": [{"name": "gpu-c", "scrapeError": "refused"}]}]);
        let text = checked(&pickers(&[("a", json!({}), pools)]));
        assert!(text.contains("‼ a lacks endpoints [gpu-a] and has too many [gpu-c]"), "{text}");
        assert!(text.contains("‼ a hears no load from [gpu-c]: refused"), "{text}");
    }
}
