//! InferencePools behind a plain Envoy Gateway: what a user declares, and what then answers.

/// What goes on while pickers, extension servers, Envoy and Envoy Gateway die, hang and come back.
mod outages;
/// What two extension servers answer, and to whom.
mod replicas;
/// How many rules there may be, and what a change then costs.
mod rules;
/// Many streamed answers at once, and one that lasts.
mod streams;

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pointsman_core::control_headers::{CONTROLS, DESTINATIONS};
use pointsman_tests::envoy_gateway::{Proxy, is_true};
use pointsman_tests::gateway_stack::{CHANGE_DEADLINE, GatewayPlan, GatewayStack};
use pointsman_tests::manifests::{headless_service, manifest, pool_backend, route, rule};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::chat;

/// Requests of a split that are counted, and how far a share may be off: four standard deviations of 70 of 100.
const SPLIT_REQUESTS: usize = 300;
const SPLIT_TOLERANCE: usize = 32;
/// How often it is looked whether something is so.
const LOOK: Duration = Duration::from_millis(20);

/// A stack whose pool `chat` has the first server, and its Envoy, once that answers.
async fn chat_pool(plan: GatewayPlan, failure_mode: &str) -> Result<(GatewayStack, Proxy)> {
    let stack = GatewayStack::start(plan).await?;
    stack.team.pod(&stack.pod(0, "chat")).await?;
    let manifests = stack.pool("chat", failure_mode) + &route("chat", &[rule("/", &[pool_backend("chat", 1)])]);
    let proxy = stack.open(&manifests).await?;
    stack.until_served(&proxy, "/v1/models", |served| served == "server-0").await?;
    Ok((stack, proxy))
}

/// How often each server answered so many requests for a path.
async fn counts(proxy: &Proxy, path: &str, requests: usize) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for _ in 0..requests {
        *counts.entry(proxy.served_by(path).await).or_default() += 1;
    }
    counts
}

/// The conditions that we wrote on a pool for its Gateway, once they are as `condition` wants.
async fn until_conditions(stack: &GatewayStack, pool: &str, condition: impl Fn(&Value) -> bool) -> Result<()> {
    let of_ours = |object: &Value| {
        let parents = object["status"]["parents"].as_array().cloned().unwrap_or_default();
        parents.into_iter().find(|parent| parent["parentRef"]["name"] == "gateway")
    };
    let is_so = |object: &Value| of_ours(object).is_some_and(|parent| condition(&parent["conditions"]));
    stack.until("inferencepool", pool, is_so).await.map(|_| ())
}

/// Waits until the extension server has seen so many rules as Envoy Gateway did, and answered from that.
async fn until_known(stack: &GatewayStack, rules: usize) -> Result<()> {
    let (gateway, deadline) = (format!("{}/gateway", stack.team.name), Instant::now() + CHANGE_DEADLINE);
    loop {
        let page = stack.extension_page(0, "/debug/xds").await?;
        let seen = page[&gateway]["rules"].as_object().map(|rules| rules.values().collect::<Vec<_>>());
        if seen.is_some_and(|seen| seen.len() == rules && seen.iter().all(|rule| rule["isKnown"] == true)) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "never {rules} rules: {page:#}\n{}", stack.logs());
        sleep(LOOK).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_user_declares_is_what_answers() -> Result<()> {
    let (stack, proxy) = chat_pool(GatewayPlan { servers: 3, ..GatewayPlan::default() }, "FailClose").await?;
    until_conditions(&stack, "chat", |all| is_true(all, "Accepted") && is_true(all, "ResolvedRefs")).await?;

    // The picked pod is the one that answers, whatever the client says.
    let elsewhere = stack.servers[2].addr().to_string();
    let mut headers: Vec<_> = DESTINATIONS.iter().chain(CONTROLS).map(|name| (*name, elsewhere.as_str())).collect();
    headers.push(("x-request-id", "request-1"));
    let url = format!("{}/v1/chat/completions", proxy.url());
    let answer = stack.client.post(&url, &headers, chat(2000, 2, false).to_string()).await?;
    ensure!(answer.status == 200 && answer.header("x-sim-server") == "server-0", "{}", answer.text());
    let decisions = stack.picker_page(0, "/debug/decisions?request_id=request-1").await?;
    ensure!(decisions[0]["endpoints"][0]["name"] == "server-0", "{decisions:#}\n{}", stack.logs());

    // Pods come and go.
    stack.team.pod(&stack.pod(1, "chat")).await?;
    stack.until_served(&proxy, "/v1/models", |served| served == "server-1").await?;
    stack.team.remove_pod("server-0").await?;
    stack.until_endpoints(1).await?;
    let after = counts(&proxy, "/v1/models", 20).await;
    ensure!(after.keys().eq(["server-1"]), "{after:?}");

    // A policy counts: no endpoint has the label that its filter wants.
    let filter = json!({"type": "label-selector-filter", "labelSelector": {"matchLabels": {"tier": "fast"}}});
    let target = json!({"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "chat"});
    let spec = json!({"targetRefs": [target], "profile": {"filters": [filter]}});
    let policy = manifest("pointsman.dev/v1alpha1", "SchedulingPolicy", "chat", spec);
    stack.team.apply(&policy).await?;
    stack.until_served(&proxy, "/v1/models", |served| served == "503").await?;
    stack.team.delete(&policy).await?;
    stack.until_served(&proxy, "/v1/models", |served| served == "server-1").await?;

    // A pool whose picker cannot be found fails closed, and says so.
    let lost = stack.pool("chat", "FailClose").replace("\"picker\"", "\"nobody\"");
    stack.team.apply(&lost).await?;
    stack.until_served(&proxy, "/v1/models", |served| served == "503").await?;
    until_conditions(&stack, "chat", |all| !is_true(all, "ResolvedRefs")).await?;
    stack.team.apply(&stack.pool("chat", "FailClose")).await?;
    stack.until_served(&proxy, "/v1/models", |served| served == "server-1").await?;
    until_conditions(&stack, "chat", |all| is_true(all, "ResolvedRefs")).await?;

    // Without a route the Gateway is nobody's parent.
    stack.team.delete(&route("chat", &[])).await?;
    let is_free = |pool: &Value| pool["status"]["parents"].as_array().is_none_or(Vec::is_empty);
    stack.until("inferencepool", "chat", is_free).await?;
    proxy.assert_no_rejections().await
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_split_match_and_mix() -> Result<()> {
    let stack = GatewayStack::start(GatewayPlan { servers: 3, ..GatewayPlan::default() }).await?;
    for (server, pool) in [(0, "chat"), (1, "code")] {
        stack.team.pod(&stack.pod(server, pool)).await?;
    }
    let pools = stack.pool("chat", "FailClose") + &stack.pool("code", "FailOpen");
    let mut beta = rule("/split", &[pool_backend("code", 1)]);
    beta["matches"][0]["headers"] = json!([{"name": "x-beta", "value": "1"}]);
    let service = json!({"name": "plain", "port": 80, "weight": 50});
    let rules = [
        rule("/split", &[pool_backend("chat", 70), pool_backend("code", 30)]),
        beta,
        rule("/mixed", &[pool_backend("chat", 50), service]),
        rule("/gone", &[pool_backend("chat", 50), pool_backend("absent", 50)]),
    ];
    let plain = headless_service("plain", 80, &[stack.servers[2].addr()]);
    let proxy = stack.open(&(pools + &plain + &route("routes", &rules))).await?;
    until_known(&stack, 4).await?;
    for (path, shares) in [("/split", ["server-0", "server-1"]), ("/mixed", ["server-0", "server-2"])] {
        for share in shares {
            stack.until_served(&proxy, path, |served| served == share).await?;
        }
    }

    let near =
        |found: Option<&usize>, expected: usize| found.is_some_and(|found| found.abs_diff(expected) <= SPLIT_TOLERANCE);
    let split = counts(&proxy, "/split", SPLIT_REQUESTS).await;
    ensure!(near(split.get("server-0"), 210) && near(split.get("server-1"), 90), "{split:?}");
    let mixed = counts(&proxy, "/mixed", SPLIT_REQUESTS).await;
    ensure!(near(mixed.get("server-0"), 150) && near(mixed.get("server-2"), 150), "{mixed:?}");
    // A pool that is not there costs its own share alone.
    let gone = counts(&proxy, "/gone", SPLIT_REQUESTS).await;
    ensure!(near(gone.get("server-0"), 150) && near(gone.get("500"), 150), "{gone:?}");
    let beta = stack.client.get(&format!("{}/split", proxy.url()), &[("x-beta", "1")]).await?;
    ensure!(beta.header("x-sim-server") == "server-1", "{}", beta.text());

    // Of two pools one is deleted, and comes back.
    stack.team.delete(&stack.pool("chat", "FailClose")).await?;
    stack.until_served(&proxy, "/split", |served| served == "500").await?;
    let one = counts(&proxy, "/split", SPLIT_REQUESTS).await;
    ensure!(near(one.get("500"), 210) && near(one.get("server-1"), 90), "{one:?}");
    stack.team.apply(&stack.pool("chat", "FailClose")).await?;
    stack.until_served(&proxy, "/split", |served| served == "server-0").await?;
    proxy.assert_no_rejections().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_of_another_namespace_needs_a_grant_and_no_more() -> Result<()> {
    let (stack, proxy) = chat_pool(GatewayPlan::default(), "FailClose").await?;
    let other = pointsman_tests::envoy_gateway::plane().await?.namespace("other").await?;
    let mut backend = pool_backend("chat", 1);
    backend["namespace"] = json!(stack.team.name);
    let mut object: Value =
        serde_json::from_str(route("across", &[rule("/across", &[backend])]).trim_start_matches("---\n"))
            .context("a route")?;
    object["spec"]["parentRefs"][0]["namespace"] = json!(stack.team.name);
    let mut open: Value =
        serde_json::from_str(&plane_kubectl(&stack, &["get", "gateway", "gateway", "-o", "json"]).await?)?;
    open["spec"]["listeners"][0]["allowedRoutes"] = json!({"namespaces": {"from": "All"}});
    for field in ["resourceVersion", "managedFields", "uid"] {
        open["metadata"].as_object_mut().context("no metadata")?.remove(field);
    }
    stack.team.apply(&open.to_string()).await?;
    other.apply(&object.to_string()).await?;
    stack.until_served(&proxy, "/across", |served| served == "500").await?;
    let grant = json!({
        "apiVersion": "gateway.networking.k8s.io/v1beta1", "kind": "ReferenceGrant", "metadata": {"name": "pools"},
        "spec": {
            "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": other.name}],
            "to": [{"group": "inference.networking.k8s.io", "kind": "InferencePool"}],
        },
    });
    stack.team.apply(&grant.to_string()).await?;
    stack.until_served(&proxy, "/across", |served| served == "server-0").await?;
    proxy.assert_no_rejections().await
}

async fn plane_kubectl(stack: &GatewayStack, arguments: &[&str]) -> Result<String> {
    let namespaced = ["-n", &stack.team.name].into_iter().chain(arguments.iter().copied()).collect::<Vec<_>>();
    pointsman_tests::envoy_gateway::plane().await?.kubectl(&namespaced, "").await
}
