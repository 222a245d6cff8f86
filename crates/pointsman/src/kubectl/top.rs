//! `pointsman top`: pools and their endpoints, as all replicas of the picker see them together.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use pointsman_k8s::facts::PodFacts;
use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::Terminal;
use super::admin_client::Replicas;
use super::args::{ClusterArgs, Output, TopArgs};
use super::cluster::{Cluster, PoolFilter, reach};
use super::pages::{EndpointPage, PoolPage};
use super::table::{Align, Table, count, or_dash, printable, shortened, time};
use crate::signals;

/// How often `--watch` looks.
const LOOK: Duration = Duration::from_secs(1);
/// The longest remark on an endpoint.
const REMARK_MAX: usize = 80;
/// Moves to the top of a terminal and clears what is below.
const REDRAW: &str = "\u{1b}[H\u{1b}[J";
/// So many reasons of cordons are looked up at once.
const REASONS_MAX: usize = 32;
/// How long that may hold up the table.
const REASONS_DEADLINE: Duration = Duration::from_secs(2);

/// A pool as the replicas that serve it see it together.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct PoolView {
    name: String,
    /// The replicas that serve it, in the order of [`EndpointView::in_flight_by_picker`].
    pickers: Vec<String>,
    /// By name, then by address.
    endpoints: Vec<EndpointView>,
}

/// An endpoint as the replicas see it together.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct EndpointView {
    /// By the replica with the freshest telemetry, but for what is a sum or an average: `in_flight` of all replicas,
    /// `tpot_ms` of those that have learnt one.
    #[serde(flatten)]
    page: EndpointPage,
    /// Each replica's own; absent where it does not know the endpoint.
    in_flight_by_picker: Vec<Option<u64>>,
    /// Why it is cordoned, where that could be read.
    cordon_reason: Option<String>,
}

/// Runs `pointsman top`.
pub(super) async fn run(args: TopArgs, terminal: &mut Terminal<'_>) -> Result<()> {
    let (mut replicas, cluster) = reach(&args.cluster, &args.pickers, args.pool.as_deref()).await?;
    let namespace = args.cluster.namespace.as_deref().or(cluster.as_ref().map(|cluster| &*cluster.namespace));
    let pool = args.pool.as_deref().map(|pool| PoolFilter::new(pool, namespace));
    let mut reasons = Reasons { cluster, args: args.cluster.clone(), is_sought: false };
    if !args.watch {
        let pools = look(&mut replicas, &mut reasons, pool.as_ref(), terminal).await?;
        return show(&pools, args.output, &replicas, terminal);
    }
    let watch = async {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let (mut frame, mut notes) = (Vec::new(), Vec::new());
            let mut buffered = Terminal { out: &mut frame, notes: &mut notes, is_terminal: terminal.is_terminal };
            let looked = look(&mut replicas, &mut reasons, pool.as_ref(), &mut buffered).await;
            let shown = looked.and_then(|pools| show(&pools, args.output, &replicas, &mut buffered));
            // Whoever watches wants to see the end of an outage too.
            if let Err(error) = shown {
                buffered.note(&format!("{error:#}"))?;
            }
            if terminal.is_terminal && args.output == Output::Text {
                terminal.write(REDRAW)?;
            }
            terminal.write(&String::from_utf8_lossy(&frame))?;
            // Below the table, where the next one takes them away.
            terminal.notes.write_all(&notes)?;
        }
    };
    tokio::select! {
        ended = watch => ended,
        stopped = signals::wait() => stopped,
    }
}

/// What the replicas say, put together.
async fn look(
    replicas: &mut Replicas,
    reasons: &mut Reasons,
    pool: Option<&PoolFilter>,
    terminal: &mut Terminal<'_>,
) -> Result<Vec<PoolView>> {
    let mut unheard = Vec::new();
    let pages: Vec<(String, Vec<PoolPage>)> = replicas.heard("/debug/pools", &mut unheard).await?;
    for error in unheard {
        terminal.note(&format!("{error}; what it has in flight is missing"))?;
    }
    let mut pools = merge(pages);
    if let Some(pool) = pool {
        let names = pools.iter().map(|pool| pool.name.clone()).collect::<Vec<_>>().join(", ");
        pools.retain(|view| pool.means(&view.name));
        ensure!(!pools.is_empty(), "the picker serves no pool of this name; it serves: {names}");
    }
    for pool in &mut pools {
        reasons.tell(pool).await;
    }
    Ok(pools)
}

/// Puts together what the replicas say: pools by name, endpoints by name and address.
fn merge(pages: Vec<(String, Vec<PoolPage>)>) -> Vec<PoolView> {
    let mut pools: BTreeMap<String, Vec<(String, PoolPage)>> = BTreeMap::new();
    for (replica, served) in pages {
        for pool in served {
            pools.entry(pool.name.clone()).or_default().push((replica.clone(), pool));
        }
    }
    pools.into_iter().map(|(name, seen)| merge_pool(name, seen)).collect()
}

fn merge_pool(name: String, seen: Vec<(String, PoolPage)>) -> PoolView {
    let pickers: Vec<String> = seen.iter().map(|(replica, _)| replica.clone()).collect();
    let mut rows: HashMap<(String, String), Vec<Option<EndpointPage>>> = HashMap::new();
    for (place, (_, pool)) in seen.into_iter().enumerate() {
        for endpoint in pool.endpoints {
            let key = (endpoint.name.clone(), endpoint.address.clone());
            rows.entry(key).or_insert_with(|| vec![None; pickers.len()])[place] = Some(endpoint);
        }
    }
    let mut endpoints: Vec<EndpointView> = rows.into_values().filter_map(merge_endpoint).collect();
    let key = |view: &EndpointView| (view.page.name.clone(), view.page.address.parse::<SocketAddr>().ok());
    endpoints.sort_by_cached_key(|view| (key(view), view.page.address.clone()));
    PoolView { name, pickers, endpoints }
}

fn merge_endpoint(seen: Vec<Option<EndpointPage>>) -> Option<EndpointView> {
    let in_flight_by_picker: Vec<_> = seen.iter().map(|page| page.as_ref().map(|page| page.in_flight)).collect();
    let known: Vec<EndpointPage> = seen.into_iter().flatten().collect();
    let age = |page: &EndpointPage| page.telemetry_age_ms.unwrap_or(f64::INFINITY);
    let mut page = known.iter().min_by(|a, b| age(a).total_cmp(&age(b)))?.clone();
    page.in_flight = total(in_flight_by_picker.iter().flatten().copied());
    let learnt: Vec<f64> = known.iter().filter_map(|page| page.tpot_ms).collect();
    page.tpot_ms = (!learnt.is_empty()).then(|| learnt.iter().sum::<f64>() / learnt.len() as f64);
    page.scrape_error = page.scrape_error.or_else(|| known.iter().find_map(|page| page.scrape_error.clone()));
    Some(EndpointView { page, in_flight_by_picker, cordon_reason: None })
}

/// Where the reasons of cordons are read: the pods.
struct Reasons {
    /// The cluster; where pickers were named by URLs, whichever happens to be in reach.
    cluster: Option<Cluster>,
    args: ClusterArgs,
    /// Whether that cluster was sought.
    is_sought: bool,
}

impl Reasons {
    /// Tells why endpoints are cordoned, where that can be known soon.
    async fn tell(&mut self, pool: &mut PoolView) {
        let cordoned = pool.endpoints.iter_mut().filter(|endpoint| endpoint.page.cordoned).take(REASONS_MAX);
        let cordoned: Vec<&mut EndpointView> = cordoned.collect();
        if cordoned.is_empty() {
            return;
        }
        if self.cluster.is_none() && !std::mem::replace(&mut self.is_sought, true) {
            self.cluster = Cluster::find(&self.args).await.ok();
        }
        if let Some(cluster) = &self.cluster {
            let reading = join_all(cordoned.into_iter().map(|endpoint| read_reason(cluster, endpoint)));
            // What did not come in time is left out.
            _ = timeout(REASONS_DEADLINE, reading).await;
        }
    }
}

/// Reads why an endpoint is cordoned. A pod of the name with another address is another cluster's.
async fn read_reason(cluster: &Cluster, endpoint: &mut EndpointView) {
    let EndpointPage { name, namespace, address, .. } = &endpoint.page;
    let pod = cluster.get::<Pod>(namespace, name).await.ok().flatten();
    let facts = pod.map(|pod| PodFacts::of(&pod.metadata.clone(), pod));
    let ip = address.parse::<SocketAddr>().ok().map(|address| address.ip());
    endpoint.cordon_reason = facts.filter(|facts| facts.ip == ip).and_then(|facts| Some(facts.cordon?.to_string()));
}

fn show(pools: &[PoolView], output: Output, replicas: &Replicas, terminal: &mut Terminal<'_>) -> Result<()> {
    match output {
        Output::Json => {
            let json = serde_json::to_string(&serde_json::json!({"pools": pools})).context("writing JSON")?;
            terminal.write(&format!("{json}\n"))
        }
        Output::Text if pools.is_empty() => terminal.write(&format!(
            "{} no pool\n",
            if replicas.len() == 1 { "the picker serves" } else { "the pickers serve" }
        )),
        Output::Text => {
            let texts: Vec<String> = pools.iter().map(text).collect();
            terminal.write(&texts.join("\n"))
        }
    }
}

/// A pool for people.
fn text(pool: &PoolView) -> String {
    let cordoned = pool.endpoints.iter().filter(|endpoint| endpoint.page.cordoned).count();
    let mut text = format!("pool {}: {}", printable(&pool.name), count(pool.endpoints.len(), "endpoint"));
    // Writing into a string cannot fail.
    if cordoned > 0 {
        let _ = write!(text, ", {cordoned} cordoned");
    }
    if pool.pickers.len() > 1 {
        let names = pool.pickers.iter().map(|name| printable(name)).collect::<Vec<_>>().join(" + ");
        let _ = write!(text, "; in flight is the sum of {names}");
    }
    text.push('\n');
    if pool.endpoints.is_empty() {
        return text;
    }
    let (left, right) = (Align::Left, Align::Right);
    let columns = [
        ("NAME", left),
        ("ADDRESS", left),
        ("QUEUE", right),
        ("RUNNING", right),
        ("KV", right),
        ("IN FLIGHT", right),
        ("TPOT", right),
        ("TELEMETRY", right),
        ("REMARKS", left),
    ];
    let mut table = Table::new(columns.map(|(head, align)| (head.to_owned(), align)));
    for endpoint in &pool.endpoints {
        let page = &endpoint.page;
        table.row(vec![
            page.name.clone(),
            page.address.clone(),
            or_dash(page.waiting, whole),
            or_dash(page.running, whole),
            or_dash(page.kv_cache_usage, percent),
            in_flight(page.in_flight, &endpoint.in_flight_by_picker),
            or_dash(page.tpot_ms, time),
            telemetry(page),
            remark(endpoint),
        ]);
    }
    table.row(sum(pool));
    text + &table.to_string()
}

/// The last line of a table: sums, and the mean of what is a share.
fn sum(pool: &PoolView) -> Vec<String> {
    let pages = || pool.endpoints.iter().map(|endpoint| &endpoint.page);
    let known = |of: fn(&EndpointPage) -> Option<f64>| {
        let values: Vec<f64> = pages().filter_map(of).collect();
        (!values.is_empty()).then(|| (values.iter().sum::<f64>(), values.len() as f64))
    };
    let by_picker: Vec<Option<u64>> = (0..pool.pickers.len())
        .map(|picker| total(pool.endpoints.iter().filter_map(|endpoint| endpoint.in_flight_by_picker[picker])))
        .map(Some)
        .collect();
    vec![
        "sum".to_owned(),
        String::new(),
        or_dash(known(|page| page.waiting), |(sum, _)| whole(sum)),
        or_dash(known(|page| page.running), |(sum, _)| whole(sum)),
        or_dash(known(|page| page.kv_cache_usage), |(sum, known)| format!("⌀ {}", percent(sum / known))),
        in_flight(total(pages().map(|page| page.in_flight)), &by_picker),
        or_dash(known(|page| page.tpot_ms), |(sum, known)| format!("⌀ {}", time(sum / known))),
    ]
}

/// The sum of counts that others claim.
fn total(counts: impl Iterator<Item = u64>) -> u64 {
    counts.fold(0, u64::saturating_add)
}

fn whole(value: f64) -> String {
    format!("{value:.0}")
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// The sum and, where several replicas count, what each of them does.
fn in_flight(sum: u64, by_picker: &[Option<u64>]) -> String {
    if by_picker.len() < 2 {
        return sum.to_string();
    }
    let each = by_picker.iter().map(|counted| or_dash(*counted, |counted| counted.to_string()));
    format!("{sum} = {}", each.collect::<Vec<_>>().join("+"))
}

fn telemetry(page: &EndpointPage) -> String {
    match page.telemetry_age_ms {
        None => "never".to_owned(),
        Some(age) if page.telemetry_fresh => time(age),
        Some(age) => format!("{}, stale", time(age)),
    }
}

fn remark(endpoint: &EndpointView) -> String {
    let cordoned = endpoint.page.cordoned.then(|| match &endpoint.cordon_reason {
        Some(reason) if !reason.is_empty() => format!("cordoned: {reason}"),
        _ => "cordoned".to_owned(),
    });
    let parts: Vec<String> = cordoned.into_iter().chain(endpoint.page.scrape_error.clone()).collect();
    shortened(&parts.join("; "), REMARK_MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn page(endpoints: Value) -> Vec<PoolPage> {
        serde_json::from_value(json!([{"name": "prod/chat", "endpoints": endpoints}])).unwrap()
    }

    fn endpoint(name: &str, host: u8, in_flight: u64, age: f64) -> Value {
        json!({
            "name": name, "namespace": "prod", "address": format!("10.0.0.{host}:8000"), "inFlight": in_flight,
            "tpotMs": 12.5, "waiting": 3.0, "running": 8.0, "kvCacheUsage": 0.91, "telemetryAgeMs": age,
            "telemetryFresh": age < 2000.0, "scrapeError": null, "added by a later version": 1,
        })
    }

    #[test]
    fn a_pool_is_a_table_by_name_with_a_sum() {
        let mut cordoned = endpoint("gpu-c", 12, 0, 40.0);
        cordoned["cordoned"] = true.into();
        let mut never = json!({"name": "gpu-b", "address": "10.0.0.11:8000", "inFlight": 1, "waiting": null});
        never["scrapeError"] = "10.0.0.11:8000 refused the connection: is the metrics port right?".into();
        let stale = endpoint("gpu-a", 10, 21, 12_300.0);
        let mut pools = merge(vec![("picker-0".into(), page(json!([cordoned, never, stale])))]);
        pools[0].endpoints[2].cordon_reason = Some("wrong answers".into());
        let expected = "\
pool prod/chat: 3 endpoints, 1 cordoned
NAME   ADDRESS         QUEUE  RUNNING      KV  IN FLIGHT       TPOT    TELEMETRY  REMARKS
gpu-a  10.0.0.10:8000      3        8    91 %         21    12.5 ms  12 s, stale
gpu-b  10.0.0.11:8000      -        -       -          1          -        never  10.0.0.11:8000 refused the connection: is the metrics port right?
gpu-c  10.0.0.12:8000      3        8    91 %          0    12.5 ms      40.0 ms  cordoned: wrong answers
sum                        6       16  ⌀ 91 %         22  ⌀ 12.5 ms
";
        assert_eq!(text(&pools[0]), expected);
    }

    #[test]
    fn replicas_are_put_together_by_the_freshest_telemetry_and_the_sum_of_what_is_in_flight() {
        let first = page(json!([endpoint("gpu-a", 10, 4, 900.0), endpoint("gpu-b", 11, 1, 900.0)]));
        let mut fresher = endpoint("gpu-a", 10, 3, 20.0);
        fresher["waiting"] = 7.into();
        fresher["tpotMs"] = 17.5.into();
        let pools = merge(vec![("a".into(), first), ("b".into(), page(json!([fresher])))]);
        let expected = "\
pool prod/chat: 2 endpoints; in flight is the sum of a + b
NAME   ADDRESS         QUEUE  RUNNING      KV  IN FLIGHT       TPOT  TELEMETRY
gpu-a  10.0.0.10:8000      7        8    91 %    7 = 4+3    15.0 ms    20.0 ms
gpu-b  10.0.0.11:8000      3        8    91 %    1 = 1+-    12.5 ms     900 ms
sum                       10       16  ⌀ 91 %    8 = 5+3  ⌀ 13.8 ms
";
        assert_eq!(text(&pools[0]), expected);
        let json = serde_json::to_value(&pools).unwrap();
        assert_eq!(json[0]["endpoints"][0]["inFlightByPicker"], json!([4, 3]));
        assert_eq!(json[0]["endpoints"][0]["inFlight"], 7);
    }

    #[test]
    fn ports_of_one_pod_stand_in_order_and_an_empty_pool_says_so() {
        let port = |port: u16| json!({"name": "pod", "address": format!("10.0.0.9:{port}")});
        let pools = merge(vec![("a".into(), page(json!([port(10_001), port(8001), port(8000)])))]);
        let order: Vec<_> = pools[0].endpoints.iter().map(|endpoint| endpoint.page.address.as_str()).collect();
        assert_eq!(order, ["10.0.0.9:8000", "10.0.0.9:8001", "10.0.0.9:10001"]);
        let empty = merge(vec![("a".into(), page(json!([])))]);
        assert_eq!(text(&empty[0]), "pool prod/chat: 0 endpoints\n");
    }
}
