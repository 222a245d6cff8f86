//! The HTTP face of a simulated server: OpenAI's and Anthropic's paths, vLLM's metrics, an echo for everything else.

mod chat;
mod completions;
mod control;
mod echo;
mod embeddings;
mod errors;
mod generate;
mod messages;
mod metrics;
mod models;
mod prompt;
mod responses;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use xxhash_rust::xxh3::xxh3_64;

use self::errors::ApiError;
use crate::rng::Rng;
use crate::server::Shared;

/// Largest request body in bytes.
pub(crate) const MAX_BODY: usize = 64 << 20;

/// The server's name, on every response.
const SERVER: HeaderName = HeaderName::from_static("x-sim-server");
/// How many bytes the request's body had, on every response to a request whose body was read.
const BODY_BYTES: HeaderName = HeaderName::from_static("x-sim-body-bytes");
/// XXH3 of these bytes, 16 hexadecimal digits.
const BODY_HASH: HeaderName = HeaderName::from_static("x-sim-body-xxh3");

/// All paths of one server.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    let faulty = Router::new()
        .route("/v1/chat/completions", post(chat::serve))
        .route("/v1/completions", post(completions::serve))
        .route("/v1/embeddings", post(embeddings::serve))
        .route("/v1/responses", post(responses::serve))
        .route("/v1/messages", post(messages::serve))
        .route("/v1/models", get(models::serve))
        .fallback(echo::serve)
        .layer(middleware::from_fn_with_state(shared.clone(), misbehave));
    Router::new()
        .route("/health", get(control::health))
        .route("/metrics", get(metrics::serve))
        .route("/sim/faults", get(control::faults).post(control::set_faults))
        .route("/sim/stats", get(control::stats))
        .route("/sim/headers", get(control::headers).post(control::headers))
        .route("/sim/clear-cache", post(control::clear_cache))
        .merge(faulty)
        .layer(middleware::from_fn_with_state(shared.clone(), sign))
        .with_state(shared)
}

/// Puts the server's name on the response.
async fn sign(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response.headers_mut().insert(SERVER, shared.name.clone());
    response
}

/// Applies the faults that touch a whole request.
async fn misbehave(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let faults = shared.faults.borrow().clone();
    if faults.latency_ms > 0 {
        tokio::time::sleep(Duration::from_millis(faults.latency_ms)).await;
    }
    if faults.hang {
        return std::future::pending().await;
    }
    if let Some(errors) = faults.errors {
        let number = shared.counter.fetch_add(1, Ordering::Relaxed);
        if Rng::stream(shared.config.engine.seed, number).unit() * 100.0 < errors.percent {
            let status = StatusCode::from_u16(errors.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            return ApiError::injected(status).into_response();
        }
    }
    next.run(request).await
}

/// Reads a whole body, up to the limit.
async fn read_body(body: Body) -> Result<Bytes, ApiError> {
    // A length that is said to be over the limit is refused before the client sends it all.
    if hyper::body::Body::size_hint(&body).lower() > MAX_BODY as u64 {
        return Err(ApiError::too_large());
    }
    to_bytes(body, MAX_BODY).await.map_err(|error| {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(error) = cause {
            if error.is::<http_body_util::LengthLimitError>() {
                return ApiError::too_large();
            }
            cause = error.source();
        }
        ApiError::bad_request("body-unreadable", format!("the request's body ended early: {error}"))
    })
}

/// Says on the response what arrived.
fn attest(response: &mut Response, body: &[u8]) {
    let headers = response.headers_mut();
    headers.insert(BODY_BYTES, HeaderValue::from(body.len()));
    if let Ok(hash) = HeaderValue::from_str(&format!("{:016x}", xxh3_64(body))) {
        headers.insert(BODY_HASH, hash);
    }
}
