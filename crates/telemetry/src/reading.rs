//! Readings: what the samples of one exposition mean, clamped to what can be true.

mod clamp;

use std::sync::Arc;

use pointsman_core::load::{Adapters, Load};
use thiserror::Error;

pub use clamp::{ClampKind, Clamps, Field};

use crate::engines::{Mapping, Meaning};
use crate::exposition::{Labels, Sample, Scanner, Sink};

/// The most requests that a server is believed to hold, in its queue or in its batch.
const MAX_REQUESTS: f64 = 1e6;
/// The most tokens that one KV-cache block is believed to hold.
const MAX_BLOCK_SIZE: f64 = 1e6;
/// The most tokens that a KV cache is believed to hold.
const MAX_CACHE_TOKENS: f64 = 1e12;
/// The most adapters that a server is believed to load, and the most names of each kind that are read.
const MAX_ADAPTERS: usize = 1_000;

/// One exposition, read.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// What it says. When it was read, and what was in flight then, is for the caller to fill in.
    pub load: Load,
    /// Figures that could not be true.
    pub clamps: Clamps,
    /// Lines that could not be read.
    pub malformed_lines: u64,
}

/// Why an exposition says nothing of a server's load.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReadingError {
    /// None of the engine's series is there.
    #[error("answered but has none of {wanted}: is the engine right ({engine})?")]
    NoSeries {
        /// The engine whose mapping was used.
        engine: Arc<str>,
        /// The metrics of which one would do.
        wanted: String,
    },
    /// The series are there but hold no number.
    #[error("answered NaN for all of {wanted}")]
    NotNumbers {
        /// The metrics of which one would do.
        wanted: String,
    },
}

/// Reads one exposition piece by piece.
#[derive(Debug)]
pub struct Reader {
    scanner: Scanner,
    tally: Tally,
}

/// What the samples so far add up to.
#[derive(Debug)]
struct Tally {
    mapping: Arc<Mapping>,
    load_samples: u64,
    waiting: f64,
    running: f64,
    kv_cache_usage: f64,
    block_size: f64,
    block_count: f64,
    info_tokens: f64,
    lora: Option<LoraInfo>,
    clamps: Clamps,
}

/// The newest series about adapters: label values copied, since they outlive their line.
#[derive(Debug, Default)]
struct LoraInfo {
    at: f64,
    max: f64,
    running: Vec<u8>,
    waiting: Vec<u8>,
}

impl Reader {
    /// A reader of an exposition of the engine that `mapping` is for.
    pub fn new(mapping: Arc<Mapping>) -> Self {
        let tally = Tally {
            mapping,
            load_samples: 0,
            waiting: 0.0,
            running: 0.0,
            kv_cache_usage: 0.0,
            block_size: 0.0,
            block_count: 0.0,
            info_tokens: 0.0,
            lora: None,
            clamps: Clamps::default(),
        };
        Self { scanner: Scanner::default(), tally }
    }

    /// Reads the next piece.
    pub fn push(&mut self, piece: &[u8]) {
        self.scanner.push(piece, &mut self.tally);
    }

    /// What the exposition said.
    pub fn finish(mut self) -> Result<Reading, ReadingError> {
        self.scanner.finish(&mut self.tally);
        let Tally { mapping, clamps, load_samples, .. } = &self.tally;
        if *load_samples == 0 {
            let wanted = mapping.load_metrics();
            let load_fields = [Field::Waiting, Field::Running, Field::KvCacheUsage];
            let nan = load_fields.iter().any(|field| clamps.count(*field, ClampKind::Nan) > 0);
            let engine = mapping.engine().clone();
            return Err(if nan {
                ReadingError::NotNumbers { wanted }
            } else {
                ReadingError::NoSeries { engine, wanted }
            });
        }
        let malformed_lines = self.scanner.malformed();
        let load = self.tally.load();
        Ok(Reading { load, clamps: self.tally.clamps, malformed_lines })
    }
}

impl Sink for Tally {
    fn wants(&self, name: &[u8]) -> bool {
        self.mapping.series().iter().any(|series| series.selector.name.as_bytes() == name)
    }

    fn sample(&mut self, sample: Sample<'_>) {
        let mapping = Arc::clone(&self.mapping);
        for series in mapping.series().iter().filter(|series| series.selector.matches(&sample)) {
            self.add(&series.meaning, &sample);
        }
    }
}

impl Tally {
    fn add(&mut self, meaning: &Meaning, sample: &Sample<'_>) {
        let mut clamp = |field, max| self.clamps.clamp(field, sample.value, max);
        match meaning {
            Meaning::Waiting => {
                let Some(requests) = clamp(Field::Waiting, MAX_REQUESTS) else { return };
                self.waiting += requests;
            }
            Meaning::Running => {
                let Some(requests) = clamp(Field::Running, MAX_REQUESTS) else { return };
                self.running += requests;
            }
            Meaning::KvCacheUsage => {
                let Some(share) = clamp(Field::KvCacheUsage, 1.0) else { return };
                self.kv_cache_usage = self.kv_cache_usage.max(share);
            }
            Meaning::BlockSize => {
                self.block_size = self.block_size.max(clamp(Field::KvCacheTokens, MAX_BLOCK_SIZE).unwrap_or(0.0));
            }
            Meaning::BlockCount => {
                self.block_count += clamp(Field::KvCacheTokens, MAX_CACHE_TOKENS).unwrap_or(0.0);
            }
            Meaning::CacheInfo { block_size_label, block_count_label } => {
                let size = self.figure(sample.labels, block_size_label, Field::KvCacheTokens, MAX_BLOCK_SIZE);
                let count = self.figure(sample.labels, block_count_label, Field::KvCacheTokens, MAX_CACHE_TOKENS);
                self.info_tokens += size * count;
            }
            Meaning::LoraInfo => self.add_lora(sample),
        }
        self.load_samples += u64::from(meaning.is_load());
    }

    /// Keeps the adapters of `sample` if none newer are known. vLLM leaves a series behind for each set of adapters
    /// that it ever ran; their values are the times at which they were true.
    fn add_lora(&mut self, sample: &Sample<'_>) {
        let at = if sample.value.is_nan() { f64::NEG_INFINITY } else { sample.value };
        if self.lora.as_ref().is_some_and(|newest| newest.at > at) {
            return;
        }
        let max = self.figure(sample.labels, "max_lora", Field::Adapters, MAX_ADAPTERS as f64);
        let lora = self.lora.get_or_insert_default();
        (lora.at, lora.max) = (at, max);
        for (label, names) in
            [("running_lora_adapters", &mut lora.running), ("waiting_lora_adapters", &mut lora.waiting)]
        {
            names.clear();
            if let Some(label) = sample.labels.get(label.as_bytes()) {
                names.extend_from_slice(&label.value());
            }
        }
    }

    /// The number in a label; zero where there is none, which is how engines say that they do not know yet.
    fn figure(&mut self, labels: Labels<'_>, label: &str, field: Field, max: f64) -> f64 {
        let number = labels.get(label.as_bytes()).and_then(|label| std::str::from_utf8(label.raw()).ok()?.parse().ok());
        number.and_then(|number| self.clamps.clamp(field, number, max)).unwrap_or(0.0)
    }

    fn load(&mut self) -> Load {
        let requests = |clamps: &mut Clamps, field, sum| clamps.clamp(field, sum, MAX_REQUESTS).unwrap_or(0.0) as f32;
        let tokens = if self.info_tokens > 0.0 { self.info_tokens } else { self.block_size * self.block_count };
        let tokens = self.clamps.clamp(Field::KvCacheTokens, tokens, MAX_CACHE_TOKENS).unwrap_or(0.0);
        let lora = self.lora.take();
        Load {
            waiting: requests(&mut self.clamps, Field::Waiting, self.waiting),
            running: requests(&mut self.clamps, Field::Running, self.running),
            kv_cache_usage: self.kv_cache_usage as f32,
            kv_cache_tokens: (tokens >= 1.0).then_some(tokens as u64),
            adapters: lora.map(|lora| Arc::new(self.adapters(&lora))),
            ..Load::default()
        }
    }

    fn adapters(&mut self, lora: &LoraInfo) -> Adapters {
        let (running, waiting) = (String::from_utf8_lossy(&lora.running), String::from_utf8_lossy(&lora.waiting));
        for names in [&running, &waiting] {
            if names_in(names).nth(MAX_ADAPTERS).is_some() {
                self.clamps.add(Field::Adapters, ClampKind::TooLarge);
            }
        }
        Adapters::new(lora.max as u32, names_in(&running).take(MAX_ADAPTERS), names_in(&waiting).take(MAX_ADAPTERS))
    }
}

fn names_in(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests;
