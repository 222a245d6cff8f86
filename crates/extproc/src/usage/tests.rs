//! What is read out of every API's answers.

mod properties;

use super::{ResponseKind, ResponseReader, Seen, TOKENS_MAX, Usage};

/// Token counts, in the order prompt, output, cached.
fn usage(prompt_tokens: u64, output_tokens: impl Into<Option<u64>>, cached_tokens: impl Into<Option<u64>>) -> Usage {
    Usage {
        prompt_tokens: Some(prompt_tokens),
        output_tokens: output_tokens.into(),
        cached_tokens: cached_tokens.into(),
    }
}

/// No token counts.
const NONE: Usage = Usage { prompt_tokens: None, output_tokens: None, cached_tokens: None };

/// Reads a body given in chunks; what the chunks tell must add up to what the reader tells.
fn read<'a>(kind: ResponseKind, chunks: impl IntoIterator<Item = &'a [u8]>) -> (Usage, Seen) {
    let mut reader = ResponseReader::new(kind);
    let mut seen: Vec<Seen> = chunks.into_iter().map(|chunk| reader.feed(chunk)).collect();
    seen.push(reader.finish());
    assert_eq!(reader.finish(), Seen::default(), "a second finish tells nothing new");
    let sum =
        Seen { events: seen.iter().map(|seen| seen.events).sum(), output: seen.iter().map(|seen| seen.output).sum() };
    assert_eq!(sum.output, reader.events());
    (reader.usage(), sum)
}

/// Reads a body, in one piece and byte by byte.
fn read_both(kind: ResponseKind, body: &[u8]) -> (Usage, Seen) {
    let whole = read(kind, [body]);
    assert_eq!(read(kind, body.chunks(1)), whole);
    whole
}

fn json(body: &str) -> Usage {
    let (usage, seen) = read_both(ResponseKind::Json, body.as_bytes());
    assert_eq!(seen, Seen::default(), "a JSON body has no events");
    usage
}

/// Reads an event stream: its token counts, its events and how many of them carried output.
fn stream(body: impl AsRef<[u8]>) -> (Usage, u64, u64) {
    let (usage, seen) = read_both(ResponseKind::EventStream, body.as_ref());
    (usage, seen.events, seen.output)
}

const CHAT: &str = r#"data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}

data: {"id":"c","choices":[{"index":0,"delta":{"content":"Hel"},"finish_reason":null}],"usage":null}

data: {"id":"c","choices":[{"index":0,"delta":{"content":"lo"},"finish_reason":null}]}

data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}

data: {"id":"c","choices":[],"usage":{"prompt_tokens":12,"total_tokens":14,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":8}}}

data: [DONE]

"#;

const COMPLETIONS: &str = r#"data: {"object":"text_completion","choices":[{"index":0,"text":"Hi","finish_reason":null}],"usage":{"prompt_tokens":3,"completion_tokens":1}}

data: {"object":"text_completion","choices":[{"index":0,"text":"","finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2}}

data: [DONE]

"#;

const REASONING_AND_TOOLS: &str = r#"data: {"choices":[{"delta":{"role":"assistant","content":null}}]}

data: {"choices":[{"delta":{"reasoning_content":"hm"}}]}

data: {"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"usage\":"}}]}}]}

data: {"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":""}}]}}]}

"#;

const ANTHROPIC: &str = r#"event: message_start
data: {"type":"message_start","message":{"id":"m","role":"assistant","content":[],"usage":{"input_tokens":25,"cache_read_input_tokens":16,"output_tokens":1}}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}

event: ping
data: {"type": "ping"}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello"}}

event: content_block_delta
data: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{"}}

event: content_block_delta
data: {"type":"content_block_delta","index":2,"delta":{"type":"thinking_delta","thinking":"so"}}

event: content_block_stop
data: {"type":"content_block_stop","index":0}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":15}}

event: message_stop
data: {"type":"message_stop"}

"#;

const RESPONSES: &str = r#"event: response.created
data: {"type":"response.created","response":{"id":"r","status":"in_progress","usage":null}}

event: response.output_text.delta
data: {"type":"response.output_text.delta","output_index":0,"delta":"Hi"}

event: response.output_text.done
data: {"type":"response.output_text.done","text":"Hi"}

event: response.completed
data: {"type":"response.completed","response":{"output":[{"content":[{"text":"Hi"}]}],"usage":{"input_tokens":36,"input_tokens_details":{"cached_tokens":4},"output_tokens":87,"output_tokens_details":{"reasoning_tokens":9},"total_tokens":123}}}

"#;

#[test]
fn reads_the_json_answers_of_every_api() {
    for (body, expected) in [
        // Chat and completions.
        (
            r#"{"choices":[{"message":{"content":"hi"}}],"usage":{"prompt_tokens":7,"total_tokens":9,"completion_tokens":2,"prompt_tokens_details":null}}"#,
            usage(7, 2, None),
        ),
        (
            r#"{"usage":{"completion_tokens":2,"prompt_tokens_details":{"audio_tokens":0,"cached_tokens":5},"prompt_tokens":7},"choices":[]}"#,
            usage(7, 2, 5),
        ),
        // Embeddings.
        (r#"{"data":[{"embedding":[0.1,-2e-3]}],"usage":{"prompt_tokens":4,"total_tokens":4}}"#, usage(4, None, None)),
        // Responses.
        (
            r#"{"object":"response","usage":{"input_tokens":3,"input_tokens_details":{"cached_tokens":1},"output_tokens":5}}"#,
            usage(3, 5, 1),
        ),
        // Anthropic messages.
        (
            r#"{"type":"message","content":[],"usage":{"input_tokens":3,"cache_read_input_tokens":2,"output_tokens":5}}"#,
            usage(3, 5, 2),
        ),
        // None, and of other types.
        (r#"{"choices":[]}"#, NONE),
        (r#"{"usage":null}"#, NONE),
        (r#"{"usage":[{"prompt_tokens":1}]}"#, NONE),
        (r#"[{"usage":{"prompt_tokens":1}}]"#, NONE),
        (r#"{"error":{"message":"usage","code":400}}"#, NONE),
    ] {
        assert_eq!(json(body), expected, "{body}");
    }
}

#[test]
fn usage_within_what_a_model_said_counts_for_nothing() {
    for body in [
        r#"{"choices":[{"message":{"content":"{\"usage\":{\"prompt_tokens\":9}}"}}]}"#,
        r#"{"choices":[{"message":{"usage":{"prompt_tokens":9}}}]}"#,
        r#"{"choices":[{"usage":{"prompt_tokens":9}}]}"#,
        r#"{"choices":[{"message":{"tool_calls":[{"function":{"arguments":{"usage":{"prompt_tokens":9}}}}]}}]}"#,
        r#"{"message":{"content":[{"usage":{"prompt_tokens":9}}]}}"#,
        r#"{"message":[{"usage":{"prompt_tokens":9}}]}"#,
        r#"{"message":{"message":{"usage":{"prompt_tokens":9}}}}"#,
        r#"{"response":{"output":{"usage":{"prompt_tokens":9}}}}"#,
        r#"{"usage":{"usage":{"prompt_tokens":9},"prompt_tokens":"9","completion_tokens":[9],"other":{"prompt_tokens":9}}}"#,
        r#"{"usage":{"completion_tokens_details":{"cached_tokens":9},"cached_tokens":9}}"#,
        r#"{"a":{"b":{"c":{"d":{"e":{"f":{"usage":{"prompt_tokens":9}}}}}}}}"#,
        r#"{"prompt_tokens":9,"message":{"prompt_tokens":9,"usage":9},"usage":9}"#,
    ] {
        assert_eq!(json(body), NONE, "{body}");
        assert_eq!(stream(format!("data: {body}\n\n")).0, NONE, "{body}");
    }
}

#[test]
fn only_natural_numbers_count_and_only_up_to_the_cap() {
    let digits = "9".repeat(5_000);
    for (literal, expected) in [
        ("0", Some(0)),
        ("999999999", Some(999_999_999)),
        ("1000000000", Some(TOKENS_MAX)),
        ("1000000001", Some(TOKENS_MAX)),
        ("18446744073709551616", Some(TOKENS_MAX)),
        (&digits, Some(TOKENS_MAX)),
        ("-1", None),
        ("-0", None),
        ("1.0", None),
        ("1e3", None),
        ("true", None),
        ("null", None),
        ("\"5\"", None),
    ] {
        let body = format!(r#"{{"usage":{{"prompt_tokens":{literal}}}}}"#);
        assert_eq!(json(&body).prompt_tokens, expected, "{literal}");
        let later = format!(r#"{{"usage":{{"prompt_tokens":6,"prompt_tokens":{literal}}}}}"#);
        assert_eq!(json(&later).prompt_tokens, expected.or(Some(6)), "the newest value that counts wins: {literal}");
    }
}

#[test]
fn reads_the_event_streams_of_every_api() {
    assert_eq!(stream(CHAT), (usage(12, 2, 8), 5, 2));
    assert_eq!(stream(COMPLETIONS), (usage(3, 2, None), 2, 1));
    assert_eq!(stream(REASONING_AND_TOOLS), (NONE, 4, 2));
    assert_eq!(stream(ANTHROPIC), (usage(25, 15, 16), 9, 3));
    assert_eq!(stream(RESPONSES), (usage(36, 87, 4), 4, 1));
}

#[test]
fn line_endings_comments_and_split_data_change_nothing() {
    for body in [CHAT, COMPLETIONS, ANTHROPIC, RESPONSES] {
        let expected = stream(body);
        // Several lines of data are one text with line feeds between.
        let lines = body.replace("\"choices\":", "\ndata:\"choices\"\ndata\ndata: :");
        for variant in [
            body.replace("data: ", "data:"),
            body.replace("data: [DONE]", "data:[DONE] "),
            format!("\u{FEFF}{body}"),
            format!(": comment\n\nretry: 10\nid\n\n{body}"),
            body.replace("data: ", ": data: {\"usage\":{\"prompt_tokens\":1}}\nid: 7\ndatum: 1\ndata2: 1\ndata: "),
            body.replace("\n\n", "\n\n\n\n"),
            lines,
        ] {
            for ending in ["\n", "\r\n", "\r"] {
                let variant = variant.replace('\n', ending);
                assert_eq!(stream(&variant), expected, "{variant}");
            }
        }
    }
}

#[test]
fn a_stream_that_breaks_off_keeps_what_was_whole() {
    // The blank line behind the last event is missing, then its line's end, too.
    let body = CHAT.replace("\n\ndata: [DONE]\n\n", "");
    assert_eq!(stream(format!("{body}\n")), (usage(12, 2, 8), 5, 2));
    assert_eq!(stream(&body), (usage(12, 2, 8), 5, 2));
    // Within the last event, a number that may go on is none.
    let cut = body.find("12,").unwrap();
    assert_eq!(stream(&body[..cut + 2]), (NONE, 4, 2));
    assert_eq!(stream(&body[..cut + 3]).0, Usage { prompt_tokens: Some(12), ..NONE });
    assert_eq!(stream(""), (NONE, 0, 0));
    assert_eq!(json(r#"{"usage":{"prompt_tokens":12"#), NONE);
    assert_eq!(json(r#"{"usage":{"prompt_tokens":12,"#).prompt_tokens, Some(12));
}

#[test]
fn garbage_costs_its_own_event_alone() {
    let good = r#"data: {"choices":[{"text":"a"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;
    for (garbage, events, output) in [
        ("data: {\"choices\":[}", 1, 0),
        ("data: {\"choices\":[{\"text\":\"a\"}]", 1, 1),
        ("data: \u{c}", 0, 0),
        ("data:", 0, 0),
        ("data", 0, 0),
        ("data:   ", 0, 0),
        ("data: not json", 1, 1),
        ("data: [DONE]x", 1, 1),
        ("data: {\"token\":{\"text\":\"a\"}}", 1, 1),
        ("data: {\"error\":{\"message\":\"boom\"}}", 1, 0),
        // Known names count at their places alone.
        ("data: {\"token\":{\"type\":\"x\",\"usage\":1,\"choices\":[]}}", 1, 1),
        ("data: {\"choices\":[],\"x\":{\"choices\":[{\"text\":\"a\"}]}}", 1, 0),
        ("data: {\"choices\":[{\"x\":{\"delta\":{\"content\":\"a\"}}}]}", 1, 0),
        ("data: {\"type\":\"x\",\"delta\":{\"stop_reason\":\"end\"}}", 1, 0),
        ("data: {\"type\":\"x\",\"delta\":\"\"}", 1, 0),
        ("data: {\"choices\":[]}\ndata: {}", 1, 0),
        (" data: {}", 0, 0),
        ("DATA: {}", 0, 0),
        ("\u{FEFF}data: {}", 0, 0),
        ("\0\0\0", 0, 0),
        // Two lines of data are parted by a line feed, which no string can hold.
        ("data: {\"choices\":[{\"text\":\"\ndata:a\"}]}", 1, 0),
        ("data: {\"choices\":[{\"text\":\"\",\"usage\":1}],\"delta\":1}", 1, 0),
        ("{\"usage\":{\"prompt_tokens\":9}}", 0, 0),
    ] {
        let last = r#"data: {"choices":[],"usage":{"prompt_tokens":2,"completion_tokens":2}}"#;
        let body = format!("{good}\n\n{garbage}\n\n{last}\n\n");
        assert_eq!(stream(&body), (usage(2, 2, None), 2 + events, 1 + output), "{garbage:?}");
    }
    let long = format!("data: {{\"choices\":[{{\"delta\":{{\"{}\":\"a\"}}}}]}}\n\n", "k".repeat(100));
    assert_eq!(stream(long), (NONE, 1, 1), "a key's length does not matter");
    let invalid = [b"data: {\"\xFF\"\n\n", good.as_bytes(), b"\n\n"].concat();
    assert_eq!(stream(invalid), (usage(1, 1, None), 2, 2));
    // Half a byte order mark is part of the first line's name.
    let marked = |mark: &[u8]| [mark, good.as_bytes(), b"\n\n"].concat();
    assert_eq!(stream(marked(b"\xEF\xBB\xBF")), (usage(1, 1, None), 1, 1));
    for mark in [&b"\xEF"[..], b"\xEF\xBB", b"\xBB\xBF", b"\xEF\xBB\xBF\xEF\xBB\xBF"] {
        assert_eq!(stream(marked(mark)), (NONE, 0, 0));
    }
}

#[test]
fn a_chunk_tells_the_events_that_it_completes() {
    let mut reader = ResponseReader::new(ResponseKind::EventStream);
    for (chunk, events, output) in [
        ("data: {\"choices\":[{\"text\":\"a", 0, 0),
        ("\"}]}\n", 0, 0),
        ("\n", 1, 1),
        ("data: {\"choices\":[]}\r\n\r", 1, 0),
        ("\n\r\n: ping\r\n\r\n", 0, 0),
        ("data: {\"choices\":[{\"text\":\"b\"}]}\n\ndata: {\"choices\":[{\"text\":\"c\"}]}\n\n", 2, 2),
        ("data: [DONE]\n\n", 0, 0),
    ] {
        assert_eq!(reader.feed(chunk.as_bytes()), Seen { events, output }, "{chunk:?}");
    }
    assert_eq!(reader.events(), 3);
}

#[test]
fn the_headers_decide_how_a_body_is_read() {
    for (content_type, encoding, expected) in [
        (Some("application/json"), None, ResponseKind::Json),
        (Some("Application/JSON; charset=utf-8"), Some("identity"), ResponseKind::Json),
        (Some(" application/problem+json "), Some(""), ResponseKind::Json),
        (Some("text/event-stream"), None, ResponseKind::EventStream),
        (Some("TEXT/Event-Stream;charset=utf-8"), Some(" Identity , identity"), ResponseKind::EventStream),
        (Some("application/json"), Some("gzip"), ResponseKind::Opaque),
        (Some("text/event-stream"), Some("identity, br"), ResponseKind::Opaque),
        (Some("application/jsonl"), None, ResponseKind::Opaque),
        (Some("json"), None, ResponseKind::Opaque),
        (Some("text/plain"), None, ResponseKind::Opaque),
        (Some(""), None, ResponseKind::Opaque),
        (None, None, ResponseKind::Opaque),
    ] {
        let kind = ResponseKind::of(content_type.map(str::as_bytes), encoding.map(str::as_bytes));
        assert_eq!(kind, expected, "{content_type:?} {encoding:?}");
    }
}

#[test]
fn an_opaque_body_is_not_read() {
    assert_eq!(read_both(ResponseKind::Opaque, CHAT.as_bytes()), (NONE, Seen::default()));
}
