//! Per-request columns: computed once from facts, snapshot, cells and prefix index, read by every scorer.

use crate::facts::Facts;
use crate::prefix::{Alive, PrefixIndex};
use crate::snapshot::PoolSnapshot;
use crate::time::Tick;

/// What scorers read. All slices have one element a candidate, in the same order.
#[derive(Debug)]
pub struct Signals<'a> {
    /// What the request says.
    pub facts: &'a Facts,
    /// The moment of the pool that this attempt reads.
    pub snapshot: &'a PoolSnapshot,
    /// The candidates' rows in the snapshot's members.
    pub rows: &'a [u32],
    /// Whether the candidate's telemetry is young enough to believe.
    pub fresh: &'a [bool],
    /// Requests in the server's queue, corrected by what this process picked and finished since the scrape:
    /// `max(0, scraped + in-flight now - in-flight at that scrape)`. Meaningless where not `fresh`.
    pub waiting: &'a [f32],
    /// Requests in the server's batch as scraped. Meaningless where not `fresh`.
    pub running: &'a [f32],
    /// Share of the KV cache in use, 0 to 1, as scraped. Meaningless where not `fresh`.
    pub kv_cache_usage: &'a [f32],
    /// This process's requests in flight.
    pub in_flight: &'a [f32],
    /// Seconds between two output tokens, learnt from responses; 0 until learnt.
    pub tpot: &'a [f32],
    /// Prompt tokens that this process sent there, that are to be computed, and whose first answer has not come.
    pub prefill_tokens: &'a [f32],
    /// Prompt tokens computed a second, learnt from first tokens; 0 until learnt.
    pub prefill_rate: &'a [f32],
    /// Tokens of the prompt that the candidate probably has in its cache.
    pub matched_tokens: &'a [f32],
}

impl Signals<'_> {
    /// Tokens of the prompt that prefix matching can speak of: those of its whole blocks.
    pub fn matchable_tokens(&self) -> u32 {
        self.facts.prefix.last().map_or(0, |block| block.tokens)
    }
}

/// The columns' memory, reused from request to request.
#[derive(Debug, Default)]
pub struct SignalColumns {
    fresh: Vec<bool>,
    waiting: Vec<f32>,
    running: Vec<f32>,
    kv_cache_usage: Vec<f32>,
    in_flight: Vec<f32>,
    tpot: Vec<f32>,
    prefill_tokens: Vec<f32>,
    prefill_rate: Vec<f32>,
    matched_tokens: Vec<f32>,
    matched_blocks: Vec<u32>,
    alive: Alive,
}

impl SignalColumns {
    /// Fills the columns for the candidates at `rows`.
    pub fn compute<'a>(
        &'a mut self,
        facts: &'a Facts,
        snapshot: &'a PoolSnapshot,
        rows: &'a [u32],
        index: &PrefixIndex,
        now: Tick,
    ) -> Signals<'a> {
        let (members, load) = (&snapshot.members, &snapshot.load);
        let stale_after = snapshot.policy.telemetry.stale_after;
        self.clear();
        self.matched_blocks.resize(members.slots() as usize, 0);
        index.lookup(&facts.prefix, &mut self.matched_blocks, &mut self.alive);
        for row in rows {
            let row = *row as usize;
            let cell = &members.cells[row];
            let in_flight = cell.in_flight();
            let since_scrape = f64::from(in_flight) - f64::from(load.in_flight_at_scrape[row]);
            let waiting = (f64::from(load.waiting[row]) + since_scrape).max(0.0);
            let matched = match self.matched_blocks[members.ids[row].slot as usize] {
                0 => 0,
                blocks => facts.prefix[blocks as usize - 1].tokens,
            };
            self.fresh.push(load.is_fresh(row, now, stale_after));
            self.waiting.push(waiting as f32);
            self.running.push(load.running[row]);
            self.kv_cache_usage.push(load.kv_cache_usage[row]);
            self.in_flight.push(in_flight as f32);
            self.tpot.push(cell.tpot().unwrap_or(0.0));
            self.prefill_tokens.push(cell.prefill_tokens() as f32);
            self.prefill_rate.push(cell.prefill_rate().unwrap_or(0.0));
            self.matched_tokens.push(matched as f32);
        }
        Signals {
            facts,
            snapshot,
            rows,
            fresh: &self.fresh,
            waiting: &self.waiting,
            running: &self.running,
            kv_cache_usage: &self.kv_cache_usage,
            in_flight: &self.in_flight,
            tpot: &self.tpot,
            prefill_tokens: &self.prefill_tokens,
            prefill_rate: &self.prefill_rate,
            matched_tokens: &self.matched_tokens,
        }
    }

    fn clear(&mut self) {
        self.fresh.clear();
        self.waiting.clear();
        self.running.clear();
        self.kv_cache_usage.clear();
        self.in_flight.clear();
        self.tpot.clear();
        self.prefill_tokens.clear();
        self.prefill_rate.clear();
        self.matched_tokens.clear();
        self.matched_blocks.clear();
    }
}
