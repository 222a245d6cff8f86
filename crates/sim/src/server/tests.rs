//! A simulated server over real HTTP on loopback, fast enough that its times do not matter.

use std::net::Ipv4Addr;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use xxhash_rust::xxh3::xxh3_64;

use super::*;

/// Far above what a test's waits take.
const LIMIT: Duration = Duration::from_secs(20);

fn any() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// A server a hundred times as fast as the default one.
async fn start(change: impl FnOnce(&mut SimConfig)) -> SimHandle {
    let mut config = SimConfig { name: "sim-a".into(), adapters: vec!["tuned".into()], ..SimConfig::default() };
    config.engine.speed = 100.0;
    change(&mut config);
    SimServer::start(config, any()).await.unwrap()
}

async fn send(server: &SimHandle, method: Method, path: &str, body: impl Into<Bytes>) -> Response<Incoming> {
    let stream = TcpStream::connect(server.addr()).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("host", "sim").body(Full::new(body.into()));
    sender.send_request(request.unwrap()).await.unwrap()
}

async fn post(server: &SimHandle, path: &str, body: Value) -> (u16, Value) {
    let response = send(server, Method::POST, path, body.to_string()).await;
    assert_eq!(response.headers()["x-sim-server"], "sim-a", "{path}");
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or_else(|_| panic!("{path}: {body:?}")))
}

async fn text(server: &SimHandle, path: &str) -> String {
    let body = send(server, Method::GET, path, "").await.into_body().collect().await.unwrap();
    String::from_utf8(body.to_bytes().to_vec()).unwrap()
}

/// The data of each event of a stream that ends well.
async fn stream(server: &SimHandle, path: &str, body: Value) -> Vec<String> {
    let response = send(server, Method::POST, path, body.to_string()).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8(body.to_vec()).unwrap();
    text.lines().filter_map(|line| line.strip_prefix("data: ")).map(str::to_owned).collect()
}

fn hello(more: Value) -> Value {
    let mut body = json!({"model": "sim-8b", "messages": [{"role": "user", "content": "hello there"}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn a_stream_has_one_chunk_a_token_then_usage_then_done() {
    let server = start(|_| {}).await;
    let ask = json!({"max_tokens": 7, "stream": true, "stream_options": {"include_usage": true}});
    let data = stream(&server, "/v1/chat/completions", hello(ask)).await;
    assert_eq!(data.len(), 9);
    assert_eq!(data[8], "[DONE]");
    let chunks: Vec<Value> = data[..8].iter().map(|data| serde_json::from_str(data).unwrap()).collect();
    let said: String = chunks[..7].iter().map(|c| c["choices"][0]["delta"]["content"].as_str().unwrap()).collect();
    assert_eq!(said, crate::tokenizer::answer("user\nhello there\nassistant\n", 7));
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(chunks[5]["choices"][0]["finish_reason"], Value::Null);
    assert_eq!(chunks[6]["choices"][0]["finish_reason"], "length");
    let usage = json!({
        "prompt_tokens": 7, "completion_tokens": 7, "total_tokens": 14, "prompt_tokens_details": {"cached_tokens": 0},
    });
    assert_eq!(chunks[7]["usage"], usage);
    let plain =
        stream(&server, "/v1/chat/completions", hello(json!({"max_completion_tokens": 3, "stream": true}))).await;
    assert_eq!(plain.len(), 4, "usage comes only when it is asked for");
}

#[tokio::test]
async fn every_api_answers_in_its_own_shape_and_counts_alike() {
    let server = start(|_| {}).await;
    let long = "many words ".repeat(100);
    let message = json!([{"role": "user", "content": long}]);
    // Where the API says how many tokens went in, were cached, came out; and where the answer stands.
    for (path, body, [prompt, cached, output], answer) in [
        (
            "/v1/chat/completions",
            json!({"model": "sim-8b", "messages": message, "max_tokens": 9}),
            ["/usage/prompt_tokens", "/usage/prompt_tokens_details/cached_tokens", "/usage/completion_tokens"],
            "/choices/0/message/content",
        ),
        (
            "/v1/completions",
            json!({"prompt": long, "max_tokens": 9}),
            ["/usage/prompt_tokens", "/usage/prompt_tokens_details/cached_tokens", "/usage/completion_tokens"],
            "/choices/0/text",
        ),
        (
            "/v1/responses",
            json!({"input": long, "instructions": "be brief", "max_output_tokens": 9}),
            ["/usage/input_tokens", "/usage/input_tokens_details/cached_tokens", "/usage/output_tokens"],
            "/output/0/content/0/text",
        ),
        (
            "/v1/messages",
            json!({"system": "be terse", "messages": message, "max_tokens": 9}),
            ["/usage/input_tokens", "/usage/cache_read_input_tokens", "/usage/output_tokens"],
            "/content/0/text",
        ),
    ] {
        let (status, cold) = post(&server, path, body.clone()).await;
        assert_eq!(status, 200, "{path}: {cold}");
        let number = |answer: &Value, place: &str| answer.pointer(place).and_then(Value::as_u64).unwrap();
        assert_eq!((number(&cold, cached), number(&cold, output)), (0, 9), "{path}");
        assert_eq!(cold.pointer(answer).unwrap().as_str().unwrap().len(), 36, "{path}");
        assert!((270..300).contains(&number(&cold, prompt)), "{path}: {cold}");
        let (_, warm) = post(&server, path, body).await;
        assert!(number(&warm, cached) >= 256, "{path}: {warm}");
        assert_eq!(warm.pointer(answer), cold.pointer(answer), "{path}");
    }
    let (status, embedded) = post(&server, "/v1/embeddings", json!({"input": ["one", "two"], "dimensions": 4})).await;
    assert_eq!((status, embedded["data"][1]["embedding"].as_array().unwrap().len()), (200, 4));
    assert_eq!(embedded["usage"]["total_tokens"], 2);
}

#[tokio::test]
async fn named_events_frame_the_streams_of_responses_and_messages() {
    let server = start(|_| {}).await;
    let kinds = |data: Vec<String>| -> Vec<String> {
        let values = data.iter().map(|data| serde_json::from_str::<Value>(data).unwrap());
        values.map(|value| value["type"].as_str().unwrap().to_owned()).collect()
    };
    let seen = kinds(stream(&server, "/v1/responses", json!({"input": "hi", "stream": true})).await);
    assert_eq!(seen.iter().filter(|kind| *kind == "response.output_text.delta").count(), 64);
    assert_eq!((seen[0].as_str(), seen.last().map(String::as_str)), ("response.created", Some("response.completed")));
    let ask = json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "stream": true});
    let seen = kinds(stream(&server, "/v1/messages", ask).await);
    let delta = "content_block_delta";
    let expected = ["message_start", "content_block_start", "ping", delta, delta, delta, delta, delta];
    assert_eq!(seen[..8], expected);
    assert_eq!(seen[8..], ["content_block_stop", "message_delta", "message_stop"]);
}

#[tokio::test]
async fn a_client_that_leaves_frees_the_engine() {
    let server = start(|config| config.engine.speed = 1.0).await;
    let mut streamed = send(
        &server,
        Method::POST,
        "/v1/chat/completions",
        hello(json!({"max_tokens": 5000, "stream": true})).to_string(),
    )
    .await;
    assert!(streamed.frame().await.unwrap().is_ok());
    let whole = tokio::spawn({
        let (addr, body) = (server.addr(), hello(json!({"max_tokens": 5000})).to_string());
        async move {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            let head =
                format!("POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all((head + &body).as_bytes()).await.unwrap();
            stream.read_u8().await
        }
    });
    assert!(tokio::time::timeout(LIMIT, server.wait_for(|stats| stats.running == 2)).await.unwrap());
    drop(streamed);
    whole.abort();
    let left = server.wait_for(|stats| (stats.running, stats.waiting, stats.cancelled) == (0, 0, 2));
    assert!(tokio::time::timeout(LIMIT, left).await.unwrap());
    assert!(server.stats().kv_usage == 0.0);
}

#[tokio::test]
async fn other_paths_echo_their_body_and_say_what_arrived() {
    let server = start(|_| {}).await;
    let body: Bytes = (0..1u32 << 18).flat_map(|word| word.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let response = send(&server, Method::POST, "/pkg.Service/Method", body.clone()).await;
    let headers = response.headers().clone();
    assert_eq!(headers["x-sim-body-bytes"], (1 << 20).to_string());
    assert_eq!(headers["x-sim-body-xxh3"], format!("{:016x}", xxh3_64(&body)));
    assert_eq!(headers["content-type"], "application/octet-stream");
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), body);
    let chat = hello(json!({"max_tokens": 1})).to_string();
    let response = send(&server, Method::POST, "/v1/chat/completions", chat.clone()).await;
    assert_eq!(response.headers()["x-sim-body-xxh3"], format!("{:016x}", xxh3_64(chat.as_bytes())));
    let seen: Value = serde_json::from_str(&text(&server, "/sim/headers?a=b").await).unwrap();
    assert_eq!((&seen["path"], &seen["headers"][0]), (&json!("/sim/headers?a=b"), &json!(["host", "sim"])));
}

#[tokio::test]
async fn an_upgraded_connection_echoes_raw_bytes_until_the_server_goes() {
    let server = start(|_| {}).await;
    let mut stream = TcpStream::connect(server.addr()).await.unwrap();
    let request = "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    stream.write_all(b"ping").await.unwrap();
    let mut back = [0; 4];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"ping");
    server.shutdown().await;
    assert_eq!(stream.read(&mut back).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn refusals_have_their_apis_shape() {
    let server = start(|_| {}).await;
    for (path, body, status, code) in [
        ("/v1/chat/completions", json!("no object"), 400, "bad-json"),
        ("/v1/chat/completions", json!({"model": "sim-8b"}), 400, "bad-json"),
        ("/v1/chat/completions", hello(json!({"model": "other"})), 404, "model_not_found"),
        ("/v1/chat/completions", hello(json!({"max_tokens": 70_000})), 400, "context_length_exceeded"),
        ("/v1/chat/completions", hello(json!({"max_tokens": 0})), 400, "invalid-value"),
        ("/v1/completions", json!({"prompt": ["a", "b"]}), 400, "invalid-value"),
        ("/v1/embeddings", json!({"input": []}), 400, "invalid-value"),
        ("/sim/faults", json!({"latencyms": 1}), 400, "bad-json"),
        ("/sim/faults", json!({"errors": {"percent": 101}}), 400, "invalid-value"),
    ] {
        let (seen, answer) = post(&server, path, body.clone()).await;
        assert_eq!((seen, &answer["error"]["code"]), (status, &json!(code)), "{path} {body}: {answer}");
        assert!(answer["error"]["message"].is_string() && answer["error"]["type"].is_string());
    }
    let (status, answer) = post(&server, "/v1/messages", json!({"messages": 1})).await;
    assert_eq!(
        (status, &answer["type"], &answer["error"]["type"]),
        (400, &json!("error"), &json!("invalid_request_error"))
    );
    let stream = TcpStream::connect(server.addr()).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let head = format!("POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", crate::http_api::MAX_BODY + 1);
    write.write_all(head.as_bytes()).await.unwrap();
    let mut line = [0; 12];
    read.read_exact(&mut line).await.unwrap();
    assert_eq!(&line, b"HTTP/1.1 413");
}

#[tokio::test]
async fn faults_come_and_go_at_run_time() {
    let server = start(|_| {}).await;
    let chat = || hello(json!({"max_tokens": 20}));
    let (status, _) = post(&server, "/sim/faults", json!({"errors": {"percent": 100, "status": 529}})).await;
    assert_eq!(status, 200);
    assert_eq!(post(&server, "/v1/chat/completions", chat()).await.0, 529);
    assert_eq!(send(&server, Method::POST, "/echo", "").await.status(), 529);

    server.set_faults(FaultConfig { stop_after_tokens: Some(3), ..FaultConfig::default() }).unwrap();
    for body in [chat(), hello(json!({"max_tokens": 20, "stream": true}))] {
        let response = send(&server, Method::POST, "/v1/chat/completions", body.to_string()).await;
        assert_eq!(response.status(), 200);
        assert!(response.into_body().collect().await.is_err(), "the connection is cut, not ended");
    }
    assert!(tokio::time::timeout(LIMIT, server.wait_for(|stats| stats.running == 0)).await.unwrap());

    server.set_faults(FaultConfig { hang: true, unhealthy: true, ..FaultConfig::default() }).unwrap();
    let stuck = send(&server, Method::POST, "/v1/chat/completions", chat().to_string());
    assert!(tokio::time::timeout(Duration::from_millis(50), stuck).await.is_err());
    assert_eq!(send(&server, Method::GET, "/health", "").await.status(), 503);

    server.set_faults(FaultConfig { latency_ms: 60, ..FaultConfig::default() }).unwrap();
    let begun = std::time::Instant::now();
    assert_eq!(post(&server, "/v1/chat/completions", chat()).await.0, 200);
    assert!(begun.elapsed() >= Duration::from_millis(60));

    server
        .set_faults(FaultConfig { errors: Some(ErrorFault { percent: 30.0, status: 500 }), ..FaultConfig::default() })
        .unwrap();
    let mut failed = 0;
    for _ in 0..200 {
        failed += u32::from(send(&server, Method::GET, "/echo", "").await.status() == 500);
    }
    assert!((35..85).contains(&failed), "{failed} of 200 failed");
    assert_eq!(
        post(&server, "/sim/faults", json!({})).await.1,
        json!({"latencyMs": 0, "hang": false, "unhealthy": false})
    );
}

#[tokio::test]
async fn the_metrics_page_counts_what_ran_under_vllms_names() {
    let server = start(|_| {}).await;
    let body = json!({"model": "tuned", "prompt": "word ".repeat(200), "max_tokens": 10});
    for _ in 0..2 {
        assert_eq!(post(&server, "/v1/completions", body.clone()).await.0, 200);
    }
    let page = text(&server, "/metrics").await;
    let labels = "{engine=\"0\",model_name=\"sim-8b\"}";
    for line in [
        format!("vllm:num_requests_running{labels} 0.0"),
        format!("vllm:num_requests_waiting{labels} 0.0"),
        format!("vllm:kv_cache_usage_perc{labels} 0.0"),
        format!("vllm:prefix_cache_queries_total{labels} 500.0"),
        format!("vllm:prefix_cache_hits_total{labels} 240.0"),
        format!("vllm:prompt_tokens_total{labels} 500.0"),
        format!("vllm:generation_tokens_total{labels} 20.0"),
        format!("vllm:time_to_first_token_seconds_count{labels} 2.0"),
        format!("vllm:inter_token_latency_seconds_count{labels} 18.0"),
        "# TYPE vllm:num_requests_running gauge".to_owned(),
    ] {
        assert!(page.lines().any(|seen| seen == line), "{line} is missing in\n{page}");
    }
    assert!(page.contains("vllm:cache_config_info{block_size=\"16\",") && page.contains("num_gpu_blocks=\"4096\""));
    let info = |running: &str, waiting: &str| {
        format!(
            "vllm:lora_requests_info{{max_lora=\"4\",running_lora_adapters=\"{running}\",waiting_lora_adapters=\"{waiting}\"}} "
        )
    };
    let newest = |start: &str| page.lines().find_map(|line| line.strip_prefix(start)).unwrap().parse::<f64>().unwrap();
    assert!(newest(&info("", "")) > newest(&info("tuned", "")), "the newest series is the idle one");
    assert!(page.lines().count() > 200);
    let models: Value = serde_json::from_str(&text(&server, "/v1/models").await).unwrap();
    assert_eq!((&models["data"][0]["id"], &models["data"][1]["parent"]), (&json!("sim-8b"), &json!("sim-8b")));
}

#[tokio::test]
async fn a_garbage_metrics_page_is_garbage_of_the_kind_asked_for() {
    let server = start(|_| {}).await;
    let set = |metrics| server.set_faults(FaultConfig { metrics: Some(metrics), ..FaultConfig::default() }).unwrap();
    set(MetricsFault::Html);
    assert!(text(&server, "/metrics").await.starts_with("<!DOCTYPE html>"));
    set(MetricsFault::Nan);
    assert!(text(&server, "/metrics").await.contains("NaN\n"));
    set(MetricsFault::Status500);
    assert_eq!(send(&server, Method::GET, "/metrics", "").await.status(), 500);
    set(MetricsFault::Huge);
    let mut endless = send(&server, Method::GET, "/metrics", "").await.into_body();
    let mut seen = 0;
    while seen < 8 << 20 {
        seen += endless.frame().await.unwrap().unwrap().into_data().unwrap().len();
    }
    set(MetricsFault::Slow);
    let mut slow = send(&server, Method::GET, "/metrics", "").await.into_body();
    assert_eq!(slow.frame().await.unwrap().unwrap().into_data().unwrap().len(), 1);
    set(MetricsFault::Hang);
    assert!(tokio::time::timeout(Duration::from_millis(50), text(&server, "/metrics")).await.is_err());
}

#[tokio::test]
async fn shutdown_refuses_and_cuts_while_drain_lets_answers_end() {
    let server = start(|config| config.engine.speed = 10.0).await;
    let addr = server.addr();
    let ask = hello(json!({"max_tokens": 50, "stream": true})).to_string();
    let begun = send(&server, Method::POST, "/v1/chat/completions", ask.clone()).await;
    let reader = tokio::spawn(begun.into_body().collect());
    server.drain(LIMIT).await;
    let body = reader.await.unwrap().unwrap().to_bytes();
    assert!(body.ends_with(b"data: [DONE]\n\n"));
    assert!(TcpStream::connect(addr).await.is_err());

    let config = SimConfig { name: "sim-b".into(), ..SimConfig::default() };
    let server = SimServer::start(config, addr).await.expect("the port is free again");
    let begun = send(&server, Method::POST, "/v1/chat/completions", ask).await;
    let reader = tokio::spawn(begun.into_body().collect());
    assert!(server.wait_for(|stats| stats.running == 1).await);
    server.shutdown().await;
    assert!(reader.await.unwrap().is_err());
    assert!(TcpStream::connect(addr).await.is_err());
}

#[tokio::test]
async fn a_thousand_tokens_take_the_time_that_the_model_says() {
    let server = start(|config| config.engine.jitter_percent = 0.0).await;
    let begun = std::time::Instant::now();
    let data = stream(&server, "/v1/chat/completions", hello(json!({"max_tokens": 2000, "stream": true}))).await;
    let (took, least) = (begun.elapsed(), Duration::from_micros(2_000 * 121));
    assert_eq!(data.len(), 2_001);
    assert!(took >= least && took < least * 5, "2000 steps of 0.12 ms took {took:?}");
}
