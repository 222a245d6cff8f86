//! What one simulated GPU and model are like.

use serde::{Deserialize, Serialize};

/// The engine's time model and capacities. The defaults resemble one mid-range GPU that serves an 8B model.
///
/// Every time is what it costs at `speed` 1; the speed factor divides all of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct EngineConfig {
    /// How many times faster than the figures below this server is: 0.5 takes twice as long for everything.
    pub speed: f64,
    /// Prompt tokens that the GPU computes in a second when it does nothing else.
    pub prefill_tokens_per_second: f64,
    /// Shortest step, in milliseconds: the time to read all weights once.
    pub step_base_ms: f64,
    /// What each decoding sequence adds to a step, in milliseconds.
    pub step_per_sequence_ms: f64,
    /// What every 1,000 tokens of context that decoding sequences attend to add to a step, in milliseconds.
    pub step_per_kilotoken_ms: f64,
    /// Most tokens (one a decode, the rest prefill) in one step.
    pub max_batched_tokens: usize,
    /// Most sequences that run at once; the others wait.
    pub max_running: usize,
    /// Most requests that wait; the next is refused.
    pub max_waiting: usize,
    /// Size of the KV cache in tokens.
    pub kv_tokens: usize,
    /// Tokens in one KV block; prefixes are reused in whole blocks.
    pub block_tokens: usize,
    /// LoRA adapters that fit into the GPU at once.
    pub max_lora: usize,
    /// Time to load an adapter into its slot, in milliseconds.
    pub lora_load_ms: f64,
    /// How far a step's time strays from the model, at most, in percent of it.
    pub jitter_percent: f64,
    /// Seed of the jitter.
    pub seed: u64,
}

/// Why an [`EngineConfig`] cannot work.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EngineConfigError {
    /// A rate or factor that must be positive is not.
    #[error("{field} is {value}: it must be a positive number")]
    NotPositive {
        /// The field's name in the configuration.
        field: &'static str,
        /// What it holds.
        value: f64,
    },
    /// A time that must not be negative is, or is no number.
    #[error("{field} is {value}: it must be zero or more, and below a day")]
    BadTime {
        /// The field's name in the configuration.
        field: &'static str,
        /// What it holds, in milliseconds.
        value: f64,
    },
    /// A count that must be at least one is zero.
    #[error("{field} is 0: it must be at least 1")]
    Zero {
        /// The field's name in the configuration.
        field: &'static str,
    },
    /// The jitter would turn time backwards.
    #[error("jitterPercent is {0}: it must lie between 0 and 50")]
    Jitter(f64),
    /// The cache does not hold a single block, or more than can be numbered.
    #[error("kvTokens is {kv_tokens} with blockTokens {block_tokens}: the cache must hold 1 to 16,777,216 blocks")]
    Blocks {
        /// Size of the cache in tokens.
        kv_tokens: usize,
        /// Size of a block in tokens.
        block_tokens: usize,
    },
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            speed: 1.0,
            prefill_tokens_per_second: 8_000.0,
            step_base_ms: 12.0,
            step_per_sequence_ms: 0.15,
            step_per_kilotoken_ms: 0.08,
            max_batched_tokens: 2_048,
            max_running: 32,
            max_waiting: 10_000,
            kv_tokens: 65_536,
            block_tokens: 16,
            max_lora: 4,
            lora_load_ms: 400.0,
            jitter_percent: 2.0,
            seed: 1,
        }
    }
}

impl EngineConfig {
    /// How many KV blocks the cache has.
    pub fn kv_blocks(&self) -> usize {
        self.kv_tokens / self.block_tokens.max(1)
    }

    /// Checks that time can go on and that at least one request can run.
    pub fn validate(&self) -> Result<(), EngineConfigError> {
        for (field, value) in [("speed", self.speed), ("prefillTokensPerSecond", self.prefill_tokens_per_second)] {
            if !value.is_finite() || value <= 0.0 {
                return Err(EngineConfigError::NotPositive { field, value });
            }
        }
        if !self.step_base_ms.is_finite() || self.step_base_ms <= 0.0 {
            return Err(EngineConfigError::NotPositive { field: "stepBaseMs", value: self.step_base_ms });
        }
        for (field, value) in [
            ("stepBaseMs", self.step_base_ms),
            ("stepPerSequenceMs", self.step_per_sequence_ms),
            ("stepPerKilotokenMs", self.step_per_kilotoken_ms),
            ("loraLoadMs", self.lora_load_ms),
        ] {
            if !(0.0..86_400_000.0).contains(&value) {
                return Err(EngineConfigError::BadTime { field, value });
            }
        }
        for (field, value) in [
            ("maxBatchedTokens", self.max_batched_tokens),
            ("maxRunning", self.max_running),
            ("maxWaiting", self.max_waiting),
            ("blockTokens", self.block_tokens),
            ("maxLora", self.max_lora),
        ] {
            if value == 0 {
                return Err(EngineConfigError::Zero { field });
            }
        }
        if !(0.0..=50.0).contains(&self.jitter_percent) {
            return Err(EngineConfigError::Jitter(self.jitter_percent));
        }
        if !(1..=1 << 24).contains(&self.kv_blocks()) {
            let (kv_tokens, block_tokens) = (self.kv_tokens, self.block_tokens);
            return Err(EngineConfigError::Blocks { kv_tokens, block_tokens });
        }
        Ok(())
    }
}
