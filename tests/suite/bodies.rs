use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use pointsman_envoy::wiring::BodyMode;
use pointsman_tests::client::{Answer, Client};
use pointsman_tests::stack::{Plan, PoolPlan, Stack};
use serde_json::json;
use xxhash_rust::xxh3::xxh3_64;

use crate::chat;

/// How much later than otherwise other streams' tokens may come while an upload is under way.
const TOKEN_DEADLINE: Duration = Duration::from_secs(2);

fn assert_arrived(answer: &Answer, body: &[u8], what: &str) {
    assert_eq!(answer.status, 200, "{what}: {}", answer.text());
    assert_eq!(answer.header("x-sim-body-bytes"), body.len().to_string(), "{what}");
    assert_eq!(answer.header("x-sim-body-xxh3"), format!("{:016x}", xxh3_64(body)), "{what}");
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(next).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_every_size_arrive_byte_for_byte_both_ways() {
    let stack = Stack::start(Plan::new(2)).await.unwrap();
    for (protocol, client) in [("HTTP/1.1", Client::new()), ("HTTP/2", Client::http2())] {
        for len in [0, 1, 61_999, 62_000, 62_001, 65_536, 1 << 20, 20 << 20] {
            let body = noise(len);
            let answer = client.post(&format!("{}/echo", stack.url(0)), &[], body.clone()).await.unwrap();
            assert_arrived(&answer, &body, &format!("{protocol}, {len} bytes"));
            assert!(answer.body == body, "{protocol}, {len} bytes came back changed");
        }
    }
    stack.until_idle().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_of_every_size_arrive_byte_for_byte() {
    let stack = Stack::start(Plan::new(2)).await.unwrap();
    for len in [1, 65_536, 1 << 20, 20 << 20] {
        let body = chat(len, 1, false).to_string();
        let answer = stack.post("/v1/chat/completions", body.clone()).await.unwrap();
        assert_arrived(&answer, body.as_bytes(), &format!("{len} bytes"));
    }
    stack.until_idle().await.unwrap();
    assert_eq!(stack.metric("pointsman_buffered_bytes", &[]).await.unwrap(), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_body_mode_of_envoy_works() {
    let wirings: [fn(&mut pointsman_envoy::bootstrap::PoolWiring); 6] = [
        |wiring| (wiring.request_body, wiring.response_body) = (BodyMode::FullDuplex, BodyMode::None),
        |wiring| (wiring.request_body, wiring.response_body) = (BodyMode::Streamed, BodyMode::Streamed),
        |wiring| (wiring.request_body, wiring.response_body) = (BodyMode::Buffered, BodyMode::Buffered),
        |wiring| (wiring.request_body, wiring.response_body) = (BodyMode::BufferedPartial, BodyMode::BufferedPartial),
        |wiring| (wiring.request_body, wiring.response_body) = (BodyMode::None, BodyMode::None),
        |wiring| (wiring.request_body, wiring.response_body) = (BodyMode::Buffered, BodyMode::FullDuplex),
    ];
    for eager in [false, true] {
        let pools = wirings
            .iter()
            .enumerate()
            .map(|(at, wire)| PoolPlan { wire: *wire, ..PoolPlan::new(&format!("default/mode-{at}"), 1) });
        let mut plan = Plan::of(pools.collect());
        if eager {
            plan.options = |options| options.send_body_without_waiting_for_header_response = true;
        }
        let stack = Stack::start(plan).await.unwrap();
        for (mode, _) in wirings.iter().enumerate() {
            for len in [1, 200_000, 900_000] {
                let what = format!("mode {mode}, eager {eager}, {len} bytes");
                let body = chat(len, 3, false).to_string();
                let url = format!("{}/v1/chat/completions", stack.url(mode));
                let answer = stack.client.post(&url, &[("x-request-id", &what)], body.clone()).await.unwrap();
                assert_arrived(&answer, body.as_bytes(), &what);
                assert_eq!(answer.json().unwrap()["usage"]["completion_tokens"], 3, "{what}");
            }
            let url = format!("{}/v1/chat/completions", stack.url(mode));
            let streamed = stack.client.stream(&url, chat(100, 5, true).to_string()).await.unwrap();
            let text: Vec<u8> = streamed.chunks.iter().flat_map(|(_, chunk)| chunk.to_vec()).collect();
            assert!(String::from_utf8_lossy(&text).contains("[DONE]"), "mode {mode}: {streamed:?}");
        }
        // What is read of the body in the modes that show it before the pick.
        let models = stack.admin("/debug/decisions?limit=200").await.unwrap();
        for (mode, reads) in [(0, true), (1, eager), (2, true), (4, false), (5, true)] {
            let pool = format!("default/mode-{mode}");
            let chats = models.as_array().unwrap().iter().filter(|decision| decision["pool"] == pool.as_str());
            let read = chats.filter(|decision| decision["model"] == "any").count();
            assert_eq!(read > 0, reads, "mode {mode}, eager {eager}");
        }
        stack.until_idle().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_slow_upload_does_not_delay_other_streams_tokens() {
    let stack = Stack::start(Plan::new(2)).await.unwrap();
    let body = Bytes::from(chat(20 << 20, 1, false).to_string());
    let (client, url) = (stack.client.clone(), format!("{}/v1/chat/completions", stack.url(0)));
    let pieces: Vec<Bytes> = body.chunks(256 << 10).map(Bytes::copy_from_slice).collect();
    let pace = Duration::from_millis(40);
    let upload = tokio::spawn(async move {
        let pieces = futures::stream::iter(pieces).then(move |piece| async move {
            tokio::time::sleep(pace).await;
            piece
        });
        client.post_pieces(&url, &[], Box::pin(pieces)).await
    });
    let mut slowest = Duration::ZERO;
    let mut answers = 0;
    while !upload.is_finished() {
        let began = Instant::now();
        let streamed = stack
            .client
            .stream(&format!("{}/v1/chat/completions", stack.url(0)), chat(100, 5, true).to_string())
            .await
            .unwrap();
        assert_eq!(streamed.status, 200);
        slowest = slowest.max(began.elapsed());
        answers += 1;
    }
    let answer = upload.await.unwrap().unwrap();
    assert_arrived(&answer, &body, "the slow upload");
    assert!(answers >= 10 && slowest < TOKEN_DEADLINE, "{answers} answers meanwhile, the slowest in {slowest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_openai_shaped_and_reach_the_client() {
    let mut plan = Plan::new(1);
    plan.server = "{limits: {maxBodySize: 100Ki}}".to_owned();
    plan.options = |options| options.body_buffer_limit = 100 << 10;
    let stack = Stack::start(plan).await.unwrap();
    let doubled = r#"{"model": "a", "messages": [], "model": "b"}"#.to_owned();
    for (body, status, code) in [
        ("{\"model\": \"m\",".to_owned(), 400, "bad-json"),
        (String::new(), 400, "bad-json"),
        (doubled, 400, "duplicate-key"),
        (json!({"messages": []}).to_string(), 400, "model-missing"),
        (chat(200_000, 1, false).to_string(), 413, "body-too-large"),
    ] {
        // A body that ends with the headers is no body: it is sent in pieces, so that Envoy shows its end apart.
        let url = format!("{}/v1/chat/completions", stack.url(0));
        let pieces = futures::stream::iter(vec![Bytes::from(body.clone())]);
        let answers = [
            stack.client.post_pieces(&url, &[("x-request-id", "r-7")], pieces).await,
            stack.client.post(&url, &[("x-request-id", "r-7")], body.clone()).await,
        ];
        for answer in answers.into_iter().take(if body.is_empty() { 1 } else { 2 }) {
            let answer = answer.unwrap();
            assert_eq!(
                (answer.status, answer.header("x-pointsman-reason")),
                (status, code),
                "{}\n{}",
                answer.text(),
                stack.envoy.log()
            );
            assert_eq!(answer.header("content-type"), "application/json");
            assert_eq!(answer.header("x-request-id"), "r-7");
            let error = &answer.json().unwrap()["error"];
            assert_eq!((error["code"].as_str(), error["type"].as_str()), (Some(code), Some("invalid_request_error")));
        }
    }
    stack.until_idle().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_without_endpoints_is_503_with_retry_after() {
    let empty = PoolPlan::new("default/empty", 0);
    let stack = Stack::start(Plan::of(vec![empty, PoolPlan::new("default/full", 1)])).await.unwrap();
    let answer = stack.post("/v1/chat/completions", chat(100, 1, false).to_string()).await.unwrap();
    assert_eq!((answer.status, answer.header("x-pointsman-reason")), (503, "no-ready-endpoint"));
    assert_eq!(answer.header("retry-after"), "1");
    let answer = stack.client.get(&format!("{}/v1/models", stack.url(0)), &[]).await.unwrap();
    assert_eq!(answer.status, 503);
}
