//! A request's and a response's headers, as far as the picker cares.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use pointsman_core::control_headers::{
    CONTROLS, DESTINATIONS, METADATA_NAMESPACE, OBJECTIVES, SERVED, SUBSET, SUBSET_NAMESPACE,
};
use pointsman_core::facts::{RequestHeaders, Subset};

use crate::api::Api;
use crate::pb::{HeaderMap, HeaderValue, Kind, Metadata, Value};
use crate::settings::Trust;

/// The longest request id that is taken over; a longer one is cut.
const REQUEST_ID_MAX: usize = 128;
/// The longest name of an objective: that of an object in Kubernetes.
const OBJECTIVE_MAX: usize = 253;
/// The most addresses of a subset that are read.
const SUBSET_MAX: usize = 10_000;

/// A request's headers.
#[derive(Debug)]
pub(crate) struct RequestHead {
    pub(crate) api: Api,
    /// `x-request-id`, where the request has one.
    pub(crate) request_id: Option<Arc<str>>,
    pub(crate) content_length: Option<u64>,
    /// A body that is not one: after an upgrade, or the messages of a gRPC call.
    pub(crate) is_tunnel: bool,
    pub(crate) is_grpc: bool,
    /// The objective that is named, where that is trusted.
    pub(crate) objective: Option<Arc<str>>,
    /// The control headers that the client sent and that are not trusted, to be removed.
    pub(crate) controls: Vec<String>,
}

impl RequestHead {
    pub(crate) fn read(headers: Option<&HeaderMap>, trust: Trust) -> Self {
        let mut objectives = [None; OBJECTIVES.len()];
        let mut head = Self {
            api: Api::Opaque,
            request_id: None,
            content_length: None,
            is_tunnel: false,
            is_grpc: false,
            objective: None,
            controls: Vec::new(),
        };
        let (mut is_encoded, mut is_form, mut is_upgrade, mut has_body_method) = (false, false, false, false);
        for header in headers.into_iter().flat_map(|headers| &headers.headers) {
            let value = value_of(header);
            match &*key_of(header) {
                ":path" => head.api = Api::of_path(&String::from_utf8_lossy(value)),
                ":method" => {
                    head.is_tunnel = value == b"CONNECT";
                    has_body_method = matches!(value, b"POST" | b"PUT" | b"PATCH");
                }
                "upgrade" => is_upgrade = true,
                "content-length" => head.content_length = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok()),
                "content-type" => {
                    let is = |kind: &[u8]| value.len() >= kind.len() && value[..kind.len()].eq_ignore_ascii_case(kind);
                    head.is_grpc = is(b"application/grpc");
                    is_form = is(b"multipart/");
                }
                "content-encoding" => is_encoded = !value.eq_ignore_ascii_case(b"identity"),
                "x-request-id" => {
                    let id = String::from_utf8_lossy(&value[..value.len().min(REQUEST_ID_MAX)]);
                    head.request_id = (!id.is_empty()).then(|| id.into());
                }
                key if trust.objective && OBJECTIVES.contains(&key) => {
                    objectives[usize::from(key != OBJECTIVES[0])].get_or_insert(value);
                }
                key if is_control(key) && !head.controls.iter().any(|seen| seen == key) => {
                    head.controls.push(key.to_owned());
                }
                _ => {}
            }
        }
        head.objective = objectives.into_iter().flatten().find_map(objective);
        // A header alone must not lift the limits of a path whose body is read: a POST there is no tunnel.
        let is_read_path = head.api != Api::Opaque && has_body_method;
        head.is_grpc &= !is_read_path;
        head.is_tunnel |= head.is_grpc || is_upgrade && !is_read_path;
        if head.is_tunnel || is_encoded || is_form {
            head.api = Api::Opaque;
        }
        head
    }
}

fn objective(value: &[u8]) -> Option<Arc<str>> {
    let name = std::str::from_utf8(value).ok()?;
    (1..=OBJECTIVE_MAX).contains(&name.len()).then(|| name.into())
}

impl RequestHeaders for HeaderMap {
    fn has(&self, name: &str, value: &str) -> bool {
        let is = |header: &HeaderValue| header.key.eq_ignore_ascii_case(name) && value_of(header) == value.as_bytes();
        self.headers.iter().any(is)
    }
}

/// What keeping headers costs, in bytes.
pub(crate) fn cost(headers: &HeaderMap) -> usize {
    let of = |header: &HeaderValue| {
        size_of::<HeaderValue>() + header.key.len() + header.value.len() + header.raw_value.len()
    };
    headers.headers.iter().map(of).sum()
}

/// A response's headers.
#[derive(Debug, Default)]
pub(crate) struct ResponseHead<'a> {
    pub(crate) status: u16,
    pub(crate) content_type: Option<&'a [u8]>,
    pub(crate) content_encoding: Option<&'a [u8]>,
}

impl<'a> ResponseHead<'a> {
    pub(crate) fn read(headers: Option<&'a HeaderMap>) -> Self {
        let mut head = Self::default();
        for header in headers.into_iter().flat_map(|headers| &headers.headers) {
            let value = value_of(header);
            match &*key_of(header) {
                ":status" => head.status = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok()).unwrap_or(0),
                "content-type" => head.content_type = Some(value),
                "content-encoding" => head.content_encoding = Some(value),
                _ => {}
            }
        }
        head
    }
}

/// The gateway's subset: a list of addresses, or (as some gateways write it) one string with commas. What is no
/// address is passed over, so that a list of nothing else is an empty subset and not the whole pool.
pub(crate) fn subset(metadata: &Metadata) -> Subset {
    let mut addresses = Vec::new();
    let mut read = |text: &str| {
        let room = SUBSET_MAX - addresses.len();
        addresses.extend(text.split(',').filter_map(|one| one.trim().parse::<SocketAddr>().ok()).take(room));
    };
    match field(metadata, SUBSET_NAMESPACE, SUBSET)?.kind.as_ref().unwrap_or(&Kind::NullValue(0)) {
        Kind::ListValue(list) => {
            for value in list.values.iter().take(SUBSET_MAX) {
                if let Some(Kind::StringValue(text)) = &value.kind {
                    read(text);
                }
            }
        }
        Kind::StringValue(text) => read(text),
        _ => {}
    }
    Some(addresses)
}

/// The address that the gateway says has served.
pub(crate) fn served(metadata: &Metadata) -> Option<SocketAddr> {
    match field(metadata, METADATA_NAMESPACE, SERVED)?.kind.as_ref()? {
        Kind::StringValue(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn field<'a>(metadata: &'a Metadata, namespace: &str, key: &str) -> Option<&'a Value> {
    metadata.filter_metadata.get(namespace)?.fields.get(key)
}

fn is_control(key: &str) -> bool {
    DESTINATIONS.contains(&key) || CONTROLS.contains(&key)
}

/// Envoy writes keys in lower case; other gateways may not.
fn key_of(header: &HeaderValue) -> Cow<'_, str> {
    if header.key.bytes().any(|byte| byte.is_ascii_uppercase()) {
        header.key.to_ascii_lowercase().into()
    } else {
        header.key.as_str().into()
    }
}

/// Envoy fills `raw_value`; other gateways may still fill `value`.
fn value_of(header: &HeaderValue) -> &[u8] {
    if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value }
}
