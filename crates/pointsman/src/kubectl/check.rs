//! `pointsman check`: is everything there that an installation needs, and does the gateway really ask the picker?
//!
//! What cannot be told from here is a warning, what is wrong is a failure, and each says what to do.

mod definitions;
mod envoy_gateway;
mod gateway;
mod permissions;
mod pickers;
mod policies;
mod pool;
mod probe;
mod report;
mod service;
mod tls;
mod traffic;

use anyhow::{Context, Result};
use pointsman_k8s::api::SchedulingPolicy;

use self::pickers::Pickers;
use self::report::Report;
use super::Terminal;
use super::args::{CheckArgs, Output};
use super::cluster::{Cluster, PoolObject, pool_key};

/// Runs `pointsman check`; false when anything failed.
pub(super) async fn run(args: CheckArgs, terminal: &mut Terminal<'_>) -> Result<bool> {
    let mut report = Report::default();
    report.section("cluster");
    match Cluster::find(&args.cluster).await {
        Ok(cluster) => examine(&cluster, &args, &mut report).await,
        Err(error) => report.fail(format!("{error:#}"), "name the cluster as for kubectl"),
    }
    match args.output {
        Output::Text => terminal.write(&report.to_string())?,
        Output::Json => terminal.write(&format!("{}\n", report.to_json()))?,
    }
    Ok(!report.has_failed())
}

async fn examine(cluster: &Cluster, args: &CheckArgs, report: &mut Report) {
    match cluster.call(cluster.client.apiserver_version()).await {
        Ok(version) => report.ok(format!("the API server answers: {}", version.git_version)),
        Err(error) => {
            report.fail(
                format!("the API server does not answer: {error}"),
                "mend the way to it first: `kubectl version`",
            );
            return;
        }
    }
    report.section("custom resources");
    let served = definitions::check(cluster, report).await;
    let pools = pools_meant(cluster, args, report).await;
    let mut pickers = Pickers::find(cluster, args, &pools).await;
    report.section("permissions of the picker");
    permissions::check(cluster, args, &pools, &pickers, report).await;
    for pool in &pools {
        report.section(&format!("pool {}", pool.key));
        let policies =
            report.known(cluster.list::<SchedulingPolicy>(&pool.key.namespace, "").await).unwrap_or_default();
        let members = pool::check(cluster, pool, &policies, report).await;
        policies::check(pool, &policies, report);
        report.section(&format!("the picker's Service of pool {}", pool.key));
        service::check(cluster, args, pool, &pickers, report).await;
        report.section(&format!("pickers of pool {}", pool.key));
        pickers.check(pool, members.as_deref(), report);
    }
    report.section("Envoy Gateway");
    envoy_gateway::check(cluster, &args.envoy_gateway, served.as_ref(), report).await;
    report.section("gateway");
    gateway::check(args, &pools, pickers.replicas(), report).await;
}

/// The pools to look at. One that is asked for and not there is a failure.
async fn pools_meant(cluster: &Cluster, args: &CheckArgs, report: &mut Report) -> Vec<PoolObject> {
    let wanted = args.pool.as_deref().map(|pool| pool_key(pool, &cluster.namespace));
    let namespace = wanted.as_ref().map_or(&*cluster.namespace, |key| &*key.namespace);
    let listed = cluster.pools(namespace).await.with_context(|| format!("which pools are in {namespace}"));
    let Some(mut pools) = report.known(listed) else { return Vec::new() };
    let names: Vec<String> = pools.iter().map(|pool| pool.key.name.to_string()).collect();
    match &wanted {
        Some(key) => {
            pools.retain(|pool| pool.key == *key);
            if pools.is_empty() {
                report.section(&format!("pool {key}"));
                let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                report.fail(
                    format!("the InferencePool does not exist; namespace {namespace} has: {there}"),
                    "create it, or correct --pool (and the pickers' --pool-name)",
                );
            }
        }
        None if pools.is_empty() => {
            report.section("pools");
            report
                .fail(format!("namespace {namespace} has no InferencePool"), "create one, or name its namespace by -n");
        }
        None => {}
    }
    pools
}
