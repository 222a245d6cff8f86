//! `ReferenceGrant` of Gateway API: who in other namespaces may refer to what in this one.

use kube::api::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::{GATEWAY_GROUP, PoolGroup, resource};
use crate::key::ObjectKey;

/// A grant, for objects of its own namespace.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct ReferenceGrant {
    /// Name, namespace, labels and the rest.
    pub metadata: ObjectMeta,
    /// What is granted.
    pub spec: ReferenceGrantSpec,
}

/// What is granted: all of `from` may refer to all of `to`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct ReferenceGrantSpec {
    /// Who may refer.
    pub from: Vec<GrantFrom>,
    /// To what.
    pub to: Vec<GrantTo>,
}

/// Who may refer: all objects of a kind in a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct GrantFrom {
    /// Their group.
    pub group: String,
    /// Their kind.
    pub kind: String,
    /// Their namespace.
    pub namespace: String,
}

/// To what: objects of a kind in the grant's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct GrantTo {
    /// Their group.
    pub group: String,
    /// Their kind.
    pub kind: String,
    /// The one that is meant; all of them when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

// The version that clusters of before Gateway API 1.5 serve too.
resource!(ReferenceGrant, GATEWAY_GROUP, "v1beta1", "ReferenceGrant", "referencegrants");

impl ReferenceGrantSpec {
    /// Whether HTTPRoutes of `namespace` may refer to that InferencePool of the grant's own namespace.
    pub fn lets_routes_of(&self, namespace: &str, pool: &ObjectKey) -> bool {
        let is_from =
            |from: &GrantFrom| from.group == GATEWAY_GROUP && from.kind == "HTTPRoute" && from.namespace == namespace;
        let is_to = |to: &GrantTo| {
            let is_meant = to.name.as_deref().is_none_or(|name| name.is_empty() || *name == *pool.name);
            to.group == PoolGroup::Stable.as_str() && to.kind == "InferencePool" && is_meant
        };
        self.from.iter().any(is_from) && self.to.iter().any(is_to)
    }
}
