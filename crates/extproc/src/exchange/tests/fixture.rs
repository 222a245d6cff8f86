//! A pool, what exchanges share, and a gateway that speaks to one exchange and writes down what it is told.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use pointsman_core::control_headers::{DESTINATION, METADATA_NAMESPACE, SERVED, SUBSET, SUBSET_NAMESPACE};
use pointsman_core::endpoint::{Endpoint, EndpointCell};
use pointsman_core::models::ModelRules;
use pointsman_core::policy::{Policy, PrefixCachePolicy, Profile, WeightedScorer};
use pointsman_core::pool::PoolWriter;
use pointsman_core::prefix::PrefixLayout;
use pointsman_core::scorers::Scorer;
use pointsman_core::signals::Signals;
use prometheus_client::registry::Registry;
use prost::Message;

use super::super::*;
use crate::pb::{
    HeaderAppendAction, HeaderMap, HeaderMutation, HeaderValue, HttpBody, HttpHeaders, HttpTrailers, Kind, ListValue,
    Metadata, Mutation, Response, Struct, Value,
};

pub(crate) const CHAT: &str = "/v1/chat/completions";
/// The one endpoint of most pools here.
pub(crate) const HOME: &str = "10.0.0.1:8000";
/// The model at which the pool's scorer panics.
pub(crate) const POISON: &str = "poison";
/// Bytes of prompt text from which on the decision does not wait for more.
pub(crate) const CAP: usize = 64 * 4;

/// A scorer that fails for one model.
#[derive(Debug)]
struct Brittle;

impl Scorer for Brittle {
    fn score(&self, signals: &Signals<'_>, _: &mut [f32]) {
        assert!(signals.facts.model.as_ref().is_none_or(|model| &*model.name != POISON), "poisoned");
    }
}

pub(crate) struct Fixture {
    pub(crate) shared: Arc<Shared>,
    registry: Registry,
    pub(crate) writers: Vec<PoolWriter>,
}

pub(crate) fn pool(name: &str, endpoints: &[&str]) -> (Arc<Pool>, PoolWriter) {
    pool_with(name, endpoints, ModelRules::default())
}

fn pool_with(name: &str, endpoints: &[&str], models: ModelRules) -> (Arc<Pool>, PoolWriter) {
    let scorer = WeightedScorer { name: "brittle".into(), weight: 1.0, scorer: Box::new(Brittle) };
    let default = Policy::default();
    let policy = Policy {
        profile: Profile { scorers: vec![scorer], ..default.profile },
        prefix_cache: PrefixCachePolicy {
            layout: PrefixLayout { block_tokens: 16, max_prompt_tokens: (CAP / 4) as u32 },
            ..default.prefix_cache
        },
        models,
        objectives: [("urgent".into(), 7)].into(),
        ..default
    };
    let (pool, mut writer) = Pool::new(name, Arc::new(policy), 1);
    writer.set_members(endpoints.iter().map(|address| Endpoint::new(address, address.parse().unwrap())));
    writer.publish();
    (pool, writer)
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::with(Limits::default(), &[("default/p", &[HOME])])
    }

    pub(crate) fn with_endpoints(endpoints: &[&str]) -> Self {
        Self::with(Limits::default(), &[("default/p", endpoints)])
    }

    pub(crate) fn with_limits(limits: Limits) -> Self {
        Self::with(limits, &[("default/p", &[HOME])])
    }

    pub(crate) fn with(limits: Limits, pools: &[(&str, &[&str])]) -> Self {
        Self::of(limits, Trust::default(), pools.iter().map(|(name, endpoints)| pool(name, endpoints)))
    }

    /// A pool with these rules for models.
    pub(crate) fn with_models(limits: Limits, endpoints: &[&str], models: ModelRules) -> Self {
        Self::of(limits, Trust::default(), [pool_with("default/p", endpoints, models)])
    }

    pub(crate) fn with_trust(trust: Trust) -> Self {
        Self::of(Limits::default(), trust, [pool("default/p", &[HOME])])
    }

    fn of(limits: Limits, trust: Trust, pools: impl IntoIterator<Item = (Arc<Pool>, PoolWriter)>) -> Self {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let (pools, writers): (Vec<_>, Vec<_>) = pools.into_iter().unzip();
        let directory = PoolDirectory::default();
        directory.set(pools.into_iter().map(|pool| (pool, None)));
        let shared = Shared::new(limits, trust, Arc::new(directory), metrics, 7);
        Self { shared: Arc::new(shared), registry, writers }
    }

    pub(crate) fn pool(&self) -> Arc<Pool> {
        self.shared.pools.only().unwrap()
    }

    pub(crate) fn cells(&self) -> Vec<Arc<EndpointCell>> {
        let pools = self.shared.pools.all();
        pools.iter().flat_map(|pool| pool.snapshot().members.cells.clone()).collect()
    }

    /// What every exit must leave behind.
    #[track_caller]
    pub(crate) fn assert_at_rest(&self) {
        for cell in self.cells() {
            assert_eq!((cell.in_flight(), cell.in_flight_tokens(), cell.streaming()), (0, 0, 0), "{cell:?}");
        }
        assert_eq!(self.shared.budget.held(), 0);
        assert_eq!(self.shared.metrics.streams.get(), 0);
    }

    /// The value of a series, written as in the exposition; 0 when there is none.
    pub(crate) fn series(&self, series: &str) -> f64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().unwrap())
    }

    /// How many requests for model `m` came out so.
    pub(crate) fn outcomes(&self, outcome: &str) -> f64 {
        self.series(&format!(r#"requests_total{{pool="default/p",model="m",outcome="{outcome}"}}"#))
    }

    pub(crate) fn open(&self, modes: Option<ProtocolConfiguration>) -> Gateway {
        self.open_with(modes, Opening::default())
    }

    pub(crate) fn open_with(&self, modes: Option<ProtocolConfiguration>, opening: Opening) -> Gateway {
        let now = Tick(1_000_000_000);
        Gateway {
            exchange: Exchange::new(Arc::clone(&self.shared), opening, now),
            now,
            modes,
            metadata: None,
            answers: Vec::new(),
        }
    }
}

/// The gateway's end of one stream.
pub(crate) struct Gateway {
    pub(crate) exchange: Exchange,
    pub(crate) now: Tick,
    modes: Option<ProtocolConfiguration>,
    /// Sent with the next message.
    pub(crate) metadata: Option<Metadata>,
    /// All that was answered.
    pub(crate) answers: Vec<ProcessingResponse>,
}

impl Gateway {
    /// Sends one message; says what it is told in answer.
    pub(crate) fn send(&mut self, request: Request) -> Vec<String> {
        let message = ProcessingRequest {
            request: Some(request),
            protocol_config: self.modes.take(),
            metadata_context: self.metadata.take().map(|metadata| metadata.encode_to_vec()).unwrap_or_default().into(),
            ..ProcessingRequest::default()
        };
        self.exchange.on(message, self.now);
        self.drain()
    }

    pub(crate) fn send_all(&mut self, requests: impl IntoIterator<Item = Request>) -> Vec<String> {
        requests.into_iter().flat_map(|request| self.send(request)).collect()
    }

    pub(crate) fn drain(&mut self) -> Vec<String> {
        let mut said = Vec::new();
        while let Some(answer) = self.exchange.next_answer() {
            said.push(say(&answer));
            self.answers.push(answer);
        }
        said
    }

    pub(crate) fn wait(&mut self, time: Duration) {
        self.now = self.now + time;
    }

    /// How the stream ended: `ok`, or the error's code and message; `None` while it goes on.
    pub(crate) fn end(&mut self) -> Option<String> {
        Some(match self.exchange.take_end()? {
            End::Ok => "ok".to_owned(),
            End::Error(status) => format!("{:?}: {}", status.code(), status.message()),
        })
    }

    /// The bytes that went back, of the request's or the response's body.
    pub(crate) fn returned(&self, way: &str) -> Vec<u8> {
        self.answers.iter().filter_map(piece).filter(|piece| piece.0 == way).flat_map(|piece| piece.1).collect()
    }
}

/// Direction, bytes and end of a piece of full duplex.
pub(crate) fn piece(answer: &ProcessingResponse) -> Option<(&'static str, Bytes, bool)> {
    let (way, body) = match answer.response.as_ref()? {
        Response::RequestBody(body) => ("request", body),
        Response::ResponseBody(body) => ("response", body),
        _ => return None,
    };
    match body.response.as_ref()?.body_mutation.as_ref()?.mutation.as_ref()? {
        Mutation::StreamedResponse(piece) => Some((way, piece.body.clone(), piece.end_of_stream)),
        Mutation::Body(_) => None,
        Mutation::ClearBody(_) => panic!("a body was taken away"),
    }
}

/// The other bytes that a chunk or a buffered body is given.
pub(crate) fn changed(answer: &ProcessingResponse) -> Option<Bytes> {
    let Some(Response::RequestBody(body)) = &answer.response else { return None };
    match body.response.as_ref()?.body_mutation.as_ref()?.mutation.as_ref()? {
        Mutation::Body(bytes) => Some(bytes.clone()),
        _ => None,
    }
}

/// An answer in a few words. Panics on anything that a gateway may not be told.
pub(crate) fn say(answer: &ProcessingResponse) -> String {
    assert_eq!(answer.mode_override, None);
    let Some(response) = &answer.response else {
        return format!("more-time {}", answer.override_message_timeout.unwrap().seconds);
    };
    let metadata = answer.dynamic_metadata.as_ref();
    let body = |way: &str, common: &CommonResponseOf<'_>| match piece(answer) {
        Some((_, bytes, ends)) => {
            assert!(bytes.len() <= 62_000, "Envoy takes no piece of {} bytes", bytes.len());
            assert_eq!((common.0, metadata), (None, None), "headers went out with an earlier answer");
            format!("{way}-piece {}{}", bytes.len(), if ends { " end" } else { "" })
        }
        None => {
            let changed = changed(answer).map(|bytes| format!(" of {}", bytes.len())).unwrap_or_default();
            format!("{way}-body{changed}{}", say_headers(common.0, metadata))
        }
    };
    match response {
        Response::RequestHeaders(headers) => {
            let common = headers.response.as_ref().unwrap();
            format!("request-headers{}", say_headers(common.header_mutation.as_ref(), metadata))
        }
        Response::RequestBody(of) => body("request", &CommonResponseOf(mutation(&of.response))),
        Response::ResponseBody(of) => body("response", &CommonResponseOf(mutation(&of.response))),
        Response::ResponseHeaders(headers) => {
            assert_eq!((mutation(&headers.response), metadata), (None, None));
            "response-headers".to_owned()
        }
        Response::RequestTrailers(trailers) => {
            assert_eq!((&trailers.header_mutation, metadata), (&None, None));
            "request-trailers".to_owned()
        }
        Response::ResponseTrailers(trailers) => {
            assert_eq!((&trailers.header_mutation, metadata), (&None, None));
            "response-trailers".to_owned()
        }
        Response::ImmediateResponse(immediate) => {
            let status = immediate.status.unwrap().code;
            let code = immediate.details.strip_prefix("pointsman_").unwrap().replace('_', "-");
            format!("immediate {status} {code}")
        }
    }
}

struct CommonResponseOf<'a>(Option<&'a HeaderMutation>);

fn mutation(common: &Option<crate::pb::CommonResponse>) -> Option<&HeaderMutation> {
    let common = common.as_ref().unwrap();
    assert_eq!((common.status, common.clear_route_cache, &common.trailers), (0, false, &None));
    common.header_mutation.as_ref()
}

/// What headers are set and removed. The destination is the only one that may be set, and metadata must say the same.
fn say_headers(mutation: Option<&HeaderMutation>, metadata: Option<&Struct>) -> String {
    let mut said = String::new();
    let set = mutation.into_iter().flat_map(|mutation| &mutation.set_headers).collect::<Vec<_>>();
    let metadata = metadata.map(|metadata| {
        assert_eq!(metadata.fields.len(), 1);
        let Some(Kind::StructValue(namespace)) = &metadata.fields[METADATA_NAMESPACE].kind else { panic!() };
        assert_eq!(namespace.fields.len(), 1);
        let Some(Kind::StringValue(value)) = &namespace.fields[DESTINATION].kind else { panic!() };
        value.clone()
    });
    assert!(set.len() <= 1, "{set:?}");
    let header = set.first().map(|option| {
        let header = option.header.as_ref().unwrap();
        assert_eq!((header.key.as_str(), header.value.as_str()), (DESTINATION, ""));
        assert_eq!(option.append_action, i32::from(HeaderAppendAction::OverwriteIfExistsOrAdd));
        String::from_utf8(header.raw_value.to_vec()).unwrap()
    });
    assert_eq!(header, metadata, "header and metadata are to name one destination");
    if let Some(destination) = header {
        said += &format!(" to {destination}");
    }
    let removed = mutation.map(|mutation| mutation.remove_headers.join(" ")).unwrap_or_default();
    if !removed.is_empty() {
        said += &format!(" without {removed}");
    }
    said
}

pub(crate) const fn modes(request: BodySendMode, response: BodySendMode, eager: bool) -> Option<ProtocolConfiguration> {
    Some(ProtocolConfiguration {
        request_body_mode: request as i32,
        response_body_mode: response as i32,
        send_body_without_waiting_for_header_response: eager,
    })
}

pub(crate) const DUPLEX: Option<ProtocolConfiguration> =
    modes(BodySendMode::FullDuplexStreamed, BodySendMode::FullDuplexStreamed, false);

pub(crate) fn header_map(headers: &[(&str, &str)]) -> Option<HeaderMap> {
    let header = |(key, value): &(&str, &str)| HeaderValue {
        key: (*key).to_owned(),
        raw_value: Bytes::copy_from_slice(value.as_bytes()),
        ..HeaderValue::default()
    };
    Some(HeaderMap { headers: headers.iter().map(header).collect() })
}

/// A request's headers; a body or trailers follow.
pub(crate) fn post(path: &str) -> Request {
    post_with(path, &[])
}

pub(crate) fn post_with(path: &str, headers: &[(&str, &str)]) -> Request {
    let headers: Vec<_> = [(":method", "POST"), (":path", path)].iter().chain(headers).copied().collect();
    Request::RequestHeaders(HttpHeaders { headers: header_map(&headers), end_of_stream: false })
}

/// A request that is its headers alone.
pub(crate) fn get(path: &str) -> Request {
    let headers = header_map(&[(":method", "GET"), (":path", path)]);
    Request::RequestHeaders(HttpHeaders { headers, end_of_stream: true })
}

pub(crate) fn body(bytes: impl Into<Bytes>, end_of_stream: bool) -> Request {
    Request::RequestBody(HttpBody { body: bytes.into(), end_of_stream, ..HttpBody::default() })
}

pub(crate) fn trailers() -> Request {
    Request::RequestTrailers(HttpTrailers { trailers: header_map(&[("x-checksum", "1")]) })
}

pub(crate) fn answered(status: &str, content_type: &str, end_of_stream: bool) -> Request {
    let headers = header_map(&[(":status", status), ("content-type", content_type)]);
    Request::ResponseHeaders(HttpHeaders { headers, end_of_stream })
}

pub(crate) fn answer_body(bytes: impl Into<Bytes>, end_of_stream: bool) -> Request {
    Request::ResponseBody(HttpBody { body: bytes.into(), end_of_stream, ..HttpBody::default() })
}

pub(crate) fn answer_trailers() -> Request {
    Request::ResponseTrailers(HttpTrailers::default())
}

/// A chat of one message.
pub(crate) fn chat(text: &str) -> Vec<u8> {
    chat_of("m", text)
}

pub(crate) fn chat_of(model: &str, text: &str) -> Vec<u8> {
    serde_json::json!({"model": model, "messages": [{"role": "user", "content": text}]}).to_string().into_bytes()
}

fn metadata(namespace: &str, key: &str, kind: Option<Kind>) -> Option<Metadata> {
    let fields = BTreeMap::from([(key.to_owned(), Value { kind })]);
    Some(Metadata { filter_metadata: [(namespace.to_owned(), Struct { fields })].into() })
}

pub(crate) fn subset(kind: Option<Kind>) -> Option<Metadata> {
    metadata(SUBSET_NAMESPACE, SUBSET, kind)
}

pub(crate) fn text(text: &str) -> Kind {
    Kind::StringValue(text.to_owned())
}

pub(crate) fn list(texts: &[&str]) -> Kind {
    Kind::ListValue(ListValue { values: texts.iter().map(|one| Value { kind: Some(text(one)) }).collect() })
}

pub(crate) fn served(address: &str) -> Option<Metadata> {
    metadata(METADATA_NAMESPACE, SERVED, Some(text(address)))
}
