//! `POST /v1/embeddings`: the prefill is simulated, the numbers are made up.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64;

use super::errors::ApiError;
use super::{attest, generate, prompt, read_body};
use crate::engine::EventKind;
use crate::rng::Rng;
use crate::server::{LinkError, Shared};
use crate::tokenizer;

/// The fields that matter here.
#[derive(Debug, Deserialize)]
struct Body {
    model: Option<String>,
    input: Value,
    dimensions: Option<usize>,
}

/// Most inputs of one request.
const MAX_INPUTS: usize = 2_048;
/// Longest vector.
const MAX_DIMENSIONS: usize = 4_096;

pub(super) async fn serve(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let body = match read_body(request.into_body()).await {
        Ok(body) => body,
        Err(error) => return error.into_response(),
    };
    let mut response = match embed(&shared, &body).await {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => error.into_response(),
    };
    attest(&mut response, &body);
    response
}

async fn embed(shared: &Shared, body: &[u8]) -> Result<Value, ApiError> {
    let body: Body = serde_json::from_slice(body).map_err(|error| ApiError::bad_json(&error))?;
    let (model, adapter) = generate::resolve_model(shared, body.model.as_deref())?;
    let inputs = prompt::inputs(&body.input)
        .filter(|inputs| (1..=MAX_INPUTS).contains(&inputs.len()))
        .ok_or_else(|| ApiError::bad_request("invalid-value", "`input` must be 1 to 2048 texts or token lists"))?;
    let dimensions = body.dimensions.unwrap_or(8).clamp(1, MAX_DIMENSIONS);
    let mut tickets = Vec::with_capacity(inputs.len());
    for input in &inputs {
        tickets.push(generate::submit(shared, input, 0, adapter, None).await?.0);
    }
    for mut ticket in tickets {
        loop {
            match ticket.next().await {
                Some(EventKind::Finished) => break,
                Some(_) => {}
                None => return Err(LinkError::Gone.into()),
            }
        }
    }
    let tokens: usize = inputs.iter().map(|input| tokenizer::tokens(input.len())).sum();
    let data: Vec<Value> = inputs
        .iter()
        .enumerate()
        .map(|(index, input)| json!({"object": "embedding", "index": index, "embedding": vector(input, dimensions)}))
        .collect();
    Ok(json!({
        "object": "list",
        "data": data,
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }))
}

/// A vector of length about one, the same for the same text.
fn vector(text: &str, dimensions: usize) -> Vec<f32> {
    let mut rng = Rng::new(xxh3_64(text.as_bytes()));
    let scale = (3.0 / dimensions as f64).sqrt();
    (0..dimensions).map(|_| ((rng.unit() * 2.0 - 1.0) * scale) as f32).collect()
}
