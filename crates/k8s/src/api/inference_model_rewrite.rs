//! `InferenceModelRewrite`, version v1alpha2, in both of its groups.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::{ModelGroup, OfPool, PoolGroup, PoolReference, resource};

/// Which models answer for the model names that requests give.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct InferenceModelRewrite {
    /// Name, namespace, labels and the rest.
    pub metadata: ObjectMeta,
    /// What its owner wants.
    pub spec: InferenceModelRewriteSpec,
    /// What the picker made of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<InferenceModelRewriteStatus>,
}

/// What a rewrite's owner wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InferenceModelRewriteSpec {
    /// The pool.
    pub pool_ref: PoolReference,
    /// In order: of two that match a request equally well, the first counts.
    pub rules: Vec<RewriteRule>,
}

/// Which models answer for some model names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct RewriteRule {
    /// Any of them; empty means every request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<RewriteMatch>,
    /// The models that answer, by weight.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<RewriteTarget>,
}

/// What a request must be like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct RewriteMatch {
    /// The model that it names.
    pub model: ModelMatch,
}

/// Which model names are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct ModelMatch {
    /// `Exact`, the only one there is; absent means the same.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The name.
    pub value: String,
}

/// One of the models that answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RewriteTarget {
    /// Its share of the sum of weights. Where some targets have one, those without are never chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<i64>,
    /// The name that the model server knows it by.
    pub model_rewrite: String,
}

/// What the picker made of a rewrite.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct InferenceModelRewriteStatus {
    /// Accepted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

resource!(
    InferenceModelRewrite,
    in ModelGroup,
    ModelGroup::VERSION,
    "InferenceModelRewrite",
    "inferencemodelrewrites"
);

impl InferenceModelRewrite {}

impl OfPool for InferenceModelRewrite {
    const DEFAULT_GROUP: PoolGroup = PoolGroup::Stable;

    fn pool_ref(&self) -> &PoolReference {
        &self.spec.pool_ref
    }
}

impl ModelMatch {
    /// Whether the picker knows how to compare; a rule with another one must not catch requests by accident.
    pub fn is_exact(&self) -> bool {
        self.kind.as_deref().is_none_or(|kind| kind == "Exact")
    }
}
