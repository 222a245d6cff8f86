//! What is counted, on the endpoint and in the metrics.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::super::*;
use super::fixture::*;

const M: &str = r#"{pool="default/p",model="m"}"#;

#[test]
fn load_is_counted_from_the_pick_to_the_end_of_the_response() {
    let fixture = Fixture::new();
    let cell = &fixture.cells()[0];
    let load = || (cell.in_flight(), cell.in_flight_tokens() > 0, cell.streaming());
    let mut gateway = fixture.open(DUPLEX);
    gateway.send(post(CHAT));
    assert_eq!(load(), (0, false, 0));
    gateway.send(body(chat("a longer prompt"), true));
    assert_eq!(load(), (1, true, 0));
    gateway.send(answered("200", "text/event-stream", false));
    assert_eq!(load(), (1, true, 1));
    gateway.send(answer_body("data: {}\n\n", false));
    assert_eq!(load(), (1, true, 1));
    gateway.send(answer_body("", true));
    assert_eq!(load(), (0, false, 0));
    drop(gateway);
    fixture.assert_at_rest();
}

#[test]
fn the_load_moves_to_the_endpoint_that_served() {
    const OTHER: &str = "10.0.0.2:8000";
    for (says, moves) in [(OTHER, true), (HOME, false), ("10.0.0.9:8000", false), ("nonsense", false), ("", false)] {
        let fixture = Fixture::with_endpoints(&[HOME, OTHER]);
        let mut gateway = fixture.open_with(DUPLEX, Opening { takes_list: true, ..Opening::default() });
        gateway.metadata = subset(Some(list(&[HOME])));
        gateway.send(get("/"));
        let in_flight = || fixture.cells().iter().map(|cell| cell.in_flight()).collect::<Vec<_>>();
        assert_eq!(in_flight(), [1, 0]);
        gateway.metadata = served(says);
        gateway.send(answered("200", "", false));
        assert_eq!(in_flight(), if moves { [0, 1] } else { [1, 0] }, "{says}");
        assert_eq!(fixture.cells()[usize::from(moves)].streaming(), 1);
        gateway.send(answer_body("", true));
        assert_eq!(fixture.cells()[usize::from(moves)].tally().answered.load(Ordering::Relaxed), 1);
        fixture.assert_at_rest();
    }
}

#[test]
fn counts_tokens_and_times_of_a_stream_however_it_is_cut() {
    let events = concat!(
        "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"b\"}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"c\"}}]}\n\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":11,\"completion_tokens\":3,",
        "\"prompt_tokens_details\":{\"cached_tokens\":5}}}\n\ndata: [DONE]\n\n",
    );
    for len in [1, 7, 64, events.len()] {
        let fixture = Fixture::new();
        let mut gateway = fixture.open(DUPLEX);
        gateway.send_all([post(CHAT), body(chat("hi"), true)]);
        gateway.wait(Duration::from_secs(1));
        gateway.send(answered("200", "text/event-stream; charset=utf-8", false));
        gateway.wait(Duration::from_secs(1));
        for chunk in events.as_bytes().chunks(len) {
            gateway.send(answer_body(chunk.to_vec(), false));
        }
        gateway.send(answer_body("", true));
        assert_eq!(gateway.returned("response"), events.as_bytes());
        for (name, value) in [
            ("prompt_tokens_total", 11.0),
            ("cached_tokens_total", 5.0),
            ("output_tokens_total", 3.0),
            ("request_ttft_seconds_count", 1.0),
            ("request_ttft_seconds_sum", 2.0),
            ("request_duration_seconds_count", 1.0),
            ("request_duration_seconds_sum", 2.0),
        ] {
            assert_eq!(fixture.series(&format!("{name}{M}")), value, "{name} in pieces of {len}");
        }
        let between = fixture.series(&format!("request_inter_token_seconds_count{M}"));
        assert_eq!(between, if len == events.len() { 0.0 } else { 2.0 }, "pieces of {len}");
        let cells = fixture.cells();
        let tally = cells[0].tally();
        let counted = [&tally.output_tokens, &tally.first_tokens, &tally.ttft_micros];
        assert_eq!(counted.map(|count| count.load(Ordering::Relaxed)), [3, 1, 2_000_000]);
        assert_eq!(fixture.outcomes("ok"), 1.0);
    }
}

#[test]
fn counts_tokens_of_an_answer_in_one_piece() {
    let fixture = Fixture::new();
    let mut gateway = fixture.open(DUPLEX);
    gateway.send_all([post(CHAT), body(chat("hi"), true), answered("200", "application/json", false)]);
    gateway.wait(Duration::from_millis(1500));
    let usage = r#"{"choices":[],"usage":{"prompt_tokens":4,"completion_tokens":9}}"#;
    gateway.send_all([answer_body(&usage[..20], false), answer_body(&usage[20..], true)]);
    assert_eq!(fixture.series(&format!("output_tokens_total{M}")), 9.0);
    assert_eq!(fixture.series(&format!("request_ttft_seconds_sum{M}")), 1.5);
    assert_eq!(fixture.series(&format!("request_inter_token_seconds_count{M}")), 0.0);
    let first_tokens = fixture.cells()[0].tally().first_tokens.load(Ordering::Relaxed);
    assert_eq!(first_tokens, 0, "the first byte of a whole answer is no first token");
}

#[test]
fn outcomes_go_by_the_responses_status() {
    for (status, outcome, failed) in [
        ("200", "ok", 0),
        ("204", "ok", 0),
        ("304", "ok", 0),
        ("400", "client-error", 0),
        ("429", "client-error", 0),
        ("499", "client-error", 0),
        ("500", "server-error", 1),
        ("503", "server-error", 1),
    ] {
        let fixture = Fixture::new();
        let mut gateway = fixture.open(DUPLEX);
        gateway.send_all([post(CHAT), body(chat("hi"), true)]);
        gateway.send_all([answered(status, "text/html", false), answer_body("<html>", true)]);
        assert_eq!(gateway.returned("response"), b"<html>", "an error's body goes through untouched");
        gateway.exchange.on_closed();
        drop(gateway);
        assert_eq!(fixture.outcomes(outcome), 1.0, "{status}");
        let tally = fixture.cells()[0].tally().failed.load(Ordering::Relaxed);
        assert_eq!(tally, failed, "{status}");
        assert_eq!(fixture.cells()[0].tally().answered.load(Ordering::Relaxed), 1);
    }
}

#[test]
fn a_request_is_counted_once_whatever_comes_after_its_end() {
    let fixture = Fixture::new();
    let mut gateway = fixture.open(DUPLEX);
    gateway.send_all([post(CHAT), body(chat("hi"), true), answered("200", "", true)]);
    gateway.send_all([answer_body("", true), answer_trailers()]);
    gateway.exchange.on_shutdown();
    gateway.exchange.on_closed();
    drop(gateway);
    let all = ["ok", "client-error", "server-error", "disconnected", "aborted"];
    assert_eq!(all.map(|outcome| fixture.outcomes(outcome)).iter().sum::<f64>(), 1.0);
    assert_eq!(fixture.cells()[0].tally().answered.load(Ordering::Relaxed), 1);
}

#[test]
fn a_prefix_is_believed_once_its_server_answered() {
    let text = "x".repeat(CAP - 20);
    for (is_answered, matched) in [(true, 48.0), (false, 0.0)] {
        let fixture = Fixture::new();
        let ask = || {
            let mut gateway = fixture.open(DUPLEX);
            gateway.send_all([post(CHAT), body(chat(&text), true)]);
            gateway
        };
        let mut first = ask();
        if is_answered {
            first.send(answered("200", "", true));
        }
        drop(first);
        assert_eq!(fixture.series(&format!("prefix_matched_tokens_total{M}")), 0.0);
        drop(ask());
        assert_eq!(fixture.series(&format!("prefix_matched_tokens_total{M}")), matched);
        assert!(fixture.series(&format!("prefix_matchable_tokens_total{M}")) >= 2.0 * 48.0);
    }
}
