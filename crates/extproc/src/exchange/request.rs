//! The request's half of an exchange: headers, body, trailers, and the decision in between.

use bytes::Bytes;
use pointsman_core::decision::Decision;
use pointsman_core::facts::{Facts, Model, RequestHeaders};
use pointsman_core::reason::Reason;
use pointsman_core::scheduler;
use pointsman_core::time::Tick;

use super::Exchange;
use crate::answer::{self, Destination, Way};
use crate::api::Api;
use crate::body_facts::{BodyReader, Unfit};
use crate::head::{self, RequestHead};
use crate::pb::{BodySendMode, HeaderMap, HttpBody, HttpHeaders, Metadata};
use crate::refusal::Refusal;
use crate::rewrite::{self, Parts, Rewrite};

/// What holding one chunk costs beside its bytes: its handle, and the frame's head, which shares its buffer. Without it
/// a body in empty or one-byte chunks would cost the budget little and the memory much.
const CHUNK_COST: usize = 64;
/// The header that tells a body's length. It is removed where the body gets another one, and never set: in the streamed
/// modes Envoy removes it by itself, but a buffered body of another length than it says Envoy answers with 500.
const CONTENT_LENGTH: &str = "content-length";

/// Where the request stands.
#[derive(Debug)]
pub(super) enum RequestSide {
    /// No headers yet.
    Expected,
    /// Its headers and what came of the body wait for the decision.
    Held(Box<Held>),
    /// Its headers were let go on; the gateway buffers the body and waits for the decision with it.
    Buffered(Box<Buffered>),
    /// It is decided and goes on.
    Passing(Passing),
    /// It was refused.
    Refused,
}

/// A request before its decision.
#[derive(Debug)]
pub(super) struct Held {
    body: CountedBody,
    /// Its headers, where the pool's rules for models ask for some.
    headers: Option<HeaderMap>,
    chunks: Vec<Bytes>,
    removed: Vec<String>,
}

/// A request whose body the gateway buffers.
#[derive(Debug)]
pub(super) struct Buffered {
    body: CountedBody,
    /// Its headers, where the pool's rules for models ask for some.
    headers: Option<HeaderMap>,
}

/// A request after its decision.
#[derive(Debug)]
pub(super) struct Passing {
    /// What is still watched for; `None` once the body ended, or where it is not read.
    body: Option<CountedBody>,
    /// Whether the end of the body, or the trailers, came.
    ended: bool,
}

impl Passing {
    /// Whether more of a body that is sent to the picker is to come.
    pub(super) fn awaits_body(&self) -> bool {
        !self.ended && self.body.is_some()
    }
}

/// A body as it is counted and read.
#[derive(Debug)]
pub(super) struct CountedBody {
    received: u64,
    limit: u64,
    /// `None` for bodies that are not JSON.
    reader: Option<Box<BodyReader>>,
}

impl CountedBody {
    /// The exchange of the model's name in it, for this model.
    fn rewrite(&self, model: Option<&Model>) -> Option<Rewrite> {
        let span = self.reader.as_ref()?.model_span()?;
        Some(Rewrite::new(span, &model?.name))
    }

    fn take_in(&mut self, chunk: &[u8], ends: bool) -> Result<(), Refusal> {
        self.received += chunk.len() as u64;
        if self.received > self.limit {
            return Err(too_large(self.limit));
        }
        let Some(reader) = &mut self.reader else { return Ok(()) };
        reader.feed(chunk)?;
        if ends { Ok(reader.finish()?) } else { Ok(()) }
    }
}

impl From<Unfit> for Refusal {
    fn from(unfit: Unfit) -> Self {
        Self { reason: unfit.reason, message: unfit.message }
    }
}

fn too_large(limit: u64) -> Refusal {
    let message = format!("the body is larger than {limit} bytes, the limit of this gateway's picker");
    Refusal { reason: Reason::BodyTooLarge, message }
}

impl Exchange {
    pub(super) fn request_headers(&mut self, headers: HttpHeaders, metadata: &Metadata, now: Tick) {
        if !matches!(self.request, RequestSide::Expected) {
            return self.protocol_error("request headers came twice");
        }
        self.began = now;
        let head = RequestHead::read(headers.headers.as_ref(), self.shared.trust);
        self.request_id = head.request_id.clone().unwrap_or_else(|| self.shared.ids.make());
        self.objective = head.objective;
        self.is_grpc = head.is_grpc;
        self.subset = head::subset(metadata);
        let limit = if head.is_tunnel { u64::MAX } else { self.shared.limits.max_body_size };
        let mut body = CountedBody { received: 0, limit, reader: None };
        let pool = match &self.opening.pool {
            Some(name) => self.shared.pools.get(name),
            None => {
                let named = self.opening.authority.as_ref();
                let named = named.and_then(|authority| self.shared.pools.by_authority(authority.as_str()));
                named.or_else(|| self.shared.pools.only())
            }
        };
        let Some(pool) = pool else {
            self.request = RequestSide::Passing(Passing { body: None, ended: true });
            return self.refuse(Refusal::new(Reason::PoolUnknown));
        };
        if head.content_length.is_some_and(|length| length > limit) {
            self.request = RequestSide::Passing(Passing { body: None, ended: true });
            return self.refuse(too_large(limit));
        }
        let is_read = head.api != Api::Opaque && !headers.end_of_stream && self.body_comes_before_the_answer();
        let mut kept = None;
        if is_read {
            let snapshot = pool.snapshot();
            body.reader = Some(Box::new(BodyReader::new(head.api, snapshot.policy.prefix_cache.layout)));
            // Rules that come while the body is still on its way see a request without headers.
            kept = headers.headers.filter(|_| snapshot.policy.models.reads_headers());
        }
        self.pool = Some(pool);
        if !is_read {
            let body = (self.modes.request != BodySendMode::None && !headers.end_of_stream).then_some(body);
            self.request = RequestSide::Passing(Passing { body, ended: headers.end_of_stream });
            if let Some((destination, _)) = self.decide(Facts::default(), None, now) {
                self.answers.push_back(answer::request_headers(Some(&destination), head.controls));
            }
            return;
        }
        if let Some(kept) = &kept
            && !self.held.grow(head::cost(kept), self.shared.limits.buffer_budget)
        {
            self.request = RequestSide::Passing(Passing { body: None, ended: true });
            return self.refuse(Refusal::new(Reason::BufferFull));
        }
        match self.modes.request {
            BodySendMode::Buffered | BodySendMode::BufferedPartial => {
                self.request = RequestSide::Buffered(Box::new(Buffered { body, headers: kept }));
                self.answers.push_back(answer::request_headers(None, head.controls));
            }
            mode => {
                let held = Held { body, headers: kept, chunks: Vec::new(), removed: head.controls };
                self.request = RequestSide::Held(Box::new(held));
                if mode == BodySendMode::Streamed {
                    self.answers.push_back(answer::more_time(self.shared.limits.request_idle));
                }
            }
        }
    }

    pub(super) fn request_body(&mut self, body: HttpBody, now: Tick) {
        let ends = body.end_of_stream || body.end_of_stream_without_message;
        match std::mem::replace(&mut self.request, RequestSide::Refused) {
            RequestSide::Expected => self.protocol_error("a request's body came before its headers"),
            RequestSide::Refused => {}
            RequestSide::Held(held) => self.hold(held, body.body, ends, now),
            RequestSide::Buffered(buffered) => self.decide_buffered(*buffered, &body.body, ends, now),
            RequestSide::Passing(passing) => self.pass(passing, body.body, ends),
        }
    }

    pub(super) fn request_trailers(&mut self, now: Tick) {
        match std::mem::replace(&mut self.request, RequestSide::Refused) {
            RequestSide::Expected => return self.protocol_error("a request's trailers came before its headers"),
            RequestSide::Refused => return,
            RequestSide::Held(mut held) => {
                if let Err(refusal) = held.body.take_in(&[], true) {
                    return self.refuse(refusal);
                }
                self.release(*held, false, now);
                if let RequestSide::Passing(passing) = &mut self.request {
                    passing.ended = true;
                }
            }
            RequestSide::Buffered(mut buffered) => {
                // A body would have come first, so there is none; and trailers cannot take a destination with them.
                let unfit = buffered.body.take_in(&[], true).err();
                return self.refuse(unfit.unwrap_or_else(|| Refusal::new(Reason::BadJson)));
            }
            RequestSide::Passing(passing) => {
                self.request = RequestSide::Passing(Passing { body: None, ended: true });
                if let Some(mut body) = passing.body
                    && !passing.ended
                    && let Err(refusal) = body.take_in(&[], true)
                {
                    return self.refuse(refusal);
                }
            }
        }
        if self.end.is_none() {
            self.answers.push_back(answer::request_trailers());
        }
    }

    /// Whether the gateway sends a body that was not there with the headers before these are answered, or buffers it.
    fn body_comes_before_the_answer(&self) -> bool {
        match self.modes.request {
            BodySendMode::FullDuplexStreamed | BodySendMode::Buffered | BodySendMode::BufferedPartial => true,
            BodySendMode::Streamed => self.modes.eager,
            BodySendMode::None | BodySendMode::Grpc => false,
        }
    }

    /// A chunk of a request that is not decided yet.
    fn hold(&mut self, mut held: Box<Held>, chunk: Bytes, ends: bool, now: Tick) {
        if !self.held.grow(CHUNK_COST + chunk.len(), self.shared.limits.buffer_budget) {
            return self.refuse(Refusal::new(Reason::BufferFull));
        }
        if let Err(refusal) = held.body.take_in(&chunk, ends) {
            return self.refuse(refusal);
        }
        held.chunks.push(chunk);
        let suffice = held.body.reader.as_ref().is_some_and(|reader| reader.facts_suffice());
        if ends || suffice {
            self.release(*held, ends, now);
        } else {
            self.request = RequestSide::Held(held);
        }
    }

    /// Decides a held request and lets it go on, headers first, then what came of its body.
    fn release(&mut self, mut held: Held, ends: bool, now: Tick) {
        let facts = held.body.reader.as_mut().map(|reader| Self::facts(reader)).unwrap_or_default();
        let Some((destination, model)) = self.decide(facts, held.headers.as_ref(), now) else { return };
        let rewrite = held.body.rewrite(model.as_ref());
        self.request = RequestSide::Passing(Passing { body: (!ends).then_some(held.body), ended: ends });
        if let Some(rewrite) = &rewrite {
            let is_copied = self.modes.request != BodySendMode::FullDuplexStreamed;
            if is_copied && !self.held.grow(rewrite.copied(&held.chunks), self.shared.limits.buffer_budget) {
                return self.refuse(Refusal::new(Reason::BufferFull));
            }
            held.removed.push(CONTENT_LENGTH.to_owned());
        }
        self.answers.push_back(answer::request_headers(Some(&destination), held.removed));
        let last = held.chunks.len().saturating_sub(1);
        let mut from = 0;
        for (at, chunk) in held.chunks.into_iter().enumerate() {
            let parts = rewrite.as_ref().and_then(|rewrite| rewrite.parts(from, &chunk));
            from += chunk.len() as u64;
            match parts {
                Some(parts) => self.return_rewritten(parts, ends && at == last),
                None => self.return_request_chunk(chunk, ends && at == last),
            }
        }
    }

    /// The buffered body, whole or as much of it as the gateway's buffer holds.
    fn decide_buffered(&mut self, mut buffered: Buffered, chunk: &Bytes, ends: bool, now: Tick) {
        let is_partial = self.modes.request == BodySendMode::BufferedPartial && !ends;
        if !self.held.grow(chunk.len(), self.shared.limits.buffer_budget) {
            return self.refuse(Refusal::new(Reason::BufferFull));
        }
        if let Err(refusal) = buffered.body.take_in(chunk, !is_partial) {
            return self.refuse(refusal);
        }
        let facts = buffered.body.reader.as_mut().map(|reader| Self::facts(reader)).unwrap_or_default();
        self.request = RequestSide::Passing(Passing { body: None, ended: true });
        let Some((destination, model)) = self.decide(facts, buffered.headers.as_ref(), now) else { return };
        let parts = buffered.body.rewrite(model.as_ref()).and_then(|rewrite| rewrite.parts(0, chunk));
        let Some(parts) = parts else {
            return self.answers.push_back(answer::request_body(Some(&destination), Vec::new(), None));
        };
        if !self.held.grow(parts.iter().map(Bytes::len).sum(), self.shared.limits.buffer_budget) {
            return self.refuse(Refusal::new(Reason::BufferFull));
        }
        let (removed, bytes) = (vec![CONTENT_LENGTH.to_owned()], rewrite::joined(&parts));
        self.answers.push_back(answer::request_body(Some(&destination), removed, Some(bytes)));
    }

    /// A chunk of a request that is decided.
    fn pass(&mut self, mut passing: Passing, chunk: Bytes, ends: bool) {
        if passing.ended {
            // Envoy 1.35 and later may deliver the last chunk of a large body twice (envoy#46237).
            self.shared.metrics.repeated_ends.inc();
            self.request = RequestSide::Passing(passing);
            return;
        }
        if let Some(body) = &mut passing.body
            && let Err(refusal) = body.take_in(&chunk, ends)
        {
            return self.refuse(refusal);
        }
        passing.ended = ends;
        self.request = RequestSide::Passing(passing);
        self.return_request_chunk(chunk, ends);
    }

    fn return_request_chunk(&mut self, chunk: Bytes, ends: bool) {
        match self.modes.request {
            BodySendMode::FullDuplexStreamed => {
                answer::pieces(Way::Request, chunk, ends, |piece| self.answers.push_back(piece));
            }
            _ => self.answers.push_back(answer::request_body(None, Vec::new(), None)),
        }
    }

    /// Returns a chunk in which the model's name was exchanged.
    fn return_rewritten(&mut self, parts: Parts, ends: bool) {
        if self.modes.request != BodySendMode::FullDuplexStreamed {
            let bytes = rewrite::joined(&parts);
            return self.answers.push_back(answer::request_body(None, Vec::new(), Some(bytes)));
        }
        let last = parts.iter().rposition(|part| !part.is_empty()).unwrap_or(0);
        for (at, part) in parts.into_iter().enumerate() {
            let ends = ends && at == last;
            if ends || !part.is_empty() {
                answer::pieces(Way::Request, part, ends, |piece| self.answers.push_back(piece));
            }
        }
    }

    fn facts(reader: &mut BodyReader) -> Facts {
        let body = reader.take_facts();
        Facts {
            model: body.model,
            prefix: body.prefix,
            prompt_tokens: body.prompt_tokens,
            max_output_tokens: body.max_output_tokens,
            stream: body.stream,
            ..Facts::default()
        }
    }

    /// Picks, counts, and says where to go, and which model to name when that is another than the asked one; refuses
    /// when there is nowhere.
    fn decide(
        &mut self,
        mut facts: Facts,
        headers: Option<&HeaderMap>,
        now: Tick,
    ) -> Option<(Destination, Option<Model>)> {
        let pool = self.pool.clone()?;
        facts.request_id = self.request_id.clone();
        facts.objective = self.objective.clone();
        let headers = headers.map(|headers| headers as &dyn RequestHeaders);
        let began = std::time::Instant::now();
        let decision = pool.pick(scheduler::Request { facts: &facts, subset: &self.subset, headers }, now);
        self.shared.metrics.decision.observe(began.elapsed().as_secs_f64());
        match decision {
            Decision::Nothing(reason) => {
                self.refuse(Refusal::new(reason));
                None
            }
            Decision::Picked(picked) => {
                let destination = Destination::of(&picked, self.opening.takes_list);
                let model = self.shared.metrics.model(pool.name(), facts.model.as_ref().map(|model| &model.name));
                model.matchable_tokens.inc_by(facts.prefix.last().map_or(0, |block| u64::from(block.tokens)));
                model.matched_tokens.inc_by(u64::from(picked.matched_tokens));
                self.model = Some(model);
                self.flight = Some(picked.flight);
                Some((destination, picked.model))
            }
        }
    }
}
