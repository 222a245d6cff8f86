//! `InferencePool` of `inference.networking.x-k8s.io/v1alpha2`, as in versions 0.5 to 1.4 of the extension.

use serde_json::json;

use super::shapes::{
    conditions, failure_mode, group, kind, labels, name, object, parent_reference, pending, port_number, with_default,
};
use super::{Crd, Definition, Owner};
use crate::api::PoolGroup;

pub(super) fn crd() -> Crd {
    let picker = object(
        "Where the gateway finds the picker.",
        &["name"],
        json!({
            "group": with_default(group("The referent's group; empty for the core group."), ""),
            "kind": with_default(kind("The referent's kind. A Service must not be of type ExternalName."), "Service"),
            "name": name("The referent's name."),
            "portNumber": port_number("The Service's port; 9002 when absent."),
            "failureMode": failure_mode(),
        }),
    );
    let spec = object(
        "What the pool's owner wants.",
        &["extensionRef", "selector", "targetPortNumber"],
        json!({
            "selector": labels("The labels that the pods of the pool's namespace have, all of them, to be its members."),
            "targetPortNumber": port_number("The port that each member serves on."),
            "extensionRef": picker,
        }),
    );
    let parent = object(
        "What one gateway's controller says of the pool.",
        &["parentRef"],
        json!({
            "parentRef": parent_reference("The gateway."),
            "conditions": with_default(conditions("Accepted and ResolvedRefs."), pending("Accepted")),
        }),
    );
    let parents = json!({
        "type": "array",
        "description": "One entry a gateway. The entry of kind Status, named default, stands for no gateway at all.",
        "maxItems": 32,
        "items": parent,
    });
    let nobody = json!({
        "parent": [{"conditions": pending("Accepted"), "parentRef": {"kind": "Status", "name": "default"}}],
    });
    Definition {
        owner: Owner::Upstream,
        group: PoolGroup::Experimental.as_str(),
        version: PoolGroup::Experimental.version(),
        kind: "InferencePool",
        plural: "inferencepools",
        short_names: &["xinfpool"],
        categories: &[],
        annotations: &[],
        labels: &[],
        columns: Vec::new(),
        description: "Pods that serve the same models, behind one picker.",
        spec,
        spec_required: false,
        status: with_default(object("What the gateways' controllers say.", &[], json!({"parent": parents})), nobody),
    }
    .finish()
}
