//! The scheduling schema as it is written, in a file's `scheduling` and in a `SchedulingPolicy`'s `spec`.
//!
//! Items are optional in lists because what the structural check refuses is taken out and leaves its place behind, so
//! that positions stay what the reader of a report sees.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::units::{GatewayDuration, LABEL_PATTERN, NAME_PATTERN, Quantity, SERIES_PATTERN};

/// How one pool is scheduled. Every field has a default, and `{}` is a good configuration.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SchedulingSpec {
    /// Filters, scorers and picker.
    pub profile: ProfileSpec,
    /// Next-best endpoints listed after the first, where the gateway's wiring can use a list; 2 when absent.
    #[schemars(range(min = 0, max = 8))]
    pub fallbacks: Option<u8>,
    /// What is remembered of prompts, and at which cost.
    pub prefix_cache: PrefixCacheSpec,
    /// How model servers are asked for their load.
    pub telemetry: TelemetrySpec,
}

/// A chain of plugins, in the order in which they act.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ProfileSpec {
    /// Which endpoints may be candidates; none when absent.
    #[schemars(length(max = 32))]
    pub filters: Vec<Option<PluginSpec>>,
    /// How much each candidate is preferred; queue 2, KV cache 2, prefix 3 when absent.
    #[schemars(length(max = 32))]
    pub scorers: Option<Vec<Option<PluginSpec>>>,
    /// Who is chosen; the highest score when absent.
    pub picker: Option<PluginSpec>,
}

/// One plugin of a profile. Its schema is assembled from the registry.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
pub struct PluginSpec {
    /// The plugin's name.
    pub r#type: String,
    /// What a scorer's score is multiplied by; 1 when absent.
    pub weight: Option<f64>,
    /// The parameters, under `parameters` or under the plugin's own member.
    #[serde(flatten)]
    pub members: Map<String, Value>,
}

/// The prefix index of a pool.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PrefixCacheSpec {
    /// Tokens of the finest block that prompts are cut into; 64 when absent.
    #[schemars(range(min = 4, max = 4096))]
    pub block_tokens: Option<u32>,
    /// Prompts are looked at up to this many tokens; 131072 when absent.
    #[schemars(range(min = 64, max = 4_194_304))]
    pub max_prompt_tokens: Option<u32>,
    /// The most memory that the pool's index may take, 1Mi to 16Gi; 64Mi when absent.
    pub memory_limit: Option<Quantity>,
}

/// How model servers are asked for their load, and how long an answer is believed.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TelemetrySpec {
    /// The engine of endpoints that name none; `vllm` when absent.
    #[schemars(length(max = 63), regex(pattern = NAME_PATTERN))]
    pub engine: Option<String>,
    /// Mappings of engines beside the built-in ones; one of the same name takes the built-in one's place.
    #[schemars(length(max = 16))]
    pub engines: Vec<Option<EngineSpec>>,
    /// Time between two scrapes of an endpoint.
    pub interval: IntervalSpec,
    /// The most scrapes a second over the whole pool; 2000 when absent.
    #[schemars(range(min = 1, max = 100_000))]
    pub max_scrapes_per_second: Option<u32>,
    /// How long one scrape may take, 10ms to 1m; 1s when absent.
    pub timeout: Option<GatewayDuration>,
    /// From this age on a reading is not believed, 50ms to 1h; 2s when absent.
    pub stale_after: Option<GatewayDuration>,
}

/// Time between two scrapes of an endpoint.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct IntervalSpec {
    /// While it has requests in flight, 5ms to 1h; 50ms when absent.
    pub busy: Option<GatewayDuration>,
    /// While it is idle, 5ms to 1h; 1s when absent.
    pub idle: Option<GatewayDuration>,
}

/// Which series of an engine's metrics say what. Each is a metric's name, optionally with labels that must match.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EngineSpec {
    /// The engine's name, as endpoints and policies give it.
    #[schemars(length(max = 63), regex(pattern = NAME_PATTERN))]
    pub name: String,
    /// Requests in the queue.
    #[schemars(regex(pattern = SERIES_PATTERN))]
    pub waiting: Option<String>,
    /// Requests in the batch.
    #[schemars(regex(pattern = SERIES_PATTERN))]
    pub running: Option<String>,
    /// Share of the KV cache in use, 0 to 1.
    #[schemars(regex(pattern = SERIES_PATTERN))]
    pub kv_cache_usage: Option<String>,
    /// Tokens of one KV-cache block.
    #[schemars(regex(pattern = SERIES_PATTERN))]
    pub block_size: Option<String>,
    /// KV-cache blocks in all.
    #[schemars(regex(pattern = SERIES_PATTERN))]
    pub block_count: Option<String>,
    /// A series whose labels hold the KV cache's shape.
    pub cache_info: Option<CacheInfoSpec>,
    /// A series whose labels hold the LoRA adapters, as vLLM's `vllm:lora_requests_info`.
    #[schemars(regex(pattern = SERIES_PATTERN))]
    pub lora_info: Option<String>,
}

/// A series with the KV cache's shape in its labels.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CacheInfoSpec {
    /// The series.
    #[schemars(regex(pattern = SERIES_PATTERN))]
    pub series: String,
    /// The label that holds the tokens of one block.
    #[schemars(length(max = 128), regex(pattern = LABEL_PATTERN))]
    pub block_size_label: String,
    /// The label that holds the number of blocks.
    #[schemars(length(max = 128), regex(pattern = LABEL_PATTERN))]
    pub block_count_label: String,
}
