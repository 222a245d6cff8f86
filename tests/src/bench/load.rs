//! Measures one server for a while, under a closed loop, an open one, or none.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rustls::ClientConfig;
use tokio::task::JoinSet;

use super::client::{Connection, Served, connect};
use super::process::{Machine, ServerProcess};
use super::script::Script;

/// Requests under way in an open loop beyond which the server is said to be too slow for it.
const OPEN_MAX: usize = 2000;
/// The longest latency that is told from longer ones, in nanoseconds.
const LONGEST: u64 = 60_000_000_000;

/// How requests come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrivals {
    /// So many at once, each followed by the next.
    Closed {
        /// Requests under way.
        streams: usize,
    },
    /// At random, so many a second, whatever became of those before.
    Open {
        /// Requests a second.
        rate: f64,
    },
}

/// A server, and how to load it.
#[derive(Clone, Copy, Debug)]
pub struct Load<'a> {
    /// The server.
    pub server: &'a ServerProcess,
    /// Set where it serves TLS.
    pub tls: Option<&'a Arc<ClientConfig>>,
    /// What is asked, in turn.
    pub scripts: &'a Arc<Vec<Script>>,
    /// When.
    pub arrivals: Arrivals,
    /// Connections that the requests share.
    pub connections: usize,
    /// Whether every answer must name a destination.
    pub is_picker: bool,
}

/// One round of one server. Times are in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// Requests answered a second.
    pub rate: f64,
    /// The server's time on its core, a request, with all that it does beside.
    pub cpu: f64,
    /// The same, a second: 1 is a whole core.
    pub cores: f64,
    /// Time to the decision: the median.
    pub p50: f64,
    /// Time to the decision: all but one in a hundred were faster.
    pub p99: f64,
    /// The server's resident memory in MiB.
    pub resident: f64,
    /// The share of the server's core that others took; unknown where nothing is pinned.
    pub disturbed: Option<f64>,
}

/// What the conversations of one round showed so far.
#[derive(Debug, Default)]
struct Tally {
    turn: AtomicUsize,
    answered: AtomicU64,
    latencies: Mutex<Option<Histogram<u64>>>,
}

impl Tally {
    fn count(&self, served: Served) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        if let Some(histogram) = &mut *self.latencies.lock().unwrap_or_else(PoisonError::into_inner) {
            histogram.saturating_record(u64::try_from(served.decided_in.as_nanos()).unwrap_or(LONGEST));
        }
    }

    fn replace(&self, histogram: Option<Histogram<u64>>) -> Option<Histogram<u64>> {
        std::mem::replace(&mut *self.latencies.lock().unwrap_or_else(PoisonError::into_inner), histogram)
    }
}

impl Load<'_> {
    /// Loads the server for a while, then measures it for `window`.
    pub async fn measure(&self, machine: &Machine, warm_up: Duration, window: Duration) -> Result<Round> {
        let mut connections = Vec::new();
        for _ in 0..self.connections.max(1) {
            connections.push(connect(self.server.address, self.tls).await?);
        }
        let tally = Arc::new(Tally::default());
        let mut work = JoinSet::new();
        match self.arrivals {
            Arrivals::Closed { streams } => {
                for stream in 0..streams {
                    let work_of_one = Worker {
                        connection: connections[stream % connections.len()].clone(),
                        scripts: Arc::clone(self.scripts),
                        tally: Arc::clone(&tally),
                        is_picker: self.is_picker,
                    };
                    work.spawn(async move {
                        loop {
                            work_of_one.request().await?;
                        }
                    });
                }
            }
            Arrivals::Open { rate } => {
                let workers: Vec<_> = (connections.into_iter())
                    .map(|connection| Worker {
                        connection,
                        scripts: Arc::clone(self.scripts),
                        tally: Arc::clone(&tally),
                        is_picker: self.is_picker,
                    })
                    .collect();
                work.spawn(arrive(workers, rate));
            }
        }
        let round = tokio::select! {
            round = self.watch(machine, &tally, warm_up, window) => round,
            ended = work.join_next() => match ended.context("nobody asked")? {
                Ok(Err(error)) => Err(error),
                Ok(Ok(())) => Err(anyhow::anyhow!("the client ended early")),
                Err(error) => Err(error.into()),
            },
        };
        work.shutdown().await;
        round.with_context(|| format!("loading the {} server", self.server.name))
    }

    async fn watch(&self, machine: &Machine, tally: &Tally, warm_up: Duration, window: Duration) -> Result<Round> {
        tokio::time::sleep(warm_up).await;
        tally.replace(Some(Histogram::new_with_max(LONGEST, 3).context("making a histogram")?));
        let (began, cpu, busy) = (Instant::now(), self.server.cpu()?, machine.core_busy());
        let answered = tally.answered.load(Ordering::Relaxed);
        tokio::time::sleep(window).await;
        let (seconds, cpu) = (began.elapsed().as_secs_f64(), (self.server.cpu()? - cpu).as_secs_f64());
        let answered = (tally.answered.load(Ordering::Relaxed) - answered) as f64;
        let others = machine.core_busy().zip(busy).map(|(now, then)| (now - then).as_secs_f64() - cpu);
        let latencies = tally.replace(None).context("reading latencies")?;
        ensure!(answered > 0.0, "nothing was answered in {seconds:.1} s");
        let at = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e3;
        Ok(Round {
            rate: answered / seconds,
            cpu: cpu * 1e6 / answered,
            cores: cpu / seconds,
            p50: at(0.5),
            p99: at(0.99),
            resident: self.server.resident()? as f64 / f64::from(1 << 20),
            disturbed: others.map(|others| (others / seconds).max(0.0)),
        })
    }
}

/// Asks one request after the other.
#[derive(Clone)]
struct Worker {
    connection: Connection,
    scripts: Arc<Vec<Script>>,
    tally: Arc<Tally>,
    is_picker: bool,
}

impl Worker {
    async fn request(&self) -> Result<()> {
        let turn = self.tally.turn.fetch_add(1, Ordering::Relaxed);
        let served = self.connection.converse(&self.scripts[turn % self.scripts.len()]).await?;
        ensure!(served.has_destination || !self.is_picker, "the picker named no destination");
        self.tally.count(served);
        Ok(())
    }
}

/// Asks at random moments. Latency counts from when a request was sent: the timer's own coarseness is not the server's.
async fn arrive(workers: Vec<Worker>, rate: f64) -> Result<()> {
    ensure!(rate > 0.0 && !workers.is_empty(), "nobody arrives at {rate} requests a second");
    let mut random = SmallRng::seed_from_u64(1);
    let mut under_way = JoinSet::new();
    let mut due = tokio::time::Instant::now();
    for worker in workers.iter().cycle() {
        let worker = worker.clone();
        under_way.spawn(async move { worker.request().await });
        while let Some(ended) = under_way.try_join_next() {
            ended??;
        }
        if under_way.len() > OPEN_MAX {
            bail!("more than {OPEN_MAX} requests wait at {rate} a second: it is too slow for that");
        }
        due += Duration::from_secs_f64(-random.random_range(f64::EPSILON..1.0).ln() / rate);
        tokio::time::sleep_until(due).await;
    }
    Ok(())
}

/// Cores that a server takes while nothing is asked of it.
pub async fn idle(server: &ServerProcess, window: Duration) -> Result<f64> {
    let (began, cpu) = (Instant::now(), server.cpu()?);
    tokio::time::sleep(window).await;
    Ok((server.cpu()? - cpu).as_secs_f64() / began.elapsed().as_secs_f64())
}
