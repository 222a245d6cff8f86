//! `InferenceModel` of `inference.networking.x-k8s.io/v1alpha2`, up to version 0.5 of the extension.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::{OfPool, PoolGroup, PoolReference, resource};

/// How important the requests for one model name are, and which models answer them.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct InferenceModel {
    /// Name, namespace, labels and the rest.
    pub metadata: ObjectMeta,
    /// What its owner wants.
    pub spec: InferenceModelSpec,
    /// What the picker made of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<InferenceModelStatus>,
}

/// What a model's owner wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InferenceModelSpec {
    /// The name that requests give; of several objects with the same one in a pool, the oldest counts.
    pub model_name: String,
    /// How important the requests are; Standard when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub criticality: Option<String>,
    /// The models that answer, by weight; the one named `model_name` when empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub target_models: Vec<TargetModel>,
    /// The pool.
    pub pool_ref: PoolReference,
}

/// One of the models that answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct TargetModel {
    /// The name that the model server knows it by.
    pub name: String,
    /// Its share of the sum of weights; on all targets or on none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<i64>,
}

/// How important requests are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Criticality {
    /// Served first.
    Critical,
    /// What is neither.
    #[default]
    Standard,
    /// The first to be dropped.
    Sheddable,
}

/// What the picker made of a model.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct InferenceModelStatus {
    /// Accepted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

resource!(InferenceModel, PoolGroup::Experimental.as_str(), "v1alpha2", "InferenceModel", "inferencemodels");

impl InferenceModel {
    /// How important its requests are; a word that is not known counts as none.
    pub fn criticality(&self) -> Criticality {
        match self.spec.criticality.as_deref() {
            Some("Critical") => Criticality::Critical,
            Some("Sheddable") => Criticality::Sheddable,
            _ => Criticality::Standard,
        }
    }
}

impl OfPool for InferenceModel {
    const DEFAULT_GROUP: PoolGroup = PoolGroup::Experimental;

    fn pool_ref(&self) -> &PoolReference {
        &self.spec.pool_ref
    }
}
