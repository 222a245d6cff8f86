//! What a change costs where a Gateway has many rules: the time from a change in the API server to Envoy's new routes, with
//! our extension server and with one that changes nothing, and whether endpoints need any hook at all.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::time::{Instant, interval, sleep};

use crate::control_plane::PodPlan;
use crate::envoy_gateway::{Options, Proxy};
use crate::gateway_stack::{CHANGE_DEADLINE, GatewayPlan, GatewayStack};
use crate::manifests::{pool_backend, route, rule};
use crate::noop_extension;
use crate::quantile::quantile;

/// Rules of one HTTPRoute; Gateway API allows sixteen.
const RULES_OF_A_ROUTE: usize = 16;
/// How often Envoy is asked whether it has new routes.
const LOOK: Duration = Duration::from_millis(5);
/// How long nothing happens between two changes: Envoy Gateway has nothing left to do.
const REST: Duration = Duration::from_millis(400);
/// How long all rules may take to arrive, with an Envoy Gateway that has just started.
const ALL_DEADLINE: Duration = Duration::from_secs(120);
/// Pods that change, and how many changes a second there are.
const PODS: u8 = 50;
const CHANGES_A_SECOND: u32 = 100;
/// The first host of those pods in the team's network.
const POD_HOST: u8 = 100;
/// The host of the server that changes nothing, in the system's network.
const NOOP_HOST: u8 = 200;

/// How many of what.
#[derive(Clone, Copy, Debug)]
pub struct RulesPlan {
    /// Rules of the Gateway.
    pub rules: usize,
    /// Pools that they name in turn.
    pub pools: usize,
    /// Changes of each kind that are timed.
    pub changes: usize,
    /// How long pods change.
    pub churn: Duration,
}

/// What was seen.
#[derive(Debug)]
pub struct RulesReport {
    plan: RulesPlan,
    /// From a change of a pool to Envoy's routes.
    pub pool: Vec<Duration>,
    /// From a change of a route to Envoy's routes.
    pub route: Vec<Duration>,
    /// The same, by the server that changes nothing.
    pub noop: Vec<Duration>,
    /// Changes of pods.
    pub pod_changes: u64,
    /// Translations that Envoy Gateway asked for while pods changed.
    pub hooks_meanwhile: u64,
    /// From the last change of a pod until Envoy had exactly the endpoints that are ready.
    pub endpoints_right: Duration,
}

impl RulesReport {
    /// How much longer a pool's change takes than a route's with the server that changes nothing, by the medians.
    pub fn ratio(&self) -> f64 {
        quantile(&self.pool, 0.5).as_secs_f64() / quantile(&self.noop, 0.5).as_secs_f64()
    }
}

impl fmt::Display for RulesReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RulesPlan { rules, pools, .. } = self.plan;
        writeln!(f, "{rules} rules over {pools} pools, from the change to Envoy's routes (median, slowest):")?;
        for (name, times) in [
            ("a pool's change", &self.pool),
            ("a route's change", &self.route),
            ("a route's change, no-op extension server", &self.noop),
        ] {
            let (median, slowest) = (quantile(times, 0.5), quantile(times, 1.0));
            writeln!(f, "  {name:<42} {median:>7.0?} {slowest:>7.0?}")?;
        }
        writeln!(f, "  a pool's change over the no-op's: {:.2}", self.ratio())?;
        write!(
            f,
            "{} changes of pods at {CHANGES_A_SECOND}/s: {} translations meanwhile; Envoy had the ready endpoints {:.0?} later",
            self.pod_changes, self.hooks_meanwhile, self.endpoints_right
        )
    }
}

/// Measures.
pub async fn run(plan: RulesPlan) -> Result<RulesReport> {
    let mut stack = GatewayStack::start(GatewayPlan { servers: 1, ..GatewayPlan::default() }).await?;
    let pools: String = (0..plan.pools).map(|pool| stack.pool(&format!("pool-{pool}"), "FailClose")).collect();
    let routes: String = (0..plan.rules.div_ceil(RULES_OF_A_ROUTE)).map(|number| numbered(plan, number, "a")).collect();
    let proxy = stack.open(&(pools + &routes)).await?;
    until_rules(&stack, &proxy, plan.rules).await?;

    let mut pool = Vec::new();
    for number in 0..plan.changes {
        let mode = if number % 2 == 0 { "FailOpen" } else { "FailClose" };
        pool.push(timed(&stack, &proxy, &stack.pool("pool-0", mode)).await?);
    }
    let (pod_changes, hooks_meanwhile, endpoints_right) = churn(&stack, &proxy, plan.churn).await?;
    let route = timed_routes(&stack, &proxy, plan).await?;

    let address = stack.system.network.address(NOOP_HOST, 9004);
    noop_extension::serve(address).await?;
    let mut options = stack.envoy_gateway_options().await?;
    let manager = options.extension_manager.as_mut().context("no extension manager")?;
    manager["service"] = json!({"ip": {"address": address.ip(), "port": address.port()}});
    restart_with(&mut stack, &options).await?;
    // The first change makes sure that Envoy Gateway has begun.
    timed(&stack, &proxy, &numbered(plan, 0, "warm")).await?;
    let noop = timed_routes(&stack, &proxy, plan).await?;
    proxy.assert_no_rejections().await?;
    Ok(RulesReport { plan, pool, route, noop, pod_changes, hooks_meanwhile, endpoints_right })
}

async fn restart_with(stack: &mut GatewayStack, options: &Options) -> Result<()> {
    stack.envoy_gateway.kill().await?;
    stack.envoy_gateway.restart_with(options).await
}

/// The HTTPRoute of that number; `mark` is what its first rule matches besides.
fn numbered(plan: RulesPlan, number: usize, mark: &str) -> String {
    let first = number * RULES_OF_A_ROUTE;
    let rules = (first..plan.rules.min(first + RULES_OF_A_ROUTE)).map(|index| {
        let mut made = rule(&format!("/rule-{index}"), &[pool_backend(&format!("pool-{}", index % plan.pools), 1)]);
        if index == 0 {
            made["matches"][0]["headers"] = json!([{"name": "x-mark", "value": mark}]);
        }
        made
    });
    route(&format!("route-{number}"), &rules.collect::<Vec<_>>())
}

async fn timed_routes(stack: &GatewayStack, proxy: &Proxy, plan: RulesPlan) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    for number in 0..plan.changes {
        times.push(timed(stack, proxy, &numbered(plan, 0, &format!("mark-{number}"))).await?);
    }
    Ok(times)
}

/// The time from kubectl's end to Envoy's next routes, after a manifest was applied.
async fn timed(stack: &GatewayStack, proxy: &Proxy, manifest: &str) -> Result<Duration> {
    sleep(REST).await;
    let before = reloads(proxy).await?;
    let began = Instant::now();
    stack.team.apply(manifest).await?;
    while reloads(proxy).await? == before {
        ensure!(began.elapsed() < CHANGE_DEADLINE, "no new routes\n{}\n{}", stack.logs(), proxy.log().await);
        sleep(LOOK).await;
    }
    Ok(began.elapsed())
}

/// How often Envoy took new routes.
async fn reloads(proxy: &Proxy) -> Result<u64> {
    Ok(proxy.stats(r"rds\..*config_reload$").await?.iter().map(|(_, count)| count).sum())
}

/// Waits until Envoy has a route for every rule.
async fn until_rules(stack: &GatewayStack, proxy: &Proxy, rules: usize) -> Result<()> {
    let deadline = Instant::now() + ALL_DEADLINE;
    loop {
        // Before there are any the page is not there.
        let text = proxy.admin("/config_dump?resource=dynamic_route_configs").await.unwrap_or_default();
        let there = text.matches("/pool/").count();
        if there >= rules {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{there} of {rules} rules\n{}", stack.logs());
        sleep(REST).await;
    }
}

/// Has pods of the first pool change; the changes, the translations meanwhile, and how long the last change took to show.
async fn churn(stack: &GatewayStack, proxy: &Proxy, lasts: Duration) -> Result<(u64, u64, Duration)> {
    let host = |pod: u8| stack.team.network.ip(POD_HOST + pod);
    for pod in 0..PODS {
        stack.team.pod(&PodPlan::new(&format!("pod-{pod}"), "pool-0", host(pod))).await?;
    }
    until_endpoints(stack, proxy, &(0..PODS).map(|pod| host(pod).to_string()).collect()).await?;
    sleep(REST).await;
    let before = translations(stack).await?;
    // Two at a time, each with pods of its own, so that the last change of a pod is the one that counts.
    let (even, odd) = tokio::try_join!(change_pods(stack, 0, lasts), change_pods(stack, 1, lasts))?;
    let last = Instant::now();
    let is_ready = |pod: &u8| even.ready[usize::from(*pod)] && odd.ready[usize::from(*pod)];
    let expected = (0..PODS).filter(is_ready).map(|pod| host(pod).to_string()).collect();
    until_endpoints(stack, proxy, &expected).await?;
    Ok((even.changes + odd.changes, translations(stack).await? - before, last.elapsed()))
}

/// What became of some pods.
struct Changed {
    ready: [bool; PODS as usize],
    changes: u64,
}

/// Has every second pod become not ready, and ready again, at half of the whole rate.
async fn change_pods(stack: &GatewayStack, first: u8, lasts: Duration) -> Result<Changed> {
    let mut changed = Changed { ready: [true; PODS as usize], changes: 0 };
    let mut tick = interval(2 * Duration::from_secs(1) / CHANGES_A_SECOND);
    let began = Instant::now();
    for pod in (first..PODS).step_by(2).cycle() {
        tick.tick().await;
        if began.elapsed() >= lasts {
            break;
        }
        let is_ready = &mut changed.ready[usize::from(pod)];
        *is_ready = !*is_ready;
        stack.team.set_ready(&format!("pod-{pod}"), *is_ready).await?;
        changed.changes += 1;
    }
    Ok(changed)
}

/// Waits until the first pool's endpoints in Envoy are these addresses.
async fn until_endpoints(stack: &GatewayStack, proxy: &Proxy, expected: &BTreeSet<String>) -> Result<()> {
    let deadline = Instant::now() + CHANGE_DEADLINE;
    loop {
        let page: Value = serde_json::from_str(&proxy.admin("/clusters?format=json").await?)?;
        let clusters = page["cluster_statuses"].as_array().map(Vec::as_slice).unwrap_or_default();
        let suffix = format!("/pool/{}/pool-0", stack.team.name);
        let of_pool: Vec<_> = clusters
            .iter()
            .filter(|cluster| cluster["name"].as_str().is_some_and(|name| name.ends_with(&suffix)))
            .collect();
        let seen = |cluster: &&Value| -> BTreeSet<String> {
            let hosts = cluster["host_statuses"].as_array().into_iter().flatten();
            hosts.filter_map(|host| Some(host["address"]["socket_address"]["address"].as_str()?.to_owned())).collect()
        };
        if !of_pool.is_empty() && of_pool.iter().all(|cluster| seen(cluster) == *expected) {
            return Ok(());
        }
        let counts: Vec<_> = of_pool.iter().map(|cluster| seen(cluster).len()).collect();
        ensure!(Instant::now() < deadline, "{counts:?} endpoints, not {}\n{}", expected.len(), stack.logs());
        sleep(LOOK).await;
    }
}

/// Translations that the extension server answered.
async fn translations(stack: &GatewayStack) -> Result<u64> {
    let url = format!("http://{}/metrics", stack.extension_address(0, 9090));
    let text = stack.client.get(&url, &[]).await?.text();
    let count = text.lines().find_map(|line| {
        line.strip_prefix("pointsman_gateway_hook_duration_seconds_count{hook=\"translation\"} ")?.parse().ok()
    });
    count.with_context(|| format!("no count of translations:\n{text}"))
}
