//! The cluster as its user sees it: pools, their members, and the pickers that serve them.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};
use pointsman_k8s::api::{
    InferencePool, InferencePoolV1Alpha2, ParentStatus, Pool, PoolGroup, PoolSpec, SchedulingPolicy,
};
use pointsman_k8s::calls::{CallError, Failure, within};
use pointsman_k8s::facts::{Identity, PodFacts, SERVICE_LABEL, SliceFacts};
use pointsman_k8s::key::ObjectKey;
use serde::de::DeserializeOwned;

use super::admin_client::{Replicas, Way};
use super::args::{ClusterArgs, PickerArgs};

/// A cluster, as somebody whom it lets in.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) client: Client,
    /// The namespace that is meant where nothing else is said.
    pub(crate) namespace: String,
    /// How long one request may take.
    pub(crate) limit: Duration,
}

/// An InferencePool of either group.
#[derive(Clone, Debug)]
pub(crate) struct PoolObject {
    pub(crate) group: PoolGroup,
    pub(crate) key: ObjectKey,
    pub(crate) spec: PoolSpec,
    /// What gateways say of it.
    pub(crate) parents: Vec<ParentStatus>,
}

/// A pod of a pool, or an address without one behind a Service that is the pool's membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) is_ready: bool,
    pub(crate) is_cordoned: bool,
}

/// A pod that a picker runs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PickerPod {
    pub(crate) key: ObjectKey,
    pub(crate) is_ready: bool,
    pub(crate) service_account: String,
}

/// The pools that `--pool` means at pickers, where the cluster need not be known.
#[derive(Clone, Debug)]
pub(crate) struct PoolFilter {
    /// Any where nobody said.
    namespace: Option<String>,
    name: String,
}

impl PoolFilter {
    /// The pools of that name; in the namespace where one is said.
    pub(crate) fn new(text: &str, namespace: Option<&str>) -> Self {
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (namespace, text),
        };
        Self { namespace: namespace.map(str::to_owned), name: name.to_owned() }
    }

    /// Whether the pool of that whole name is meant.
    pub(crate) fn means(&self, pool: &str) -> bool {
        let (namespace, name) = pool.split_once('/').unwrap_or_default();
        name == self.name && self.namespace.as_deref().is_none_or(|meant| meant == namespace)
    }
}

/// A pool by its name in `--pool`.
pub(crate) fn pool_key(text: &str, namespace: &str) -> ObjectKey {
    match text.split_once('/') {
        Some((namespace, name)) => ObjectKey::new(namespace, name),
        None => ObjectKey::new(namespace, text),
    }
}

/// Labels as a selector.
pub(crate) fn selector(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

impl Member {
    /// Whether it gets new requests.
    pub(crate) fn takes_requests(&self) -> bool {
        self.is_ready && !self.is_cordoned
    }
}

impl Cluster {
    /// The cluster that the flags name, as kubectl would find it.
    pub(crate) async fn find(args: &ClusterArgs) -> Result<Self> {
        let options = KubeConfigOptions { context: args.context.clone(), ..KubeConfigOptions::default() };
        let config = match (&args.kubeconfig, &args.context) {
            (Some(file), _) => {
                let read = Kubeconfig::read_from(file).with_context(|| format!("reading {}", file.display()))?;
                Config::from_custom_kubeconfig(read, &options).await.context("the kubeconfig cannot be used")?
            }
            (None, Some(_)) => Config::from_kubeconfig(&options).await.context("the kubeconfig cannot be used")?,
            (None, None) => Config::infer()
                .await
                .context("no cluster is known: give --kubeconfig, set KUBECONFIG, or run in a pod")?,
        };
        let namespace = args.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).context("the kubeconfig cannot be used")?;
        Ok(Self { client, namespace, limit: args.request_timeout })
    }

    /// What a request to the API server brings.
    pub(crate) async fn call<T>(&self, request: impl Future<Output = kube::Result<T>>) -> Result<T, CallError> {
        within(self.limit, request).await
    }

    /// A kind of one namespace.
    pub(crate) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// An object, where there is one. A kind that is not installed has none.
    pub(crate) async fn get<K>(&self, namespace: &str, name: &str) -> Result<Option<K>>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
        K::DynamicType: Default,
    {
        let api: Api<K> = self.api(namespace);
        match self.call(api.get_opt(name)).await {
            Err(error) if error.kind() == Failure::Absent => Ok(None),
            got => got.with_context(|| format!("reading {} {namespace}/{name}", K::kind(&K::DynamicType::default()))),
        }
    }

    /// The objects of a namespace with these labels. A kind that is not installed has none.
    pub(crate) async fn list<K>(&self, namespace: &str, labels: &str) -> Result<Vec<K>>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
        K::DynamicType: Default,
    {
        let api: Api<K> = self.api(namespace);
        match self.call(api.list(&ListParams::default().labels(labels))).await {
            Ok(list) => Ok(list.items),
            Err(error) if error.kind() == Failure::Absent => Ok(Vec::new()),
            Err(error) => {
                let plural = K::plural(&K::DynamicType::default()).into_owned();
                Err(error).with_context(|| format!("listing {plural} in {namespace}"))
            }
        }
    }

    /// The pools of a namespace, by name. Of two of one name in both groups the stable one's counts, as for the picker.
    pub(crate) async fn pools(&self, namespace: &str) -> Result<Vec<PoolObject>> {
        let mut pools = BTreeMap::new();
        for pool in self.list::<InferencePoolV1Alpha2>(namespace, "").await? {
            let parents = pool.status.clone().unwrap_or_default().parent;
            pools.insert(pool.name_any(), PoolObject::of(&pool, parents));
        }
        for pool in self.list::<InferencePool>(namespace, "").await? {
            let parents = pool.status.clone().unwrap_or_default().parents;
            pools.insert(pool.name_any(), PoolObject::of(&pool, parents));
        }
        Ok(pools.into_values().collect())
    }

    /// The pools that are meant: the one of `--pool`, or all of the namespace.
    pub(crate) async fn pools_meant(&self, pool: Option<&str>) -> Result<Vec<PoolObject>> {
        let key = pool.map(|pool| pool_key(pool, &self.namespace));
        let namespace = key.as_ref().map_or(&*self.namespace, |key| &*key.namespace);
        let mut pools = self.pools(namespace).await?;
        let names: Vec<String> = pools.iter().map(|pool| pool.key.name.to_string()).collect();
        let Some(key) = &key else {
            if pools.is_empty() {
                bail!("there is no InferencePool in namespace {namespace}: give -n, --pool or --admin-url");
            }
            return Ok(pools);
        };
        pools.retain(|pool| pool.key == *key);
        if pools.is_empty() {
            let there =
                if names.is_empty() { "it has none".to_owned() } else { format!("it has {}", names.join(", ")) };
            bail!("there is no InferencePool {} in namespace {namespace}; {there}", key.name);
        }
        Ok(pools)
    }

    /// A pool's members, by name: the pods that it selects or, where its oldest policy names a Service, what the
    /// Service's EndpointSlices list. Those that are over or being deleted are no members.
    pub(crate) async fn members(&self, pool: &PoolObject, policies: &[SchedulingPolicy]) -> Result<Vec<Member>> {
        let mut members = match membership_service(pool, policies) {
            Some(service) => self.members_of_service(&pool.key.namespace, service).await?,
            None if pool.spec.selector.is_empty() => Vec::new(),
            None => {
                let pods: Vec<Pod> = self.list(&pool.key.namespace, &selector(&pool.spec.selector)).await?;
                pods.into_iter().filter(|pod| !is_over(pod)).map(member).collect()
            }
        };
        members.sort_by(|a: &Member, b| a.name.cmp(&b.name));
        Ok(members)
    }

    async fn members_of_service(&self, namespace: &str, service: &str) -> Result<Vec<Member>> {
        let slices = self.slices(namespace, service).await?;
        let pods: Vec<Pod> = self.list(namespace, "").await?;
        let pods: BTreeMap<String, Member> = pods.into_iter().map(member).map(|pod| (pod.name.clone(), pod)).collect();
        let addresses = slices.into_iter().flat_map(|slice| slice.addresses).map(|address| {
            let pod = address.pod.as_ref().and_then(|(pod, _)| pods.get(&*pod.name));
            Member {
                name: address.pod.map_or_else(|| address.ip.to_string(), |(pod, _)| pod.name.to_string()),
                is_ready: address.is_ready,
                is_cordoned: pod.is_some_and(|pod| pod.is_cordoned),
            }
        });
        Ok(addresses.collect())
    }

    /// The EndpointSlices of a Service.
    pub(crate) async fn slices(&self, namespace: &str, service: &str) -> Result<Vec<SliceFacts>> {
        let slices: Vec<EndpointSlice> = self.list(namespace, &format!("{SERVICE_LABEL}={service}")).await?;
        Ok(slices.into_iter().map(|slice| SliceFacts::of(&slice.metadata.clone(), slice)).collect())
    }

    /// The pods with these labels, as pickers.
    pub(crate) async fn pickers_by_labels(&self, namespace: &str, labels: &str) -> Result<Vec<PickerPod>> {
        let pods: Vec<Pod> = self.list(namespace, labels).await?;
        Ok(pods.into_iter().filter(|pod| !is_over(pod)).map(PickerPod::of).collect())
    }

    /// The pods that the Service of a pool's endpointPickerRef leads to, by its EndpointSlices; by its selector where it
    /// has no slices that name pods.
    pub(crate) async fn pickers_of(&self, pool: &PoolObject) -> Result<Vec<PickerPod>> {
        let Some(service) = pool.spec.picker.as_ref().and_then(|picker| picker.service()) else {
            return Ok(Vec::new());
        };
        let namespace = &*pool.key.namespace;
        let slices = self.slices(namespace, service).await?;
        let named = slices.into_iter().flat_map(|slice| slice.addresses).filter_map(|address| address.pod);
        let named: Vec<_> = named.map(|(pod, _)| pod).collect();
        if named.is_empty() {
            let service: Option<k8s_openapi::api::core::v1::Service> = self.get(namespace, service).await?;
            let labels = service.and_then(|service| service.spec?.selector).unwrap_or_default();
            return match labels.is_empty() {
                true => Ok(Vec::new()),
                false => self.pickers_by_labels(namespace, &selector(&labels)).await,
            };
        }
        let pods = named.iter().map(|pod| self.get::<Pod>(&pod.namespace, &pod.name));
        let pods = try_join_all(pods).await?;
        Ok(pods.into_iter().flatten().filter(|pod| !is_over(pod)).map(PickerPod::of).collect())
    }

    /// The pickers of these pools, each once.
    pub(crate) async fn pickers(&self, pools: &[PoolObject], args: &PickerArgs) -> Result<Vec<PickerPod>> {
        let mut found = match &args.picker_selector {
            Some(labels) => self.pickers_by_labels(&self.namespace, labels).await?,
            None => try_join_all(pools.iter().map(|pool| self.pickers_of(pool))).await?.concat(),
        };
        found.sort_by(|a, b| a.key.cmp(&b.key));
        found.dedup();
        Ok(found)
    }

    /// How a picker's admin listener is reached.
    pub(crate) fn way(&self, picker: &PickerPod, port: u16) -> Way {
        Way::Pod { pods: Box::new(self.api(&picker.key.namespace)), pod: picker.key.name.to_string(), port }
    }
}

impl PoolObject {
    fn of<P: Pool>(pool: &P, parents: Vec<ParentStatus>) -> Self {
        Self { group: P::GROUP, key: ObjectKey::of(pool.meta()), spec: pool.resolved(), parents }
    }
}

impl PickerPod {
    fn of(pod: Pod) -> Self {
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
        let (key, facts) = (ObjectKey::of(&pod.metadata), PodFacts::of(&pod.metadata.clone(), pod));
        Self { key, is_ready: facts.is_ready, service_account: account.unwrap_or_else(|| "default".into()) }
    }
}

/// Whether a pod has ended, or is about to.
fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_some() || matches!(phase, Some("Succeeded" | "Failed"))
}

fn member(pod: Pod) -> Member {
    let name = pod.name_any();
    let facts = PodFacts::of(&pod.metadata.clone(), pod);
    Member { name, is_ready: facts.is_ready && facts.ip.is_some(), is_cordoned: facts.cordon.is_some() }
}

/// The Service that a policy makes the pool's membership: the oldest policy decides, as for the picker, whatever became
/// of its scheduling.
fn membership_service<'a>(pool: &PoolObject, policies: &'a [SchedulingPolicy]) -> Option<&'a str> {
    let of_pool = policies.iter().filter(|policy| policy.spec.targets(pool.group, &pool.key.name));
    let oldest = of_pool.min_by_key(|policy| Identity::of(&policy.metadata))?;
    oldest.spec.service.as_ref().map(|service| &*service.name)
}

/// The pickers that the flags name or, where they name none, those of the pools that are meant. Where the cluster was
/// asked, it comes along.
pub(crate) async fn reach(
    cluster: &ClusterArgs,
    pickers: &PickerArgs,
    pool: Option<&str>,
) -> Result<(Replicas, Option<Cluster>)> {
    if !pickers.admin_urls.is_empty() {
        let ways = pickers.admin_urls.iter().cloned().map(Way::Url).collect();
        return Ok((Replicas::new(ways, cluster.request_timeout)?, None));
    }
    let cluster = Cluster::find(cluster).await?;
    let pools = match pickers.picker_selector {
        Some(_) => Vec::new(),
        None => cluster.pools_meant(pool).await?,
    };
    let found = cluster.pickers(&pools, pickers).await?;
    if found.is_empty() {
        bail!(
            "no picker was found: does the endpointPickerRef of the pool name the picker's Service, and does the Service \
             select pods? `pointsman check` tells; or give --picker-selector or --admin-url"
        );
    }
    let ways = found.iter().map(|picker| cluster.way(picker, pickers.admin_port)).collect();
    Ok((Replicas::new(ways, cluster.limit)?, Some(cluster)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_oldest_policy_names_the_members_even_while_it_is_refused() {
        let policy = |name: &str, second: u32, pool: &str, service: Option<&str>| -> SchedulingPolicy {
            let target = json!({"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": pool});
            let condition = json!({
                "type": "Accepted", "status": "False", "reason": "Invalid", "message": "spec.profile: no",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            });
            let ancestor =
                json!({"ancestorRef": target, "controllerName": "pointsman.dev/picker", "conditions": [condition]});
            let created = format!("2026-01-01T00:00:{second:02}Z");
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "prod", "creationTimestamp": created},
                "spec": {"targetRefs": [target], "service": service.map(|name| json!({"name": name}))},
                "status": {"ancestors": [ancestor]},
            }))
            .unwrap()
        };
        let key = ObjectKey::new("prod", "chat");
        let pool = PoolObject { group: PoolGroup::Stable, key, spec: PoolSpec::default(), parents: Vec::new() };
        let refused = policy("refused", 2, "chat", Some("external"));
        for (others, expected) in [
            (vec![], Some("external")),
            (vec![policy("younger", 3, "chat", Some("late"))], Some("external")),
            (vec![policy("of-other", 1, "other", Some("other"))], Some("external")),
            (vec![policy("older", 1, "chat", None)], None),
        ] {
            let policies: Vec<_> = others.into_iter().chain([refused.clone()]).collect();
            assert_eq!(membership_service(&pool, &policies), expected, "{policies:?}");
        }
    }

    #[test]
    fn a_pool_is_meant_by_its_name_and_by_its_namespace_where_one_is_said() {
        for (text, namespace, meant) in [
            ("chat", None, true),
            ("chat", Some("prod"), true),
            ("chat", Some("test"), false),
            ("prod/chat", Some("test"), true),
            ("prod/cha", None, false),
        ] {
            assert_eq!(PoolFilter::new(text, namespace).means("prod/chat"), meant, "{text} {namespace:?}");
        }
    }
}
