//! Metrics of what pools hold, read when they are asked for: no gauge to keep in step, and no series of endpoints that
//! are gone.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use pointsman_core::pool::Pool;
use pointsman_core::snapshot::PoolSnapshot;
use pointsman_core::time::Tick;
use pointsman_extproc::settings::{BufferBudget, PoolDirectory};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Tells what the pools hold.
#[derive(Debug)]
pub(crate) struct PoolCollector {
    pub(crate) pools: Arc<PoolDirectory>,
    pub(crate) budget: Arc<BufferBudget>,
    pub(crate) start: std::time::Instant,
}

/// One metric of endpoints: its name, help, and value by row; `None` leaves the row out.
struct EndpointMetric {
    name: &'static str,
    help: &'static str,
    value: fn(&PoolSnapshot, usize, Tick) -> Option<f64>,
}

const GAUGES: &[EndpointMetric] = &[
    EndpointMetric {
        name: "endpoint_in_flight",
        help: "Requests picked for the endpoint and not yet finished",
        value: |snapshot, row, _| Some(f64::from(snapshot.members.cells[row].in_flight())),
    },
    EndpointMetric {
        name: "endpoint_in_flight_tokens",
        help: "Estimated prompt tokens of those requests",
        value: |snapshot, row, _| Some(snapshot.members.cells[row].in_flight_tokens() as f64),
    },
    EndpointMetric {
        name: "endpoint_open_responses",
        help: "Of those requests, the ones whose response has begun",
        value: |snapshot, row, _| Some(f64::from(snapshot.members.cells[row].streaming())),
    },
    EndpointMetric {
        name: "endpoint_tpot_seconds",
        help: "Time between two output tokens of one response, a moving average",
        value: |snapshot, row, _| snapshot.members.cells[row].tpot().map(f64::from),
    },
    EndpointMetric {
        name: "endpoint_waiting",
        help: "Requests in the server's queue at the last scrape",
        value: |snapshot, row, _| snapshot.load.at[row].map(|_| f64::from(snapshot.load.waiting[row])),
    },
    EndpointMetric {
        name: "endpoint_running",
        help: "Requests in the server's batch at the last scrape",
        value: |snapshot, row, _| snapshot.load.at[row].map(|_| f64::from(snapshot.load.running[row])),
    },
    EndpointMetric {
        name: "endpoint_kv_cache_usage",
        help: "Share of the server's KV cache in use at the last scrape",
        value: |snapshot, row, _| snapshot.load.at[row].map(|_| f64::from(snapshot.load.kv_cache_usage[row])),
    },
    EndpointMetric {
        name: "endpoint_telemetry_age_seconds",
        help: "Age of the last scrape that succeeded",
        value: |snapshot, row, now| snapshot.load.age(row, now).map(|age| age.as_secs_f64()),
    },
    EndpointMetric {
        name: "endpoint_telemetry_fresh",
        help: "Whether the last scrape that succeeded is young enough to be believed; 0 before the first",
        value: |snapshot, row, now| {
            let is_fresh = snapshot.load.is_fresh(row, now, snapshot.policy.telemetry.stale_after);
            Some(if is_fresh { 1.0 } else { 0.0 })
        },
    },
    EndpointMetric {
        name: "endpoint_cordoned",
        help: "Whether somebody took the endpoint out of new picks",
        value: |snapshot, row, _| Some(if snapshot.members.endpoints[row].is_cordoned { 1.0 } else { 0.0 }),
    },
];

/// One total of endpoints: its name, help, and where the cell keeps it.
type EndpointTotal = (&'static str, &'static str, fn(&pointsman_core::endpoint::Tally) -> u64);

const TOTALS: &[EndpointTotal] = &[
    ("endpoint_answered", "Requests that the endpoint answered, with whatever status", |tally| {
        tally.answered.load(Ordering::Relaxed)
    }),
    ("endpoint_failed", "Requests that it answered with 500 or more, or did not finish", |tally| {
        tally.failed.load(Ordering::Relaxed)
    }),
    ("endpoint_prompt_tokens", "Prompt tokens, as the server counts them", |tally| {
        tally.prompt_tokens.load(Ordering::Relaxed)
    }),
    ("endpoint_cached_tokens", "Prompt tokens that the server found in its cache", |tally| {
        tally.cached_tokens.load(Ordering::Relaxed)
    }),
    ("endpoint_output_tokens", "Output tokens, as the server counts them", |tally| {
        tally.output_tokens.load(Ordering::Relaxed)
    }),
];

/// One metric of pools: its name, help and value.
type PoolMetric = (&'static str, &'static str, fn(&Pool) -> f64);

const POOL_GAUGES: &[PoolMetric] = &[
    ("pool_endpoints", "Ready endpoints of the pool", |pool| pool.snapshot().members.len() as f64),
    ("pool_endpoints_available", "Of those, the ones that are not cordoned", |pool| {
        pool.snapshot().members.endpoints.iter().filter(|endpoint| !endpoint.is_cordoned).count() as f64
    }),
    (
        "pool_load_spread",
        "Coefficient of variation of requests in flight over the pool's endpoints: 0 is even",
        |pool| load_spread(&pool.snapshot()),
    ),
    ("pool_prefix_index_entries", "Blocks in the prefix index", |pool| pool.prefix_index_size().entries as f64),
    ("pool_prefix_index_bytes", "Memory of the prefix index", |pool| pool.prefix_index_size().bytes as f64),
    ("pool_snapshot_version", "Publications of the pool's snapshot", |pool| pool.snapshot().version as f64),
];

/// Standard deviation over mean of the requests in flight; 0 where there are none.
fn load_spread(snapshot: &PoolSnapshot) -> f64 {
    let loads: Vec<f64> = snapshot.members.cells.iter().map(|cell| f64::from(cell.in_flight())).collect();
    let mean = loads.iter().sum::<f64>() / loads.len().max(1) as f64;
    if mean == 0.0 {
        return 0.0;
    }
    let variance = loads.iter().map(|load| (load - mean).powi(2)).sum::<f64>() / loads.len() as f64;
    variance.sqrt() / mean
}

impl Collector for PoolCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let now = Tick::of(self.start, std::time::Instant::now());
        let pools = self.pools.all();
        let snapshots: Vec<_> = pools.iter().map(|pool| (&**pool.name(), pool.snapshot())).collect();
        let held = ConstGauge::new(i64::try_from(self.budget.held()).unwrap_or(i64::MAX));
        let help = "Bytes of bodies that are held for a decision";
        held.encode(encoder.encode_descriptor("buffered_bytes", help, None, held.metric_type())?)?;

        for (name, help, value) in POOL_GAUGES {
            let kind = ConstGauge::new(0.0).metric_type();
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for pool in &pools {
                ConstGauge::new(value(pool)).encode(family.encode_family(&[("pool", &**pool.name())])?)?;
            }
        }
        for metric in GAUGES {
            let kind = ConstGauge::new(0.0).metric_type();
            let mut family = encoder.encode_descriptor(metric.name, metric.help, None, kind)?;
            for (pool, snapshot) in &snapshots {
                for row in 0..snapshot.members.len() {
                    if let Some(value) = (metric.value)(snapshot, row, now) {
                        let endpoint = EndpointLabel::of(snapshot, row);
                        ConstGauge::new(value).encode(family.encode_family(&endpoint.labels(pool))?)?;
                    }
                }
            }
        }
        for (name, help, total) in TOTALS {
            let kind = ConstCounter::new(0_u64).metric_type();
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for (pool, snapshot) in &snapshots {
                for row in 0..snapshot.members.len() {
                    let endpoint = EndpointLabel::of(snapshot, row);
                    let total = total(snapshot.members.cells[row].tally());
                    ConstCounter::new(total).encode(family.encode_family(&endpoint.labels(pool))?)?;
                }
            }
        }
        let help = "From the pick to the first token of streamed answers; sum and count alone";
        let mut family = encoder.encode_descriptor("endpoint_ttft_seconds", help, None, MetricType::Histogram)?;
        for (pool, snapshot) in &snapshots {
            for row in 0..snapshot.members.len() {
                let tally = snapshot.members.cells[row].tally();
                let count = tally.first_tokens.load(Ordering::Relaxed);
                let sum = tally.ttft_micros.load(Ordering::Relaxed) as f64 / 1e6;
                let endpoint = EndpointLabel::of(snapshot, row);
                // The one bucket that a histogram must have: an endpoint has too many series for more.
                let buckets = [(f64::INFINITY, count)];
                family
                    .encode_family(&endpoint.labels(pool))?
                    .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
            }
        }
        Ok(())
    }
}

/// What names an endpoint in labels.
struct EndpointLabel<'a> {
    name: &'a str,
    address: String,
}

impl<'a> EndpointLabel<'a> {
    fn of(snapshot: &'a PoolSnapshot, row: usize) -> Self {
        let endpoint = &snapshot.members.endpoints[row];
        Self { name: &endpoint.name, address: endpoint.address.to_string() }
    }

    fn labels<'b>(&'b self, pool: &'b str) -> [(&'static str, &'b str); 3] {
        [("pool", pool), ("endpoint", self.name), ("address", &self.address)]
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use pointsman_core::endpoint::Endpoint;
    use pointsman_core::load::{Load, LoadReport};
    use pointsman_core::policy::Policy;
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn tells_which_endpoints_are_out_unheard_and_slow() {
        let policy = Policy::default();
        let stale_after = policy.telemetry.stale_after;
        let (pool, mut writer) = Pool::new("default/p", Arc::new(policy), 1);
        let endpoint = |name, host| Endpoint::new(name, ([10, 0, 0, host], 8000).into());
        writer.set_members([Endpoint { is_cordoned: true, ..endpoint("a", 1) }, endpoint("b", 2), endpoint("c", 3)]);
        writer.publish();
        let start = Instant::now() - 2 * stale_after;
        let now = Tick::of(start, Instant::now());
        let members = Arc::clone(&pool.snapshot().members);
        for (row, at) in [(1, now), (2, Tick(1))] {
            writer.record_load(LoadReport { endpoint: members.ids[row], load: Load { at, ..Load::default() } });
        }
        writer.publish();
        let tally = members.cells[1].tally();
        tally.first_tokens.store(2, Ordering::Relaxed);
        tally.ttft_micros.store(500_000, Ordering::Relaxed);

        let pools = Arc::new(PoolDirectory::default());
        pools.set([(pool, None)]);
        let mut registry = Registry::default();
        registry.register_collector(Box::new(PoolCollector { pools, budget: Arc::default(), start }));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let of = [("a", "10.0.0.1:8000"), ("b", "10.0.0.2:8000"), ("c", "10.0.0.3:8000")]
            .map(|(name, address)| format!(r#",endpoint="{name}",address="{address}""#));
        let [a, b, c] = of.each_ref().map(String::as_str);
        for (name, labels, value) in [
            ("pool_endpoints", "", "3.0"),
            ("pool_endpoints_available", "", "2.0"),
            ("endpoint_cordoned", a, "1.0"),
            ("endpoint_cordoned", b, "0.0"),
            ("endpoint_telemetry_fresh", a, "0.0"),
            ("endpoint_telemetry_fresh", b, "1.0"),
            ("endpoint_telemetry_fresh", c, "0.0"),
            ("endpoint_ttft_seconds_sum", b, "0.5"),
            ("endpoint_ttft_seconds_count", b, "2"),
        ] {
            let line = format!("{name}{{pool=\"default/p\"{labels}}} {value}");
            assert!(text.lines().any(|told| told == line), "{line}\n{text}");
        }
        let bucket = format!("endpoint_ttft_seconds_bucket{{le=\"+Inf\",pool=\"default/p\"{b}}} 2\n");
        assert!(text.contains(&bucket), "{bucket}{text}");
    }
}
