//! `InferencePool` of `inference.networking.k8s.io/v1`, as in version 1.6 of the extension.

use serde_json::json;

use super::shapes::{
    conditions, controller_name, failure_mode, group, kind, labels, name, object, parent_reference, port_number, rule,
    with_default,
};
use super::{Crd, Definition, Owner};
use crate::api::PoolGroup;

pub(super) fn crd() -> Crd {
    let port = || object("A port.", &["number"], json!({"number": port_number("The port's number.")}));
    let mut match_labels = labels("The labels that a member has, all of them.");
    match_labels["minProperties"] = 1.into();
    match_labels["maxProperties"] = 64.into();
    let selector = object(
        "Which pods of the pool's namespace are its members.",
        &["matchLabels"],
        json!({"matchLabels": match_labels}),
    );
    let target_ports = json!({
        "type": "array",
        "description": "The ports that each member serves on; each is an endpoint of its own.",
        "minItems": 1,
        "maxItems": 8,
        "x-kubernetes-list-type": "atomic",
        "x-kubernetes-validations": [rule(
            "self.all(p1, self.exists_one(p2, p1.number==p2.number))",
            "port number must be unique",
        )],
        "items": port(),
    });
    let mut picker = object(
        "Where the gateway finds the picker.",
        &["name"],
        json!({
            "group": with_default(group("The referent's group; empty for the core group."), ""),
            "kind": with_default(kind("The referent's kind. A Service must not be of type ExternalName."), "Service"),
            "name": name("The referent's name."),
            "port": port(),
            "failureMode": failure_mode(),
        }),
    );
    picker["x-kubernetes-validations"] = json!([rule(
        "self.kind != 'Service' || has(self.port)",
        "port is required when kind is 'Service' or unspecified (defaults to 'Service')",
    )]);
    let protocols = ["http", "kubernetes.io/h2c"];
    let protocol = json!({"type": "string", "description": "What the members speak on all ports.", "enum": protocols});
    let spec = object(
        "What the pool's owner wants.",
        &["selector", "targetPorts"],
        json!({
            "selector": selector,
            "targetPorts": target_ports,
            "appProtocol": with_default(protocol, "http"),
            "endpointPickerRef": picker,
        }),
    );
    let parent = object(
        "What one gateway's controller says of the pool.",
        &["parentRef"],
        json!({
            "parentRef": parent_reference("The gateway."),
            "controllerName": controller_name(),
            "conditions": conditions("Accepted and ResolvedRefs."),
        }),
    );
    let parents = json!({
        "type": "array",
        "description": "One entry a gateway; none when no gateway uses the pool.",
        "maxItems": 32,
        "x-kubernetes-list-type": "atomic",
        "items": parent,
    });
    Definition {
        owner: Owner::Upstream,
        group: PoolGroup::Stable.as_str(),
        version: PoolGroup::Stable.version(),
        kind: "InferencePool",
        plural: "inferencepools",
        short_names: &["infpool"],
        categories: &[],
        annotations: &[
            // The API server asks for it on every kind in a group that ends in k8s.io.
            (
                "api-approved.kubernetes.io",
                "https://github.com/kubernetes-sigs/gateway-api-inference-extension/pull/1173",
            ),
            ("inference.networking.k8s.io/bundle-version", "v1.6.0"),
        ],
        labels: &[],
        columns: Vec::new(),
        description: "Pods that serve the same models, behind one picker.",
        spec,
        spec_required: true,
        status: object("What the gateways' controllers say.", &[], json!({"parents": parents})),
    }
    .finish()
}
