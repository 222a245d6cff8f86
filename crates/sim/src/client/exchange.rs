//! One request and its answer, token by token.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde::Deserialize;
use tokio::time::Instant;

use super::report::{ErrorKind, Sample};
use super::{Load, micros};

/// Most bytes of an answer, and of one line of a stream, that are kept.
const MAX_ANSWER: usize = 64 << 20;
const MAX_LINE: usize = 1 << 20;

/// What a chunk or an answer says that is of interest here.
#[derive(Debug, Deserialize)]
struct Piece {
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<Usage>,
}

#[derive(Debug, Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Option<Said>,
    #[serde(default)]
    message: Option<Said>,
}

#[derive(Debug, Deserialize)]
struct Said {
    #[serde(default)]
    content: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Usage {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
    #[serde(default)]
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Debug, Deserialize)]
struct PromptDetails {
    #[serde(default)]
    cached_tokens: u64,
}

/// A stream being read.
#[derive(Debug)]
struct Reader {
    sent: Instant,
    /// When the first and the latest piece of text came.
    first: Option<Instant>,
    last: Instant,
    /// Pieces of text so far.
    pieces: u64,
    /// The line that is not yet complete.
    line: Vec<u8>,
    /// Whether `[DONE]` came.
    done: bool,
}

/// Sends the body and fills the sample in as the answer comes.
pub(super) async fn exchange(load: &Load, body: Bytes, sample: &mut Sample) -> Result<(), ErrorKind> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = load.uri.clone();
    *request.headers_mut() = load.headers.clone();
    request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let sent = Instant::now();
    let response = load.client.request(request).await.map_err(|error| {
        tracing::debug!(error = &error as &dyn std::error::Error, "a request was not answered");
        if error.is_connect() { ErrorKind::Connect } else { ErrorKind::Reset }
    })?;
    sample.status = response.status().as_u16();
    let server = response.headers().get("x-sim-server").and_then(|name| name.to_str().ok());
    sample.server = server.map(str::to_owned);
    let streamed = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
    let ok = response.status().is_success();
    let mut reader = Reader { sent, first: None, last: sent, pieces: 0, line: Vec::new(), done: false };
    let ended = reader.read(load, response.into_body(), streamed && ok, sample).await;
    reader.measure(sample);
    if !ok {
        return Err(ErrorKind::Status);
    }
    ended?;
    if streamed && !reader.done {
        return Err(ErrorKind::Truncated);
    }
    Ok(())
}

impl Reader {
    async fn read(
        &mut self,
        load: &Load,
        mut body: Incoming,
        streamed: bool,
        sample: &mut Sample,
    ) -> Result<(), ErrorKind> {
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| ErrorKind::Truncated)?.into_data() else { continue };
            sample.bytes += data.len() as u64;
            let before = self.pieces;
            if streamed {
                self.feed(&data, Instant::now(), sample)?;
            } else if self.line.len() + data.len() <= MAX_ANSWER {
                self.line.extend_from_slice(&data);
            } else {
                return Err(ErrorKind::Malformed);
            }
            load.progress.tokens.fetch_add(self.pieces - before, Ordering::Relaxed);
        }
        if !streamed && (200..300).contains(&sample.status) {
            let answer = std::mem::take(&mut self.line);
            self.take(&answer, Instant::now(), sample)?;
            load.progress.tokens.fetch_add(sample.output_tokens, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Reads whole lines out of a stream, however it is cut into frames.
    fn feed(&mut self, mut data: &[u8], now: Instant, sample: &mut Sample) -> Result<(), ErrorKind> {
        while let Some(end) = data.iter().position(|&byte| byte == b'\n') {
            let (head, rest) = data.split_at(end);
            data = &rest[1..];
            if self.line.is_empty() {
                self.take_line(head, now, sample)?;
            } else {
                self.line.extend_from_slice(head);
                let line = std::mem::take(&mut self.line);
                self.take_line(&line, now, sample)?;
            }
        }
        if self.line.len() + data.len() > MAX_LINE {
            return Err(ErrorKind::Malformed);
        }
        self.line.extend_from_slice(data);
        Ok(())
    }

    fn take_line(&mut self, line: &[u8], now: Instant, sample: &mut Sample) -> Result<(), ErrorKind> {
        match line.strip_prefix(b"data:").map(<[u8]>::trim_ascii) {
            None => Ok(()),
            Some(b"[DONE]") => {
                self.done = true;
                Ok(())
            }
            Some(data) => self.take(data, now, sample),
        }
    }

    fn take(&mut self, json: &[u8], now: Instant, sample: &mut Sample) -> Result<(), ErrorKind> {
        let piece: Piece = serde_json::from_slice(json).map_err(|_| ErrorKind::Malformed)?;
        let said = piece.choices.iter().filter_map(|choice| choice.delta.as_ref().or(choice.message.as_ref()));
        if said.filter_map(|said| said.content.as_deref()).any(|content| !content.is_empty()) {
            self.first.get_or_insert(now);
            self.last = now;
            self.pieces += 1;
        }
        if let Some(usage) = piece.usage {
            sample.prompt_tokens = usage.prompt_tokens;
            sample.output_tokens = usage.completion_tokens;
            sample.cached_tokens = usage.prompt_tokens_details.map_or(0, |details| details.cached_tokens);
        }
        Ok(())
    }

    /// Writes the times into the sample; a stream that told no usage counts its pieces as tokens.
    fn measure(&self, sample: &mut Sample) {
        let Some(first) = self.first else { return };
        sample.ttft_us = Some(micros(first - self.sent));
        if self.pieces > 1 {
            sample.tpot_us = Some(micros(self.last - first) / (self.pieces - 1));
        }
        if sample.output_tokens == 0 {
            sample.output_tokens = self.pieces;
        }
    }
}
