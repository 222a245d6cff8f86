//! What the hooks cost, and what they serve.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::translation::RuleReport;

/// The hooks that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// One rule's cluster.
    Cluster,
    /// One cluster's endpoints.
    Endpoints,
    /// A Gateway's resources.
    Translation,
    /// One that changes nothing here, and need not be configured.
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HookLabel {
    hook: &'static str,
}

/// Metrics of the hooks. Cheap to clone: the clones count together.
#[derive(Clone, Debug)]
pub struct HookMetrics {
    durations: Family<HookLabel, Histogram, fn() -> Histogram>,
    sizes: Family<HookLabel, Histogram, fn() -> Histogram>,
    refusals: Family<HookLabel, Counter>,
    rules: Gauge,
    pools: Gauge,
    guesses: Gauge,
    missing_pickers: Gauge,
}

impl Hook {
    fn label(self) -> HookLabel {
        let hook = match self {
            Self::Cluster => "cluster",
            Self::Endpoints => "endpoints",
            Self::Translation => "translation",
            Self::Other => "other",
        };
        HookLabel { hook }
    }
}

impl HookMetrics {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let seconds: fn() -> Histogram = || Histogram::new([0.0001, 0.001, 0.005, 0.02, 0.1, 0.5, 2.0]);
        let bytes: fn() -> Histogram = || Histogram::new([1e3, 1e4, 1e5, 1e6, 4e6, 1.6e7, 6.4e7]);
        let metrics = Self {
            durations: Family::new_with_constructor(seconds),
            sizes: Family::new_with_constructor(bytes),
            refusals: Family::default(),
            rules: Gauge::default(),
            pools: Gauge::default(),
            guesses: Gauge::default(),
            missing_pickers: Gauge::default(),
        };
        let help = "How long Envoy Gateway's hooks took to answer";
        registry.register_with_unit("gateway_hook_duration", help, Unit::Seconds, metrics.durations.clone());
        let help = "Size of the resources that came with Envoy Gateway's hooks";
        registry.register_with_unit("gateway_hook_size", help, Unit::Bytes, metrics.sizes.clone());
        let help = "Hooks whose resources could not be read and went back as they came";
        registry.register("gateway_hook_refusals", help, metrics.refusals.clone());
        let help = "Route rules with pools in the last Translation";
        registry.register("gateway_rules", help, metrics.rules.clone());
        let help = "Pools in the last Translation";
        registry.register("gateway_pools", help, metrics.pools.clone());
        let help = "Route rules of the last Translation that the watches had not seen yet";
        registry.register("gateway_rules_unseen", help, metrics.guesses.clone());
        let help = "Pools of the last Translation whose picker was nowhere to be found";
        registry.register("gateway_pickers_missing", help, metrics.missing_pickers.clone());
        metrics
    }

    pub(crate) fn answered(&self, hook: Hook, size: usize, took: Duration) {
        self.durations.get_or_create(&hook.label()).observe(took.as_secs_f64());
        self.sizes.get_or_create(&hook.label()).observe(size as f64);
    }

    pub(crate) fn refused(&self, hook: Hook) {
        self.refusals.get_or_create(&hook.label()).inc();
    }

    pub(crate) fn made(&self, rules: &BTreeMap<String, RuleReport>) {
        let pools = || rules.values().flat_map(|rule| &rule.pools);
        let distinct: BTreeSet<_> = pools().map(|pool| &pool.pool).collect();
        let missing: BTreeSet<_> = pools().filter(|pool| pool.is_picker_missing).map(|pool| &pool.pool).collect();
        let set = |gauge: &Gauge, count: usize| _ = gauge.set(count as i64);
        set(&self.rules, rules.len());
        set(&self.pools, distinct.len());
        set(&self.guesses, rules.values().filter(|rule| !rule.is_known).count());
        set(&self.missing_pickers, missing.len());
    }
}
