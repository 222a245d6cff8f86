//! A continuous-batching engine in virtual time: no clock, no threads, the same events for the same calls.
//!
//! The engine works in steps, as vLLM does. A step computes one token for every decoding sequence and, with what is left
//! of its token budget, the next chunks of prompts in order of arrival: prefill is serialised and chunked, and makes the
//! steps that it shares longer for everyone. A step takes
//! `max(base, prefill tokens / prefill rate) + per sequence x decoding + per kilotoken x context attended to`,
//! divided by the server's speed: reading the weights and the prefill's arithmetic overlap. Left out: the quadratic part
//! of attention in prefill, and preemption (a request is admitted only when its blocks suffice to its end).

mod adapters;
mod blocks;
mod config;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use serde::Serialize;

use self::adapters::Adapters;
use self::blocks::{BlockCache, BlockId};
pub use self::config::{EngineConfig, EngineConfigError};
use crate::rng::Rng;

/// A point in virtual time, or a span of it, in nanoseconds since the engine's start.
pub type Nanos = u64;

/// Names a request within its engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(u64);

/// What a request costs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EngineRequest {
    /// Tokens of the prompt; at least one is computed.
    pub prompt_tokens: usize,
    /// Tokens to generate; 0 for an embedding, which is done with its prefill.
    pub output_tokens: usize,
    /// Chained hashes of the full KV blocks over prompt and answer; may be empty when nothing is to be reused.
    pub blocks: Vec<u64>,
    /// LoRA adapter by number; absent for the base model.
    pub adapter: Option<usize>,
}

/// Why a request is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// It could never run.
    #[error("prompt and answer need {need} tokens of KV cache, the server has {have}")]
    TooLong {
        /// Tokens that it needs.
        need: usize,
        /// Tokens that there are.
        have: usize,
    },
    /// The waiting queue is at its limit.
    #[error("{0} requests are already waiting")]
    QueueFull(usize),
}

/// Something that happened to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineEvent {
    /// Whose event it is.
    pub id: RequestId,
    /// When it happened, which may be earlier than when it is reported.
    pub at: Nanos,
    /// What happened.
    pub kind: EventKind,
}

/// What can happen to a request, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It left the waiting queue.
    Admitted {
        /// Prompt tokens that the cache already held.
        cached_tokens: usize,
    },
    /// The first token of its answer.
    FirstToken,
    /// A further token.
    Token {
        /// Which one, from 1 on.
        index: usize,
    },
    /// Its last token was reported (or its prefill ended, when there is none) and it holds nothing any more.
    Finished,
}

/// The engine's state and totals, as its metrics page would report them.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EngineStats {
    /// Sequences in the batch, those in prefill included.
    pub running: usize,
    /// Requests in the queue.
    pub waiting: usize,
    /// Share of the KV blocks that running sequences hold, 0..1.
    pub kv_usage: f64,
    /// Findable KV blocks, held or idle.
    pub cached_blocks: usize,
    /// Prompt tokens looked up in the cache since the start.
    pub prefix_queries: u64,
    /// Prompt tokens found there since the start.
    pub prefix_hits: u64,
    /// Prompt tokens of admitted requests since the start.
    pub prompt_tokens: u64,
    /// Tokens generated since the start.
    pub generation_tokens: u64,
    /// Requests that came to their end since the start.
    pub finished: u64,
    /// Requests that were cancelled since the start.
    pub cancelled: u64,
    /// Steps since the start.
    pub steps: u64,
    /// Adapters with running requests, by number.
    pub running_adapters: Vec<usize>,
    /// Adapters with waiting requests, by number.
    pub waiting_adapters: Vec<usize>,
}

/// A request in the queue.
#[derive(Debug)]
struct Waiting {
    id: RequestId,
    request: EngineRequest,
}

/// A request in the batch.
#[derive(Debug)]
struct Sequence {
    id: RequestId,
    request: EngineRequest,
    /// Its blocks from head to tail.
    held: Vec<BlockId>,
    /// How many of them are findable by others, or were tried.
    registered: usize,
    /// Blocks promised to it and not yet taken.
    promised: usize,
    /// Tokens whose keys and values are in the cache.
    computed: usize,
    /// Tokens that the step in progress computes.
    planned: usize,
    /// Tokens of the answer so far.
    produced: usize,
}

/// One simulated model server's engine.
#[derive(Debug)]
pub struct Engine {
    config: EngineConfig,
    /// The latest time that a caller named; time never goes back.
    now: Nanos,
    next_id: u64,
    waiting: VecDeque<Waiting>,
    /// In order of admission.
    running: Vec<Sequence>,
    cache: BlockCache,
    adapters: Adapters,
    /// When the step in progress ends; absent when the engine is idle.
    step_ends: Option<Nanos>,
    /// What happened and was not yet fetched.
    events: VecDeque<EngineEvent>,
    rng: Rng,
    totals: EngineStats,
}

impl Engine {
    /// An idle engine with an empty cache.
    pub fn new(config: EngineConfig) -> Result<Self, EngineConfigError> {
        config.validate()?;
        Ok(Self {
            now: 0,
            next_id: 0,
            waiting: VecDeque::new(),
            running: Vec::new(),
            cache: BlockCache::new(config.kv_blocks()),
            adapters: Adapters::new(config.max_lora, nanos(config.lora_load_ms / config.speed)),
            step_ends: None,
            events: VecDeque::new(),
            rng: Rng::stream(config.seed, 0),
            totals: EngineStats::default(),
            config,
        })
    }

    /// The configuration that it was made with.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// Takes a request into the queue, or into the batch when the engine is idle.
    pub fn submit(&mut self, now: Nanos, mut request: EngineRequest) -> Result<RequestId, SubmitError> {
        self.run_until(now);
        request.prompt_tokens = request.prompt_tokens.max(1);
        let have = self.config.kv_blocks() * self.config.block_tokens;
        let need = request.prompt_tokens.saturating_add(request.output_tokens);
        if need > have {
            return Err(SubmitError::TooLong { need, have });
        }
        if self.waiting.len() >= self.config.max_waiting {
            return Err(SubmitError::QueueFull(self.waiting.len()));
        }
        let id = RequestId(self.next_id);
        self.next_id += 1;
        self.adapters.enqueue(request.adapter);
        self.waiting.push_back(Waiting { id, request });
        if self.step_ends.is_none() {
            self.start_step(self.now);
        }
        Ok(id)
    }

    /// Forgets a request and frees what it holds at once; one that is already gone is no error.
    pub fn cancel(&mut self, now: Nanos, id: RequestId) {
        self.run_until(now);
        if let Some(place) = self.waiting.iter().position(|waiting| waiting.id == id) {
            if let Some(gone) = self.waiting.remove(place) {
                self.adapters.dequeue(gone.request.adapter);
                self.totals.cancelled += 1;
            }
        } else if let Some(place) = self.running.iter().position(|sequence| sequence.id == id) {
            let gone = self.running.remove(place);
            self.adapters.end(gone.request.adapter);
            self.cache.release(&gone.held, gone.promised);
            self.totals.cancelled += 1;
        }
    }

    /// When to call [`Engine::advance`] next; absent when nothing will happen without a new request.
    pub fn next_event_at(&self) -> Option<Nanos> {
        self.events.front().map(|event| event.at).or_else(|| self.next_change())
    }

    /// Lets time pass until `now` and appends what happened to `events`, in order.
    pub fn advance(&mut self, now: Nanos, events: &mut Vec<EngineEvent>) {
        self.run_until(now);
        events.extend(self.events.drain(..));
    }

    /// Forgets every cached block that no running sequence holds, so that a run starts cold.
    pub fn clear_cache(&mut self) {
        self.cache.clear_idle();
    }

    /// State and totals as of the last call.
    pub fn stats(&self) -> EngineStats {
        EngineStats {
            running: self.running.len(),
            waiting: self.waiting.len(),
            kv_usage: self.cache.usage(),
            cached_blocks: self.cache.findable(),
            running_adapters: self.adapters.running().collect(),
            waiting_adapters: self.adapters.waiting().collect(),
            ..self.totals.clone()
        }
    }

    /// The next time at which the engine itself changes.
    fn next_change(&self) -> Option<Nanos> {
        match self.step_ends {
            Some(at) => Some(at),
            None if self.waiting.is_empty() => None,
            None => self.adapters.next_ready(),
        }
    }

    fn run_until(&mut self, now: Nanos) {
        self.now = self.now.max(now);
        while let Some(at) = self.next_change().filter(|&at| at <= self.now) {
            if self.step_ends.take().is_some() {
                self.finish_step(at);
            }
            self.start_step(at);
        }
    }

    /// Plans a step that begins at `at`; with nothing to compute the engine stays idle.
    fn start_step(&mut self, at: Nanos) {
        self.adapters.settle(at);
        let mut budget = self.config.max_batched_tokens;
        let (mut decoding, mut context, mut prefill) = (0usize, 0usize, 0usize);
        for sequence in &mut self.running {
            if sequence.computed >= sequence.request.prompt_tokens {
                sequence.planned = 1;
                decoding += 1;
                context += sequence.computed;
            }
        }
        budget = budget.saturating_sub(decoding);
        for sequence in self.running.iter_mut().filter(|sequence| sequence.planned == 0) {
            sequence.planned = budget.min(sequence.request.prompt_tokens - sequence.computed);
            budget -= sequence.planned;
            prefill += sequence.planned;
        }
        prefill += self.admit(at, budget);
        for sequence in &mut self.running {
            sequence.take_blocks(&mut self.cache, self.config.block_tokens);
        }
        if decoding + prefill == 0 {
            return;
        }
        let computing = prefill as f64 / self.config.prefill_tokens_per_second * 1e3;
        let model = self.config.step_base_ms.max(computing)
            + self.config.step_per_sequence_ms * decoding as f64
            + self.config.step_per_kilotoken_ms * context as f64 / 1e3;
        let jitter = 1.0 + (self.rng.unit() * 2.0 - 1.0) * self.config.jitter_percent / 100.0;
        self.step_ends = Some(at + nanos(model * jitter / self.config.speed).max(1));
        self.totals.steps += 1;
    }

    /// Moves requests from the queue into the batch while room and budget last; returns the tokens planned for them.
    ///
    /// First come, first served, except that a request whose adapter is not there is passed over.
    fn admit(&mut self, at: Nanos, mut budget: usize) -> usize {
        let block = self.config.block_tokens;
        let (mut place, mut planned) = (0, 0);
        while budget > 0 && self.running.len() < self.config.max_running && place < self.waiting.len() {
            let request = &self.waiting[place].request;
            if !self.adapters.usable(request.adapter, at) {
                place += 1;
                continue;
            }
            // The last prompt token is always computed: it is what the first token of the answer comes from.
            let reusable = request.blocks.len().min((request.prompt_tokens - 1) / block);
            let hits = self.cache.matched(&request.blocks[..reusable]);
            let need = (request.prompt_tokens + request.output_tokens).div_ceil(block);
            let Some(held) = self.cache.admit(&request.blocks[..hits], need) else { break };
            let Some(Waiting { id, request }) = self.waiting.remove(place) else { break };
            let computed = hits * block;
            let tokens = budget.min(request.prompt_tokens - computed);
            budget -= tokens;
            planned += tokens;
            self.totals.prefix_queries += request.prompt_tokens as u64;
            self.totals.prefix_hits += computed as u64;
            self.totals.prompt_tokens += request.prompt_tokens as u64;
            self.adapters.dequeue(request.adapter);
            self.adapters.begin(request.adapter);
            self.events.push_back(EngineEvent { id, at, kind: EventKind::Admitted { cached_tokens: computed } });
            let promised = need - held.len();
            let registered = held.len();
            self.running.push(Sequence {
                id,
                request,
                held,
                registered,
                promised,
                computed,
                planned: tokens,
                produced: 0,
            });
        }
        planned
    }

    /// Books what the step computed: new blocks become findable, tokens come out, finished sequences leave.
    fn finish_step(&mut self, at: Nanos) {
        let block = self.config.block_tokens;
        let (cache, adapters, events, totals) =
            (&mut self.cache, &mut self.adapters, &mut self.events, &mut self.totals);
        self.running.retain_mut(|sequence| {
            if sequence.planned == 0 {
                return true;
            }
            sequence.computed += sequence.planned;
            sequence.planned = 0;
            sequence.register_blocks(cache, block);
            if sequence.computed < sequence.request.prompt_tokens {
                return true;
            }
            let id = sequence.id;
            if sequence.request.output_tokens > 0 {
                let index = sequence.produced;
                let kind = if index == 0 { EventKind::FirstToken } else { EventKind::Token { index } };
                events.push_back(EngineEvent { id, at, kind });
                sequence.produced += 1;
                totals.generation_tokens += 1;
            }
            if sequence.produced < sequence.request.output_tokens {
                return true;
            }
            events.push_back(EngineEvent { id, at, kind: EventKind::Finished });
            adapters.end(sequence.request.adapter);
            cache.release(&sequence.held, sequence.promised);
            totals.finished += 1;
            false
        });
    }
}

impl Sequence {
    /// Takes the promised blocks that the planned tokens will fill.
    fn take_blocks(&mut self, cache: &mut BlockCache, block_tokens: usize) {
        let wanted = (self.computed + self.planned).div_ceil(block_tokens);
        while self.held.len() < wanted && self.promised > 0 {
            let Some(id) = cache.take_reserved() else { break };
            self.held.push(id);
            self.promised -= 1;
        }
    }

    /// Makes the blocks that are now full findable.
    fn register_blocks(&mut self, cache: &mut BlockCache, block_tokens: usize) {
        let full = (self.computed / block_tokens).min(self.held.len()).min(self.request.blocks.len());
        for place in self.registered..full {
            cache.register(self.held[place], self.request.blocks[place]);
        }
        self.registered = self.registered.max(full);
    }
}

/// Milliseconds as nanoseconds; times beyond a u64 stand still at its end.
fn nanos(milliseconds: f64) -> Nanos {
    (milliseconds * 1e6) as Nanos
}
