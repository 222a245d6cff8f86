//! `InferenceObjective`, version v1alpha2, in both of its groups.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::{ModelGroup, OfPool, PoolGroup, PoolReference, resource};

/// How important the requests are that name this object.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct InferenceObjective {
    /// Name, namespace, labels and the rest; requests name it by its name.
    pub metadata: ObjectMeta,
    /// What its owner wants.
    pub spec: InferenceObjectiveSpec,
    /// What the picker made of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<InferenceObjectiveStatus>,
}

/// What an objective's owner wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InferenceObjectiveSpec {
    /// Higher is served first, negative is dropped first; 0 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i64>,
    /// The pool.
    pub pool_ref: PoolReference,
}

/// What the picker made of an objective.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct InferenceObjectiveStatus {
    /// Accepted; Ready is what the API server fills in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

resource!(InferenceObjective, in ModelGroup, ModelGroup::VERSION, "InferenceObjective", "inferenceobjectives");

impl InferenceObjective {
    /// How important its requests are. The schema knows no bounds, so what is beyond ours is cut to them.
    pub fn priority(&self) -> i32 {
        let bounded = self.spec.priority.unwrap_or_default().clamp(i32::MIN.into(), i32::MAX.into());
        i32::try_from(bounded).unwrap_or_default()
    }
}

impl OfPool for InferenceObjective {
    const DEFAULT_GROUP: PoolGroup = PoolGroup::Stable;

    fn pool_ref(&self) -> &PoolReference {
        &self.spec.pool_ref
    }
}
