//! Bounds of size and of time.

use std::time::Duration;

use super::super::*;
use super::fixture::*;

#[test]
fn a_body_of_the_caps_size_passes_and_one_byte_more_does_not() {
    let whole = chat("hello");
    let cap = whole.len() as u64;
    let limits = Limits { max_body_size: cap, ..Limits::default() };
    for (extra, by_length, chunk) in [(0, false, 7), (0, true, 7), (1, false, 7), (1, false, 1000), (1, true, 7)] {
        let fixture = Fixture::with_limits(limits);
        let text = [whole.clone(), vec![b' '; extra]].concat();
        let length = text.len().to_string();
        let headers = [("content-length", length.as_str())];
        let mut gateway = fixture.open(DUPLEX);
        let mut told = gateway.send(post_with(CHAT, if by_length { &headers } else { &[] }));
        let is_refused_at_once = by_length && extra > 0;
        assert_eq!(!told.is_empty(), is_refused_at_once);
        for (at, piece) in text.chunks(chunk).enumerate() {
            told.extend(gateway.send(body(piece.to_vec(), (at + 1) * chunk >= text.len())));
        }
        if extra == 0 {
            assert_eq!(gateway.returned("request"), text);
        } else {
            assert_eq!(told, ["immediate 413 body-too-large"]);
            assert_eq!(gateway.end().as_deref(), Some("ok"));
        }
        drop(gateway);
        fixture.assert_at_rest();
    }
}

#[test]
fn the_cap_holds_in_every_mode_that_shows_the_body() {
    use BodySendMode::{Buffered, BufferedPartial, FullDuplexStreamed, Streamed};
    let limits = Limits { max_body_size: 10, ..Limits::default() };
    for (mode, path) in [
        (Buffered, CHAT),
        (BufferedPartial, CHAT),
        (Streamed, CHAT),
        (FullDuplexStreamed, CHAT),
        (Streamed, "/opaque"),
        (FullDuplexStreamed, "/opaque"),
    ] {
        let fixture = Fixture::with_limits(limits);
        let mut gateway = fixture.open(modes(mode, FullDuplexStreamed, false));
        let told = gateway.send_all([post(path), body(vec![b'['; 11], false)]);
        assert_eq!(told.last().unwrap(), "immediate 413 body-too-large", "{mode:?} {path}");
        assert_eq!(fixture.series(r#"errors_total{reason="body-too-large"}"#), 1.0);
        drop(gateway);
        fixture.assert_at_rest();
    }
}

#[test]
fn bodies_held_by_all_streams_together_are_bounded() {
    let fixture = Fixture::with_limits(Limits { buffer_budget: 2_000, ..Limits::default() });
    let begin = br#"{"messages":[{"role":"user","content":""#;
    let mut first = fixture.open(DUPLEX);
    first.send_all([post(CHAT), body([begin.as_slice(), &[b'x'; 1_500]].concat(), false)]);
    let held = fixture.shared.budget.held();
    assert!(held > 1_500);
    let mut second = fixture.open(DUPLEX);
    second.send(post(CHAT));
    assert_eq!(second.send(body(vec![b' '; 600], false)), ["immediate 503 buffer-full"]);
    assert_eq!(second.end().as_deref(), Some("ok"));
    assert_eq!(fixture.shared.budget.held(), held, "the first keeps what it has");
    drop(first);
    let mut third = fixture.open(DUPLEX);
    third.send(post(CHAT));
    assert!(third.send(body(vec![b' '; 600], false)).is_empty());
    drop((second, third));
    fixture.assert_at_rest();
}

#[test]
fn chunks_with_next_to_nothing_in_them_are_held_at_what_they_cost() {
    for chunk in ["", " "] {
        let fixture = Fixture::with_limits(Limits { buffer_budget: 10_000, ..Limits::default() });
        let mut gateway = fixture.open(DUPLEX);
        gateway.send(post(CHAT));
        let taken = (0..1_000).take_while(|_| gateway.send(body(chunk, false)).is_empty()).count();
        assert!(taken < 10_000 / std::mem::size_of::<bytes::Bytes>(), "{taken} chunks of {chunk:?} were held");
        assert_eq!(fixture.series(r#"errors_total{reason="buffer-full"}"#), 1.0);
        drop(gateway);
        fixture.assert_at_rest();
    }
}

/// What a stream waits for, how long, and how it ends when that does not come.
struct Silence {
    name: &'static str,
    modes: Option<ProtocolConfiguration>,
    script: Vec<Request>,
    waits: u64,
    says: &'static [&'static str],
    ends: &'static str,
}

#[test]
fn every_phase_has_a_limit_of_time() {
    use BodySendMode::{Buffered, FullDuplexStreamed, None as NoBody, Streamed};
    let refused: &[&str] = &["immediate 408 request-timeout"];
    let unanswered: &[&str] = &["immediate 504 response-timeout"];
    let part = || body(r#"{"model":"#, false);
    let asked = || vec![post(CHAT), body(chat("hi"), true)];
    let replied = || [asked(), vec![answered("200", "text/event-stream", false)]].concat();
    let late = "DeadlineExceeded: response-timeout: nothing of the response came for 300 s";
    for silence in [
        Silence {
            name: "nothing ever came",
            modes: DUPLEX,
            script: vec![],
            waits: 60,
            says: &[],
            ends: "DeadlineExceeded: request-timeout: nothing of the request came for 60 s",
        },
        Silence { name: "no body", modes: DUPLEX, script: vec![post(CHAT)], waits: 60, says: refused, ends: "ok" },
        Silence {
            name: "in the body",
            modes: DUPLEX,
            script: vec![post(CHAT), part()],
            waits: 60,
            says: refused,
            ends: "ok",
        },
        Silence {
            name: "in the body of a decided request",
            modes: DUPLEX,
            script: vec![post("/opaque"), part()],
            waits: 60,
            says: refused,
            ends: "ok",
        },
        Silence {
            name: "in a streamed body",
            modes: modes(Streamed, Streamed, false),
            script: vec![post(CHAT), part()],
            waits: 60,
            says: refused,
            ends: "ok",
        },
        Silence {
            name: "a body that the gateway buffers comes unseen",
            modes: modes(Buffered, Streamed, false),
            script: vec![post(CHAT)],
            waits: 300,
            says: refused,
            ends: "ok",
        },
        Silence {
            name: "so does one that is not read",
            modes: modes(Buffered, Streamed, false),
            script: vec![post("/opaque")],
            waits: 300,
            says: refused,
            ends: "ok",
        },
        Silence { name: "no response", modes: DUPLEX, script: asked(), waits: 300, says: unanswered, ends: "ok" },
        Silence {
            name: "no response, and no body to be seen",
            modes: modes(NoBody, NoBody, false),
            script: vec![post(CHAT)],
            waits: 300,
            says: unanswered,
            ends: "ok",
        },
        Silence {
            name: "no body of the response",
            modes: DUPLEX,
            script: replied(),
            waits: 300,
            says: &[],
            ends: late,
        },
        Silence {
            name: "in the response",
            modes: modes(FullDuplexStreamed, Streamed, false),
            script: [replied(), vec![answer_body("data: {}\n\n", false)]].concat(),
            waits: 300,
            says: &[],
            ends: late,
        },
    ] {
        let fixture = Fixture::new();
        let mut gateway = fixture.open(silence.modes);
        let mut last = gateway.now;
        for message in silence.script {
            gateway.wait(Duration::from_secs(11));
            last = gateway.now;
            gateway.send(message);
        }
        assert_eq!(gateway.exchange.deadline(), Some(last + Duration::from_secs(silence.waits)), "{}", silence.name);
        gateway.exchange.on_deadline();
        assert_eq!(gateway.drain(), silence.says, "{}", silence.name);
        assert_eq!(gateway.end().as_deref(), Some(silence.ends), "{}", silence.name);
        let message = format!("for {} s", silence.waits);
        if let Some(crate::pb::Response::ImmediateResponse(immediate)) =
            gateway.answers.last().and_then(|a| a.response.as_ref())
        {
            assert!(String::from_utf8_lossy(&immediate.body).contains(&message), "{}: {immediate:?}", silence.name);
        }
        let reasons = ["request-timeout", "response-timeout"];
        let counted = reasons.map(|reason| fixture.series(&format!(r#"errors_total{{reason="{reason}"}}"#)));
        assert_eq!(counted.iter().sum::<f64>(), 1.0, "{}: {counted:?}", silence.name);
        drop(gateway);
        fixture.assert_at_rest();
    }
}

#[test]
fn a_gateway_that_does_not_close_an_answered_stream_loses_it() {
    let fixture = Fixture::new();
    let mut gateway = fixture.open(DUPLEX);
    gateway.send_all([post(CHAT), body(chat("hi"), true), answered("204", "", true)]);
    assert_eq!(gateway.exchange.deadline(), Some(gateway.now + Duration::from_secs(300)));
    gateway.exchange.on_deadline();
    assert_eq!(gateway.end().as_deref(), Some("ok"));
}

#[test]
fn a_response_that_is_not_shown_has_no_limit() {
    let fixture = Fixture::new();
    let mut gateway = fixture.open(modes(BodySendMode::FullDuplexStreamed, BodySendMode::None, false));
    gateway.send_all([post(CHAT), body(chat("hi"), true), answered("200", "text/event-stream", false)]);
    assert_eq!(gateway.exchange.deadline(), None);
    gateway.exchange.on_deadline();
    assert_eq!((gateway.drain().len(), gateway.end()), (0, None));
}
