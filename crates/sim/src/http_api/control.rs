//! `GET /health`, and `/sim/...`: what tests and demos ask of a server that a real one does not have.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Value, json};

use super::errors::ApiError;
use super::{attest, read_body};
use crate::engine::EngineStats;
use crate::server::{FaultConfig, Shared};

pub(super) async fn health(State(shared): State<Arc<Shared>>) -> StatusCode {
    if shared.faults.borrow().unhealthy { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
}

pub(super) async fn faults(State(shared): State<Arc<Shared>>) -> Json<FaultConfig> {
    Json(shared.faults.borrow().clone())
}

pub(super) async fn set_faults(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, ApiError> {
    let body = read_body(request.into_body()).await?;
    let faults: FaultConfig = serde_json::from_slice(&body).map_err(|error| ApiError::bad_json(&error))?;
    faults.validate().map_err(|message| ApiError::bad_request("invalid-value", message))?;
    shared.faults.send_replace(faults.clone());
    Ok(Json(faults).into_response())
}

pub(super) async fn stats(State(shared): State<Arc<Shared>>) -> Json<EngineStats> {
    Json(shared.engine.observed().borrow().engine.clone())
}

pub(super) async fn clear_cache(State(shared): State<Arc<Shared>>) -> StatusCode {
    shared.engine.clear_cache().await;
    StatusCode::NO_CONTENT
}

/// Answers with what arrived: method, path and headers, in order, values that are no text as lossy text.
pub(super) async fn headers(request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let body = read_body(body).await?;
    let headers: Vec<Value> = parts
        .headers
        .iter()
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    let path = parts.uri.path_and_query().map(ToString::to_string);
    let answer = json!({"method": parts.method.as_str(), "path": path, "headers": headers});
    let mut response = Json(answer).into_response();
    attest(&mut response, &body);
    Ok(response)
}
