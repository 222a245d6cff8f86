//! The response's half of an exchange: who served, what it cost, how long it took.

use std::sync::atomic::Ordering;

use pointsman_core::endpoint::EndpointCell;
use pointsman_core::time::Tick;

use super::{Exchange, RequestSide};
use crate::answer::{self, Way};
use crate::head::{self, ResponseHead};
use crate::metrics::Outcome;
use crate::pb::{BodySendMode, HttpBody, HttpHeaders, Metadata};
use crate::usage::{ResponseKind, ResponseReader, Usage};

/// Where the response stands.
#[derive(Debug)]
pub(super) enum ResponseSide {
    /// No headers yet.
    Expected,
    /// Its body streams by.
    Streaming(Box<Streaming>),
    /// All of it was answered.
    Done,
}

/// A response whose headers came.
#[derive(Debug)]
pub(super) struct Streaming {
    status: u16,
    reader: ResponseReader,
    is_event_stream: bool,
    /// Whether more of the body will be shown: not in mode `NONE`, nor past what a gateway's buffer held.
    is_watched: bool,
    /// When the newest output came.
    output_at: Option<Tick>,
    /// Outputs since the endpoint's time between tokens was last told, and when that was.
    pace: (u64, Tick),
}

/// Outputs after which an endpoint's time between tokens is told: at the response's end would be late for slow servers.
const PACE_WINDOW: u64 = 16;

impl ResponseSide {
    /// Whether all of it that the gateway shows was answered.
    pub(super) fn is_whole(&self) -> bool {
        match self {
            Self::Expected => false,
            Self::Streaming(streaming) => !streaming.is_watched,
            Self::Done => true,
        }
    }
}

impl Streaming {
    /// How it came out, taken by its status.
    pub(super) fn outcome(&self) -> Outcome {
        match self.status {
            500.. => Outcome::ServerError,
            400.. => Outcome::ClientError,
            _ => Outcome::Ok,
        }
    }
}

/// Adds a finished request to its endpoint's totals.
pub(super) fn tally(cell: &EndpointCell, response: &ResponseSide, failed: bool) {
    let tally = cell.tally();
    if failed {
        tally.failed.fetch_add(1, Ordering::Relaxed);
    }
    if let ResponseSide::Streaming(streaming) = response {
        let Usage { prompt_tokens, output_tokens, cached_tokens } = streaming.reader.usage();
        tally.answered.fetch_add(1, Ordering::Relaxed);
        tally.prompt_tokens.fetch_add(prompt_tokens.unwrap_or(0), Ordering::Relaxed);
        tally.output_tokens.fetch_add(output_tokens.unwrap_or(0), Ordering::Relaxed);
        tally.cached_tokens.fetch_add(cached_tokens.unwrap_or(0), Ordering::Relaxed);
    }
}

impl Exchange {
    pub(super) fn response_headers(&mut self, headers: &HttpHeaders, metadata: &Metadata, now: Tick) {
        if matches!(self.request, RequestSide::Expected) {
            return self.protocol_error("a response came before its request");
        }
        if !matches!(self.response, ResponseSide::Expected) {
            return self.protocol_error("response headers came twice");
        }
        if matches!(self.request, RequestSide::Held(_) | RequestSide::Buffered(_)) {
            // The gateway answers by itself (a limit of its own, another filter): the request goes nowhere any more.
            self.request = RequestSide::Refused;
            self.held.release();
        }
        let head = ResponseHead::read(headers.headers.as_ref());
        if let Some(flight) = &mut self.flight {
            if let Some(address) = head::served(metadata) {
                flight.served_by(address);
            }
            flight.response_began();
        }
        let kind = ResponseKind::of(head.content_type, head.content_encoding);
        let is_event_stream = kind == ResponseKind::EventStream;
        let is_watched = self.modes.response != BodySendMode::None;
        if let Some(flight) = self.flight.as_mut().filter(|_| !is_event_stream || !is_watched) {
            flight.tokens_unseen();
        }
        self.response = ResponseSide::Streaming(Box::new(Streaming {
            status: head.status,
            reader: ResponseReader::new(kind),
            is_event_stream,
            is_watched,
            output_at: None,
            pace: (0, now),
        }));
        self.answers.push_back(answer::response_headers());
        if headers.end_of_stream {
            self.response_ended(now);
        }
    }

    pub(super) fn response_body(&mut self, body: HttpBody, now: Tick) {
        let mut ends = body.end_of_stream || body.end_of_stream_without_message;
        match &mut self.response {
            ResponseSide::Expected => return self.protocol_error("a response's body came before its headers"),
            ResponseSide::Done => {
                self.shared.metrics.repeated_ends.inc();
                return;
            }
            ResponseSide::Streaming(streaming) => {
                let seen = streaming.reader.feed(&body.body);
                let output = if streaming.is_event_stream { seen.output } else { u64::from(!body.body.is_empty()) };
                if output > 0 {
                    self.output_came(output, now);
                }
            }
        }
        match self.modes.response {
            BodySendMode::FullDuplexStreamed => {
                answer::pieces(Way::Response, body.body, ends, |piece| self.answers.push_back(piece));
            }
            mode => {
                self.answers.push_back(answer::response_body());
                // One message holds all that is shown of a buffered body; trailers, which say the end in its place, may
                // not be shown at all.
                ends |= mode == BodySendMode::Buffered;
                if mode == BodySendMode::BufferedPartial
                    && let ResponseSide::Streaming(streaming) = &mut self.response
                {
                    streaming.is_watched = false;
                }
            }
        }
        if ends {
            self.response_ended(now);
        }
    }

    /// So many pieces of output came at once: tokens, as far as the server sends each by itself.
    fn output_came(&mut self, output: u64, now: Tick) {
        let (ResponseSide::Streaming(streaming), Some(model)) = (&mut self.response, &self.model) else { return };
        let Some(before) = streaming.output_at.replace(now) else {
            streaming.pace = (0, now);
            model.ttft.observe(now.since(self.began).as_secs_f64());
            if let Some(flight) = self.flight.as_mut().filter(|_| streaming.is_event_stream) {
                flight.first_token(now);
            }
            return;
        };
        if !streaming.is_event_stream {
            return;
        }
        model.inter_token.observe(now.since(before).as_secs_f64() / output as f64);
        let (outputs, since) = &mut streaming.pace;
        *outputs += output;
        if *outputs >= PACE_WINDOW {
            if let Some(flight) = &self.flight {
                let count = u32::try_from(*outputs).unwrap_or(u32::MAX);
                flight.cell().observe_tpot(now.since(*since) / count);
            }
            streaming.pace = (0, now);
        }
    }

    pub(super) fn response_trailers(&mut self, now: Tick) {
        match self.response {
            ResponseSide::Expected => self.protocol_error("a response's trailers came before its headers"),
            ResponseSide::Streaming(_) => {
                self.answers.push_back(answer::response_trailers());
                self.response_ended(now);
            }
            ResponseSide::Done => self.answers.push_back(answer::response_trailers()),
        }
    }

    /// The whole response was answered: counts what it cost.
    fn response_ended(&mut self, now: Tick) {
        if let ResponseSide::Streaming(streaming) = &mut self.response {
            streaming.reader.finish();
            let outcome = streaming.outcome();
            if let Some(model) = &self.model {
                let usage = streaming.reader.usage();
                model.duration.observe(now.since(self.began).as_secs_f64());
                model.prompt_tokens.inc_by(usage.prompt_tokens.unwrap_or(0));
                model.cached_tokens.inc_by(usage.cached_tokens.unwrap_or(0));
                model.output_tokens.inc_by(usage.output_tokens.unwrap_or(0));
            }
            self.finish(outcome);
        }
        self.response = ResponseSide::Done;
    }
}
