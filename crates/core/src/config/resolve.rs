//! From what is written to what the hot path reads: defaults, ranges, plugins, and fields that must fit each other.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::problem::{FieldPath, Problems};
use super::schema::{member_name, parameters_schema};
use super::spec::{EngineSpec, PluginSpec, PrefixCacheSpec, ProfileSpec, SchedulingSpec, TelemetrySpec};
use super::units::GatewayDuration;
use super::{BUILTIN_ENGINES, UnknownFields, structure};
use crate::policy::{
    CacheInfoSeries, DEFAULT_FALLBACKS, DEFAULT_PICKER, DEFAULT_SCORERS, EngineMetrics, NamedFilter, Policy,
    PrefixCachePolicy, Profile, TelemetryPolicy, WeightedScorer,
};
use crate::registry::{PluginDef, Registry};

mod models;

/// Bytes that a pool's index may be limited to.
const MEMORY_LIMITS: RangeInclusive<u64> = 1 << 20..=16 << 30;
const INTERVALS: RangeInclusive<Duration> = Duration::from_millis(5)..=Duration::from_secs(3600);
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(60);
const STALE_AFTER: RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(3600);

/// Resolves one configuration. Every problem is reported, and a policy made all the same where one can be: it counts
/// only when nothing was reported.
pub(super) struct Resolver<'a> {
    pub(super) registry: &'a Registry,
    pub(super) unknown: &'a mut UnknownFields,
    pub(super) problems: &'a mut Problems,
}

impl Resolver<'_> {
    pub(super) fn policy(&mut self, spec: SchedulingSpec, path: &FieldPath) -> Policy {
        let mut policy = Policy::default();
        if let Some(profile) = self.profile(spec.profile, &path.member("profile")) {
            policy.profile = profile;
        }
        policy.fallbacks = spec.fallbacks.map_or(DEFAULT_FALLBACKS, usize::from);
        policy.prefix_cache = self.prefix_cache(&spec.prefix_cache, &path.member("prefixCache"));
        policy.telemetry = self.telemetry(spec.telemetry, &path.member("telemetry"));
        policy.models = self.models(spec.models, &path.member("models"));
        policy
    }

    fn profile(&mut self, spec: ProfileSpec, path: &FieldPath) -> Option<Profile> {
        let registry = self.registry;
        let default_scorers = || {
            let entry = |(name, weight): &(&str, f32)| {
                Some(PluginSpec { r#type: (*name).into(), weight: Some(f64::from(*weight)), members: Map::new() })
            };
            DEFAULT_SCORERS.iter().map(entry).collect()
        };
        let filters_path = path.member("filters");
        let mut filters = Vec::new();
        for (at, entry) in spec.filters.into_iter().enumerate() {
            filters.extend(entry.and_then(|entry| {
                let (name, _, filter) = self.plugin(entry, registry.filters(), &filters_path.item(at))?;
                Some(NamedFilter { name, filter })
            }));
        }
        let scorers_path = path.member("scorers");
        let mut scorers = Vec::new();
        for (at, entry) in spec.scorers.unwrap_or_else(default_scorers).into_iter().enumerate() {
            scorers.extend(entry.and_then(|entry| {
                let (name, weight, scorer) = self.plugin(entry, registry.scorers(), &scorers_path.item(at))?;
                Some(WeightedScorer { name, weight, scorer })
            }));
        }
        let picker = spec.picker.unwrap_or_else(|| PluginSpec { r#type: DEFAULT_PICKER.into(), ..Default::default() });
        let (_, _, picker) = self.plugin(picker, registry.pickers(), &path.member("picker"))?;
        Some(Profile { filters, scorers, picker })
    }

    /// Makes the plugin of one entry, with its name and weight.
    fn plugin<P: ?Sized>(
        &mut self,
        mut entry: PluginSpec,
        defs: &[PluginDef<P>],
        path: &FieldPath,
    ) -> Option<(Arc<str>, f32, Box<P>)> {
        let def = defs.iter().find(|def| def.name == entry.r#type)?;
        let own = member_name(def.name);
        let mut given = None;
        for (key, mut parameters) in std::mem::take(&mut entry.members) {
            let path = path.member(&key);
            if key == "parameters" {
                structure::check(&mut parameters, &parameters_schema(def), &path, self.unknown, self.problems);
            } else if key != own {
                let message = format!("these are another plugin's parameters; those of {} go under `{own}`", def.name);
                self.problems.add(path, message);
                continue;
            }
            if given.is_some() {
                self.problems.add(path, format!("give `{own}` or `parameters`, not both"));
                continue;
            }
            given = Some((path, parameters));
        }
        let (path, parameters) = given.unwrap_or_else(|| (path.clone(), Value::Null));
        if self.problems.any_under(&path) {
            return None;
        }
        match (def.build)(parameters) {
            Ok(plugin) => Some((def.name.into(), entry.weight.unwrap_or(1.0) as f32, plugin)),
            Err(refused) => {
                self.problems.add(path.join(&refused.field), refused.message);
                None
            }
        }
    }

    fn prefix_cache(&mut self, spec: &PrefixCacheSpec, path: &FieldPath) -> PrefixCachePolicy {
        let mut policy = PrefixCachePolicy::default();
        policy.layout.block_tokens = spec.block_tokens.unwrap_or(policy.layout.block_tokens);
        policy.layout.max_prompt_tokens = spec.max_prompt_tokens.unwrap_or(policy.layout.max_prompt_tokens);
        if policy.layout.max_prompt_tokens < policy.layout.block_tokens {
            let (most, block) = (policy.layout.max_prompt_tokens, policy.layout.block_tokens);
            let message = format!("{most} is less than one block of {block} tokens: nothing would be remembered");
            self.problems.add(path.member("maxPromptTokens"), message);
        }
        if let Some(limit) = spec.memory_limit {
            if !MEMORY_LIMITS.contains(&limit.0) {
                self.problems.add(path.member("memoryLimit"), format!("{} bytes are outside of 1Mi to 16Gi", limit.0));
            }
            policy.memory_limit = usize::try_from(limit.0).unwrap_or(usize::MAX);
        }
        policy
    }

    fn telemetry(&mut self, spec: TelemetrySpec, path: &FieldPath) -> TelemetryPolicy {
        let default = TelemetryPolicy::default();
        let interval = path.member("interval");
        let (busy_path, idle_path) = (interval.member("busy"), interval.member("idle"));
        let (timeout_path, stale_path) = (path.member("timeout"), path.member("staleAfter"));
        let busy = self.duration(spec.interval.busy, default.busy_interval, INTERVALS, &busy_path);
        let idle = self.duration(spec.interval.idle, default.idle_interval, INTERVALS, &idle_path);
        let timeout = self.duration(spec.timeout, default.timeout, TIMEOUTS, &timeout_path);
        let stale_after = self.duration(spec.stale_after, default.stale_after, STALE_AFTER, &stale_path);
        // Only what was understood is compared: a default in the place of a typing error would mislead.
        let understood = [&busy_path, &idle_path, &timeout_path, &stale_path];
        if !understood.iter().any(|path| self.problems.any_under(path)) {
            if busy > idle {
                self.problems.add(busy_path, format!("{busy:?} is longer than `idle`, {idle:?}"));
            }
            if timeout > stale_after {
                let message = format!("{timeout:?} is longer than `staleAfter`, {stale_after:?}");
                self.problems.add(timeout_path, message);
            }
            if idle >= stale_after {
                let message = format!(
                    "{idle:?} is not shorter than `staleAfter`, {stale_after:?}: idle endpoints would always be stale"
                );
                self.problems.add(idle_path, message);
            }
        }
        let engines = self.engines(spec.engines, &path.member("engines"));
        if let Some(engine) = &spec.engine {
            let known = BUILTIN_ENGINES.iter().copied().chain(engines.iter().map(|engine| &*engine.name));
            if !known.clone().any(|name| name == engine) {
                self.problems.add_unknown(path.member("engine"), format!("unknown engine {engine:?}"), engine, known);
            }
        }
        TelemetryPolicy {
            engine: spec.engine.map_or(default.engine, Into::into),
            engines,
            busy_interval: busy,
            idle_interval: idle,
            max_scrapes_per_second: spec.max_scrapes_per_second.unwrap_or(default.max_scrapes_per_second),
            timeout,
            stale_after,
        }
    }

    fn duration(
        &mut self,
        given: Option<GatewayDuration>,
        default: Duration,
        range: RangeInclusive<Duration>,
        path: &FieldPath,
    ) -> Duration {
        let value = given.map_or(default, |given| given.0);
        if !range.contains(&value) {
            let message = format!("{value:?} is outside of {:?} to {:?}", range.start(), range.end());
            self.problems.add(path.clone(), message);
        }
        value
    }

    fn engines(&mut self, specs: Vec<Option<EngineSpec>>, path: &FieldPath) -> Vec<EngineMetrics> {
        let mut names = BTreeSet::new();
        let mut engines = Vec::new();
        for (at, spec) in specs.into_iter().enumerate() {
            let Some(spec) = spec else { continue };
            if !names.insert(spec.name.clone()) {
                let message = format!("engine {:?} is defined twice", spec.name);
                self.problems.add(path.item(at).member("name"), message);
            }
            let says_nothing = spec.waiting.is_none() && spec.running.is_none() && spec.kv_cache_usage.is_none();
            if says_nothing && !self.problems.any_under(&path.item(at)) {
                let message = "at least one of `waiting`, `running` and `kvCacheUsage` is needed";
                self.problems.add(path.item(at), message);
            }
            engines.push(EngineMetrics {
                name: spec.name.into(),
                waiting: spec.waiting,
                running: spec.running,
                kv_cache_usage: spec.kv_cache_usage,
                block_size: spec.block_size,
                block_count: spec.block_count,
                cache_info: spec.cache_info.map(|info| CacheInfoSeries {
                    series: info.series,
                    block_size_label: info.block_size_label,
                    block_count_label: info.block_count_label,
                }),
                lora_info: spec.lora_info,
            });
        }
        engines
    }
}
