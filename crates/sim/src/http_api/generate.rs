//! One generation: the request goes into the engine, its tokens come out in the dialect that was asked for.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use http::{HeaderValue, header};
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::errors::ApiError;
use super::{attest, read_body};
use crate::engine::{EngineRequest, EventKind};
use crate::server::{Shared, Ticket};
use crate::tokenizer::{self, BYTES_PER_TOKEN};

/// What a dialect read out of a request.
#[derive(Debug)]
pub(super) struct Asked {
    /// The model's name; absent for the first one that the server has.
    pub(super) model: Option<String>,
    pub(super) prompt: String,
    /// The client's limit; absent for the server's default.
    pub(super) max_tokens: Option<usize>,
    pub(super) stream: bool,
    /// Whether a stream ends with usage, where the dialect leaves the choice.
    pub(super) include_usage: bool,
    /// Separates caches of clients that must not share.
    pub(super) cache_salt: Option<String>,
}

/// What every chunk and answer of one request says.
#[derive(Debug)]
pub(super) struct Reply {
    /// Unique in the server, without the dialect's prefix.
    pub(super) id: String,
    pub(super) model: String,
    /// Unix time in seconds.
    pub(super) created: u64,
    pub(super) include_usage: bool,
    /// Whether the answer ends because of the client's limit, rather than by itself.
    pub(super) limited: bool,
}

/// Tokens of one request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Usage {
    pub(super) prompt: usize,
    pub(super) cached: usize,
    pub(super) output: usize,
}

/// How one API writes a generation.
pub(super) trait Dialect: Send + Sync + 'static {
    /// What a stream says before its first token.
    fn opening(&self, _out: &mut String, _reply: &Reply, _usage: Usage) {}
    /// One token; `text` needs no escaping.
    fn token(&self, out: &mut String, reply: &Reply, index: usize, text: &str, last: bool);
    /// What a stream says after its last token.
    fn closing(&self, out: &mut String, reply: &Reply, usage: Usage, answer: &str);
    /// The answer in one piece.
    fn whole(&self, reply: &Reply, usage: Usage, answer: &str) -> Value;
    /// An error in this dialect's shape.
    fn error(&self, error: ApiError) -> ApiError {
        error
    }
}

/// A generation under way.
struct Generation<D> {
    dialect: D,
    reply: Reply,
    ticket: Ticket,
    usage: Usage,
    answer: String,
    /// Tokens after which the connection is cut.
    stop_after: Option<usize>,
    sent: usize,
}

/// Serves one request of a dialect from its body's bytes to its last token.
pub(super) async fn serve<D: Dialect>(
    shared: Arc<Shared>,
    request: Request,
    dialect: D,
    parse: fn(&[u8]) -> Result<Asked, ApiError>,
) -> Response {
    let body = match read_body(request.into_body()).await {
        Ok(body) => body,
        Err(error) => return dialect.error(error).into_response(),
    };
    let mut response = match begin(&shared, parse(&body)).await {
        Ok((asked, begun)) => answer(&shared, asked, begun, dialect).await,
        Err(error) => dialect.error(error).into_response(),
    };
    attest(&mut response, &body);
    response
}

/// A request in the engine and the answer that it will have.
struct Begun {
    model: String,
    ticket: Ticket,
    prompt_tokens: usize,
    output_tokens: usize,
    answer: String,
}

async fn begin(shared: &Shared, asked: Result<Asked, ApiError>) -> Result<(Asked, Begun), ApiError> {
    let asked = asked?;
    if asked.max_tokens == Some(0) {
        return Err(ApiError::bad_request("invalid-value", "the limit of output tokens must be at least 1"));
    }
    let output_tokens = asked.max_tokens.unwrap_or(shared.config.default_max_tokens.max(1));
    let (model, adapter) = resolve_model(shared, asked.model.as_deref())?;
    let (ticket, prompt_tokens, answer) =
        submit(shared, &asked.prompt, output_tokens, adapter, asked.cache_salt.as_deref()).await?;
    Ok((asked, Begun { model, ticket, prompt_tokens, output_tokens, answer }))
}

/// The name to answer under and the adapter that it stands for.
pub(super) fn resolve_model(shared: &Shared, asked: Option<&str>) -> Result<(String, Option<usize>), ApiError> {
    let config = &shared.config;
    let Some(model) = asked else {
        return Ok((config.models.first().cloned().unwrap_or_else(|| "sim".to_owned()), None));
    };
    if let Some(adapter) = config.adapters.iter().position(|name| name == model) {
        return Ok((model.to_owned(), Some(adapter)));
    }
    if config.models.is_empty() || config.models.iter().any(|name| name == model) {
        return Ok((model.to_owned(), None));
    }
    Err(ApiError::unknown_model(model))
}

/// Puts a prompt into the engine; returns its tokens and the answer too.
pub(super) async fn submit(
    shared: &Shared,
    prompt: &str,
    output_tokens: usize,
    adapter: Option<usize>,
    cache_salt: Option<&str>,
) -> Result<(Ticket, usize, String), ApiError> {
    let prompt_tokens = tokenizer::tokens(prompt.len()).max(1);
    let mut request = EngineRequest { prompt_tokens, output_tokens, blocks: Vec::new(), adapter };
    let mut answer = String::new();
    // What can never fit is refused by the engine; its text is not worth making.
    if prompt_tokens.saturating_add(output_tokens) <= shared.config.engine.kv_tokens {
        answer = tokenizer::answer(prompt, output_tokens);
        let root = xxh3_64_with_seed(cache_salt.unwrap_or_default().as_bytes(), adapter.map_or(0, |a| a as u64 + 1));
        request.blocks = tokenizer::chain(root, &[prompt, answer.as_str()].concat(), shared.config.engine.block_tokens);
    }
    let ticket = shared.engine.submit(request).await?;
    Ok((ticket, prompt_tokens, answer))
}

async fn answer<D: Dialect>(shared: &Shared, asked: Asked, begun: Begun, dialect: D) -> Response {
    let number = shared.counter.fetch_add(1, Ordering::Relaxed);
    let reply = Reply {
        id: format!("{}-{number}", shared.config.name),
        model: begun.model,
        created: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        include_usage: asked.include_usage,
        limited: asked.max_tokens.is_some(),
    };
    let generation = Generation {
        dialect,
        reply,
        ticket: begun.ticket,
        usage: Usage { prompt: begun.prompt_tokens, cached: 0, output: begun.output_tokens },
        answer: begun.answer,
        stop_after: shared.faults.borrow().stop_after_tokens,
        sent: 0,
    };
    if asked.stream { generation.stream() } else { generation.whole().await }
}

impl<D: Dialect> Generation<D> {
    /// Answers at once with a stream whose chunks come as the engine makes their tokens.
    fn stream(self) -> Response {
        let chunks = stream::unfold(Some(self), |generation| async move {
            let mut generation = generation?;
            match generation.next_chunk().await {
                Ok(Some(chunk)) => Some((Ok(chunk), Some(generation))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        });
        let mut response = Response::new(Body::from_stream(chunks));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        response
    }

    /// The next piece of the stream; absent at its end, an error where the connection is to be cut.
    async fn next_chunk(&mut self) -> Result<Option<Bytes>, std::io::Error> {
        let mut out = String::new();
        while out.is_empty() {
            if self.stop_after.is_some_and(|limit| self.sent >= limit) {
                return Err(cut().await);
            }
            match self.ticket.next().await {
                Some(EventKind::Admitted { cached_tokens }) => self.usage.cached = cached_tokens,
                Some(EventKind::FirstToken) => {
                    self.dialect.opening(&mut out, &self.reply, self.usage);
                    self.push_token(&mut out, 0);
                }
                Some(EventKind::Token { index }) => self.push_token(&mut out, index),
                Some(EventKind::Finished) => {
                    self.dialect.closing(&mut out, &self.reply, self.usage, &self.answer);
                    // A dialect without a closing ends here.
                    return Ok(Some(Bytes::from(out)).filter(|chunk| !chunk.is_empty()));
                }
                None if self.ticket.is_finished() => return Ok(None),
                None => return Err(cut().await),
            }
        }
        Ok(Some(Bytes::from(out)))
    }

    fn push_token(&mut self, out: &mut String, index: usize) {
        let text = self.answer.get(index * BYTES_PER_TOKEN..(index + 1) * BYTES_PER_TOKEN).unwrap_or_default();
        self.dialect.token(out, &self.reply, index, text, index + 1 == self.usage.output);
        self.sent += 1;
    }

    /// Answers when the last token is made.
    async fn whole(mut self) -> Response {
        let mut stopped = self.stop_after == Some(0);
        while !stopped {
            match self.ticket.next().await {
                Some(EventKind::Admitted { cached_tokens }) => self.usage.cached = cached_tokens,
                Some(EventKind::FirstToken | EventKind::Token { .. }) => {
                    self.sent += 1;
                    stopped = self.stop_after.is_some_and(|limit| self.sent >= limit);
                }
                Some(EventKind::Finished) => break,
                None => return ApiError::from(crate::server::LinkError::Gone).into_response(),
            }
        }
        let text = self.dialect.whole(&self.reply, self.usage, &self.answer).to_string();
        let body = if stopped {
            let half = Bytes::from(text).slice(..self.answer.len().min(16));
            Body::from_stream(stream::iter([Ok(half)]).chain(stream::once(async { Err(cut().await) })))
        } else {
            Body::from(text)
        };
        let mut response = Response::new(body);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

/// Makes hyper cut the connection instead of ending the body; what came before is written out first.
async fn cut() -> std::io::Error {
    tokio::task::yield_now().await;
    std::io::Error::new(std::io::ErrorKind::ConnectionAborted, "the answer is cut here on purpose")
}
