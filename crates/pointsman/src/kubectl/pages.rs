//! The admin pages as they are read. They may come from a picker of another version: what is unknown is passed over,
//! what is absent has a default.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A pool, of `/debug/pools`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct PoolPage {
    /// `namespace/name`.
    pub(crate) name: String,
    pub(crate) endpoints: Vec<EndpointPage>,
}

/// One of a pool's endpoints. What is not known, of a server that was never scraped say, is absent.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct EndpointPage {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) address: String,
    pub(crate) cordoned: bool,
    /// Requests of this picker's own.
    pub(crate) in_flight: u64,
    pub(crate) tpot_ms: Option<f64>,
    pub(crate) waiting: Option<f64>,
    pub(crate) running: Option<f64>,
    /// From 0 to 1.
    pub(crate) kv_cache_usage: Option<f64>,
    pub(crate) telemetry_age_ms: Option<f64>,
    pub(crate) telemetry_fresh: bool,
    pub(crate) scrape_error: Option<String>,
}

/// A decision, of `/debug/decisions`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct DecisionPage {
    pub(crate) pool: String,
    pub(crate) request_id: String,
    /// Counts the decisions of the pool at that picker.
    pub(crate) sequence: u64,
    pub(crate) model: Option<String>,
    pub(crate) target_model: Option<String>,
    pub(crate) model_rule: Option<String>,
    pub(crate) objective: Option<String>,
    pub(crate) priority: i64,
    pub(crate) prompt_tokens: u64,
    pub(crate) ago_ms: f64,
    pub(crate) queued_ms: f64,
    /// Why nothing was picked.
    pub(crate) refused: Option<String>,
    pub(crate) endpoints: Vec<FatePage>,
    pub(crate) endpoints_left_out: u64,
}

/// What became of one endpoint in a decision.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct FatePage {
    pub(crate) name: String,
    pub(crate) address: String,
    /// `picked`, `fallback-N`, `candidate`, `filtered-out`, `cordoned`, `outside-subset`.
    pub(crate) fate: String,
    pub(crate) filter: Option<String>,
    pub(crate) score: Option<f64>,
    pub(crate) scores: Vec<ScorePage>,
    pub(crate) telemetry_age_ms: Option<f64>,
    pub(crate) telemetry_fresh: bool,
    pub(crate) in_flight: Option<f64>,
    pub(crate) waiting: Option<f64>,
    pub(crate) matched_tokens: Option<f64>,
}

/// What one scorer said of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct ScorePage {
    pub(crate) scorer: String,
    pub(crate) raw: Option<f64>,
    pub(crate) weight: Option<f64>,
    pub(crate) weighted: Option<f64>,
}

/// How a picker stands, of `/debug/config`; of one whose pools come from a file all of it is absent.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct StandingPage {
    /// Why it cannot serve, each with what would mend it.
    pub(crate) obstacles: Vec<String>,
    /// Whether it takes requests, and does not stand by.
    pub(crate) serving: Option<bool>,
    /// The Lease that replicas share: `namespace` and `name`.
    pub(crate) lease: Value,
    /// The name of the Secret and the ConfigMap that hold the CA that replicas share.
    pub(crate) trust: Option<String>,
    /// Whether only whom the API server lets in gets metrics.
    #[serde(rename = "metricsAuth")]
    pub(crate) metrics_auth: bool,
}
