//! `InferenceModel` of `inference.networking.x-k8s.io/v1alpha2`, as in version 0.5 of the extension.

use serde_json::json;

use super::shapes::{age, column, conditions, object, pending, pool_reference, rule, weight, with_default};
use super::{Crd, Definition, Owner};
use crate::api::PoolGroup;

pub(super) fn crd() -> Crd {
    let target = object(
        "A model, or a LoRA adapter, that answers.",
        &["name"],
        json!({
            "name": {"type": "string", "description": "The name that the model server knows it by.", "maxLength": 253},
            "weight": weight("Its share of the sum of weights; on all targets or on none."),
        }),
    );
    let targets = json!({
        "type": "array",
        "description": "The models that answer; the one of the model name itself when absent.",
        "maxItems": 10,
        "x-kubernetes-validations": [rule(
            "self.all(model, has(model.weight)) || self.all(model, !has(model.weight))",
            "Weights should be set for all models, or none of the models.",
        )],
        "items": target,
    });
    let model_name = json!({
        "type": "string",
        "description": "The name that requests give. Of several objects with the same one in a pool, the oldest counts.",
        "maxLength": 256,
        "x-kubernetes-validations": [rule("self == oldSelf", "modelName is immutable")],
    });
    let criticality = json!({
        "type": "string",
        "description": "How important the requests are; Standard when absent.",
        "enum": ["Critical", "Standard", "Sheddable"],
    });
    let spec = object(
        "What the model's owner wants.",
        &["modelName", "poolRef"],
        json!({
            "modelName": model_name,
            "criticality": criticality,
            "targetModels": targets,
            "poolRef": pool_reference(PoolGroup::Experimental.as_str()),
        }),
    );
    let status = json!({"conditions": with_default(conditions("Accepted."), pending("Ready"))});
    Definition {
        owner: Owner::Upstream,
        group: PoolGroup::Experimental.as_str(),
        version: "v1alpha2",
        kind: "InferenceModel",
        plural: "inferencemodels",
        short_names: &[],
        categories: &[],
        annotations: &[],
        labels: &[],
        columns: vec![
            column("Model Name", "string", ".spec.modelName", ""),
            column("Inference Pool", "string", ".spec.poolRef.name", ""),
            column("Criticality", "string", ".spec.criticality", ""),
            age(),
        ],
        description: "How important the requests for one model name are, and which models answer them.",
        spec,
        spec_required: false,
        status: object("What the picker made of the model.", &[], status),
    }
    .finish()
}
