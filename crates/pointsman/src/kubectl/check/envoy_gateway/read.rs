//! What is read of a cluster with an Envoy Gateway.

use std::collections::BTreeSet;
use std::fmt::Debug;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::{Api, ResourceExt};
use pointsman_k8s::api::{GATEWAY_GROUP, GatewaySync, HttpRoute};
use pointsman_k8s::calls::Failure;
use pointsman_k8s::key::ObjectKey;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::super::report::Finding;
use crate::kubectl::cluster::Cluster;

/// Where Envoy Gateway's chart puts its configuration.
const CONFIG_MAP: &str = "envoy-gateway-config";
const CONFIG_KEY: &str = "envoy-gateway.yaml";

/// Envoy Gateway's configuration.
pub(super) enum Configured {
    /// As it is.
    As(Value),
    /// There is none that could be read; why, and what to do.
    Not(Finding),
}

/// The names of the GatewayClasses of this controller.
pub(super) async fn classes(cluster: &Cluster, controller: &str) -> Result<BTreeSet<String>> {
    let classes: Vec<DynamicObject> = list(cluster, gateway_api("GatewayClass", "gatewayclasses")).await?;
    let ours = classes.into_iter().filter(|class| class.data["spec"]["controllerName"] == controller);
    Ok(ours.map(|class| class.name_any()).collect())
}

/// The Gateways of these classes, as far as a route of theirs names an InferencePool.
pub(super) async fn gateways_with_pools(cluster: &Cluster, classes: &BTreeSet<String>) -> Result<BTreeSet<ObjectKey>> {
    let gateways: Vec<DynamicObject> = list(cluster, gateway_api("Gateway", "gateways")).await?;
    let routes: Vec<HttpRoute> = list(cluster, gateway_api("HTTPRoute", "httproutes")).await?;
    let of_class = |gateway: &&DynamicObject| {
        gateway.data["spec"]["gatewayClassName"].as_str().is_some_and(|name| classes.contains(name))
    };
    let of_class: BTreeSet<_> =
        gateways.iter().filter(of_class).map(|gateway| ObjectKey::of(&gateway.metadata)).collect();
    let with_pools = routes.iter().filter(|route| {
        let namespace = route.metadata.namespace.as_deref().unwrap_or_default();
        route.spec.rules.iter().flat_map(|rule| &rule.backend_refs).any(|backend| backend.pool(namespace).is_some())
    });
    let parents = with_pools.flat_map(|route| {
        let namespace = route.metadata.namespace.as_deref().unwrap_or_default();
        route.spec.parent_refs.iter().filter_map(|parent| parent.gateway(namespace))
    });
    Ok(parents.filter(|gateway| of_class.contains(gateway)).collect())
}

/// The Gateways that have a GatewaySync.
pub(super) async fn syncs(cluster: &Cluster) -> Result<BTreeSet<ObjectKey>> {
    let syncs: Vec<GatewaySync> = list(cluster, ApiResource::erase::<GatewaySync>(&())).await?;
    Ok(syncs.iter().map(|sync| ObjectKey::of(&sync.metadata)).collect())
}

/// Envoy Gateway's configuration, as its chart puts it into a cluster.
pub(super) async fn configuration(cluster: &Cluster, namespace: &str) -> Result<Configured> {
    let Some(config_map) = cluster.get::<ConfigMap>(namespace, CONFIG_MAP).await? else {
        return Ok(Configured::Not(Finding::fail(
            format!("there is no ConfigMap {namespace}/{CONFIG_MAP}, in which its chart puts its configuration"),
            "name the namespace of Envoy Gateway by --envoy-gateway-namespace",
        )));
    };
    let text = config_map.data.and_then(|mut data| data.remove(CONFIG_KEY)).unwrap_or_default();
    Ok(match serde_saphyr::from_str::<Value>(&text) {
        Ok(configuration) => Configured::As(configuration),
        Err(error) => Configured::Not(Finding::fail(
            format!("ConfigMap {namespace}/{CONFIG_MAP} holds no YAML in {CONFIG_KEY}: {error}"),
            "install Envoy Gateway's chart anew",
        )),
    })
}

/// The keys of a Secret, where there is one.
pub(super) async fn secret_keys(cluster: &Cluster, namespace: &str, name: &str) -> Result<Option<BTreeSet<String>>> {
    let secret = cluster.get::<Secret>(namespace, name).await?;
    Ok(secret.map(|secret| secret.data.unwrap_or_default().into_keys().collect()))
}

fn gateway_api(kind: &str, plural: &str) -> ApiResource {
    ApiResource {
        group: GATEWAY_GROUP.to_owned(),
        version: "v1".to_owned(),
        api_version: format!("{GATEWAY_GROUP}/v1"),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

/// All objects of a kind, of the whole cluster. A kind that is not installed has none.
async fn list<K>(cluster: &Cluster, resource: ApiResource) -> Result<Vec<K>>
where
    K: Clone + Debug + DeserializeOwned,
{
    let api: Api<DynamicObject> = Api::all_with(cluster.client.clone(), &resource);
    let listed = match cluster.call(api.list(&ListParams::default())).await {
        Ok(listed) => listed.items,
        Err(error) if error.kind() == Failure::Absent => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("listing the {} of the cluster", resource.plural)),
    };
    let read = |object: DynamicObject| {
        let object = serde_json::to_value(object)?;
        Ok(serde_json::from_value(object)?)
    };
    listed.into_iter().map(read).collect::<Result<_>>().with_context(|| format!("reading the {}", resource.plural))
}
