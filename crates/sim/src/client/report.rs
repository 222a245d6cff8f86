//! What a load found.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::micros;

/// One request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Number of its conversation.
    pub conversation: usize,
    /// Number of its turn, from 0 on.
    pub turn: usize,
    /// When it was sent, in microseconds from the start of the load.
    pub start_us: u64,
    /// Time to the first token; absent when none came.
    pub ttft_us: Option<u64>,
    /// Mean time between tokens after the first; absent with fewer than two.
    pub tpot_us: Option<u64>,
    /// Time to the end of the answer or to its failure.
    pub latency_us: u64,
    /// HTTP status; 0 when no answer came.
    pub status: u16,
    /// Bytes of the answer's body.
    pub bytes: u64,
    /// Tokens of the prompt, as the server counted.
    pub prompt_tokens: u64,
    /// Those of them that it had in its cache.
    pub cached_tokens: u64,
    /// Tokens of the answer.
    pub output_tokens: u64,
    /// Who answered, as `x-sim-server` says; absent when nobody says.
    pub server: Option<String>,
    /// What went wrong; absent when nothing did.
    pub error: Option<ErrorKind>,
}

/// What can go wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// No connection.
    Connect,
    /// The connection broke before the answer began.
    Reset,
    /// An answer with a status other than 2xx.
    Status,
    /// The answer broke off.
    Truncated,
    /// The answer is not what the API promises.
    Malformed,
    /// Not answered in time.
    Timeout,
    /// More requests were open than the client may have.
    ClientLimit,
    /// Still open when the load ended or was cancelled.
    Cancelled,
}

/// Quantiles of one measure, in milliseconds; all 0 without samples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Half are at most this.
    pub p50: f64,
    /// Nine of ten are at most this.
    pub p90: f64,
    /// Ninety-nine of a hundred are at most this.
    pub p99: f64,
    /// The largest.
    pub max: f64,
    /// The mean.
    pub mean: f64,
}

/// What one server did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerShare {
    /// Requests that it answered, errors included.
    pub requests: u64,
    /// Prompt tokens of those that went well.
    pub prompt_tokens: u64,
    /// Prompt tokens of those that it had in its cache.
    pub cached_tokens: u64,
    /// Tokens that it generated for them.
    pub output_tokens: u64,
}

/// All requests of a load, and what they amount to. Times are those of requests that went well.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadReport {
    /// From the first request's time to the end of the last, in seconds.
    pub wall_seconds: f64,
    /// Requests that went well.
    pub succeeded: u64,
    /// The others by kind.
    pub errors: BTreeMap<ErrorKind, u64>,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Time to first token.
    pub ttft_ms: Quantiles,
    /// Mean time between tokens of a request.
    pub tpot_ms: Quantiles,
    /// Time to the end of the answer.
    pub latency_ms: Quantiles,
    /// Requests that went well, a second.
    pub requests_per_second: f64,
    /// Answer tokens of requests that went well, a second.
    pub output_tokens_per_second: f64,
    /// Share of prompt tokens that came out of a cache, 0..1.
    pub prefix_hit_ratio: f64,
    /// By the name in `x-sim-server`.
    pub servers: BTreeMap<String, ServerShare>,
    /// Every request, in order of start.
    pub samples: Vec<Sample>,
}

impl Sample {
    pub(super) fn new(conversation: usize, turn: usize, start: Duration) -> Self {
        Self {
            conversation,
            turn,
            start_us: micros(start),
            ttft_us: None,
            tpot_us: None,
            latency_us: 0,
            status: 0,
            bytes: 0,
            prompt_tokens: 0,
            cached_tokens: 0,
            output_tokens: 0,
            server: None,
            error: None,
        }
    }
}

impl LoadReport {
    /// Adds samples up; `wall` is how long the load took. Also for a part of a report's samples.
    pub fn new(mut samples: Vec<Sample>, wall: Duration) -> Self {
        samples.sort_by_key(|sample| (sample.start_us, sample.conversation, sample.turn));
        let good = || samples.iter().filter(|sample| sample.error.is_none());
        let sum = |field: fn(&Sample) -> u64| good().map(field).sum::<u64>();
        let wall_seconds = wall.as_secs_f64();
        let a_second = |count: u64| if wall_seconds > 0.0 { count as f64 / wall_seconds } else { 0.0 };
        let (mut errors, mut statuses, mut servers) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for sample in &samples {
            if let Some(kind) = sample.error {
                *errors.entry(kind).or_default() += 1;
            }
            if sample.status != 0 {
                *statuses.entry(sample.status).or_default() += 1;
            }
            if let Some(server) = &sample.server {
                let share: &mut ServerShare = servers.entry(server.clone()).or_default();
                share.requests += 1;
                if sample.error.is_none() {
                    share.prompt_tokens += sample.prompt_tokens;
                    share.cached_tokens += sample.cached_tokens;
                    share.output_tokens += sample.output_tokens;
                }
            }
        }
        let succeeded = good().count() as u64;
        let prompt_tokens = sum(|sample| sample.prompt_tokens);
        let hits = sum(|sample| sample.cached_tokens);
        Self {
            wall_seconds,
            succeeded,
            errors,
            statuses,
            ttft_ms: Quantiles::of_micros(good().filter_map(|sample| sample.ttft_us).collect()),
            tpot_ms: Quantiles::of_micros(good().filter_map(|sample| sample.tpot_us).collect()),
            latency_ms: Quantiles::of_micros(good().map(|sample| sample.latency_us).collect()),
            requests_per_second: a_second(succeeded),
            output_tokens_per_second: a_second(sum(|sample| sample.output_tokens)),
            prefix_hit_ratio: if prompt_tokens == 0 { 0.0 } else { hits as f64 / prompt_tokens as f64 },
            servers,
            samples,
        }
    }

    /// Requests that did not go well.
    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }
}

impl Quantiles {
    /// Quantiles by nearest rank of values in microseconds.
    pub fn of_micros(mut values: Vec<u64>) -> Self {
        values.sort_unstable();
        let Some(&max) = values.last() else { return Self::default() };
        let milliseconds = |value: u64| value as f64 / 1e3;
        let rank = |share: f64| {
            let place = (share * values.len() as f64).ceil() as usize;
            milliseconds(values[place.clamp(1, values.len()) - 1])
        };
        let mean = values.iter().map(|&value| value as f64).sum::<f64>() / values.len() as f64 / 1e3;
        Self { p50: rank(0.5), p90: rank(0.9), p99: rank(0.99), max: milliseconds(max), mean }
    }
}

/// Coefficient of variation: how unevenly a load is spread, 0 being evenly. 0 for no values or none but zeros.
pub fn spread(values: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    if mean == 0.0 {
        return 0.0;
    }
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
    variance.sqrt() / mean
}
