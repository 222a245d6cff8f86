//! Rules for models on the wire: what goes on in which mode, to the byte, and what it costs meanwhile.

use std::sync::Arc;

use pointsman_core::facts::Model;
use pointsman_core::models::{HeaderMatch, ModelMatch, ModelRule, ModelRules, ModelTarget};
use pointsman_core::policy::Policy;
use proptest::prelude::*;

use super::super::BodySendMode::{self, Buffered, BufferedPartial, FullDuplexStreamed, None as NoBody, Streamed};
use super::super::{Limits, Trust};
use super::fixture::*;
use crate::pb::Request;

const TO: &str = "request-headers to 10.0.0.1:8000";
const REWRITTEN: &str = "request-headers to 10.0.0.1:8000 without content-length";
/// What takes the place of `m`: longer, and with what must be escaped.
const TARGET: &str = "m-\"v2\"";

fn rule(model: Option<&str>, headers: &[(&str, &str)], target: &str) -> ModelRule {
    let header = |(name, value): &(&str, &str)| HeaderMatch { name: (*name).into(), value: (*value).into() };
    ModelRule {
        name: "rule".into(),
        matches: vec![ModelMatch { model: model.map(Into::into), headers: headers.iter().map(header).collect() }],
        targets: vec![ModelTarget { model: Some(Model::new(target)), ..ModelTarget::default() }],
        priority: None,
    }
}

/// `m` becomes [`TARGET`]; anything with `x-beta: 1` becomes `beta`.
fn rules() -> ModelRules {
    ModelRules::new(vec![rule(None, &[("x-beta", "1")], "beta"), rule(Some("m"), &[], TARGET)])
}

fn fixture() -> Fixture {
    Fixture::with_models(Limits::default(), &[HOME], rules())
}

/// The body that the server gets, put together from what the gateway was told and what it holds itself.
fn arrived(gateway: &Gateway, mode: BodySendMode, sent: &[Vec<u8>]) -> Vec<u8> {
    if mode == FullDuplexStreamed {
        return gateway.returned("request");
    }
    let answers = gateway.answers.iter().filter(|answer| say(answer).starts_with("request-body"));
    let given =
        answers.zip(sent).flat_map(|(answer, chunk)| changed(answer).map_or(chunk.clone(), |bytes| bytes.to_vec()));
    given.collect()
}

#[test]
fn the_model_is_exchanged_in_every_mode_that_shows_the_body_before_the_pick() {
    let (whole, expected) = (chat("hi"), chat_of(TARGET, "hi"));
    let at = whole.windows(4).position(|four| four == b"\"m\"}" || four == b"\"m\",").unwrap();
    // Cut ahead of the name, within it, and behind it.
    let cuts = [vec![], vec![at], vec![at + 1], vec![at + 1, at + 2], vec![at + 3], vec![at, at + 3]];
    for (mode, eager) in [(FullDuplexStreamed, false), (Streamed, true), (Buffered, false), (BufferedPartial, false)] {
        for cuts in &cuts {
            let is_buffered = matches!(mode, Buffered | BufferedPartial);
            let mut chunks = Vec::new();
            let mut from = 0;
            for at in cuts.iter().filter(|_| !is_buffered) {
                chunks.push(whole[from..*at].to_vec());
                from = *at;
            }
            chunks.push(whole[from..].to_vec());
            let fixture = fixture();
            let mut gateway = fixture.open(modes(mode, FullDuplexStreamed, eager));
            let mut told = gateway.send(post(CHAT));
            let last = chunks.len() - 1;
            for (at, chunk) in chunks.iter().enumerate() {
                told.extend(gateway.send(body(chunk.clone(), at == last)));
            }
            let what = format!("{mode:?}, cut at {cuts:?}: {told:?}");
            assert_eq!(
                String::from_utf8(arrived(&gateway, mode, &chunks)),
                String::from_utf8(expected.clone()),
                "{what}"
            );
            let bears = |one: &&String| one.contains(" to 10.0.0.1:8000");
            let destination = told.iter().find(bears).unwrap();
            assert!(destination.ends_with(" without content-length"), "{what}");
            if mode == FullDuplexStreamed {
                assert_eq!(told.iter().filter(|one| one.ends_with(" end")).count(), 1, "{what}");
            } else {
                assert_eq!(told.iter().filter(|one| one.starts_with("request-body")).count(), chunks.len(), "{what}");
            }
            assert_eq!(fixture.shared.budget.held(), 0, "{what}");
            let why = fixture.pool().explanations(1, None).remove(0);
            assert_eq!((why.model.as_deref(), why.target_model.as_deref()), (Some("m"), Some(TARGET)));
            drop(gateway);
            fixture.assert_at_rest();
            assert_eq!(fixture.outcomes("disconnected"), 1.0, "the model of the metrics is the asked one");
        }
    }
}

#[test]
fn a_pick_by_headers_alone_rewrites_nothing() {
    for (mode, eager) in [(NoBody, false), (Streamed, false)] {
        let fixture = fixture();
        let mut gateway = fixture.open(modes(mode, NoBody, eager));
        assert_eq!(gateway.send(post_with(CHAT, &[("x-beta", "1")])), [TO]);
        if mode == Streamed {
            assert_eq!(gateway.send(body(chat("hi"), true)), ["request-body"]);
        }
    }
    let fixture = fixture();
    for request in [get("/v1/models"), post_with("/v1/audio", &[("x-beta", "1")])] {
        assert_eq!(fixture.open(DUPLEX).send(request), [TO]);
    }
}

#[test]
fn a_body_that_is_cut_short_by_the_gateway_is_rewritten_as_far_as_its_model_was_seen() {
    let (whole, expected) = (chat_of("m", &"x".repeat(500)), chat_of(TARGET, &"x".repeat(500)));
    let is_first = whole.starts_with(b"{\"model\"");
    for len in [4, whole.len() - 20] {
        let fixture = fixture();
        let mut gateway = fixture.open(modes(BufferedPartial, NoBody, false));
        let told = gateway.send_all([post(CHAT), body(whole[..len].to_vec(), false)]);
        let given = changed(gateway.answers.last().unwrap());
        if is_first && len > 12 {
            assert_eq!(
                told[1],
                format!("request-body of {} to 10.0.0.1:8000 without content-length", given.as_ref().unwrap().len())
            );
            assert!(expected.starts_with(&given.unwrap()));
        } else {
            assert_eq!((told[1].as_str(), given), ("request-body to 10.0.0.1:8000", None));
        }
    }
}

#[test]
fn headers_choose_the_rule_in_every_mode_and_one_of_a_headers_values_is_enough() {
    for (headers, model) in [
        (&[("x-beta", "1")][..], "beta"),
        (&[("X-Beta", "1")], "beta"),
        (&[("x-beta", "0"), ("x-beta", "1")], "beta"),
        (&[("x-beta", "11")], TARGET),
        (&[("x-beta", "")], TARGET),
        (&[("x-bet", "1")], TARGET),
        (&[], TARGET),
    ] {
        for (mode, eager) in
            [(FullDuplexStreamed, false), (Streamed, true), (Buffered, false), (BufferedPartial, false)]
        {
            let fixture = fixture();
            let mut gateway = fixture.open(modes(mode, NoBody, eager));
            gateway.send(post_with(CHAT, headers));
            assert!(fixture.shared.budget.held() > 0, "kept headers are counted");
            gateway.send(body(chat("hi"), true));
            assert_eq!(arrived(&gateway, mode, &[chat("hi")]), chat_of(model, "hi"), "{mode:?} {headers:?}");
            drop(gateway);
            fixture.assert_at_rest();
        }
    }
}

#[test]
fn headers_are_kept_only_for_rules_that_ask_for_them_and_only_within_the_budget() {
    let without = Fixture::with_models(Limits::default(), &[HOME], ModelRules::new(vec![rule(Some("m"), &[], TARGET)]));
    let mut gateway = without.open(DUPLEX);
    gateway.send(post_with(CHAT, &[("x-beta", "1")]));
    assert_eq!(without.shared.budget.held(), 0);

    let small = Limits { buffer_budget: 2_000, ..Limits::default() };
    for mode in [FullDuplexStreamed, Buffered] {
        let fixture = Fixture::with_models(small, &[HOME], rules());
        let mut gateway = fixture.open(modes(mode, NoBody, false));
        let long = "v".repeat(3_000);
        assert_eq!(gateway.send(post_with(CHAT, &[("x-long", &long)])), ["immediate 503 buffer-full"]);
        drop(gateway);
        fixture.assert_at_rest();
    }
}

#[test]
fn copies_of_a_body_are_counted_and_stay_within_the_budget() {
    let whole = chat(&"x".repeat(1_000));
    for (mode, eager) in [(Buffered, false), (Streamed, true)] {
        let models = || ModelRules::new(vec![rule(Some("m"), &[], TARGET)]);
        let fixture = Fixture::with_models(
            Limits { buffer_budget: 2 * whole.len() - 10, ..Limits::default() },
            &[HOME],
            models(),
        );
        let mut gateway = fixture.open(modes(mode, NoBody, eager));
        let told = gateway.send_all([post(CHAT), body(whole.clone(), true)]);
        assert_eq!(told.last().unwrap(), "immediate 503 buffer-full", "{mode:?}");
        drop(gateway);
        fixture.assert_at_rest();

        let fixture = Fixture::with_models(
            Limits { buffer_budget: 2 * whole.len() + 200, ..Limits::default() },
            &[HOME],
            models(),
        );
        let mut gateway = fixture.open(modes(mode, NoBody, eager));
        gateway.send(post(CHAT));
        let request = Some(body(whole.clone(), true));
        gateway.exchange.on(crate::pb::ProcessingRequest { request, ..Default::default() }, gateway.now);
        assert!(fixture.shared.budget.held() >= 2 * whole.len(), "{mode:?}");
        gateway.drain();
        assert_eq!(fixture.shared.budget.held(), 0, "{mode:?}");
    }
}

#[test]
fn what_is_not_exchanged_goes_back_by_reference_and_within_what_envoy_takes() {
    let fixture = fixture();
    let text = "x".repeat(150_000);
    let whole = bytes::Bytes::from(format!(r#"{{"messages":[{{"role":"user","content":"{text}"}}],"model":"m"}}"#));
    let mut gateway = fixture.open(DUPLEX);
    gateway.send(post("/v1/chat/completions"));
    let told = gateway.send(body(whole.clone(), true));
    assert_eq!(told[0], REWRITTEN);
    let pieces: Vec<_> = gateway.answers.iter().filter_map(piece).collect();
    let elsewhere = pieces.iter().filter(|(_, bytes, _)| !whole.as_ptr_range().contains(&bytes.as_ptr()));
    assert_eq!(elsewhere.map(|(_, bytes, _)| &**bytes).collect::<Vec<_>>(), [&br#""m-\"v2\"""#[..]]);
    let expected = format!(r#"{{"messages":[{{"role":"user","content":"{text}"}}],"model":"m-\"v2\""}}"#);
    assert_eq!(gateway.returned("request"), expected.into_bytes());
}

#[test]
fn a_policy_that_changes_while_a_body_comes_counts_as_a_whole_from_the_pick_on() {
    let mut fixture = fixture();
    let mut gateway = fixture.open(DUPLEX);
    let whole = chat("hi");
    let (head, tail) = whole.split_at(whole.len() - 1);
    gateway.send_all([post_with(CHAT, &[("x-new", "1")]), body(head.to_vec(), false)]);
    let policy =
        Policy { models: ModelRules::new(vec![rule(Some("m"), &[("x-new", "1")], "new")]), ..Policy::default() };
    fixture.writers[0].set_policy(Arc::new(policy));
    fixture.writers[0].publish();
    gateway.send(body(tail.to_vec(), true));
    assert_eq!(gateway.returned("request"), chat_of("new", "hi"));
}

#[test]
fn an_objective_is_read_and_passed_on_only_where_it_is_trusted() {
    const OBJECTIVE: &str = "x-gateway-inference-objective";
    const CURRENT: &str = "x-llm-d-inference-objective";
    let long = "u".repeat(254);
    let trusted = Trust { objective: true };
    for (trust, headers, told, objective, priority) in [
        (Trust::default(), &[(OBJECTIVE, "urgent")][..], format!("{TO} without {OBJECTIVE}"), None, 0),
        (trusted, &[(OBJECTIVE, "urgent")], TO.to_owned(), Some("urgent"), 7),
        (trusted, &[(OBJECTIVE, "x"), (CURRENT, "urgent"), (CURRENT, "y")], TO.to_owned(), Some("urgent"), 7),
        (trusted, &[(OBJECTIVE, "unknown")], TO.to_owned(), Some("unknown"), 0),
        (trusted, &[(OBJECTIVE, &long)], TO.to_owned(), None, 0),
        (trusted, &[(OBJECTIVE, "")], TO.to_owned(), None, 0),
        (trusted, &[("x-slo-ttft-ms", "5")], format!("{TO} without x-slo-ttft-ms"), None, 0),
    ] {
        for script in [vec![post_with("/x", headers)], vec![post_with(CHAT, headers), body(chat("hi"), true)]] {
            let fixture = Fixture::with_trust(trust);
            assert_eq!(fixture.open(DUPLEX).send_all(script)[0], told, "{headers:?}");
            let why = fixture.pool().explanations(1, None).remove(0);
            assert_eq!((why.objective.as_deref(), why.priority), (objective, priority), "{headers:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn however_a_body_is_cut_and_wherever_its_model_stands_only_that_is_exchanged(
        text in "\\PC{0,400}",
        is_first in any::<bool>(),
        len in 1..200_usize,
        mode in prop_oneof![Just((FullDuplexStreamed, false)), Just((Streamed, true)), Just((Buffered, false))],
        by_trailers in any::<bool>(),
        empty_last in any::<bool>(),
    ) {
        let (mode, eager) = mode;
        let write = |model: &str| {
            let (model, text) = (serde_json::json!(model), serde_json::json!(text));
            match is_first {
                true => format!(r#"{{"model":{model},"prompt":{text}}}"#),
                false => format!(r#"{{"prompt":{text},"model" : {model} }}"#),
            }
        };
        let whole = write("m").into_bytes();
        let mut chunks: Vec<Vec<u8>> = match mode {
            Buffered => vec![whole],
            _ => whole.chunks(len).map(<[u8]>::to_vec).collect(),
        };
        if empty_last && mode != Buffered {
            chunks.push(Vec::new());
        }
        let fixture = fixture();
        let mut gateway = fixture.open(modes(mode, NoBody, eager));
        gateway.send(post("/v1/completions"));
        let last = chunks.len() - 1;
        for (at, chunk) in chunks.iter().enumerate() {
            let request: Request = body(chunk.clone(), at == last && !by_trailers);
            gateway.send(request);
        }
        if by_trailers {
            gateway.send(trailers());
        }
        prop_assert_eq!(String::from_utf8(arrived(&gateway, mode, &chunks)).unwrap(), write(TARGET));
        prop_assert_eq!(fixture.shared.budget.held(), 0);
        drop(gateway);
        fixture.assert_at_rest();
    }
}
