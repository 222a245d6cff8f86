//! Claims about the exchange of a model's name, over bodies, names and cuts of every kind.

use pointsman_core::prefix::PrefixLayout;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::api::Api;
use crate::body_facts::BodyReader;

/// Reads a body in chunks and exchanges its model's name.
fn rewritten(chunks: &[Bytes], model: &str) -> (Vec<u8>, Rewrite) {
    let mut reader = BodyReader::new(Api::Chat, PrefixLayout::default());
    chunks.iter().for_each(|chunk| reader.feed(chunk).unwrap());
    reader.finish().unwrap();
    let rewrite = Rewrite::new(reader.model_span().unwrap(), model);
    let mut bytes = Vec::new();
    let mut from = 0;
    for chunk in chunks {
        match rewrite.parts(from, chunk) {
            None => bytes.extend_from_slice(chunk),
            Some(parts) => bytes.extend_from_slice(&joined(&parts)),
        }
        from += chunk.len() as u64;
    }
    (bytes, rewrite)
}

/// `body` cut at these places.
fn cut(body: &[u8], mut places: Vec<usize>) -> Vec<Bytes> {
    places.iter_mut().for_each(|place| *place = (*place).min(body.len()));
    places.extend([0, body.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| Bytes::copy_from_slice(&body[pair[0]..pair[1]])).collect()
}

#[test]
fn only_the_name_at_the_top_is_exchanged() {
    for (body, expected) in [
        (r#"{"model":"m"}"#, r#"{"model":"a\"b"}"#),
        (" { \"x\" : [1], \"model\" :\t\"m\" } ", " { \"x\" : [1], \"model\" :\t\"a\\\"b\" } "),
        (r#"{"m\u006fdel":"\u006d","metadata":{"model":"m"}}"#, r#"{"m\u006fdel":"a\"b","metadata":{"model":"m"}}"#),
        (
            r#"{"messages":[{"role":"user","content":"\"model\":\"m\"","model":"m"}],"model":"m"}"#,
            r#"{"messages":[{"role":"user","content":"\"model\":\"m\"","model":"m"}],"model":"a\"b"}"#,
        ),
    ] {
        for len in 1..=body.len() {
            let chunks: Vec<_> = body.as_bytes().chunks(len).map(Bytes::copy_from_slice).collect();
            let (bytes, _) = rewritten(&chunks, "a\"b");
            assert_eq!(String::from_utf8(bytes).unwrap(), expected, "in pieces of {len}");
        }
    }
}

#[test]
fn what_stays_of_a_chunk_is_taken_by_reference() {
    let chunk = Bytes::from_static(br#"{"messages":[],"model":"m","stream":true}"#);
    let [ahead, _, behind] = Rewrite::new(23..26, "other").parts(0, &chunk).unwrap();
    assert_eq!((&*ahead, &*behind), (&chunk[..23], &chunk[26..]));
    assert!(chunk.as_ptr_range().contains(&ahead.as_ptr()) && chunk.as_ptr_range().contains(&behind.as_ptr()));
}

/// Any JSON, with our own keys among its keys.
fn any_value() -> impl Strategy<Value = Value> {
    let key = prop_oneof![Just("model".to_owned()), Just("name".to_owned()), ".{0,6}"];
    let leaf = prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key.clone(), inner, 0..4).prop_map(|members| members.into_iter().collect()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn a_rewritten_body_is_the_same_but_for_its_model(
        before in prop::collection::btree_map("[a-z]{1,3}[0-9]", any_value(), 0..4),
        after in prop::collection::btree_map("[A-Z]{1,3}[0-9]", any_value(), 0..4),
        asked in ".{1,20}",
        named in ".{1,40}",
        pretty in any::<bool>(),
        places in prop::collection::vec(0..400_usize, 0..12),
    ) {
        // The model stands between the others, wherever these end.
        let write = |value: &Value| if pretty { format!("{value:#}") } else { value.to_string() };
        let member = |(key, value): (&String, &Value)| format!("{}:{}", json!(key), write(value));
        let [head, tail] = [&before, &after].map(|members| members.iter().map(member).collect::<Vec<_>>());
        let body_of = |model: &str| {
            let own = format!("\"model\" : {}", json!(model));
            let members: Vec<_> = head.iter().cloned().chain([own]).chain(tail.iter().cloned()).collect();
            format!("{{{}}}", members.join(" ,\n"))
        };
        let body = body_of(&asked);
        let chunks = cut(body.as_bytes(), places);
        let (bytes, rewrite) = rewritten(&chunks, &named);
        prop_assert_eq!(std::str::from_utf8(&bytes).unwrap(), body_of(&named));

        let mut original: Map<String, Value> = serde_json::from_str(&body).unwrap();
        original.insert("model".into(), named.into());
        prop_assert_eq!(serde_json::from_slice::<Map<String, Value>>(&bytes).unwrap(), original);

        let touched = |chunks: &[Bytes]| {
            let mut from = 0;
            let mut total = 0;
            for chunk in chunks {
                total += rewrite.parts(from, chunk).map_or(0, |parts| joined(&parts).len());
                from += chunk.len() as u64;
            }
            total
        };
        prop_assert_eq!(rewrite.copied(&chunks), touched(&chunks));
    }
}
