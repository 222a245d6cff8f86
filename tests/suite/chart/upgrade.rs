use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use pointsman_tests::gateway_stack::{GatewayPlan, GatewayStack, PICKER, picker_values};
use pointsman_tests::helm::chart;
use pointsman_tests::manifests::{pool_backend, route, rule};
use pointsman_tests::workload::Workload;
use serde_json::json;

use crate::chat;
use crate::load::{Load, failed};

/// Clients that ask all the while.
const CLIENTS: usize = 4;
/// The fewest requests that count as load.
const COUNTED: usize = 500;

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_of_two_replicas_fails_no_request_under_load() -> Result<()> {
    let plan = || GatewayPlan { pickers: 2, ..GatewayPlan::default() };
    let mut stack = GatewayStack::start(plan()).await?;
    stack.team.pod(&stack.pod(0, "chat")).await?;
    let manifests = stack.pool("chat", "FailClose") + &route("chat", &[rule("/", &[pool_backend("chat", 1)])]);
    let proxy = stack.open(&manifests).await?;
    stack.until_served(&proxy, "/v1/models", |served| served == "server-0").await?;
    stack.until_all_pickers_serve().await?;
    let bodies: Vec<Bytes> = [1 << 10, 1 << 20].map(|size| Bytes::from(chat(size, 1, false).to_string())).to_vec();
    let load = Load::posting(CLIENTS, &format!("{}/v1/chat/completions", proxy.url()), bodies);

    let mut values = picker_values(&plan());
    values["picker"]["server"] = json!({"limits": {"maxStreams": 20000}});
    stack.team.install(PICKER, &values).await?;
    let workload = Workload::of(&stack.team, PICKER).await?;
    let container = workload.spec.containers.first().context("no container")?;
    let sleep = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref()?.sleep.as_ref());
    let sleep = Duration::from_secs(u64::try_from(sleep.context("nothing sleeps before SIGTERM")?.seconds)?);
    // What a Deployment does with one more than it wants, and none less: a new one, and once it is ready, an old one goes.
    for (old, new, both) in [(0, 2, [1, 2]), (1, 3, [2, 3])] {
        let picker = stack.start_picker(new).await?;
        stack.pickers.push(picker);
        stack.until_picker_serves(new).await?;
        stack.balance_over(&both).await?;
        tokio::time::sleep(sleep).await;
        stack.pickers[old].signal("TERM").await?;
        let ended = stack.pickers[old].ended().await?;
        ensure!(ended == Some(0), "picker {old} ended with {ended:?}\n{}", stack.pickers[old].log());
    }
    let metrics = format!("http://{}/metrics", stack.extension_address(0, 9090));
    let metrics = stack.client.get(&metrics, &[]).await?.text();
    let alerts = std::fs::read_to_string(chart().join("files/alerts.yaml"))?;
    let of_gateway = alerts.split(|other: char| !other.is_ascii_alphanumeric() && other != '_');
    for name in of_gateway.filter(|word| word.starts_with("pointsman_gateway_")) {
        ensure!(metrics.contains(&format!("\n{name}")), "no extension server has {name}:\n{metrics}");
    }
    let page = stack.picker_page(2, "/debug/config").await?;
    ensure!(page.to_string().contains("20000"), "the new limit is not in force: {page:#}");
    let asked = load.end().await;
    let failures = failed(&asked);
    println!("an upgrade of two replicas: {failures} of {} failed", asked.len());
    ensure!(asked.len() >= COUNTED && failures == 0, "{failures} of {}\n{}", asked.len(), stack.logs());
    proxy.assert_no_rejections().await
}
