//! The admin pages: why it routed so, what it knows, how it is configured, what it logs. On a listener of their own,
//! loopback by default.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use axum::{Json, Router};
use pointsman_core::explanation::{ExplainedEndpoint, Explanation, Fate};
use pointsman_core::pool::Pool;
use pointsman_core::time::Tick;
use pointsman_extproc::settings::PoolDirectory;
use serde::Deserialize;
use serde_json::{Value, json};

use super::logging::LogLevel;
use super::pools::Scrapes;

/// Says how the process is configured, as JSON.
pub(crate) type Shown = Arc<dyn Fn() -> Value + Send + Sync>;

/// What the pages show.
#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) pools: Arc<PoolDirectory>,
    pub(crate) scrapes: Scrapes,
    /// The configuration in force, as JSON.
    pub(crate) config: Shown,
    pub(crate) log_level: LogLevel,
    pub(crate) start: std::time::Instant,
}

/// The pages, with what each is for.
const PAGES: &[(&str, &str)] = &[
    ("/debug/decisions", "the last decisions, newest first; ?request_id=, ?pool=, ?limit="),
    ("/debug/pools", "endpoints with their load, its age, and what is in flight"),
    ("/debug/config", "the configuration in force"),
    ("/debug/log-level", "the log filter; PUT another as plain text"),
];

impl Admin {
    /// All pages.
    pub(crate) fn router(self) -> Router {
        Router::new()
            .route("/", get(index))
            .route("/debug/decisions", get(decisions))
            .route("/debug/pools", get(pools))
            .route("/debug/config", get(|State(admin): State<Self>| async move { Json((admin.config)()) }))
            .route(
                "/debug/log-level",
                get(|State(admin): State<Self>| async move { admin.log_level.get() }).put(set_log_level),
            )
            .with_state(self)
    }

    fn now(&self) -> Tick {
        Tick::of(self.start, std::time::Instant::now())
    }
}

async fn index() -> Html<String> {
    let rows = PAGES.iter().map(|(page, what)| format!("<li><a href=\"{page}\">{page}</a>: {what}</li>"));
    Html(format!("<!doctype html><title>Pointsman</title><h1>Pointsman</h1><ul>{}</ul>", rows.collect::<String>()))
}

async fn set_log_level(State(admin): State<Admin>, filter: String) -> impl IntoResponse {
    match admin.log_level.set(filter.trim()) {
        Ok(()) => {
            tracing::info!(filter = filter.trim(), "the log filter was changed");
            (StatusCode::OK, admin.log_level.get())
        }
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error:#}")),
    }
}

/// Which decisions to show.
#[derive(Debug, Deserialize)]
struct Which {
    request_id: Option<String>,
    pool: Option<String>,
    limit: Option<usize>,
}

async fn decisions(State(admin): State<Admin>, Query(which): Query<Which>) -> Json<Value> {
    let now = admin.now();
    let limit = which.limit.unwrap_or(50);
    let mut shown = Vec::new();
    for pool in selected(&admin, which.pool.as_deref()) {
        let explanations = pool.explanations(limit, which.request_id.as_deref());
        shown.extend(explanations.iter().map(|why| (why.at, decision(&pool, why, now))));
    }
    shown.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    Json(shown.into_iter().take(limit).map(|(_, decision)| decision).collect())
}

fn selected(admin: &Admin, name: Option<&str>) -> Vec<Arc<Pool>> {
    match name {
        Some(name) => admin.pools.get(name).into_iter().collect(),
        None => admin.pools.all(),
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn decision(pool: &Pool, why: &Explanation, now: Tick) -> Value {
    let scorers = why.scorers.len();
    let mut scores = why.scores.chunks(scorers.max(1));
    let endpoints: Vec<Value> = why
        .rows
        .iter()
        .map(|row| {
            let is_candidate = matches!(row.fate, Fate::Candidate { .. } | Fate::Chosen { .. });
            let raw = if is_candidate { scores.next().unwrap_or_default() } else { &[] };
            explained(row, &why.scorers, raw)
        })
        .collect();
    json!({
        "pool": &**pool.name(),
        "requestId": &*why.request_id,
        "sequence": why.sequence,
        "model": why.model.as_deref(),
        "targetModel": why.target_model.as_deref(),
        "modelRule": why.model_rule.as_deref(),
        "objective": why.objective.as_deref(),
        "priority": why.priority,
        "promptTokens": why.prompt_tokens,
        "agoMs": millis(now.since(why.at)),
        "queuedMs": millis(why.queued),
        "snapshot": why.snapshot_version,
        "refused": why.reason.map(|reason| reason.code()),
        "endpoints": endpoints,
        "endpointsLeftOut": why.rows_left_out,
    })
}

fn explained(row: &ExplainedEndpoint, scorers: &[(Arc<str>, f32)], raw: &[f32]) -> Value {
    let (fate, total, filter) = match &row.fate {
        Fate::OutsideSubset => ("outside-subset".to_owned(), None, None),
        Fate::Cordoned => ("cordoned".to_owned(), None, None),
        Fate::FilteredOut(filter) => ("filtered-out".to_owned(), None, Some(&**filter)),
        Fate::Candidate { score } => ("candidate".to_owned(), Some(*score), None),
        Fate::Chosen { score, place: 0 } => ("picked".to_owned(), Some(*score), None),
        Fate::Chosen { score, place } => (format!("fallback-{place}"), Some(*score), None),
    };
    let scores: Vec<Value> = scorers
        .iter()
        .zip(raw)
        .map(|((name, weight), raw)| json!({"scorer": &**name, "raw": raw, "weight": weight, "weighted": raw * weight}))
        .collect();
    json!({
        "name": &*row.endpoint.name,
        "address": row.endpoint.address.to_string(),
        "fate": fate,
        "filter": filter,
        "score": total,
        "scores": scores,
        "telemetryAgeMs": row.telemetry_age.map(millis),
        "telemetryFresh": row.fresh,
        "inFlight": row.in_flight,
        "waiting": row.waiting,
        "matchedTokens": row.matched_tokens,
    })
}

async fn pools(State(admin): State<Admin>, Query(which): Query<Which>) -> Json<Value> {
    let now = admin.now();
    let pools = selected(&admin, which.pool.as_deref());
    Json(pools.iter().map(|pool| pool_page(&admin, pool, now)).collect())
}

fn pool_page(admin: &Admin, pool: &Pool, now: Tick) -> Value {
    let scrapes = admin.scrapes.load().get(&**pool.name()).cloned();
    let snapshot = pool.snapshot();
    let (members, load) = (&snapshot.members, &snapshot.load);
    let stale_after = snapshot.policy.telemetry.stale_after;
    let endpoints: Vec<Value> = (0..members.len())
        .map(|row| {
            let (endpoint, cell) = (&members.endpoints[row], &members.cells[row]);
            let scrape = scrapes.as_ref().and_then(|scrapes| scrapes.get(cell.id())).unwrap_or_default();
            json!({
                "name": &*endpoint.name,
                "namespace": &*endpoint.namespace,
                "address": endpoint.address.to_string(),
                "labels": endpoint.labels,
                "cordoned": endpoint.is_cordoned,
                "inFlight": cell.in_flight(),
                "inFlightTokens": cell.in_flight_tokens(),
                "openResponses": cell.streaming(),
                "tpotMs": cell.tpot().map(|seconds| f64::from(seconds) * 1e3),
                "prefillTokens": cell.prefill_tokens(),
                "prefillTokensPerSecond": cell.prefill_rate(),
                "waiting": load.at[row].map(|_| load.waiting[row]),
                "running": load.at[row].map(|_| load.running[row]),
                "kvCacheUsage": load.at[row].map(|_| load.kv_cache_usage[row]),
                "kvCacheTokens": load.kv_cache_tokens[row],
                "telemetryAgeMs": load.age(row, now).map(millis),
                "telemetryFresh": load.is_fresh(row, now, stale_after),
                "scrapeFailures": scrape.consecutive_failures,
                "scrapeError": scrape.last_error,
            })
        })
        .collect();
    let index = pool.prefix_index_size();
    json!({
        "name": &**pool.name(),
        "snapshot": snapshot.version,
        "endpoints": endpoints,
        "prefixIndex": {"entries": index.entries, "capacity": index.capacity, "bytes": index.bytes},
    })
}
