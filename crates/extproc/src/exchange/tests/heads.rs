//! What headers, metadata and the call's opening say.

use pointsman_core::control_headers::{CONTROLS, DESTINATION, DESTINATIONS};

use super::super::*;
use super::fixture::*;
use crate::pb::{HttpHeaders, Kind, ListValue, Response, Value};

const V6: &str = "[fd00::2]:8000";
const TO_HOME: &str = "request-headers to 10.0.0.1:8000";
const TO_V6: &str = "request-headers to [fd00::2]:8000";
const NONE_OF_THEM: &str = "immediate 503 subset-empty";

#[test]
fn a_request_that_is_its_headers_alone_is_picked_by_them() {
    for path in ["/v1/models", CHAT] {
        let fixture = Fixture::new();
        let mut gateway = fixture.open(DUPLEX);
        assert_eq!(gateway.send(get(path)), [TO_HOME]);
        assert_eq!(fixture.cells()[0].in_flight(), 1);
    }
}

#[test]
fn tunnels_are_picked_at_once_and_have_no_cap() {
    let limits = Limits { max_body_size: 4, ..Limits::default() };
    for headers in [
        ("/v1/realtime", [("upgrade", "websocket"), ("connection", "upgrade")]),
        ("/pkg.Service/Call", [("content-type", "application/grpc"), ("te", "trailers")]),
        ("/pkg.Service/Call", [("content-type", "Application/gRPC+proto"), ("content-length", "999")]),
        (CHAT, [(":method", "CONNECT"), (":protocol", "websocket")]),
        (CHAT, [(":method", "GET"), ("upgrade", "websocket")]),
    ] {
        let (path, headers) = headers;
        let fixture = Fixture::with_limits(limits);
        let mut gateway = fixture.open(DUPLEX);
        assert_eq!(gateway.send(post_with(path, &headers)), [TO_HOME], "{headers:?}");
        for _ in 0..3 {
            assert_eq!(gateway.send(body(vec![0xff; 9], false)), ["request-piece 9"]);
        }
    }
}

#[test]
fn no_header_lifts_the_limits_of_a_body_that_is_read() {
    for header in [("content-type", "application/grpc"), ("upgrade", "websocket")] {
        let fixture = Fixture::with_limits(Limits { max_body_size: 4, ..Limits::default() });
        let mut gateway = fixture.open(DUPLEX);
        gateway.send(post_with(CHAT, &[header]));
        assert_eq!(gateway.send(body(vec![b' '; 9], false)), ["immediate 413 body-too-large"], "{header:?}");
    }
}

#[test]
fn what_is_no_plain_json_passes_unread() {
    for headers in [
        [("content-encoding", "gzip"), ("content-type", "application/json")],
        [("content-encoding", "br"), ("content-length", "9")],
        [("content-type", "multipart/form-data; boundary=x"), ("content-length", "9")],
    ] {
        let fixture = Fixture::new();
        let mut gateway = fixture.open(DUPLEX);
        let told = gateway.send_all([post_with(CHAT, &headers), body(vec![0x1f; 9], true)]);
        assert_eq!(told, [TO_HOME, "request-piece 9 end"], "{headers:?}");
    }
}

#[test]
fn keeps_to_the_gateways_subset_by_address_and_port() {
    let odd = |kind| Kind::ListValue(ListValue { values: vec![Value { kind }, Value { kind: Some(text(V6)) }] });
    for (hint, told) in [
        (Some(list(&[HOME])), TO_HOME),
        (Some(list(&[V6])), TO_V6),
        (Some(text(V6)), TO_V6),
        (Some(text(&format!("10.9.9.9:8000, {V6}"))), TO_V6),
        (Some(list(&["10.0.0.1", "10.0.0.1:", "fd00::1:8000", "pod-a:8000", "", "10.0.0.1:99999", V6])), TO_V6),
        (Some(odd(Some(Kind::NumberValue(1.0)))), TO_V6),
        (Some(odd(None)), TO_V6),
        (Some(list(&["10.0.0.1:8001", "[fd00::2]:8001"])), NONE_OF_THEM),
        (Some(list(&["10.0.0.1"])), NONE_OF_THEM),
        (Some(list(&[])), NONE_OF_THEM),
        (Some(text("")), NONE_OF_THEM),
        (Some(Kind::BoolValue(true)), NONE_OF_THEM),
        (Some(Kind::NullValue(0)), NONE_OF_THEM),
        (None, NONE_OF_THEM),
    ] {
        for request in [get("/v1/models"), post_with("/v1/realtime", &[("upgrade", "websocket")])] {
            let fixture = Fixture::with_endpoints(&[HOME, V6]);
            let mut gateway = fixture.open(DUPLEX);
            gateway.metadata = subset(hint.clone());
            assert_eq!(gateway.send(request), [told], "{hint:?}");
        }
        let fixture = Fixture::with_endpoints(&[HOME, V6]);
        let mut gateway = fixture.open(DUPLEX);
        gateway.metadata = subset(hint.clone());
        gateway.send(post(CHAT));
        assert_eq!(gateway.send(body(chat("hi"), true))[0], told, "{hint:?}");
    }
}

#[test]
fn lists_fallbacks_only_to_a_gateway_that_takes_a_list() {
    for (takes_list, len) in [(false, 1), (true, 3)] {
        let fixture = Fixture::with_endpoints(&[HOME, V6, "10.0.0.3:8000", "10.0.0.4:8000"]);
        let mut gateway = fixture.open_with(DUPLEX, Opening { takes_list, ..Opening::default() });
        let told = gateway.send(get("/")).remove(0);
        let listed: Vec<std::net::SocketAddr> =
            told.strip_prefix("request-headers to ").unwrap().split(',').map(|one| one.parse().unwrap()).collect();
        assert_eq!(listed.len(), len);
        let in_flight: u32 = fixture.cells().iter().map(|cell| cell.in_flight()).sum();
        assert_eq!(in_flight, 1, "only the pick bears the load");
    }
}

#[test]
fn nothing_that_the_client_sends_steers_and_nothing_else_is_touched() {
    let all: Vec<_> = DESTINATIONS.iter().chain(CONTROLS).copied().collect();
    let mut sent: Vec<_> = all.iter().map(|key| (*key, "169.254.169.254:80")).collect();
    sent.extend([(DESTINATION, "10.0.0.9:80,10.0.0.8:80"), ("cookie", "a"), ("cookie", "b"), ("x-forwarded-for", "1")]);
    let upper: Vec<_> = sent.iter().map(|(key, value)| (key.to_ascii_uppercase(), *value)).collect();
    let upper: Vec<_> = upper.iter().map(|(key, value)| (key.as_str(), *value)).collect();
    let without: Vec<_> = all.iter().copied().filter(|key| *key != DESTINATION).collect();
    let expected = format!("{TO_HOME} without {}", without.join(" "));
    for headers in [&sent, &upper] {
        let fixture = Fixture::new();
        let mut gateway = fixture.open(DUPLEX);
        assert_eq!(gateway.send(post_with("/x", headers)).join(", "), expected);
        let mut gateway = fixture.open(DUPLEX);
        gateway.send(post_with(CHAT, headers));
        assert_eq!(gateway.send(body(chat("hi"), true))[0], expected);
        let mut gateway = fixture.open(modes(BodySendMode::Buffered, BodySendMode::None, false));
        let told = gateway.send_all([post_with(CHAT, headers), body(chat("hi"), true)]);
        assert_eq!(
            told,
            [format!("request-headers without {}", all.join(" ")), "request-body to 10.0.0.1:8000".into()]
        );
    }
    let fixture = Fixture::new();
    let one = [("x-slo-ttft-ms", "5"), ("cookie", "a")];
    assert_eq!(fixture.open(DUPLEX).send(post_with("/x", &one)), [format!("{TO_HOME} without x-slo-ttft-ms")]);
}

#[test]
fn hostile_headers_are_taken_as_they_come() {
    for headers in [
        vec![(b":path".as_slice(), b"/v1/\xff\xfe".as_slice()), (b"content-length", b"-1")],
        vec![(b":path", b""), (b"content-length", b"99999999999999999999999")],
        vec![(b"", b""), (b"content-type", b""), (b"x-request-id", b"\xff\xff")],
        vec![],
    ] {
        let fixture = Fixture::new();
        let header = |(key, value): &(&[u8], &[u8])| crate::pb::HeaderValue {
            key: String::from_utf8_lossy(key).into_owned(),
            raw_value: bytes::Bytes::copy_from_slice(value),
            ..Default::default()
        };
        let headers = Some(crate::pb::HeaderMap { headers: headers.iter().map(header).collect() });
        let told = fixture.open(DUPLEX).send(Request::RequestHeaders(HttpHeaders { headers, end_of_stream: false }));
        assert_eq!(told, [TO_HOME]);
    }
    let fixture = Fixture::new();
    let nothing = Request::RequestHeaders(HttpHeaders { headers: None, end_of_stream: true });
    assert_eq!(fixture.open(DUPLEX).send(nothing), [TO_HOME]);
}

#[test]
fn headers_may_come_as_text_in_place_of_bytes() {
    let fixture = Fixture::new();
    let header = |key: &str, value: &str| crate::pb::HeaderValue {
        key: key.to_owned(),
        value: value.to_owned(),
        ..Default::default()
    };
    let headers = vec![header(":path", CHAT), header("x-request-id", "r-7")];
    let headers = Some(crate::pb::HeaderMap { headers });
    let mut gateway = fixture.open(DUPLEX);
    assert!(gateway.send(Request::RequestHeaders(HttpHeaders { headers, end_of_stream: false })).is_empty());
    gateway.send(body(chat("hi"), true));
    assert_eq!(fixture.pool().explanations(1, Some("r-7")).len(), 1);
}

#[test]
fn keeps_the_requests_id_or_makes_one_that_differs() {
    let long = "r".repeat(500);
    for (sent, kept) in [("r-7", Some("r-7")), (&long, Some(&long[..128])), ("", None)] {
        let fixture = Fixture::with_endpoints(&[]);
        let mut ids = Vec::new();
        for _ in 0..2 {
            let mut gateway = fixture.open(DUPLEX);
            gateway.send(post_with("/x", &[("x-request-id", sent)]));
            let Some(Response::ImmediateResponse(immediate)) = &gateway.answers[0].response else { panic!() };
            let headers = &immediate.headers.as_ref().unwrap().set_headers;
            let id = headers.iter().filter_map(|option| option.header.as_ref()).find(|h| h.key == "x-request-id");
            ids.push(String::from_utf8(id.unwrap().raw_value.to_vec()).unwrap());
        }
        match kept {
            Some(kept) => assert_eq!(ids, [kept, kept]),
            None => assert!(ids[0] != ids[1] && ids.iter().all(|id| !id.is_empty()), "{ids:?}"),
        }
    }
}

#[test]
fn a_stream_goes_to_the_pool_that_the_gateway_names() {
    let pools: &[(&str, &[&str])] = &[("a/p", &[HOME]), ("b/p", &[V6])];
    for (name, told) in [
        (Some("a/p"), TO_HOME),
        (Some("b/p"), TO_V6),
        (Some("c/p"), "immediate 500 pool-unknown"),
        (Some(""), "immediate 500 pool-unknown"),
        (None, "immediate 500 pool-unknown"),
    ] {
        let fixture = Fixture::with(Limits::default(), pools);
        let opening = Opening { pool: name.map(str::to_owned), ..Opening::default() };
        let mut gateway = fixture.open_with(DUPLEX, opening);
        assert_eq!(gateway.send(get("/")), [told], "{name:?}");
        drop(gateway);
        fixture.assert_at_rest();
    }
    let only = Fixture::new();
    assert_eq!(only.open(DUPLEX).send(get("/")), [TO_HOME]);
    let none = Fixture::with(Limits::default(), &[]);
    assert_eq!(none.open(DUPLEX).send(get("/")), ["immediate 500 pool-unknown"]);
}
