//! The JSON Schema of a configuration: what the CRD carries is what the check reads.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::spec::SchedulingSpec;
use crate::registry::{PluginDef, Registry};

/// Maxima where a schema names none, so that rules over it have a bounded cost and reports a bounded size.
const MAX_ITEMS: u32 = 64;
const MAX_PROPERTIES: u32 = 256;
const MAX_LENGTH: u32 = 1024;
/// References are followed this deep; whatever lies deeper is not described.
const MAX_DEPTH: usize = 32;

/// The smallest and the greatest weight of a scorer.
pub(super) const WEIGHTS: (f64, f64) = (0.001, 1000.0);

/// The schema of a policy with the plugins of `registry`: structural in Kubernetes' sense (no references, no
/// alternatives but int-or-string), with a maximum on every list, string and map.
pub fn schema(registry: &Registry) -> Value {
    let mut schema = schema_of::<SchedulingSpec>();
    let entries = [
        ("filters", entry("filter", registry.filters(), false)),
        ("scorers", entry("scorer", registry.scorers(), true)),
        ("picker", entry("picker", registry.pickers(), false)),
    ];
    for (field, entry) in entries {
        let place = &mut schema["properties"]["profile"]["properties"][field];
        let place = if field == "picker" { place } else { &mut place["items"] };
        let description = place.get("description").cloned();
        *place = entry;
        if let (Some(description), "picker") = (description, field) {
            place["description"] = description;
        }
    }
    schema
}

/// The structural schema of a type.
pub fn schema_of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    structural(settings.into_generator().into_root_schema_for::<T>().to_value())
}

/// The structural schema of a plugin's parameters.
pub(super) fn parameters_schema<P: ?Sized>(def: &PluginDef<P>) -> Value {
    structural((def.schema)().to_value())
}

/// The member that holds a plugin's parameters: its name without the kind, in camel case.
pub fn member_name(plugin: &str) -> String {
    let stem = ["-scorer", "-filter", "-picker"].iter().find_map(|kind| plugin.strip_suffix(kind)).unwrap_or(plugin);
    let mut name = String::with_capacity(stem.len());
    let mut upper = false;
    for c in stem.chars() {
        match c {
            '-' => upper = !name.is_empty(),
            c if upper => {
                name.push(c.to_ascii_uppercase());
                upper = false;
            }
            c => name.push(c),
        }
    }
    name
}

/// The schema of a profile's entry: `type`, `weight` for scorers, `parameters`, and a member for each plugin that has
/// parameters.
fn entry<P: ?Sized>(kind: &str, defs: &[PluginDef<P>], weighted: bool) -> Value {
    let mut properties = Map::new();
    for def in defs {
        let mut parameters = parameters_schema(def);
        if parameters["properties"].as_object().is_some_and(|properties| !properties.is_empty()) {
            parameters["description"] = format!("Parameters of `{}`. {}", def.name, def.summary).into();
            properties.insert(member_name(def.name), parameters);
        }
    }
    let names: Vec<_> = defs.iter().map(|def| def.name).collect();
    let described = format!("The {kind}'s name.");
    properties.insert("type".into(), json!({"type": "string", "title": kind, "description": described, "enum": names}));
    properties.insert(
        "parameters".into(),
        json!({
            "type": "object",
            "description": "The plugin's parameters; the same as the member named after it.",
            "x-kubernetes-preserve-unknown-fields": true,
        }),
    );
    if weighted {
        let described = "What the score, 0 to 1, is multiplied by; 1 when absent.";
        let weight = json!({"type": "number", "description": described, "minimum": WEIGHTS.0, "maximum": WEIGHTS.1});
        properties.insert("weight".into(), weight);
    }
    json!({"type": "object", "properties": properties, "required": ["type"], "additionalProperties": false})
}

/// Brings a schema as schemars writes it into structural form.
fn structural(mut schema: Value) -> Value {
    let defs = schema.get_mut("$defs").map(Value::take).unwrap_or_default();
    simplify(&mut schema, &defs, 0);
    schema
}

fn simplify(schema: &mut Value, defs: &Value, depth: usize) {
    let Value::Object(members) = schema else {
        return;
    };
    if depth > MAX_DEPTH {
        *schema = json!({"x-kubernetes-preserve-unknown-fields": true});
        return;
    }
    let format = members.get("format").and_then(Value::as_str).unwrap_or_default();
    for &(keyword, bound) in bounds_of(format) {
        members.entry(keyword).or_insert(bound.into());
    }
    for unused in ["$schema", "$defs", "title", "format", "default"] {
        members.remove(unused);
    }
    if let Some(Value::String(reference)) = members.remove("$ref") {
        let referred = reference.rsplit('/').next().and_then(|name| defs.get(name));
        merge(members, referred.cloned().unwrap_or_default());
        return simplify(schema, defs, depth + 1);
    }
    if !members.contains_key("x-kubernetes-int-or-string") {
        for alternatives in ["anyOf", "oneOf"] {
            let Some(Value::Array(mut alternatives)) = members.remove(alternatives) else {
                continue;
            };
            alternatives.retain(|alternative| alternative["type"] != "null");
            if alternatives.iter().any(|alternative| alternative.get("const").is_some()) {
                let values: Vec<_> = alternatives.into_iter().filter_map(|a| a.get("const").cloned()).collect();
                members.insert("type".into(), "string".into());
                members.insert("enum".into(), values.into());
            } else if alternatives.len() == 1 {
                alternatives.into_iter().for_each(|only| merge(members, only));
                return simplify(schema, defs, depth + 1);
            }
        }
    }
    if let Some(Value::Array(types)) = members.get("type") {
        let kind = types.iter().find(|kind| *kind != "null").cloned().unwrap_or_default();
        members.insert("type".into(), kind);
    }
    if let Some(Value::Array(values)) = members.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    if let Some(Value::Object(properties)) = members.get_mut("properties") {
        properties.values_mut().for_each(|property| simplify(property, defs, depth + 1));
    }
    for below in ["items", "additionalProperties"] {
        if let Some(below) = members.get_mut(below) {
            simplify(below, defs, depth + 1);
        }
    }
    let bounded = match members.get("type").and_then(Value::as_str) {
        Some("array") => Some(("maxItems", MAX_ITEMS)),
        Some("string") if !members.contains_key("enum") => Some(("maxLength", MAX_LENGTH)),
        Some("object") if members.get("additionalProperties").is_some_and(Value::is_object) => {
            Some(("maxProperties", MAX_PROPERTIES))
        }
        _ => None,
    };
    if let Some((maximum, value)) = bounded {
        members.entry(maximum).or_insert_with(|| value.into());
    }
}

/// The bounds of integer types that schemars tells by their format alone.
fn bounds_of(format: &str) -> &'static [(&'static str, i64)] {
    match format {
        "uint32" => &[("maximum", u32::MAX as i64)],
        "int32" => &[("minimum", i32::MIN as i64), ("maximum", i32::MAX as i64)],
        _ => &[],
    }
}

/// Adds what `other` says to what stands in a schema already, which wins.
fn merge(members: &mut Map<String, Value>, other: Value) {
    if let Value::Object(other) = other {
        for (key, value) in other {
            members.entry(key).or_insert(value);
        }
    }
}
