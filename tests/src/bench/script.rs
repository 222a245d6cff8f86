//! What a gateway sends for one request, encoded beforehand so that the client costs little.

use bytes::{BufMut, Bytes, BytesMut};
use pointsman_extproc::pb::{
    BodySendMode, HeaderMap, HeaderValue, HttpBody, HttpHeaders, ProcessingRequest, ProtocolConfiguration, Request,
};
use prost::Message;
use serde_json::{Value, json};

/// The model that all requests ask for.
pub const MODEL: &str = "meta-llama/Llama-3.1-8B-Instruct";
/// Sizes of the pieces in which a body arrives, by turns.
const CHUNKS: [usize; 3] = [16 << 10, 32 << 10, 64 << 10];
/// Text of one turn of a conversation.
const TURN: usize = 2 << 10;

/// One kind of request.
#[derive(Debug)]
pub struct Kind {
    /// Its name in the report.
    pub name: &'static str,
    /// Bytes of its prompt.
    pub prompt: usize,
    /// Different requests of this kind.
    pub variants: usize,
    /// Requests that share the first half of their prompt.
    pub sharers: usize,
    /// Chunks of its answer: 1 is a JSON document, more are events.
    pub output_chunks: usize,
}

/// The kinds that are measured in every pool, over every transport.
pub const KINDS: [Kind; 4] = [
    Kind { name: "1KB", prompt: 1 << 10, variants: 512, sharers: 8, output_chunks: 1 },
    Kind { name: "16KB", prompt: 16 << 10, variants: 256, sharers: 8, output_chunks: 1 },
    Kind { name: "400KB", prompt: 400 << 10, variants: 32, sharers: 8, output_chunks: 1 },
    Kind { name: "1KB+200", prompt: 1 << 10, variants: 512, sharers: 8, output_chunks: 200 },
];
/// One system prompt before all requests: once they spread, every endpoint holds it, and each request finds them all.
pub const SHARED: Kind = Kind { name: "16KB-shared", prompt: 16 << 10, variants: 256, sharers: 256, output_chunks: 1 };

/// One request and its response, as gRPC messages.
#[derive(Debug)]
pub struct Script {
    /// The request: its headers, then its body.
    pub request: Vec<Bytes>,
    /// The response: its headers, then its body.
    pub response: Vec<Bytes>,
    /// Bytes of the request's body.
    pub request_bytes: usize,
    /// Bytes of the response's body.
    pub response_bytes: usize,
}

impl Kind {
    /// All variants of this kind; the same at every call.
    pub fn scripts(&self) -> Vec<Script> {
        (0..self.variants).map(|variant| self.script(variant)).collect()
    }

    /// One variant.
    pub fn script(&self, variant: usize) -> Script {
        let mut words = Words(variant as u64);
        let shared = Words((variant / self.sharers) as u64 + 1_000_000).text(self.prompt / 2);
        let mut messages = vec![json!({"role": "system", "content": shared})];
        let mut left = self.prompt - self.prompt / 2;
        while left > 0 {
            let turn = left.min(TURN);
            let role = if messages.len() % 2 == 1 { "user" } else { "assistant" };
            messages.push(json!({"role": role, "content": words.text(turn)}));
            left -= turn;
        }
        let mut body = json!({"model": MODEL, "messages": messages, "max_tokens": 256, "temperature": 0.7});
        if self.output_chunks > 1 {
            body["stream"] = json!(true);
            body["stream_options"] = json!({"include_usage": true});
        }
        let body = Bytes::from(body.to_string());
        let output = self.output();
        let content_type = if self.output_chunks > 1 { "text/event-stream; charset=utf-8" } else { "application/json" };

        let mut request = vec![frame(Request::RequestHeaders(request_headers(variant, body.len())), true)];
        let mut chunks = chunks_of(&body);
        let last = chunks.pop().unwrap_or_default();
        request.extend(chunks.into_iter().map(|chunk| frame(Request::RequestBody(part(chunk, false)), false)));
        request.push(frame(Request::RequestBody(part(last, true)), false));

        let mut response = vec![frame(Request::ResponseHeaders(response_headers(content_type)), false)];
        response.extend(
            output
                .iter()
                .enumerate()
                .map(|(at, chunk)| frame(Request::ResponseBody(part(chunk.clone(), at + 1 == output.len())), false)),
        );
        let response_bytes = output.iter().map(Bytes::len).sum();
        Script { request, response, request_bytes: body.len(), response_bytes }
    }

    /// The answer's chunks: one document, or events as vLLM writes them, the last of which tell usage and the end.
    fn output(&self) -> Vec<Bytes> {
        let usage = json!({
            "prompt_tokens": self.prompt / 4, "completion_tokens": 198, "total_tokens": self.prompt / 4 + 198,
            "prompt_tokens_details": {"cached_tokens": self.prompt / 8},
        });
        let message = |object: &str, choices: Value, usage: Value| {
            json!({"id": "chatcmpl-5f1c0ab2d94e4c1b", "object": object, "created": 1_760_000_000, "model": MODEL,
                   "choices": choices, "usage": usage})
            .to_string()
        };
        if self.output_chunks == 1 {
            let content = Words(7).text(600);
            let choice = json!({"index": 0, "message": {"role": "assistant", "content": content},
                                "logprobs": null, "finish_reason": "stop"});
            return vec![message("chat.completion", json!([choice]), usage).into()];
        }
        let mut words = Words(7);
        let event = |choices: Value, usage: Value| message("chat.completion.chunk", choices, usage);
        let mut events: Vec<String> = (0..self.output_chunks - 2)
            .map(|_| {
                let delta = json!({"content": format!(" {}", words.word())});
                event(json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": null}]), Value::Null)
            })
            .collect();
        events.push(event(json!([]), usage));
        events.push("[DONE]".to_owned());
        events.iter().map(|event| format!("data: {event}\n\n").into()).collect()
    }
}

/// A gRPC message; the stream's first one says how the filter is configured.
fn frame(request: Request, is_first: bool) -> Bytes {
    let duplex = BodySendMode::FullDuplexStreamed.into();
    let config = ProtocolConfiguration {
        request_body_mode: duplex,
        response_body_mode: duplex,
        send_body_without_waiting_for_header_response: false,
    };
    let message = ProcessingRequest {
        request: Some(request),
        protocol_config: is_first.then_some(config),
        ..ProcessingRequest::default()
    };
    let encoded = message.encode_to_vec();
    let mut frame = BytesMut::with_capacity(5 + encoded.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(encoded.len()).unwrap_or(u32::MAX));
    frame.put_slice(&encoded);
    frame.freeze()
}

fn part(body: Bytes, end_of_stream: bool) -> HttpBody {
    HttpBody { body, end_of_stream, ..HttpBody::default() }
}

fn chunks_of(body: &Bytes) -> Vec<Bytes> {
    let mut rest = body.clone();
    let mut chunks = Vec::new();
    for size in CHUNKS.into_iter().cycle() {
        chunks.push(rest.split_to(rest.len().min(size)));
        if rest.is_empty() {
            break;
        }
    }
    chunks
}

fn header_map(headers: &[(&str, &str)]) -> Option<HeaderMap> {
    let header = |(key, value): &(&str, &str)| HeaderValue {
        key: (*key).to_owned(),
        raw_value: Bytes::copy_from_slice(value.as_bytes()),
        ..HeaderValue::default()
    };
    Some(HeaderMap { headers: headers.iter().map(header).collect() })
}

/// What a client's SDK says, and what Envoy adds.
fn request_headers(variant: usize, length: usize) -> HttpHeaders {
    let id = format!("6b1f0c4e-93d2-4a57-8e0b-{variant:012x}");
    let headers = header_map(&[
        (":authority", "llm.example.com"),
        (":path", "/v1/chat/completions"),
        (":method", "POST"),
        (":scheme", "https"),
        ("accept", "application/json"),
        ("accept-encoding", "gzip, deflate"),
        ("authorization", "Bearer sk-0123456789abcdef0123456789abcdef0123456789abcdef"),
        ("content-type", "application/json"),
        ("content-length", &length.to_string()),
        ("user-agent", "OpenAI/Python 1.102.0"),
        ("x-stainless-lang", "python"),
        ("x-stainless-retry-count", "0"),
        ("x-forwarded-for", "10.244.3.17"),
        ("x-forwarded-proto", "https"),
        ("x-envoy-external-address", "10.244.3.17"),
        ("x-request-id", &id),
    ]);
    HttpHeaders { headers, end_of_stream: false }
}

fn response_headers(content_type: &str) -> HttpHeaders {
    let headers = header_map(&[
        (":status", "200"),
        ("date", "Mon, 01 Sep 2025 12:00:00 GMT"),
        ("server", "uvicorn"),
        ("content-type", content_type),
        ("x-envoy-upstream-service-time", "41"),
    ]);
    HttpHeaders { headers, end_of_stream: false }
}

/// Words of a seed, in no order that makes sense. Enough for prompts that differ; equal wherever it runs.
struct Words(u64);

impl Words {
    const ALL: [&str; 24] = [
        "train", "switch", "signal", "the", "of", "and", "a", "to", "yard", "freight", "express", "platform", "when",
        "driver", "coupling", "station", "is", "that", "ballast", "gauge", "line", "points", "through", "night",
    ];

    fn word(&mut self) -> &'static str {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self::ALL[((mixed ^ (mixed >> 31)) % 24) as usize]
    }

    /// Prose of this many bytes, with a line break now and then.
    fn text(&mut self, bytes: usize) -> String {
        let mut text = String::with_capacity(bytes + 16);
        let mut line = 0;
        while text.len() < bytes {
            let word = self.word();
            line += word.len() + 1;
            text.push_str(word);
            text.push(if line > 90 { '\n' } else { ' ' });
            line = if line > 90 { 0 } else { line };
        }
        text.truncate(bytes);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(frame: &Bytes) -> ProcessingRequest {
        ProcessingRequest::decode(&frame[5..]).unwrap()
    }

    #[test]
    fn a_script_is_a_whole_conversation_in_full_duplex() {
        for kind in &KINDS {
            let script = kind.script(3);
            let duplex = i32::from(BodySendMode::FullDuplexStreamed);
            assert_eq!(decode(&script.request[0]).protocol_config.map(|config| config.request_body_mode), Some(duplex));
            let mut body = Vec::new();
            for (at, frame) in script.request.iter().enumerate().skip(1) {
                let Some(Request::RequestBody(part)) = decode(frame).request else { panic!("no body") };
                assert_eq!(part.end_of_stream, at + 1 == script.request.len());
                body.extend_from_slice(&part.body);
            }
            assert_eq!(body.len(), script.request_bytes);
            let chat: Value = serde_json::from_slice(&body).unwrap();
            let text = |message: &Value| message["content"].as_str().unwrap().len();
            assert_eq!(chat["messages"].as_array().unwrap().iter().map(text).sum::<usize>(), kind.prompt);
            assert_eq!(script.response.len(), 1 + kind.output_chunks);
        }
    }

    #[test]
    fn neighbours_share_the_first_half_of_their_prompt_and_no_more() {
        let texts = |variant: usize| {
            let script = KINDS[0].script(variant);
            let Some(Request::RequestBody(part)) = decode(&script.request[1]).request else { panic!("no body") };
            let chat: Value = serde_json::from_slice(&part.body).unwrap();
            [0, 1].map(|at| chat["messages"][at]["content"].as_str().unwrap().to_owned())
        };
        let (first, neighbour, stranger) = (texts(0), texts(1), texts(KINDS[0].sharers));
        assert_eq!(first[0], neighbour[0]);
        assert_ne!(first[1], neighbour[1]);
        assert_ne!(first[0], stranger[0]);
    }
}
