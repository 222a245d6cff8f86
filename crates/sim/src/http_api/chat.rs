//! `POST /v1/chat/completions`.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::errors::ApiError;
use super::generate::{self, Asked, Dialect, Reply, Usage};
use super::prompt::{self, Message, StreamOptions};
use crate::server::Shared;

/// The fields that matter here.
#[derive(Debug, Deserialize)]
struct Body {
    model: Option<String>,
    messages: Vec<Message>,
    tools: Option<Value>,
    max_tokens: Option<usize>,
    max_completion_tokens: Option<usize>,
    #[serde(default)]
    stream: bool,
    stream_options: Option<StreamOptions>,
    cache_salt: Option<String>,
}

struct Chat;

pub(super) async fn serve(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    generate::serve(shared, request, Chat, parse).await
}

fn parse(body: &[u8]) -> Result<Asked, ApiError> {
    let body: Body = serde_json::from_slice(body).map_err(|error| ApiError::bad_json(&error))?;
    Ok(Asked {
        prompt: prompt::chat(body.tools.as_ref(), None, &body.messages),
        model: body.model,
        max_tokens: body.max_completion_tokens.or(body.max_tokens),
        stream: body.stream,
        include_usage: body.stream_options.unwrap_or_default().include_usage,
        cache_salt: body.cache_salt,
    })
}

/// Why the answer ends, in OpenAI's words.
pub(super) fn finish_reason(reply: &Reply) -> &'static str {
    if reply.limited { "length" } else { "stop" }
}

/// Usage in the shape of chat and completions.
pub(super) fn usage_json(usage: Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt,
        "total_tokens": usage.prompt + usage.output,
        "completion_tokens": usage.output,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
    })
}

/// Appends one server-sent event without a name.
pub(super) fn push_data(out: &mut String, value: &Value) {
    // Writing to a String cannot fail.
    let _ = write!(out, "data: {value}\n\n");
}

fn head(reply: &Reply, object: &str) -> Value {
    json!({
        "id": format!("chatcmpl-{}", reply.id),
        "object": object,
        "created": reply.created,
        "model": reply.model,
    })
}

impl Dialect for Chat {
    fn token(&self, out: &mut String, reply: &Reply, index: usize, text: &str, last: bool) {
        let delta = if index == 0 { json!({"role": "assistant", "content": text}) } else { json!({"content": text}) };
        let finish = last.then(|| finish_reason(reply));
        let mut chunk = head(reply, "chat.completion.chunk");
        chunk["choices"] = json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}]);
        push_data(out, &chunk);
    }

    fn closing(&self, out: &mut String, reply: &Reply, usage: Usage, _answer: &str) {
        if reply.include_usage {
            let mut chunk = head(reply, "chat.completion.chunk");
            chunk["choices"] = json!([]);
            chunk["usage"] = usage_json(usage);
            push_data(out, &chunk);
        }
        out.push_str("data: [DONE]\n\n");
    }

    fn whole(&self, reply: &Reply, usage: Usage, answer: &str) -> Value {
        let mut whole = head(reply, "chat.completion");
        whole["choices"] = json!([{
            "index": 0,
            "message": {"role": "assistant", "content": answer},
            "logprobs": null,
            "finish_reason": finish_reason(reply),
        }]);
        whole["usage"] = usage_json(usage);
        whole
    }
}
