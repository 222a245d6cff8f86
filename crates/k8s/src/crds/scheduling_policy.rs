//! `SchedulingPolicy` of `pointsman.dev/v1alpha1`: the configuration's own schema, the pools that it is for, and rules
//! over both.

use pointsman_core::config;
use pointsman_core::registry::Registry;
use serde_json::{Value, json};

use super::shapes::{
    DNS_LABEL_PATTERN, age, column, conditions, controller_name, name, object, parent_reference, rule,
};
use super::{Crd, Definition, Owner, rules};
use crate::api::{self, PoolGroup};

/// Pools that one policy may be for. GEP-713 lets a status tell of as many ancestors.
const MAX_TARGETS: u32 = 16;
/// Members of a mapping whose schema is not known.
const MAX_UNKNOWN_MEMBERS: u32 = 64;
/// Lists whose items have a name that no other item may have.
pub(super) const LISTS_BY_NAME: &[&str] = &["telemetry.engines", "models[].matches[].headers"];

pub(super) fn crd(registry: &Registry) -> Crd {
    let pool = || column("Pool", "string", ".spec.targetRefs[0].name", "The first pool that the policy is for.");
    let accepted = r#".status.ancestors[0].conditions[?(@.type=="Accepted")].status"#;
    Definition {
        owner: Owner::Pointsman,
        group: api::GROUP,
        version: api::VERSION,
        kind: "SchedulingPolicy",
        plural: "schedulingpolicies",
        short_names: &["schedpol"],
        categories: &["inference"],
        annotations: &[],
        labels: &[("gateway.networking.k8s.io/policy", "Direct")],
        columns: vec![pool(), column("Accepted", "string", accepted, "Whether it acts on its first pool."), age()],
        description: "How the requests for some InferencePools are scheduled. Of several policies for one pool, the \
                      oldest counts.",
        spec: spec(registry),
        spec_required: true,
        status: status(),
    }
    .finish()
}

fn spec(registry: &Registry) -> Value {
    let mut spec = config::schema(registry);
    close(&mut spec);
    let service = object(
        "A Service whose EndpointSlices, written by hand or not, are the pools' members in place of the pods that the \
         pools select.",
        &["name"],
        json!({
            "name": {
                "type": "string", "description": "The Service's name, in the policy's namespace.",
                "minLength": 1, "maxLength": 63, "pattern": DNS_LABEL_PATTERN,
            },
            "port": {
                "description": "Which of the EndpointSlices' ports serves the model, by its name or its number; every \
                                port when absent.",
                "x-kubernetes-int-or-string": true,
                "anyOf": [{"type": "integer"}, {"type": "string"}],
                "minimum": 1, "maximum": 65535, "maxLength": 63, "pattern": DNS_LABEL_PATTERN,
            },
        }),
    );
    spec["description"] = "What the policy's owner wants.".into();
    spec["required"] = json!(["targetRefs"]);
    spec["properties"]["service"] = service;
    spec["properties"]["targetRefs"] = target_refs();
    for list in LISTS_BY_NAME {
        if let Some(list) = place(&mut spec, list) {
            list["x-kubernetes-list-type"] = "map".into();
            list["x-kubernetes-list-map-keys"] = json!(["name"]);
        }
    }
    for placed in rules::all(registry) {
        if let Some(Value::Object(place)) = place(&mut spec, &placed.at)
            && let Some(rules) = place.entry("x-kubernetes-validations").or_insert_with(|| json!([])).as_array_mut()
        {
            rules.push(placed.rule);
        }
    }
    spec
}

fn target_refs() -> Value {
    let target = object(
        "A pool.",
        &["group", "kind", "name"],
        json!({
            "group": {
                "type": "string", "description": "The pool's group.",
                "enum": PoolGroup::ALL.map(|group| group.as_str()),
            },
            "kind": {"type": "string", "description": "The pool's kind.", "enum": ["InferencePool"]},
            "name": name("The pool's name."),
        }),
    );
    json!({
        "type": "array",
        "description": "The pools that the policy is for, in its own namespace.",
        "minItems": 1,
        "maxItems": MAX_TARGETS,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["group", "kind", "name"],
        "items": target,
    })
}

fn status() -> Value {
    let mut conditions = conditions("Accepted.");
    conditions["minItems"] = 1.into();
    let ancestor = object(
        "What one controller made of the policy for one pool.",
        &["ancestorRef", "controllerName", "conditions"],
        json!({
            "ancestorRef": parent_reference("The pool."),
            "controllerName": controller_name(),
            "conditions": conditions,
        }),
    );
    let ancestors = json!({
        "type": "array",
        "description": "One entry a pool and controller.",
        "maxItems": MAX_TARGETS,
        "x-kubernetes-list-type": "atomic",
        "items": ancestor,
    });
    object("What the picker made of the policy.", &["ancestors"], json!({"ancestors": ancestors}))
}

/// The schema at a path as `models[].targets`; `None` where there is nothing.
pub(super) fn place<'a>(schema: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    path.split('.').try_fold(schema, |schema, step| {
        let (member, is_item) = step.strip_suffix("[]").map_or((step, false), |member| (member, true));
        let below = schema.get_mut("properties")?.get_mut(member)?;
        if is_item { below.get_mut("items") } else { Some(below) }
    })
}

/// Brings a schema of the configuration into the form that the API server takes: there, fields that are not named are
/// unknown without saying so, and what is not known has a bound nevertheless.
fn close(schema: &mut Value) {
    let Value::Object(members) = schema else {
        return;
    };
    members.remove("title");
    // Doc comments break their lines where the code does.
    if let Some(Value::String(description)) = members.get_mut("description") {
        *description = description.replace('\n', " ");
    }
    if members.get("additionalProperties") == Some(&Value::Bool(false)) {
        members.remove("additionalProperties");
    }
    // The API server cuts a minimum's fraction off before it compares a whole number with it.
    if let Some(minimum) = members.get("minimum").and_then(Value::as_f64).filter(|minimum| minimum.fract() > 0.0) {
        let rules = json!([rule(&format!("self >= {minimum:?}"), &format!("less than {minimum}"))]);
        members.insert("x-kubernetes-validations".into(), rules);
    }
    if members.contains_key("x-kubernetes-preserve-unknown-fields") {
        members.entry("maxProperties").or_insert_with(|| MAX_UNKNOWN_MEMBERS.into());
    }
    if let Some(Value::Object(properties)) = members.get_mut("properties") {
        properties.values_mut().for_each(close);
    }
    for below in ["items", "additionalProperties"] {
        if let Some(below) = members.get_mut(below) {
            close(below);
        }
    }
}
