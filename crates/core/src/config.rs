//! Configuration of a pool: one schema for the file's `scheduling` and for the `SchedulingPolicy`'s `spec`.
//!
//! ```text
//!  raw value ─► structure::check beside schema(registry) ─► spec (serde) ─► resolve ─► Policy
//!                            │                                                │
//!                            └───────────────► Problems ◄─────────────────────┘
//! ```
//!
//! Every problem is found at once, with its path and with what was probably meant. Files refuse unknown fields; watched
//! objects tolerate them, because the cluster's version of the schema may be another one, and say so.

mod problem;
mod resolve;
mod schema;
pub mod spec;
pub mod structure;
#[cfg(test)]
mod tests;
pub mod units;

use serde::Deserialize;
use serde_json::Value;

pub use problem::{FieldPath, Problem, Problems, Step, closest, shortened};
pub use schema::{member_name, schema, schema_of};

use crate::policy::Policy;
use crate::registry::Registry;

/// The engines whose metrics are known without a mapping in the configuration.
pub const BUILTIN_ENGINES: &[&str] = &["vllm", "sglang", "trtllm-serve", "triton-tensorrt-llm"];

/// What becomes of fields that the schema does not know.
#[derive(Debug)]
pub enum UnknownFields {
    /// They are problems.
    Refuse,
    /// They are left out, and collected here.
    Tolerate(Problems),
}

/// Checks a configuration that stands at `path` of whatever holds it, and resolves it into a policy.
///
/// Null and `{}` are the default policy. All problems are returned at once.
pub fn validate(
    raw: &Value,
    registry: &Registry,
    path: &FieldPath,
    unknown: &mut UnknownFields,
) -> Result<Policy, Vec<Problem>> {
    let mut problems = Problems::default();
    let mut value = if raw.is_null() { Value::Object(Default::default()) } else { raw.clone() };
    structure::check(&mut value, &schema(registry), path, unknown, &mut problems);
    let spec = if value.is_null() { Ok(Default::default()) } else { spec::SchedulingSpec::deserialize(value) };
    let policy = match spec {
        Ok(spec) => Some(resolve::Resolver { registry, unknown, problems: &mut problems }.policy(spec, path)),
        Err(error) => {
            problems.add(path.clone(), error.to_string());
            None
        }
    };
    match policy {
        Some(policy) if problems.is_empty() => Ok(policy),
        _ => Err(problems.into_vec()),
    }
}
