//! `label-selector-filter`: keeps the endpoints whose labels match a Kubernetes label selector.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Filter, FilterDef};
use crate::endpoint::Endpoint;
use crate::facts::Facts;
use crate::registry::{ParameterError, parse, schema_of};

pub(super) const DEF: FilterDef = FilterDef {
    name: "label-selector-filter",
    summary: "Keeps the endpoints whose labels match; the parameters are a Kubernetes LabelSelector.",
    schema: schema_of::<LabelSelector>,
    build: |parameters| {
        let selector: LabelSelector = parse(parameters)?;
        selector.validate()?;
        Ok(Box::new(selector))
    },
};

/// A Kubernetes LabelSelector (`meta/v1`): all of `matchLabels` and `matchExpressions` must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LabelSelector {
    /// Labels and the values that they must have.
    match_labels: BTreeMap<String, String>,
    /// Further requirements.
    match_expressions: Vec<Requirement>,
}

/// One requirement on one label.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Requirement {
    /// The label.
    key: String,
    /// What is required of it.
    operator: Operator,
    /// The values of `In` and `NotIn`; empty for `Exists` and `DoesNotExist`.
    #[serde(default)]
    values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

impl LabelSelector {
    /// Refuses requirements whose values do not fit their operator.
    pub fn validate(&self) -> Result<(), ParameterError> {
        for (at, requirement) in self.match_expressions.iter().enumerate() {
            let wants_values = matches!(requirement.operator, Operator::In | Operator::NotIn);
            if wants_values == requirement.values.is_empty() {
                let message = match wants_values {
                    true => "In and NotIn need at least one value",
                    false => "Exists and DoesNotExist take no values",
                };
                return Err(ParameterError {
                    field: format!("matchExpressions[{at}].values"),
                    message: message.into(),
                });
            }
        }
        Ok(())
    }

    /// Whether labels meet all of it.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|requirement| {
                let value = labels.get(&requirement.key);
                let listed = value.is_some_and(|value| requirement.values.contains(value));
                match requirement.operator {
                    Operator::In => listed,
                    Operator::NotIn => !listed,
                    Operator::Exists => value.is_some(),
                    Operator::DoesNotExist => value.is_none(),
                }
            })
    }
}

impl Filter for LabelSelector {
    fn admits(&self, _: &Facts, endpoint: &Endpoint) -> bool {
        self.matches(&endpoint.labels)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selects_as_kubernetes_does() {
        let mut endpoint = Endpoint::new("a", "10.0.0.1:80".parse().unwrap());
        endpoint.labels.insert("tier".into(), "fast".into());
        for (selector, admits) in [
            (json!({}), true),
            (json!({"matchLabels": {"tier": "fast"}}), true),
            (json!({"matchLabels": {"tier": "slow"}}), false),
            (json!({"matchLabels": {"tier": "fast", "zone": "b"}}), false),
            (json!({"matchExpressions": [{"key": "tier", "operator": "In", "values": ["slow", "fast"]}]}), true),
            (json!({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["fast"]}]}), false),
            (json!({"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["b"]}]}), true),
            (json!({"matchExpressions": [{"key": "zone", "operator": "Exists"}]}), false),
            (json!({"matchExpressions": [{"key": "zone", "operator": "DoesNotExist"}]}), true),
        ] {
            let filter = (DEF.build)(selector.clone()).unwrap();
            assert_eq!(filter.admits(&Facts::default(), &endpoint), admits, "{selector}");
        }
    }

    #[test]
    fn refuses_values_that_do_not_fit_the_operator() {
        for selector in [
            json!({"matchExpressions": [{"key": "a", "operator": "In"}]}),
            json!({"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}),
        ] {
            assert_eq!((DEF.build)(selector).unwrap_err().field, "matchExpressions[0].values");
        }
    }
}
