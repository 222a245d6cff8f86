use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use pointsman_core::control_headers::DESTINATIONS;
use pointsman_tests::envoy_gateway::Proxy;
use pointsman_tests::gateway_stack::GatewayPlan;
use pointsman_tests::manifests::{pool_backend, route, rule};

use super::{chat_pool, counts};
use crate::chat;
use crate::load::{Asked, Load, failed};

/// How long something stays away.
const AWAY: Duration = Duration::from_secs(3);
/// Requests that are counted after a picker died or hung, and how many of them may fail (issue 6's Show).
const COUNTED: usize = 100;
const MAY_FAIL: usize = 2;
/// Clients under load.
const CLIENTS: usize = 4;

fn bodies() -> Vec<Bytes> {
    [1 << 10, 1 << 20].map(|size| Bytes::from(chat(size, 1, false).to_string())).to_vec()
}

fn completions(proxy: &Proxy) -> String {
    format!("{}/v1/chat/completions", proxy.url())
}

/// What was sent from `since` on.
fn from(asked: &[Asked], since: Instant) -> Vec<Asked> {
    asked.iter().filter(|asked| asked.began >= since).cloned().collect()
}

/// Whether only the pool's own server answered, so that a client's own destination was never obeyed.
fn only(asked: &[Asked], server: &str) -> bool {
    asked.iter().all(|asked| asked.server.is_empty() || asked.server == server)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_fails_open_is_served_while_its_picker_is_dead_or_hangs() -> Result<()> {
    let (mut stack, proxy) = chat_pool(GatewayPlan::default(), "FailOpen").await?;
    for signal in ["KILL", "STOP"] {
        let load = Load::posting(1, &completions(&proxy), bodies());
        tokio::time::sleep(Duration::from_secs(1)).await;
        let since = Instant::now();
        stack.pickers[0].signal(signal).await?;
        // One more than are counted: one may have begun before.
        load.until_more(COUNTED + 1).await?;
        let asked = load.end().await;
        let before = failed(asked.iter().filter(|asked| asked.at < since));
        let after = from(&asked, since);
        let failures = failed(after.iter().take(COUNTED));
        println!("picker {signal}: {failures} of the first {} after it failed", after.len().min(COUNTED));
        ensure!(before == 0 && after.len() >= COUNTED, "{before} failed before, {} asked after", after.len());
        ensure!(failures <= MAY_FAIL, "{failures} of {COUNTED} failed\n{}\n{}", stack.logs(), proxy.log().await);
        ensure!(only(&asked, "server-0"), "another server answered");
        if signal == "STOP" {
            // Envoy restarted while every picker is away: endpoints come from the extension server.
            proxy.restart().await?;
            stack.until_served(&proxy, "/v1/models", |served| served == "server-0").await?;
            stack.pickers[0].signal("CONT").await?;
        } else {
            stack.pickers[0] = stack.start_picker(0).await?;
        }
        stack.until_picked(&proxy).await?;
    }
    proxy.assert_no_rejections().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_fails_closed_is_refused_and_no_client_gets_where_it_wants() -> Result<()> {
    let (mut stack, proxy) = chat_pool(GatewayPlan::default(), "FailClose").await?;
    let elsewhere = stack.servers[1].addr().to_string();
    let named: Vec<_> = DESTINATIONS.iter().map(|name| (*name, elsewhere.as_str())).collect();
    let mut refused = 0;
    // Up, dead, coming back: a client's own destination is never obeyed.
    for round in 0..200 {
        if round == 50 {
            stack.pickers[0].kill().await?;
        }
        if round == 100 {
            stack.pickers[0] = stack.start_picker(0).await?;
        }
        let body = bodies()[usize::from(round % 10 == 0)].clone();
        let answer = stack.client.post(&completions(&proxy), &named, body).await?;
        let served = answer.header("x-sim-server");
        ensure!(served.is_empty() || served == "server-0", "round {round}: {served} answered");
        ensure!(matches!(answer.status, 200 | 503), "round {round}: {} {}", answer.status, answer.text());
        ensure!(round >= 50 || answer.status == 200, "round {round}: {}", answer.text());
        refused += usize::from(answer.status == 503);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    ensure!(refused >= 50, "only {refused} refused while there was no picker");
    stack.until_picked(&proxy).await?;
    proxy.assert_no_rejections().await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_pickers_one_may_die() -> Result<()> {
    let (mut stack, proxy) = chat_pool(GatewayPlan { pickers: 2, ..GatewayPlan::default() }, "FailClose").await?;
    stack.until_picked(&proxy).await?;
    let load = Load::posting(1, &completions(&proxy), bodies());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let since = Instant::now();
    stack.pickers[0].kill().await?;
    load.until_more(COUNTED + 1).await?;
    let after = from(&load.end().await, since);
    let failures = failed(after.iter().take(COUNTED));
    println!("one of two pickers killed: {failures} of the first {COUNTED} after it failed");
    ensure!(after.len() >= COUNTED && failures <= MAY_FAIL, "{failures} of {}\n{}", after.len(), stack.logs());
    proxy.assert_no_rejections().await
}

#[tokio::test(flavor = "multi_thread")]
async fn extension_servers_and_envoy_gateway_may_die_under_load() -> Result<()> {
    let (mut stack, proxy) = chat_pool(GatewayPlan::default(), "FailClose").await?;
    stack.team.pod(&stack.pod(1, "code")).await?;
    let load = Load::begin(CLIENTS, &format!("{}/v1/models", proxy.url()));

    // What changes while the extension server is away arrives when it is back.
    stack.extension_servers[0].kill().await?;
    tokio::time::sleep(AWAY).await;
    let code = stack.pool("code", "FailOpen") + &route("code", &[rule("/code", &[pool_backend("code", 1)])]);
    stack.team.apply(&code).await?;
    tokio::time::sleep(AWAY).await;
    let back = Instant::now();
    stack.extension_servers[0] = stack.start_extension_server(0).await?;
    stack.until_served(&proxy, "/code", |served| served == "server-1").await?;
    println!("extension server away for {:?}: a change arrived {:?} after its start", 2 * AWAY, back.elapsed());

    stack.envoy_gateway.kill().await?;
    tokio::time::sleep(AWAY).await;
    stack.envoy_gateway.restart().await?;
    stack.team.delete(&route("code", &[])).await?;
    stack.until_served(&proxy, "/code", |served| served == "server-0").await?;

    let asked = load.end().await;
    let failures = failed(&asked);
    println!("extension server and Envoy Gateway killed and back: {failures} of {} failed", asked.len());
    ensure!(asked.len() >= COUNTED && failures == 0, "{failures} of {}\n{}", asked.len(), stack.logs());
    ensure!(only(&asked, "server-0"), "another server answered");
    let after = counts(&proxy, "/v1/models", 20).await;
    ensure!(after.keys().eq(["server-0"]), "{after:?}");
    proxy.assert_no_rejections().await
}
