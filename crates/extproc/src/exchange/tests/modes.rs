//! Every body mode, each answered with its own kind.

use super::super::BodySendMode::{self, Buffered, BufferedPartial, FullDuplexStreamed, None as NoBody, Streamed};
use super::fixture::*;
use crate::pb::Request;

const TO: &str = "request-headers to 10.0.0.1:8000";

/// One request, and what the gateway is told.
#[track_caller]
fn told(request: BodySendMode, eager: bool, script: Vec<Request>, expected: &[&str]) {
    let fixture = Fixture::new();
    let mut gateway = fixture.open(modes(request, FullDuplexStreamed, eager));
    assert_eq!(gateway.send_all(script), expected, "{request:?}, eager: {eager}");
    assert_eq!(fixture.shared.budget.held(), 0);
    if expected.last().is_some_and(|last| !last.starts_with("immediate")) {
        assert_eq!(fixture.cells()[0].in_flight(), 1, "picked once");
        assert_eq!(gateway.end(), None);
    }
}

#[test]
fn every_request_body_mode_is_answered_with_its_own_kind() {
    let whole = chat("hi");
    let (head, tail) = (whole[..9].to_vec(), whole[9..].to_vec());
    let two = || vec![post(CHAT), body(head.clone(), false), body(tail.clone(), true)];
    let one = |ends| vec![post(CHAT), body(whole.clone(), ends)];
    told(NoBody, false, vec![post(CHAT)], &[TO]);
    told(NoBody, false, vec![post(CHAT), trailers()], &[TO, "request-trailers"]);
    told(Streamed, false, two(), &[TO, "request-body", "request-body"]);
    told(Streamed, true, two(), &["more-time 60", TO, "request-body", "request-body"]);
    told(Buffered, false, one(true), &["request-headers", "request-body to 10.0.0.1:8000"]);
    told(BufferedPartial, false, one(true), &["request-headers", "request-body to 10.0.0.1:8000"]);
    let cut = vec![post(CHAT), body(whole[..12].to_vec(), false)];
    told(BufferedPartial, false, cut, &["request-headers", "request-body to 10.0.0.1:8000"]);
    let pieces = ["request-piece 9".to_owned(), format!("request-piece {} end", tail.len())];
    told(FullDuplexStreamed, false, two(), &[TO, &pieces[0], &pieces[1]]);
}

#[test]
fn a_buffered_body_is_whole_even_where_trailers_end_it() {
    let script = |text: &[u8]| vec![post(CHAT), body(text.to_vec(), false), trailers()];
    let good = ["request-headers", "request-body to 10.0.0.1:8000", "request-trailers"];
    told(Buffered, false, script(&chat("hi")), &good);
    told(Buffered, false, script(b"{\"model\":"), &["request-headers", "immediate 400 bad-json"]);
}

#[test]
fn a_buffered_request_without_a_body_is_not_let_through_undecided() {
    for mode in [Buffered, BufferedPartial] {
        told(mode, false, vec![post(CHAT), trailers()], &["request-headers", "immediate 400 bad-json"]);
    }
}

#[test]
fn bodies_that_are_not_read_are_picked_by_their_headers_in_every_mode() {
    for (mode, eager, answer) in [
        (Streamed, false, "request-body"),
        (Streamed, true, "request-body"),
        (Buffered, false, "request-body"),
        (BufferedPartial, false, "request-body"),
        (FullDuplexStreamed, false, "request-piece 3 end"),
    ] {
        told(mode, eager, vec![post("/v1/audio"), body("abc", true)], &[TO, answer]);
    }
}

#[test]
fn a_gateway_that_does_not_tell_its_modes_is_answered_at_once() {
    let fixture = Fixture::new();
    let mut gateway = fixture.open(None);
    let script =
        [post(CHAT), body(chat("hi"), true), answered("200", "application/json", false), answer_body("{}", true)];
    assert_eq!(gateway.send_all(script), [TO, "request-body", "response-headers", "response-body"]);
    gateway.exchange.on_closed();
    assert_eq!(gateway.end().as_deref(), Some("ok"));
    assert_eq!(fixture.series(r#"requests_total{pool="default/p",model="",outcome="ok"}"#), 1.0);
    fixture.assert_at_rest();
}

#[test]
fn every_response_body_mode_is_answered_with_its_own_kind_and_ends_well() {
    let chunks = || vec![answer_body("abc", false), answer_body("de", true)];
    for (mode, script, expected) in [
        (NoBody, vec![], vec![]),
        (NoBody, vec![answer_trailers()], vec!["response-trailers"]),
        (Streamed, chunks(), vec!["response-body", "response-body"]),
        (Streamed, vec![answer_body("a", false), answer_trailers()], vec!["response-body", "response-trailers"]),
        (Buffered, vec![answer_body("abc", true)], vec!["response-body"]),
        // Trailers end it, and are shown or not.
        (Buffered, vec![answer_body("abc", false)], vec!["response-body"]),
        (Buffered, vec![answer_body("abc", false), answer_trailers()], vec!["response-body", "response-trailers"]),
        (BufferedPartial, vec![answer_body("abc", true)], vec!["response-body"]),
        // The buffer was full, and the rest goes by unseen.
        (BufferedPartial, vec![answer_body("abc", false)], vec!["response-body"]),
        (FullDuplexStreamed, chunks(), vec!["response-piece 3", "response-piece 2 end"]),
        (
            FullDuplexStreamed,
            vec![answer_body("abc", false), answer_body("", true)],
            vec!["response-piece 3", "response-piece 0 end"],
        ),
    ] {
        let fixture = Fixture::new();
        let mut gateway = fixture.open(modes(FullDuplexStreamed, mode, false));
        gateway.send_all([post(CHAT), body(chat("hi"), true)]);
        assert_eq!(gateway.send(answered("200", "text/plain", false)), ["response-headers"]);
        assert_eq!(gateway.send_all(script), expected, "{mode:?}");
        gateway.exchange.on_closed();
        assert_eq!(gateway.end().as_deref(), Some("ok"), "{mode:?}");
        drop(gateway);
        assert_eq!(fixture.outcomes("ok"), 1.0, "{mode:?}");
        fixture.assert_at_rest();
    }
}

#[test]
fn a_response_without_a_body_ends_with_its_headers() {
    for mode in [NoBody, Streamed, Buffered, BufferedPartial, FullDuplexStreamed] {
        let fixture = Fixture::new();
        let mut gateway = fixture.open(modes(FullDuplexStreamed, mode, false));
        gateway.send_all([post(CHAT), body(chat("hi"), true)]);
        assert_eq!(gateway.send(answered("204", "", true)), ["response-headers"]);
        fixture.assert_at_rest();
        assert_eq!(fixture.outcomes("ok"), 1.0);
    }
}
