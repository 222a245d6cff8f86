//! How streams end: out of order, closed, broken, shut down, panicking.

use super::super::*;
use super::fixture::*;

#[test]
fn messages_out_of_order_are_errors_and_not_panics() {
    let asked = || vec![post(CHAT), body(chat("hi"), true)];
    let replied = || [asked(), vec![answered("200", "", false)]].concat();
    for script in [
        vec![body("{", false)],
        vec![trailers()],
        vec![answered("200", "", false)],
        vec![answer_body("x", true)],
        vec![answer_trailers()],
        vec![post(CHAT), post(CHAT)],
        vec![get("/"), get("/")],
        vec![post(CHAT), answer_body("x", false)],
        [asked(), vec![post(CHAT)]].concat(),
        [asked(), vec![answer_body("x", true)]].concat(),
        [asked(), vec![answer_trailers()]].concat(),
        [replied(), vec![answered("200", "", false)]].concat(),
        [replied(), vec![answer_body("", true), answered("200", "", false)]].concat(),
    ] {
        let fixture = Fixture::new();
        let mut gateway = fixture.open(DUPLEX);
        gateway.send_all(script.clone());
        assert!(gateway.send(post(CHAT)).is_empty(), "it is over");
        let end = gateway.end().unwrap_or_default();
        assert!(end.starts_with("InvalidArgument"), "{script:?} ended with {end:?}");
        assert_eq!(fixture.cells()[0].in_flight(), 0);
        drop(gateway);
        assert_eq!(fixture.outcomes("disconnected"), 0.0, "the client did not go away");
        fixture.assert_at_rest();
    }
}

#[test]
fn kinds_of_messages_that_are_newer_than_this_picker_are_passed_over() {
    let fixture = Fixture::new();
    let mut gateway = fixture.open(DUPLEX);
    gateway.send(post(CHAT));
    gateway.exchange.on(ProcessingRequest::default(), gateway.now);
    assert_eq!(gateway.send(body(chat("hi"), true)).len(), 2);
}

/// A stream up to some point.
fn stages() -> Vec<(&'static str, Vec<Request>)> {
    let whole = chat("hi");
    let asked = vec![post(CHAT), body(whole.clone(), true)];
    let replied = [asked.clone(), vec![answered("200", "text/event-stream", false)]].concat();
    let streamed = [replied.clone(), vec![answer_body("data: {}\n\n", false)]].concat();
    let done = [streamed.clone(), vec![answer_body("", true)]].concat();
    vec![
        ("opened", vec![]),
        ("headers", vec![post(CHAT)]),
        ("mid-body", vec![post(CHAT), body(whole[..9].to_vec(), false)]),
        ("decided", vec![post("/opaque"), body("abc", false)]),
        ("asked", asked),
        ("replied", replied),
        ("streaming", streamed),
        ("done", done),
    ]
}

#[test]
fn a_gateway_that_leaves_at_any_moment_leaves_nothing_behind() {
    for (name, script) in stages() {
        for is_broken in [false, true] {
            let fixture = Fixture::new();
            let mut gateway = fixture.open(DUPLEX);
            gateway.send_all(script.clone());
            let mut told = gateway.answers.len();
            if is_broken {
                gateway.exchange.on_broken(&tonic::Status::out_of_range("a message of 5 MB"));
            } else {
                gateway.exchange.on_closed();
            }
            told += gateway.drain().len();
            assert_eq!(told, gateway.answers.len(), "there is no one to tell");
            let end = gateway.end().unwrap();
            let expected = match (name, is_broken) {
                ("done", _) | ("opened", false) => "ok",
                (_, false) => "Cancelled: the gateway closed the stream before the response was whole",
                (_, true) => "Aborted: the gateway's stream broke: a message of 5 MB",
            };
            assert_eq!(end, expected, "{name}");
            drop(gateway);
            fixture.assert_at_rest();
            let picked = f64::from(u8::from(matches!(name, "asked" | "replied" | "streaming")));
            assert_eq!(fixture.outcomes("disconnected"), picked, "{name}");
        }
    }
}

#[test]
fn dropping_a_stream_without_a_word_leaves_nothing_behind() {
    for (_, script) in stages() {
        let fixture = Fixture::new();
        let mut gateway = fixture.open(DUPLEX);
        gateway.send_all(script);
        drop(gateway);
        fixture.assert_at_rest();
    }
}

#[test]
fn shutdown_answers_what_it_can_and_breaks_the_rest() {
    for (name, script) in stages() {
        let fixture = Fixture::new();
        let mut gateway = fixture.open(DUPLEX);
        gateway.send_all(script);
        gateway.exchange.on_shutdown();
        let (told, end) = (gateway.drain(), gateway.end().unwrap());
        match name {
            "opened" | "replied" | "streaming" => {
                assert!(told.is_empty(), "{name}");
                assert!(end.starts_with("Unavailable: shutting-down"), "{name} ended with {end}");
            }
            "done" => assert_eq!((told.len(), end.as_str()), (0, "ok")),
            _ => {
                assert_eq!(told, ["immediate 503 shutting-down"], "{name}");
                assert_eq!(end, "ok", "{name}");
            }
        }
        drop(gateway);
        fixture.assert_at_rest();
    }
}

#[test]
fn shutdown_leaves_a_response_alone_that_needs_no_more_answers() {
    use BodySendMode::{BufferedPartial, FullDuplexStreamed, None as NoBody};
    for (mode, rest) in [(NoBody, vec![]), (BufferedPartial, vec![answer_body("abc", false)])] {
        let fixture = Fixture::new();
        let mut gateway = fixture.open(modes(FullDuplexStreamed, mode, false));
        gateway.send_all([post(CHAT), body(chat("hi"), true), answered("200", "", false)]);
        gateway.send_all(rest);
        gateway.exchange.on_shutdown();
        assert_eq!((gateway.drain().len(), gateway.end().as_deref()), (0, Some("ok")));
        drop(gateway);
        assert_eq!(fixture.outcomes("ok"), 1.0);
        fixture.assert_at_rest();
    }
}

#[test]
fn shutdown_does_not_cut_a_request_whose_response_came_early() {
    let fixture = Fixture::new();
    let mut gateway = fixture.open(DUPLEX);
    gateway.send_all([post("/opaque"), body("abc", false), answered("413", "", true)]);
    gateway.exchange.on_shutdown();
    assert!(gateway.end().unwrap().starts_with("Unavailable"), "chunks are still to be returned");
}

#[test]
fn a_gateway_may_answer_by_itself_before_the_decision() {
    let fixture = Fixture::new();
    for mode in [BodySendMode::FullDuplexStreamed, BodySendMode::Buffered] {
        let mut gateway = fixture.open(modes(mode, BodySendMode::FullDuplexStreamed, false));
        gateway.send(post(CHAT));
        if mode == BodySendMode::FullDuplexStreamed {
            gateway.send(body("{", false));
        }
        let told = gateway.send_all([answered("504", "text/plain", false), answer_body("timeout", true)]);
        assert_eq!(told, ["response-headers", "response-piece 7 end"]);
        assert_eq!(fixture.shared.budget.held(), 0, "the request goes nowhere");
        assert!(gateway.send(body("}", true)).is_empty());
        gateway.exchange.on_closed();
        assert_eq!(gateway.end().as_deref(), Some("ok"));
        drop(gateway);
        assert!(fixture.pool().explanations(1, None).is_empty());
        fixture.assert_at_rest();
    }
}

#[test]
fn refuses_with_503_when_nothing_is_eligible() {
    let fixture = Fixture::with_endpoints(&[]);
    for script in [vec![get("/")], vec![post(CHAT), body(chat("hi"), true)]] {
        let mut gateway = fixture.open(DUPLEX);
        assert_eq!(gateway.send_all(script), ["immediate 503 no-ready-endpoint"]);
        assert_eq!(gateway.end().as_deref(), Some("ok"));
    }
    assert_eq!(fixture.series(r#"errors_total{reason="no-ready-endpoint"}"#), 2.0);
}

#[test]
fn bad_bodies_are_refused_in_every_mode_that_reads_them() {
    use BodySendMode::{Buffered, BufferedPartial, FullDuplexStreamed, Streamed};
    for (text, code) in [
        (&br#"{"model":"#[..], "bad-json"),
        (b"not json", "bad-json"),
        (b"", "bad-json"),
        (b"\xff\xfe", "bad-json"),
        (br#"{"messages":[]}"#, "model-missing"),
        (br#"{"model":null}"#, "model-missing"),
        (br#"{"model":"m","model":"m"}"#, "duplicate-key"),
    ] {
        for (mode, eager) in
            [(Buffered, false), (BufferedPartial, false), (FullDuplexStreamed, false), (Streamed, true)]
        {
            let fixture = Fixture::new();
            let mut gateway = fixture.open(modes(mode, FullDuplexStreamed, eager));
            let told = gateway.send_all([post(CHAT), body(text, true)]);
            assert_eq!(told.last().unwrap(), &format!("immediate 400 {code}"), "{mode:?} {text:?}");
            assert_eq!(gateway.end().as_deref(), Some("ok"));
            drop(gateway);
            fixture.assert_at_rest();
        }
    }
}

#[test]
fn a_panic_costs_the_request_whatever_had_been_said_before() {
    let fixture = Fixture::new();
    for (script, told, end) in [
        (vec![], vec![], "Internal"),
        (vec![post(CHAT)], vec!["immediate 500 internal"], "ok"),
        (vec![post(CHAT), body("nonsense", true)], vec!["immediate 500 internal"], "ok"),
        (vec![get("/"), answered("200", "", false)], vec![], "Internal"),
    ] {
        let mut gateway = fixture.open(DUPLEX);
        for message in script {
            gateway.exchange.on(
                ProcessingRequest { request: Some(message), protocol_config: DUPLEX, ..Default::default() },
                gateway.now,
            );
        }
        gateway.exchange.on_panic();
        assert_eq!(gateway.drain(), told);
        assert!(gateway.end().unwrap().starts_with(end));
        drop(gateway);
        fixture.assert_at_rest();
    }
    assert_eq!(fixture.series("panics_total"), 4.0);
}
