//! A seeded workload: conversations of several turns that share system prompts, with the times at which they begin.
//!
//! What is said depends on the seed and the conversation's number alone, not on the rate, so that a workload can be sent
//! faster or slower and stays the same.

mod script;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::script::Script;
use crate::rng::Rng;
use crate::tokenizer;

/// What conversations are like. Ranges include both ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct WorkloadConfig {
    /// Decides everything that is random.
    pub seed: u64,
    /// How many conversations there are.
    pub conversations: usize,
    /// Requests a second that the arrivals amount to, over all turns, once conversations overlap.
    pub requests_per_second: f64,
    /// How many system prompts the conversations share.
    pub system_prompts: usize,
    /// Size of a system prompt in tokens.
    pub system_tokens: (usize, usize),
    /// How much more often the popular system prompts are used: prompt k's weight is 1 / k^skew, 0 being all alike.
    pub system_skew: f64,
    /// Turns of a conversation; every turn is a request.
    pub turns: (usize, usize),
    /// Size of what the user says in a turn, in tokens.
    pub user_tokens: (usize, usize),
    /// Size of an answer in tokens.
    pub output_tokens: (usize, usize),
    /// Mean of the exponential time between an answer's end and the next turn, in milliseconds; cut at four times it.
    pub think_time_ms: f64,
}

/// One conversation, without its text.
#[derive(Debug, Clone, PartialEq)]
pub struct Conversation {
    /// Its number, from 0 on.
    pub index: usize,
    /// When its first turn is sent, from the start of the run.
    pub arrival: Duration,
    /// Which system prompt it begins with.
    pub system: usize,
    /// Its turns, in order.
    pub turns: Vec<Turn>,
}

/// One turn's sizes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// Tokens that the user says.
    pub user_tokens: usize,
    /// Tokens of the answer, and the request's limit.
    pub output_tokens: usize,
    /// Time from the end of the answer before; zero for the first turn.
    pub think: Duration,
}

/// The conversations of a run.
#[derive(Debug, Clone)]
pub struct Workload {
    config: WorkloadConfig,
    /// Sizes of the system prompts, in tokens.
    systems: Vec<usize>,
    /// In order of arrival.
    conversations: Vec<Conversation>,
}

impl Default for WorkloadConfig {
    fn default() -> Self {
        Self {
            seed: 1,
            conversations: 240,
            requests_per_second: 10.0,
            system_prompts: 24,
            system_tokens: (800, 2_200),
            system_skew: 0.6,
            turns: (2, 6),
            user_tokens: (40, 300),
            output_tokens: (20, 160),
            think_time_ms: 2_000.0,
        }
    }
}

/// Streams of the random generator, one for each thing that is drawn, so that they do not disturb each other.
mod streams {
    pub(super) const SYSTEM_SIZES: u64 = 1;
    pub(super) const ARRIVALS: u64 = 2;
    pub(super) const SYSTEM_TEXTS: u64 = 1 << 32;
    pub(super) const PLANS: u64 = 2 << 32;
    pub(super) const TEXTS: u64 = 3 << 32;
}

impl Workload {
    /// Plans the conversations; their texts are made by [`Workload::script`] when they are needed.
    ///
    /// Senseless figures are made sensible: at least one system prompt and one turn, a rate above zero.
    pub fn new(config: WorkloadConfig) -> Self {
        let mut rng = Rng::stream(config.seed, streams::SYSTEM_SIZES);
        let (low, high) = config.system_tokens;
        let systems: Vec<usize> = (0..config.system_prompts.max(1)).map(|_| rng.range(low, high)).collect();
        let mean_turns = (config.turns.0.max(1) + config.turns.1.max(1)) as f64 / 2.0;
        let gap = mean_turns / config.requests_per_second.max(1e-6);
        let mut arrivals = Rng::stream(config.seed, streams::ARRIVALS);
        let mut arrival = 0.0;
        let conversations = (0..config.conversations)
            .map(|index| {
                arrival += arrivals.exponential(gap);
                plan(&config, systems.len(), index, seconds(arrival))
            })
            .collect();
        Self { config, systems, conversations }
    }

    /// What it was made from.
    pub fn config(&self) -> &WorkloadConfig {
        &self.config
    }

    /// All conversations in order of arrival.
    pub fn conversations(&self) -> &[Conversation] {
        &self.conversations
    }

    /// How many requests all turns of all conversations are.
    pub fn requests(&self) -> usize {
        self.conversations.iter().map(|conversation| conversation.turns.len()).sum()
    }

    /// A conversation's texts, answers included.
    pub fn script(&self, conversation: &Conversation) -> Script {
        Script::write(self, conversation)
    }

    /// Tokens of all distinct prefixes of all prompts: what a cache would hold that never had to forget.
    ///
    /// Every system prompt that is used counts once, the rest of a conversation's last prompt once a conversation.
    pub fn total_prefix_tokens(&self) -> usize {
        let mut used = vec![false; self.systems.len()];
        let mut total = 0;
        for conversation in &self.conversations {
            used[conversation.system] = true;
            let said: usize = conversation.turns.iter().map(|turn| turn.user_tokens).sum();
            let (_, earlier) = conversation.turns.split_last().map_or((0, [].as_slice()), |(_, rest)| (1, rest));
            let answered: usize = earlier.iter().map(|turn| turn.output_tokens).sum();
            total += said + answered + conversation.turns.len() * TURN_OVERHEAD;
        }
        total + self.systems.iter().zip(&used).filter(|(_, used)| **used).map(|(size, _)| size).sum::<usize>()
    }

    /// The text of a system prompt.
    fn system_text(&self, index: usize) -> String {
        let mut rng = Rng::stream(self.config.seed, streams::SYSTEM_TEXTS + index as u64);
        tokenizer::words(&mut rng, self.systems.get(index).copied().unwrap_or_default())
    }

    /// What a conversation's user says is drawn from this.
    fn text_rng(&self, conversation: &Conversation) -> Rng {
        Rng::stream(self.config.seed, streams::TEXTS + conversation.index as u64)
    }
}

/// Tokens that roles and line ends add to a turn: `user\n...\nassistant\n...\n`.
const TURN_OVERHEAD: usize = tokenizer::tokens("user\n\nassistant\n\n".len());

fn plan(config: &WorkloadConfig, systems: usize, index: usize, arrival: Duration) -> Conversation {
    let mut rng = Rng::stream(config.seed, streams::PLANS + index as u64);
    let system = popular(&mut rng, systems, config.system_skew);
    let turns = (0..rng.range(config.turns.0.max(1), config.turns.1.max(1)))
        .map(|turn| {
            let user_tokens = rng.range(config.user_tokens.0, config.user_tokens.1);
            let output_tokens = rng.range(config.output_tokens.0.max(1), config.output_tokens.1.max(1));
            let think = rng.exponential(config.think_time_ms / 1e3).min(config.think_time_ms * 4.0 / 1e3);
            let think = if turn == 0 { Duration::ZERO } else { seconds(think) };
            Turn { user_tokens, output_tokens, think }
        })
        .collect();
    Conversation { index, arrival, system, turns }
}

/// Draws one of `count` things with weight 1 / k^skew for the k-th.
fn popular(rng: &mut Rng, count: usize, skew: f64) -> usize {
    let weight = |k: usize| ((k + 1) as f64).powf(-skew);
    let total: f64 = (0..count).map(weight).sum();
    let mut left = rng.unit() * total;
    for k in 0..count {
        left -= weight(k);
        if left < 0.0 {
            return k;
        }
    }
    count.saturating_sub(1)
}

/// Seconds as a duration; what is no length of time is none.
fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value).unwrap_or_default()
}
