//! `InferenceObjective`, version v1alpha2, in both of its groups.

use serde_json::json;

use super::shapes::{age, column, conditions, object, pending, pool_reference, with_default};
use super::{Crd, Definition, Owner};
use crate::api::{ModelGroup, PoolGroup};

pub(super) fn crd(group: ModelGroup) -> Crd {
    let priority = "Higher is served first, negative is dropped first; 0 when absent.";
    let spec = object(
        "What the objective's owner wants.",
        &["poolRef"],
        json!({
            "priority": {"type": "integer", "description": priority},
            "poolRef": pool_reference(PoolGroup::Stable.as_str()),
        }),
    );
    let status = json!({"conditions": with_default(conditions("Accepted."), pending("Ready"))});
    Definition {
        owner: Owner::Upstream,
        group: group.as_str(),
        version: ModelGroup::VERSION,
        kind: "InferenceObjective",
        plural: "inferenceobjectives",
        short_names: &[],
        categories: &[],
        annotations: &[],
        labels: &[],
        columns: vec![
            column("Inference Pool", "string", ".spec.poolRef.name", ""),
            column("Priority", "string", ".spec.priority", ""),
            age(),
        ],
        description: "How important the requests are that name this object.",
        spec,
        spec_required: false,
        status: object("What the picker made of the objective.", &[], status),
    }
    .finish()
}
