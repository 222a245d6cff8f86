use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use pointsman_sim::SimConfig;
use pointsman_tests::client::Client;
use pointsman_tests::cluster_stack::{ClusterPlan, ClusterStack, takes_requests};
use pointsman_tests::control_plane::ControlPlane;
use pointsman_tests::depth;
use pointsman_tests::stack::fast;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::cluster::plane;
use crate::failures::{is_whole, slow};
use crate::load::{Asked, Load, failed};

/// Clients that ask at once, one request after the other.
const CLIENTS: usize = 8;
/// How long picks may stay away when the replica that served died or stopped (issue 5's Show).
const TAKE_OVER_DEADLINE: Duration = Duration::from_secs(10);
/// How long the picker may take to be right again after an outage of the API server (issue 5's Show).
const RECOVERY_DEADLINE: Duration = Duration::from_secs(10);

/// The time from `since` to the first answer after the last failure; zero when nothing failed.
fn recovery(asked: &[Asked], since: Instant) -> Duration {
    let last_failure = asked.iter().rposition(Asked::is_failed);
    let recovered = last_failure.and_then(|at| asked.get(at + 1));
    recovered.map_or(Duration::ZERO, |asked| asked.at.saturating_duration_since(since))
}

/// A stack whose pool has two servers, once it answers.
async fn served(plane: &ControlPlane, plan: ClusterPlan) -> Result<ClusterStack<'_>> {
    let stack = ClusterStack::start(plane, plan).await?;
    stack.namespace.apply(&stack.pool("pool")).await?;
    for server in 0..stack.servers.len() {
        stack.namespace.pod(&stack.pod(server, "pool")).await?;
    }
    stack.until_answered(0).await?;
    Ok(stack)
}

/// The picker that serves in leader mode, once exactly one does.
async fn leader(stack: &ClusterStack<'_>) -> Result<usize> {
    let deadline = Instant::now() + TAKE_OVER_DEADLINE;
    loop {
        let mut serving = Vec::new();
        for picker in 0..stack.pickers.len() {
            let shown = stack.admin(picker, "/debug/config").await;
            if shown.is_ok_and(|shown| shown["serving"] == true && shown["lease"]["holds"] == true) {
                serving.push(picker);
            }
        }
        if let [leader] = serving[..] {
            return Ok(leader);
        }
        ensure!(Instant::now() < deadline, "no leader alone: {serving:?} serve\n{}", stack.logs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn leader_plan() -> ClusterPlan {
    ClusterPlan { pickers: 2, flags: vec!["--ha-mode", "leader"], ..ClusterPlan::new(2) }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_is_away_costs_no_request_and_is_caught_up_with() -> Result<()> {
    let plane = ControlPlane::start().await?;
    plane.install_upstream_crds("1.6.0").await?;
    plane.install_our_crds().await?;
    let outage = depth::at(Duration::from_secs(10), Duration::from_secs(60));
    let stack = served(&plane, ClusterPlan::new(2)).await?;
    let load = Load::begin(CLIENTS, &format!("{}/v1/models", stack.url(0)));
    plane.stop_api_server().await?;
    plane.compact_etcd().await?;
    tokio::time::sleep(outage).await;
    plane.restart_api_server().await?;
    stack.namespace.set_ready("server-0", false).await?;
    let changed = Instant::now();
    let has_one = |page: &serde_json::Value| page[0]["endpoints"].as_array().is_some_and(|all| all.len() == 1);
    stack.until_admin(0, "/debug/pools", has_one).await?;
    let took = changed.elapsed();
    let asked = load.end().await;
    let failures = failed(&asked);
    println!("API server away for {outage:?}: {failures} of {} requests failed; caught up in {took:?}", asked.len());
    ensure!(failures == 0, "{failures} of {} requests failed\n{}", asked.len(), stack.logs());
    ensure!(took < RECOVERY_DEADLINE, "caught up only after {took:?}\n{}", stack.logs());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_when_the_leader_is_killed() -> Result<()> {
    let plane = plane().await;
    let mut stack = served(plane, leader_plan()).await?;
    let first = leader(&stack).await?;
    stack.until_answered(0).await?;
    let load = Load::begin(CLIENTS, &format!("{}/v1/models", stack.url(0)));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let killed = Instant::now();
    stack.pickers[first].kill().await?;
    let second = leader(&stack).await?;
    stack.until_answered(0).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let asked = load.end().await;
    let took = recovery(&asked, killed);
    println!("leader killed: serving again after {took:?}");
    ensure!(second != first && took < TAKE_OVER_DEADLINE, "serving again after {took:?}\n{}", stack.logs());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_stopped_and_wakes_does_not_serve() -> Result<()> {
    let plane = plane().await;
    let stack = served(plane, leader_plan()).await?;
    let first = leader(&stack).await?;
    let load = Load::begin(CLIENTS, &format!("{}/v1/models", stack.url(0)));
    let stopped = Instant::now();
    let mut health = stack.health(first).await?;
    ensure!(takes_requests(&mut health).await?, "the leader takes no requests\n{}", stack.logs());
    // What kubelets ask: a standby is as ready as the leader, or no update would ever end.
    for picker in 0..stack.pickers.len() {
        let request = HealthCheckRequest { service: "standby".to_owned() };
        let said = stack.health(picker).await?.check(request).await?.into_inner();
        ensure!(said.status() == ServingStatus::Serving, "picker {picker} is no standby\n{}", stack.logs());
    }
    stack.pickers[first].signal("STOP").await?;
    let other = 1 - first;
    stack.until_admin(other, "/debug/config", |page| page["lease"]["holds"] == true).await?;
    stack.until_answered(0).await?;
    let took_over = Instant::now();
    let rest = depth::at(Duration::from_secs(8), Duration::from_secs(30));
    tokio::time::sleep(rest.saturating_sub(stopped.elapsed())).await;
    stack.pickers[first].signal("CONT").await?;
    // From its first answer on it says that it does not serve, to gateways above all.
    for _ in 0..40 {
        ensure!(!takes_requests(&mut health).await?, "the woken leader takes requests\n{}", stack.logs());
        let shown = stack.admin(first, "/debug/config").await?;
        ensure!(shown["serving"] == false, "the woken leader serves: {shown:#}\n{}", stack.logs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let asked = load.end().await;
    let after: Vec<Asked> = asked.iter().filter(|asked| asked.at > took_over).cloned().collect();
    let failures = failed(&after);
    println!("leader stopped: serving again after {:?}", recovery(&asked, stopped));
    ensure!(leader(&stack).await? == other, "the woken one leads again");
    ensure!(failures == 0, "{failures} of {} requests failed after the take-over\n{}", after.len(), stack.logs());
    ensure!(recovery(&asked, stopped) < TAKE_OVER_DEADLINE, "{:?}", recovery(&asked, stopped));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_told_to_go_hands_over_and_finishes_what_it_began() -> Result<()> {
    let plane = plane().await;
    let mut stack =
        served(plane, ClusterPlan { server: SimConfig { engine: slow(), ..fast() }, ..leader_plan() }).await?;
    let first = leader(&stack).await?;
    let (client, url) = (Client::new(), format!("{}/v1/chat/completions", stack.url(0)));
    let body = crate::chat(100, 100, true).to_string();
    let streams: Vec<_> = (0..8)
        .map(|_| {
            let (client, url, body) = (client.clone(), url.clone(), body.clone());
            tokio::spawn(async move { client.stream(&url, body).await })
        })
        .collect();
    let is_open = |page: &serde_json::Value| {
        let endpoints = page[0]["endpoints"].as_array().into_iter().flatten();
        endpoints.filter_map(|endpoint| endpoint["openResponses"].as_u64()).sum::<u64>() == 8
    };
    stack.until_admin(first, "/debug/pools", is_open).await?;
    stack.pickers[first].signal("TERM").await?;
    ensure!(leader(&stack).await? != first, "the one that goes leads\n{}", stack.logs());
    for stream in streams {
        let streamed = stream.await??;
        ensure!(streamed.error.is_none() && is_whole(&streamed), "cut: {streamed:?}\n{}", stack.logs());
    }
    ensure!(stack.pickers[first].ended().await? == Some(0), "{}", stack.pickers[first].log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_serve_one_may_die() -> Result<()> {
    let plane = plane().await;
    let mut stack = served(plane, ClusterPlan { pickers: 2, ..ClusterPlan::new(2) }).await?;
    for picker in 0..2 {
        stack
            .until_admin(picker, "/debug/config", |page| page["obstacles"].as_array().is_some_and(Vec::is_empty))
            .await?;
    }
    let load = Load::begin(CLIENTS, &format!("{}/v1/models", stack.url(0)));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let killed = Instant::now();
    stack.pickers[0].kill().await?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let asked = load.end().await;
    // What the dead one was being asked nobody can save, and how much that is depends on how busy the machine is.
    let (after, before): (Vec<Asked>, Vec<Asked>) = asked.into_iter().partition(|asked| asked.began >= killed);
    let under_way = failed(&before);
    let failures = failed(&after);
    println!("one of two killed: {under_way} under way failed, and {failures} of the next {}", after.len());
    let of_the_next_100 = failed(after.iter().take(100));
    ensure!(
        after.len() >= 100 && of_the_next_100 <= 2 && failures <= 2,
        "{failures} of {}\n{}",
        after.len(),
        stack.logs()
    );
    ensure!(under_way <= CLIENTS, "{under_way} under way failed\n{}", stack.logs());
    Ok(())
}
