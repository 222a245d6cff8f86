//! `GatewaySync` of `pointsman.dev/v1alpha1`: what the extension server last knew of what a Gateway depends on.

use kube::api::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::{GATEWAY_GROUP, GROUP, VERSION, resource};

/// One a Gateway, in its namespace and under its name, written by the extension server alone: a change of its `spec` has
/// Envoy Gateway ask again.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct GatewaySync {
    /// Name, namespace, labels and the rest.
    pub metadata: ObjectMeta,
    /// What was known.
    pub spec: GatewaySyncSpec,
}

/// What was known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewaySyncSpec {
    /// The Gateway; one.
    pub target_refs: Vec<GatewayTarget>,
    /// A digest of all that the Gateway's configuration depends on and Envoy Gateway does not show.
    pub digest: String,
    /// Counts how often Envoy Gateway had to ask again for the same digest.
    pub round: u32,
}

/// The Gateway that an object is about, in the object's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct GatewayTarget {
    /// Gateway API's group.
    pub group: String,
    /// `Gateway`.
    pub kind: String,
    /// The Gateway's name.
    pub name: String,
}

resource!(GatewaySync, GROUP, VERSION, "GatewaySync", "gatewaysyncs");

impl GatewayTarget {
    /// The Gateway of that name.
    pub fn named(name: &str) -> Self {
        Self { group: GATEWAY_GROUP.to_owned(), kind: "Gateway".to_owned(), name: name.to_owned() }
    }
}
