//! One stream of the gateway as a state machine: messages in, answers out, no I/O and no clock.
//!
//! **Invariants.**
//! - It never ends well before the gateway has its answer, nor before every received chunk went back and the end of the
//!   stream was seen: Envoy reads a clean end as "go on without me", and a clean end in mid-response truncates a 200.
//! - Whatever way it ends, the picked endpoint's load is given back exactly once, because the flight is owned here.
//! - What is sent out as destination is an address of the snapshot that the decision read.

mod request;
mod response;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pointsman_core::facts::Subset;
use pointsman_core::pool::{Flight, Pool};
use pointsman_core::reason::Reason;
use pointsman_core::time::Tick;
use prost::Message;

use crate::metrics::{Metrics, ModelMetrics, Outcome};
use crate::pb::{BodySendMode, Metadata, ProcessingRequest, ProcessingResponse, ProtocolConfiguration, Request};
use crate::refusal::Refusal;
use crate::settings::{BufferBudget, Limits, PoolDirectory, RequestIds, Reservation, Trust};
use request::RequestSide;
use response::ResponseSide;

/// What all exchanges of a process share.
#[derive(Debug)]
pub struct Shared {
    /// Bounds.
    pub limits: Limits,
    /// What clients are believed.
    pub trust: Trust,
    /// The pools that may be asked for.
    pub pools: Arc<PoolDirectory>,
    /// What is counted.
    pub metrics: Metrics,
    /// Bytes held by all.
    pub budget: Arc<BufferBudget>,
    ids: RequestIds,
}

impl Shared {
    /// What the exchanges of a process share; `seed` makes the ids of its requests differ from other replicas'.
    pub fn new(limits: Limits, trust: Trust, pools: Arc<PoolDirectory>, metrics: Metrics, seed: u64) -> Self {
        Self { limits, trust, pools, metrics, budget: Arc::default(), ids: RequestIds::new(seed) }
    }
}

/// What the gateway said when it opened the stream, in the call's initial metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opening {
    /// The pool that it asks for, `x-pointsman-pool`.
    pub pool: Option<String>,
    /// The name by which it found the picker; asked where it names no pool.
    pub authority: Option<http::uri::Authority>,
    /// Whether it can use a list of destinations, `x-pointsman-destinations: list`.
    pub takes_list: bool,
}

/// How the stream is to end, when it is.
#[derive(Debug)]
pub enum End {
    /// Well: everything that came was answered.
    Ok,
    /// With an error, which the gateway reads as the picker's failure.
    Error(tonic::Status),
}

/// One stream.
#[derive(Debug)]
pub struct Exchange {
    shared: Arc<Shared>,
    opening: Opening,
    pool: Option<Arc<Pool>>,
    request_id: Arc<str>,
    /// The objective that the request names, where it is trusted to.
    objective: Option<Arc<str>>,
    is_grpc: bool,
    modes: Modes,
    subset: Subset,
    began: Tick,
    heard: Tick,
    request: RequestSide,
    response: ResponseSide,
    held: Reservation,
    flight: Option<Flight>,
    model: Option<Arc<ModelMetrics>>,
    answers: VecDeque<ProcessingResponse>,
    end: Option<End>,
}

/// How bodies are sent, as the stream's first message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Modes {
    request: BodySendMode,
    response: BodySendMode,
    /// In `STREAMED`: the gateway sends the body while its headers are still unanswered.
    eager: bool,
}

impl Modes {
    /// A gateway that says nothing (Envoy before 1.33) is taken to wait for every answer: picking by headers is then
    /// the one thing that cannot hang.
    fn of(config: Option<&ProtocolConfiguration>) -> Self {
        let silent = Self { request: BodySendMode::None, response: BodySendMode::Streamed, eager: false };
        config.map_or(silent, |config| Self {
            request: config.request_body_mode(),
            response: config.response_body_mode(),
            eager: config.send_body_without_waiting_for_header_response,
        })
    }

    /// Whether the gateway keeps a request's body until it has all of it, or its buffer is full.
    fn buffer_requests(self) -> bool {
        matches!(self.request, BodySendMode::Buffered | BodySendMode::BufferedPartial)
    }
}

/// What a silent gateway is waited for.
enum Awaited {
    Request,
    Response,
    /// That it closes a stream whose response is whole.
    Close,
}

impl Exchange {
    /// A stream that was just opened.
    pub fn new(shared: Arc<Shared>, opening: Opening, now: Tick) -> Self {
        let held = Reservation::new(&shared.budget);
        Self {
            shared,
            opening,
            pool: None,
            request_id: Arc::default(),
            objective: None,
            is_grpc: false,
            modes: Modes::of(None),
            subset: None,
            began: now,
            heard: now,
            request: RequestSide::Expected,
            response: ResponseSide::Expected,
            held,
            flight: None,
            model: None,
            answers: VecDeque::new(),
            end: None,
        }
    }

    /// Takes in the gateway's next message.
    pub fn on(&mut self, message: ProcessingRequest, now: Tick) {
        if self.end.is_some() {
            return;
        }
        self.heard = now;
        let ProcessingRequest { request, metadata_context, protocol_config, .. } = message;
        if matches!(self.request, RequestSide::Expected) {
            self.modes = Modes::of(protocol_config.as_ref());
        }
        match request {
            Some(Request::RequestHeaders(headers)) => {
                if let Some(metadata) = self.read_metadata(metadata_context) {
                    self.request_headers(headers, &metadata, now);
                }
            }
            Some(Request::RequestBody(body)) => self.request_body(body, now),
            Some(Request::RequestTrailers(_)) => self.request_trailers(now),
            Some(Request::ResponseHeaders(headers)) => {
                if let Some(metadata) = self.read_metadata(metadata_context) {
                    self.response_headers(&headers, &metadata, now);
                }
            }
            Some(Request::ResponseBody(body)) => self.response_body(body, now),
            Some(Request::ResponseTrailers(_)) => self.response_trailers(now),
            // A kind of message newer than this picker: there is nothing to answer it with.
            None => {}
        }
    }

    /// The metadata of a message with headers; what is none breaks the protocol.
    fn read_metadata(&mut self, encoded: Bytes) -> Option<Metadata> {
        let metadata = Metadata::decode(encoded).ok();
        if metadata.is_none() {
            self.protocol_error("the metadata context is no metadata");
        }
        metadata
    }

    /// The next answer that is ready to be sent.
    pub fn next_answer(&mut self) -> Option<ProcessingResponse> {
        let answer = self.answers.pop_front();
        // What was held is given back once it is sent: until the gateway takes it, it lies here.
        if self.answers.is_empty() && !matches!(self.request, RequestSide::Held(_) | RequestSide::Buffered(_)) {
            self.held.release();
        }
        answer
    }

    /// How the stream ends, once all answers are sent; `None` while it goes on.
    pub fn take_end(&mut self) -> Option<End> {
        if self.answers.is_empty() { self.end.take() } else { None }
    }

    /// When the stream will have stood still for too long; `None` where nothing more is expected to come.
    pub fn deadline(&self) -> Option<Tick> {
        self.patience().map(|(_, idle)| self.heard + idle)
    }

    /// What is waited for, and for how long.
    fn patience(&self) -> Option<(Awaited, Duration)> {
        let Limits { request_idle, response_idle, .. } = self.shared.limits;
        // A gateway that buffers a body shows nothing of it until it is whole, however steadily it comes.
        let body_idle = if self.modes.buffer_requests() { response_idle } else { request_idle };
        match (&self.request, &self.response) {
            (_, ResponseSide::Done) => Some((Awaited::Close, response_idle)),
            (_, response) if response.is_whole() => None,
            (_, ResponseSide::Streaming(_)) => Some((Awaited::Response, response_idle)),
            (RequestSide::Expected | RequestSide::Held(_), _) => Some((Awaited::Request, request_idle)),
            (RequestSide::Buffered(_), _) => Some((Awaited::Request, body_idle)),
            (RequestSide::Passing(passing), _) if passing.awaits_body() => Some((Awaited::Request, body_idle)),
            _ => Some((Awaited::Response, response_idle)),
        }
    }

    /// The deadline came, and nothing else.
    pub fn on_deadline(&mut self) {
        let Some((awaited, idle)) = self.patience() else { return };
        if self.is_settled() {
            self.end.get_or_insert(End::Ok);
            return;
        }
        let (reason, awaited) = match awaited {
            Awaited::Request | Awaited::Close => (Reason::RequestTimeout, "request"),
            Awaited::Response => (Reason::ResponseTimeout, "response"),
        };
        let message = format!("nothing of the {awaited} came for {} s", idle.as_secs());
        self.refuse(Refusal { reason, message });
    }

    /// Whether all that came was answered, and nothing more is owed to the gateway.
    fn is_settled(&self) -> bool {
        let request_is_whole = match &self.request {
            RequestSide::Passing(passing) => !passing.awaits_body(),
            RequestSide::Refused => true,
            _ => false,
        };
        request_is_whole && self.response.is_whole()
    }

    /// The process goes away and waits no longer.
    pub fn on_shutdown(&mut self) {
        if self.is_settled() {
            self.end.get_or_insert(End::Ok);
        } else {
            self.refuse(Refusal::new(Reason::ShuttingDown));
        }
    }

    /// The gateway closed its side of the stream. That is a good end only when everything is answered.
    pub fn on_closed(&mut self) {
        if self.end.is_some() {
            return;
        }
        let is_whole = matches!(self.request, RequestSide::Expected) || self.response.is_whole();
        self.end = Some(if is_whole {
            End::Ok
        } else {
            End::Error(tonic::Status::cancelled("the gateway closed the stream before the response was whole"))
        });
    }

    /// The gateway's side of the stream broke: its connection went away, or what came was no message that can be read.
    /// That is no good end even before the first message: what could not be read may have been one.
    pub fn on_broken(&mut self, status: &tonic::Status) {
        if self.end.is_some() {
            return;
        }
        tracing::debug!(request_id = %self.request_id, %status, "the gateway's stream broke");
        self.end = Some(if self.response.is_whole() {
            End::Ok
        } else {
            End::Error(tonic::Status::aborted(format!("the gateway's stream broke: {}", status.message())))
        });
    }

    /// A panic was caught while a message was taken in: that request fails, the process lives.
    pub fn on_panic(&mut self) {
        self.shared.metrics.panics.inc();
        // An end whose answer is thrown away here would be one without an answer.
        self.answers.clear();
        self.end = None;
        self.refuse(Refusal::new(Reason::Internal));
    }

    /// Answers with a refusal while that is still possible, else ends the stream with an error.
    fn refuse(&mut self, refusal: Refusal) {
        if self.end.is_some() {
            return;
        }
        self.shared.metrics.refused(refusal.reason);
        if matches!(refusal.reason, Reason::Internal | Reason::PoolUnknown) {
            tracing::warn!(request_id = %self.request_id, %refusal.reason, refusal.message, "a request was refused");
        } else {
            tracing::debug!(request_id = %self.request_id, %refusal.reason, refusal.message, "a request was refused");
        }
        let outcome = match refusal.reason {
            Reason::ResponseTimeout => Outcome::ServerError,
            _ => Outcome::Aborted,
        };
        self.end = Some(match self.response {
            ResponseSide::Expected if !matches!(self.request, RequestSide::Expected) => {
                self.answers.push_back(refusal.answer(&self.request_id, self.is_grpc));
                End::Ok
            }
            _ => End::Error(refusal.error()),
        });
        self.request = RequestSide::Refused;
        self.held.release();
        self.finish(outcome);
    }

    /// A message that the protocol does not allow here.
    fn protocol_error(&mut self, what: &'static str) {
        self.shared.metrics.refused(Reason::Internal);
        tracing::warn!(request_id = %self.request_id, what, "the gateway broke the protocol");
        self.end = Some(End::Error(tonic::Status::invalid_argument(what)));
        self.finish(Outcome::Aborted);
    }

    /// Counts the outcome of a picked request, once, and lands its flight.
    fn finish(&mut self, outcome: Outcome) {
        let Some(flight) = self.flight.take() else { return };
        if let Some(model) = self.model.take() {
            model.outcome(outcome);
        }
        let failed = matches!(outcome, Outcome::ServerError | Outcome::Disconnected);
        response::tally(flight.cell(), &self.response, failed);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let outcome = match &self.response {
            ResponseSide::Streaming(streaming) if self.response.is_whole() => streaming.outcome(),
            _ => Outcome::Disconnected,
        };
        self.finish(outcome);
    }
}
