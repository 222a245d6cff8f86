//! Engines: which series of a model server's `/metrics` say what. Built in for the engines that the model server
//! protocol names; a policy adds others, or overrides these, by name.

mod series;

use std::collections::HashMap;
use std::sync::Arc;

use pointsman_core::endpoint::Endpoint;
use pointsman_core::policy::{CacheInfoSeries, EngineMetrics, TelemetryPolicy};
use thiserror::Error;

pub(crate) use series::Selector;
pub use series::{MAX_SERIES_LENGTH, SeriesError, check_series};

/// An engine's series, parsed once. What several series of one meaning say is combined by that meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The engine's name.
    engine: Arc<str>,
    series: Vec<MappedSeries>,
}

/// A series, and what it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MappedSeries {
    pub(crate) selector: Selector,
    pub(crate) meaning: Meaning,
}

/// What a series says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// Requests in the queue; summed.
    Waiting,
    /// Requests in the batch; summed.
    Running,
    /// Share of the KV cache in use; the fullest counts.
    KvCacheUsage,
    /// Tokens of one KV-cache block.
    BlockSize,
    /// KV-cache blocks; summed.
    BlockCount,
    /// The cache's shape in the labels of these names; tokens are summed.
    CacheInfo { block_size_label: Box<str>, block_count_label: Box<str> },
    /// LoRA adapters in the labels; the newest, by value, counts.
    LoraInfo,
}

/// Why an engine's series cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MappingError {
    /// One series cannot be read.
    #[error("engine {engine}: {field} {source}")]
    Series {
        /// The engine.
        engine: Arc<str>,
        /// The field of its metrics.
        field: &'static str,
        /// What is wrong.
        source: SeriesError,
    },
    /// Nothing of what a scorer reads is named.
    #[error("engine {0}: at least one of waiting, running and KV-cache usage must be named")]
    SaysNothing(Arc<str>),
}

/// The mappings of one telemetry policy.
#[derive(Debug)]
pub(crate) struct Engines {
    mappings: HashMap<Arc<str>, Arc<Mapping>>,
    default: Arc<str>,
}

/// The names of the engines that need no mapping in a policy.
pub fn builtin_engines() -> Vec<&'static str> {
    vec!["vllm", "sglang", "trtllm-serve", "triton-tensorrt-llm"]
}

/// The series of a built-in engine; `None` when there is none of that name.
pub fn builtin_engine(name: &str) -> Option<EngineMetrics> {
    let series = |spec: &str| Some(spec.to_string());
    let cache_info = |series: &str, size: &str, count: &str| {
        let (block_size_label, block_count_label) = (size.into(), count.into());
        Some(CacheInfoSeries { series: series.into(), block_size_label, block_count_label })
    };
    let metrics = match name {
        "vllm" => EngineMetrics {
            waiting: series("vllm:num_requests_waiting"),
            running: series("vllm:num_requests_running"),
            kv_cache_usage: series("vllm:kv_cache_usage_perc"),
            cache_info: cache_info("vllm:cache_config_info", "block_size", "num_gpu_blocks"),
            lora_info: series("vllm:lora_requests_info"),
            ..EngineMetrics::default()
        },
        "sglang" => EngineMetrics {
            waiting: series("sglang:num_queue_reqs"),
            running: series("sglang:num_running_reqs"),
            kv_cache_usage: series("sglang:token_usage"),
            cache_info: cache_info("sglang:cache_config_info", "page_size", "num_pages"),
            ..EngineMetrics::default()
        },
        "trtllm-serve" => EngineMetrics {
            waiting: series("trtllm_num_requests_waiting"),
            running: series("trtllm_num_requests_running"),
            kv_cache_usage: series("trtllm_kv_cache_utilization"),
            block_size: series("trtllm_kv_cache_tokens_per_block"),
            block_count: series("trtllm_kv_cache_max_blocks"),
            ..EngineMetrics::default()
        },
        "triton-tensorrt-llm" => EngineMetrics {
            waiting: series("nv_trt_llm_request_metrics{request_type=waiting}"),
            running: series("nv_trt_llm_request_metrics{request_type=scheduled}"),
            kv_cache_usage: series("nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=fraction}"),
            block_size: series("nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=tokens_per}"),
            block_count: series("nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=max}"),
            ..EngineMetrics::default()
        },
        _ => return None,
    };
    Some(EngineMetrics { name: name.into(), ..metrics })
}

/// Names under which older versions of a built-in engine publish their KV-cache use.
const OLDER_KV_CACHE_USAGE: &[(&str, &str)] = &[("vllm", "vllm:gpu_cache_usage_perc")];

impl Mapping {
    /// Parses an engine's series.
    pub fn compile(metrics: &EngineMetrics) -> Result<Self, MappingError> {
        let info = metrics.cache_info.as_ref();
        let info_meaning = info.map(|info| Meaning::CacheInfo {
            block_size_label: info.block_size_label.as_str().into(),
            block_count_label: info.block_count_label.as_str().into(),
        });
        let fields = [
            ("waiting", metrics.waiting.as_ref(), Some(Meaning::Waiting)),
            ("running", metrics.running.as_ref(), Some(Meaning::Running)),
            ("KV-cache usage", metrics.kv_cache_usage.as_ref(), Some(Meaning::KvCacheUsage)),
            ("block size", metrics.block_size.as_ref(), Some(Meaning::BlockSize)),
            ("block count", metrics.block_count.as_ref(), Some(Meaning::BlockCount)),
            ("cache info", info.map(|info| &info.series), info_meaning),
            ("LoRA info", metrics.lora_info.as_ref(), Some(Meaning::LoraInfo)),
        ];
        let mut series = Vec::new();
        for (field, spec, meaning) in fields {
            let (Some(spec), Some(meaning)) = (spec, meaning) else { continue };
            let selector = Selector::parse(spec).map_err(|source| {
                let engine = metrics.name.clone();
                MappingError::Series { engine, field, source }
            })?;
            series.push(MappedSeries { selector, meaning });
        }
        if !series.iter().any(|series| series.meaning.is_load()) {
            return Err(MappingError::SaysNothing(metrics.name.clone()));
        }
        Ok(Self { engine: metrics.name.clone(), series })
    }

    /// The mapping of a built-in engine; `None` when there is none of that name.
    pub fn builtin(name: &str) -> Option<Self> {
        let mut mapping = Self::compile(&builtin_engine(name)?).ok()?;
        for (_, older) in OLDER_KV_CACHE_USAGE.iter().filter(|(engine, _)| *engine == name) {
            mapping
                .series
                .push(MappedSeries { selector: Selector::parse(older).ok()?, meaning: Meaning::KvCacheUsage });
        }
        Some(mapping)
    }

    /// The engine's name.
    pub fn engine(&self) -> &Arc<str> {
        &self.engine
    }

    pub(crate) fn series(&self) -> &[MappedSeries] {
        &self.series
    }

    /// The metrics of which at least one must be there, for people to read.
    pub(crate) fn load_metrics(&self) -> String {
        let load = self.series.iter().filter(|series| series.meaning.is_load());
        let mut names: Vec<&str> = load.map(|series| &*series.selector.name).collect();
        names.dedup();
        names.join(", ")
    }
}

impl Meaning {
    /// Whether scorers read it: a server that says nothing of this kind says nothing of its load.
    pub(crate) fn is_load(&self) -> bool {
        matches!(self, Self::Waiting | Self::Running | Self::KvCacheUsage)
    }
}

impl Engines {
    /// Parses the policy's mappings, over the built-in ones. Configuration has validated them; one that cannot be read
    /// all the same is left out with a line in the log, and its endpoints are reported as of an unknown engine.
    pub(crate) fn compile(policy: &TelemetryPolicy) -> Self {
        let builtin =
            builtin_engines().into_iter().filter_map(|name| Some((name.into(), Mapping::builtin(name)?.into())));
        let mut mappings: HashMap<Arc<str>, Arc<Mapping>> = builtin.collect();
        for metrics in &policy.engines {
            match Mapping::compile(metrics) {
                Ok(mapping) => {
                    mappings.insert(metrics.name.clone(), Arc::new(mapping));
                }
                Err(error) => {
                    tracing::error!(%error, "engine mapping left out");
                    mappings.remove(&metrics.name);
                }
            }
        }
        Self { mappings, default: policy.engine.clone() }
    }

    /// How to read the metrics of `endpoint`; its engine's name where there is no mapping for it.
    pub(crate) fn mapping_of(&self, endpoint: &Endpoint) -> Result<Arc<Mapping>, Arc<str>> {
        let engine = endpoint.engine.as_ref().unwrap_or(&self.default);
        self.mappings.get(engine).cloned().ok_or_else(|| engine.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_builtin_engine_compiles_and_says_all_that_scorers_read() {
        for name in builtin_engines() {
            let mapping = Mapping::builtin(name).unwrap();
            assert_eq!(&**mapping.engine(), name);
            for meaning in [Meaning::Waiting, Meaning::Running, Meaning::KvCacheUsage] {
                assert!(mapping.series().iter().any(|series| series.meaning == meaning), "{name}: {meaning:?}");
            }
        }
        assert_eq!(Mapping::builtin("vllm").unwrap().series().len(), 6, "one of them for older versions");
        assert_eq!(Mapping::builtin("none"), None);
    }

    #[test]
    fn a_policy_adds_engines_and_overrides_built_in_ones() {
        let engine = |name: &str, waiting: &str| {
            let waiting = Some(waiting.to_string());
            EngineMetrics { name: name.into(), waiting, ..EngineMetrics::default() }
        };
        let engines = vec![engine("mine", "my_queue"), engine("sglang", "other_queue"), engine("broken", "{")];
        let policy = TelemetryPolicy { engine: "mine".into(), engines, ..TelemetryPolicy::default() };
        let engines = Engines::compile(&policy);
        let metrics_of = |engine: Option<&str>| {
            let mut endpoint = Endpoint::new("a", ([10, 0, 0, 1], 8000).into());
            endpoint.engine = engine.map(Arc::from);
            engines.mapping_of(&endpoint).map(|mapping| mapping.load_metrics()).map_err(|name| name.to_string())
        };
        assert_eq!(metrics_of(None), Ok("my_queue".into()));
        assert_eq!(metrics_of(Some("sglang")), Ok("other_queue".into()));
        assert_eq!(metrics_of(Some("broken")), Err("broken".into()));
        assert!(metrics_of(Some("trtllm-serve")).unwrap().contains("trtllm_num_requests_waiting"));
    }

    #[test]
    fn an_engine_that_says_nothing_of_load_is_refused() {
        let metrics = EngineMetrics { name: "x".into(), block_size: Some("b".into()), ..EngineMetrics::default() };
        assert_eq!(Mapping::compile(&metrics), Err(MappingError::SaysNothing("x".into())));
        let metrics = EngineMetrics { name: "x".into(), running: Some("9".into()), ..EngineMetrics::default() };
        let error = Mapping::compile(&metrics).unwrap_err().to_string();
        assert!(error.starts_with("engine x: running \"9\" is no metric name"), "{error}");
    }
}
