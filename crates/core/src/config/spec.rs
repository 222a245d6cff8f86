//! The scheduling schema as it is written, in a file's `scheduling` and in a `SchedulingPolicy`'s `spec`.
//!
//! Items are optional in lists because what the structural check refuses is taken out and leaves its place behind, so
//! that positions stay what the reader of a report sees.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::units::{GatewayDuration, HEADER_PATTERN, LABEL_PATTERN, NAME_PATTERN, Quantity, SERIES_PATTERN};
use crate::filters::LabelSelector;

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
    /// Splitting and rewriting of models. The first rule that a request fits is the one that counts.
    #[schemars(length(max = 64))]
    pub models: Vec<Option<ModelRuleSpec>>,
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

/// What becomes of the requests for some models.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ModelRuleSpec {
    /// Requests that fit any of these; every request when absent.
    #[schemars(length(max = 16))]
    pub matches: Vec<Option<ModelMatchSpec>>,
    /// What serves them: one is drawn for each request, by weight, or all alike where none has a weight. The asked model
    /// when absent.
    #[schemars(length(max = 16))]
    pub targets: Vec<Option<ModelTargetSpec>>,
    /// How important they are, more is more, below 0 first to be given up; 0 when absent.
    #[schemars(range(min = -2_147_483_648, max = 2_147_483_647))]
    pub priority: Option<i32>,
}

/// What a request must have: all of this.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ModelMatchSpec {
    /// The model that it asks for; any when absent.
    #[schemars(length(min = 1, max = 256))]
    pub model: Option<String>,
    /// Headers that it must have.
    #[schemars(length(max = 8))]
    pub headers: Vec<Option<HeaderMatchSpec>>,
}

/// A header that a request must have.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderMatchSpec {
    /// Its name, in whatever case.
    #[schemars(length(max = 256), regex(pattern = HEADER_PATTERN))]
    pub name: String,
    /// Its value, exactly.
    #[schemars(length(min = 1, max = 4096))]
    pub value: String,
}

/// One model that may serve a rule's requests.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ModelTargetSpec {
    /// The model that the request names when it goes on; the asked one when absent.
    #[schemars(length(min = 1, max = 256))]
    pub model: Option<String>,
    /// Its share among the rule's targets: on all of them, or on none.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub weight: Option<u32>,
    /// The endpoints that have it; all when absent.
    #[schemars(with = "Option<LabelSelector>")]
    pub endpoint_selector: Option<Value>,
}
