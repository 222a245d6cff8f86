//! Full duplex: what is held, when it goes on, and that every byte of it does.

use super::fixture::*;

/// A chat whose model comes last, so that its facts suffice only at its end.
fn model_last(text: &str) -> Vec<u8> {
    format!(r#"{{"messages":[{{"role":"user","content":"{text}"}}],"model":"m"}}"#).into_bytes()
}

#[test]
fn holds_the_headers_until_the_facts_suffice_then_returns_every_byte_by_reference() {
    let fixture = Fixture::new();
    let whole = bytes::Bytes::from(model_last(&"x".repeat(199_000)));
    let mut gateway = fixture.open(DUPLEX);
    assert!(gateway.send(post(CHAT)).is_empty());
    let chunks: Vec<_> =
        (0..whole.len()).step_by(70_000).map(|at| whole.slice(at..whole.len().min(at + 70_000))).collect();
    let (last, first) = chunks.split_last().unwrap();
    for chunk in first {
        assert!(gateway.send(body(chunk.clone(), false)).is_empty(), "the model is not known yet");
    }
    assert!(fixture.shared.budget.held() >= first.len() * 70_000);
    let told = gateway.send(body(last.clone(), true));
    let (head, pieces) = told.split_first().unwrap();
    assert_eq!(head, "request-headers to 10.0.0.1:8000");
    assert!(pieces.iter().all(|piece| piece.starts_with("request-piece")), "{pieces:?}");
    assert_eq!(pieces.iter().filter(|piece| piece.ends_with("end")).count(), 1);
    assert!(pieces.last().unwrap().ends_with("end"));
    assert_eq!(gateway.returned("request"), whole);
    let range = whole.as_ptr_range();
    for (_, bytes, _) in gateway.answers.iter().filter_map(piece) {
        assert!(range.contains(&bytes.as_ptr()), "a piece was copied");
    }
    assert_eq!(fixture.shared.budget.held(), 0);
    assert_eq!(fixture.cells()[0].in_flight(), 1);
}

#[test]
fn returns_long_chunks_of_a_response_in_pieces_and_in_order() {
    let fixture = Fixture::new();
    let mut gateway = fixture.open(DUPLEX);
    gateway.send_all([get("/"), answered("200", "application/octet-stream", false)]);
    let whole: Vec<u8> = (0..150_000_u32).map(|n| (n / 100) as u8).collect();
    let told = gateway.send(answer_body(whole.clone(), true));
    assert_eq!(told, ["response-piece 62000", "response-piece 62000", "response-piece 26000 end"]);
    assert_eq!(gateway.returned("response"), whole);
}

#[test]
fn what_is_held_stays_counted_until_the_gateway_takes_it() {
    let fixture = Fixture::new();
    let mut gateway = fixture.open(DUPLEX);
    gateway.send(post(CHAT));
    let message =
        crate::pb::ProcessingRequest { request: Some(body(chat(&"x".repeat(100_000)), true)), ..Default::default() };
    gateway.exchange.on(message, gateway.now);
    assert!(gateway.exchange.next_answer().is_some());
    assert!(fixture.shared.budget.held() > 100_000, "its pieces are not sent yet");
    gateway.drain();
    assert_eq!(fixture.shared.budget.held(), 0);
}

#[test]
fn decides_at_the_prompts_cap_and_passes_the_rest_through() {
    let fixture = Fixture::new();
    let text = "x".repeat(4 * CAP);
    let whole = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{text}"}}]}}"#).into_bytes();
    let mut gateway = fixture.open(DUPLEX);
    gateway.send(post(CHAT));
    let (first, rest) = whole.split_at(2 * CAP);
    let told = gateway.send(body(first.to_vec(), false));
    assert_eq!(told, ["request-headers to 10.0.0.1:8000", &format!("request-piece {}", first.len())]);
    assert_eq!(fixture.shared.budget.held(), 0);
    let (second, third) = rest.split_at(10);
    assert_eq!(gateway.send(body(second.to_vec(), false)), ["request-piece 10"]);
    assert_eq!(gateway.send(body(third.to_vec(), true)), [format!("request-piece {} end", third.len())]);
    assert_eq!(gateway.returned("request"), whole);
    assert_eq!(gateway.end(), None);
}

#[test]
fn a_body_that_turns_out_unfit_after_the_decision_is_still_refused() {
    let begin = format!(r#"{{"model":"m","prompt":"{}""#, "x".repeat(2 * CAP));
    for (rest, ends, refusal) in [
        (r#","model":"n"}"#.to_owned(), true, "immediate 400 duplicate-key"),
        (r#","prompt":"again""#.to_owned(), false, "immediate 400 duplicate-key"),
        (r#"} {"#.to_owned(), true, "immediate 400 bad-json"),
        (String::new(), true, "immediate 400 bad-json"),
        (format!(r#","x":"{}""#, "y".repeat(10_000)), false, "immediate 413 body-too-large"),
    ] {
        for by_trailers in [false, true] {
            if by_trailers && !(ends && refusal.ends_with("bad-json")) {
                continue;
            }
            let limits = super::super::Limits { max_body_size: 10_000, ..Default::default() };
            let fixture = Fixture::with_limits(limits);
            let mut gateway = fixture.open(DUPLEX);
            gateway.send(post("/v1/completions"));
            assert_eq!(gateway.send(body(begin.clone(), false)).len(), 2);
            let mut told = gateway.send(body(rest.clone(), ends && !by_trailers));
            if by_trailers && told.iter().all(|one| !one.starts_with("immediate")) {
                told = gateway.send(trailers());
            }
            assert_eq!(told, [refusal], "{rest}");
            assert_eq!(gateway.end().as_deref(), Some("ok"));
            fixture.assert_at_rest();
            assert_eq!(fixture.outcomes("aborted"), 1.0);
        }
    }
}

#[test]
fn unfit_after_the_response_began_ends_with_an_error() {
    let begin = format!(r#"{{"model":"m","prompt":"{}""#, "x".repeat(2 * CAP));
    for (rest, code) in [(r#","model":"n"}"#.to_owned(), "InvalidArgument"), ("y".repeat(10_000), "ResourceExhausted")]
    {
        let fixture = Fixture::with_limits(super::super::Limits { max_body_size: 10_000, ..Default::default() });
        let mut gateway = fixture.open(DUPLEX);
        gateway.send(post("/v1/completions"));
        gateway.send(body(begin.clone(), false));
        gateway.send(answered("200", "text/event-stream", false));
        assert!(gateway.send(body(rest, false)).is_empty());
        assert!(gateway.end().unwrap().starts_with(code));
        fixture.assert_at_rest();
    }
}

#[test]
fn a_second_end_of_stream_is_passed_over() {
    for again in ["", "{\"model\":\"n\"}"] {
        let fixture = Fixture::new();
        let mut gateway = fixture.open(DUPLEX);
        let told = gateway.send_all([post(CHAT), body(chat("hi"), true)]);
        assert_eq!(told.len(), 2);
        assert!(gateway.send(body(again, true)).is_empty());
        assert_eq!(gateway.end(), None);
        assert_eq!(fixture.series("repeated_ends_total"), 1.0);
        assert_eq!(fixture.pool().explanations(10, None).len(), 1);
        gateway.send_all([answered("200", "text/plain", false), answer_body("a", true)]);
        assert!(gateway.send(answer_body(again, true)).is_empty());
        assert_eq!(fixture.series("repeated_ends_total"), 2.0);
    }
}

#[test]
fn how_a_body_is_cut_makes_no_difference() {
    let fixture = Fixture::new();
    let whole = chat("a story about a pointsman");
    let mut seen = Vec::new();
    for (len, empty_last) in [(whole.len(), false), (whole.len(), true), (1, false), (1, true), (7, true)] {
        let mut gateway = fixture.open(DUPLEX);
        gateway.send(post(CHAT));
        let chunks: Vec<_> = whole.chunks(len).collect();
        for (at, chunk) in chunks.iter().enumerate() {
            gateway.send(body(chunk.to_vec(), at + 1 == chunks.len() && !empty_last));
        }
        if empty_last {
            gateway.send(body("", true));
        }
        assert_eq!(gateway.returned("request"), whole, "pieces of {len}");
        let ends: Vec<_> = gateway.answers.iter().filter_map(piece).map(|piece| piece.2).collect();
        assert_eq!(ends.iter().filter(|end| **end).count(), 1);
        assert_eq!(ends.last(), Some(&true));
        let why = fixture.pool().explanations(1, None).remove(0);
        seen.push((why.model, why.prompt_tokens));
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{seen:?}");
    fixture.assert_at_rest();
}

#[test]
fn trailers_come_after_all_that_went_before_them() {
    let (whole, len) = (chat("hi"), chat("hi").len());
    let to = "request-headers to 10.0.0.1:8000".to_owned();
    for (script, told) in [
        (
            vec![post(CHAT), body(whole.clone(), false), trailers()],
            vec![to.clone(), format!("request-piece {len}"), "request-trailers".into()],
        ),
        (
            vec![post(CHAT), body(whole[..9].to_vec(), false), body(whole[9..].to_vec(), false), trailers()],
            vec![to.clone(), "request-piece 9".into(), format!("request-piece {}", len - 9), "request-trailers".into()],
        ),
        (vec![post("/v1/models"), trailers()], vec![to.clone(), "request-trailers".into()]),
        (
            vec![post("/up"), body("abc", false), trailers()],
            vec![to, "request-piece 3".into(), "request-trailers".into()],
        ),
        (vec![post(CHAT), trailers()], vec!["immediate 400 bad-json".into()]),
        (vec![post(CHAT), body(whole[..9].to_vec(), false), trailers()], vec!["immediate 400 bad-json".into()]),
    ] {
        let fixture = Fixture::new();
        let mut gateway = fixture.open(DUPLEX);
        assert_eq!(gateway.send_all(script), told);
        if !told[0].starts_with("immediate") {
            let told = gateway.send_all([answered("200", "x", false), answer_body("abc", false), answer_trailers()]);
            assert_eq!(told, ["response-headers", "response-piece 3", "response-trailers"]);
            gateway.exchange.on_closed();
        }
        assert_eq!(gateway.end().as_deref(), Some("ok"));
        fixture.assert_at_rest();
    }
}
