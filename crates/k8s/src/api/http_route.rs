//! `HTTPRoute` of Gateway API, as far as it says who gets which share of a rule's requests, and whether its Gateways take it.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::{GATEWAY_GROUP, ParentReference, PoolGroup, resource};
use crate::key::ObjectKey;

/// A route.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct HttpRoute {
    /// Name, namespace, labels and the rest.
    pub metadata: ObjectMeta,
    /// What its owner wants.
    pub spec: HttpRouteSpec,
    /// What the Gateways' controllers say.
    pub status: HttpRouteStatus,
}

/// What a route's owner wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRouteSpec {
    /// What it is attached to.
    pub parent_refs: Vec<ParentReference>,
    /// Its rules.
    pub rules: Vec<HttpRouteRule>,
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRouteRule {
    /// Who gets its requests.
    pub backend_refs: Vec<BackendRef>,
    /// What else is done with them.
    pub filters: Vec<RouteFilter>,
}

/// One of those who get a rule's requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct BackendRef {
    /// The core group when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// `Service` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The route's namespace when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Its share; 1 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// What else is done with its requests.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<RouteFilter>,
}

/// Something that is done with requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteFilter {
    /// A copy goes elsewhere too; absent where the filter does something else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_mirror: Option<RequestMirror>,
}

/// Where copies of requests go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestMirror {
    /// Who gets them.
    pub backend_ref: BackendRef,
}

/// What the Gateways' controllers say of a route.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct HttpRouteStatus {
    /// One entry a Gateway, or one a listener of it.
    pub parents: Vec<RouteParentStatus>,
}

/// What one controller says of a route and one of its parents.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteParentStatus {
    /// The parent.
    pub parent_ref: ParentReference,
    /// Who wrote the entry.
    pub controller_name: String,
    /// Accepted, ResolvedRefs and others.
    pub conditions: Vec<Condition>,
}

resource!(HttpRoute, GATEWAY_GROUP, "v1", "HTTPRoute", "httproutes");

impl HttpRouteRule {
    /// The InferencePools among those who get its requests, for a route of that namespace.
    pub fn pools<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = ObjectKey> + 'a {
        self.backend_refs.iter().filter_map(|backend| backend.pool(namespace))
    }

    /// The InferencePools among those who get copies of its requests, for a route of that namespace.
    pub fn mirrored_pools<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = ObjectKey> + 'a {
        let filters = self.filters.iter().chain(self.backend_refs.iter().flat_map(|backend| &backend.filters));
        filters.filter_map(|filter| filter.request_mirror.as_ref()?.backend_ref.pool(namespace))
    }
}

impl HttpRouteStatus {
    /// The Gateways that refuse a route of that namespace altogether, as a controller of that name says.
    pub fn refused_by(&self, namespace: &str, controller_name: &str) -> BTreeSet<ObjectKey> {
        let of_controller = |parent: &&RouteParentStatus| parent.controller_name == controller_name;
        let mut are_refused: BTreeMap<ObjectKey, bool> = BTreeMap::new();
        for parent in self.parents.iter().filter(of_controller) {
            let Some(gateway) = parent.parent_ref.gateway(namespace) else { continue };
            let is_refused = |condition: &Condition| condition.type_ == "Accepted" && condition.status == "False";
            // One listener that takes it is enough.
            *are_refused.entry(gateway).or_insert(true) &= parent.conditions.iter().any(is_refused);
        }
        are_refused.into_iter().filter_map(|(gateway, is_refused)| is_refused.then_some(gateway)).collect()
    }
}

impl BackendRef {
    /// The InferencePool that it is, for a route of that namespace; `None` when it is none.
    pub fn pool(&self, namespace: &str) -> Option<ObjectKey> {
        let is_pool =
            self.group.as_deref() == Some(PoolGroup::Stable.as_str()) && self.kind.as_deref() == Some("InferencePool");
        is_pool.then(|| ObjectKey::new(self.namespace.as_deref().unwrap_or(namespace), &self.name))
    }
}
