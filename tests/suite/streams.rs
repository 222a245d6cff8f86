use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use pointsman_sim::EngineConfig;
use pointsman_tests::depth;
use pointsman_tests::stack::{Plan, Stack, fast};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::chat;

/// How long all of many streams may take. About five times what was seen.
const MANY_STREAMS_DEADLINE: Duration = Duration::from_secs(150);

#[tokio::test(flavor = "multi_thread")]
async fn tokens_arrive_one_by_one_and_the_first_is_not_held_back() {
    let mut plan = Plan::new(1);
    // A token every 60 ms or so.
    let engine = EngineConfig { step_base_ms: 60.0, jitter_percent: 0.0, ..EngineConfig::default() };
    plan.pools[0].servers[0].engine = engine;
    let stack = Stack::start(plan).await.unwrap();
    let url = format!("{}/v1/chat/completions", stack.url(0));
    let streamed = stack.client.stream(&url, chat(100, 20, true).to_string()).await.unwrap();
    assert_eq!((streamed.status, streamed.error), (200, None));
    let times: Vec<_> = streamed.chunks.iter().map(|(at, _)| *at).collect();
    assert!(times.len() >= 20, "{} chunks", times.len());
    let (first, last) = (times[0], times[times.len() - 1]);
    assert!(last - first > Duration::from_millis(800), "the tokens came together: {times:?}");
    assert!(first < last / 2, "the first was held back: {times:?}");
    let ttft = stack.metric("pointsman_request_ttft_seconds_count", &["any"]).await.unwrap();
    let gaps = stack.metric("pointsman_request_inter_token_seconds_count", &["any"]).await.unwrap();
    assert_eq!((ttft, gaps), (1.0, 19.0));
    let page = stack.admin("/debug/pools").await.unwrap();
    let tpot = page[0]["endpoints"][0]["tpotMs"].as_f64().unwrap();
    assert!((40.0..100.0).contains(&tpot), "{tpot} ms between tokens");
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_counted_by_model_and_endpoint() {
    let stack = Stack::start(Plan::new(2)).await.unwrap();
    for stream in [false, true] {
        let mut body = chat(4000, 10, stream);
        body["stream_options"] = serde_json::json!({"include_usage": true});
        let answer = stack.post("/v1/chat/completions", body.to_string()).await.unwrap();
        assert_eq!(answer.status, 200);
    }
    stack.until_idle().await.unwrap();
    assert_eq!(stack.metric("pointsman_output_tokens_total", &["any"]).await.unwrap(), 20.0);
    assert_eq!(stack.metric("pointsman_endpoint_output_tokens_total", &[]).await.unwrap(), 20.0);
    assert!(stack.metric("pointsman_prompt_tokens_total", &["any"]).await.unwrap() > 2000.0);
    assert!(stack.metric("pointsman_cached_tokens_total", &["any"]).await.unwrap() > 900.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_streams_are_open_at_once() {
    let streams = depth::at(500, 3000);
    let mut plan = Plan::new(4);
    for server in &mut plan.pools[0].servers {
        server.engine.max_waiting = 10_000;
        server.engine.speed = 2.0;
    }
    let stack = Arc::new(Stack::start(plan).await.unwrap());
    let all = (0..streams).map(|_| {
        let stack = Arc::clone(&stack);
        tokio::spawn(async move {
            let url = format!("{}/v1/chat/completions", stack.url(0));
            stack.client.stream(&url, chat(300, 40, true).to_string()).await
        })
    });
    let all: Vec<_> = all.collect();
    let finished = tokio::time::timeout(MANY_STREAMS_DEADLINE, futures::future::join_all(all)).await.unwrap();
    for streamed in finished {
        let streamed = streamed.unwrap().unwrap();
        let text: Vec<u8> = streamed.chunks.iter().flat_map(|(_, chunk)| chunk.to_vec()).collect();
        assert_eq!((streamed.status, &streamed.error), (200, &None));
        assert!(text.ends_with(b"data: [DONE]\n\n"));
    }
    stack.until_idle().await.unwrap();
    assert_eq!(stack.metric("pointsman_streams", &[]).await.unwrap(), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_leave_at_any_moment_leave_nothing_behind() {
    let requests = depth::at(2_000, 10_000);
    let mut plan = Plan::new(3);
    plan.pools[0].servers = vec![fast(); 3];
    let stack = Arc::new(Stack::start(plan).await.unwrap());
    let work = futures::stream::iter(0..requests).for_each_concurrent(48, |n| {
        let stack = Arc::clone(&stack);
        async move {
            let mut random = SmallRng::seed_from_u64(n);
            let url = format!("{}/v1/chat/completions", stack.url(0));
            let body = chat(random.random_range(1..60_000), random.random_range(1..60), random.random()).to_string();
            let patience = Duration::from_micros(random.random_range(0..30_000));
            let exchange = async {
                if let Ok(response) = stack.client.begin(&url, &[], body).await {
                    let mut chunks = http_body_util::BodyExt::into_data_stream(response.into_body());
                    while chunks.next().await.is_some() {}
                }
            };
            // Most give up on the way, some get through.
            let _ = tokio::time::timeout(patience, exchange).await;
        }
    });
    work.await;
    stack.until_idle().await.unwrap();
    assert_eq!(stack.metric("pointsman_buffered_bytes", &[]).await.unwrap(), 0.0);
    assert_eq!(stack.metric("pointsman_panics_total", &[]).await.unwrap(), 0.0);
    assert!(stack.metric("pointsman_requests_total", &["disconnected"]).await.unwrap() > 0.0);
    let answer = stack.post("/v1/chat/completions", chat(100, 1, false).to_string()).await.unwrap();
    assert_eq!(answer.status, 200);
}
