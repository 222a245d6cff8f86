//! The servers and the workload of the demo, the tests and the benchmarks, in one place.
//!
//! They were fixed before the scheduler was tuned and are no place to tune at: whoever changes a figure here has
//! `pointsman demo --find-saturation` find round robin's saturation again.

use std::time::Duration;

use pointsman_sim::{EngineConfig, SimConfig, Workload, WorkloadConfig};

/// The highest open-loop rate, in requests a second, at which round robin's queues stayed flat for 60 s, as
/// `pointsman demo --find-saturation` found it with seed 1. See `saturation.rs` for the rule. The caches grow with the
/// workload, so the rate decides a little of what it is measured by: this is the figure that the command finds, to
/// its 5 %, when it stands here.
pub(super) const ROUND_ROBIN_SATURATION: f64 = 16.0;
/// The share of it that the demo loads the servers with.
pub(super) const SHARE_OF_SATURATION: f64 = 0.7;
/// The demo's requests a second.
pub(super) const RATE: f64 = ROUND_ROBIN_SATURATION * SHARE_OF_SATURATION;
/// How long each strategy is loaded, in seconds.
pub(super) const SECONDS: u64 = 45;

/// How fast each server is, 1 being the engine's own figures: a fleet of three generations of GPUs.
const SPEEDS: [f64; 6] = [1.0, 1.0, 0.8, 0.8, 0.5, 0.5];
/// Each server's cache holds one part in so many of the workload's distinct prefix tokens.
const CACHE_PARTS: usize = 4;
/// The model that all servers serve.
pub(super) const MODEL: &str = "sim-8b";
/// How the picker schedules: the default profile's scorers, and what a pool of unlike servers is to add to them.
pub(super) const SCHEDULING: &str = "{profile: {scorers: [{type: queue-scorer, weight: 2}, \
    {type: kv-cache-utilization-scorer, weight: 2}, {type: prefix-cache-scorer, weight: 2}, \
    {type: ttft-scorer, weight: 4}, {type: tpot-scorer, weight: 2}]}}";
/// The pool's name.
pub(super) const POOL: &str = "demo/sims";

/// What conversations are like: chats over two dozen applications' system prompts, the popular ones twice to six times
/// as often as the others. About 2,000 tokens of prompt and 90 of answer a request.
fn conversations(seed: u64, requests_per_second: f64, conversations: usize) -> WorkloadConfig {
    WorkloadConfig {
        seed,
        conversations,
        requests_per_second,
        system_prompts: 24,
        system_tokens: (800, 2_200),
        system_skew: 0.6,
        turns: (2, 6),
        user_tokens: (40, 300),
        output_tokens: (20, 160),
        think_time_ms: 2_000.0,
    }
}

/// All conversations that begin within so many seconds at that rate. The seed says what is said and when.
pub(super) fn workload(seed: u64, rate: f64, seconds: u64) -> Workload {
    // A conversation has at least two turns, so this is about twice as many as will begin.
    let plenty = (rate * seconds as f64 / 2.0).ceil() as usize + 50;
    let planned = Workload::new(conversations(seed, rate, plenty));
    let end = Duration::from_secs(seconds);
    let begun = planned.conversations().partition_point(|conversation| conversation.arrival < end);
    Workload::new(conversations(seed, rate, begun.max(1)))
}

/// The servers. They are the same whatever rate and length of a run is asked for: their caches are measured by the
/// workload of the demo as it is committed.
pub(super) fn servers(seed: u64) -> Vec<SimConfig> {
    let kv_tokens = workload(seed, RATE, SECONDS).total_prefix_tokens() / CACHE_PARTS;
    let server = |(number, &speed): (usize, &f64)| SimConfig {
        name: format!("sim-{number}"),
        models: vec![MODEL.to_owned()],
        engine: EngineConfig { speed, kv_tokens, seed: seed.wrapping_add(number as u64), ..EngineConfig::default() },
        ..SimConfig::default()
    };
    SPEEDS.iter().enumerate().map(server).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workload_fills_the_time_and_no_more() {
        for seed in 1..=5 {
            let workload = workload(seed, RATE, SECONDS);
            let last = workload.conversations().last().unwrap().arrival;
            assert!(last < Duration::from_secs(SECONDS) && last > Duration::from_secs(SECONDS - 5), "{last:?}");
            let a_second = workload.requests() as f64 / SECONDS as f64;
            assert!((0.75..1.25).contains(&(a_second / RATE)), "{a_second} requests/s instead of {RATE}");
        }
    }

    #[test]
    fn a_shorter_run_sends_the_beginning_of_the_same_workload() {
        let (long, short) = (workload(3, RATE, 40), workload(3, RATE, 20));
        let begun = short.conversations().len();
        assert!(begun < long.conversations().len());
        assert_eq!(short.conversations(), &long.conversations()[..begun]);
    }

    #[test]
    fn each_cache_holds_a_quarter_of_the_workloads_prefixes() {
        let tokens = workload(2, RATE, SECONDS).total_prefix_tokens();
        let servers = servers(2);
        assert_eq!(servers.iter().map(|server| server.engine.speed).collect::<Vec<_>>(), SPEEDS);
        for server in servers {
            server.engine.validate().unwrap();
            assert_eq!(server.engine.kv_tokens, tokens / 4);
        }
    }
}
