//! A pool's policy: validated configuration, resolved into what the hot path reads. Replaced as a whole.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::filters::Filter;
use crate::models::ModelRules;
use crate::pickers::Picker;
use crate::prefix::PrefixLayout;
use crate::registry::Registry;
use crate::scorers::Scorer;

/// How one pool is scheduled.
#[derive(Debug)]
pub struct Policy {
    /// Filters, scorers, picker.
    pub profile: Profile,
    /// Endpoints listed after the first, as fallbacks.
    pub fallbacks: usize,
    /// How prompts are cut, and what remembering them may cost.
    pub prefix_cache: PrefixCachePolicy,
    /// How model servers are asked for their load, and how long an answer is believed.
    pub telemetry: TelemetryPolicy,
    /// Which models are served in which others' place.
    pub models: ModelRules,
    /// The priorities of the objectives that requests may name. No part of what is written in a configuration: the
    /// cluster's `InferenceObjective`s are put here.
    pub objectives: BTreeMap<Arc<str>, i32>,
}

/// A chain of plugins, in the order in which they act.
#[derive(Debug)]
pub struct Profile {
    /// Which endpoints may be candidates.
    pub filters: Vec<NamedFilter>,
    /// How much each candidate is preferred.
    pub scorers: Vec<WeightedScorer>,
    /// Who is chosen.
    pub picker: Box<dyn Picker>,
}

/// A filter under the name that explanations give it.
#[derive(Debug)]
pub struct NamedFilter {
    /// Its `type`.
    pub name: Arc<str>,
    /// The filter.
    pub filter: Box<dyn Filter>,
}

/// A scorer under the name that explanations give it, with its weight in the sum.
#[derive(Debug)]
pub struct WeightedScorer {
    /// Its `type`.
    pub name: Arc<str>,
    /// What its score, clamped to 0..1, is multiplied by.
    pub weight: f32,
    /// The scorer.
    pub scorer: Box<dyn Scorer>,
}

/// The prefix index of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixCachePolicy {
    /// How prompts are cut into blocks.
    pub layout: PrefixLayout,
    /// The most bytes that the index may cost.
    pub memory_limit: usize,
}

impl Default for PrefixCachePolicy {
    fn default() -> Self {
        Self { layout: PrefixLayout::default(), memory_limit: 64 << 20 }
    }
}

/// How model servers are asked for their load.
#[derive(Clone, Debug, PartialEq)]
pub struct TelemetryPolicy {
    /// The engine of endpoints that name none: the name of a built-in mapping or of one of `engines`.
    pub engine: Arc<str>,
    /// Mappings beside the built-in ones; one of the same name wins.
    pub engines: Vec<EngineMetrics>,
    /// Time between scrapes of an endpoint that has requests in flight.
    pub busy_interval: Duration,
    /// Time between scrapes of an endpoint that is idle.
    pub idle_interval: Duration,
    /// The most scrapes a second over the whole pool.
    pub max_scrapes_per_second: u32,
    /// How long one scrape may take.
    pub timeout: Duration,
    /// From this age on a reading is not believed.
    pub stale_after: Duration,
}

impl Default for TelemetryPolicy {
    fn default() -> Self {
        Self {
            engine: "vllm".into(),
            engines: Vec::new(),
            busy_interval: Duration::from_millis(50),
            idle_interval: Duration::from_secs(1),
            max_scrapes_per_second: 2000,
            timeout: Duration::from_secs(1),
            stale_after: Duration::from_secs(2),
        }
    }
}

/// Which series of an engine's `/metrics` say what. Each is a metric name, optionally with labels that must match:
/// `name` or `name{label=value}`; `None` where the engine does not publish the value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineMetrics {
    /// The engine's name, as endpoints and policies give it.
    pub name: Arc<str>,
    /// Requests in the queue.
    pub waiting: Option<String>,
    /// Requests in the batch.
    pub running: Option<String>,
    /// Share of the KV cache in use, 0 to 1.
    pub kv_cache_usage: Option<String>,
    /// Tokens of one KV-cache block, as a gauge.
    pub block_size: Option<String>,
    /// KV-cache blocks in all, as a gauge.
    pub block_count: Option<String>,
    /// A series whose labels hold the cache's shape.
    pub cache_info: Option<CacheInfoSeries>,
    /// A series whose labels hold the LoRA adapters, as vLLM's `lora_requests_info`.
    pub lora_info: Option<String>,
}

/// A series with the KV cache's shape in its labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheInfoSeries {
    /// The series.
    pub series: String,
    /// The label that holds the tokens of one block.
    pub block_size_label: String,
    /// The label that holds the number of blocks.
    pub block_count_label: String,
}

impl Default for Policy {
    /// What `{}` means: queue 2, KV cache 2, prefix 3, the highest score wins, two fallbacks.
    fn default() -> Self {
        let registry = Registry::default();
        let scorer = |name: &str, weight| {
            let def = registry.scorers().iter().find(|def| def.name == name)?;
            let scorer = (def.build)(serde_json::Value::Null).ok()?;
            Some(WeightedScorer { name: def.name.into(), weight, scorer })
        };
        let scorers = DEFAULT_SCORERS.iter().filter_map(|(name, weight)| scorer(name, *weight)).collect();
        Self {
            profile: Profile { filters: Vec::new(), scorers, picker: crate::pickers::max_score() },
            fallbacks: DEFAULT_FALLBACKS,
            prefix_cache: PrefixCachePolicy::default(),
            telemetry: TelemetryPolicy::default(),
            models: ModelRules::default(),
            objectives: BTreeMap::new(),
        }
    }
}

/// The scorers of a policy that names none, with their weights.
pub const DEFAULT_SCORERS: &[(&str, f32)] =
    &[("queue-scorer", 2.0), ("kv-cache-utilization-scorer", 2.0), ("prefix-cache-scorer", 3.0)];
/// The picker of a policy that names none.
pub const DEFAULT_PICKER: &str = "max-score-picker";
/// The fallbacks of a policy that does not say.
pub const DEFAULT_FALLBACKS: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_profile_is_queue_two_kv_two_prefix_three() {
        let policy = Policy::default();
        let scorers: Vec<_> = policy.profile.scorers.iter().map(|s| (&*s.name, s.weight)).collect();
        assert_eq!(scorers, DEFAULT_SCORERS);
    }
}
