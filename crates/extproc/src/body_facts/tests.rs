use pointsman_core::prefix::PrefixBlock;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn read(api: Api, body: &str) -> Result<BodyFacts, Unfit> {
    read_in_pieces(api, body.as_bytes(), body.len().max(1))
}

fn read_in_pieces(api: Api, body: &[u8], len: usize) -> Result<BodyFacts, Unfit> {
    let mut reader = BodyReader::new(api, PrefixLayout::default());
    for piece in body.chunks(len) {
        reader.feed(piece)?;
    }
    reader.finish()?;
    Ok(reader.take_facts())
}

fn prefix(api: Api, body: &Value) -> Vec<PrefixBlock> {
    read(api, &body.to_string()).unwrap().prefix
}

fn long(word: &str) -> String {
    word.repeat(3000 / word.len())
}

fn chat(messages: Value) -> Value {
    json!({"model": "m", "messages": messages})
}

#[test]
fn reads_model_stream_and_limit_of_every_api() {
    for (api, body) in [
        (
            Api::Chat,
            json!({"model": "m", "messages": [{"role": "user", "content": "12345678"}], "stream": true, "max_tokens": 7}),
        ),
        (Api::Completions, json!({"max_tokens": 7, "stream": true, "prompt": "12345678", "model": "m"})),
        (Api::Responses, json!({"input": "12345678", "model": "m", "stream": true, "max_output_tokens": 7})),
        (
            Api::Messages,
            json!({"model": "m", "messages": [{"content": "12345678", "role": "user"}], "max_tokens": 7, "stream": true}),
        ),
    ] {
        let facts = read(api, &body.to_string()).unwrap();
        assert_eq!(facts.model, Some(Model::new("m")), "{api:?}");
        assert_eq!((facts.stream, facts.max_output_tokens), (true, Some(7)), "{api:?}");
        assert!((2..=3).contains(&facts.prompt_tokens), "{api:?} {}", facts.prompt_tokens);
    }
}

#[test]
fn refuses_what_the_server_could_read_otherwise() {
    for (body, reason) in [
        ("", Reason::BadJson),
        ("[]", Reason::BadJson),
        ("\"model\"", Reason::BadJson),
        ("5", Reason::BadJson),
        ("{\"model\": \"m\"", Reason::BadJson),
        ("{\"model\": \"m\"} x", Reason::BadJson),
        ("{}", Reason::ModelMissing),
        (r#"{"model": ""}"#, Reason::ModelMissing),
        (r#"{"model": null}"#, Reason::ModelMissing),
        (r#"{"model": 5}"#, Reason::ModelMissing),
        (r#"{"model": {"model": "m"}}"#, Reason::ModelMissing),
        (r#"{"metadata": {"model": "m"}}"#, Reason::ModelMissing),
        (r#"{"model": "a", "model": "b"}"#, Reason::DuplicateKey),
        (r#"{"model": "a", "mod\u0065l": "b"}"#, Reason::DuplicateKey),
        (r#"{"model": "a", "messages": [], "messages": []}"#, Reason::DuplicateKey),
        (r#"{"model": "a", "messages": [{"role": "user", "role": "system"}]}"#, Reason::DuplicateKey),
        (r#"{"model": "a", "messages": [{"content": "x", "content": "y"}]}"#, Reason::DuplicateKey),
    ] {
        assert_eq!(read(Api::Chat, body).unwrap_err().reason, reason, "{body}");
    }
    assert_eq!(read(Api::Chat, &format!("{{\"model\": \"{}\"}}", long("m"))).unwrap_err().reason, Reason::ModelMissing);
    assert!(read(Api::Chat, r#"{"model": "m", "x": 1, "x": 2}"#).is_ok());
}

#[test]
fn key_order_and_white_space_change_nothing() {
    let base = prefix(
        Api::Chat,
        &chat(json!([{"role": "system", "content": long("a ")}, {"role": "user", "content": long("b ")}])),
    );
    assert!(base.len() > 20);
    let text = format!(
        "{{ \"messages\" :\n[ {{ \"content\" : \"{}\", \"role\":\"system\" }} ,\t{{\"content\":\"{}\",\"role\":\"user\"}} ] , \"model\" : \"m\" }}",
        long("a "),
        long("b ")
    );
    assert_eq!(read(Api::Chat, &text).unwrap().prefix, base);
}

#[test]
fn escapes_and_parts_read_as_the_text_they_mean() {
    let text = "\u{fc}\n\"x\" ".repeat(400);
    let plain = prefix(Api::Chat, &chat(json!([{"role": "user", "content": text}])));
    let parts = chat(json!([{"role": "user", "content": [{"type": "text", "text": text}]}]));
    assert_eq!(prefix(Api::Chat, &parts), plain);
    let escaped: String = text.chars().map(|c| format!("\\u{:04x}", c as u32)).collect();
    let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{escaped}"}}]}}"#);
    assert_eq!(read(Api::Chat, &body).unwrap().prefix, plain);
}

#[test]
fn what_differs_in_a_prompt_differs_in_its_blocks() {
    let user = |content: Value| json!({"role": "user", "content": content});
    let base = json!({"model": "m", "messages": [user(json!(long("a ")))]});
    let with = |key: &str, value: Value| {
        let mut body = base.clone();
        body[key] = value;
        prefix(Api::Chat, &body)
    };
    let plain = prefix(Api::Chat, &base);
    for (what, other) in [
        ("model", with("model", json!("n"))),
        ("salt", with("cache_salt", json!("s"))),
        ("tools", with("tools", json!([{"type": "function"}]))),
        ("role", with("messages", json!([{"role": "system", "content": long("a ")}]))),
        ("text", with("messages", json!([user(json!(format!("x{}", long("a "))))]))),
    ] {
        assert_eq!(other.len(), plain.len(), "{what}");
        assert!(other.iter().zip(&plain).all(|(l, r)| l.hash != r.hash), "{what}");
    }
    for (key, value) in [("temperature", json!(0.5)), ("user", json!("u")), ("stream", json!(true))] {
        assert_eq!(with(key, value), plain, "{key}");
    }
}

#[test]
fn tools_are_compared_by_content_and_not_by_white_space() {
    let body = |tools: &str| {
        format!(r#"{{"messages":[{{"role":"user","content":"{}"}}],"tools":{tools},"model":"m"}}"#, long("a "))
    };
    let prefix = |tools: &str| read(Api::Chat, &body(tools)).unwrap().prefix;
    let tools = prefix(r#"[{"type":"function","function":{"name":"f","n":[1,2]}}]"#);
    assert_eq!(prefix("[ {\"type\": \"function\",\n \"function\": {\"name\" : \"f\", \"n\": [1, 2]}} ]"), tools);
    assert_ne!(prefix(r#"[{"type":"function","function":{"name":"g","n":[1,2]}}]"#), tools);
    assert_ne!(prefix(r#"[{"type":"function","function":{"name":"f","n":[12]}}]"#), tools);
}

#[test]
fn a_conversation_shares_its_blocks_with_its_next_turn() {
    let first = json!([{"role": "system", "content": long("s ")}, {"role": "user", "content": long("u ")}]);
    let mut second = first.clone();
    let turns = second.as_array_mut().unwrap();
    turns.push(json!({"role": "assistant", "content": null, "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]}));
    turns.push(json!({"role": "user", "content": long("v ")}));
    let (first, second) = (prefix(Api::Chat, &chat(first)), prefix(Api::Chat, &chat(second)));
    assert_eq!(second[..first.len()], first);
    assert!(second.len() > first.len());
}

#[test]
fn tool_calls_count_and_their_key_order_in_the_message_does_not() {
    let turn = |assistant: &str| {
        format!(r#"{{"model":"m","messages":[{assistant},{{"role":"user","content":"{}"}}]}}"#, long("v "))
    };
    let prefix = |assistant: &str| read(Api::Chat, &turn(assistant)).unwrap().prefix;
    let one = prefix(r#"{"role":"assistant","content":"c","name":"n","tool_calls":[{"id":"1"}]}"#);
    assert_eq!(prefix(r#"{"tool_calls":[{"id":"1"}],"name":"n","content":"c","role":"assistant"}"#), one);
    assert_ne!(prefix(r#"{"role":"assistant","content":"c","name":"n","tool_calls":[{"id":"2"}]}"#), one);
}

#[test]
fn images_count_by_size_and_tell_prompts_apart() {
    let image = |byte: char, bytes: usize| {
        let url = format!("data:image/png;base64,{}", byte.to_string().repeat(bytes));
        chat(json!([{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": url, "detail": "high"}},
            {"type": "text", "text": long("t ")},
        ]}]))
    };
    let facts = |body: &Value| read(Api::Chat, &body.to_string()).unwrap();
    let (small, large) = (facts(&image('A', 1000)), facts(&image('A', 256_000)));
    assert!((990..=1010).contains(&(large.prompt_tokens - small.prompt_tokens)));
    assert_ne!(facts(&image('B', 1000)).prefix[0], small.prefix[0]);
    assert_eq!(facts(&image('A', 1000)).prefix, small.prefix);
}

#[test]
fn prompts_may_be_strings_lists_and_token_ids() {
    let ids: Vec<u32> = (0..640).collect();
    let facts = read(Api::Completions, &json!({"model": "m", "prompt": ids}).to_string()).unwrap();
    assert_eq!((facts.prompt_tokens, facts.prefix.len()), (640, 10));
    let nested = read(Api::Completions, &json!({"model": "m", "prompt": [ids]}).to_string()).unwrap();
    assert_eq!(nested.prefix, facts.prefix);
    let list = read(Api::Embeddings, &json!({"model": "m", "input": [long("a"), long("b")]}).to_string()).unwrap();
    assert!(list.prompt_tokens >= 1500);
}

#[test]
fn a_system_text_counts_first_wherever_it_stands() {
    let body = |order: [&str; 2]| {
        let fields = order.map(|key| match key {
            "system" => format!(
                r#""system":[{{"type":"text","text":"{}","cache_control":{{"type":"ephemeral"}}}}]"#,
                long("s ")
            ),
            _ => format!(r#""messages":[{{"role":"user","content":"{}"}}]"#, long("u ")),
        });
        read(Api::Messages, &format!(r#"{{"model":"m",{},{}}}"#, fields[0], fields[1])).unwrap()
    };
    let (ahead, behind) = (body(["system", "messages"]), body(["messages", "system"]));
    assert_eq!(ahead.prefix, behind.prefix);
    assert!(ahead.prefix.len() > 20 && ahead.prompt_tokens >= 1500);
    let string = format!(r#"{{"model":"m","system":"{}","messages":[{{"role":"user","content":"x"}}]}}"#, long("s "));
    assert_eq!(read(Api::Messages, &string).unwrap().prefix[..11], ahead.prefix[..11]);
}

#[test]
fn the_decision_need_not_wait_for_more_than_the_cap_and_scanning_goes_on() {
    let mut reader = BodyReader::new(Api::Chat, PrefixLayout { block_tokens: 64, max_prompt_tokens: 640 });
    reader.feed(format!(r#"{{"messages":[{{"role":"user","content":"{}"#, long("a ")).as_bytes()).unwrap();
    assert!(!reader.facts_suffice(), "the model is not known yet");
    reader.feed(br#""}],"model":"m","#).unwrap();
    assert!(reader.facts_suffice());
    let facts = reader.take_facts();
    assert_eq!((facts.prefix.len(), facts.prompt_tokens >= 750), (10, true));
    assert_eq!(reader.feed(br#""model":"n"}"#).unwrap_err().reason, Reason::DuplicateKey);
}

proptest! {
    #[test]
    fn cuts_make_no_difference(len in 1usize..70, text in "\\PC{0,600}", role in "[a-z]{1,9}") {
        let body = json!({
            "messages": [{"role": role, "content": [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": text}}]},
                         {"role": "assistant", "tool_calls": [{"function": {"arguments": text}}], "content": null}],
            "tools": [{"a": [1, 2, {"b": text}]}],
            "model": "m",
        }).to_string();
        let whole = read(Api::Chat, &body).unwrap();
        let pieces = read_in_pieces(Api::Chat, body.as_bytes(), len).unwrap();
        prop_assert_eq!(whole.prefix, pieces.prefix);
        prop_assert_eq!(whole.prompt_tokens, pieces.prompt_tokens);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), body in r#"[\[\]{}",:a-z0-9 \\"messagrolcntpi]{0,120}"#) {
        for api in [Api::Chat, Api::Completions, Api::Embeddings, Api::Responses, Api::Messages] {
            let _ = read_in_pieces(api, &bytes, 7);
            let _ = read_in_pieces(api, body.as_bytes(), 3);
        }
    }
}
