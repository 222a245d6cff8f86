//! CustomResourceDefinitions as documents: ours, and the shapes of those that others own.
//!
//! A cluster that has the others' definitions keeps them: ours of them are for clusters that have none, say what theirs
//! say (a test compares the two schema by schema), and are never written over what is there.

mod gateway_sync;
mod inference_model;
mod inference_model_rewrite;
mod inference_objective;
mod inference_pool;
mod inference_pool_v1alpha2;
mod rules;
mod scheduling_policy;
mod shapes;
#[cfg(test)]
mod tests;

use pointsman_core::registry::Registry;
use serde_json::{Map, Value, json};

use crate::api::ModelGroup;

/// One CustomResourceDefinition.
#[derive(Clone, Debug, PartialEq)]
pub struct Crd {
    /// Who decides what it says.
    pub owner: Owner,
    /// The document, ready to be written as JSON or YAML.
    pub document: Value,
}

/// Who decides what a definition says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// This project.
    Pointsman,
    /// The Gateway API Inference Extension or llm-d.
    Upstream,
}

/// What a definition is made of.
struct Definition {
    owner: Owner,
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    short_names: &'static [&'static str],
    categories: &'static [&'static str],
    annotations: &'static [(&'static str, &'static str)],
    labels: &'static [(&'static str, &'static str)],
    columns: Vec<Value>,
    /// What the kind is, for `kubectl explain`.
    description: &'static str,
    spec: Value,
    /// Whether an object without a `spec` is refused.
    spec_required: bool,
    status: Value,
}

/// All definitions, with the plugins of `registry` in the schema of ours.
pub fn all(registry: &Registry) -> Vec<Crd> {
    let mut all = vec![
        scheduling_policy::crd(registry),
        gateway_sync::crd(),
        inference_pool::crd(),
        inference_pool_v1alpha2::crd(),
    ];
    all.push(inference_model::crd());
    all.extend(ModelGroup::ALL.map(inference_objective::crd));
    all.extend(ModelGroup::ALL.map(inference_model_rewrite::crd));
    all
}

impl Crd {
    /// The name of the object, `PLURAL.GROUP`.
    pub fn name(&self) -> &str {
        self.document["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// The name of the file that holds it, `GROUP_PLURAL.yaml`.
    pub fn file_name(&self) -> String {
        let spec = &self.document["spec"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        format!("{}_{}.yaml", text(&spec["group"]), text(&spec["names"]["plural"]))
    }
}

impl Definition {
    fn finish(self) -> Crd {
        let mut metadata = json!({"name": format!("{}.{}", self.plural, self.group)});
        for (member, pairs) in [("annotations", self.annotations), ("labels", self.labels)] {
            if !pairs.is_empty() {
                let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value)));
                metadata[member] = pairs.collect::<Map<_, _>>().into();
            }
        }
        let mut names = json!({
            "kind": self.kind,
            "listKind": format!("{}List", self.kind),
            "plural": self.plural,
            "singular": self.kind.to_ascii_lowercase(),
        });
        for (member, values) in [("shortNames", self.short_names), ("categories", self.categories)] {
            if !values.is_empty() {
                names[member] = values.into();
            }
        }
        let mut schema = json!({
            "type": "object",
            "description": self.description,
            "properties": {
                "apiVersion": {"type": "string", "description": "The group and version that the object is written in."},
                "kind": {"type": "string", "description": "The kind of the object."},
                "metadata": {"type": "object"},
                "spec": self.spec,
                "status": self.status,
            },
        });
        if self.spec_required {
            schema["required"] = json!(["spec"]);
        }
        let mut version = json!({
            "name": self.version,
            "served": true,
            "storage": true,
            "schema": {"openAPIV3Schema": schema},
            "subresources": {"status": {}},
        });
        if !self.columns.is_empty() {
            version["additionalPrinterColumns"] = self.columns.into();
        }
        let document = json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": metadata,
            "spec": {"group": self.group, "names": names, "scope": "Namespaced", "versions": [version]},
        });
        Crd { owner: self.owner, document }
    }
}
