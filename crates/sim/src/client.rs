//! A load client: drives a [`Workload`] against an OpenAI-style server and measures what a user would feel.
//!
//! Open loop: conversations begin when they are due, whatever the server does, so a slow server meets a growing crowd as
//! it would in life. Closed loop: a fixed number of workers, each in one conversation at a time.

mod exchange;
mod report;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::exchange::exchange;
pub use self::report::{ErrorKind, LoadReport, Quantiles, Sample, ServerShare, spread};
use crate::workload::{Conversation, Workload};

/// How a load is sent.
#[derive(Debug, Clone)]
pub struct LoadConfig {
    /// `http://ADDRESS`, without a path.
    pub base_url: String,
    /// The model that requests name.
    pub model: String,
    /// Whether answers are streamed; without it TTFT is the whole latency.
    pub stream: bool,
    /// Open or closed loop.
    pub mode: LoadMode,
    /// After this time no request begins; absent: until the workload or `max_requests` is used up.
    pub duration: Option<Duration>,
    /// Most requests; absent: as many as the workload has.
    pub max_requests: Option<u64>,
    /// Most requests open at once; one that is due beyond that is not sent and counts as an error.
    pub max_open: usize,
    /// A request without its whole answer by then is given up.
    pub request_timeout: Duration,
    /// How long requests that are open at the end may take to finish.
    pub grace: Duration,
    /// Factor on all think times; 0 for none.
    pub think_scale: f64,
    /// Headers sent with every request.
    pub headers: Vec<(String, String)>,
}

/// When conversations begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadMode {
    /// At their times of arrival.
    Open,
    /// As soon as one of so many workers is free.
    Closed {
        /// How many conversations go on at once.
        workers: usize,
    },
}

/// Why a load cannot be sent at all.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The base URL is none.
    #[error("{0:?} is not a base URL: write it as http://ADDRESS:PORT")]
    BaseUrl(String),
    /// A header is none.
    #[error("{0:?} with the value {1:?} is not a header")]
    Header(String, String),
    /// A task of the load died.
    #[error("a load task failed: {0}")]
    Task(String),
}

/// Counters to show while a load runs; the load alone writes them.
#[derive(Debug, Default)]
pub struct Progress {
    /// Requests sent.
    pub started: AtomicU64,
    /// Requests answered to the end.
    pub succeeded: AtomicU64,
    /// Requests that failed.
    pub failed: AtomicU64,
    /// Answer tokens received.
    pub tokens: AtomicU64,
}

/// What all conversations of a load share.
struct Load {
    workload: Arc<Workload>,
    config: LoadConfig,
    client: HttpClient,
    uri: Uri,
    headers: HeaderMap,
    progress: Arc<Progress>,
    /// Cut when the caller cancels or the grace is over.
    cut: CancellationToken,
    started: Instant,
    open: AtomicUsize,
    sent: AtomicU64,
}

/// The pooled client.
type HttpClient = Client<HttpConnector, Full<Bytes>>;

impl LoadConfig {
    /// An open loop over the whole workload, streamed, with real think times.
    pub fn new(base_url: impl Into<String>, model: impl Into<String>) -> Self {
        Self {
            base_url: base_url.into(),
            model: model.into(),
            stream: true,
            mode: LoadMode::Open,
            duration: None,
            max_requests: None,
            max_open: 10_000,
            request_timeout: Duration::from_secs(120),
            grace: Duration::from_secs(10),
            think_scale: 1.0,
            headers: Vec::new(),
        }
    }
}

/// Sends a workload and reports; ends early, with what there is, when `cancel` is cut.
pub async fn run(
    workload: Arc<Workload>,
    config: LoadConfig,
    progress: Arc<Progress>,
    cancel: CancellationToken,
) -> Result<LoadReport, LoadError> {
    let load = Arc::new(Load::new(workload, config, progress, cancel.child_token())?);
    let mut tasks = JoinSet::new();
    match load.config.mode {
        LoadMode::Open => {
            let load = load.clone();
            tasks.spawn(async move { load.open_loop().await });
        }
        LoadMode::Closed { workers } => {
            let next = Arc::new(AtomicUsize::new(0));
            for _ in 0..workers {
                let (load, next) = (load.clone(), next.clone());
                tasks.spawn(async move { load.work(&next).await });
            }
        }
    }
    let mut samples = Vec::new();
    let end = load.config.duration.map(|duration| load.started + duration + load.config.grace);
    loop {
        let joined = tokio::select! {
            joined = tasks.join_next() => joined,
            () = until(end), if !load.cut.is_cancelled() => {
                load.cut.cancel();
                continue;
            }
        };
        match joined {
            Some(Ok(more)) => samples.extend(more),
            Some(Err(error)) => return Err(LoadError::Task(error.to_string())),
            None => break,
        }
    }
    Ok(LoadReport::new(samples, load.started.elapsed()))
}

/// Sleeps until then, or for ever.
async fn until(end: Option<Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}

impl Load {
    fn new(
        workload: Arc<Workload>,
        config: LoadConfig,
        progress: Arc<Progress>,
        cut: CancellationToken,
    ) -> Result<Self, LoadError> {
        let uri = format!("{}/v1/chat/completions", config.base_url.trim_end_matches('/'));
        let uri: Uri = uri.parse().map_err(|_| LoadError::BaseUrl(config.base_url.clone()))?;
        if uri.scheme_str() != Some("http") || uri.authority().is_none() {
            return Err(LoadError::BaseUrl(config.base_url.clone()));
        }
        let mut headers = HeaderMap::new();
        for (name, value) in &config.headers {
            let bad = || LoadError::Header(name.clone(), value.clone());
            let key: HeaderName = name.parse().map_err(|_| bad())?;
            headers.append(key, HeaderValue::from_str(value).map_err(|_| bad())?);
        }
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(Duration::from_secs(5)));
        let client = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
        let (started, open, sent) = (Instant::now(), AtomicUsize::new(0), AtomicU64::new(0));
        Ok(Self { workload, config, client, uri, headers, progress, cut, started, open, sent })
    }

    /// Begins every conversation when it is due and collects their samples.
    async fn open_loop(self: Arc<Self>) -> Vec<Sample> {
        let mut talks = JoinSet::new();
        let mut samples = Vec::new();
        for index in 0..self.workload.conversations().len() {
            let arrival = self.workload.conversations()[index].arrival;
            if !self.sleep(self.started + arrival).await || self.exhausted() {
                break;
            }
            let load = self.clone();
            talks.spawn(async move { load.converse(&load.workload.conversations()[index]).await });
            while let Some(joined) = talks.try_join_next() {
                samples.extend(joined.into_iter().flatten());
            }
        }
        while let Some(joined) = talks.join_next().await {
            samples.extend(joined.into_iter().flatten());
        }
        samples
    }

    /// Takes one conversation after the other.
    async fn work(&self, next: &AtomicUsize) -> Vec<Sample> {
        let mut samples = Vec::new();
        while !self.over() && !self.exhausted() {
            let Some(conversation) = self.workload.conversations().get(next.fetch_add(1, Ordering::Relaxed)) else {
                break;
            };
            samples.extend(self.converse(conversation).await);
        }
        samples
    }

    /// Holds one conversation, to its end or its first failure: without an answer there is nothing to go on from.
    async fn converse(&self, conversation: &Conversation) -> Vec<Sample> {
        let script = self.workload.script(conversation);
        let mut samples = Vec::with_capacity(script.turns());
        for (turn, plan) in conversation.turns.iter().enumerate() {
            let think = plan.think.mul_f64(self.config.think_scale.clamp(0.0, 1e3));
            if turn > 0 && !think.is_zero() && !self.sleep(Instant::now() + think).await {
                break;
            }
            if self.over() || !self.permit() {
                break;
            }
            let body = script.chat_body(turn, &self.config.model, self.config.stream);
            let sample = self.request(conversation.index, turn, body).await;
            let failed = sample.error.is_some();
            samples.push(sample);
            if failed {
                break;
            }
        }
        samples
    }

    /// Sends one request, measured and counted.
    async fn request(&self, conversation: usize, turn: usize, body: Bytes) -> Sample {
        let mut sample = Sample::new(conversation, turn, self.started.elapsed());
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.config.max_open {
            sample.error = Some(ErrorKind::ClientLimit);
        } else {
            self.progress.started.fetch_add(1, Ordering::Relaxed);
            let sent = Instant::now();
            let ended = tokio::select! {
                biased;
                () = self.cut.cancelled() => Err(ErrorKind::Cancelled),
                ended = tokio::time::timeout(self.config.request_timeout, exchange(self, body, &mut sample)) => {
                    ended.unwrap_or(Err(ErrorKind::Timeout))
                }
            };
            sample.error = ended.err();
            sample.latency_us = micros(sent.elapsed());
        }
        self.open.fetch_sub(1, Ordering::Relaxed);
        let counter = if sample.error.is_none() { &self.progress.succeeded } else { &self.progress.failed };
        counter.fetch_add(1, Ordering::Relaxed);
        sample
    }

    /// Sleeps; false when the load is over before.
    async fn sleep(&self, wake: Instant) -> bool {
        if self.config.duration.is_some_and(|duration| wake >= self.started + duration) {
            return false;
        }
        tokio::select! {
            () = self.cut.cancelled() => false,
            () = tokio::time::sleep_until(wake) => true,
        }
    }

    /// Whether no further request may begin.
    fn over(&self) -> bool {
        self.cut.is_cancelled() || self.config.duration.is_some_and(|duration| self.started.elapsed() >= duration)
    }

    fn exhausted(&self) -> bool {
        self.config.max_requests.is_some_and(|most| self.sent.load(Ordering::Relaxed) >= most)
    }

    /// Takes one of the allowed requests.
    fn permit(&self) -> bool {
        let taken = self.sent.fetch_add(1, Ordering::Relaxed);
        self.config.max_requests.is_none_or(|most| taken < most)
    }
}

/// A duration in whole microseconds.
fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
