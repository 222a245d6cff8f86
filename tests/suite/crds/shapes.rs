//! The shapes of others' definitions beside the real ones.

use std::collections::{BTreeMap, BTreeSet};

use pointsman_core::registry::Registry;
use pointsman_k8s::crds::{self, Owner};
use pointsman_tests::control_plane::upstream_crds;
use serde_json::{Value, json};

/// Upstream's files, each with the versions that ours is compared with.
const COMPARED: &[(&str, &[&str])] = &[
    ("inference.networking.k8s.io_inferencepools.yaml", &["1.5.0", "1.6.0"]),
    ("inference.networking.x-k8s.io_inferencemodelrewrites.yaml", &["1.5.0"]),
    ("inference.networking.x-k8s.io_inferencemodels.yaml", &["0.5.1"]),
    ("inference.networking.x-k8s.io_inferenceobjectives.yaml", &["1.5.0"]),
    ("inference.networking.x-k8s.io_inferencepools.yaml", &["0.5.1"]),
];

/// Upstream's files that ours have no counterpart of, and why.
const NOT_OURS: &[(&str, &str)] = &[(
    "inference.networking.x-k8s.io_inferencepoolimports.yaml",
    "pools of other clusters are refused by name as yet",
)];

/// Where ours is meant to differ: version, file, place, and why.
const DELIBERATE: &[(&str, &str, &str, &str)] = &[
    (
        "1.5.0",
        "inference.networking.k8s.io_inferencepools.yaml",
        "versions/0/schema/openAPIV3Schema/properties/spec/required",
        "a pool may do without endpointPickerRef since 1.6",
    ),
    (
        "0.5.1",
        "inference.networking.x-k8s.io_inferencepools.yaml",
        "names/shortNames",
        "the short name that later versions gave it, up to 1.4, the last one that has it",
    ),
];

/// What the facts (llm-d-router.md, section 3) say of the kinds of `llm-d.ai`, whose own files cannot be had: kind, place
/// below the schema's `properties`, and what is there.
const LLM_D: &[(&str, &str, &str)] = &[
    ("InferenceObjective", "spec/required", r#"["poolRef"]"#),
    ("InferenceObjective", "spec/properties/priority/type", r#""integer""#),
    ("InferenceObjective", "spec/properties/priority/minimum", "null"),
    ("InferenceObjective", "spec/properties/priority/maximum", "null"),
    ("InferenceObjective", "status/properties/conditions/maxItems", "8"),
    ("InferenceObjective", "status/properties/conditions/x-kubernetes-list-type", r#""map""#),
    ("InferenceObjective", "status/properties/conditions/x-kubernetes-list-map-keys", r#"["type"]"#),
    ("InferenceObjective", "status/properties/conditions/default/0/type", r#""Ready""#),
    ("InferenceObjective", "status/properties/conditions/default/0/status", r#""Unknown""#),
    ("InferenceObjective", "status/properties/conditions/default/0/reason", r#""Pending""#),
    ("InferenceModelRewrite", "spec/required", r#"["poolRef","rules"]"#),
    ("InferenceModelRewrite", "spec/properties/rules/items/required", "null"),
    ("InferenceModelRewrite", "spec/properties/rules/items/properties/matches/minItems", "null"),
    (
        "InferenceModelRewrite",
        "spec/properties/rules/items/properties/matches/items/properties/model/properties/type",
        r#"{"default":"Exact","enum":["Exact"],"type":"string"}"#,
    ),
    (
        "InferenceModelRewrite",
        "spec/properties/rules/items/properties/matches/items/properties/model/properties/value",
        r#"{"minLength":1,"type":"string"}"#,
    ),
    ("InferenceModelRewrite", "spec/properties/rules/items/properties/targets/minItems", "1"),
    ("InferenceModelRewrite", "spec/properties/rules/items/properties/targets/items/required", r#"["modelRewrite"]"#),
    (
        "InferenceModelRewrite",
        "spec/properties/rules/items/properties/targets/items/properties/weight",
        r#"{"format":"int32","maximum":1000000,"minimum":1,"type":"integer"}"#,
    ),
    ("InferenceModelRewrite", "status/properties/conditions/maxItems", "8"),
    ("InferenceModelRewrite", "status/properties/conditions/default/0/type", r#""Accepted""#),
    ("InferenceModelRewrite", "status/properties/conditions/default/0/status", r#""Unknown""#),
    ("InferenceModelRewrite", "status/properties/conditions/default/0/reason", r#""Pending""#),
];

/// What they say of both kinds' reference to a pool.
const LLM_D_POOL_REFERENCE: &str = r#"{
    "type": "object",
    "required": ["name"],
    "properties": {
        "group": {
            "type": "string", "maxLength": 253, "default": "inference.networking.k8s.io",
            "pattern": "^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
        },
        "kind": {
            "type": "string", "minLength": 1, "maxLength": 63, "default": "InferencePool",
            "pattern": "^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$"
        },
        "name": {"type": "string", "minLength": 1, "maxLength": 253}
    }
}"#;

/// What a definition accepts and shows, by its place, without what it tells people.
fn decisions(value: &Value, place: &str, into: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                let is_told_to_people = key == "description" && member.is_string();
                // Lengths of no less than nothing decide nothing.
                let is_no_bound = matches!(&**key, "minLength" | "minItems" | "minProperties") && *member == json!(0);
                if !is_told_to_people && !is_no_bound {
                    decisions(member, &format!("{place}/{key}"), into);
                }
            }
        }
        Value::Array(items) if place.ends_with("/required") || place.ends_with("/enum") => {
            let sorted: BTreeSet<_> = items.iter().map(ToString::to_string).collect();
            into.insert(place.to_owned(), json!(sorted));
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for (at, item) in items.iter().enumerate() {
                decisions(item, &format!("{place}/{at}"), into);
            }
        }
        _ => drop(into.insert(place.to_owned(), value.clone())),
    }
}

fn decisions_of(definition: &Value) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    decisions(&definition["spec"], "", &mut found);
    found.into_iter().map(|(place, value)| (place[1..].to_owned(), value)).collect()
}

fn ours(file: &str) -> Value {
    let all = crds::all(&Registry::default());
    let found = all.iter().find(|crd| crd.file_name() == file && crd.owner == Owner::Upstream);
    found.unwrap_or_else(|| panic!("no definition of ours is {file}")).document.clone()
}

#[tokio::test]
async fn what_upstream_accepts_and_refuses_so_do_the_shapes_of_ours() {
    let mut unlike = Vec::new();
    let mut met = BTreeSet::new();
    for (file, versions) in COMPARED {
        let ours = decisions_of(&ours(file));
        for version in *versions {
            let text = std::fs::read_to_string(upstream_crds(version).await.unwrap().join(file)).unwrap();
            let upstream: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
            let upstream = decisions_of(upstream.iter().find(|document| document.is_object()).unwrap());
            assert!(upstream.len() > 50, "{file} of {version} was not understood: {upstream:?}");
            for place in ours.keys().chain(upstream.keys().filter(|place| !ours.contains_key(*place))) {
                let (ours, upstream) = (ours.get(place), upstream.get(place));
                let here = (*version, *file, &**place);
                match DELIBERATE.iter().position(|(version, file, place, _)| (*version, *file, *place) == here) {
                    _ if ours == upstream => {}
                    Some(meant) => drop(met.insert(meant)),
                    None => {
                        unlike.push(format!("{file} of {version}, {place}: ours {ours:?}, upstream's {upstream:?}"))
                    }
                }
            }
        }
    }
    assert!(unlike.is_empty(), "{}", unlike.join("\n"));
    assert_eq!(met.len(), DELIBERATE.len(), "some differences are none any more; these still are: {met:?}");
}

#[tokio::test]
async fn every_kind_of_upstreams_is_compared_or_left_out_for_a_reason() {
    for version in ["0.5.1", "1.5.0", "1.6.0"] {
        for entry in std::fs::read_dir(upstream_crds(version).await.unwrap()).unwrap() {
            let file = entry.unwrap().file_name().into_string().unwrap();
            let is_compared = COMPARED.iter().any(|(known, versions)| *known == file && versions.contains(&version));
            let is_left_out = NOT_OURS.iter().any(|(known, _)| *known == file);
            assert!(is_compared != is_left_out, "{file} of {version}");
        }
    }
}

#[test]
fn the_kinds_of_llm_d_are_what_the_facts_say() {
    let definition = |plural: &str| ours(&format!("llm-d.ai_{plural}.yaml"));
    let plurals = [("InferenceObjective", "inferenceobjectives"), ("InferenceModelRewrite", "inferencemodelrewrites")];
    for (kind, plural) in plurals {
        let definition = definition(plural);
        let version = &definition["spec"]["versions"][0];
        assert_eq!(definition["spec"]["names"]["kind"], kind);
        assert_eq!((&version["name"], &definition["spec"]["scope"]), (&json!("v1alpha2"), &json!("Namespaced")));
        assert_eq!(version["subresources"], json!({"status": {}}));
        let columns: Vec<_> =
            version["additionalPrinterColumns"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
        let expected: &[&str] = match kind {
            "InferenceObjective" => &["Inference Pool", "Priority", "Age"],
            _ => &["Inference Pool", "Age"],
        };
        assert_eq!(columns, expected);
        let properties = without_descriptions(&version["schema"]["openAPIV3Schema"]["properties"]);
        let expected: Value = serde_json::from_str(LLM_D_POOL_REFERENCE).unwrap();
        assert_eq!(properties["spec"]["properties"]["poolRef"], expected);
        for (_, place, expected) in LLM_D.iter().filter(|(of, ..)| *of == kind) {
            let expected: Value = serde_json::from_str(expected).unwrap();
            let found = properties.pointer(&format!("/{place}")).unwrap_or(&Value::Null);
            assert_eq!(*found, expected, "{kind}, {place}");
        }
    }
}

/// The two groups' kinds have the same schema, so that what is said of the one holds of the other.
#[test]
fn the_kinds_of_both_groups_have_one_schema() {
    for plural in ["inferenceobjectives", "inferencemodelrewrites"] {
        let schema = |group: &str| ours(&format!("{group}_{plural}.yaml"))["spec"]["versions"].clone();
        assert_eq!(schema("llm-d.ai"), schema("inference.networking.x-k8s.io"), "{plural}");
    }
}

fn without_descriptions(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let kept = members.iter().filter(|(key, member)| *key != "description" || !member.is_string());
            kept.map(|(key, member)| (key.clone(), without_descriptions(member))).collect()
        }
        Value::Array(items) => items.iter().map(without_descriptions).collect(),
        other => other.clone(),
    }
}
