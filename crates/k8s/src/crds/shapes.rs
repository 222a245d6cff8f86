//! Pieces of schemas that several kinds share.

use serde_json::{Value, json};

const GROUP_PATTERN: &str = r"^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
const KIND_PATTERN: &str = r"^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$";
const LABEL_VALUE_PATTERN: &str = r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$";
const CONDITION_REASON_PATTERN: &str = r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$";
const CONDITION_TYPE_PATTERN: &str = concat!(
    r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?",
    r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$"
);
const CONTROLLER_PATTERN: &str =
    r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\/[A-Za-z0-9\/\-._~%!$&'()*+,;=:]+$";
/// The names of namespaces and Services, and of ports.
pub(super) const DNS_LABEL_PATTERN: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";

/// A column of `kubectl get`.
pub(super) fn column(name: &str, kind: &str, path: &str, description: &str) -> Value {
    let mut column = json!({"name": name, "type": kind, "jsonPath": path});
    if !description.is_empty() {
        column["description"] = description.into();
    }
    column
}

/// The column that says how old an object is.
pub(super) fn age() -> Value {
    column("Age", "date", ".metadata.creationTimestamp", "")
}

/// A mapping with these members.
pub(super) fn object(description: &str, required: &[&str], properties: Value) -> Value {
    let mut object = json!({"type": "object", "description": description, "properties": properties});
    if !required.is_empty() {
        object["required"] = required.into();
    }
    object
}

/// A member that the API server fills in.
pub(super) fn with_default(mut schema: Value, default: impl Into<Value>) -> Value {
    schema["default"] = default.into();
    schema
}

/// The group of a referent.
pub(super) fn group(description: &str) -> Value {
    json!({"type": "string", "description": description, "maxLength": 253, "pattern": GROUP_PATTERN})
}

/// The kind of a referent.
pub(super) fn kind(description: &str) -> Value {
    json!({"type": "string", "description": description, "minLength": 1, "maxLength": 63, "pattern": KIND_PATTERN})
}

/// The name of a referent.
pub(super) fn name(description: &str) -> Value {
    json!({"type": "string", "description": description, "minLength": 1, "maxLength": 253})
}

/// The namespace of a referent.
fn namespace(description: &str) -> Value {
    json!({"type": "string", "description": description, "minLength": 1, "maxLength": 63, "pattern": DNS_LABEL_PATTERN})
}

/// The name of the controller that wrote a status.
pub(super) fn controller_name() -> Value {
    let description = "Who wrote this entry, as DOMAIN/PATH.";
    json!({"type": "string", "description": description, "minLength": 1, "maxLength": 253, "pattern": CONTROLLER_PATTERN})
}

/// A port's number.
pub(super) fn port_number(description: &str) -> Value {
    json!({"type": "integer", "format": "int32", "description": description, "minimum": 1, "maximum": 65535})
}

/// What the gateway does while the picker is away.
pub(super) fn failure_mode() -> Value {
    let description = "What the gateway does with requests while the picker is away: FailOpen sends them to any \
                       endpoint of the pool, FailClose fails them.";
    let modes = ["FailOpen", "FailClose"];
    with_default(json!({"type": "string", "description": description, "enum": modes}), "FailClose")
}

/// The labels that a pool's members have.
pub(super) fn labels(description: &str) -> Value {
    let value = json!({"type": "string", "maxLength": 63, "pattern": LABEL_VALUE_PATTERN});
    json!({"type": "object", "description": description, "additionalProperties": value})
}

/// A share among targets.
pub(super) fn weight(description: &str) -> Value {
    json!({"type": "integer", "format": "int32", "description": description, "minimum": 1, "maximum": 1_000_000})
}

/// Which pool an object belongs to.
pub(super) fn pool_reference(default_group: &str) -> Value {
    let properties = json!({
        "group": with_default(group("The pool's group."), default_group),
        "kind": with_default(kind("The pool's kind."), "InferencePool"),
        "name": name("The pool's name."),
    });
    object("The pool, in the object's own namespace.", &["name"], properties)
}

/// A gateway, or for policies whatever they act on.
pub(super) fn parent_reference(description: &str) -> Value {
    let properties = json!({
        "group": with_default(group("The referent's group."), "gateway.networking.k8s.io"),
        "kind": with_default(kind("The referent's kind."), "Gateway"),
        "namespace": namespace("The referent's namespace; the object's own when absent."),
        "name": name("The referent's name."),
    });
    object(description, &["name"], properties)
}

/// A list of conditions, at most one of a type.
pub(super) fn conditions(description: &str) -> Value {
    let statuses = ["True", "False", "Unknown"];
    let properties = json!({
        "type": {
            "type": "string", "description": "What the condition is about.",
            "maxLength": 316, "pattern": CONDITION_TYPE_PATTERN,
        },
        "status": {"type": "string", "description": "Whether it holds.", "enum": statuses},
        "observedGeneration": {
            "type": "integer", "format": "int64", "minimum": 0,
            "description": "The metadata.generation that was looked at.",
        },
        "lastTransitionTime": {
            "type": "string", "format": "date-time", "description": "When the status last became another one.",
        },
        "reason": {
            "type": "string", "description": "Why, in one CamelCase word.",
            "minLength": 1, "maxLength": 1024, "pattern": CONDITION_REASON_PATTERN,
        },
        "message": {"type": "string", "description": "Why, for people.", "maxLength": 32768},
    });
    let required = ["lastTransitionTime", "message", "reason", "status", "type"];
    json!({
        "type": "array",
        "description": description,
        "maxItems": 8,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": object("One thing that a controller says of the object.", &required, properties),
    })
}

/// The condition that stands until a controller has looked.
pub(super) fn pending(kind: &str) -> Value {
    json!([{
        "type": kind,
        "status": "Unknown",
        "reason": "Pending",
        "message": "Waiting for controller",
        "lastTransitionTime": "1970-01-01T00:00:00Z",
    }])
}

/// A rule in the Common Expression Language, with the sentence that answers whoever breaks it.
pub(super) fn rule(rule: &str, message: &str) -> Value {
    json!({"rule": rule, "message": message})
}
