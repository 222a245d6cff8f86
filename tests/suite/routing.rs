use std::collections::HashSet;

use pointsman_core::control_headers::{CONTROLS, DESTINATIONS};
use pointsman_tests::stack::{Plan, PoolPlan, Stack};
use serde_json::{Value, json};

use crate::chat;

fn served_by(answer: &pointsman_tests::client::Answer) -> String {
    answer.header("x-sim-server").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chosen_endpoint_is_the_one_that_serves() {
    let stack = Stack::start(Plan::new(4)).await.unwrap();
    for n in 0..20 {
        let id = format!("request-{n}");
        let url = format!("{}/v1/chat/completions", stack.url(0));
        let body = chat(2000, 2, false).to_string();
        let answer = stack.client.post(&url, &[("x-request-id", &id)], body).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        let decisions = stack.admin(&format!("/debug/decisions?request_id={id}")).await.unwrap();
        let picked = &decisions[0]["endpoints"][0];
        assert_eq!(picked["fate"], "picked");
        assert_eq!(picked["name"], served_by(&answer), "{decisions:#}");
    }
    stack.until_idle().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_stays_with_the_server_that_holds_it() {
    let stack = Stack::start(Plan::new(4)).await.unwrap();
    let mut homes = HashSet::new();
    for _ in 0..8 {
        let answer = stack.post("/v1/chat/completions", chat(20_000, 2, false).to_string()).await.unwrap();
        homes.insert(served_by(&answer));
    }
    assert_eq!(homes.len(), 1, "{homes:?}");
    let hits = stack.metric("pointsman_prefix_matched_tokens_total", &[]).await.unwrap();
    assert!(hits >= 7.0 * 4000.0, "{hits}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_says_of_destinations_changes_nothing() {
    let stack =
        Stack::start(Plan::of(vec![PoolPlan::new("default/a", 2), PoolPlan::new("default/b", 1)])).await.unwrap();
    let elsewhere = stack.servers[1][0].addr().to_string();
    let own: HashSet<_> = stack.servers[0].iter().map(|server| server.name().to_owned()).collect();
    let named: Vec<_> = DESTINATIONS.iter().chain(CONTROLS).map(|name| (*name, elsewhere.as_str())).collect();
    for value in [elsewhere.as_str(), "169.254.169.254:80", "[::1]:9", "example.com:80"] {
        let headers: Vec<_> = named.iter().map(|(name, _)| (*name, value)).collect();
        let url = format!("{}/v1/chat/completions", stack.url(0));
        let answer = stack.client.post(&url, &headers, chat(100, 1, false).to_string()).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(own.contains(&served_by(&answer)), "{}", served_by(&answer));

        let answer = stack.client.get(&format!("{}/sim/headers", stack.url(0)), &headers).await.unwrap();
        assert!(own.contains(&served_by(&answer)));
        let text = answer.text();
        for (name, _) in &named {
            let is_ours = *name == "x-gateway-destination-endpoint";
            assert!(is_ours || !text.contains(&format!("\"{name}\"")), "{name} reached the server: {text}");
        }
        assert!(!text.contains(value), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateways_subset_is_obeyed_with_and_without_a_body() {
    let mut pool = PoolPlan::new("default/pool", 3);
    // The stack's addresses are known only when it runs: the subset names the middle server by its place.
    pool.wire = |wiring| {
        let std::net::IpAddr::V4(ip) = wiring.listen.ip() else { return };
        let [a, b, c, _] = ip.octets();
        wiring.subset = Some(vec![(std::net::Ipv4Addr::new(a, b, c, 11), 8000).into()]);
    };
    let stack = Stack::start(Plan::of(vec![pool])).await.unwrap();
    for _ in 0..10 {
        let answer = stack.post("/v1/chat/completions", chat(100, 1, false).to_string()).await.unwrap();
        assert_eq!(served_by(&answer), "server-11");
        let answer = stack.client.get(&format!("{}/v1/models", stack.url(0)), &[]).await.unwrap();
        assert_eq!(served_by(&answer), "server-11");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_subset_is_refused_with_503() {
    let mut pool = PoolPlan::new("default/pool", 1);
    pool.wire = |wiring| wiring.subset = Some(Vec::new());
    let whole = PoolPlan::new("default/whole", 1);
    let stack = Stack::start(Plan::of(vec![PoolPlan { servers: Vec::new(), ..pool }, whole])).await.unwrap();
    let answer = stack.post("/v1/chat/completions", chat(100, 1, false).to_string()).await.unwrap();
    assert_eq!((answer.status, answer.header("x-pointsman-reason")), (503, "no-ready-endpoint"));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pools_on_one_picker_never_mix() {
    let stack = Stack::start(Plan::of(vec![PoolPlan::new("default/a", 2), PoolPlan::new("team/b", 3)])).await.unwrap();
    let mut tasks = Vec::new();
    for n in 0..200 {
        let (client, pool) = (stack.client.clone(), n % 2);
        let url = format!("{}/v1/chat/completions", stack.url(pool));
        let body = chat(500, 1, n % 3 == 0).to_string();
        tasks.push(tokio::spawn(async move { (pool, client.post(&url, &[], body).await.unwrap()) }));
    }
    for task in tasks {
        let (pool, answer) = task.await.unwrap();
        assert_eq!(answer.status, 200);
        let names: Vec<_> = stack.servers[pool].iter().map(|server| server.name().to_owned()).collect();
        assert!(names.contains(&served_by(&answer)), "pool {pool} was served by {}", served_by(&answer));
    }
    stack.until_idle().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_api_is_read_and_anything_else_is_passed_through() {
    let stack = Stack::start(Plan::new(2)).await.unwrap();
    let prompt = "tell me more ".repeat(200);
    let bodies: [(&str, Value); 5] = [
        (
            "/v1/chat/completions",
            json!({"model": "any", "messages": [{"role": "user", "content": prompt}], "max_tokens": 1}),
        ),
        ("/v1/completions", json!({"model": "any", "prompt": prompt, "max_tokens": 1})),
        ("/v1/embeddings", json!({"model": "any", "input": prompt})),
        ("/v1/responses", json!({"model": "any", "input": prompt, "max_output_tokens": 1})),
        ("/v1/messages", json!({"model": "any", "messages": [{"role": "user", "content": prompt}], "max_tokens": 1})),
    ];
    for (path, body) in bodies {
        let answer =
            stack.client.post(&format!("{}{path}", stack.url(0)), &[("x-request-id", path)], body.to_string()).await;
        let answer = answer.unwrap();
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let decisions = stack.admin(&format!("/debug/decisions?request_id={path}")).await.unwrap();
        assert_eq!(decisions[0]["model"], "any", "{path}");
        assert!(decisions[0]["promptTokens"].as_u64().unwrap() > 500, "{path}: {decisions:#}");
    }
    let odd: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    for headers in [[("content-type", "application/grpc")], [("content-type", "multipart/form-data; boundary=x")]] {
        let url = format!("{}/anything/else", stack.url(0));
        let answer = stack.client.post(&url, &headers, odd.clone()).await.unwrap();
        assert_eq!((answer.status, answer.header("x-sim-body-bytes")), (200, "100000"));
        assert_eq!(answer.body, odd);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgraded_connection_is_picked_and_tunnelled() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let stack = Stack::start(Plan::new(2)).await.unwrap();
    let address = stack.url(0).replace("http://", "");
    let mut socket = tokio::net::TcpStream::connect(&address).await.unwrap();
    let request = format!(
        "GET /v1/realtime HTTP/1.1\r\nhost: {address}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    for round in 0..5 {
        let message = vec![b'a' + round; 70_000];
        socket.write_all(&message).await.unwrap();
        let mut echo = vec![0; message.len()];
        socket.read_exact(&mut echo).await.unwrap();
        assert_eq!(echo, message);
    }
    drop(socket);
    stack.until_idle().await.unwrap();
}
