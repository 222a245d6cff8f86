//! `POST /v1/messages`, Anthropic's API.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::errors::ApiError;
use super::generate::{self, Asked, Dialect, Reply, Usage};
use super::prompt::{self, Content, Message};
use super::responses::push_event;
use crate::server::Shared;

/// The fields that matter here.
#[derive(Debug, Deserialize)]
struct Body {
    model: Option<String>,
    system: Option<Content>,
    messages: Vec<Message>,
    tools: Option<Value>,
    max_tokens: Option<usize>,
    #[serde(default)]
    stream: bool,
}

struct Messages;

pub(super) async fn serve(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    generate::serve(shared, request, Messages, parse).await
}

fn parse(body: &[u8]) -> Result<Asked, ApiError> {
    let body: Body = serde_json::from_slice(body).map_err(|error| ApiError::bad_json(&error))?;
    Ok(Asked {
        prompt: prompt::chat(body.tools.as_ref(), body.system.as_ref(), &body.messages),
        model: body.model,
        max_tokens: body.max_tokens,
        stream: body.stream,
        include_usage: true,
        cache_salt: None,
    })
}

/// Anthropic counts cached input apart from the rest.
fn usage_json(usage: Usage, output: usize) -> Value {
    json!({
        "input_tokens": usage.prompt - usage.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": output,
    })
}

fn stop_reason(reply: &Reply) -> &'static str {
    if reply.limited { "max_tokens" } else { "end_turn" }
}

fn message(reply: &Reply, content: &[Value], stop: Option<&str>, usage: &Value) -> Value {
    json!({
        "id": format!("msg_{}", reply.id),
        "type": "message",
        "role": "assistant",
        "model": reply.model,
        "content": content,
        "stop_reason": stop,
        "stop_sequence": null,
        "usage": usage,
    })
}

impl Dialect for Messages {
    fn opening(&self, out: &mut String, reply: &Reply, usage: Usage) {
        let begun = message(reply, &[], None, &usage_json(usage, 1));
        push_event(out, json!({"message": begun}), "message_start");
        let block = json!({"index": 0, "content_block": {"type": "text", "text": ""}});
        push_event(out, block, "content_block_start");
        push_event(out, json!({}), "ping");
    }

    fn token(&self, out: &mut String, _reply: &Reply, _index: usize, text: &str, _last: bool) {
        let delta = json!({"index": 0, "delta": {"type": "text_delta", "text": text}});
        push_event(out, delta, "content_block_delta");
    }

    fn closing(&self, out: &mut String, reply: &Reply, usage: Usage, _answer: &str) {
        push_event(out, json!({"index": 0}), "content_block_stop");
        let delta = json!({
            "delta": {"stop_reason": stop_reason(reply), "stop_sequence": null},
            "usage": {"output_tokens": usage.output},
        });
        push_event(out, delta, "message_delta");
        push_event(out, json!({}), "message_stop");
    }

    fn whole(&self, reply: &Reply, usage: Usage, answer: &str) -> Value {
        let content = json!({"type": "text", "text": answer});
        message(reply, &[content], Some(stop_reason(reply)), &usage_json(usage, usage.output))
    }

    fn error(&self, error: ApiError) -> ApiError {
        error.for_anthropic()
    }
}
