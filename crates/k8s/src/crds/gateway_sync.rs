//! `GatewaySync` of `pointsman.dev/v1alpha1`.

use serde_json::json;

use super::shapes::{age, column, group, kind, name, object};
use super::{Crd, Definition, Owner};
use crate::api;

pub(super) fn crd() -> Crd {
    let target = object(
        "The Gateway.",
        &["group", "kind", "name"],
        json!({
            "group": group("The Gateway's group."),
            "kind": kind("Gateway."),
            "name": name("The Gateway's name, in the object's namespace."),
        }),
    );
    let targets = json!({
        "type": "array",
        "description": "The Gateway; without one Envoy Gateway would drop other policies.",
        "minItems": 1,
        "maxItems": 1,
        "x-kubernetes-list-type": "atomic",
        "items": target,
    });
    let spec = object(
        "What the extension server knew.",
        &["targetRefs", "digest"],
        json!({
            "targetRefs": targets,
            "digest": {
                "type": "string", "maxLength": 64,
                "description": "A digest of what the Gateway's configuration depends on and Envoy Gateway does not show.",
            },
            "round": {
                "type": "integer", "format": "int64", "minimum": 0, "maximum": u32::MAX,
                "description": "How often Envoy Gateway had to ask again for the same digest.",
            },
        }),
    );
    let mut status = object("Written by Envoy Gateway.", &[], json!({}));
    status["x-kubernetes-preserve-unknown-fields"] = true.into();
    Definition {
        owner: Owner::Pointsman,
        group: api::GROUP,
        version: api::VERSION,
        kind: "GatewaySync",
        plural: "gatewaysyncs",
        short_names: &[],
        categories: &[],
        annotations: &[],
        labels: &[("gateway.networking.k8s.io/policy", "Direct")],
        columns: vec![
            column("Gateway", "string", ".spec.targetRefs[0].name", "The Gateway that it is about."),
            column("Digest", "string", ".spec.digest", "Of what was known."),
            age(),
        ],
        description: "What the extension server for Envoy Gateway last knew; a change of it has Envoy Gateway ask again. \
                      Not for people to write.",
        spec,
        spec_required: true,
        status,
    }
    .finish()
}
