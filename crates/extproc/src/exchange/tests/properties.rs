//! Whatever the gateway does and whenever it stops: never a good end without an answer, never a byte lost, nothing
//! left behind.

use futures::StreamExt;
use futures::channel::mpsc;
use pointsman_core::facts::Model;
use pointsman_core::models::{ModelMatch, ModelRule, ModelRules, ModelTarget};
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use super::super::BodySendMode::{Buffered, BufferedPartial, FullDuplexStreamed, None as NoBody, Streamed};
use super::super::*;
use super::fixture::*;
use crate::service::{Conversation, PickerService};

/// The model that serves in the place of `m`, where one does.
const TARGET: &str = "m-2";

/// What a request brings.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Brings {
    /// Headers alone.
    Nothing,
    /// A chat with the model ahead of a prompt of this length.
    Chat(usize),
    /// Bytes that are not read.
    Opaque(usize),
    NotJson,
    /// A body that is announced and has no bytes.
    Empty,
    NoModel,
    /// A second model after a prompt of this length.
    DoubledModel(usize),
    /// A model at which the scorer panics.
    Poison,
}

/// How the stream ends, when its gateway has said so many of its messages.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Exit {
    /// It closes its side.
    Close,
    /// Its connection breaks.
    Break,
    /// It says no more.
    Silence,
    /// The process shuts down.
    Shutdown,
    /// It sends headers once more.
    SecondHeaders,
    /// It drops the stream.
    Drop,
}

#[derive(Clone, Debug)]
struct Script {
    request_mode: (BodySendMode, bool),
    response_mode: BodySendMode,
    says_modes: bool,
    brings: Brings,
    cut: usize,
    empty_last: bool,
    request_trailers: bool,
    response: Option<(usize, bool)>,
    response_trailers: bool,
    /// The response comes while the request is still on its way.
    overlaps: bool,
    endpoints: usize,
    /// Whether the pool's rules have `m` served by another model.
    rewrites: bool,
    buffer_budget: usize,
    exit: (usize, Exit),
}

/// Bodies are cut short by the cap in some scripts.
const MAX_BODY: u64 = 3_000;

fn scripts() -> impl Strategy<Value = Script> {
    let request_mode = prop_oneof![
        4 => Just((FullDuplexStreamed, false)),
        1 => Just((Streamed, false)),
        1 => Just((Streamed, true)),
        1 => Just((Buffered, false)),
        1 => Just((BufferedPartial, false)),
        1 => Just((NoBody, false)),
    ];
    let response_mode = prop_oneof![
        4 => Just(FullDuplexStreamed),
        1 => Just(Streamed),
        1 => Just(Buffered),
        1 => Just(BufferedPartial),
        1 => Just(NoBody),
    ];
    let brings = prop_oneof![
        1 => Just(Brings::Nothing),
        6 => (0..4_000_usize).prop_map(Brings::Chat),
        2 => (0..4_000_usize).prop_map(Brings::Opaque),
        1 => Just(Brings::NotJson),
        1 => Just(Brings::Empty),
        1 => Just(Brings::NoModel),
        2 => (0..2_000_usize).prop_map(Brings::DoubledModel),
        1 => Just(Brings::Poison),
    ];
    let cut = prop_oneof![Just(1_usize), 2..50_usize, 50..2_000_usize];
    let response = proptest::option::weighted(0.8, (0..500_usize, any::<bool>()));
    let exit = prop_oneof![
        Just(Exit::Close),
        Just(Exit::Break),
        Just(Exit::Silence),
        Just(Exit::Shutdown),
        Just(Exit::SecondHeaders),
        Just(Exit::Drop),
    ];
    let at = prop_oneof![0..6_usize, 0..200_usize, Just(usize::MAX)];
    let modes = (request_mode, response_mode, prop::bool::weighted(0.9));
    let request = (brings, cut, any::<bool>(), prop::bool::weighted(0.3));
    let budget = prop_oneof![4 => Just(1 << 20), 1 => 100..3_000_usize];
    let pool = (prop_oneof![1 => Just(0_usize), 9 => 1..4_usize], any::<bool>(), budget);
    let replies = (prop::bool::weighted(0.3), prop::bool::weighted(0.3));
    (modes, request, response, replies, pool, (at, exit)).prop_map(
        |(modes, request, response, (response_trailers, overlaps), (endpoints, rewrites, buffer_budget), exit)| {
            let ((request_mode, response_mode, says_modes), (brings, cut, empty_last, request_trailers)) =
                (modes, request);
            // A gateway that does not tell its modes is taken for one that sends no body before it was answered.
            let request_mode = if says_modes { request_mode } else { (NoBody, false) };
            let response_mode = if says_modes { response_mode } else { Streamed };
            Script {
                request_mode,
                response_mode,
                says_modes,
                brings,
                cut,
                empty_last,
                request_trailers,
                response,
                response_trailers,
                overlaps,
                endpoints,
                rewrites,
                buffer_budget,
                exit,
            }
        },
    )
}

impl Script {
    fn request_body(&self) -> Option<Vec<u8>> {
        let prompt = |len: usize| format!(r#"{{"model":"m","prompt":"{}""#, "x".repeat(len));
        Some(match self.brings {
            Brings::Nothing => return None,
            Brings::Chat(len) => (prompt(len) + "}").into_bytes(),
            Brings::Opaque(len) => vec![0xfe; len],
            Brings::NotJson => b"[not json".to_vec(),
            Brings::Empty => Vec::new(),
            Brings::NoModel => br#"{"prompt":"x"}"#.to_vec(),
            Brings::DoubledModel(len) => (prompt(len) + r#","model":"n"}"#).into_bytes(),
            Brings::Poison => format!(r#"{{"model":"{POISON}","prompt":"x"}}"#).into_bytes(),
        })
    }

    /// The messages of a gateway wired so, none of which waits for an answer.
    fn messages(&self) -> Vec<Request> {
        let path = if matches!(self.brings, Brings::Opaque(_)) { "/opaque" } else { "/v1/completions" };
        let mut messages = Vec::new();
        match self.request_body() {
            None => messages.push(get(path)),
            Some(bytes) => {
                messages.push(post(path));
                let has_trailers = self.request_trailers;
                let mode = self.request_mode.0;
                messages.extend(self.show(mode, &bytes, has_trailers).map(|(chunk, ends)| body(chunk, ends)));
                messages.extend(has_trailers.then(trailers));
                // Envoy 1.35 and later may tell the end of a large body twice.
                let is_doubled = self.empty_last && mode == FullDuplexStreamed && !has_trailers;
                messages.extend(is_doubled.then(|| body("", true)));
            }
        }
        if let Some((len, is_stream)) = self.response {
            let mut replies = Vec::new();
            let kind = if is_stream { "text/event-stream" } else { "application/json" };
            replies.push(answered("200", kind, false));
            let bytes = b"data: {}\n\n".iter().copied().cycle().take(len).collect::<Vec<_>>();
            let shown = self.show(self.response_mode, &bytes, self.response_trailers);
            replies.extend(shown.map(|(chunk, ends)| answer_body(chunk, ends)));
            replies.extend(self.response_trailers.then(answer_trailers));
            let from = if self.overlaps { messages.len().div_ceil(2) } else { messages.len() };
            let rest = messages.split_off(from);
            messages.extend(interleave(rest, replies));
        }
        messages
    }

    /// A body as it is shown in a mode.
    fn show<'a>(
        &self,
        mode: BodySendMode,
        bytes: &'a [u8],
        has_trailers: bool,
    ) -> impl Iterator<Item = (Vec<u8>, bool)> + use<'a> {
        let mut chunks: Vec<&[u8]> = match mode {
            NoBody => Vec::new(),
            Buffered if bytes.is_empty() && has_trailers => Vec::new(),
            Buffered => vec![bytes],
            // The buffer may hold less than the body.
            BufferedPartial => vec![&bytes[..bytes.len().min(self.cut * 4)]],
            _ => bytes.chunks(self.cut).collect(),
        };
        let is_cut = mode == BufferedPartial && chunks[0].len() < bytes.len();
        if (self.empty_last || chunks.is_empty()) && matches!(mode, Streamed | FullDuplexStreamed) {
            chunks.push(b"");
        }
        let last = chunks.len().saturating_sub(1);
        let ends = move |at: usize| at == last && !has_trailers && !is_cut;
        chunks.into_iter().enumerate().map(move |(at, chunk)| (chunk.to_vec(), ends(at)))
    }
}

/// Takes from both in turn, then what is left of the longer.
fn interleave(left: Vec<Request>, right: Vec<Request>) -> impl Iterator<Item = Request> {
    let (mut left, mut right) = (left.into_iter(), right.into_iter());
    std::iter::from_fn(move || Some([left.next(), right.next()]))
        .take_while(|pair| pair.iter().any(Option::is_some))
        .flatten()
        .flatten()
}

type Inbound = mpsc::UnboundedReceiver<Result<ProcessingRequest, tonic::Status>>;

/// What was sent and what came back of it.
#[derive(Default)]
struct Record {
    sent: Vec<Request>,
    answers: Vec<ProcessingResponse>,
    /// `Some(None)` is a good end.
    end: Option<Option<tonic::Status>>,
}

impl Record {
    /// Takes what the stream has to say now.
    async fn take(&mut self, conversation: &mut Conversation<Inbound>) {
        while self.end.is_none() {
            match futures::poll!(conversation.next()) {
                std::task::Poll::Ready(Some(Ok(answer))) => self.answers.push(answer),
                std::task::Poll::Ready(Some(Err(status))) => self.end = Some(Some(status)),
                std::task::Poll::Ready(None) => self.end = Some(None),
                std::task::Poll::Pending => return,
            }
        }
    }

    /// Takes what it says until it ends, or stands still for longer than any limit.
    async fn take_rest(&mut self, conversation: &mut Conversation<Inbound>) {
        while self.end.is_none() {
            match tokio::time::timeout(Duration::from_secs(1_000), conversation.next()).await {
                Ok(Some(Ok(answer))) => self.answers.push(answer),
                Ok(Some(Err(status))) => self.end = Some(Some(status)),
                Ok(None) => self.end = Some(None),
                Err(_) => return,
            }
        }
    }

    fn said(&self) -> Vec<String> {
        self.answers.iter().map(say).collect()
    }

    /// What was sent in one direction: all bytes of the body, its chunks, whether its end was told, and trailers.
    fn received(&self, way: &str) -> (Vec<u8>, usize, bool, usize) {
        let (mut bytes, mut chunks, mut ended, mut trailers) = (Vec::new(), 0, false, 0);
        for request in &self.sent {
            match (request, way) {
                (Request::RequestBody(body), "request") | (Request::ResponseBody(body), "response") => {
                    bytes.extend_from_slice(&body.body);
                    chunks += 1;
                    ended |= body.end_of_stream;
                }
                (Request::RequestTrailers(_), "request") | (Request::ResponseTrailers(_), "response") => trailers += 1,
                (Request::RequestHeaders(headers), "request") | (Request::ResponseHeaders(headers), "response") => {
                    ended |= headers.end_of_stream;
                }
                _ => {}
            }
        }
        (bytes, chunks, ended, trailers)
    }
}

async fn play(script: &Script) -> (Fixture, Record) {
    let limits = Limits { max_body_size: MAX_BODY, buffer_budget: script.buffer_budget, ..Limits::default() };
    let endpoints: Vec<_> = (1..=script.endpoints).map(|n| format!("10.0.0.{n}:8000")).collect();
    let endpoints: Vec<_> = endpoints.iter().map(String::as_str).collect();
    let target = ModelTarget { model: Some(Model::new(TARGET)), ..ModelTarget::default() };
    let entry = ModelMatch { model: Some("m".into()), ..ModelMatch::default() };
    let rule = ModelRule { matches: vec![entry], targets: vec![target], ..ModelRule::default() };
    let rules = ModelRules::new(if script.rewrites { vec![rule] } else { Vec::new() });
    let fixture = Fixture::with_models(limits, &endpoints, rules);
    let stop = CancellationToken::new();
    let start = tokio::time::Instant::now().into_std();
    let service = PickerService::new(Arc::clone(&fixture.shared), start, stop.clone());
    let (gateway, inbound) = mpsc::unbounded();
    let mut conversation = service.converse(Opening::default(), inbound).unwrap();
    let mut record = Record::default();
    let (mode, eager) = script.request_mode;
    let mut config = script.says_modes.then(|| modes(mode, script.response_mode, eager).unwrap());
    let mut send = |record: &mut Record, request: Request| {
        let message = ProcessingRequest {
            request: Some(request.clone()),
            protocol_config: config.take(),
            ..ProcessingRequest::default()
        };
        gateway.unbounded_send(Ok(message)).unwrap();
        record.sent.push(request);
    };
    for request in script.messages().into_iter().take(script.exit.0) {
        if record.end.is_some() {
            break;
        }
        send(&mut record, request);
        record.take(&mut conversation).await;
    }
    if record.end.is_none() {
        match script.exit.1 {
            Exit::Close => gateway.close_channel(),
            Exit::Break => gateway.unbounded_send(Err(tonic::Status::unknown("connection reset"))).unwrap(),
            Exit::Silence => record.take_rest(&mut conversation).await,
            Exit::Shutdown => stop.cancel(),
            Exit::SecondHeaders => send(&mut record, post(CHAT)),
            Exit::Drop => {}
        }
        record.take(&mut conversation).await;
    }
    drop(conversation);
    (fixture, record)
}

/// A body as the server is to get it.
fn renamed(body: Vec<u8>) -> Vec<u8> {
    let (old, new) = (br#""model":"m""#, format!(r#""model":"{TARGET}""#));
    match body.windows(old.len()).position(|bytes| bytes == old) {
        Some(at) => [&body[..at], new.as_bytes(), &body[at + old.len()..]].concat(),
        None => body,
    }
}

/// The claims, over one script as it went.
fn judge(script: &Script, record: &Record) {
    let said = record.said();
    let place = |kind: &str| said.iter().position(|one| one.starts_with(kind));
    let count = |kind: &str| said.iter().filter(|one| one.starts_with(kind)).count();
    let is_refused = count("immediate") == 1;

    // One answer a thing, in order, and an immediate one is the last.
    for once in ["request-headers", "response-headers", "request-trailers", "response-trailers", "more-time"] {
        assert!(count(once) <= 1, "{once}: {said:?}");
    }
    assert!(count("immediate") <= 1, "{said:?}");
    if let Some(at) = place("immediate") {
        assert_eq!(at + 1, said.len(), "{said:?}");
        assert_eq!(count("response-headers"), 0, "the client has a response already: {said:?}");
        assert!(matches!(record.end, Some(None)), "{:?}", record.end);
    }
    for way in ["request", "response"] {
        let headers = place(&format!("{way}-headers"));
        for later in [format!("{way}-piece"), format!("{way}-body"), format!("{way}-trailers")] {
            if let Some(at) = place(&later) {
                assert!(headers.is_some_and(|headers| headers < at), "{said:?}");
            }
        }
    }

    // What came back is what was sent, as far as it came back.
    let whole = [("request", script.request_mode.0), ("response", script.response_mode)].map(|(way, mode)| {
        let (mut sent, chunks, mut ended, trailers) = record.received(way);
        if script.rewrites && way == "request" {
            sent = renamed(sent);
        }
        let pieces: Vec<_> = record.answers.iter().filter_map(piece).filter(|piece| piece.0 == way).collect();
        let is_returned = if mode == FullDuplexStreamed {
            let back: Vec<u8> = pieces.iter().flat_map(|piece| piece.1.iter().copied()).collect();
            assert!(sent.starts_with(&back), "bytes of the {way} were changed");
            let ends = pieces.iter().filter(|piece| piece.2).count();
            assert!(ends <= 1 && (ends == 0 || pieces.last().unwrap().2), "{said:?}");
            let has_body = chunks > 0;
            back == sent && (ends == 1) == (ended && has_body)
        } else {
            assert!(pieces.is_empty(), "the wrong kind of answer: {said:?}");
            let back = count(&format!("{way}-body"));
            assert!(back <= chunks, "{said:?}");
            back == chunks
        };
        let is_returned = is_returned && count(&format!("{way}-trailers")) == trailers;
        ended |= trailers > 0;
        (is_returned, ended || !matches!(mode, FullDuplexStreamed | Streamed))
    });
    let [(request_is_returned, request_ended), (response_is_returned, response_ended)] = whole;

    // A request that is let go on bears its destination, once.
    let destinations = said.iter().filter(|one| one.contains(" to ")).count();
    assert!(destinations <= 1, "{said:?}");
    let is_answered = count("response-headers") == 1;
    // A response that comes ahead of the decision is the gateway's own, and the request is given up.
    let is_given_up = is_answered && destinations == 0 && script.overlaps;
    let goes_on = count("request-body") + count("request-piece") > 0 || is_answered;
    assert!(destinations == 1 || !goes_on || is_given_up, "let through undecided: {said:?}");

    if matches!(record.end, Some(None)) && !is_refused {
        let has_left = matches!(script.exit.1, Exit::Close | Exit::Break);
        let response_is_whole = is_answered && response_is_returned && response_ended;
        let request_is_whole = request_is_returned && (request_ended || has_left) || is_given_up;
        let is_empty = record.sent.is_empty() && script.exit.1 == Exit::Close;
        assert!(is_empty || response_is_whole && request_is_whole, "ended well, but: {said:?}");
    }
    // A stream that goes on owes nothing but what it holds for its decision.
    if record.end.is_none() && destinations == 1 {
        assert!(request_is_returned && response_is_returned, "something is owed: {said:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn no_exit_ends_well_without_an_answer_or_loses_a_byte_or_leaves_load_behind(script in scripts()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let (fixture, record) = runtime.block_on(play(&script));
        judge(&script, &record);
        fixture.assert_at_rest();
    }
}
