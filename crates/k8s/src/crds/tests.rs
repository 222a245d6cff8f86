//! Claims about the definitions.

use std::collections::BTreeSet;

use pointsman_core::config::{FieldPath, UnknownFields, validate};
use pointsman_core::filters::Filter;
use pointsman_core::registry::{PluginDef, schema_of};
use schemars::JsonSchema;
use serde_json::{Value, json};

use super::*;

/// Everything of a schema, each with its path.
fn walk<'a>(schema: &'a Value, path: String, visit: &mut impl FnMut(&'a Value, &str)) {
    visit(schema, &path);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(property, format!("{path}.{name}"), visit);
    }
    for (below, mark) in [("items", "[]"), ("additionalProperties", ".*")] {
        if let Some(below) = schema.get(below) {
            walk(below, format!("{path}{mark}"), visit);
        }
    }
}

/// The schema of its only version.
fn schema(crd: &Crd) -> &Value {
    &crd.document["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
}

fn ours(registry: &Registry) -> Crd {
    all(registry).into_iter().find(|crd| crd.owner == Owner::Pointsman).unwrap()
}

#[test]
fn every_kind_has_a_definition_of_its_own() {
    let all = all(&Registry::default());
    let names: Vec<_> = all.iter().map(Crd::name).collect();
    assert_eq!(
        names,
        [
            "schedulingpolicies.pointsman.dev",
            "gatewaysyncs.pointsman.dev",
            "inferencepools.inference.networking.k8s.io",
            "inferencepools.inference.networking.x-k8s.io",
            "inferencemodels.inference.networking.x-k8s.io",
            "inferenceobjectives.llm-d.ai",
            "inferenceobjectives.inference.networking.x-k8s.io",
            "inferencemodelrewrites.llm-d.ai",
            "inferencemodelrewrites.inference.networking.x-k8s.io",
        ]
    );
    let files: BTreeSet<_> = all.iter().map(Crd::file_name).collect();
    assert_eq!(files.len(), all.len());
    assert_eq!(all[0].file_name(), "pointsman.dev_schedulingpolicies.yaml");
}

#[test]
fn every_schema_is_structural() {
    for crd in all(&Registry::default()) {
        walk(schema(&crd), String::new(), &mut |schema, path| {
            let at = format!("{}{path}", crd.name());
            for forbidden in ["$ref", "title", "nullable", "oneOf", "const", "exclusiveMinimum", "uniqueItems"] {
                assert!(schema.get(forbidden).is_none(), "{forbidden} at {at}");
            }
            let is_either = schema.get("x-kubernetes-int-or-string").is_some();
            assert!(schema["type"].is_string() != is_either, "{at}");
            assert!(schema.get("anyOf").is_none() || is_either, "{at}");
            let is_map = schema.get("additionalProperties").is_some();
            assert!(
                !is_map || (schema["additionalProperties"].is_object() && schema.get("properties").is_none()),
                "{at}"
            );
            assert!(schema["type"] != "array" || schema["items"].is_object(), "{at}");
            // Where the API server would cut the fraction off.
            if let Some(minimum) = schema["minimum"].as_f64().filter(|minimum| minimum.fract() > 0.0) {
                assert_eq!(schema["x-kubernetes-validations"][0]["rule"], format!("self >= {minimum}"), "{at}");
            }
            for key in schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten() {
                assert!(schema["items"]["required"].as_array().unwrap().contains(key), "{at}");
            }
        });
    }
}

#[test]
fn everything_of_ours_that_can_grow_has_a_maximum() {
    walk(&schema(&ours(&Registry::default()))["properties"]["spec"], "spec".into(), &mut |schema, path| {
        let keyword = match schema["type"].as_str() {
            Some("array") => "maxItems",
            Some("string") if schema.get("enum").is_none() => "maxLength",
            Some("object") if schema.get("properties").is_none() => "maxProperties",
            None => "maxLength",
            _ => return,
        };
        let is_empty = schema["properties"].as_object().is_some_and(Map::is_empty);
        assert!(is_empty || schema[keyword].is_u64(), "{path} has no {keyword}");
    });
}

#[test]
fn every_field_is_described() {
    for crd in all(&Registry::default()) {
        for (name, property) in schema(&crd)["properties"].as_object().unwrap() {
            walk(property, name.clone(), &mut |schema, path| {
                let said = schema["description"].as_str().is_some_and(|said| said.ends_with(['.', '?']));
                let says_it_above = path.ends_with("[]") || path.ends_with(".*") || path == "metadata";
                assert!(said || says_it_above, "{} does not describe {path}", crd.name());
            });
        }
    }
}

#[test]
fn every_rule_has_a_place_and_points_at_a_field() {
    let registry = Registry::default();
    let mut spec = schema(&ours(&registry))["properties"]["spec"].clone();
    for list in scheduling_policy::LISTS_BY_NAME {
        assert!(scheduling_policy::place(&mut spec, list).is_some(), "{list}");
    }
    for placed in rules::all(&registry) {
        let at = scheduling_policy::place(&mut spec, &placed.at).unwrap_or_else(|| panic!("{} is nowhere", placed.at));
        assert!(at["x-kubernetes-validations"].as_array().unwrap().contains(&placed.rule), "{}", placed.at);
        if let Some(field) = placed.rule["fieldPath"].as_str() {
            assert!(scheduling_policy::place(at, &field[1..]).is_some(), "{} has no {field}", placed.at);
        }
    }
}

#[test]
fn the_ranges_of_the_rules_are_those_of_the_configuration() {
    let refused = |raw: &Value| {
        let checked = validate(raw, &Registry::default(), &FieldPath::default(), &mut UnknownFields::Refuse);
        let problems = checked.err().unwrap_or_default();
        problems.iter().map(ToString::to_string).find(|problem| problem.contains("outside of"))
    };
    let millis = |text: &str| {
        let duration = pointsman_core::config::units::parse_duration(text).unwrap();
        u64::try_from(duration.as_millis()).unwrap()
    };
    let nested = |path: &str, value: Value| path.rsplit('.').fold(value, |value, member| json!({member: value}));
    for (at, least, most) in rules::RANGES {
        let (least, most) = (millis(least), millis(most));
        for (value, fits) in [(least - 1, false), (least, true), (most, true), (most + 1, false)] {
            // Beyond 99999 ms a duration needs a greater unit beside.
            let text = format!("{}s{}ms", value / 1000, value % 1000);
            let raw = nested(at, text.into());
            assert_eq!(refused(&raw).is_none(), fits, "{raw}: {:?}", refused(&raw));
        }
    }
    let bytes = |text: &str| pointsman_core::config::units::parse_quantity(text).unwrap();
    let (least, most) = rules::MEMORY_LIMITS;
    let (least, most) = (bytes(least), bytes(most));
    for (value, fits) in [(least - 1, false), (least, true), (most, true), (most + 1, false)] {
        let raw = nested("prefixCache.memoryLimit", value.into());
        assert_eq!(refused(&raw).is_none(), fits, "{raw}: {:?}", refused(&raw));
    }
}

#[test]
fn a_plugin_from_outside_gets_its_member_and_its_rules() {
    #[derive(JsonSchema)]
    struct Parameters {
        #[expect(dead_code, reason = "only its schema is asked for")]
        allowed: Vec<String>,
    }
    let registry = Registry::default().with_filter(PluginDef::<dyn Filter> {
        name: "namespace-filter",
        summary: "Keeps the endpoints of some namespaces.",
        schema: schema_of::<Parameters>,
        build: |_| unreachable!("only its schema is asked for"),
    });
    let crd = ours(&registry);
    let entry = &schema(&crd)["properties"]["spec"]["properties"]["profile"]["properties"]["filters"]["items"];
    assert!(entry["properties"]["type"]["enum"].as_array().unwrap().contains(&json!("namespace-filter")));
    assert_eq!(entry["properties"]["namespace"]["properties"]["allowed"]["type"], "array");
    let rules: Vec<_> =
        entry["x-kubernetes-validations"].as_array().unwrap().iter().map(|rule| &rule["rule"]).collect();
    // The language keeps the word for itself.
    assert!(rules.contains(&&json!("!has(self.__namespace__) || self.type == 'namespace-filter'")), "{rules:?}");
}
