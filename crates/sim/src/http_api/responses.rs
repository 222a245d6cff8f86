//! `POST /v1/responses`, without stored state: each request brings its whole input.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::errors::ApiError;
use super::generate::{self, Asked, Dialect, Reply, Usage};
use super::prompt::{self, Content, Message};
use crate::server::Shared;

/// The fields that matter here.
#[derive(Debug, Deserialize)]
struct Body {
    model: Option<String>,
    input: Input,
    instructions: Option<Content>,
    tools: Option<Value>,
    max_output_tokens: Option<usize>,
    #[serde(default)]
    stream: bool,
    cache_salt: Option<String>,
}

/// What the model is to answer.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Input {
    Text(String),
    Items(Vec<Message>),
}

struct Responses;

pub(super) async fn serve(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    generate::serve(shared, request, Responses, parse).await
}

fn parse(body: &[u8]) -> Result<Asked, ApiError> {
    let body: Body = serde_json::from_slice(body).map_err(|error| ApiError::bad_json(&error))?;
    let messages = match body.input {
        Input::Text(text) => vec![Message::user(text)],
        Input::Items(items) => items,
    };
    Ok(Asked {
        prompt: prompt::chat(body.tools.as_ref(), body.instructions.as_ref(), &messages),
        model: body.model,
        max_tokens: body.max_output_tokens,
        stream: body.stream,
        include_usage: true,
        cache_salt: body.cache_salt,
    })
}

/// Appends one named server-sent event.
pub(super) fn push_event(out: &mut String, mut value: Value, name: &str) {
    value["type"] = json!(name);
    // Writing to a String cannot fail.
    let _ = write!(out, "event: {name}\ndata: {value}\n\n");
}

fn response(reply: &Reply, status: &str, output: &[Value], usage: Option<Usage>) -> Value {
    json!({
        "id": format!("resp_{}", reply.id),
        "object": "response",
        "created_at": reply.created,
        "status": status,
        "model": reply.model,
        "error": null,
        "incomplete_details": (status == "incomplete").then(|| json!({"reason": "max_output_tokens"})),
        "output": output,
        "usage": usage.map(|usage| json!({
            "input_tokens": usage.prompt,
            "input_tokens_details": {"cached_tokens": usage.cached},
            "output_tokens": usage.output,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.prompt + usage.output,
        })),
    })
}

fn part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": []})
}

fn item(reply: &Reply, status: &str, content: &[Value]) -> Value {
    json!({
        "id": format!("msg_{}", reply.id),
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": content,
    })
}

fn end(reply: &Reply) -> &'static str {
    if reply.limited { "incomplete" } else { "completed" }
}

impl Dialect for Responses {
    fn opening(&self, out: &mut String, reply: &Reply, _usage: Usage) {
        let begun = response(reply, "in_progress", &[], None);
        push_event(out, json!({"sequence_number": 0, "response": begun}), "response.created");
        push_event(out, json!({"sequence_number": 1, "response": begun}), "response.in_progress");
        let added = json!({"sequence_number": 2, "output_index": 0, "item": item(reply, "in_progress", &[])});
        push_event(out, added, "response.output_item.added");
        let added = json!({"sequence_number": 3, "output_index": 0, "content_index": 0, "part": part("")});
        push_event(out, added, "response.content_part.added");
    }

    fn token(&self, out: &mut String, reply: &Reply, index: usize, text: &str, _last: bool) {
        let delta = json!({
            "sequence_number": index + 4,
            "item_id": format!("msg_{}", reply.id),
            "output_index": 0,
            "content_index": 0,
            "delta": text,
        });
        push_event(out, delta, "response.output_text.delta");
    }

    fn closing(&self, out: &mut String, reply: &Reply, usage: Usage, answer: &str) {
        let (number, place) = (usage.output + 4, json!({"output_index": 0, "content_index": 0}));
        let mut done = place.clone();
        (done["sequence_number"], done["text"]) = (json!(number), json!(answer));
        push_event(out, done, "response.output_text.done");
        let mut done = place;
        (done["sequence_number"], done["part"]) = (json!(number + 1), part(answer));
        push_event(out, done, "response.content_part.done");
        let message = item(reply, end(reply), &[part(answer)]);
        let done = json!({"sequence_number": number + 2, "output_index": 0, "item": message});
        push_event(out, done, "response.output_item.done");
        let whole = response(reply, end(reply), &[message], Some(usage));
        let name = if reply.limited { "response.incomplete" } else { "response.completed" };
        push_event(out, json!({"sequence_number": number + 3, "response": whole}), name);
    }

    fn whole(&self, reply: &Reply, usage: Usage, answer: &str) -> Value {
        response(reply, end(reply), &[item(reply, end(reply), &[part(answer)])], Some(usage))
    }
}
