//! The manifests beside the suite: good ones of each kind, and what is refused of each kind.

use std::path::Path;

use pointsman_tests::process::repository;
use serde::Deserialize;
use serde_json::{Value, json};

/// The groups of kinds that live in two.
const BOTH_GROUPS: [&str; 2] = ["inference.networking.x-k8s.io/v1alpha2", "llm-d.ai/v1alpha2"];

/// What is refused of one kind.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Table {
    /// Every group and version that the kind has.
    pub(super) api_versions: Vec<String>,
    pub(super) kind: String,
    /// A good `spec`.
    base: Value,
    /// What is refused when it is created.
    pub(super) cases: Vec<Case>,
    /// What is refused when the good one becomes it.
    #[serde(default)]
    pub(super) updates: Vec<Case>,
    /// What the API server takes and the picker does not.
    #[serde(default)]
    pub(super) tolerated: Vec<Case>,
}

/// One fault.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Case {
    /// The field that the refusal names.
    pub(super) names: String,
    /// What the refusal says beside.
    #[serde(default)]
    pub(super) says: String,
    /// A merge patch to the good `spec`, or to the whole object where it has a `spec`.
    change: Value,
}

impl Table {
    /// All tables.
    pub(super) fn all() -> Vec<Self> {
        let files = yaml_files(&folder("refused"));
        files
            .iter()
            .map(|text| serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}")))
            .collect()
    }

    /// The good object.
    pub(super) fn good(&self, api_version: &str) -> Value {
        let metadata = json!({"name": "refused", "namespace": "default"});
        json!({"apiVersion": api_version, "kind": self.kind, "metadata": metadata, "spec": self.base})
    }

    /// The good object with a case's fault.
    pub(super) fn faulty(&self, case: &Case, api_version: &str) -> Value {
        let mut object = self.good(api_version);
        let place = if case.change.get("spec").is_some() { &mut object } else { &mut object["spec"] };
        merge(place, &case.change);
        object
    }
}

impl Case {
    /// Whether a refusal names the field itself, not merely one below or beside it, and says the rest.
    pub(super) fn is_told_by(&self, refusal: &str) -> bool {
        let ends = |after: &str| !after.starts_with(|c: char| c.is_alphanumeric() || matches!(c, '.' | '['));
        let names = refusal.match_indices(&self.names).any(|(at, found)| ends(&refusal[at + found.len()..]));
        names && refusal.contains(&self.says)
    }
}

/// All good objects; those whose kind lives in two groups, in both.
pub(super) fn good_objects() -> Vec<Value> {
    let mut all = Vec::new();
    for text in yaml_files(&folder("valid")) {
        let objects: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        for object in objects {
            if !matches!(object["kind"].as_str(), Some("InferenceObjective" | "InferenceModelRewrite")) {
                all.push(object);
                continue;
            }
            for group in BOTH_GROUPS {
                let mut object = object.clone();
                object["apiVersion"] = group.into();
                all.push(object);
            }
        }
    }
    all
}

fn folder(name: &str) -> std::path::PathBuf {
    repository().join("tests/suite/manifests").join(name)
}

/// What the YAML files of a folder hold, in the order of their names.
fn yaml_files(folder: &Path) -> Vec<String> {
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    paths.sort();
    paths.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect()
}

/// A JSON merge patch (RFC 7386).
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(members) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, member) in members {
        if member.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut target[key], member);
        }
    }
}
