//! Metrics of what pools hold, read when they are asked for: no gauge to keep in step, and no series of endpoints that
//! are gone.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use pointsman_core::pool::Pool;
use pointsman_core::snapshot::PoolSnapshot;
use pointsman_core::time::Tick;
use pointsman_extproc::settings::{BufferBudget, PoolDirectory};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
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
