//! The file as it is written. Items are optional in lists because what the structural check takes out leaves its place.

use std::collections::BTreeMap;

use pointsman_core::config::units::{GatewayDuration, Quantity};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::Value;

/// A configuration file: one pool, or several under `pools`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct FileSpec {
    /// The only pool's name.
    #[schemars(length(max = 317))]
    pub(super) name: Option<String>,
    /// The only pool's endpoints.
    #[schemars(length(max = 16384))]
    pub(super) endpoints: Option<Vec<Option<EndpointEntry>>>,
    /// How the only pool is scheduled.
    #[schemars(schema_with = "opaque")]
    pub(super) scheduling: Value,
    /// Several pools.
    #[schemars(length(max = 256))]
    pub(super) pools: Option<Vec<Option<PoolEntry>>>,
    /// What belongs to the process.
    pub(super) server: ServerSpec,
}

/// One of several pools.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PoolEntry {
    /// `namespace/name`, or a name in the namespace `default`.
    #[schemars(length(max = 317))]
    pub(super) name: String,
    /// Its endpoints.
    #[schemars(length(max = 16384))]
    #[serde(default)]
    pub(super) endpoints: Vec<Option<EndpointEntry>>,
    /// How it is scheduled.
    #[schemars(schema_with = "opaque")]
    #[serde(default)]
    pub(super) scheduling: Value,
}

/// One endpoint.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct EndpointEntry {
    /// What it is called, and what makes it the same endpoint over time.
    #[schemars(length(max = 253))]
    pub(super) name: String,
    /// An IPv4 address, an IPv6 address with or without brackets, or a DNS name.
    #[schemars(length(max = 256))]
    pub(super) address: String,
    /// A number, or one as text.
    #[schemars(schema_with = "port")]
    pub(super) port: Value,
    /// `default` when absent.
    #[schemars(length(max = 63))]
    pub(super) namespace: Option<String>,
    /// Labels, for filters and selectors.
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    /// The engine that it runs; the policy's when absent.
    #[schemars(length(max = 63))]
    pub(super) engine: Option<String>,
    /// The port of its metrics; the serving port when absent.
    #[serde(default)]
    #[schemars(schema_with = "port")]
    pub(super) metrics_port: Option<Value>,
}

/// What belongs to the process.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct ServerSpec {
    /// Bounds of what requests may cost.
    pub(super) limits: LimitsSpec,
    /// Which of the client's headers are believed.
    pub(super) trust: TrustSpec,
}

/// Bounds of what requests may cost.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct LimitsSpec {
    /// The most bytes of one request's body, 1Ki to 1Gi; 32Mi when absent.
    pub(super) max_body_size: Option<Quantity>,
    /// Share of the memory limit for bodies in hand, in percent; 40 when absent.
    #[schemars(range(min = 1, max = 90))]
    pub(super) buffer_budget: Option<u8>,
    /// Share of the memory limit for all prefix indexes, in percent; 30 when absent.
    #[schemars(range(min = 1, max = 90))]
    pub(super) prefix_index: Option<u8>,
    /// The most requests open at once; 10000 when absent.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(super) max_streams: Option<u32>,
    /// A request of which nothing was heard for this long ends, 1s to 24h; 60s when absent.
    pub(super) request_idle_timeout: Option<GatewayDuration>,
    /// A response of which nothing was heard for this long ends, 1s to 24h; 300s when absent.
    pub(super) response_idle_timeout: Option<GatewayDuration>,
}

/// Which of the client's headers are believed.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct TrustSpec {
    /// The one that names an `InferenceObjective`; dropped when false or absent.
    pub(super) objective: bool,
}

/// A mapping that is checked by a schema of its own.
fn opaque(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

fn port(_: &mut SchemaGenerator) -> Schema {
    let kinds = [json_schema!({"type": "integer"}), json_schema!({"type": "string"})];
    json_schema!({"x-kubernetes-int-or-string": true, "anyOf": kinds, "maxLength": 16})
}
