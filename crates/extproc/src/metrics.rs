//! What the ext_proc service counts, by pool and model.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::RwLock;
use pointsman_core::reason::Reason;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Models that get series of their own, a pool; all others share [`OTHER`].
const MODELS_MAX: usize = 100;
/// The label of the models past the first [`MODELS_MAX`].
const OTHER: &str = "other";
/// The label of requests that name no model.
const NONE: &str = "";

const SECONDS: [f64; 22] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0, 30.0, 60.0, 120.0,
    300.0, 900.0,
];
const TOKEN_SECONDS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5];
const DECISION_SECONDS: [f64; 12] = [1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 5e-3, 2.5e-2];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModelLabels {
    pool: Arc<str>,
    model: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    pool: Arc<str>,
    model: Arc<str>,
    outcome: &'static str,
}

/// How a request that was picked came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered with a status below 400.
    Ok,
    /// Answered with 400 to 499.
    ClientError,
    /// Answered with 500 or more.
    ServerError,
    /// The gateway closed the stream before the response was whole: the client, or the server, went away.
    Disconnected,
    /// The picker ended it: a limit, a defect, a shutdown.
    Aborted,
}

impl Outcome {
    const ALL: [Self; 5] = [Self::Ok, Self::ClientError, Self::ServerError, Self::Disconnected, Self::Aborted];

    fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ClientError => "client-error",
            Self::ServerError => "server-error",
            Self::Disconnected => "disconnected",
            Self::Aborted => "aborted",
        }
    }
}

/// The series of one model in one pool, resolved once.
#[derive(Debug)]
pub(crate) struct ModelMetrics {
    outcomes: [Counter; Outcome::ALL.len()],
    pub(crate) ttft: Histogram,
    pub(crate) inter_token: Histogram,
    pub(crate) duration: Histogram,
    pub(crate) prompt_tokens: Counter,
    pub(crate) cached_tokens: Counter,
    pub(crate) output_tokens: Counter,
    pub(crate) matchable_tokens: Counter,
    pub(crate) matched_tokens: Counter,
}

impl ModelMetrics {
    pub(crate) fn outcome(&self, outcome: Outcome) {
        self.outcomes[outcome as usize].inc();
    }
}

/// The counters and histograms of the service.
#[derive(Debug)]
pub struct Metrics {
    outcomes: Family<OutcomeLabels, Counter>,
    ttft: Family<ModelLabels, Histogram>,
    inter_token: Family<ModelLabels, Histogram>,
    duration: Family<ModelLabels, Histogram>,
    prompt_tokens: Family<ModelLabels, Counter>,
    cached_tokens: Family<ModelLabels, Counter>,
    output_tokens: Family<ModelLabels, Counter>,
    matchable_tokens: Family<ModelLabels, Counter>,
    matched_tokens: Family<ModelLabels, Counter>,
    refusals: HashMap<Reason, Counter>,
    by_model: RwLock<HashMap<Arc<str>, PoolModels>>,
    pub(crate) decision: Histogram,
    pub(crate) streams: Gauge,
    /// By [`StreamRefusal`].
    streams_refused: [Counter; 2],
    pub(crate) panics: Counter,
    pub(crate) repeated_ends: Counter,
}

/// Why a stream is refused at its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamRefusal {
    /// As many are open as may be.
    Limit,
    /// It is not known yet which pools there are.
    PoolsUnknown,
}

impl StreamRefusal {
    const ALL: [Self; 2] = [Self::Limit, Self::PoolsUnknown];

    /// Its label.
    fn as_str(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::PoolsUnknown => "pools-unknown",
        }
    }
}

/// The models of one pool that have series of their own.
type PoolModels = HashMap<Arc<str>, Arc<ModelMetrics>>;

fn histogram(buckets: &'static [f64]) -> Histogram {
    Histogram::new(buckets.iter().copied())
}

impl Metrics {
    /// Registers everything under `pointsman_`, which is the registry's prefix.
    pub fn register(registry: &mut Registry) -> Self {
        let seconds = || Family::<ModelLabels, Histogram>::new_with_constructor(|| histogram(&SECONDS));
        let token_seconds = || Family::<ModelLabels, Histogram>::new_with_constructor(|| histogram(&TOKEN_SECONDS));
        let refusals = Family::<ReasonLabels, Counter>::default();
        let resolved =
            Reason::ALL.map(|reason| (reason, refusals.get_or_create_owned(&ReasonLabels { reason: reason.code() })));
        let refused_streams = Family::<ReasonLabels, Counter>::default();
        let streams_refused =
            StreamRefusal::ALL.map(|why| refused_streams.get_or_create_owned(&ReasonLabels { reason: why.as_str() }));
        let metrics = Self {
            outcomes: Family::default(),
            ttft: seconds(),
            inter_token: token_seconds(),
            duration: seconds(),
            prompt_tokens: Family::default(),
            cached_tokens: Family::default(),
            output_tokens: Family::default(),
            matchable_tokens: Family::default(),
            matched_tokens: Family::default(),
            refusals: resolved.into_iter().collect(),
            by_model: RwLock::default(),
            decision: histogram(&DECISION_SECONDS),
            streams: Gauge::default(),
            streams_refused,
            panics: Counter::<u64, AtomicU64>::default(),
            repeated_ends: Counter::<u64, AtomicU64>::default(),
        };
        registry.register("requests", "Requests that were picked, by how they came out", metrics.outcomes.clone());
        registry.register("errors", "Requests that the picker refused or ended, by reason", refusals);
        registry.register(
            "request_ttft_seconds",
            "From a request's headers to the first output of its response",
            metrics.ttft.clone(),
        );
        registry.register(
            "request_inter_token_seconds",
            "Between two output events of one streamed response",
            metrics.inter_token.clone(),
        );
        registry.register(
            "request_duration_seconds",
            "From a request's headers to the end of its response",
            metrics.duration.clone(),
        );
        registry.register("prompt_tokens", "Prompt tokens as the servers count them", metrics.prompt_tokens.clone());
        registry.register(
            "cached_tokens",
            "Prompt tokens that the servers found in their caches",
            metrics.cached_tokens.clone(),
        );
        registry.register("output_tokens", "Output tokens as the servers count them", metrics.output_tokens.clone());
        registry.register(
            "prefix_matchable_tokens",
            "Prompt tokens in whole prefix blocks, of picked requests",
            metrics.matchable_tokens.clone(),
        );
        registry.register(
            "prefix_matched_tokens",
            "Of those, the ones that the picked endpoint was believed to hold",
            metrics.matched_tokens.clone(),
        );
        registry.register("decision_seconds", "Time to decide one request", metrics.decision.clone());
        registry.register("streams", "Streams of the gateway that are open", metrics.streams.clone());
        registry.register("streams_refused", "Streams that were refused at their beginning", refused_streams);
        registry.register("panics", "Panics that were caught, each of which cost one request", metrics.panics.clone());
        registry.register(
            "repeated_ends",
            "Body chunks that came after the end of their stream and were passed over",
            metrics.repeated_ends.clone(),
        );
        metrics
    }

    /// Counts streams that are refused at their beginning.
    pub(crate) fn streams_refused(&self, why: StreamRefusal) -> &Counter {
        &self.streams_refused[why as usize]
    }

    /// Streams that are open now.
    pub fn open_streams(&self) -> i64 {
        self.streams.get()
    }

    /// Counts a refusal.
    pub(crate) fn refused(&self, reason: Reason) {
        if let Some(counter) = self.refusals.get(&reason) {
            counter.inc();
        }
    }

    /// The series of a model in a pool; those of [`OTHER`] when the pool has too many models already.
    pub(crate) fn model(&self, pool: &Arc<str>, model: Option<&Arc<str>>) -> Arc<ModelMetrics> {
        let name: &str = model.map_or(NONE, |model| model);
        if let Some(models) = self.by_model.read().get(pool) {
            let other = || models.get(OTHER).filter(|_| models.len() > MODELS_MAX);
            if let Some(known) = models.get(name).or_else(other) {
                return Arc::clone(known);
            }
        }
        let mut by_model = self.by_model.write();
        let models = by_model.entry(Arc::clone(pool)).or_default();
        let name: Arc<str> = if models.len() < MODELS_MAX { name.into() } else { OTHER.into() };
        let resolved = models.entry(Arc::clone(&name)).or_insert_with(|| Arc::new(self.resolve(pool, &name)));
        Arc::clone(resolved)
    }

    fn resolve(&self, pool: &Arc<str>, model: &Arc<str>) -> ModelMetrics {
        let labels = ModelLabels { pool: Arc::clone(pool), model: Arc::clone(model) };
        let outcome = |outcome: Outcome| {
            let labels = OutcomeLabels { pool: Arc::clone(pool), model: Arc::clone(model), outcome: outcome.label() };
            self.outcomes.get_or_create_owned(&labels)
        };
        ModelMetrics {
            outcomes: Outcome::ALL.map(outcome),
            ttft: self.ttft.get_or_create_owned(&labels),
            inter_token: self.inter_token.get_or_create_owned(&labels),
            duration: self.duration.get_or_create_owned(&labels),
            prompt_tokens: self.prompt_tokens.get_or_create_owned(&labels),
            cached_tokens: self.cached_tokens.get_or_create_owned(&labels),
            output_tokens: self.output_tokens.get_or_create_owned(&labels),
            matchable_tokens: self.matchable_tokens.get_or_create_owned(&labels),
            matched_tokens: self.matched_tokens.get_or_create_owned(&labels),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_model_names_make_a_hundred_series_and_other() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let pool: Arc<str> = "default/p".into();
        for n in 0..10_000 {
            metrics.model(&pool, Some(&format!("m{n}").into())).outcome(Outcome::Ok);
        }
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let series = text.lines().filter(|line| line.starts_with("requests_total") && line.contains("\"ok\"")).count();
        assert_eq!(series, MODELS_MAX + 1);
        assert!(text.contains(r#"requests_total{pool="default/p",model="other",outcome="ok"} 9900"#), "{text}");
    }
}
