//! `InferenceModelRewrite`, version v1alpha2, in both of its groups.

use serde_json::json;

use super::shapes::{age, column, conditions, object, pending, pool_reference, weight, with_default};
use super::{Crd, Definition, Owner};
use crate::api::{ModelGroup, PoolGroup};

pub(super) fn crd(group: ModelGroup) -> Crd {
    let comparison = json!({"type": "string", "description": "How the name is compared.", "enum": ["Exact"]});
    let model = object(
        "The model that a request names.",
        &["value"],
        json!({
            "type": with_default(comparison, "Exact"),
            "value": {"type": "string", "description": "The name.", "minLength": 1},
        }),
    );
    let matches = json!({
        "type": "array",
        "description": "A request that fits any of them is meant; every request when empty.",
        "items": object("What a request must be like.", &["model"], json!({"model": model})),
    });
    let target = object(
        "A model that answers.",
        &["modelRewrite"],
        json!({
            "weight": weight("Its share of the sum of weights."),
            "modelRewrite": {"type": "string", "description": "The name that the model server knows it by."},
        }),
    );
    let targets = json!({
        "type": "array",
        "description": "The models that answer, by weight.",
        "minItems": 1,
        "items": target,
    });
    let rule = object("Which models answer for some names.", &[], json!({"matches": matches, "targets": targets}));
    let spec = object(
        "What the rewrite's owner wants.",
        &["poolRef", "rules"],
        json!({
            "poolRef": pool_reference(PoolGroup::Stable.as_str()),
            "rules": {
                "type": "array",
                "description": "Rules, in order: of two that fit a request equally well, the first counts.",
                "items": rule,
            },
        }),
    );
    let status = json!({"conditions": with_default(conditions("Accepted."), pending("Accepted"))});
    Definition {
        owner: Owner::Upstream,
        group: group.as_str(),
        version: ModelGroup::VERSION,
        kind: "InferenceModelRewrite",
        plural: "inferencemodelrewrites",
        short_names: &[],
        categories: &[],
        annotations: &[],
        labels: &[],
        columns: vec![column("Inference Pool", "string", ".spec.poolRef.name", ""), age()],
        description: "Which models answer for the model names that requests give.",
        spec,
        spec_required: false,
        status: object("What the picker made of the rewrite.", &[], status),
    }
    .finish()
}
