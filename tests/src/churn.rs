//! What a cluster that never rests costs the picker: many pods in several pools that change all the time, while requests
//! are decided at a steady pace.
//!
//! Everything shares the machine: the API server and this program take more of it than the picker. So decisions are
//! also measured while the same changes happen to pods of another namespace, which cost the API server as much and the
//! picker nothing; that is what decisions under churn are compared with.
//!
//! Reading order: [`fleet`] is the pods and what becomes of them, [`picks`] asks the picker, [`meter`] says who took how
//! much of the machine, [`report`] prints it.

mod fleet;
mod meter;
mod picks;
mod pod;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::time::Instant;

use self::fleet::Fleet;
use self::meter::Meter;
pub use self::meter::Taken;
use self::picks::Picks;
pub use self::report::{Churned, Phase};
use crate::cluster_stack::{ClusterPlan, ClusterStack};
use crate::control_plane::ControlPlane;
use crate::manifests::manifest;

/// How long the picker may take until it knows what a list says. About five times what was seen on two busy cores.
const TRUE_DEADLINE: Duration = Duration::from_secs(30);
/// How often it is asked meanwhile: its page of all endpoints costs it more than what is measured.
const LOOK: Duration = Duration::from_millis(500);
/// How long the machine rests before something is measured.
const SETTLE: Duration = Duration::from_secs(1);
/// The most pools that one policy may be about.
const TARGETS: usize = 16;
/// The second octets of the addresses of pods that the picker sees, and of pods elsewhere. Nobody routes there.
const SEEN: u8 = 201;
const ELSEWHERE: u8 = 202;

/// What is done to the cluster.
#[derive(Clone, Copy, Debug)]
pub struct ChurnPlan {
    /// Pools.
    pub pools: usize,
    /// Pods of all of them together.
    pub pods: usize,
    /// Changes of pods a second. Each is a call, and for whoever watches an event.
    pub rate: f64,
    /// How long they go on.
    pub churn: Duration,
    /// How long decisions are measured before the churn while nothing changes; and, before it and after it, while pods of
    /// another namespace change. Zero leaves these out, and with them what decisions are compared with.
    pub comparison: Duration,
}

/// Loads a cluster, churns it, and compares what the picker knows with what the API server lists.
pub async fn churn(plane: &ControlPlane, plan: ChurnPlan, progress: impl Fn(&str)) -> Result<Churned> {
    let wired = ClusterPlan { pools: vec!["none"], scope: vec!["--all-pools"], ..ClusterPlan::new(0) };
    let stack = ClusterStack::start(plane, wired).await?;
    stack.until_admin(0, "/debug/config", |page| page["obstacles"] == json!([])).await?;
    let meter = Meter::new(plane, stack.pickers[0].id().context("the picker ended")?).await?;
    let resident_at_start = meter.picker.resident()?;

    let names: Vec<String> = (0..plan.pools).map(|pool| format!("pool-{pool:02}")).collect();
    stack.namespace.apply(&manifests(&stack, &names)).await?;
    let began = Instant::now();
    let fleet = Fleet::create(&stack.namespace, &names, plan.pods, SEEN, &progress).await?;
    progress(&format!("{} pods in {:.0?}", plan.pods, began.elapsed()));
    until_true(&stack, &fleet).await?;
    tokio::time::sleep(SETTLE).await;
    let resident_loaded = meter.picker.resident()?;

    let comparison = plan.comparison;
    let mut phases = Vec::new();
    let idle = match comparison {
        Duration::ZERO => None,
        window => {
            progress(&format!("an idle picker, for {window:?}"));
            Some(meter.watch(rest(window)).await?.1)
        }
    };
    let pools: Vec<String> = names.iter().map(|name| format!("{}/{name}", stack.namespace.name)).collect();
    let picks = Picks::start(stack.picker_address(0, 9002), &pools)?;
    let measure = async |name: &'static str, fleet: Option<&Fleet>, window: Duration| {
        tokio::time::sleep(SETTLE).await;
        progress(&format!("{name}, for {window:?}"));
        picks.begin()?;
        let work = async {
            match fleet {
                Some(fleet) => fleet.churn(plan.rate, window).await,
                None => rest(window).await,
            }
        };
        let (changes, taken) = meter.watch(work).await?;
        anyhow::Ok(Phase { name, changes, taken, picks: picks.end()? })
    };
    if comparison.is_zero() {
        phases.push(measure("churn", Some(&fleet), plan.churn).await?);
    } else {
        let other = plane.namespace("elsewhere").await?;
        let elsewhere = Fleet::create(&other, &names, plan.pods / 10, ELSEWHERE, &progress).await?;
        phases.push(measure("no changes", None, comparison).await?);
        phases.push(measure("changes elsewhere", Some(&elsewhere), comparison).await?);
        phases.push(measure("churn", Some(&fleet), plan.churn).await?);
        phases.push(measure("elsewhere again", Some(&elsewhere), comparison).await?);
    }
    picks.stop()?;
    let members = until_true(&stack, &fleet).await?;
    let resident = [resident_at_start, resident_loaded, meter.picker.resident()?];
    Ok(Churned { plan, pod_bytes: fleet.pod_bytes, idle, phases, resident, members })
}

/// Lets things be; no change is made.
async fn rest(window: Duration) -> Result<u64> {
    tokio::time::sleep(window).await;
    Ok(0)
}

/// The pools, and policies that all but forbid scraping: the pods are nowhere.
fn manifests(stack: &ClusterStack<'_>, names: &[String]) -> String {
    let policies = names.chunks(TARGETS).enumerate().map(|(number, names)| {
        let target = |name| json!({"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": name});
        let telemetry =
            json!({"interval": {"busy": "59m", "idle": "59m"}, "maxScrapesPerSecond": 1, "staleAfter": "1h"});
        let spec = json!({"targetRefs": names.iter().map(target).collect::<Vec<_>>(), "telemetry": telemetry});
        manifest("pointsman.dev/v1alpha1", "SchedulingPolicy", &format!("policy-{number}"), spec)
    });
    policies.chain(names.iter().map(|name| stack.pool(name))).collect()
}

/// Waits until the picker's members are what a fresh list of pods says; how many there are.
async fn until_true(stack: &ClusterStack<'_>, fleet: &Fleet) -> Result<usize> {
    let deadline = Instant::now() + TRUE_DEADLINE;
    let listed = fleet.listed().await?;
    loop {
        let known = members(&stack.admin(0, "/debug/pools").await?);
        if known == listed {
            return Ok(listed.values().map(BTreeSet::len).sum());
        }
        let difference = || {
            let all = listed.keys().chain(known.keys()).collect::<BTreeSet<_>>();
            let differs = all.into_iter().filter(|pool| listed.get(*pool) != known.get(*pool));
            let say = |pool: &String| format!("{pool}: {:?} listed, {:?} known", listed.get(pool), known.get(pool));
            differs.map(say).collect::<Vec<_>>().join("\n")
        };
        ensure!(Instant::now() < deadline, "the picker does not know what is listed:\n{}", difference());
        tokio::time::sleep(LOOK).await;
    }
}

/// The addresses of each pool's members, as `/debug/pools` shows them, by the pool's name.
fn members(page: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let address = |endpoint: &Value| endpoint["address"].as_str().unwrap_or_default().to_owned();
    let pool = |pool: &Value| {
        let name = pool["name"].as_str().unwrap_or_default();
        let addresses = pool["endpoints"].as_array().into_iter().flatten().map(address).collect();
        (name.rsplit('/').next().unwrap_or_default().to_owned(), addresses)
    };
    page.as_array().into_iter().flatten().map(pool).collect()
}
