//! `POST /v1/completions`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::chat::{finish_reason, push_data, usage_json};
use super::errors::ApiError;
use super::generate::{self, Asked, Dialect, Reply, Usage};
use super::prompt::{self, StreamOptions};
use crate::server::Shared;

/// The fields that matter here.
#[derive(Debug, Deserialize)]
struct Body {
    model: Option<String>,
    prompt: Value,
    max_tokens: Option<usize>,
    #[serde(default)]
    stream: bool,
    stream_options: Option<StreamOptions>,
    cache_salt: Option<String>,
}

struct Completions;

pub(super) async fn serve(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    generate::serve(shared, request, Completions, parse).await
}

fn parse(body: &[u8]) -> Result<Asked, ApiError> {
    let body: Body = serde_json::from_slice(body).map_err(|error| ApiError::bad_json(&error))?;
    let Some(Ok([prompt])) = prompt::inputs(&body.prompt).map(<[String; 1]>::try_from) else {
        return Err(ApiError::bad_request(
            "invalid-value",
            "`prompt` must be one text or one list of token numbers: several prompts a request are not simulated",
        ));
    };
    Ok(Asked {
        model: body.model,
        prompt,
        max_tokens: body.max_tokens,
        stream: body.stream,
        include_usage: body.stream_options.unwrap_or_default().include_usage,
        cache_salt: body.cache_salt,
    })
}

fn head(reply: &Reply) -> Value {
    json!({
        "id": format!("cmpl-{}", reply.id),
        "object": "text_completion",
        "created": reply.created,
        "model": reply.model,
    })
}

impl Dialect for Completions {
    fn token(&self, out: &mut String, reply: &Reply, _index: usize, text: &str, last: bool) {
        let finish = last.then(|| finish_reason(reply));
        let mut chunk = head(reply);
        chunk["choices"] = json!([{"index": 0, "text": text, "logprobs": null, "finish_reason": finish}]);
        push_data(out, &chunk);
    }

    fn closing(&self, out: &mut String, reply: &Reply, usage: Usage, _answer: &str) {
        if reply.include_usage {
            let mut chunk = head(reply);
            chunk["choices"] = json!([]);
            chunk["usage"] = usage_json(usage);
            push_data(out, &chunk);
        }
        out.push_str("data: [DONE]\n\n");
    }

    fn whole(&self, reply: &Reply, usage: Usage, answer: &str) -> Value {
        let mut whole = head(reply);
        whole["choices"] =
            json!([{"index": 0, "text": answer, "logprobs": null, "finish_reason": finish_reason(reply)}]);
        whole["usage"] = usage_json(usage);
        whole
    }
}
