use std::collections::HashMap;

use pointsman_envoy::wiring::BodyMode;
use pointsman_tests::client::Answer;
use pointsman_tests::stack::{Plan, PoolPlan, Stack};
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use crate::chat;

/// Requests over which a split is looked at, and how many of the tenth part may be seen: four and a half standard
/// deviations of a binomial around 40.
const REQUESTS: usize = 400;
const TENTH: std::ops::RangeInclusive<usize> = 13..=67;

/// One in ten gets another version, on the server that has it; who asks for it gets what must be escaped.
const RULES: &str = r#"{models: [
  {matches: [{model: any, headers: [{name: X-Beta, value: "1"}]}], targets: [{model: 'beta "ü"'}]},
  {matches: [{model: any}], priority: -1, targets: [
    {model: v2, weight: 90},
    {model: v3-of-a-longer-name, weight: 10, endpointSelector: {matchLabels: {version: v3}}}]},
  {matches: [{model: nobody-has-it}], targets: [{endpointSelector: {matchLabels: {version: v9}}}]}]}"#;

fn plan(wirings: &[fn(&mut pointsman_envoy::bootstrap::PoolWiring)]) -> Plan {
    let pools = wirings.iter().enumerate().map(|(at, wire)| PoolPlan {
        wire: *wire,
        scheduling: RULES.replace('\n', " "),
        ..PoolPlan::new(&format!("default/mode-{at}"), 3)
    });
    Plan::of(pools.collect())
}

/// Starts pools of which the last server has the label `version: v3`.
async fn start(plan: Plan) -> Stack {
    let stack = Stack::start(plan).await.unwrap();
    let last: Vec<_> = stack.servers.iter().map(|servers| format!("{},", servers.last().unwrap().name())).collect();
    let label = |line: &str| match last.iter().any(|name| line.contains(name)) {
        true => line.replace('}', ", labels: {version: v3}}"),
        false => line.to_owned(),
    };
    let text: Vec<_> = stack.configuration().lines().map(label).collect();
    stack.rewrite_configuration(&text.join("\n")).unwrap();
    let is_labelled = |pool: &Value| {
        let endpoints = pool["endpoints"].as_array().unwrap();
        endpoints.iter().any(|endpoint| endpoint["labels"]["version"] == "v3")
    };
    stack.until_pools("labelled", |page| page.as_array().unwrap().iter().all(is_labelled)).await.unwrap();
    stack
}

async fn post(stack: &Stack, pool: usize, headers: &[(&str, &str)], body: &str) -> Answer {
    let url = format!("{}/v1/chat/completions", stack.url(pool));
    stack.client.post(&url, headers, body.to_owned()).await.unwrap()
}

/// Says which model the server was asked for, once it is sure that nothing else of the body was changed.
#[track_caller]
fn served_model(answer: &Answer, sent: &str, what: &str) -> String {
    assert_eq!(answer.status, 200, "{what}: {}", answer.text());
    let model = answer.json().unwrap()["model"].as_str().unwrap().to_owned();
    let expected = sent.replace(r#""model":"any""#, &format!(r#""model":{}"#, Value::from(model.as_str())));
    assert_eq!(answer.header("x-sim-body-bytes"), expected.len().to_string(), "{what}");
    assert_eq!(answer.header("x-sim-body-xxh3"), format!("{:016x}", xxh3_64(expected.as_bytes())), "{what}");
    model
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_split_by_weight_in_full_duplex_and_buffered() {
    let stack = start(plan(&[
        |wiring| wiring.request_body = BodyMode::FullDuplex,
        |wiring| wiring.request_body = BodyMode::Buffered,
    ]))
    .await;
    for (pool, mode) in ["full duplex", "buffered"].into_iter().enumerate() {
        let mut served: HashMap<String, usize> = HashMap::new();
        let body = chat(100, 1, false).to_string();
        for _ in 0..REQUESTS {
            let answer = post(&stack, pool, &[], &body).await;
            let model = served_model(&answer, &body, mode);
            let is_third = model == "v3-of-a-longer-name";
            let has_it = stack.servers[pool].last().unwrap().name();
            assert!(!is_third || answer.header("x-sim-server") == has_it, "{mode}");
            *served.entry(model).or_default() += 1;
        }
        let third = served["v3-of-a-longer-name"];
        assert!(TENTH.contains(&third) && served["v2"] + third == REQUESTS, "{mode}: {served:?}");
        // What no rule names is left alone.
        let other = body.replace("any", "some-other");
        assert_eq!(served_model(&post(&stack, pool, &[], &other).await, &other, mode), "some-other");
    }
    let counted = stack.metric("pointsman_requests_total", &[r#"model="any""#]).await.unwrap();
    assert_eq!(counted, 2.0 * REQUESTS as f64, "counted under the asked model");
    assert_eq!(stack.metric("pointsman_requests_total", &[r#"model="v2""#]).await.unwrap(), 0.0);
    stack.until_idle().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_chooses_the_model_in_every_mode_that_shows_the_body_and_decisions_tell_both() {
    let wirings: [fn(&mut pointsman_envoy::bootstrap::PoolWiring); 5] = [
        |wiring| (wiring.request_body, wiring.response_body) = (BodyMode::FullDuplex, BodyMode::FullDuplex),
        |wiring| (wiring.request_body, wiring.response_body) = (BodyMode::Streamed, BodyMode::Streamed),
        |wiring| (wiring.request_body, wiring.response_body) = (BodyMode::Buffered, BodyMode::Buffered),
        |wiring| (wiring.request_body, wiring.response_body) = (BodyMode::BufferedPartial, BodyMode::None),
        |wiring| (wiring.request_body, wiring.response_body) = (BodyMode::None, BodyMode::None),
    ];
    let mut plan = plan(&wirings);
    plan.options = |options| options.send_body_without_waiting_for_header_response = true;
    let stack = start(plan).await;
    for pool in 0..wirings.len() {
        // A body that is not shown before the pick goes on as it is.
        let expected = if pool == 4 { "any" } else { "beta \"ü\"" };
        for len in [1, 300_000] {
            let what = format!("mode {pool}, {len} bytes");
            let body = chat(len, 1, false).to_string();
            let answer = post(&stack, pool, &[("x-beta", "1"), ("x-request-id", &what)], &body).await;
            assert_eq!(served_model(&answer, &body, &what), expected, "{what}");
            let page = format!("/debug/decisions?pool=default/mode-{pool}&limit=1");
            let decision = stack.admin(&page).await.unwrap()[0].clone();
            let (asked, target) = (&decision["model"], &decision["targetModel"]);
            if pool == 4 {
                assert!(asked.is_null() && target.is_null(), "{decision:#}");
            } else {
                assert_eq!(
                    (asked, target, &decision["modelRule"]),
                    (&"any".into(), &expected.into(), &"models[0]".into())
                );
            }
        }
    }
    let body = chat(1, 1, false).to_string().replace("any", "nobody-has-it");
    let refused = post(&stack, 0, &[], &body).await;
    assert_eq!((refused.status, refused.header("x-pointsman-reason")), (503, "filtered-out"));
    stack.until_idle().await.unwrap();
    assert_eq!(stack.metric("pointsman_buffered_bytes", &[]).await.unwrap(), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_body_whose_model_comes_last_arrives_whole_with_the_other_name() {
    let stack = start(plan(&[
        |wiring| wiring.request_body = BodyMode::FullDuplex,
        |wiring| wiring.request_body = BodyMode::Buffered,
    ]))
    .await;
    let text = "All work and no play makes Jack a dull boy. ".repeat((20 << 20) / 44);
    let body = format!(r#"{{"max_tokens":1,"messages":[{{"role":"user","content":"{text}"}}],"model":"any"}}"#);
    for (pool, mode) in ["full duplex", "buffered"].into_iter().enumerate() {
        let answer = post(&stack, pool, &[("x-beta", "1")], &body).await;
        assert_eq!(served_model(&answer, &body, mode), "beta \"ü\"");
    }
    stack.until_idle().await.unwrap();
    assert_eq!(stack.metric("pointsman_buffered_bytes", &[]).await.unwrap(), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_objective_is_passed_on_and_told_once_it_is_trusted() {
    for (server, trusted) in [("{}", false), ("{trust: {objective: true}}", true)] {
        let mut plan = Plan::new(1);
        plan.server = server.to_owned();
        let stack = Stack::start(plan).await.unwrap();
        let headers = [("x-gateway-inference-objective", "urgent"), ("x-request-id", "r-1")];
        let answer = stack.client.get(&format!("{}/sim/headers", stack.url(0)), &headers).await.unwrap();
        assert_eq!(answer.text().contains("x-gateway-inference-objective"), trusted, "{}", answer.text());
        let decision = stack.admin("/debug/decisions?request_id=r-1").await.unwrap()[0].clone();
        assert_eq!(decision["objective"], Value::from(trusted.then_some("urgent")), "{decision:#}");
        assert_eq!(decision["priority"], 0, "no such objective is in a file");
    }
}
