use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use pointsman_envoy::wiring::FailureMode;
use pointsman_sim::EngineConfig;
use pointsman_tests::client::Streamed;
use pointsman_tests::stack::{Plan, PoolPlan, Stack};
use xxhash_rust::xxh3::xxh3_64;

use crate::chat;

/// A server that takes seconds for an answer of 100 tokens.
pub(crate) fn slow() -> EngineConfig {
    EngineConfig { step_base_ms: 30.0, ..EngineConfig::default() }
}

fn slow_plan() -> Plan {
    let mut plan = Plan::new(2);
    for server in &mut plan.pools[0].servers {
        server.engine = slow();
    }
    plan
}

/// A whole SSE answer ends with this; one that lacks it must not look whole.
pub(crate) fn is_whole(streamed: &Streamed) -> bool {
    let text: Vec<u8> = streamed.chunks.iter().flat_map(|(_, chunk)| chunk.to_vec()).collect();
    text.ends_with(b"data: [DONE]\n\n")
}

/// Starts answers that take seconds and waits until each has sent a token.
async fn open_streams(stack: &Arc<Stack>, count: usize) -> Vec<tokio::task::JoinHandle<Streamed>> {
    let streams = (0..count).map(|_| {
        let stack = Arc::clone(stack);
        tokio::spawn(async move {
            let url = format!("{}/v1/chat/completions", stack.url(0));
            stack.client.stream(&url, chat(100, 100, true).to_string()).await.unwrap_or_default()
        })
    });
    let streams = streams.collect();
    let open = |page: &serde_json::Value| {
        let endpoints = page[0]["endpoints"].as_array().unwrap();
        endpoints.iter().map(|endpoint| endpoint["openResponses"].as_u64().unwrap()).sum::<u64>() as usize == count
    };
    stack.until_pools("streaming", open).await.unwrap();
    streams
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connect_failure_is_retried_on_the_next_listed_endpoint_with_the_body_intact() {
    let mut stack = Stack::start(Plan::new(3)).await.unwrap();
    stack.servers[0].remove(0).shutdown().await;
    for n in 0..12 {
        let len = [100, 70_000, 1 << 20][n % 3];
        let body = chat(len, 1, false).to_string();
        let answer = stack.post("/v1/chat/completions", body.clone()).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("x-sim-body-xxh3"), format!("{:016x}", xxh3_64(body.as_bytes())));
    }
    stack.until_idle().await.unwrap();
    let dead = stack.metric("pointsman_endpoint_answered_total", &["server-10"]).await.unwrap();
    // Only the first look of the stack itself may have reached it.
    assert!(dead <= 5.0, "{dead}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_picker_truncates_nothing_under_a_clean_200() {
    let mut stack = Arc::new(Stack::start(slow_plan()).await.unwrap());
    let streams = open_streams(&stack, 20).await;
    let inner = &stack;
    inner.picker.signal("KILL").await.unwrap();
    for stream in streams {
        let streamed = stream.await.unwrap();
        assert!(is_whole(&streamed) || streamed.error.is_some(), "a truncated body under a clean 200: {streamed:?}");
    }
    // While it is away nothing goes where a client asks, and nothing is let through.
    let elsewhere = stack.servers[0][0].addr().to_string();
    let url = format!("{}/v1/chat/completions", stack.url(0));
    let headers = [("x-gateway-destination-endpoint", elsewhere.as_str())];
    for _ in 0..5 {
        let answer = stack.client.post(&url, &headers, chat(100, 1, false).to_string()).await.unwrap();
        assert!(matches!(answer.status, 500 | 503), "{}", answer.status);
        assert_eq!(answer.header("x-sim-server"), "");
    }
    let alone = Arc::get_mut(&mut stack).unwrap();
    alone.picker.ended().await.unwrap();
    alone.restart_picker().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_open_serves_inside_the_pool_while_the_picker_is_away() {
    let mut pool = PoolPlan::new("default/pool", 2);
    pool.wire = |wiring| wiring.failure_mode = FailureMode::Open;
    let other = PoolPlan::new("default/other", 1);
    let mut stack = Stack::start(Plan::of(vec![pool, other])).await.unwrap();
    stack.picker.kill().await.unwrap();
    let elsewhere = stack.servers[1][0].addr().to_string();
    let own: Vec<_> = stack.servers[0].iter().map(|server| server.name().to_owned()).collect();
    let headers = [("x-gateway-destination-endpoint", elsewhere.as_str())];
    let mut served = 0;
    for _ in 0..40 {
        let answer = stack.client.get(&format!("{}/v1/models", stack.url(0)), &headers).await.unwrap();
        if answer.status == 200 {
            served += 1;
            assert!(own.contains(&answer.header("x-sim-server").to_owned()));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(served >= 30, "{served} of 40");
    let answer = stack.client.get(&format!("{}/v1/models", stack.url(1)), &[]).await.unwrap();
    assert!(matches!(answer.status, 500 | 503), "a pool that fails closed answered {}", answer.status);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_plugin_costs_one_request() {
    let mut plan = Plan::new(2);
    plan.picker = ("pointsman-tests", "panicking-picker");
    plan.pools[0].scheduling = "{profile: {scorers: [{type: panicking-scorer, weight: 1}]}}".to_owned();
    let stack = Stack::start(plan).await.unwrap();
    for n in 0..10 {
        let mut body = chat(5000, 1, false);
        if n % 2 == 0 {
            body["model"] = "panic".into();
        }
        let answer = stack.post("/v1/chat/completions", body.to_string()).await.unwrap();
        let expected = if n % 2 == 0 { (500, "internal") } else { (200, "") };
        assert_eq!((answer.status, answer.header("x-pointsman-reason")), expected, "{}", answer.text());
    }
    assert_eq!(stack.metric("pointsman_panics_total", &[]).await.unwrap(), 5.0);
    stack.until_idle().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_picker_finishes_what_it_began() {
    let mut stack = Arc::new(Stack::start(slow_plan()).await.unwrap());
    let streams = open_streams(&stack, 10).await;
    stack.picker.signal("TERM").await.unwrap();
    for stream in streams {
        let streamed = stream.await.unwrap();
        assert!(streamed.status == 200 && streamed.error.is_none() && is_whole(&streamed), "{streamed:?}");
    }
    let alone = Arc::get_mut(&mut stack).unwrap();
    assert_eq!(alone.picker.ended().await.unwrap(), Some(0), "{}", alone.picker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_takes_too_long_ends_streams_with_an_error() {
    let mut plan = slow_plan();
    plan.picker_flags = vec!["--drain-timeout=1s".to_owned()];
    for server in &mut plan.pools[0].servers {
        server.engine.step_base_ms = 200.0;
    }
    let mut stack = Arc::new(Stack::start(plan).await.unwrap());
    let streams = open_streams(&stack, 5).await;
    stack.picker.signal("TERM").await.unwrap();
    for stream in streams {
        let streamed = stream.await.unwrap();
        assert!(streamed.error.is_some() && !is_whole(&streamed), "a truncated body under a clean 200: {streamed:?}");
    }
    assert_eq!(Arc::get_mut(&mut stack).unwrap().picker.ended().await.unwrap(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_fail_are_told_apart() {
    let stack = Stack::start(Plan::new(1)).await.unwrap();
    let errors = pointsman_sim::ErrorFault { percent: 100.0, status: 502 };
    let faults = pointsman_sim::FaultConfig { errors: Some(errors), ..Default::default() };
    stack.servers[0][0].set_faults(faults).unwrap();
    let answer = stack.post("/v1/chat/completions", chat(100, 1, false).to_string()).await.unwrap();
    assert_eq!(answer.status, 502);
    let faults = pointsman_sim::FaultConfig { stop_after_tokens: Some(2), ..Default::default() };
    stack.servers[0][0].set_faults(faults).unwrap();
    let url = format!("{}/v1/chat/completions", stack.url(0));
    let response = stack.client.begin(&url, &[], chat(100, 10, true).to_string()).await.unwrap();
    let mut chunks = http_body_util::BodyExt::into_data_stream(response.into_body());
    let mut broke = false;
    while let Some(chunk) = chunks.next().await {
        broke |= chunk.is_err();
    }
    assert!(broke, "a body that its server cut must not end well");
    stack.until_idle().await.unwrap();
    assert_eq!(stack.metric("pointsman_requests_total", &["server-error"]).await.unwrap(), 1.0);
    assert_eq!(stack.metric("pointsman_requests_total", &["disconnected"]).await.unwrap(), 1.0);
    assert_eq!(stack.metric("pointsman_endpoint_failed_total", &[]).await.unwrap(), 2.0);
}
